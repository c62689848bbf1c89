"""Sampling from a categorical distribution."""

import functools
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp


def uniforms(key: jax.Array, length: int, batch: int) -> jax.Array:
    """Return random numbers for `length` calls of `categorical`, [length, 2, B] in [0, 1).

    `batch` is B, the number of rows. All numbers are drawn at once. On a CPU, a random generator
    for each draw would take longer than the draw.
    """
    keys = jax.random.split(key, length)
    return jax.vmap(lambda key: jax.random.uniform(key, (2, batch)))(keys)


def categorical(uniform_2B: jax.Array, logits_BV: jax.Array) -> jax.Array:
    """Return one index per row, sampled with probability softmax(logits), int32 [B].

    The method is inverse transform sampling in two levels. The words form about √V blocks. The
    first uniform number selects a block by the sums of the blocks, and the second selects a word in
    it. The Gumbel-max trick of `jax.random.categorical` needs V random numbers per row in place of
    two. In a generation loop, drawing V numbers costs as much as the recurrent layers. A word with
    logit -inf is never drawn. Each row needs at least one finite logit.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> (uniform_2B,) = uniforms(jax.random.key(0), length=1, batch=1)
      >>> categorical(uniform_2B, jnp.asarray([[-jnp.inf, 0.0, -jnp.inf]])).tolist()
      [1]
    """
    batch, vocab_size = logits_BV.shape
    width = math.ceil(math.sqrt(vocab_size))
    count = -(-vocab_size // width)
    shifted_BV = logits_BV.astype(jnp.float32) - jnp.max(logits_BV, axis=-1, keepdims=True)
    mass_BV = jnp.pad(jnp.exp(shifted_BV), ((0, 0), (0, count * width - vocab_size)))
    # C blocks of W words.
    mass_BCW = mass_BV.reshape(batch, count, width)
    block_B = _inverse_cdf(jnp.sum(mass_BCW, axis=-1), uniform_2B[0])
    inside_BW = jnp.take_along_axis(mass_BCW, block_B[:, None, None], axis=1)[:, 0]
    return block_B * width + _inverse_cdf(inside_BW, uniform_2B[1])


def _inverse_cdf(mass_BI: jax.Array, uniform_B: jax.Array) -> jax.Array:
    """Return the first index whose cumulative mass exceeds `uniform` times the total mass."""
    sums_BI = jnp.cumsum(mass_BI, axis=-1)
    # An index without mass does not change the sum, so it is never the first to exceed the limit.
    index_B = jnp.sum(sums_BI <= uniform_B[:, None] * sums_BI[:, -1:], axis=-1)
    # Rounding can make the limit as large as all sums. Then the last index with mass is taken.
    indices_I = jnp.arange(mass_BI.shape[-1])
    last_B = jnp.max(jnp.where(mass_BI > 0, indices_I, 0), axis=-1)
    return jnp.minimum(index_B, last_B).astype(jnp.int32)


@functools.partial(jax.jit, static_argnames="draw")
def drawn(logits_BV: Any, uniform_2B: jax.Array, draw: Any) -> jax.Array:
    """Run draw(logits_BV, uniform_2B) compiled; return a token for each row, int32 [B]."""
    tokens_B: jax.Array = draw(logits_BV, uniform_2B)
    return tokens_B


def filter_logits(
    logits_BV: jax.Array, temperature: float, top_k: int | None, top_p: float | None
) -> jax.Array:
    """Return the logits of the distribution to sample from, -inf for excluded tokens.

    The steps are, in this order:

    1. Divide the logits by `temperature`.
    2. Keep the `top_k` largest logits (Fan et al. 2018).
    3. Keep the smallest set of most probable tokens whose probabilities sum to at least `top_p`
       (Holtzman et al. 2020). The most probable token is always kept.

    Args:
      logits_BV: unnormalised log-probabilities, float32.
      temperature: a number above 0.
      top_k: number of tokens to keep, or None for all tokens.
      top_p: probability to keep, or None for all tokens.
    """
    logits_BV = logits_BV / temperature
    if top_k is not None and top_k < logits_BV.shape[-1]:
        least_B1 = jax.lax.top_k(logits_BV, top_k)[0][:, -1:]
        logits_BV = jnp.where(logits_BV < least_B1, -jnp.inf, logits_BV)
    if top_p is not None:
        sorted_BV = -jnp.sort(-logits_BV, axis=-1)
        before_BV = jnp.cumsum(jax.nn.softmax(sorted_BV), axis=-1) - jax.nn.softmax(sorted_BV)
        kept_B1 = jnp.maximum(1, jnp.sum(before_BV < top_p, axis=-1, keepdims=True))
        least_B1 = jnp.take_along_axis(sorted_BV, kept_B1 - 1, axis=-1)
        logits_BV = jnp.where(logits_BV < least_B1, -jnp.inf, logits_BV)
    return logits_BV


@dataclass(frozen=True)
class Sampler:
    """A function that chooses a token for each row: sampler(logits_BV, uniform_2B) -> int32 [B].

    At temperature 0 the token is the most probable token. Otherwise it is a sample from the
    distribution that `filter_logits` returns. `uniform_2B` holds two random numbers from [0, 1) for
    each row. See `filter_logits` for the fields.
    """

    temperature: float
    top_k: int | None
    top_p: float | None

    def __call__(self, logits_BV: jax.Array, uniform_2B: jax.Array) -> jax.Array:
        if self.temperature == 0:
            return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
        filtered_BV = filter_logits(logits_BV, self.temperature, self.top_k, self.top_p)
        return categorical(uniform_2B, filtered_BV)
