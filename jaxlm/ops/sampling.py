"""Sampling from a categorical distribution."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# A sum of float32 probabilities may be below its true value by this much.
ROUNDING = 1e-6
# A smaller temperature is 0 in float32.
SMALLEST = float(np.finfo(np.float32).tiny)


def uniforms(key: jax.Array, length: int, batch: int) -> jax.Array:
    """Return random numbers for `length` calls of `categorical`, [length, 2, B] in [0, 1).

    All numbers are drawn at once. On a CPU, a random generator for each draw would take longer than
    the draw.

    Args:
      key: the key of all numbers, or keys [B], one for each row. With keys [B], the numbers of a
        row do not depend on the other rows.
      length: number of calls.
      batch: number of rows, B.
    """
    if key.ndim:
        return jax.vmap(lambda one: uniforms(one, length, 1)[..., 0], out_axes=-1)(key)
    keys = jax.random.split(key, length)
    return jax.vmap(lambda key: jax.random.uniform(key, (2, batch)))(keys)


@jax.jit
def row_keys(seed: jax.Array, numbers_BN: jax.Array) -> jax.Array:
    """Return a random key for each row, keys [B], from a seed and the numbers of the row.

    The key of a row does not depend on the other rows.

    Args:
      seed: the seed.
      numbers_BN: the numbers of each row, uint32.

    Example:
      >>> import jax, numpy as np
      >>> both = row_keys(0, np.array([[1, 2], [3, 4]], np.uint32))
      >>> bool(both[1] == row_keys(0, np.array([[3, 4]], np.uint32))[0])
      True
    """

    def of_row(numbers_N: jax.Array) -> jax.Array:
        key = jax.random.key(seed)
        for number in numbers_N:
            key = jax.random.fold_in(key, number)
        return key

    return jax.vmap(of_row)(numbers_BN)


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
    shifted_BV = logits_BV.astype(jnp.float32) - jnp.max(logits_BV, axis=-1, keepdims=True)
    return in_proportion(uniform_2B, jnp.exp(shifted_BV))


def in_proportion(uniform_2B: jax.Array, mass_BV: jax.Array) -> jax.Array:
    """Return one index per row, sampled in proportion to its mass, int32 [B].

    See `categorical`. The masses are float32 numbers ≥ 0, and each row needs a positive mass.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> (uniform_2B,) = uniforms(jax.random.key(0), length=1, batch=1)
      >>> in_proportion(uniform_2B, jnp.asarray([[0.0, 0.3, 0.0]])).tolist()
      [1]
    """
    batch, vocab_size = mass_BV.shape
    width = math.ceil(math.sqrt(vocab_size))
    count = -(-vocab_size // width)
    mass_BV = jnp.pad(mass_BV, ((0, 0), (0, count * width - vocab_size)))
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

    The largest logit of each row is 0. The steps are, in this order:

    1. Subtract the largest logit of the row, and divide by `temperature`. So a very low temperature
       gives the most probable token, and no overflow.
    2. Keep the `top_k` largest logits (Fan et al. 2018).
    3. Keep the smallest set of most probable tokens whose probabilities sum to at least `top_p`
       (Holtzman et al. 2020). The most probable token is always kept.

    Of equally probable tokens, the tokens with the lower ids are kept. So exactly `top_k` tokens
    are kept, and the set of step 3 is the smallest one.

    Args:
      logits_BV: unnormalised log-probabilities, float32; -inf for impossible tokens.
      temperature: a finite number above 0.
      top_k: number of tokens to keep, or None for all tokens.
      top_p: probability to keep, or None for all tokens.
    """
    logits_BV = (logits_BV - jnp.max(logits_BV, axis=-1, keepdims=True)) / temperature
    if top_k is not None and top_k < logits_BV.shape[-1]:
        # `top_k` returns the lower index first for equal numbers.
        logits_BV = _only(*jax.lax.top_k(logits_BV, top_k), logits_BV)
    if top_p is not None:
        order_BV = jnp.argsort(-logits_BV, axis=-1, stable=True)
        sorted_BV = jnp.take_along_axis(logits_BV, order_BV, axis=-1)
        prob_BV = jax.nn.softmax(sorted_BV)
        before_BV = jnp.cumsum(prob_BV, axis=-1) - prob_BV
        is_kept_BV = (before_BV < top_p - ROUNDING).at[:, 0].set(True)
        logits_BV = _only(jnp.where(is_kept_BV, sorted_BV, -jnp.inf), order_BV, logits_BV)
    return logits_BV


def draw_rows(
    logits_BV: jax.Array,
    uniform_2B: jax.Array,
    temperature_B: jax.Array,
    top_k_B: jax.Array,
    top_p_B: jax.Array,
) -> jax.Array:
    """Return one token for each row, int32 [B]: each row has its own settings.

    A row's token is that of `Sampler` with the settings of the row. The settings are arrays, so
    that one compiled program serves all settings.

    Args:
      logits_BV: unnormalised log-probabilities, float32; -inf for impossible tokens.
      uniform_2B: two random numbers from [0, 1) for each row.
      temperature_B: float32; 0 for the most probable token.
      top_k_B: number of tokens to keep, int32; V for all tokens.
      top_p_B: probability to keep, float32; infinity for all tokens.

    Example:
      >>> import jax.numpy as jnp
      >>> logits_BV, half_2B = jnp.asarray([[0.0, 3.0, 2.0]] * 2), jnp.full((2, 2), 0.99)
      >>> draw_rows(logits_BV, half_2B, jnp.array([0, 1]), jnp.array([3, 2]), jnp.full(2, jnp.inf))
      Array([1, 2], dtype=int32)
    """
    greedy_B = temperature_B < SMALLEST
    shifted_BV = logits_BV - jnp.max(logits_BV, axis=-1, keepdims=True)
    scaled_BV = shifted_BV / jnp.where(greedy_B, 1.0, temperature_B)[:, None]
    filters_B = (top_k_B < logits_BV.shape[-1]) | (top_p_B < jnp.inf)
    # Most requests filter nothing.
    kept_BV = jax.lax.cond(
        jnp.any(filters_B),
        lambda: jnp.where(
            filters_B[:, None] & ~_is_kept(scaled_BV, top_k_B, top_p_B), -jnp.inf, scaled_BV
        ),
        lambda: scaled_BV,
    )
    most_probable_B = jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    return jnp.where(greedy_B, most_probable_B, categorical(uniform_2B, kept_BV))


def _is_kept(logits_BV: jax.Array, top_k_B: jax.Array, top_p_B: jax.Array) -> jax.Array:
    """Return which tokens steps 2 and 3 of `filter_logits` keep, bool [B, V].

    A CPU sorts slowly: here bisection finds the logit of the last token that is kept. The largest
    logit of each row is 0.
    """
    # The bits of a float that is not negative are in the order of the floats. Likely tokens have
    # low keys.
    key_BV = jax.lax.bitcast_convert_type(jnp.abs(logits_BV), jnp.int32)

    def last(enough: Callable[[jax.Array], jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Return which keys are below the least key t with enough(key <= t), and which equal it."""

        def halve(step: jax.Array, least_B: jax.Array) -> jax.Array:
            half = jnp.left_shift(jnp.int32(1), 30 - step)
            is_below_B = ~enough(key_BV <= (least_B + (half - 1))[:, None])
            return least_B + jnp.where(is_below_B, half, 0)

        least_B = jax.lax.fori_loop(0, 31, halve, jnp.zeros(len(key_BV), jnp.int32))
        return key_BV < least_B[:, None], key_BV == least_B[:, None]

    below_BV, ties_BV = last(lambda chosen_BV: jnp.sum(chosen_BV, axis=-1) >= top_k_B)
    places_BV = jnp.sum(below_BV, axis=-1, keepdims=True) + jnp.cumsum(ties_BV, axis=-1)
    is_top_BV = below_BV | (ties_BV & (places_BV <= top_k_B[:, None]))
    prob_BV = jax.nn.softmax(jnp.where(is_top_BV, logits_BV, -jnp.inf))
    limit_B = top_p_B - ROUNDING
    below_BV, ties_BV = last(
        lambda chosen_BV: jnp.sum(jnp.where(chosen_BV, prob_BV, 0), axis=-1) >= limit_B
    )
    tied_BV = jnp.where(ties_BV, prob_BV, 0)
    before_BV = jnp.sum(jnp.where(below_BV, prob_BV, 0), axis=-1, keepdims=True)
    before_BV = before_BV + jnp.cumsum(tied_BV, axis=-1) - tied_BV
    is_nucleus_BV = below_BV | (ties_BV & (before_BV < limit_B[:, None]))
    is_first_BV = jnp.arange(key_BV.shape[-1]) == jnp.argmin(key_BV, axis=-1)[:, None]
    return is_top_BV & (is_nucleus_BV | is_first_BV)


def _only(values_BK: jax.Array, indices_BK: jax.Array, logits_BV: jax.Array) -> jax.Array:
    """Return an array like `logits_BV` with the values at their indices, and -inf elsewhere."""
    rows_B1 = jnp.arange(len(logits_BV))[:, None]
    return jnp.full_like(logits_BV, -jnp.inf).at[rows_B1, indices_BK].set(values_BK)


@dataclass(frozen=True)
class Sampler:
    """A function that chooses a token for each row: sampler(logits_BV, uniform_2B) -> int32 [B].

    At a temperature below SMALLEST, such as 0, the token is the most probable token. Otherwise it
    is a sample from the distribution that `filter_logits` returns. `uniform_2B` holds two random
    numbers from [0, 1) for each row. See `filter_logits` for the fields.
    """

    temperature: float
    top_k: int | None
    top_p: float | None

    def __call__(self, logits_BV: jax.Array, uniform_2B: jax.Array) -> jax.Array:
        if self.temperature < SMALLEST:
            return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
        filtered_BV = filter_logits(logits_BV, self.temperature, self.top_k, self.top_p)
        return categorical(uniform_2B, filtered_BV)

    def from_probabilities(self, p_BV: jax.Array, uniform_2B: jax.Array) -> jax.Array:
        """Return what `self(jnp.log(p_BV), uniform_2B)` returns, up to rounding, in less time."""
        if self.temperature < SMALLEST:
            return jnp.argmax(p_BV, axis=-1).astype(jnp.int32)
        if self.temperature == 1 and self.top_k is None and self.top_p is None:
            return in_proportion(uniform_2B, p_BV)
        return self(jnp.log(p_BV), uniform_2B)
