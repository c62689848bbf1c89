"""Operands of products, as wide as the machine's matrix units like them."""

import jax
import jax.numpy as jnp

from jaxlm.ops.kernels import aligned


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
