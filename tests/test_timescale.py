"""An Elman layer's units as memories at the start (`timescale_init`)."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.models.cells import CELLS
from jaxlm.models.recurrent.layer import RecurrentLayer

SIZE, TIMESCALE = 64, 20.0


def layer(timescale: float, init_scale: float) -> RecurrentLayer:
    return RecurrentLayer(CELLS["rnn"], SIZE, "float32", init_scale, 0.0, timescale=timescale)


def started(timescale: float, init_scale: float, inputs: int):
    one = layer(timescale, init_scale)
    x_BTD = jnp.zeros((1, 1, inputs))
    return one, one.init(jax.random.key(0), x_BTD, (jnp.zeros((1, SIZE)),))["params"]


def test_units_fade_over_one_to_so_many_steps():
    one, params = started(TIMESCALE, 1e-6, 2)
    held = 0.01  # Small enough for tanh to be a straight line.
    h_BTH, _ = one.apply({"params": params}, jnp.zeros((1, 3, 2)), (jnp.full((1, SIZE), held),))
    a = 1 - 1 / np.geomspace(1, TIMESCALE, SIZE)
    for step in range(3):
        np.testing.assert_allclose(h_BTH[0, step] / held, a ** (step + 1), atol=1e-3)


def test_all_units_vary_as_much():
    one, params = started(TIMESCALE, 0.002, 32)
    # The links between units are no part of this.
    kernel = params["recurrent"]["kernel"]
    params["recurrent"]["kernel"] = jnp.diag(jnp.diag(kernel))
    x_BTD = jax.random.normal(jax.random.key(1), (64, 200, 32))
    h_BTH, _ = one.apply({"params": params}, x_BTD, (jnp.zeros((64, SIZE)),))
    # A unit without memory has the variance of 32 weights from U(±0.002); the slowest would have
    # more than ten times as much, were its inputs not scaled down.
    memoryless = 0.002 * (32 / 3) ** 0.5
    quarters = h_BTH[:, 100:].std((0, 1)).reshape(4, -1).mean(1)
    np.testing.assert_allclose(quarters / memoryless, 1, atol=0.1)


def test_one_step_is_no_memory():
    _, none = started(1.0, 0.1, 3)
    _, hardly_any = started(1.0001, 0.1, 3)
    chex.assert_trees_all_close(none, hardly_any, atol=2e-4)
    assert np.abs(none["recurrent"]["kernel"]).max() <= 0.1
