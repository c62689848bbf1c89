"""The functions that are compiled for the service. In array names, S is the tokens of a slice."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxlm.models.base import Carry, Params
from jaxlm.models.neural import NeuralModel
from jaxlm.ops.sampling import draw_rows, uniforms


def read(
    params: Params,
    tokens_BT: jax.Array,
    length_B: jax.Array,
    carry: Carry,
    model: NeuralModel,
) -> tuple[jax.Array, jax.Array, Carry]:
    """Return the logits and the log-probabilities after each row, float32 [B, V], and the carry.

    Args:
      params: the parameters.
      tokens_BT: the tokens, padded at the end.
      length_B: number of tokens of each row, int32, at least 1.
      carry: the carry before the tokens.
      model: the model.
    """
    variables = {"params": params}

    def read_row(tokens_T: jax.Array, length: jax.Array, carry: Carry) -> tuple[jax.Array, Carry]:
        # A model takes one length for all its rows. So it gets one row here, and `vmap` makes the
        # products of all rows one product.
        one = jax.tree.map(lambda leaf: leaf[None], (tokens_T, carry))
        hidden_1TF, after = model.apply(variables, *one, length=length)
        hidden_11F = jax.lax.dynamic_slice_in_dim(hidden_1TF, length - 1, 1, axis=1)
        logits_11V: Any = model.apply(variables, hidden_11F, method="logits")
        return logits_11V[0, 0].astype(jnp.float32), jax.tree.map(lambda leaf: leaf[0], after)

    logits_BV, carry = jax.vmap(read_row)(tokens_BT, length_B, carry)
    return logits_BV, jax.nn.log_softmax(logits_BV), carry


def write(
    params: Params,
    logits_BV: jax.Array,
    carry: Carry,
    uniforms_S2B: jax.Array,
    temperature_B: jax.Array,
    top_k_B: jax.Array,
    top_p_B: jax.Array,
    model: NeuralModel,
) -> tuple[jax.Array, jax.Array, Carry]:
    """Return S drawn tokens of each row, int32 [B, S], the logits after them, and the carry.

    Args:
      params: the parameters.
      logits_BV: the logits of the first token that is drawn.
      carry: the carry of B rows.
      uniforms_S2B: two random numbers from [0, 1) for each draw.
      temperature_B, top_k_B, top_p_B: the settings of each row; see `draw_rows`.
      model: the model.
    """
    variables = {"params": params}

    def step(
        state: tuple[jax.Array, Carry], uniform_2B: jax.Array
    ) -> tuple[tuple[jax.Array, Carry], jax.Array]:
        logits_BV, carry = state
        token_B = draw_rows(logits_BV, uniform_2B, temperature_B, top_k_B, top_p_B)
        hidden_B1F, carry = model.apply(variables, token_B[:, None], carry, positions="last")
        logits_B1V: Any = model.apply(variables, hidden_B1F, method="logits")
        return (logits_B1V[:, -1].astype(jnp.float32), carry), token_B

    (logits_BV, carry), tokens_SB = jax.lax.scan(step, (logits_BV, carry), uniforms_S2B)
    return tokens_SB.T, logits_BV, carry


def numbers(seed: jax.Array, length: int, samples: int) -> jax.Array:
    """Return the random numbers of a seed, [length, 2, samples]."""
    return uniforms(jax.random.key(seed), length, samples)


PROGRAMS: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    "read": (read, (4,)),
    "write": (write, (7,)),
    "draw": (draw_rows, ()),
    "numbers": (numbers, (1, 2)),
}
"""The functions by name, and which of their arguments are static."""
