"""The sampled softmax against the full softmax."""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose

from jaxlm.ops.output_layer import output_cross_entropy
from jaxlm.ops.sampled_softmax import sampled_cross_entropy

TOKENS, FEATURES, VOCABULARY = 6, 4, 50


def example():
    rng = np.random.default_rng(0)
    arrays = (
        rng.normal(0, 1, (TOKENS, FEATURES)),
        rng.normal(0, 1, (FEATURES, VOCABULARY)),
        rng.normal(0, 1, VOCABULARY),
    )
    targets_N = jnp.asarray([0, 1, 7, 20, 48, 49], jnp.int32)
    return *(jnp.asarray(array, jnp.float32) for array in arrays), targets_N


def test_a_large_sample_approximates_the_full_softmax_and_its_gradients():
    *parameters, targets_N = example()
    key = jax.random.key(0)

    def sampled(*parameters):
        return sampled_cross_entropy(key, *parameters, targets_N, 200_000).sum()

    def full(*parameters):
        return output_cross_entropy(*parameters, targets_N, jnp.ones(TOKENS))[0]

    found, expected = (
        jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(*parameters) for loss in (sampled, full)
    )
    assert_allclose(found[0], expected[0], rtol=5e-3)
    for gradient, expected_gradient in zip(found[1], expected[1], strict=True):
        assert_allclose(gradient, expected_gradient, atol=0.03)


def test_the_sum_over_the_other_words_is_unbiased():
    hidden_NF, kernel_FV, bias_V, targets_N = example()

    @jax.jit
    @jax.vmap
    def sums(key):
        nll_N = sampled_cross_entropy(key, hidden_NF, kernel_FV, bias_V, targets_N, 8)
        y_NV = hidden_NF @ kernel_FV + bias_V
        target_N = jnp.take_along_axis(y_NV, targets_N[:, None], 1)[:, 0]
        # exp(nll) = (exp(y_t) + sum) / exp(y_t)
        return (jnp.exp(nll_N) - 1) * jnp.exp(target_N)

    found_KN = np.asarray(sums(jax.random.split(jax.random.key(1), 20_000)), np.float64)
    y_NV = np.asarray(hidden_NF @ kernel_FV + bias_V, np.float64)
    exp_NV = np.exp(y_NV)
    exp_NV[np.arange(TOKENS), np.asarray(targets_N)] = 0
    error_N = found_KN.std(0) / len(found_KN) ** 0.5
    assert (np.abs(found_KN.mean(0) - exp_NV.sum(1)) < 5 * error_N).all()


def test_only_sampled_words_and_targets_have_a_gradient():
    hidden_NF, kernel_FV, bias_V, targets_N = example()

    def loss(bias_V):
        key = jax.random.key(3)
        return sampled_cross_entropy(key, hidden_NF, kernel_FV, bias_V, targets_N, 3).sum()

    touched_V = np.asarray(jax.grad(loss)(bias_V)) != 0
    assert touched_V[np.asarray(targets_N)].all()
    assert touched_V.sum() <= TOKENS + 3
