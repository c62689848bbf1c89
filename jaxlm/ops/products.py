"""Matrix products with float32 sums, in the memory layout that is fastest on the machine."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlm.ops.machine import (
    aligned,
    current_precision,
    matmul_precision,
    must_materialise_transpose,
    platform,
)

# Number of rows of ones (E) below a transposed matrix. With them, XLA's CPU compiler does not fuse
# the transpose into the product. Any number of rows has this effect.
EXTRA_ROWS = 8


class Compute(NamedTuple):
    """The settings of products: dtype of their operands, and JAX's name for the precision.

    A function with its own gradient rule takes these settings as a static argument. JAX traces the
    gradient rule after the context of `matmul_precision` has ended.
    """

    dtype: Any
    precision: str | None

    @classmethod
    def now(cls, dtype: Any) -> "Compute":
        """Return the settings for operands of `dtype`, with the precision of the active context."""
        return cls(dtype, current_precision())

    def context(self) -> Any:
        """Return a context in which products have this precision."""
        return matmul_precision(self.precision)


def pad_axis(array: jax.Array, size: int, axis: int = -1) -> jax.Array:
    """Return the array with zeros appended to an axis, so that its length is `size`."""
    missing = size - array.shape[axis]
    if not missing:
        return array
    padding = [(0, 0)] * array.ndim
    padding[axis] = (0, missing)
    return jnp.pad(array, padding)


def pad_units(array: jax.Array, units: int, rows: bool = False) -> jax.Array:
    """Return an array of a layer, padded with units whose values are zero.

    The padded layer has `machine.aligned(units)` units, a number with which products are fast.

    Args:
      array: weights or state of the layer. Its last axis is a concatenation of blocks of length
        `units`, such as gates. Each block is padded.
      units: number of units of the layer.
      rows: whether the first axis is an axis of the layer's units too, and is padded.
    """
    padded_units = aligned(units)
    if padded_units == units:
        return array
    blocks = pad_axis(array.reshape(*array.shape[:-1], -1, units), padded_units)
    padded = blocks.reshape(*array.shape[:-1], -1)
    return pad_axis(padded, padded_units, axis=0) if rows else padded


def pad_operands(a_NF: jax.Array, b_FO: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the operands of a product, with F padded by zeros to a size that multiplies fast."""
    features = aligned(a_NF.shape[-1])
    return pad_axis(a_NF, features), pad_axis(b_FO, features, axis=0)


def as_output_matrix(embedding_VD: jax.Array, dtype: Any) -> jax.Array:
    """Return the transposed embedding, [D, V], for products in `dtype`.

    XLA moves a transpose into the product. Before jax 0.8.2, its CPU compiler then fails for
    operands in bfloat16, so the transposed matrix is materialised there.
    """
    if (
        jax.__version_info__ < (0, 8, 2)
        and platform() == "cpu"
        and jnp.dtype(dtype) == jnp.bfloat16
    ):
        return jax.lax.optimization_barrier(embedding_VD.T)
    return embedding_VD.T


def product(a_NF: jax.Array, b_FO: jax.Array) -> jax.Array:
    """Return a b, float32."""
    return jnp.matmul(a_NF, b_FO, preferred_element_type=jnp.float32)


def product_by_transposed(a_NO: jax.Array, b_FO: jax.Array) -> jax.Array:
    """Return a bᵀ, float32.

    The function does not use b.T: with it, XLA's CPU compiler does not multiply in bfloat16, and
    takes twice as long.
    """
    contracted = (((1,), (1,)), ((), ()))
    return jax.lax.dot_general(a_NO, b_FO, contracted, preferred_element_type=jnp.float32)


def transposed_product(a_NF: jax.Array, b_NO: jax.Array) -> jax.Array:
    """Return aᵀ b, float32."""
    if must_materialise_transpose(a_NF.dtype):
        return _materialised_product(a_NF, b_NO)[:-EXTRA_ROWS]
    return product(a_NF.T, b_NO)


def transposed_product_and_sum(
    a_NF: jax.Array, b_NO: jax.Array, dtype: Any
) -> tuple[jax.Array, jax.Array]:
    """Return aᵀ b with operands in `dtype`, and Σ_n b [O], both float32.

    The results are the gradients of a matrix and of its bias.
    """
    operands = a_NF.astype(dtype), b_NO.astype(dtype)
    if not must_materialise_transpose(dtype):
        return transposed_product(*operands), b_NO.sum(0)
    # The extra rows of ones give the sum at no further cost, and b is not needed in float32.
    # R: the F rows of the product, and the extra rows.
    product_RO = _materialised_product(*operands)
    return product_RO[:-EXTRA_ROWS], product_RO[-1]


def _materialised_product(a_NF: jax.Array, b_NO: jax.Array) -> jax.Array:
    """Return aᵀ b, with EXTRA_ROWS rows of Σ_n b below it.

    XLA would fuse a plain transpose into the product. It does not fuse the concatenation with rows
    of ones.
    """
    ones_EN = jnp.ones((EXTRA_ROWS, len(a_NF)), a_NF.dtype)
    return product(jnp.concatenate([a_NF.T, ones_EN]), b_NO)


def project(x_NF: jax.Array, kernel_FO: jax.Array, dtype: Any) -> jax.Array:
    """Return x W, float32, with operands in `dtype` and float32 sums.

        y = x W      dx = dy Wᵀ      dW = xᵀ dy

    The products of the gradients have operands in `dtype` and float32 sums too.
    """
    settings = _Settings(jnp.dtype(dtype), x_NF.dtype, kernel_FO.dtype, current_precision())
    return _project(settings, *pad_operands(x_NF, kernel_FO))


class _Settings(NamedTuple):
    """The static arguments of `project`."""

    operands: Any
    """dtype of the products' operands."""
    x: Any
    """dtype of x, and of its gradient."""
    kernel: Any
    """dtype of the kernel, and of its gradient."""
    precision: str | None
    """JAX's name for the precision of the products."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _project(settings: _Settings, x_NF: jax.Array, kernel_FO: jax.Array) -> jax.Array:
    return product(x_NF.astype(settings.operands), kernel_FO.astype(settings.operands))


def _forward(
    settings: _Settings, x_NF: jax.Array, kernel_FO: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    operands = x_NF.astype(settings.operands), kernel_FO.astype(settings.operands)
    with matmul_precision(settings.precision):
        return product(*operands), operands


def _backward(
    settings: _Settings, saved: tuple[jax.Array, jax.Array], dy_NO: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x_NF, kernel_FO = saved
    dy_NO = dy_NO.astype(settings.operands)
    with matmul_precision(settings.precision):
        dx_NF = product_by_transposed(dy_NO, kernel_FO).astype(settings.x)
        return dx_NF, transposed_product(x_NF, dy_NO).astype(settings.kernel)


_project.defvjp(_forward, _backward)
