"""What the models over a window of words share: the words before, and windows side by side."""

import jax
import jax.numpy as jnp


def with_context(
    tokens_BT: jax.Array, carry_BN: jax.Array, length: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """The tokens with those of the carry before them, [B, N + T], and the carry after them: the
    last N that were read, where `length` (none: all T) of the tokens are.
    """
    seen_BS = jnp.concatenate([carry_BN, tokens_BT.astype(carry_BN.dtype)], axis=1)
    read = tokens_BT.shape[1] if length is None else length
    return seen_BS, jax.lax.dynamic_slice_in_dim(seen_BS, read, carry_BN.shape[1], axis=1)


def side_by_side(words_BSD: jax.Array, n_step: int) -> jax.Array:
    """The features of every n_step words in a row, [B, S - n_step + 1, n_step · D]."""
    positions = words_BSD.shape[1] - n_step + 1
    # One product of whole windows: a product for each of their places, which spares this copy,
    # takes 1.4 times as long (13 words, 256 -> 1024; forward and backward, on a CPU).
    return jnp.concatenate([words_BSD[:, n : n + positions] for n in range(n_step)], axis=-1)
