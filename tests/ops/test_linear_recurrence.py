"""The linear recurrence, sequential and parallel, against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxlm.ops.linear_recurrence import linear_recurrence, parallel_scan, sequential_scan


def inputs(time, batch=2, size=3):
    keys = jax.random.split(jax.random.key(time), 3)
    a_TBH = jax.random.uniform(keys[0], (time, batch, size))
    return a_TBH, jax.random.normal(keys[1], a_TBH.shape), jax.random.normal(keys[2], (batch, size))


@pytest.mark.quick_for("7")
@pytest.mark.parametrize("time", [1, 2, 7, 64])
@pytest.mark.parametrize("run", [linear_recurrence, sequential_scan, parallel_scan])
def test_values_equal_the_definition(run, time):
    a_TBH, b_TBH, h_BH = map(np.float64, inputs(time))
    found = run(*inputs(time))
    for t in range(time):
        h_BH = a_TBH[t] * h_BH + b_TBH[t]
        assert_allclose(found[t], h_BH, rtol=1e-5, atol=1e-6)


@pytest.mark.full
@pytest.mark.parametrize("time", [1, 7])
def test_gradients_equal_those_of_the_scans(time):
    def number(run):
        return lambda *args: jnp.sum(jnp.sin(run(*args)) * jnp.arange(1, time + 1)[:, None, None])

    found = jax.grad(number(linear_recurrence), (0, 1, 2))(*inputs(time))
    for run in (sequential_scan, parallel_scan):
        expected = jax.grad(number(run), (0, 1, 2))(*inputs(time))
        for found_gradient, expected_gradient in zip(found, expected, strict=True):
            assert_allclose(found_gradient, expected_gradient, rtol=1e-4, atol=1e-5)
