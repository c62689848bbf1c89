"""Building blocks of the neural models: initialisers, affine layers, dropout and the embedding."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm.errors import check_at_least, choose
from jaxlm.ops import products
from jaxlm.ops.dropout import dropout
from jaxlm.ops.lookup import look_up
from jaxlm.ops.machine import check_fits, host_memory
from jaxlm.ops.static import is_zero
from jaxlm.ranges import check_settings

# Names of the settings that are dropout rates, of all models.
RATES = (
    "dropout",
    "dropout_input",
    "dropout_between",
    "dropout_output",
    "dropout_words",
    "dropout_state",
    "weight_drop",
)
MEASURED = "measured"
"""The collection in which a layer records scalars in a train step, if it is mutable."""
# The dtype of arrays for each value of the setting `dtype`. tf32 is a precision of products of
# float32 arrays (`ops.machine.precision_of`).
DTYPES = {"float32": jnp.float32, "tf32": jnp.float32, "bfloat16": jnp.bfloat16}


def uniform(scale: float) -> Any:
    """Return an initialiser U(-scale, scale). Flax's own `uniform` is U(0, scale)."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        check_parameter(shape)
        return jax.random.uniform(key, shape, dtype, -scale, scale)

    return init


def check_parameter(shape: tuple[int, ...]) -> None:
    """Raise UserError if a parameter of this shape is larger than the memory there is.

    It is checked before the random numbers are traced: JAX takes hours to trace absurdly many.
    """
    sizes = " x ".join(f"{size:,}" for size in shape)
    remedy = "make the sizes of the model, or its vocabulary, smaller"
    check_fits(f"the {sizes} numbers of a parameter", 4 * math.prod(shape), host_memory(), remedy)


def project(x_BTF: jax.Array, kernel_FO: jax.Array, dtype: Any) -> jax.Array:
    """Return x @ kernel, float32 [B, T, O], with operands in `dtype`.

    This is `ops.products.project` for arrays with a time axis. Batch and time are merged into one
    axis, so that the gradients are plain matrix products too. With two axes, XLA would first copy
    both operands of the kernel's gradient into another order.
    """
    batch, time, features = x_BTF.shape
    y_NO = products.project(x_BTF.reshape(batch * time, features), kernel_FO, dtype)
    return y_NO.reshape(batch, time, -1)


def affine(x_BTF: jax.Array, kernel_FO: jax.Array, bias_O: jax.Array, dtype: Any) -> jax.Array:
    """Return x @ kernel + bias, [B, T, O] in `dtype`.

    Args:
      x_BTF: input, any float dtype.
      kernel_FO: matrix, float32.
      bias_O: bias, float32.
      dtype: dtype of the product's operands and of the result.
    """
    return (project(x_BTF, kernel_FO, dtype) + bias_O).astype(dtype)


class Affine(nn.Module):
    """An affine layer, y = W x + b.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> layer = Affine(features=3, fan_in=2, dtype=jnp.float32, init_scale=None)
      >>> y_BTO, variables = layer.init_with_output(jax.random.key(0), jnp.ones((1, 4, 2)))
      >>> y_BTO.shape, variables["params"]["kernel"].shape
      ((1, 4, 3), (2, 3))
    """

    features: int
    """Number of outputs, O."""
    fan_in: int
    """Number that scales the default initialiser of W; in most layers the number of inputs F."""
    dtype: Any
    """dtype of the product's operands and of the result."""
    init_scale: float | None
    """Draw W and b from U(±init_scale). None: W from U(±1/√fan_in), and b = 0."""
    bias_init: Any = None
    """Initialiser of b in place of the default."""
    kernel_init: Any = None
    """Initialiser of W in place of the default."""

    @nn.compact
    def weights(self, inputs: int) -> tuple[jax.Array, jax.Array]:
        """Return W [inputs, features] and b [features], for a layer that reads `inputs` numbers."""
        init = self.kernel_init or uniform(self.init_scale or self.fan_in**-0.5)
        kernel_FO = self.param("kernel", init, (inputs, self.features))
        bias_init = self.bias_init or uniform(self.init_scale or 0.0)
        return kernel_FO, self.param("bias", bias_init, (self.features,))

    def __call__(self, x_BTF: jax.Array) -> jax.Array:
        return affine(x_BTF, *self.weights(x_BTF.shape[-1]), self.dtype)


def to_embedding_size(
    module: nn.Module, hidden_BTF: jax.Array, size: int, init_scale: float | None, dtype: Any
) -> jax.Array:
    """Return P h, [B, T, D] in `dtype`; if F equals D, return h.

    Args:
      module: the module that owns the parameter "project", P [F, D].
      hidden_BTF: features h, any float dtype.
      size: embedding size D.
      init_scale: draw P from U(±init_scale). None: U(±1/√F).
      dtype: dtype of the product's operands and of the result.
    """
    features = hidden_BTF.shape[-1]
    if features == size:
        return hidden_BTF
    init = uniform(init_scale or features**-0.5)
    kernel_FD = module.param("project", init, (features, size))
    return project(hidden_BTF, kernel_FD, dtype).astype(dtype)


class Dropout(nn.Module):
    """Dropout on features [B, T, F], with a key from rngs={"dropout": key}.

    Example:
      >>> import jax.numpy as jnp
      >>> Dropout(0.5).apply({}, jnp.ones((1, 2, 2)), deterministic=True).tolist()
      [[[1.0, 1.0], [1.0, 1.0]]]
    """

    rate: float
    """Probability that a number becomes 0."""
    variational: bool = False
    """Use one mask for all positions of a sequence."""

    def __call__(self, x_BTF: jax.Array, deterministic: bool) -> jax.Array:
        if deterministic or is_zero(self.rate):
            return x_BTF
        return dropout(self.make_rng("dropout"), x_BTF, self.rate, (1,) if self.variational else ())


def embedding_init(features: int, init_scale: float | None, scale: float | None) -> Any:
    """Return the initialiser of a table of word features.

    It draws from N(0, scale²), or without `scale` from U(±init_scale), or without both from
    N(0, 1 / features).
    """
    if scale is None and init_scale:
        return uniform(init_scale)
    return nn.initializers.normal(features**-0.5 if scale is None else scale)


class Embedding(nn.Module):
    """The embedding: a table C [V, D] of word features."""

    vocab_size: int
    """Number of words V."""
    features: int
    """Embedding size D."""
    init_scale: float | None
    """Draw C from U(±init_scale). None: N(0, 1/D)."""
    dtype: Any
    """dtype of the result."""
    scale: float | None = None
    """Draw C from N(0, scale²), in place of `init_scale`."""

    def setup(self) -> None:
        shape = (self.vocab_size, self.features)
        check_parameter(shape)
        init = embedding_init(self.features, self.init_scale, self.scale)
        self.embedding = self.param("embedding", init, shape)

    def __call__(self, tokens_BT: jax.Array) -> jax.Array:
        """Return C(w), [B, T, D] in `dtype`."""
        # Rows are cast after the lookup. So the gradient of a frequent word, a sum of many terms,
        # is summed in float32.
        return look_up(self.embedding, tokens_BT).astype(self.dtype)


def check_common(model: Any) -> None:
    """Check the types and the ranges of the settings of a neural model, and its dtype.

    Raises:
      SettingError: for a setting that is out of its range.
      UserError: for an unknown dtype.
    """
    check_at_least("vocab_size", model.vocab_size, 1)
    check_settings(model)
    choose(DTYPES | {"auto": None}, model.compute_dtype, "dtype")
