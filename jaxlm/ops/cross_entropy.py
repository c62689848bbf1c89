"""The negative log-likelihood of a softmax, with the gradient written out: of logits, and of the
output layer and the softmax in one.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

# Tokens whose logits are there at a time, at least; and as many as there are features, since each
# chunk reads the output matrix again and adds to all of its gradient. Measured at 10,000 and 33,278
# words and 200 to 1024 features.
CHUNK = 320


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


def output_cross_entropy(
    hidden_NF: jax.Array,
    kernel_FV: jax.Array,
    bias_V: jax.Array,
    targets_N: jax.Array,
    weights_N: jax.Array,
    dtype: Any = jnp.float32,
) -> tuple[jax.Array, jax.Array]:
    """The output layer and `cross_entropy` in one: Σ_n weight_n · nll_n, and every nll_n.

        y = h U + b      nll = log Σ_v exp(y_v) - y_target
        dy = weight · (softmax(y) - onehot(target))      dh = dy Uᵀ      dU = hᵀ dy      db = Σ dy

    Tokens are taken `CHUNK` at a time, and a chunk's gradients are formed while its logits are at
    hand: three products in all, nothing computed twice, and memory that does not grow with the
    number of tokens. Only the sum can be differentiated; by hidden_NF, kernel_FV and bias_V.

    hidden_NF: any dtype; kernel_FV, bias_V: float32; dtype: of the products' operands. Returns
    float32 scalars and [N].
    """
    return _output_cross_entropy(dtype, hidden_NF, kernel_FV, bias_V, targets_N, weights_N)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _output_cross_entropy(
    dtype: Any,
    hidden_NF: jax.Array,
    kernel_FV: jax.Array,
    bias_V: jax.Array,
    targets_N: jax.Array,
    weights_N: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    kernel_FV = kernel_FV.astype(dtype)

    def body(_: Any, chunk: tuple[jax.Array, ...]) -> tuple[Any, jax.Array]:
        hidden_CF, targets_C, _ = chunk
        return None, _softmax(hidden_CF, kernel_FV, bias_V, targets_C)[0]

    chunks = _chunks(hidden_NF.astype(dtype), targets_N, weights_N)
    _, nll_KC = jax.lax.scan(body, None, chunks)
    nll_N = nll_KC.reshape(-1)[: len(targets_N)]
    return jnp.sum(nll_N * weights_N), nll_N


def _chunks(hidden_NF: jax.Array, *others: jax.Array) -> tuple[jax.Array, ...]:
    """The arrays in chunks of equal length, [K, C, ...], zeros at the end."""
    arrays = (hidden_NF, *others)
    count, features = hidden_NF.shape
    chunks = max(1, round(count / max(CHUNK, features)))
    length = -(-count // chunks)
    padding = chunks * length - count
    return tuple(
        jnp.pad(array, [(0, padding)] + [(0, 0)] * (array.ndim - 1)).reshape(
            chunks, length, *array.shape[1:]
        )
        for array in arrays
    )


def _softmax(
    hidden_CF: jax.Array, kernel_FV: jax.Array, bias_V: jax.Array, targets_C: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """nll [C], exp(y - max) [C, V] and its sum [C]."""
    y_CV = jnp.matmul(hidden_CF, kernel_FV, preferred_element_type=jnp.float32) + bias_V
    # The maximum cancels between the two terms; left in, it would cost large logits their digits.
    y_CV = y_CV - jnp.max(y_CV, axis=-1, keepdims=True)
    exp_CV = jnp.exp(y_CV)
    sum_C = jnp.sum(exp_CV, axis=-1)
    target_C = jnp.take_along_axis(y_CV, targets_C[:, None], axis=-1)[:, 0]
    return jnp.log(sum_C) - target_C, exp_CV, sum_C


def _output_forward(
    dtype: Any,
    hidden_NF: jax.Array,
    kernel_FV: jax.Array,
    bias_V: jax.Array,
    targets_N: jax.Array,
    weights_N: jax.Array,
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, ...]]:
    low_FV = kernel_FV.astype(dtype)

    def body(
        sums: tuple[jax.Array, jax.Array], chunk: tuple[jax.Array, ...]
    ) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
        dkernel_FV, dbias_V = sums
        hidden_CF, targets_C, weights_C = chunk
        nll_C, exp_CV, sum_C = _softmax(hidden_CF, low_FV, bias_V, targets_C)
        classes_CV = jax.lax.broadcasted_iota(targets_C.dtype, exp_CV.shape, 1)
        hit_CV = jnp.where(classes_CV == targets_C[:, None], weights_C[:, None], 0.0)
        dy_CV = exp_CV * (weights_C / sum_C)[:, None] - hit_CV
        low_CV = dy_CV.astype(dtype)
        dhidden_CF = jnp.matmul(low_CV, low_FV.T, preferred_element_type=jnp.float32)
        product_FV = jnp.matmul(hidden_CF.T, low_CV, preferred_element_type=jnp.float32)
        return (dkernel_FV + product_FV, dbias_V + dy_CV.sum(0)), (nll_C, dhidden_CF)

    zeros = jnp.zeros(kernel_FV.shape, jnp.float32), jnp.zeros(bias_V.shape, jnp.float32)
    chunks = _chunks(hidden_NF.astype(dtype), targets_N, weights_N)
    (dkernel_FV, dbias_V), (nll_KC, dhidden_KCF) = jax.lax.scan(body, zeros, chunks)
    count = len(targets_N)
    nll_N = nll_KC.reshape(-1)[:count]
    dhidden_NF = dhidden_KCF.reshape(-1, dhidden_KCF.shape[-1])[:count].astype(hidden_NF.dtype)
    return (jnp.sum(nll_N * weights_N), nll_N), (dhidden_NF, dkernel_FV, dbias_V)


def _output_backward(
    dtype: Any, saved: tuple[jax.Array, ...], grads: tuple[jax.Array, jax.Array]
) -> tuple[Any, ...]:
    scale, _ = grads
    return *(array * scale.astype(array.dtype) for array in saved), None, None


_output_cross_entropy.defvjp(_output_forward, _output_backward)
