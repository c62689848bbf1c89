"""A continuous cache: the words that followed hidden states similar to the current one."""

import jax
import jax.numpy as jnp


def cache_log_probs(
    hidden_TF: jax.Array,
    targets_T: jax.Array,
    memory_WF: jax.Array,
    words_W: jax.Array,
    filled: jax.Array,
    flatness_J: jax.Array,
) -> jax.Array:
    """Return log P_cache of each target, for each flatness θ.

        P_cache(w | h_t) = Σ_i [w_{i+1} = w] exp(θ h_t·h_i) / Σ_i exp(θ h_t·h_i)

    Both sums run over the W positions i before t. The word w_{i+1} followed the hidden state h_i.
    In the names of arrays, I is the W + T positions, and J the values of θ.

    Source: Grave, Joulin & Usunier, "Improving neural language models with a continuous cache",
    2017, section 3.

    Args:
      hidden_TF: hidden states of T consecutive positions.
      targets_T: the word that followed each of these positions, integers.
      memory_WF: hidden states of the W positions before them.
      words_W: the word that followed each position of the memory, integers.
      filled: number of valid positions in the memory, a scalar. The last positions are valid.
      flatness_J: values of the flatness θ, float32. A larger θ gives more weight to similar states.
    Returns:
      float32 [J, T]. The value is -inf where the target followed none of the W positions, and where
      no position before t is valid.
    """
    width, time = memory_WF.shape[0], hidden_TF.shape[0]
    keys_IF = jnp.concatenate([memory_WF, hidden_TF]).astype(jnp.float32)
    words_I = jnp.concatenate([words_W, targets_T])
    similarity_TI = hidden_TF.astype(jnp.float32) @ keys_IF.T
    # Position t has index W + t among the W + T positions, and sees the W positions before it.
    first_T1, index_I = jnp.arange(time)[:, None], jnp.arange(width + time)
    visible_TI = (index_I >= first_T1) & (index_I < first_T1 + width)
    visible_TI &= index_I >= width - filled
    matches_TI = visible_TI & (words_I == targets_T[:, None])

    def log_probs(flatness: jax.Array) -> jax.Array:
        scores_TI = flatness * similarity_TI
        matching_T = jax.nn.logsumexp(scores_TI, axis=-1, where=matches_TI)
        total_T = jax.nn.logsumexp(scores_TI, axis=-1, where=visible_TI)
        return jnp.where(matches_TI.any(-1), matching_T - total_T, -jnp.inf)

    return jax.lax.map(log_probs, flatness_J)
