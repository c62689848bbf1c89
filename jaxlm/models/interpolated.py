"""Several models as one model, whose probabilities are interpolated."""

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.models.base import Carry, Draw, LanguageModel, Params
from jaxlm.models.generating import generate_tokens
from jaxlm.models.neural import LOGITS_IN_CHUNK, NeuralModel
from jaxlm.models.ngram import NGram
from jaxlm.ngrams.tables import Tables
from jaxlm.ops.device_tables import (
    DeviceTables,
    advance,
    host_states,
    interpolated,
    next_probabilities,
    on_device,
)
from jaxlm.ops.sampling import Sampler

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class InterpolatedParams:
    """The parameters of a mixture.

    Attributes:
      parts: the parameters of each model.
      weights: λ, the weight of each model; the sum is 1.
      ids: for each model its id of each token of the mixture, int32 [V]; None for the same ids.
    """

    parts: tuple[Params, ...]
    weights: tuple[float, ...]
    ids: tuple[np.ndarray | None, ...]

    @functools.cached_property
    def on_device(self) -> "_OnDevice":
        """The parameters as compiled functions take them; tables of n-grams become arrays."""
        parts = tuple(on_device(part) if isinstance(part, Tables) else part for part in self.parts)
        return _OnDevice(parts, jnp.asarray(self.weights, jnp.float32), self.ids)


class _OnDevice(NamedTuple):
    """The parameters of a mixture as a pytree of arrays. See `InterpolatedParams`."""

    parts: tuple[Params, ...]
    weights_M: jax.Array
    ids: tuple[Any, ...]


@dataclass(frozen=True)
class Interpolated(LanguageModel):
    """A mixture of language models over the same tokens.

        P(w | h) = Σ_m λ_m P_m(w | h)          Σ_m λ_m = 1

    Its parameters are `InterpolatedParams`, and its carry is a tuple of the carries of the models.
    `jaxlm.interpolate` makes a run of it. All models of a mixture generate in one compiled program;
    the tables of an n-gram are then arrays on the device (`jaxlm.ops.device_tables`).

    Example:
      >>> models = NGram(vocab_size=7, order=2), NGram(vocab_size=7, order=4)
      >>> Interpolated(vocab_size=7, start_id=None, models=models).window
      3
    """

    vocab_size: int
    start_id: int | None
    models: tuple[LanguageModel, ...]

    trained_by = "interpolation"

    @property
    def window(self) -> int | None:
        windows = [model.window for model in self.models]
        return None if None in windows else max(filter(None, windows), default=0)

    @property
    def pads(self) -> bool:  # type: ignore[override]
        return any(model.pads for model in self.models)

    @property
    def padded_window(self) -> int:
        return max(model.padded_window for model in self.models)

    @property
    def starts_from_nothing(self) -> bool:  # type: ignore[override]
        return all(model.starts_from_nothing for model in self.models)

    @property
    def across_lines(self) -> bool:  # type: ignore[override]
        return any(model.across_lines for model in self.models)

    @property
    def compute_dtype(self) -> str:
        """The dtype of the products of the first neural model; float32 if there is none."""
        dtypes = (model.compute_dtype for model in self.models if isinstance(model, NeuralModel))
        return next(dtypes, "float32")

    def tokens_in_chunk(self, detail: bool) -> int:
        sizes = [model.tokens_in_chunk(detail) for model in self.models]
        return min(*sizes, LOGITS_IN_CHUNK // self.vocab_size if detail else sizes[0])

    def initial_carry(self, batch_size: int) -> Carry:
        return tuple(model.initial_carry(batch_size) for model in self.models)

    def token_scores(
        self,
        params: InterpolatedParams,
        inputs_BT: Any,
        targets_BT: Any,
        carry: Carry,
        detail: bool = False,
    ) -> tuple[tuple[np.ndarray, ...], Carry]:
        carry = self.initial_carry(len(inputs_BT)) if carry is None else carry
        if detail:
            return self._details(params, inputs_BT, targets_BT, carry)
        log_probs, carries = [], []
        for model, part, ids, before in zip(
            self.models, params.parts, params.ids, carry, strict=True
        ):
            tokens = _ids_of(ids, inputs_BT), _ids_of(ids, targets_BT)
            (log_prob_BT,), after = model.token_scores(part, *tokens, before)
            log_probs.append(log_prob_BT)
            carries.append(after)
        return (_interpolated(log_probs, params.weights),), tuple(carries)

    def _details(
        self, params: InterpolatedParams, inputs_BT: Any, targets_BT: Any, carry: Carry
    ) -> tuple[tuple[np.ndarray, ...], Carry]:
        """Return log-probabilities, ranks and entropies, and the carry; see `token_scores`."""
        parts, carries = [], []
        for model, part, ids, before in zip(
            self.models, params.parts, params.ids, carry, strict=True
        ):
            log_probs_BTV, after = _all_log_probs(model, part, _ids_of(ids, inputs_BT), before)
            parts.append(log_probs_BTV if ids is None else log_probs_BTV[..., ids])
            carries.append(after)
        log_probs_BTV = _interpolated(parts, params.weights)
        targets_BT1 = np.asarray(targets_BT)[..., None]
        log_prob_BT1 = np.take_along_axis(log_probs_BTV, targets_BT1, axis=-1)
        rank_BT = 1 + np.sum(log_probs_BTV > log_prob_BT1, axis=-1)
        p_BTV = np.exp(log_probs_BTV)
        entropy_BT = -np.sum(p_BTV * np.where(p_BTV > 0, log_probs_BTV, 0), axis=-1)
        return (log_prob_BT1[..., 0], rank_BT, entropy_BT), tuple(carries)

    def next_log_probs(
        self, params: InterpolatedParams, tokens_BT: Any, carry: Carry = None
    ) -> tuple[np.ndarray, Carry]:
        carry = self.initial_carry(len(tokens_BT)) if carry is None else carry
        log_probs, carries = [], []
        for model, part, ids, before in zip(
            self.models, params.parts, params.ids, carry, strict=True
        ):
            log_probs_BV, after = model.next_log_probs(part, _ids_of(ids, tokens_BT), before)
            log_probs_BV = np.asarray(log_probs_BV)
            log_probs.append(log_probs_BV if ids is None else log_probs_BV[:, ids])
            carries.append(after)
        return _interpolated(log_probs, params.weights), tuple(carries)

    def generate(
        self,
        params: InterpolatedParams,
        prompt_BT: Any,
        key: jax.Array,
        draw: Draw,
        length: int,
        carry: Carry = None,
    ) -> Any:
        carry = self.initial_carry(len(prompt_BT)) if carry is None else carry
        if not prompt_BT.shape[1]:
            # No token is read, so the models must start from nothing: all are n-grams.
            return super().generate(params, prompt_BT, key, draw, length, carry)
        on_device = tuple(
            host_states(part, np.asarray(before)) if isinstance(model, NGram) else before
            for model, part, before in zip(self.models, params.parts, carry, strict=True)
        )
        return generate_tokens(self, params.on_device, prompt_BT, key, draw, length, on_device)

    def last_logits(
        self, params: _OnDevice, tokens_BT: jax.Array, length: jax.Array | None, carry: Carry
    ) -> tuple[tuple[jax.Array, ...], Carry]:
        """Return what `probabilities` takes after the last token that is read, and the carry.

        For compiled functions. This is the logits of a neural model, and the states of an n-gram's
        contexts, which are its carry too. The probabilities are computed by the next step: on a CPU
        a loop that carries probabilities takes a fifth longer than a loop that carries logits.

        Args:
          params: the parameters on the device.
          tokens_BT: tokens, at least one.
          length: the number of tokens that are read, int32; None for all.
          carry: the carry before the tokens.
        """
        outputs, carries = [], []
        model: Any
        for model, part, ids, before in zip(
            self.models, params.parts, params.ids, carry, strict=True
        ):
            part_tokens_BT = tokens_BT if ids is None else jnp.asarray(ids)[tokens_BT]
            if isinstance(model, NGram):
                output = after = _read_ngram(model, part, part_tokens_BT, length, before)
            else:
                output, after = model.last_logits(part, part_tokens_BT, length, before)
            outputs.append(output)
            carries.append(after)
        return tuple(outputs), tuple(carries)

    def probabilities(self, params: _OnDevice, outputs: tuple[jax.Array, ...]) -> jax.Array:
        """Return P(w) of every word, float32 [B, V]. For compiled functions.

        `outputs` are those of `last_logits`. A probability below the smallest float32 is 0.
        """
        # n-grams are last: they add to what is there.
        in_order = sorted(
            range(len(self.models)), key=lambda place: isinstance(self.models[place], NGram)
        )
        p_BV = jnp.zeros((), jnp.float32)
        for place in in_order:
            part, ids, output = params.parts[place], params.ids[place], outputs[place]
            weight = params.weights_M[place]
            if isinstance(self.models[place], NGram):
                if ids is None:
                    p_BV = interpolated(part, output, weight, p_BV)
                    continue
                part_BV = next_probabilities(part, output)
            else:
                part_BV = jax.nn.softmax(output)
            p_BV = p_BV + weight * (part_BV if ids is None else part_BV[:, jnp.asarray(ids)])
        return p_BV

    def draw_token(
        self,
        params: _OnDevice,
        outputs: tuple[jax.Array, ...],
        uniform_2B: jax.Array,
        draw: Draw,
    ) -> jax.Array:
        """Return a token for each row, drawn from Σ λ P; see `Generator.draw_token`."""
        p_BV = self.probabilities(params, outputs)
        if isinstance(draw, Sampler):
            return draw.from_probabilities(p_BV, uniform_2B)
        return draw(jnp.log(p_BV), uniform_2B)

    def summary(self) -> "Table":
        from rich.table import Table

        table = Table(title="Interpolated: Σ λ P", title_justify="left")
        for header in ("model", "window"):
            table.add_column(header)
        for model in self.models:
            window = "all tokens" if model.window is None else str(model.window)
            table.add_row(type(model).__name__, window)
        return table


def _ids_of(ids: np.ndarray | None, tokens: Any) -> Any:
    """Return the tokens as ids of one model."""
    return tokens if ids is None else ids[np.asarray(tokens)]


def _interpolated(log_probs: list[Any], weights: tuple[float, ...]) -> np.ndarray:
    """Return log Σ_m λ_m exp(log_probs_m), float64, of the shape of each array."""
    with np.errstate(divide="ignore"):
        parts = [
            np.asarray(part, np.float64) + np.log(weight)
            for part, weight in zip(log_probs, weights, strict=True)
        ]
    return np.logaddexp.reduce(parts, axis=0)


def _read_ngram(
    model: Any,
    tables: DeviceTables,
    tokens_BT: jax.Array,
    length: jax.Array | None,
    states_BN: jax.Array,
) -> jax.Array:
    """Return the states of an n-gram after the tokens, int32 [B, n-1]."""
    # `seen` of the model, in JAX.
    if not model.stream and model.start_id is not None:
        tokens_BT = jnp.where(tokens_BT == model.start_id, model.vocab_size, tokens_BT)
    if tokens_BT.shape[1] == 1 and length is None:
        return advance(tables, states_BN, tokens_BT[:, 0])[0]
    length = jnp.int32(tokens_BT.shape[1]) if length is None else length

    def step(index: jax.Array, states_BN: jax.Array) -> jax.Array:
        token_B = jax.lax.dynamic_index_in_dim(tokens_BT, index, axis=1, keepdims=False)
        return advance(tables, states_BN, token_B)[0]

    # Earlier tokens do not change the states.
    first = jnp.maximum(0, length - (model.order - 1))
    states: jax.Array = jax.lax.fori_loop(first, length, step, states_BN)
    return states


def _all_log_probs(
    model: LanguageModel, params: Params, inputs_BT: Any, carry: Carry
) -> tuple[np.ndarray, Carry]:
    """Return log P(w) of every word after each input, [B, T, V], and the carry."""
    if isinstance(model, NGram):
        contexts, carry = model.contexts(params, inputs_BT, carry)
        flat = [context_BP[:, 1:].reshape(-1) for context_BP in contexts]
        batch, time = np.shape(inputs_BT)
        p_NV, _ = params.distributions(flat, batch=batch * time)
        with np.errstate(divide="ignore"):
            return np.log(p_NV).reshape(batch, time, -1), carry
    log_probs_BTV, carry = _neural_log_probs(params, np.asarray(inputs_BT), carry, model)
    return np.asarray(log_probs_BTV), carry


@functools.partial(jax.jit, static_argnames="model")
def _neural_log_probs(
    params: Params, inputs_BT: jax.Array, carry: Carry, model: Any
) -> tuple[jax.Array, Carry]:
    hidden_BTF, carry = model.apply({"params": params}, inputs_BT, carry)
    logits_BTV = model.apply({"params": params}, hidden_BTF, method="logits")
    return jax.nn.log_softmax(logits_BTV.astype(jnp.float32)), carry
