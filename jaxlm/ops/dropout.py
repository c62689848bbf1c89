"""Dropout as pure functions of a key: on numbers, on whole words, on matrices."""

import jax
import jax.numpy as jnp

from jaxlm.ops.static import is_static

# A mask is drawn from 16 bits a number, half of what a float32 would take; a rate is rounded to
# one of this many parts, and the mean kept exact for the rounded one.
PARTS = 1 << 16


def keep_mask(key: jax.Array, shape: tuple[int, ...], rate: float) -> jax.Array:
    """float32: 0 with probability `rate`, otherwise 1 / (1 - rate), so that its mean is 1.

    Source: Srivastava et al., "Dropout", 2014, section 10 (inverted: evaluation is left alone).
    """
    bits = jax.random.bits(key, shape, jnp.uint16)
    if is_static(rate):
        dropped = min(round(rate * PARTS), PARTS - 1)
        return jnp.where(bits >= dropped, jnp.float32(PARTS / (PARTS - dropped)), jnp.float32(0))
    dropped_f = jnp.minimum(jnp.round(rate * PARTS), PARTS - 1)
    scale = PARTS / (PARTS - dropped_f)
    return jnp.where(bits >= dropped_f.astype(jnp.uint16), scale, jnp.float32(0))


def dropout(
    key: jax.Array, x: jax.Array, rate: float, shared_axes: tuple[int, ...] = ()
) -> jax.Array:
    """x ⊙ mask. Along `shared_axes` the mask is one and the same: with x_BTF and axis 1, one mask a
    sequence (variational dropout: Gal & Ghahramani 2016).
    """
    shape = tuple(1 if axis in shared_axes else size for axis, size in enumerate(x.shape))
    return x * keep_mask(key, shape, rate).astype(x.dtype)


def drop_words(
    key: jax.Array, words_BTD: jax.Array, tokens_BT: jax.Array, vocab_size: int, rate: float
) -> jax.Array:
    """The features of some words of the vocabulary are 0 wherever they stand: words_BTD are the
    rows of a table at tokens_BT, as if whole rows of the table had been dropped, without a pass
    over it (Gal & Ghahramani 2016, section 4.2; Merity et al. 2018, section 4.3).
    """
    mask_V = keep_mask(key, (vocab_size,), rate)
    return words_BTD * mask_V[tokens_BT][..., None].astype(words_BTD.dtype)
