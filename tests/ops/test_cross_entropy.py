"""The cross-entropy against float64 NumPy, at the vocabulary sizes where it matters.

jaxlib 0.10.2 on CPU can return a wrong last row from a fused reduction, at some sizes only
(jax-ml/jax#39103: 32,769 rows are enough in float32). So the tests use the sizes of real
vocabularies (PTB, the issue's, WikiText-2, GPT-2) and compare each row. They also compare the
reductions that training compiles around the loss.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops.cross_entropy import cross_entropy

VOCABULARIES = (10000, 32769, 33278, 50257)
BATCHES = ((1, 1), (1, 7), (3, 5), (2, 16))


def reference(logits_BTV, targets_BT, weights_BT):
    """Return log-sum-exp, loss, and the gradient of the weighted loss, in float64."""
    y_BTV = np.asarray(logits_BTV).astype(np.float64)
    largest_BT1 = y_BTV.max(-1, keepdims=True)
    exp_BTV = np.exp(y_BTV - largest_BT1)
    sum_BT1 = exp_BTV.sum(-1, keepdims=True)
    log_sum_BT = (np.log(sum_BT1) + largest_BT1)[..., 0]
    targets_BT1 = np.asarray(targets_BT)[..., None]
    target_BT = np.take_along_axis(y_BTV, targets_BT1, -1)[..., 0]
    grad_BTV = exp_BTV / sum_BT1
    ones_BT1 = np.take_along_axis(grad_BTV, targets_BT1, -1) - 1
    np.put_along_axis(grad_BTV, targets_BT1, ones_BT1, -1)
    return log_sum_BT, log_sum_BT - target_BT, grad_BTV * np.asarray(weights_BT)[..., None]


def example(batch, time, vocab_size, seed=0):
    """Return logits, targets and weights.

    Targets include the first and the last word. Weights include a 0, as padding has.
    """
    rng = np.random.default_rng(seed)
    logits_BTV = rng.normal(0, 3, (batch, time, vocab_size)).astype(np.float32)
    targets_BT = rng.integers(vocab_size, size=(batch, time)).astype(np.int32)
    targets_BT[0, 0], targets_BT[-1, -1] = 0, vocab_size - 1
    weights_BT = rng.uniform(0.5, 2, (batch, time)).astype(np.float32)
    if time > 1:
        weights_BT[0, 0] = 0
    return logits_BTV, targets_BT, weights_BT


@jax.jit
def loss_and_gradient(logits_BTV, targets_BT, weights_BT):
    nll_BT, back = jax.vjp(lambda y_BTV: cross_entropy(y_BTV, targets_BT), logits_BTV)
    return nll_BT, back(weights_BT)[0]


@pytest.mark.parametrize("vocab_size", VOCABULARIES)
@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_loss_and_gradient_equal_float64(batch, vocab_size):
    logits_BTV, targets_BT, weights_BT = example(*batch, vocab_size)
    log_sum_BT, nll_BT, grad_BTV = reference(logits_BTV, targets_BT, weights_BT)

    np.testing.assert_allclose(
        jax.jit(functools.partial(jax.nn.logsumexp, axis=-1))(logits_BTV), log_sum_BT, rtol=1e-6
    )
    np.testing.assert_allclose(
        jax.jit(cross_entropy)(logits_BTV, targets_BT), nll_BT, rtol=2e-6, atol=2e-6
    )
    nll, grad = loss_and_gradient(logits_BTV, targets_BT, weights_BT)
    assert nll.dtype == grad.dtype == jnp.float32
    np.testing.assert_allclose(nll, nll_BT, rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(grad, grad_BTV, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("vocab_size", VOCABULARIES)
def test_the_loss_fused_with_an_output_layer_equals_float64(vocab_size):
    """Compare what a train step compiles: product, bias, loss, and sums over rows."""
    batch, time, features = 2, 5, 3
    rng = np.random.default_rng(1)
    hidden_BTF = rng.normal(size=(batch, time, features)).astype(np.float32)
    kernel_FV = rng.normal(size=(features, vocab_size)).astype(np.float32)
    bias_V = rng.normal(size=vocab_size).astype(np.float32)
    _, targets_BT, weights_BT = example(batch, time, vocab_size)

    @jax.jit
    def step(hidden_BTF, kernel_FV, bias_V):
        def loss(hidden_BTF, kernel_FV, bias_V):
            nll_BT = cross_entropy(hidden_BTF @ kernel_FV + bias_V, targets_BT)
            return jnp.sum(nll_BT * weights_BT)

        value, gradients = jax.value_and_grad(loss, (0, 1, 2))(hidden_BTF, kernel_FV, bias_V)
        squares = [jnp.sum(gradient**2) for gradient in gradients]
        return value, gradients, jnp.sqrt(sum(squares))

    hidden, kernel = hidden_BTF.astype(np.float64), kernel_FV.astype(np.float64)
    _, nll_BT, grad_BTV = reference(hidden @ kernel + bias_V, targets_BT, weights_BT)
    oracle = (
        grad_BTV @ kernel.T,
        np.einsum("btf,btv->fv", hidden, grad_BTV),
        grad_BTV.sum((0, 1)),
    )
    with jax.default_matmul_precision("highest"):
        value, gradients, norm = step(hidden_BTF, kernel_FV, bias_V)
    np.testing.assert_allclose(value, np.sum(nll_BT * weights_BT), rtol=2e-6)
    for gradient, expected in zip(gradients, oracle, strict=True):
        np.testing.assert_allclose(gradient, expected, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(
        norm, np.sqrt(sum(np.sum(expected**2) for expected in oracle)), rtol=1e-5
    )


@pytest.mark.parametrize("rows", VOCABULARIES)
def test_many_rows_of_a_small_vocabulary_equal_float64(rows):
    """Test the issue's shape: many results, each reduced from a few numbers."""
    logits_BTV, targets_BT, weights_BT = example(1, rows, 3)
    _, nll_BT, grad_BTV = reference(logits_BTV, targets_BT, weights_BT)
    nll, grad = loss_and_gradient(logits_BTV, targets_BT, weights_BT)
    np.testing.assert_allclose(nll, nll_BT, rtol=2e-6, atol=2e-6)
    # If a probability is close to 1, softmax - 1 has only the absolute accuracy of the softmax.
    np.testing.assert_allclose(grad, grad_BTV, rtol=1e-5, atol=4e-6)


@pytest.mark.parametrize(
    ("logits_V", "nll_V"),
    [
        ([1e4, -1e4, 0.0], [0.0, 2e4, 1e4]),
        ([-1e4, -1e4, -1e4], [np.log(3)] * 3),
        ([1e4, 1e4, -1e4], [np.log(2), np.log(2), 2e4 + np.log(2)]),
    ],
)
def test_extreme_logits_stay_finite(logits_V, nll_V):
    logits_BTV = np.tile(np.array(logits_V, np.float32), (1, 3, 1))
    targets_BT, weights_BT = np.arange(3, dtype=np.int32)[None], np.ones((1, 3), np.float32)
    nll_BT, grad_BTV = loss_and_gradient(logits_BTV, targets_BT, weights_BT)
    # At 1e4 float32 has steps of 0.001, and log 2 is added to that.
    np.testing.assert_allclose(nll_BT[0], nll_V, rtol=0, atol=2e-3)
    _, _, expected_BTV = reference(logits_BTV, targets_BT, weights_BT)
    np.testing.assert_allclose(grad_BTV, expected_BTV, rtol=0, atol=1e-3)


@pytest.mark.parametrize("vocab_size", [7, 10000])
def test_bfloat16_logits_give_a_float32_loss(vocab_size):
    logits_BTV, targets_BT, weights_BT = example(2, 3, vocab_size)
    logits_BTV = jnp.asarray(logits_BTV, jnp.bfloat16)
    _, nll_BT, grad_BTV = reference(logits_BTV.astype(jnp.float32), targets_BT, weights_BT)
    nll, grad = loss_and_gradient(logits_BTV, targets_BT, weights_BT)
    # The loss is computed from these logits without further rounding to bfloat16.
    assert nll.dtype == jnp.float32
    np.testing.assert_allclose(nll, nll_BT, rtol=2e-6, atol=2e-6)
    assert grad.dtype == jnp.bfloat16
    np.testing.assert_allclose(grad.astype(jnp.float32), grad_BTV, rtol=2**-8, atol=1e-9)
