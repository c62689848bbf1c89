"""Products of matrices with sums in float32, laid out as the machine multiplies fastest."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxlm.ops.compiling import platform
from jaxlm.ops.kernels import aligned

# Rows added to a turned matrix, for XLA's CPU compiler to leave it as it is; any number does.
SPARE = 8


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


def product_by_turned(a_NO: jax.Array, b_FO: jax.Array) -> jax.Array:
    """a bᵀ, float32. Not by way of b.T, for which XLA's CPU compiler leaves bfloat16: half as
    fast.
    """
    over = (((1,), (1,)), ((), ()))
    return jax.lax.dot_general(a_NO, b_FO, over, preferred_element_type=jnp.float32)


def turned_product(a_NF: jax.Array, b_NO: jax.Array) -> jax.Array:
    """aᵀ b, float32."""
    return product(a_NF.T, b_NO) if not _settles(a_NF.dtype) else _settled(a_NF, b_NO)[:-SPARE]


def turned_product_and_sum(
    a_NF: jax.Array, b_NO: jax.Array, dtype: Any
) -> tuple[jax.Array, jax.Array]:
    """aᵀ b with operands in `dtype`, and Σ_n b [O], float32: a matrix's gradient and its bias's."""
    low = a_NF.astype(dtype), b_NO.astype(dtype)
    if not _settles(dtype):
        return turned_product(*low), b_NO.sum(0)
    # A spare row of ones sums for nothing, and b need not be there in float32 too.
    found_RO = _settled(*low)
    return found_RO[:-SPARE], found_RO[-1]


def _settles(dtype: Any) -> bool:
    """Whether a turned operand must be a new array: XLA's CPU products in bfloat16 know no turned
    first operand, and fall back to float32, at half the speed.
    """
    return jnp.dtype(dtype) == jnp.bfloat16 and platform() == "cpu"


def _settled(a_NF: jax.Array, b_NO: jax.Array) -> jax.Array:
    """aᵀ b, and below it SPARE rows of Σ_n b. What is turned alone is worked into the product
    again; with rows added it is not.
    """
    ones_RN = jnp.ones((SPARE, len(a_NF)), a_NF.dtype)
    return product(jnp.concatenate([a_NF.T, ones_RN]), b_NO)


def project(x_NF: jax.Array, kernel_FO: jax.Array, dtype: Any) -> jax.Array:
    """x W with operands in `dtype`, and sums in float32; the gradients too.

    y = x W      dx = dy Wᵀ      dW = xᵀ dy
    """
    kinds = jnp.dtype(dtype), x_NF.dtype, kernel_FO.dtype
    return _project(kinds, *align(x_NF, kernel_FO))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _project(kinds: tuple[Any, Any, Any], x_NF: jax.Array, kernel_FO: jax.Array) -> jax.Array:
    return product(x_NF.astype(kinds[0]), kernel_FO.astype(kinds[0]))


def _forward(
    kinds: tuple[Any, Any, Any], x_NF: jax.Array, kernel_FO: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    low = x_NF.astype(kinds[0]), kernel_FO.astype(kinds[0])
    return product(*low), low


def _backward(
    kinds: tuple[Any, Any, Any], saved: tuple[jax.Array, jax.Array], dy_NO: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x_NF, kernel_FO = saved
    dtype, x_dtype, kernel_dtype = kinds
    dy_NO = dy_NO.astype(dtype)
    dx_NF = product_by_turned(dy_NO, kernel_FO).astype(x_dtype)
    return dx_NF, turned_product(x_NF, dy_NO).astype(kernel_dtype)


_project.defvjp(_forward, _backward)
