"""Read a text once, segment by segment, with all kinds of adaptation, and score every token.

In this file the axis W stands for the states in the cache, S for the segments of one call of the
compiled function, K for temperatures, J for flatnesses, and R for the rows of a batch, a row for
each dropout mask. T is the tokens of the text, or of a segment.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.evaluation.adaptation.dynamic import RuleArguments
from jaxlm.models.base import Carry, Params
from jaxlm.models.neural import NeuralModel
from jaxlm.ops.continuous_cache import cache_log_probs
from jaxlm.ops.machine import deterministic_options, jit_with

# Tokens in a segment, unless a rule takes a step more often. It limits memory: logits, and the
# similarities to the cached states, are kept for one segment at a time.
CHUNK = 256


class LogProbs(NamedTuple):
    """Log-probability of every token at each temperature and flatness.

    Attributes:
      model_KT: by the model at each temperature, float32.
      cache_JT: by the cache at each flatness, float32.
    """

    model_KT: np.ndarray
    cache_JT: np.ndarray

    def with_cache(self, temperature: int, flatness: int) -> np.ndarray:
        """Return the log-probabilities by the model and by the cache, [2, T].

        Before the first token the cache is empty. There the log-probability by the model serves as
        the log-probability by the cache.

        Args:
          temperature: index of the temperature, on the axis K.
          flatness: index of the flatness, on the axis J.
        """
        model_T = self.model_KT[temperature]
        cache_T = np.concatenate([model_T[:1], self.cache_JT[flatness, 1:]])
        return np.stack([model_T, cache_T])


class ReadingOptions(NamedTuple):
    """Options that the compiled pass depends on.

    Attributes:
      cache: number of states that the cache keeps, 0 for no cache.
      samples: number of dropout masks, 0 for no dropout.
      rule: rule of dynamic evaluation, or "none".
    """

    cache: int
    samples: int
    rule: str


class _Cache(NamedTuple):
    """The last W states, and the id of the word that followed each state; the newest is last.

    While the cache is not full, only the last `filled` entries are valid.
    """

    states_WF: jax.Array
    words_W: jax.Array
    filled: jax.Array


class _State(NamedTuple):
    """State that goes from one segment to the next. `key` is the key of the dropout masks."""

    params: Params
    carry: Carry
    cache: _Cache
    key: jax.Array


def read(
    model: NeuralModel,
    params: Params,
    ids: np.ndarray,
    options: ReadingOptions,
    temperatures: Sequence[float],
    flatnesses: Sequence[float],
    *,
    seed: int = 0,
    segment_length: int = CHUNK,
    rule_arguments: RuleArguments | None = None,
) -> LogProbs:
    """Return the log-probability of every token of one stream, for each temperature and flatness.

    Every token is scored before the model adapts to it. The cache contains a token as soon as it is
    scored. With a rule, the parameters take a step at the end of each segment. Each segment draws
    new dropout masks.

    Args:
      model: the neural model.
      params: its trained parameters.
      ids: token ids of the stream, integers [number of tokens].
      options: cache, dropout masks and rule.
      temperatures: values of τ.
      flatnesses: values of θ of the cache.
      seed: seed of the dropout masks.
      segment_length: tokens in a segment.
      rule_arguments: arguments of the rule; None if there is no rule.
    """
    targets = np.asarray(ids, np.int32)
    inputs = np.concatenate([[model.filler_id], targets[:-1]]).astype(np.int32)
    carry = model.initial_carry(max(1, options.samples))
    empty = _empty_cache(model, params, carry, options)
    state = _State(params, carry, empty, jax.random.key(seed))
    temperatures_K = jnp.asarray(temperatures, jnp.float32)
    flatnesses_J = jnp.asarray(flatnesses, jnp.float32)
    # Several short segments run in one call of the compiled function.
    segments = max(1, CHUNK // segment_length)
    chunks = []
    for start in range(0, len(targets), segments * segment_length):
        # The last segments are padded with the last token. The scores of the padding are dropped.
        positions = np.minimum(
            np.arange(start, start + segments * segment_length), len(targets) - 1
        ).reshape(segments, segment_length)
        log_probs, state = _segments(
            state,
            params,
            inputs[positions],
            targets[positions],
            temperatures_K,
            flatnesses_J,
            rule_arguments,
            model,
            options,
        )
        chunks.append(log_probs)
    return LogProbs(
        *(
            np.concatenate([np.asarray(array) for array in arrays], 1)[:, : len(targets)]
            for arrays in zip(*chunks, strict=True)
        )
    )


def _empty_cache(
    model: NeuralModel, params: Params, carry: Carry, options: ReadingOptions
) -> _Cache:
    """Return a cache of `options.cache` states in which no state is valid yet."""
    tokens_RT = jnp.zeros((max(1, options.samples), 1), jnp.int32)
    hidden_RTF, _ = jax.eval_shape(lambda: model.apply({"params": params}, tokens_RT, carry))
    states_WF = jnp.zeros((options.cache, hidden_RTF.shape[-1]), jnp.float32)
    return _Cache(states_WF, jnp.zeros(options.cache, jnp.int32), jnp.int32(0))


@functools.partial(jit_with, deterministic_options, static_argnames=("model", "options"))
def _segments(
    state: _State,
    trained: Params,
    inputs_ST: jax.Array,
    targets_ST: jax.Array,
    temperatures_K: jax.Array,
    flatnesses_J: jax.Array,
    rule_arguments: RuleArguments | None,
    model: NeuralModel,
    options: ReadingOptions,
) -> tuple[tuple[jax.Array, jax.Array], _State]:
    """Return log P of the targets, and the state after the segments.

    log P has two parts: by the model, [K, S · T], and by the cache, [J, S · T].
    """

    def read_segment(state: _State, segment: tuple[jax.Array, jax.Array]) -> tuple[_State, Any]:
        inputs_T, targets_T = segment

        def mean_nll(params: Params) -> tuple[jax.Array, tuple[jax.Array, jax.Array, Carry]]:
            logits_TV, states_TF, carry = _forward(
                model, params, inputs_T, state.carry, state.key, options.samples
            )
            nll = -jnp.mean(_log_prob(logits_TV, targets_T, jnp.float32(1)))
            return nll, (logits_TV, states_TF, carry)

        if options.rule == "none":
            _, outputs = mean_nll(state.params)
            params = state.params
        else:
            assert rule_arguments is not None
            gradient, outputs = jax.grad(mean_nll, has_aux=True)(state.params)
            params = rule_arguments.update(options.rule, state.params, trained, gradient)
        logits_TV, states_TF, carry = outputs
        model_KT = jax.lax.map(lambda t: _log_prob(logits_TV, targets_T, t), temperatures_K)
        cache = state.cache
        cache_JT = jnp.zeros((len(flatnesses_J), len(targets_T)))
        if options.cache:
            cache_JT = cache_log_probs(states_TF, targets_T, *cache, flatnesses_J)
        cache = _Cache(
            jnp.concatenate([cache.states_WF, states_TF])[len(states_TF) :],
            jnp.concatenate([cache.words_W, targets_T])[len(states_TF) :],
            jnp.minimum(options.cache, cache.filled + len(states_TF)),
        )
        key = jax.random.fold_in(state.key, 1)
        return _State(params, carry, cache, key), (model_KT, cache_JT)

    # The cache's products of states need the model's precision too.
    with model.precision:
        state, (model_SKT, cache_SJT) = jax.lax.scan(read_segment, state, (inputs_ST, targets_ST))
    return (_joined(model_SKT), _joined(cache_SJT)), state


def _joined(log_probs_SKT: jax.Array) -> jax.Array:
    """Return the log-probabilities of all segments one after the other, [K, S · T].

    The axis K is of any kind: temperatures or flatnesses.
    """
    return log_probs_SKT.swapaxes(0, 1).reshape(log_probs_SKT.shape[1], -1)


def _forward(
    model: NeuralModel,
    params: Params,
    inputs_T: jax.Array,
    carry: Carry,
    key: jax.Array,
    samples: int,
) -> tuple[jax.Array, jax.Array, Carry]:
    """Return the logits [T, V], the states [T, F] and the carry.

    With several dropout masks, the logits are the log of the mean probability, and the states are
    the mean of the states.
    """
    rows = max(1, samples)
    inputs_RT = jnp.broadcast_to(inputs_T, (rows, *inputs_T.shape))
    hidden_RTF, carry = model.apply(
        {"params": params}, inputs_RT, carry, deterministic=not samples, rngs={"dropout": key}
    )
    logits_RTV: Any = model.apply({"params": params}, hidden_RTF, method="logits")
    logits_RTV = logits_RTV.astype(jnp.float32)
    states_TF = hidden_RTF.astype(jnp.float32).mean(0)
    if rows == 1:
        return logits_RTV[0], states_TF, carry
    log_probs_RTV = jax.nn.log_softmax(logits_RTV)
    mean_TV = jax.nn.logsumexp(log_probs_RTV, axis=0) - math.log(rows)
    return mean_TV, states_TF, carry


def _log_prob(logits_TV: jax.Array, targets_T: jax.Array, temperature: jax.Array) -> jax.Array:
    """Return log softmax(y / τ) of the targets, [T]."""
    target_T = jnp.take_along_axis(logits_TV, targets_T[:, None], axis=-1)[:, 0]
    return target_T / temperature - jax.nn.logsumexp(logits_TV / temperature, axis=-1)
