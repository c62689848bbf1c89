"""The sampled softmax: a training loss over a random sample of the vocabulary."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.ops.lookup import look_up


def sampled_cross_entropy(
    key: jax.Array,
    hidden_NF: jax.Array,
    kernel_FV: jax.Array,
    bias_V: jax.Array,
    targets_N: jax.Array,
    words: int,
    dtype: Any = jnp.float32,
) -> jax.Array:
    """Return an estimate of each target's negative log-likelihood, float32 [N].

    The estimate uses S words, drawn with replacement from the proposal distribution Q. All tokens
    share the same sample.

        nll ≈ log(exp(y_t) + Σ_{s ≠ t} exp(y_s) / (S Q(s))) - y_t            t: target
        Q(v) = log((v + 2) / (v + 1)) / log(V + 1)                           v = 0 ... V - 1

    The sum is an unbiased estimate of the sum over all words except the target. Its logarithm is
    biased low, and tends to the exact logarithm as S grows. If ids are sorted by frequency, most
    frequent first, Q is close to Zipf's law. Only the sampled words and the targets get a gradient.

    Source: Bengio & Senécal, "Adaptive importance sampling to accelerate training of a neural
    probabilistic language model", 2008; Jean, Cho, Memisevic & Bengio, "On using very large target
    vocabulary for neural machine translation", 2015, section 3.

    Args:
      key: random key of the sample.
      hidden_NF: features of N tokens, any float dtype.
      kernel_FV: output matrix, float32.
      bias_V: output bias, float32.
      targets_N: id of the word that each token has to predict, integers.
      words: sample size S.
      dtype: dtype of the operands of the products.
    Returns:
      The estimate in nats, float32 [N].
    """
    vocab_size = bias_V.shape[0]
    uniform_S = jax.random.uniform(key, (words,))
    # Inverse transform sampling: the cumulative sum of Q up to v is log(v + 2) / log(V + 1).
    drawn_S = jnp.exp(uniform_S * np.log(vocab_size + 1.0)).astype(jnp.int32) - 1
    drawn_S = jnp.clip(drawn_S, 0, vocab_size - 1)
    log_q_S = jnp.log(jnp.log1p(1 / (drawn_S + 1.0)) / np.log(vocab_size + 1.0))
    # Rows of the transposed matrix. They are contiguous in memory if weights are tied, because the
    # matrix is then the transposed embedding.
    kernel_VF = kernel_FV.T
    hidden_NF, sampled_SF, target_NF = (
        array.astype(dtype)
        for array in (hidden_NF, look_up(kernel_VF, drawn_S), look_up(kernel_VF, targets_N))
    )
    y_NS = jnp.matmul(hidden_NF, sampled_SF.T, preferred_element_type=jnp.float32)
    y_NS = y_NS + (look_up(bias_V, drawn_S) - log_q_S - np.log(words))
    y_NS = jnp.where(drawn_S == targets_N[:, None], -jnp.inf, y_NS)
    target_y_N = jnp.einsum("nf,nf->n", hidden_NF, target_NF, preferred_element_type=jnp.float32)
    target_y_N = target_y_N + look_up(bias_V, targets_N)
    return jax.nn.logsumexp(jnp.hstack([target_y_N[:, None], y_NS]), axis=-1) - target_y_N
