"""A softmax over a sample of the vocabulary, for training alone."""

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
    """An estimate of each target's negative log-likelihood, float32 [N], from `words` words drawn
    with replacement, the same for all tokens, from the proposal Q.

        nll ≈ log(exp(y_t) + Σ_{s ≠ t} exp(y_s) / (S Q(s))) - y_t            S = `words`
        Q(v) = log((v + 2) / (v + 1)) / log(V + 1)                           v = 0 ... V - 1

    The sum is an unbiased estimate of that over all words but the target; its logarithm is biased
    low, and tends to the exact one as S grows. Ids by frequency make Q about Zipf's law. The
    gradient reaches the sampled words and the targets alone.

    Source: Bengio & Senécal, "Adaptive importance sampling to accelerate training of a neural
    probabilistic language model", 2008; Jean, Cho, Memisevic & Bengio, "On using very large target
    vocabulary for neural machine translation", 2015, section 3.
    """
    vocab_size = bias_V.shape[0]
    uniform_S = jax.random.uniform(key, (words,))
    # Inversion of Q, whose sum up to v is log(v + 2) / log(V + 1).
    drawn_S = jnp.exp(uniform_S * np.log(vocab_size + 1.0)).astype(jnp.int32) - 1
    drawn_S = jnp.clip(drawn_S, 0, vocab_size - 1)
    log_q_S = jnp.log(jnp.log1p(1 / (drawn_S + 1.0)) / np.log(vocab_size + 1.0))
    # Rows of the turned matrix: side by side in memory where the embedding is the matrix (tied).
    kernel_VF = kernel_FV.T
    hidden_NF, sampled_SF, own_NF = (
        array.astype(dtype)
        for array in (hidden_NF, look_up(kernel_VF, drawn_S), look_up(kernel_VF, targets_N))
    )
    y_NS = jnp.matmul(hidden_NF, sampled_SF.T, preferred_element_type=jnp.float32)
    y_NS = y_NS + (look_up(bias_V, drawn_S) - log_q_S - np.log(words))
    y_NS = jnp.where(drawn_S == targets_N[:, None], -jnp.inf, y_NS)
    y_N = jnp.einsum("nf,nf->n", hidden_NF, own_NF, preferred_element_type=jnp.float32)
    y_N = y_N + look_up(bias_V, targets_N)
    return jax.nn.logsumexp(jnp.hstack([y_N[:, None], y_NS]), axis=-1) - y_N
