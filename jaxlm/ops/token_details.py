"""The log-probability and the rank of a token, and the entropy of the distribution, from logits."""

import jax
import jax.numpy as jnp

from jaxlm.ops.machine import constants


def token_details(
    logits_BTV: jax.Array, targets_BT: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the log-probability and the rank of each target, and the entropies.

        log p_t     = l_t - log Z        Z = sum_v exp(l_v)
        rank_t      = 1 + the number of v with l_v > l_t
        entropy     = log Z - sum_v exp(l_v) l_v / Z

    All sums are over a slice of the vocabulary at a time, which stays in a CPU's cache.

    Example:
      >>> logits_BTV = jnp.log(jnp.asarray([[[0.5, 0.25, 0.25]]]))
      >>> log_prob_BT, rank_BT, entropy_BT = token_details(logits_BTV, jnp.asarray([[1]]))
      >>> round(float(jnp.exp(log_prob_BT[0, 0])), 4), int(rank_BT[0, 0])
      (0.25, 2)
      >>> round(float(entropy_BT[0, 0] / jnp.log(2)), 4)
      1.5

    Args:
      logits_BTV: logits, or log-probabilities; float32.
      targets_BT: token ids, integers.
    Returns:
      log_prob_BT in nats, float32; rank_BT, int32, 1 for the likeliest token; entropy_BT in nats.
    """
    target_BT1 = jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1)
    highest_BT1 = jnp.max(logits_BTV, axis=-1, keepdims=True)
    total_BT = jnp.zeros(targets_BT.shape, jnp.float32)
    weighted_BT, above_BT = total_BT, jnp.zeros(targets_BT.shape, jnp.int32)
    size = constants().words_without_gradient
    for start in range(0, logits_BTV.shape[-1], size):
        slice_BTW = logits_BTV[..., start : start + size]
        shifted_BTW = slice_BTW - highest_BT1
        exp_BTW = jnp.exp(shifted_BTW)
        total_BT += jnp.sum(exp_BTW, axis=-1)
        # A token without probability, whose logit is -inf, adds nothing.
        finite_BTW = jnp.where(exp_BTW == 0, 0, shifted_BTW)
        weighted_BT += jnp.sum(exp_BTW * finite_BTW, axis=-1)
        above_BT += jnp.sum(slice_BTW > target_BT1, axis=-1, dtype=jnp.int32)
    log_total_BT = jnp.log(total_BT)
    log_prob_BT = (target_BT1 - highest_BT1)[..., 0] - log_total_BT
    return log_prob_BT, 1 + above_BT, log_total_BT - weighted_BT / total_BT
