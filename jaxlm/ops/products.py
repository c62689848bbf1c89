"""Products of matrices with sums in float32, laid out as the machine multiplies fastest."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlm.ops.machine import (
    aligned,
    current_precision,
    matmul_precision,
    must_materialise_transpose,
)

# Rows added to a turned matrix, for XLA's CPU compiler to leave it as it is; any number does.
SPARE = 8


class Compute(NamedTuple):
    """How products are computed: the dtype of their operands, and JAX's name of the precision.

    A function with a gradient rule of its own keeps this among its static arguments: the rule is
    traced after the context of `matmul_precision` has ended.
    """

    dtype: Any
    precision: str | None

    @classmethod
    def now(cls, dtype: Any) -> "Compute":
        """Return operands of `dtype`, with the precision of the context that is active."""
        return cls(dtype, current_precision())

    def context(self) -> Any:
        """Return the context in which the products have this precision."""
        return matmul_precision(self.precision)


def widen(array: jax.Array, size: int, axis: int = -1) -> jax.Array:
    """Zeros at the end of an axis, until it has `size` numbers."""
    missing = size - array.shape[axis]
    if not missing:
        return array
    padding = [(0, 0)] * array.ndim
    padding[axis] = (0, missing)
    return jnp.pad(array, padding)


def widen_blocks(array: jax.Array, size: int, wide: int) -> jax.Array:
    """Zeros at the end of each block of `size` numbers of the last axis (a gate, say), until each
    has `wide`.
    """
    if wide == size:
        return array
    blocks = array.reshape(*array.shape[:-1], -1, size)
    return widen(blocks, wide).reshape(*array.shape[:-1], -1)


def align(a_NF: jax.Array, b_FO: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The operands of a product, with zeros at the end of F if it is the faster for them."""
    features = aligned(a_NF.shape[-1])
    return widen(a_NF, features), widen(b_FO, features, axis=0)


def product(a_NF: jax.Array, b_FO: jax.Array) -> jax.Array:
    """a b, float32."""
    return jnp.matmul(a_NF, b_FO, preferred_element_type=jnp.float32)


def product_by_transposed(a_NO: jax.Array, b_FO: jax.Array) -> jax.Array:
    """a bᵀ, float32. Not by way of b.T, for which XLA's CPU compiler leaves bfloat16: half as
    fast.
    """
    over = (((1,), (1,)), ((), ()))
    return jax.lax.dot_general(a_NO, b_FO, over, preferred_element_type=jnp.float32)


def transposed_product(a_NF: jax.Array, b_NO: jax.Array) -> jax.Array:
    """aᵀ b, float32."""
    return (
        product(a_NF.T, b_NO)
        if not must_materialise_transpose(a_NF.dtype)
        else _materialised_product(a_NF, b_NO)[:-SPARE]
    )


def transposed_product_and_sum(
    a_NF: jax.Array, b_NO: jax.Array, dtype: Any
) -> tuple[jax.Array, jax.Array]:
    """aᵀ b with operands in `dtype`, and Σ_n b [O], float32: a matrix's gradient and its bias's."""
    low = a_NF.astype(dtype), b_NO.astype(dtype)
    if not must_materialise_transpose(dtype):
        return transposed_product(*low), b_NO.sum(0)
    # A spare row of ones sums for nothing, and b need not be there in float32 too.
    found_RO = _materialised_product(*low)
    return found_RO[:-SPARE], found_RO[-1]


def _materialised_product(a_NF: jax.Array, b_NO: jax.Array) -> jax.Array:
    """aᵀ b, and below it SPARE rows of Σ_n b. What is turned alone is worked into the product
    again; with rows added it is not.
    """
    ones_RN = jnp.ones((SPARE, len(a_NF)), a_NF.dtype)
    return product(jnp.concatenate([a_NF.T, ones_RN]), b_NO)


def project(x_NF: jax.Array, kernel_FO: jax.Array, dtype: Any) -> jax.Array:
    """x W with operands in `dtype`, and sums in float32; the gradients too.

    y = x W      dx = dy Wᵀ      dW = xᵀ dy
    """
    kinds = _Kinds(jnp.dtype(dtype), x_NF.dtype, kernel_FO.dtype, current_precision())
    return _project(kinds, *align(x_NF, kernel_FO))


class _Kinds(NamedTuple):
    """dtypes of the product's operands, of x and of the kernel; precision of the products."""

    operands: Any
    x: Any
    kernel: Any
    precision: str | None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _project(kinds: _Kinds, x_NF: jax.Array, kernel_FO: jax.Array) -> jax.Array:
    return product(x_NF.astype(kinds.operands), kernel_FO.astype(kinds.operands))


def _forward(
    kinds: _Kinds, x_NF: jax.Array, kernel_FO: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    low = x_NF.astype(kinds.operands), kernel_FO.astype(kinds.operands)
    with matmul_precision(kinds.precision):
        return product(*low), low


def _backward(
    kinds: _Kinds, saved: tuple[jax.Array, jax.Array], dy_NO: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x_NF, kernel_FO = saved
    dy_NO = dy_NO.astype(kinds.operands)
    with matmul_precision(kinds.precision):
        dx_NF = product_by_transposed(dy_NO, kernel_FO).astype(kinds.x)
        return dx_NF, transposed_product(x_NF, dy_NO).astype(kinds.kernel)


_project.defvjp(_forward, _backward)
