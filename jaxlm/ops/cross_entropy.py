"""The cross-entropy of logits and targets, with a hand-written gradient."""

import jax
import jax.numpy as jnp


@jax.custom_vjp
def cross_entropy(logits_BTV: jax.Array, targets_BT: jax.Array) -> jax.Array:
    """Return the negative log-likelihood of each target in nats, float32 [B, T].

        nll = log Σ_v exp(y_v) - y_target          ∂nll/∂y = softmax(y) - onehot(target)

    The logits may have any float dtype; exponentials and sums are float32. The gradient compares
    the index of each word with the target. Automatic differentiation of the lookup would scatter
    into an array of zeros. XLA can fuse the comparison into the softmax, but not a scatter.

    Example:
      >>> import jax.numpy as jnp
      >>> logits_BTV = jnp.log(jnp.asarray([[[0.25, 0.75]]]))
      >>> jnp.exp(-cross_entropy(logits_BTV, jnp.asarray([[1]]))).round(4).tolist()
      [[0.75]]
    """
    return _forward(logits_BTV, targets_BT)[0]


def _forward(
    logits_BTV: jax.Array, targets_BT: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    max_BT = jnp.max(logits_BTV, axis=-1).astype(jnp.float32)
    shifted_BTV = _shifted(logits_BTV, max_BT)
    # The maximum is subtracted in both terms, so it cancels. If it stayed in both, large logits
    # would lose digits in the difference.
    log_sum_BT = jnp.log(jnp.sum(jnp.exp(shifted_BTV), axis=-1))
    target_BT = jnp.take_along_axis(shifted_BTV, targets_BT[..., None], axis=-1)[..., 0]
    return log_sum_BT - target_BT, (logits_BTV, targets_BT, max_BT, log_sum_BT)


def _backward(saved: tuple[jax.Array, ...], grad_BT: jax.Array) -> tuple[jax.Array, None]:
    logits_BTV, targets_BT, max_BT, log_sum_BT = saved
    index_BTV = jax.lax.broadcasted_iota(targets_BT.dtype, logits_BTV.shape, logits_BTV.ndim - 1)
    softmax_BTV = jnp.exp(_shifted(logits_BTV, max_BT) - log_sum_BT[..., None])
    grad_BTV = (softmax_BTV - (index_BTV == targets_BT[..., None])) * grad_BT[..., None]
    return grad_BTV.astype(logits_BTV.dtype), None


def _shifted(logits_BTV: jax.Array, max_BT: jax.Array) -> jax.Array:
    """Return the logits minus their maximum, float32."""
    return logits_BTV.astype(jnp.float32) - max_BT[..., None]


cross_entropy.defvjp(_forward, _backward)
