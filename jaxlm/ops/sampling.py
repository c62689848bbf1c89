"""Draws from a categorical distribution."""

import functools
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp


def uniforms(key: jax.Array, length: int, batch: int) -> jax.Array:
    """What `length` draws of `batch` rows take, [length, 2, B]: all at once, as a generator of
    random numbers that is started anew for each draw takes a CPU longer than the draw.
    """
    keys = jax.random.split(key, length)
    return jax.vmap(lambda key: jax.random.uniform(key, (2, batch)))(keys)


def categorical(uniform_2B: jax.Array, logits_BV: jax.Array) -> jax.Array:
    """One index a row, drawn with probability softmax(logits): int32 [B], by two numbers a row from
    [0, 1).

    Inversion in two levels: the words are taken in about √V blocks; the first number chooses the
    block by the blocks' sums, the second the word within it. The Gumbel-max trick of
    `jax.random.categorical` needs V random numbers a row instead of two, which in a generation loop
    costs as much as the recurrent layers. A word of logit -inf is never drawn; each row needs one
    that is finite.
    """
    batch, vocab_size = logits_BV.shape
    width = math.ceil(math.sqrt(vocab_size))
    count = -(-vocab_size // width)
    shifted_BV = logits_BV.astype(jnp.float32) - jnp.max(logits_BV, axis=-1, keepdims=True)
    mass_BV = jnp.pad(jnp.exp(shifted_BV), ((0, 0), (0, count * width - vocab_size)))
    mass_BCW = mass_BV.reshape(batch, count, width)
    block_B = _invert(jnp.sum(mass_BCW, axis=-1), uniform_2B[0])
    inside_BW = jnp.take_along_axis(mass_BCW, block_B[:, None, None], axis=1)[:, 0]
    return block_B * width + _invert(inside_BW, uniform_2B[1])


def _invert(mass_BN: jax.Array, uniform_B: jax.Array) -> jax.Array:
    """The first place where the running sum of the mass passes its share `uniform` of the whole."""
    sums_BN = jnp.cumsum(mass_BN, axis=-1)
    # A place without mass adds nothing to the sum, so it is never the first to pass a share ...
    place_B = jnp.sum(sums_BN <= uniform_B[:, None] * sums_BN[:, -1:], axis=-1)
    # ... but rounding may let none pass: then it is the last that has some.
    places_N = jnp.arange(mass_BN.shape[-1])
    last_B = jnp.max(jnp.where(mass_BN > 0, places_N, 0), axis=-1)
    return jnp.minimum(place_B, last_B).astype(jnp.int32)


@functools.partial(jax.jit, static_argnames="draw")
def drawn(logits_BV: Any, uniform_2B: jax.Array, draw: Any) -> jax.Array:
    """Return draw(logits_BV, uniform_2B), compiled: a token for each row, int32 [B]."""
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
    """Choose a token for each row: draw(logits_BV, uniform_2B) -> token_B, int32.

    At temperature 0 it is the most probable token. Otherwise it is a sample from the distribution
    that `filter_logits` returns. `uniform_2B` are two random numbers per row from [0, 1).
    """

    temperature: float
    top_k: int | None
    top_p: float | None

    def __call__(self, logits_BV: jax.Array, uniform_2B: jax.Array) -> jax.Array:
        if self.temperature == 0:
            return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
        filtered_BV = filter_logits(logits_BV, self.temperature, self.top_k, self.top_p)
        return categorical(uniform_2B, filtered_BV)
