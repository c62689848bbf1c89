"""Generate tokens in one compiled program: the loop that all models share."""

import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.models.base import Carry, Draw, Params
from jaxlm.ops.machine import jit_with, task_options
from jaxlm.ops.sampling import uniforms


class Generator(Protocol):
    """A model that `generate_tokens` can compile: hashable, and a pure function of arrays."""

    @property
    def compute_dtype(self) -> str:
        """The dtype of products."""

    def last_logits(
        self, params: Params, tokens_BT: jax.Array, length: jax.Array | None, carry: Carry
    ) -> tuple[Any, Carry]:
        """Return what `draw_token` draws from, and the carry.

        For a neural model these are the logits after the last token that is read, float32 [B, V].

        Args:
          params: the parameters.
          tokens_BT: the tokens, int32.
          length: number of tokens that are read, int32; None for all.
          carry: the carry before them.
        """

    def draw_token(
        self, params: Params, logits_BV: Any, uniform_2B: jax.Array, draw: Draw
    ) -> jax.Array:
        """Return a drawn token for each row, int32 [B].

        Args:
          params: the parameters.
          logits_BV: the first result of `last_logits`.
          uniform_2B: two random numbers from [0, 1) for each row.
          draw: the function that draws.
        """


def generate_tokens(
    model: Generator,
    params: Params,
    prompt_BT: Any,
    key: jax.Array,
    draw: Draw,
    length: int,
    carry: Carry,
) -> jax.Array:
    """Return `length` tokens that continue each prompt, int32 [B, length].

    A program is compiled for each bucket of lengths.

    Args:
      model: the model.
      params, prompt_BT, key, draw, length, carry: the arguments of
        `jaxlm.models.base.LanguageModel.generate`.
    """
    compiled = _compiled_generate(model.compute_dtype)
    size = np.int32(length), bucket(length)
    return compiled(params, *padded(prompt_BT), carry, key, model, draw, *size)[:, :length]


def bucket(length: int) -> int:
    """Return the smallest of 8, 16, 32, ... that is at least `length`.

    A program is compiled for each bucket, not for each length.

    Example:
      >>> bucket(3), bucket(17)
      (8, 32)
    """
    return max(8, 1 << (length - 1).bit_length())


def padded(tokens_BT: Any) -> tuple[Any, Any]:
    """Return the tokens, padded to T = `bucket(T)`, and their number, int32.

    A single token, as in a loop over tokens, stays as it is; its number is None. The same is true
    of traced tokens, whose program is compiled by the caller.
    """
    time = tokens_BT.shape[1]
    if time <= 1 or isinstance(tokens_BT, jax.core.Tracer):
        return tokens_BT, None
    tokens_BT = np.asarray(tokens_BT, np.int32)
    return np.pad(tokens_BT, ((0, 0), (0, bucket(time) - time))), np.int32(time)


def generate_loop(
    params: Params,
    prompt_BT: jax.Array,
    prompt_length: jax.Array | None,
    carry: Carry,
    key: jax.Array,
    model: Generator,
    draw: Draw,
    length: jax.Array,
    capacity: int,
) -> jax.Array:
    """Return the generated tokens, int32 [B, capacity]; the tokens after `length` are 0.

    The prompt is read in one pass. Then each iteration of a loop draws one token.

    Args:
      params: the parameters.
      prompt_BT: the tokens to continue, padded.
      prompt_length: number of tokens of the prompt, int32; None for all.
      carry: the carry before the prompt; None for the initial carry.
      key: key of all random draws, or keys [B], one for each row.
      model: the model.
      draw: draws one token for each row from logits and random numbers.
      length: number of tokens to generate, int32.
      capacity: largest number of tokens that the compiled program generates.
    """
    batch = len(prompt_BT)
    # The first `length` random numbers do not depend on the capacity.
    uniforms_T2B = uniforms(key, capacity, batch)

    def step(index: jax.Array, state: tuple[Any, Carry, jax.Array]) -> tuple[Any, Carry, jax.Array]:
        logits_BV, carry, tokens_TB = state
        token_B = model.draw_token(params, logits_BV, uniforms_T2B[index], draw)
        logits_BV, carry = model.last_logits(params, token_B[:, None], None, carry)
        return logits_BV, carry, tokens_TB.at[index].set(token_B)

    start = model.last_logits(params, prompt_BT, prompt_length, carry)
    tokens_TB = jnp.zeros((capacity, batch), jnp.int32)
    generated_TB: jax.Array = jax.lax.fori_loop(0, length, step, (*start, tokens_TB))[2]
    return generated_TB.T


@functools.cache
def _compiled_generate(dtype: str) -> Callable[..., jax.Array]:
    options = functools.partial(task_options, "generation", dtype)
    return jit_with(options, generate_loop, static_argnames=("model", "draw", "capacity"))
