"""Dropout as pure functions of a key: masks for activations, for whole words and for matrices."""

import jax
import jax.numpy as jnp

from jaxlm.ops.static import is_static

# A mask takes 16 random bits per element, half as many as a float32 would take. So a rate is
# rounded to a multiple of 1 / RATE_STEPS. The scale of the mask is computed from the rounded rate,
# so the expected value of an element is 1.
RATE_STEPS = 1 << 16


def keep_mask(key: jax.Array, shape: tuple[int, ...], rate: float) -> jax.Array:
    """Return a float32 mask: 0 with probability `rate`, otherwise 1 / (1 - rate).

    The expected value of an element is 1, so evaluation needs no scaling (inverted dropout). The
    rate may be a number or a traced array.

    Source: Srivastava et al., "Dropout", 2014, section 10.
    """
    bits = jax.random.bits(key, shape, jnp.uint16)
    if is_static(rate):
        threshold = min(round(rate * RATE_STEPS), RATE_STEPS - 1)
        scale = jnp.float32(RATE_STEPS / (RATE_STEPS - threshold))
        return jnp.where(bits >= threshold, scale, jnp.float32(0))
    traced_threshold = jnp.minimum(jnp.round(rate * RATE_STEPS), RATE_STEPS - 1)
    traced_scale = RATE_STEPS / (RATE_STEPS - traced_threshold)
    return jnp.where(bits >= traced_threshold.astype(jnp.uint16), traced_scale, jnp.float32(0))


def dropout(
    key: jax.Array, x: jax.Array, rate: float, shared_axes: tuple[int, ...] = ()
) -> jax.Array:
    """Return x ⊙ mask, with a mask from `keep_mask`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> x_BTF = jnp.ones((2, 3, 4))
      >>> dropped_BTF = dropout(jax.random.key(0), x_BTF, 0.5, shared_axes=(1,))
      >>> bool((dropped_BTF == dropped_BTF[:, :1]).all())
      True

    Args:
      key: random key.
      x: array of any shape and float dtype.
      rate: probability that an element becomes 0.
      shared_axes: axes along which the mask is constant. Axis 1 of x_BTF gives one mask per
        sequence (variational dropout: Gal & Ghahramani 2016).
    Returns:
      An array with the shape and dtype of `x`.
    """
    shape = tuple(1 if axis in shared_axes else size for axis, size in enumerate(x.shape))
    # bfloat16 has no 1 / (1 - rate) for most rates, so the product is float32.
    return (x.astype(jnp.float32) * keep_mask(key, shape, rate)).astype(x.dtype)


def drop_words(
    key: jax.Array, words_BTD: jax.Array, tokens_BT: jax.Array, vocab_size: int, rate: float
) -> jax.Array:
    """Return word features after dropout of whole words of the vocabulary.

    The features of a dropped word are 0 at all positions of the word. The features of the other
    words are multiplied by 1 / (1 - rate). The result equals dropout of whole rows of the
    embedding, but needs no pass over the embedding.

    Source: Gal & Ghahramani 2016, section 4.2; Merity et al. 2018, section 4.3.

    Args:
      key: random key.
      words_BTD: word features, the rows of the embedding at `tokens_BT`.
      tokens_BT: ids of the words, integers.
      vocab_size: number of words in the vocabulary.
      rate: probability that a word is dropped.
    Returns:
      [B, T, D] with the dtype of `words_BTD`.
    """
    mask_V = keep_mask(key, (vocab_size,), rate)
    dropped_BTD = words_BTD.astype(jnp.float32) * mask_V[tokens_BT][..., None]
    return dropped_BTD.astype(words_BTD.dtype)
