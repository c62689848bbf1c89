"""The contract every neural language model keeps: a state machine over tokens."""

import abc
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm import shapes
from jaxlm.errors import UserError, choose
from jaxlm.ops.cross_entropy import cross_entropy

Carry = Any
"""What a model remembers between two calls: any pytree whose leaves have the batch as their first
axis.
"""
Params = Any

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class LanguageModel(nn.Module, abc.ABC):
    """Predicts the next token at every position.

        carry = model.initial_carry(batch_size)
        hidden_BTF, carry = model.apply({"params": params}, tokens_BT, carry)
        logits_BTV = model.apply({"params": params}, hidden_BTF, method="logits")

    Two laws hold for every model. Causality: what comes out at position t depends on tokens up to t
    alone. Chunks: running tokens[:, :k] and then tokens[:, k:] with the carry gives what one run
    over tokens gives.

    `start_id` is the token that stands before the first one of a text. `context_size` says how many
    earlier tokens fix the carry (a window model), None if all of them do (a recurrent one).
    """

    vocab_size: int
    start_id: int = 0

    @property
    @abc.abstractmethod
    def context_size(self) -> int | None:
        """How many tokens before the present one fix the carry; None if all do."""

    @abc.abstractmethod
    def initial_carry(self, batch_size: int) -> Carry:
        """The carry at the start of a text."""

    @abc.abstractmethod
    def features(
        self, tokens_BT: jax.Array, carry: Carry, last: bool, deterministic: bool
    ) -> tuple[jax.Array, Carry]:
        """`__call__` after its checks."""

    @abc.abstractmethod
    def logits(self, hidden_BTF: jax.Array) -> jax.Array:
        """Unnormalised log-probabilities of the next token: [B, T, V] in the compute dtype."""

    @abc.abstractmethod
    def layers(self) -> dict[str, str]:
        """What each parameter group is, in words: prefix of the parameter's path -> description."""

    def __call__(
        self,
        tokens_BT: jax.Array,
        carry: Carry = None,
        *,
        features: str = "every",
        deterministic: bool = True,
    ) -> tuple[jax.Array, Carry]:
        """Features that predict the next token at every position, and the carry after the last one.

        tokens_BT: int32 [B, T]. carry: from `initial_carry` (the default) or an earlier call.
        features: "every" position, or the "last" alone, which is cheaper where that is all one
        needs. deterministic: False draws dropout from rngs={"dropout": key}.

        Returns hidden [B, T or 1, F] in the compute dtype, and the carry. Raises AssertionError for
        a wrong shape.
        """
        shapes.check(tokens_BT, "BT")
        batch, time = tokens_BT.shape
        carry = self.initial_carry(batch) if carry is None else carry
        last = features == "last"
        hidden_BTF, carry = self.features(tokens_BT, carry, last, deterministic)
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
        features: str = "every",
        deterministic: bool = True,
    ) -> tuple[jax.Array, Carry]:
        """Negative log-likelihood of each target in nats, float32 [B, T or 1], and the carry:
        `__call__` and the loss in one.
        """
        hidden_BTF, carry = self(tokens_BT, carry, features=features, deterministic=deterministic)
        shapes.check(targets_BT, "BT", B=hidden_BTF.shape[0], T=hidden_BTF.shape[1])
        return cross_entropy(self.logits(hidden_BTF), targets_BT), carry


def uniform(scale: float) -> Any:
    """Initialiser U(-scale, scale), which flax's own `uniform` (0 to scale) is not."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -scale, scale)

    return init


def project(x_BTF: jax.Array, kernel_FO: jax.Array) -> jax.Array:
    """x @ kernel, as one product of matrices.

    With batch and time as one axis, the gradients are plain products too; left apart, XLA copies
    both operands of the kernel's gradient into another order first.
    """
    batch, time, features = x_BTF.shape
    return (x_BTF.reshape(batch * time, features) @ kernel_FO).reshape(batch, time, -1)


class OutputLayer(nn.Module):
    """y = b + U h: features to logits. Tied, U is the transposed embedding (Inan et al. 2017; Press
    & Wolf 2017).
    """

    vocab_size: int
    tied: bool
    dtype: Any
    init_scale: float | None

    @nn.compact
    def __call__(self, hidden_BTF: jax.Array, embedding_VD: jax.Array) -> jax.Array:
        features = hidden_BTF.shape[-1]
        bias_V = self.param("bias", uniform(self.init_scale or 0.0), (self.vocab_size,))
        if self.tied:
            kernel_FV = embedding_VD.T
        else:
            init = uniform(self.init_scale or features**-0.5)
            kernel_FV = self.param("kernel", init, (features, self.vocab_size))
        hidden_BTF, kernel_FV, bias_V = nn.dtypes.promote_dtype(
            hidden_BTF, kernel_FV, bias_V, dtype=self.dtype
        )
        return project(hidden_BTF, kernel_FV) + bias_V


class Affine(nn.Module):
    """y = W x + b with W ~ U(±1/√fan_in), b = 0, or both ~ U(±init_scale)."""

    features: int
    fan_in: int
    dtype: Any
    init_scale: float | None
    bias_init: Any = None

    @nn.compact
    def __call__(self, x_BTF: jax.Array) -> jax.Array:
        shape = (x_BTF.shape[-1], self.features)
        kernel_FO = self.param("kernel", uniform(self.init_scale or self.fan_in**-0.5), shape)
        bias_init = self.bias_init or uniform(self.init_scale or 0.0)
        bias_O = self.param("bias", bias_init, (self.features,))
        x_BTF, kernel_FO, bias_O = nn.dtypes.promote_dtype(
            x_BTF, kernel_FO, bias_O, dtype=self.dtype
        )
        return project(x_BTF, kernel_FO) + bias_O


def embed(vocab_size: int, size: int, init_scale: float | None, dtype: Any) -> nn.Embed:
    """The table C of word features, ~ N(0, 1/size), or U(±init_scale)."""
    init = uniform(init_scale) if init_scale else nn.initializers.normal(size**-0.5)
    return nn.Embed(vocab_size, size, dtype=dtype, embedding_init=init)


def check_common(model: Any) -> None:
    """What every neural model's fields must satisfy; raises UserError that names the flag."""
    for name in ("vocab_size", "embedding_size", "n_step", "num_layers"):
        value = getattr(model, name, 1)
        if value < 1:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be at least 1")
    if not 0 <= model.dropout < 1:
        raise UserError(f"--dropout {model.dropout}: must be at least 0 and below 1")
    if model.tied and model.hidden_size != model.embedding_size:
        raise UserError(
            f"--tied needs --hidden-size equal to --embedding-size, not {model.hidden_size} "
            f"and {model.embedding_size}"
        )
    choose(DTYPES, model.dtype, "dtype")
