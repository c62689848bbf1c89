"""Building blocks of the neural models: initialisers, products, embedding and output layer."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm.errors import UserError, choose
from jaxlm.ops.output_layer import output_cross_entropy

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


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
    def weights(self, features: int, embedding_VD: jax.Array) -> tuple[jax.Array, jax.Array]:
        """U [F, V] and b [V]."""
        bias_V = self.param("bias", uniform(self.init_scale or 0.0), (self.vocab_size,))
        if self.tied:
            kernel_FV = embedding_VD.T
        else:
            init = uniform(self.init_scale or features**-0.5)
            kernel_FV = self.param("kernel", init, (features, self.vocab_size))
        return kernel_FV, bias_V

    def __call__(self, hidden_BTF: jax.Array, embedding_VD: jax.Array) -> jax.Array:
        """Logits [B, T, V] in the compute dtype."""
        kernel_FV, bias_V = self.weights(hidden_BTF.shape[-1], embedding_VD)
        hidden_BTF, kernel_FV, bias_V = nn.dtypes.promote_dtype(
            hidden_BTF, kernel_FV, bias_V, dtype=self.dtype
        )
        return project(hidden_BTF, kernel_FV) + bias_V

    def loss(
        self,
        hidden_BTF: jax.Array,
        embedding_VD: jax.Array,
        targets_BT: jax.Array,
        weights_BT: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        """Σ weight · nll, and the nll of every target [B, T]: the logits are never all there."""
        features = hidden_BTF.shape[-1]
        kernel_FV, bias_V = self.weights(features, embedding_VD)
        total, nll_N = output_cross_entropy(
            hidden_BTF.reshape(-1, features),
            kernel_FV,
            bias_V,
            targets_BT.reshape(-1),
            weights_BT.reshape(-1),
            self.dtype,
        )
        return total, nll_N.reshape(targets_BT.shape)


def affine(x_BTF: jax.Array, kernel_FO: jax.Array, bias_O: jax.Array, dtype: Any) -> jax.Array:
    """x @ kernel + bias, in `dtype`."""
    x_BTF, kernel_FO, bias_O = nn.dtypes.promote_dtype(x_BTF, kernel_FO, bias_O, dtype=dtype)
    return project(x_BTF, kernel_FO) + bias_O


class Affine(nn.Module):
    """y = W x + b with W ~ U(±1/√fan_in), b = 0, or both ~ U(±init_scale)."""

    features: int
    fan_in: int
    dtype: Any
    init_scale: float | None
    bias_init: Any = None

    @nn.compact
    def weights(self, inputs: int) -> tuple[jax.Array, jax.Array]:
        """W [inputs, features] and b [features]."""
        init = uniform(self.init_scale or self.fan_in**-0.5)
        kernel_FO = self.param("kernel", init, (inputs, self.features))
        bias_init = self.bias_init or uniform(self.init_scale or 0.0)
        return kernel_FO, self.param("bias", bias_init, (self.features,))

    def __call__(self, x_BTF: jax.Array) -> jax.Array:
        return affine(x_BTF, *self.weights(x_BTF.shape[-1]), self.dtype)


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
