"""Categorical sampling: frequencies, impossible words, and rounding at real vocabulary sizes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops.machine import task_options
from jaxlm.ops.sampling import Sampler, categorical, draw_rows, uniforms

DRAWS = 20_000


def drawn(seed, logits_BV):
    (uniform_2B,) = uniforms(jax.random.key(seed), 1, len(logits_BV))
    return categorical(uniform_2B, logits_BV)


@pytest.mark.full
@pytest.mark.parametrize("vocab_size", [1, 2, 3, 16, 23, 101])
def test_frequencies_equal_the_probabilities(vocab_size):
    logits_V = jnp.asarray(np.random.default_rng(vocab_size).normal(0, 2, vocab_size), jnp.float32)
    drawn_B = drawn(1, jnp.tile(logits_V, (DRAWS, 1)))
    assert drawn_B.dtype == jnp.int32 and drawn_B.shape == (DRAWS,)
    found_V = np.bincount(np.asarray(drawn_B), minlength=vocab_size)
    expected_V = DRAWS * np.asarray(jax.nn.softmax(logits_V), np.float64)
    # Five standard deviations of a count.
    assert (np.abs(found_V - expected_V) <= 5 * np.sqrt(expected_V) + 1).all()


def samples_in_float64(uniform_2B, logits_BV):
    """Return samples by the same two levels, in float64."""
    batch, vocab_size = logits_BV.shape
    width = math.ceil(math.sqrt(vocab_size))
    mass_BV = np.exp(logits_BV - logits_BV.max(axis=1, keepdims=True), dtype=np.float64)
    mass_BV = np.pad(mass_BV, ((0, 0), (0, -vocab_size % width)))
    mass_BCW = mass_BV.reshape(batch, -1, width)

    def place(mass_BN, uniform_B):
        sums_BN = np.cumsum(mass_BN, axis=1)
        return (sums_BN <= uniform_B[:, None] * sums_BN[:, -1:]).sum(axis=1)

    block_B = place(mass_BCW.sum(axis=-1), uniform_2B[0])
    return block_B * width + place(mass_BCW[np.arange(batch), block_B], uniform_2B[1])


# The sizes of real vocabularies, with enough rows to trigger the wrong fused reductions of XLA
# (jax-ml/jax#39103).
@pytest.mark.quick_for("float32-331-10000", "bfloat16-182-32769")
@pytest.mark.parametrize(("batch", "vocab_size"), [(331, 10_000), (400, 10_007), (182, 32_769)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_compiled_samples_equal_float64_at_vocabulary_sizes(batch, vocab_size, dtype):
    random = np.random.default_rng(batch)
    logits_BV = random.normal(0, 2, (batch, vocab_size)).astype(np.float32)
    uniform_2B = random.random((2, batch), np.float32)
    drawn_B = jax.jit(categorical, compiler_options=task_options("generation", dtype))(
        uniform_2B, logits_BV
    )
    # A uniform number close to the boundary between two words may select either word.
    assert np.mean(np.asarray(drawn_B) != samples_in_float64(uniform_2B, logits_BV)) < 0.005
    assert drawn_B[-1] == samples_in_float64(uniform_2B, logits_BV)[-1]


def test_rows_are_independent():
    # Each row has a single possible word, and the words of the rows differ.
    logits_BV = jnp.where(jnp.eye(30, dtype=bool), 3.0, -jnp.inf)
    for seed in range(20):
        drawn_B = drawn(seed, logits_BV)
        np.testing.assert_array_equal(drawn_B, np.arange(30))


def test_impossible_words_are_never_drawn():
    possible_V = np.random.default_rng(0).random(1000) < 0.01
    logits_V = jnp.where(possible_V, 0.0, -jnp.inf)
    drawn_B = np.asarray(drawn(2, jnp.tile(logits_V, (DRAWS, 1))))
    assert possible_V[drawn_B].all()
    assert set(drawn_B) == set(np.flatnonzero(possible_V))


def test_large_bfloat16_logits_give_the_largest_word():
    logits_BV = jnp.asarray([[1e4, -1e4, 1e4 - 200]], jnp.bfloat16)
    assert drawn(0, logits_BV).tolist() == [0]


@pytest.mark.quick_for("5")
@pytest.mark.parametrize("vocab_size", [5, 400])
def test_rows_with_settings_of_their_own_draw_as_the_sampler_does(vocab_size):
    numbers = np.random.default_rng(0)
    logits_BV = numbers.normal(size=(8, vocab_size)).astype(np.float32) * 3
    # Tokens of equal probability, and impossible tokens.
    logits_BV[:4] = np.round(logits_BV[:4])
    logits_BV[5:, ::3] = -np.inf
    uniform_2B = numbers.uniform(size=(2, 8)).astype(np.float32)
    settings = [
        (0.0, None, None),
        (1.0, 3, None),
        (0.5, 1, 0.9),
        (2.0, None, 0.5),
        (1.0, 2, 1.0),
        (1.0, 4, 1e-7),
        (0.7, vocab_size, 0.95),
        (1e-3, None, None),
    ]
    temperature_B, top_k_B, top_p_B = (
        np.array([missing if value is None else value for value in column], dtype)
        for column, missing, dtype in zip(
            zip(*settings, strict=True),
            (0, 1 << 30, np.inf),
            (np.float32, np.int32, np.float32),
            strict=True,
        )
    )
    drawn = jax.jit(draw_rows)(logits_BV, uniform_2B, temperature_B, top_k_B, top_p_B)
    for row, values in enumerate(settings):
        alone = Sampler(*values)(logits_BV[row : row + 1], uniform_2B[:, row : row + 1])
        assert drawn[row] == alone[0], values
