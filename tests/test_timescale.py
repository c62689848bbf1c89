"""An Elman layer's units as memories at the start (`models.recurrent_layer.fading`)."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.models.cells import CELLS
from jaxlm.models.recurrent_layer import RecurrentLayer

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
    # In units of what a unit without memory would have, from its own column of W.
    drawn_H = jnp.linalg.norm(params["input"]["kernel"], axis=0)
    a_H = 1 - 1 / jnp.geomspace(1, TIMESCALE, SIZE)
    memoryless_H = drawn_H / jnp.sqrt(1 - a_H**2)
    ratio_H = h_BTH[:, 100:].std((0, 1)) / memoryless_H
    np.testing.assert_allclose(ratio_H, 1, atol=0.1)


def test_one_step_is_no_memory():
    _, with_one = started(1.0, 0.1, 3)
    plain = RecurrentLayer(CELLS["rnn"], SIZE, "float32", 0.1, 0.0)
    x_BTD = jnp.zeros((1, 1, 3))
    without = plain.init(jax.random.key(0), x_BTD, (jnp.zeros((1, SIZE)),))["params"]
    chex.assert_trees_all_equal(with_one, without)
