"""The contract every neural model keeps: Flax modules, asked through compiled functions."""

import abc
import contextlib
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from rich.table import Table

from jaxlm import shapes
from jaxlm.models.base import Carry, Draw, LanguageModel, Params
from jaxlm.models.heads.output_layer import make_head
from jaxlm.models.summary import parameter_table
from jaxlm.ops.cross_entropy import cross_entropy
from jaxlm.ops.machine import (
    jit_with,
    matmul_precision,
    precision_name,
    small_batch_options,
    tf32_note,
)
from jaxlm.ops.sampling import uniforms
from jaxlm.parallel.mesh import Axes, replicate

# Logits of a chunk are kept to about this many numbers (32 MiB of float32).
LOGITS_IN_CHUNK = 1 << 23
# Parameters with an axis that may be spread over devices.
WORDS: dict[str, Axes] = {
    "embedding/embedding": ("vocabulary", None),
    "output/kernel": (None, "vocabulary"),
    "output/bias": ("vocabulary",),
}


class NeuralModel(nn.Module, LanguageModel):
    """Predicts the next token at every position.

    carry = model.initial_carry(batch_size)
    hidden_BTF, carry = model.apply({"params": params}, tokens_BT, carry)
    logits_BTV = model.apply({"params": params}, hidden_BTF, method="logits")

    A model's `setup` makes `embedding`, by `make_embedding`, and `output`, by `make_head`, as its
    fields describe them; its `encode` are what is between the two. One that is wired otherwise
    has `logits`, `loss` and `notes` of its own.
    """

    vocab_size: int
    start_id: int | None = 0

    trained_by = "gradient"
    across_lines = True

    @property
    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """A context in which products of float32 arrays have the precision that `dtype` names.

        `__call__`, `logits`, `nll` and `objective` enter it themselves.
        """
        return matmul_precision(precision_name(getattr(self, "dtype", "float32")))

    @abc.abstractmethod
    def encode(
        self,
        tokens_BT: jax.Array,
        carry: Carry,
        last: bool,
        deterministic: bool,
        length: jax.Array | None,
    ) -> tuple[jax.Array, Carry]:
        """`__call__` after its checks, and before `output_dropout`."""

    def output_dropout(self, hidden_BTF: jax.Array, deterministic: bool) -> jax.Array:
        """The features as the output layer reads them."""
        return hidden_BTF

    def penalty(
        self, hidden_BTF: jax.Array, dropped_BTF: jax.Array, shares_BT: jax.Array
    ) -> jax.Array | float:
        """What training adds to the loss, by the features before and after `output_dropout` and
        each position's share of the loss: float32 scalar.
        """
        return 0.0

    def logits(self, hidden_BTF: jax.Array) -> jax.Array:
        """Unnormalised log-probabilities of the next token: [B, T, V] in the compute dtype."""
        with self.precision:
            return self.output(hidden_BTF, self.embedding.embedding)

    def loss(
        self,
        hidden_BTF: jax.Array,
        targets_BT: jax.Array,
        weights_BT: jax.Array,
        deterministic: bool,
    ) -> tuple[jax.Array, jax.Array]:
        """Σ weight · nll of the targets in nats, float32, and the nll of each, [B, T]: what
        `logits` and a cross-entropy give, in one. Only the sum can be differentiated. Unless
        `deterministic`, both may be an estimate, which `notes` then says.
        """
        table = self.embedding.embedding
        return self.output.loss(hidden_BTF, table, targets_BT, weights_BT, deterministic)

    @abc.abstractmethod
    def layers(self) -> dict[str, str]:
        """What each parameter group is, in words: prefix of the parameter's path -> description."""

    @nn.nowrap
    def axes(self) -> dict[str, Axes]:
        """The axes of parameters that may be spread over devices, by path; `sharding.RULES` says
        how. A parameter that is not named is on every device.
        """
        return WORDS if make_head(self, parent=None).spreads else {}

    @nn.nowrap
    def notes(self) -> list[str]:
        """What will not run as its settings ask, and which figures are not what they seem."""
        notes = [make_head(self, parent=None).note(), tf32_note(getattr(self, "dtype", ""))]
        return [note for note in notes if note]

    def __call__(
        self,
        tokens_BT: jax.Array,
        carry: Carry = None,
        *,
        positions: str = "all",
        deterministic: bool = True,
        length: jax.Array | None = None,
    ) -> tuple[jax.Array, Carry]:
        """Features that predict the next token at every position, and the carry after the last one.

        tokens_BT: int32 [B, T]. carry: from `initial_carry` (the default) or an earlier call.
        positions: "all" positions, or the "last" alone, which is cheaper where that is all one
        needs. deterministic: False draws dropout from rngs={"dropout": key}. length: int32 scalar,
        how many of the T tokens are read (none: all); the carry is the one after these, and what
        comes out at the others means nothing.

        Returns hidden [B, T or 1, F] in the compute dtype, and the carry. Raises AssertionError for
        a wrong shape.
        """
        with self.precision:
            hidden_BTF, carry = self._checked(tokens_BT, carry, positions, deterministic, length)
            return self.output_dropout(hidden_BTF, deterministic), carry

    def _checked(
        self,
        tokens_BT: jax.Array,
        carry: Carry,
        positions: str,
        deterministic: bool,
        length: jax.Array | None,
    ) -> tuple[jax.Array, Carry]:
        shapes.check(tokens_BT, "BT")
        batch, time = tokens_BT.shape
        carry = self.initial_carry(batch) if carry is None else carry
        last = positions == "last"
        hidden_BTF, carry = self.encode(tokens_BT, carry, last, deterministic, length)
        shapes.check(hidden_BTF, "BTF", B=batch, T=1 if last else time)
        if self.is_initializing():
            shapes.check(self.logits(hidden_BTF), "BTV", V=self.vocab_size)
        return hidden_BTF, carry

    def nll(
        self,
        tokens_BT: jax.Array,
        targets_BT: jax.Array,
        carry: Carry = None,
        *,
        positions: str = "all",
        deterministic: bool = True,
    ) -> tuple[jax.Array, Carry]:
        """Negative log-likelihood of each target in nats, float32 [B, T or 1], and the carry:
        `__call__`, `logits` and the cross-entropy in one.
        """
        hidden_BTF, carry = self(tokens_BT, carry, positions=positions, deterministic=deterministic)
        shapes.check(targets_BT, "BT", B=hidden_BTF.shape[0], T=hidden_BTF.shape[1])
        return cross_entropy(self.logits(hidden_BTF), targets_BT), carry

    def objective(
        self,
        tokens_BT: jax.Array,
        targets_BT: jax.Array,
        weights_BT: jax.Array,
        carry: Carry = None,
        *,
        positions: str = "all",
        deterministic: bool = True,
        length: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array, Carry]:
        """What training minimises, Σ weight · nll; the nll of each target, float32 [B, T or 1]; and
        the carry. The numbers are those of `nll`, by way of `loss`, which never holds all logits.

        Unless `deterministic`: then dropout is drawn from rngs={"dropout": key}, a sampled
        softmax's words from {"sampling": key}, and what is minimised has the `penalty` on top.
        """
        with self.precision:
            hidden_BTF, carry = self._checked(tokens_BT, carry, positions, deterministic, length)
            for array in (targets_BT, weights_BT):
                shapes.check(array, "BT", B=hidden_BTF.shape[0], T=hidden_BTF.shape[1])
            dropped_BTF = self.output_dropout(hidden_BTF, deterministic)
            total, nll_BT = self.loss(dropped_BTF, targets_BT, weights_BT, deterministic)
            if not deterministic:
                total = total + self.penalty(hidden_BTF, dropped_BTF, weights_BT)
            return total, nll_BT, carry

    # The questions of LanguageModel. They are not Flax methods, which would run inside the module:
    # each is a compiled function of the module and its parameters.

    @nn.nowrap
    def tokens_in_chunk(self, detail: bool) -> int:
        return LOGITS_IN_CHUNK // self.vocab_size

    @nn.nowrap
    def token_scores(
        self, params: Params, inputs_BT: Any, targets_BT: Any, carry: Carry, detail: bool = False
    ) -> tuple[tuple[Any, ...], Carry]:
        return _token_scores(params, inputs_BT, targets_BT, carry, self, detail)

    @nn.nowrap
    def next_log_probs(
        self, params: Params, tokens_BT: Any, carry: Carry = None
    ) -> tuple[Any, Carry]:
        return _next_log_probs(params, tokens_BT, carry, self)

    @nn.nowrap
    def generate(
        self, params: Params, prompt_BT: Any, key: jax.Array, draw: Draw, length: int
    ) -> Any:
        compiled = _compiled_generate(getattr(self, "dtype", "float32"))
        return compiled(params, prompt_BT, key, self, draw, length)

    @nn.nowrap
    def summary(self) -> Table:
        return parameter_table(self, self.layers())


@functools.partial(jax.jit, static_argnames=("model", "detail"))
def _token_scores(
    params: Params,
    inputs_BT: jax.Array,
    targets_BT: jax.Array,
    carry: Carry,
    model: NeuralModel,
    detail: bool,
) -> tuple[tuple[jax.Array, ...], Carry]:
    if not detail:
        weights_BT = jnp.ones(targets_BT.shape, jnp.float32)
        found: Any = model.apply(
            {"params": params}, inputs_BT, targets_BT, weights_BT, carry, method="objective"
        )
        _, nll_BT, carry = found
        return replicate(((-nll_BT,), carry))
    hidden_BTF, carry = model.apply({"params": params}, inputs_BT, carry)
    logits_BTV: Any = model.apply({"params": params}, hidden_BTF, method="logits")
    log_probs_BTV = jax.nn.log_softmax(logits_BTV.astype(jnp.float32))
    log_prob_BT1 = jnp.take_along_axis(log_probs_BTV, targets_BT[..., None], axis=-1)
    rank_BT = 1 + jnp.sum(log_probs_BTV > log_prob_BT1, axis=-1)
    entropy_BT = -jnp.sum(jnp.exp(log_probs_BTV) * log_probs_BTV, axis=-1)
    scores = log_prob_BT1[..., 0], rank_BT, entropy_BT
    return replicate((scores, carry))


def _last_logits(
    params: Params, tokens_BT: jax.Array, carry: Carry, model: NeuralModel
) -> tuple[jax.Array, Carry]:
    """float32 [B, V] after the last token, and the carry."""
    hidden_BTF, carry = model.apply({"params": params}, tokens_BT, carry, positions="last")
    logits_BTV: Any = model.apply({"params": params}, hidden_BTF, method="logits")
    return logits_BTV[:, -1].astype(jnp.float32), carry


@functools.partial(jax.jit, static_argnames="model")
def _next_log_probs(
    params: Params, tokens_BT: jax.Array, carry: Carry, model: NeuralModel
) -> tuple[jax.Array, Carry]:
    logits_BV, carry = _last_logits(params, tokens_BT, carry, model)
    return jax.nn.log_softmax(logits_BV), carry


def _generate(
    params: Params,
    prompt_BT: jax.Array,
    key: jax.Array,
    model: NeuralModel,
    draw: Draw,
    length: int,
) -> jax.Array:
    """The prompt in one pass, then a scan over the tokens to come."""

    def step(
        loop: tuple[jax.Array, Carry], uniform_2B: jax.Array
    ) -> tuple[tuple[jax.Array, Carry], jax.Array]:
        logits_BV, carry = loop
        token_B = draw(logits_BV, uniform_2B)
        return _last_logits(params, token_B[:, None], carry, model), token_B

    start = _last_logits(params, prompt_BT, None, model)
    _, tokens_TB = jax.lax.scan(step, start, uniforms(key, length, len(prompt_BT)))
    return tokens_TB.T


@functools.cache
def _compiled_generate(dtype: str) -> Callable[..., jax.Array]:
    options = functools.partial(small_batch_options, dtype)
    return jit_with(options, _generate, static_argnames=("model", "draw", "length"))
