"""The output layer with its cross-entropy against float64 NumPy.

The tests compare the sum, each nll and the three gradients: in one chunk and in several, with
padding, and at the sizes of real vocabularies.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxlm.ops import output_layer
from jaxlm.ops.cpus import Constants
from jaxlm.ops.output_layer import output_cross_entropy


def example(tokens, features, vocab_size):
    rng = np.random.default_rng(tokens)
    hidden_NF = rng.normal(0, 1, (tokens, features)).astype(np.float32)
    kernel_FV = rng.normal(0, 1, (features, vocab_size)).astype(np.float32)
    bias_V = rng.normal(0, 1, vocab_size).astype(np.float32)
    targets_N = rng.integers(vocab_size, size=tokens).astype(np.int32)
    targets_N[0], targets_N[-1] = 0, vocab_size - 1
    weights_N = rng.uniform(0, 2, tokens).astype(np.float32)
    weights_N[tokens // 2] = 0
    return hidden_NF, kernel_FV, bias_V, targets_N, weights_N


def reference(hidden_NF, kernel_FV, bias_V, targets_N, weights_N):
    hidden_NF, kernel_FV, bias_V, weights_N = (
        array.astype(np.float64) for array in (hidden_NF, kernel_FV, bias_V, weights_N)
    )
    y_NV = hidden_NF @ kernel_FV + bias_V
    y_NV -= y_NV.max(1, keepdims=True)
    softmax_NV = np.exp(y_NV) / np.exp(y_NV).sum(1, keepdims=True)
    rows = np.arange(len(targets_N))
    nll_N = -np.log(softmax_NV[rows, targets_N])
    dy_NV = softmax_NV
    dy_NV[rows, targets_N] -= 1
    dy_NV *= weights_N[:, None]
    gradients = dy_NV @ kernel_FV.T, hidden_NF.T @ dy_NV, dy_NV.sum(0)
    # The rounding error of a sum is proportional to the sum of the absolute terms.
    size_NV = np.abs(dy_NV)
    sizes = size_NV @ np.abs(kernel_FV).T, np.abs(hidden_NF).T @ size_NV, size_NV.sum(0)
    return (nll_N * weights_N).sum(), nll_N, gradients, sizes


def compiled(dtype=jnp.float32):
    def total(hidden_NF, kernel_FV, bias_V, targets_N, weights_N):
        return output_cross_entropy(hidden_NF, kernel_FV, bias_V, targets_N, weights_N, dtype)

    return jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True)), jax.jit(total)


CASES = [
    (5, 3, 7, 320),  # one chunk
    (23, 3, 7, 5),  # several chunks, the last one padded
    (24, 2, 5, 6),  # several chunks, none padded
    (4, 3, 10000, 320),  # vocabulary slices of equal width
    (6, 3, 33278, 3),  # vocabulary slices of different widths
    (3, 2, 50257, 320),
]


@pytest.mark.parametrize(("tokens", "features", "vocab_size", "chunk"), CASES)
def test_loss_and_gradients_equal_float64(tokens, features, vocab_size, chunk, monkeypatch):
    monkeypatch.setattr(output_layer, "constants", lambda: Constants(chunk_tokens=chunk))
    arguments = example(tokens, features, vocab_size)
    total, nll_N, expected, sizes = reference(*arguments)
    with_gradient, without_gradient = compiled()
    (found, found_N), gradients = with_gradient(*arguments)
    assert_allclose(found, total, rtol=1e-5)
    assert_allclose(found_N, nll_N, rtol=1e-5, atol=1e-5)
    # Rounding errors of float32 sums over the vocabulary add up like a random walk.
    unit = 2 * np.sqrt(vocab_size) * 2.0**-24
    for gradient, expected_gradient, size in zip(gradients, expected, sizes, strict=True):
        assert (np.abs(gradient - expected_gradient) <= unit * size + 1e-7).all()
    assert_allclose(without_gradient(*arguments)[1], nll_N, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("vocab_size", [7, 16, 32, 40, 41])
@pytest.mark.parametrize("scale", [1, 1000])
def test_vocabulary_slices_give_the_same_loss(vocab_size, scale, monkeypatch):
    """Test one slice and several slices, with and without a narrower last slice.

    With large logits, all terms of a slice can be negligible next to those of another slice.
    """
    chosen = Constants(words_without_gradient=16, chunk_tokens_without_gradient=5)
    monkeypatch.setattr(output_layer, "constants", lambda: chosen)
    hidden_NF, kernel_FV, *rest = example(23, 3, vocab_size)
    arguments = hidden_NF, scale * kernel_FV, *rest
    y_NV = arguments[0].astype(np.float64) @ arguments[1].astype(np.float64) + rest[0]
    size = np.abs(y_NV).max()
    nll_N = np.logaddexp.reduce(y_NV, axis=1) - y_NV[np.arange(23), rest[1]]
    assert_allclose(compiled()[1](*arguments)[1], nll_N, rtol=1e-5, atol=1e-6 * size)


@pytest.mark.parametrize("num_valid", [0, 1, 5, 6, 23])
def test_only_valid_tokens_count(num_valid, monkeypatch):
    monkeypatch.setattr(output_layer, "CHUNK_TOKENS_MASKED", 5)
    hidden_NF, kernel_FV, bias_V, targets_N, weights_N = example(23, 3, 7)
    weights_N = np.where(np.arange(23) < num_valid, weights_N, 0).astype(np.float32)

    def total(*parameters):
        return output_cross_entropy(
            *parameters, targets_N, weights_N, num_valid=jnp.int32(num_valid)
        )

    run = jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))
    (found, found_N), gradients = run(hidden_NF, kernel_FV, bias_V)
    expected, nll_N, expected_gradients, _ = reference(
        hidden_NF, kernel_FV, bias_V, targets_N, weights_N
    )
    assert_allclose(found, expected, rtol=1e-5)
    assert_allclose(found_N[:num_valid], nll_N[:num_valid], rtol=1e-5)
    assert (np.asarray(found_N)[-(-num_valid // 5) * 5 :] == 0).all()
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        assert_allclose(gradient, expected_gradient, atol=1e-5)


def test_a_scaled_loss_has_scaled_gradients():
    arguments = example(9, 3, 7)
    once = jax.grad(lambda h: output_cross_entropy(h, *arguments[1:])[0])(arguments[0])
    twice = jax.grad(lambda h: 2 * output_cross_entropy(h, *arguments[1:])[0])(arguments[0])
    assert_allclose(twice, 2 * once, rtol=1e-6)


def test_bfloat16_products_are_close_to_float64():
    arguments = example(40, 8, 30)
    total, _, expected, _ = reference(*arguments)
    with_gradient, _ = compiled(jnp.bfloat16)
    (found, found_N), gradients = with_gradient(*arguments)
    assert found.dtype == found_N.dtype == jnp.float32
    assert_allclose(found, total, rtol=0.02)
    for gradient, expected_gradient in zip(gradients, expected, strict=True):
        limit = 0.05 * np.abs(expected_gradient).max()
        assert_allclose(gradient, expected_gradient, atol=limit)


def test_memory_does_not_grow_with_the_tokens():
    def temporary(tokens):
        shapes = (
            jax.ShapeDtypeStruct((tokens, 16), jnp.float32),
            jax.ShapeDtypeStruct((16, 5000), jnp.float32),
            jax.ShapeDtypeStruct((5000,), jnp.float32),
            jax.ShapeDtypeStruct((tokens,), jnp.int32),
            jax.ShapeDtypeStruct((tokens,), jnp.float32),
        )
        function = functools.partial(jax.value_and_grad, argnums=(0, 1, 2), has_aux=True)
        program = jax.jit(function(output_cross_entropy)).lower(*shapes).compile()
        return program.memory_analysis().temp_size_in_bytes

    # Hidden states and their gradients grow; the logits, 5000 per token, do not.
    assert temporary(320 * 16) - temporary(320 * 4) < 320 * 12 * 5000 * 4 / 4
