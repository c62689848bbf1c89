"""The negative log-likelihood of a softmax, with the gradient written out."""

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
    log_sum_BT = jax.nn.logsumexp(logits_BTV.astype(jnp.float32), axis=-1)
    target_BT = jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1)[..., 0].astype(
        jnp.float32
    )
    return log_sum_BT - target_BT, (logits_BTV, targets_BT, log_sum_BT)


def _backward(saved: tuple[jax.Array, ...], grad_BT: jax.Array) -> tuple[jax.Array, None]:
    logits_BTV, targets_BT, log_sum_BT = saved
    classes_V = jax.lax.broadcasted_iota(targets_BT.dtype, logits_BTV.shape, logits_BTV.ndim - 1)
    softmax_BTV = jnp.exp(logits_BTV.astype(jnp.float32) - log_sum_BT[..., None])
    grad_BTV = (softmax_BTV - (classes_V == targets_BT[..., None])) * grad_BT[..., None]
    return grad_BTV.astype(logits_BTV.dtype), None


cross_entropy.defvjp(_forward, _backward)
