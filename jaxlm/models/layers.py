"""Building blocks of the neural models: initialisers, products, affine layers and the embedding."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm.errors import UserError, choose
from jaxlm.ops import products
from jaxlm.ops.dropout import dropout
from jaxlm.ops.lookup import look_up
from jaxlm.ops.static import is_static, is_zero

# Fields that are probabilities of being dropped.
RATES = (
    "dropout",
    "dropout_input",
    "dropout_between",
    "dropout_output",
    "dropout_words",
    "dropout_state",
    "weight_drop",
)
# What arrays are in; `ops.kernels.precision` tells tf32 from float32.
DTYPES = {"float32": jnp.float32, "tf32": jnp.float32, "bfloat16": jnp.bfloat16}


def uniform(scale: float) -> Any:
    """Initialiser U(-scale, scale), which flax's own `uniform` (0 to scale) is not."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -scale, scale)

    return init


def project(x_BTF: jax.Array, kernel_FO: jax.Array, dtype: Any) -> jax.Array:
    """x @ kernel with operands in `dtype`, float32, as one product of matrices.

    With batch and time as one axis, the gradients are plain products too; left apart, XLA copies
    both operands of the kernel's gradient into another order first.
    """
    batch, time, features = x_BTF.shape
    y_NO = products.project(x_BTF.reshape(batch * time, features), kernel_FO, dtype)
    return y_NO.reshape(batch, time, -1)


def affine(x_BTF: jax.Array, kernel_FO: jax.Array, bias_O: jax.Array, dtype: Any) -> jax.Array:
    """x @ kernel + bias, in `dtype`."""
    return (project(x_BTF, kernel_FO, dtype) + bias_O).astype(dtype)


class Affine(nn.Module):
    """y = W x + b with W ~ U(±1/√fan_in), b = 0, or both ~ U(±init_scale), if they are not drawn by
    an initialiser of their own.
    """

    features: int
    fan_in: int
    dtype: Any
    init_scale: float | None
    bias_init: Any = None
    kernel_init: Any = None

    @nn.compact
    def weights(self, inputs: int) -> tuple[jax.Array, jax.Array]:
        """W [inputs, features] and b [features]."""
        init = self.kernel_init or uniform(self.init_scale or self.fan_in**-0.5)
        kernel_FO = self.param("kernel", init, (inputs, self.features))
        bias_init = self.bias_init or uniform(self.init_scale or 0.0)
        return kernel_FO, self.param("bias", bias_init, (self.features,))

    def __call__(self, x_BTF: jax.Array) -> jax.Array:
        return affine(x_BTF, *self.weights(x_BTF.shape[-1]), self.dtype)


def to_word_size(
    module: nn.Module, hidden_BTF: jax.Array, size: int, init_scale: float | None, dtype: Any
) -> jax.Array:
    """P h [B, T, D] with P [F, D], the parameter "project"; h itself where F is D."""
    features = hidden_BTF.shape[-1]
    if features == size:
        return hidden_BTF
    init = uniform(init_scale or features**-0.5)
    kernel_FD = module.param("project", init, (features, size))
    return project(hidden_BTF, kernel_FD, dtype).astype(dtype)


class Dropout(nn.Module):
    """`ops.dropout.dropout` of [B, T, F] with a key from rngs={"dropout": key}; `variational`: one
    mask a sequence.
    """

    rate: float
    variational: bool = False

    def __call__(self, x_BTF: jax.Array, deterministic: bool) -> jax.Array:
        if deterministic or is_zero(self.rate):
            return x_BTF
        return dropout(self.make_rng("dropout"), x_BTF, self.rate, (1,) if self.variational else ())


class Embedding(nn.Module):
    """The table C [V, D] of word features, ~ N(0, 1/D), or U(±init_scale)."""

    vocab_size: int
    features: int
    init_scale: float | None
    dtype: Any

    def setup(self) -> None:
        scale, shape = self.init_scale, (self.vocab_size, self.features)
        init = uniform(scale) if scale else nn.initializers.normal(self.features**-0.5)
        self.embedding = self.param("embedding", init, shape)

    def __call__(self, tokens_BT: jax.Array) -> jax.Array:
        """C(w) [B, T, D] in the compute dtype."""
        # Low precision comes after the rows are taken: a frequent word's gradient, a sum of many,
        # is summed in float32.
        return look_up(self.embedding, tokens_BT).astype(self.dtype)


def check_common(model: Any) -> None:
    """What every neural model's fields must satisfy; raises UserError that names the flag."""
    for name in ("vocab_size", "embedding_size", "n_step", "num_layers"):
        value = getattr(model, name, 1)
        if value < 1:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be at least 1")
    for name in RATES:
        rate = getattr(model, name, None)
        if rate is not None and is_static(rate) and not 0 <= rate < 1:
            raise UserError(f"--{name.replace('_', '-')} {rate}: must be at least 0 and below 1")
    choose(DTYPES, model.compute_dtype, "dtype")
