"""The negative log-likelihood of a softmax of logits, with the gradient written out."""

import jax
import jax.numpy as jnp


@jax.custom_vjp
def cross_entropy(logits_BTV: jax.Array, targets_BT: jax.Array) -> jax.Array:
    """Negative log-likelihood of each target, in nats: float32 [B, T] whatever the dtype of the
    logits.

        nll = log Σ_v exp(y_v) - y_target          ∂nll/∂y = softmax(y) - onehot(target)

    The gradient compares an iota with the target rather than scattering into a zero array, as
    automatic differentiation of the lookup would: XLA fuses the comparison into the softmax, and a
    scatter it cannot.
    """
    return _forward(logits_BTV, targets_BT)[0]


def _forward(
    logits_BTV: jax.Array, targets_BT: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    max_BT = jnp.max(logits_BTV, axis=-1).astype(jnp.float32)
    shifted_BTV = _shifted(logits_BTV, max_BT)
    # The maximum cancels between the two terms; left in, it would cost large logits their digits.
    log_sum_BT = jnp.log(jnp.sum(jnp.exp(shifted_BTV), axis=-1))
    target_BT = jnp.take_along_axis(shifted_BTV, targets_BT[..., None], axis=-1)[..., 0]
    return log_sum_BT - target_BT, (logits_BTV, targets_BT, max_BT, log_sum_BT)


def _backward(saved: tuple[jax.Array, ...], grad_BT: jax.Array) -> tuple[jax.Array, None]:
    logits_BTV, targets_BT, max_BT, log_sum_BT = saved
    classes_V = jax.lax.broadcasted_iota(targets_BT.dtype, logits_BTV.shape, logits_BTV.ndim - 1)
    softmax_BTV = jnp.exp(_shifted(logits_BTV, max_BT) - log_sum_BT[..., None])
    grad_BTV = (softmax_BTV - (classes_V == targets_BT[..., None])) * grad_BT[..., None]
    return grad_BTV.astype(logits_BTV.dtype), None


def _shifted(logits_BTV: jax.Array, max_BT: jax.Array) -> jax.Array:
    return logits_BTV.astype(jnp.float32) - max_BT[..., None]


cross_entropy.defvjp(_forward, _backward)
