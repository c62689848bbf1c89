"""Functions for models that read a fixed window of words."""

import jax
import jax.numpy as jnp


def prepend_context(
    tokens_BT: jax.Array, carry_BN: jax.Array, length: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Return the carry's tokens followed by `tokens_BT`, [B, N + T], and the new carry [B, N].

    The carry holds the last N tokens that were read. `length` is the number of tokens of
    `tokens_BT` that are read; None means all T. In the names of arrays, S is N + T. Both arrays may
    have further axes, such as the features of keys in a Transformer.

    Example:
      >>> import jax.numpy as jnp
      >>> tokens_BT, carry_BN = jnp.asarray([[3, 4, 5]]), jnp.asarray([[1, 2]])
      >>> tokens_BS, carry_BN = prepend_context(tokens_BT, carry_BN, None)
      >>> tokens_BS.tolist(), carry_BN.tolist()
      ([[1, 2, 3, 4, 5]], [[4, 5]])
    """
    tokens_BS = jnp.concatenate([carry_BN, tokens_BT.astype(carry_BN.dtype)], axis=1)
    read = tokens_BT.shape[1] if length is None else length
    return tokens_BS, jax.lax.dynamic_slice_in_dim(tokens_BS, read, carry_BN.shape[1], axis=1)


def sliding_windows(words_BSD: jax.Array, n_step: int) -> jax.Array:
    """Return the concatenated features of each window of n_step consecutive words.

    The result has the shape [B, S - n_step + 1, n_step · D].
    """
    positions = words_BSD.shape[1] - n_step + 1
    if positions == 1:
        # The gradient of a reshape is a reshape. The gradient of the concatenation below is a sum
        # of n_step padded arrays, which took 50 of 325 ms of a train step (13 words of 256
        # features, 1024 rows, bfloat16 on two cores).
        return words_BSD.reshape(words_BSD.shape[0], 1, -1)
    # The next layer multiplies whole windows in one product. One product for each of the n_step
    # words would need no copy of the features, but takes 1.4 times as long (13 words, 256 -> 1024;
    # forward and backward, on a CPU).
    return jnp.concatenate([words_BSD[:, n : n + positions] for n in range(n_step)], axis=-1)
