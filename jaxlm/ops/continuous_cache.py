"""A cache of hidden states: what followed the states most like the present one."""

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
    """log P_cache of each target for each flatness, float32 [J, T].

        P_cache(w | h_t) = Σ_i [w_{i+1} = w] exp(θ h_t·h_i) / Σ_i exp(θ h_t·h_i)

    with i over the W positions before t. memory_WF, words_W: the last W states before these T, and
    the word that followed each; `filled`: how many of them there really are, from the end. -inf for
    a word that followed none of them, and where there are none.

    Source: Grave, Joulin & Usunier, "Improving neural language models with a continuous cache",
    2017, section 3.
    """
    width, time = memory_WF.shape[0], hidden_TF.shape[0]
    keys = jnp.concatenate([memory_WF, hidden_TF]).astype(jnp.float32)
    words = jnp.concatenate([words_W, targets_T])
    alike_TI = hidden_TF.astype(jnp.float32) @ keys.T
    # Of the W + T positions, t sees the W before its own, W + t.
    places_T1, places_I = jnp.arange(time)[:, None], jnp.arange(width + time)
    seen_TI = (places_I >= places_T1) & (places_I < places_T1 + width)
    seen_TI &= places_I >= width - filled
    right_TI = seen_TI & (words == targets_T[:, None])

    def one(flatness: jax.Array) -> jax.Array:
        scaled_TI = flatness * alike_TI
        right_T = jax.nn.logsumexp(scaled_TI, axis=-1, where=right_TI)
        all_T = jax.nn.logsumexp(scaled_TI, axis=-1, where=seen_TI)
        return jnp.where(right_TI.any(-1), right_T - all_T, -jnp.inf)

    return jax.lax.map(one, flatness_J)
