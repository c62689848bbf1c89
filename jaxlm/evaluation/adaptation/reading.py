"""One pass over a text with everything a run may adapt by, segment by segment."""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.evaluation.adaptation.dynamic import Following
from jaxlm.models.base import Carry, Params
from jaxlm.models.neural import NeuralModel
from jaxlm.ops.continuous_cache import cache_log_probs
from jaxlm.ops.machine import deterministic_options, jit_with

# Tokens whose logits and likeness to the cache are there at a time, where nothing else says so.
CHUNK = 256


class Readings(NamedTuple):
    """log P of every token by the model at each temperature, float64 [K, T], and by the cache at
    each flatness [J, T].
    """

    model_KT: np.ndarray
    cache_JT: np.ndarray

    def cache(self, temperature: int, flatness: int) -> np.ndarray:
        """The cache's; where it is empty, before the first token, it says what the model does."""
        first = self.model_KT[temperature, :1]
        return np.concatenate([first, self.cache_JT[flatness, 1:]])


class How(NamedTuple):
    """What the compiled pass is made for: a cache of so many states, the mean of so many dropout
    masks (0: no dropout), and a rule the parameters follow the text by ("none": they do not).
    """

    cache: int
    samples: int
    rule: str


class _Memory(NamedTuple):
    """The last states, the word that followed each, and how many there are."""

    states_WF: jax.Array
    words_W: jax.Array
    filled: jax.Array


class _Reader(NamedTuple):
    """What goes from one segment to the next."""

    params: Params
    carry: Carry
    memory: _Memory
    key: jax.Array


def read(
    model: NeuralModel,
    params: Params,
    ids: np.ndarray,
    how: How,
    temperatures: Sequence[float],
    flatnesses: Sequence[float],
    *,
    seed: int = 0,
    steps: int = CHUNK,
    following: Following | None = None,
) -> Readings:
    """Scores every id of one stream once, each before anything is learnt from it.

    steps: tokens in a segment. With dropout masks a segment draws its own; with a rule the
    parameters take a step after each. What is learnt in a segment serves from the next one on, but
    the cache knows of each token at once.
    """
    ids = np.asarray(ids, np.int32)
    before = np.concatenate([[model.filler_id], ids[:-1]]).astype(np.int32)
    carry = model.initial_carry(max(1, how.samples))
    reader = _Reader(params, carry, _empty(model, params, carry, how), jax.random.key(seed))
    grids = jnp.asarray(temperatures, jnp.float32), jnp.asarray(flatnesses, jnp.float32)
    # Several short segments in one dispatch.
    segments = max(1, CHUNK // steps)
    found = []
    for start in range(0, len(ids), segments * steps):
        # The last segments are filled up; what comes of that is cut off again.
        places = np.minimum(np.arange(start, start + segments * steps), len(ids) - 1)
        texts = (one[places].reshape(segments, steps) for one in (before, ids))
        part, reader = _segments(reader, params, *texts, *grids, following, model, how)
        found.append(part)
    parts = zip(*found, strict=True)
    return Readings(
        *(np.concatenate([np.asarray(one) for one in part], 1)[:, : len(ids)] for part in parts)
    )


def _empty(model: NeuralModel, params: Params, carry: Carry, how: How) -> _Memory:
    one = jnp.zeros((max(1, how.samples), 1), jnp.int32)
    hidden, _ = jax.eval_shape(lambda: model.apply({"params": params}, one, carry))
    states = jnp.zeros((how.cache, hidden.shape[-1]), jnp.float32)
    return _Memory(states, jnp.zeros(how.cache, jnp.int32), jnp.int32(0))


@functools.partial(jit_with, deterministic_options, static_argnames=("model", "how"))
def _segments(
    reader: _Reader,
    trained: Params,
    inputs_ST: jax.Array,
    targets_ST: jax.Array,
    temperatures_K: jax.Array,
    flatnesses_J: jax.Array,
    following: Following | None,
    model: NeuralModel,
    how: How,
) -> tuple[tuple[jax.Array, jax.Array], _Reader]:
    """log P of the targets, [K, S · T] and [J, S · T], and the reader after them."""

    def body(reader: _Reader, texts: tuple[jax.Array, jax.Array]) -> tuple[_Reader, Any]:
        inputs_T, targets_T = texts

        def mean_nll(params: Params) -> tuple[jax.Array, tuple[jax.Array, jax.Array, Carry]]:
            logits_TV, states_TF, carry = _forward(model, params, inputs_T, reader, how)
            nll = -jnp.mean(_log_prob(logits_TV, targets_T, jnp.float32(1)))
            return nll, (logits_TV, states_TF, carry)

        if how.rule == "none":
            _, seen = mean_nll(reader.params)
            params = reader.params
        else:
            assert following is not None
            gradient, seen = jax.grad(mean_nll, has_aux=True)(reader.params)
            params = following.step(how.rule, reader.params, trained, gradient)
        logits_TV, states_TF, carry = seen
        model_KT = jax.lax.map(lambda t: _log_prob(logits_TV, targets_T, t), temperatures_K)
        memory = reader.memory
        cache_JT = jnp.zeros((len(flatnesses_J), len(targets_T)))
        if how.cache:
            cache_JT = cache_log_probs(states_TF, targets_T, *memory, flatnesses_J)
        memory = _Memory(
            jnp.concatenate([memory.states_WF, states_TF])[len(states_TF) :],
            jnp.concatenate([memory.words_W, targets_T])[len(states_TF) :],
            jnp.minimum(how.cache, memory.filled + len(states_TF)),
        )
        key = jax.random.fold_in(reader.key, 1)
        return _Reader(params, carry, memory, key), (model_KT, cache_JT)

    # The cache multiplies the model's states: in the model's precision too.
    with model.precision:
        reader, found = jax.lax.scan(body, reader, (inputs_ST, targets_ST))
    model_KN, cache_JN = (
        many_SKT.swapaxes(0, 1).reshape(many_SKT.shape[1], -1) for many_SKT in found
    )
    return (model_KN, cache_JN), reader


def _forward(
    model: NeuralModel, params: Params, inputs_T: jax.Array, reader: _Reader, how: How
) -> tuple[jax.Array, jax.Array, Carry]:
    """Logits [T, V] (of several samples: the log of their mean probability), states [T, F] (their
    mean), and the carry.
    """
    rows = max(1, how.samples)
    inputs_RT = jnp.broadcast_to(inputs_T, (rows, *inputs_T.shape))
    hidden_RTF, carry = model.apply(
        {"params": params},
        inputs_RT,
        reader.carry,
        deterministic=not how.samples,
        rngs={"dropout": reader.key},
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
    """log softmax(y / τ) of the targets, [T]."""
    target_T = jnp.take_along_axis(logits_TV, targets_T[:, None], axis=-1)[:, 0]
    return target_T / temperature - jax.nn.logsumexp(logits_TV / temperature, axis=-1)
