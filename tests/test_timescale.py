"""The initial timescales of the units of an Elman layer (`timescale_init`)."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.models.cells import CELLS
from jaxlm.models.recurrent.layer import RecurrentLayer

SIZE, TIMESCALE = 64, 20.0


def layer(timescale: float, init_scale: float) -> RecurrentLayer:
    return RecurrentLayer(CELLS["rnn"], SIZE, "float32", init_scale, 0.0, timescale=timescale)


def initialised(timescale: float, init_scale: float, inputs: int):
    rnn = layer(timescale, init_scale)
    x_BTD = jnp.zeros((1, 1, inputs))
    return rnn, rnn.init(jax.random.key(0), x_BTD, (jnp.zeros((1, SIZE)),))["params"]


@pytest.mark.full
def test_units_decay_over_1_to_timescale_steps():
    rnn, params = initialised(TIMESCALE, 1e-6, 2)
    start = 0.01  # So small that tanh is nearly linear.
    h_BTH, _ = rnn.apply({"params": params}, jnp.zeros((1, 3, 2)), (jnp.full((1, SIZE), start),))
    a = 1 - 1 / np.geomspace(1, TIMESCALE, SIZE)
    for step in range(3):
        np.testing.assert_allclose(h_BTH[0, step] / start, a ** (step + 1), atol=1e-3)


def test_all_units_have_the_same_variance():
    rnn, params = initialised(TIMESCALE, 0.002, 32)
    # Without connections between units.
    kernel = params["recurrent"]["kernel"]
    params["recurrent"]["kernel"] = jnp.diag(jnp.diag(kernel))
    x_BTD = jax.random.normal(jax.random.key(1), (64, 200, 32))
    h_BTH, _ = rnn.apply({"params": params}, x_BTD, (jnp.zeros((64, SIZE)),))
    # The variance of a unit without memory comes from 32 weights of U(±0.002). Without scaling of
    # the inputs, the slowest unit would have more than ten times this variance.
    memoryless = 0.002 * (32 / 3) ** 0.5
    quarters = h_BTH[:, 100:].std((0, 1)).reshape(4, -1).mean(1)
    np.testing.assert_allclose(quarters / memoryless, 1, atol=0.1)


def test_a_timescale_of_1_is_no_memory():
    _, without_memory = initialised(1.0, 0.1, 3)
    _, nearly_without = initialised(1.0001, 0.1, 3)
    chex.assert_trees_all_close(without_memory, nearly_without, atol=2e-4)
    assert np.abs(without_memory["recurrent"]["kernel"]).max() <= 0.1
