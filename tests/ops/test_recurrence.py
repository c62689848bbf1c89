"""The fused recurrence against `jax.lax.scan` over the same step, in values and gradients.

The fused activation functions of gates are compared with their definitions.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from jaxlm.models.cells import CELLS
from jaxlm.models.recurrent.layer import recurrent_shape
from jaxlm.ops.fused_gates import KINDS, fused_gates
from jaxlm.ops.recurrence import recurrence, run_in_segments

# Cells whose gates read the state.
RECURRENT = [name for name, cell in CELLS.items() if cell.recurrent]


def by_definition(cell, carry, x_TBG, kernel_HG, bias_G, mask=1.0):
    """Run the recurrence as the papers define it, by `jax.lax.scan`."""
    mask_TBH = jnp.broadcast_to(mask, (len(x_TBG), *carry[0].shape))

    def body(carry, inputs_t):
        x_BG, mask_BH = inputs_t
        u_BG = by_kernel(carry[0] * mask_BH, kernel_HG, x_BG.shape[-1])
        carry = cell.step(carry, x_BG, u_BG if bias_G is None else u_BG + bias_G)
        return carry, carry[0]

    last, h_TBH = jax.lax.scan(body, carry, (x_TBG, mask_TBH))
    return h_TBH, last


def by_kernel(h_BH, kernel, width):
    """Return h U for a matrix U; for a vector, each gate's h times its part, then the rest."""
    if kernel.ndim == 2:
        return h_BH @ kernel
    gates = [h_BH * part for part in jnp.split(kernel[:width], width // h_BH.shape[-1])]
    return jnp.concatenate(
        [*gates, jnp.broadcast_to(kernel[width:], (len(h_BH), kernel.size - width))], -1
    )


def by_recurrence(cell, carry, x_TBG, kernel_HG, bias_G, mask=None, **options):
    options = {"additive": cell.additive} | options
    return recurrence(cell.step, carry, x_TBG, kernel_HG, bias_G, mask, **options)


def inputs_of(cell, batch, time, size, seed):
    rng = np.random.default_rng(seed)
    width = size * len(cell.gates)

    def draw(*shape):
        return jnp.asarray(rng.normal(0, 1, shape), jnp.float32)

    carry = tuple(draw(batch, size) for _ in cell.carry)
    bias_G = draw(width) if cell.recurrent_bias else None
    shape = recurrent_shape(cell, size)
    kernel = draw(*shape) if cell.elementwise else draw(*shape) / size**0.5
    return carry, draw(time, batch, width), kernel, bias_G


@functools.partial(jax.jit, static_argnames=("run", "cell"))
def value_and_gradients(run, cell, inputs):
    """Return a scalar that depends on each output, and its gradient by each input."""

    def number(inputs):
        h_TBH, last = run(cell, *inputs)
        weights_T = jnp.cos(jnp.arange(len(h_TBH)))[:, None, None]
        return jnp.sum(h_TBH**2 * weights_T) + sum(jnp.sum(jnp.sin(part)) for part in last)

    return jax.value_and_grad(number)(inputs)


def assert_close(found, expected):
    for leaf, expected_leaf in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        scale = max(1e-3, float(np.abs(expected_leaf).max()))
        assert_allclose(leaf, expected_leaf, atol=1e-5 * scale)


@pytest.mark.quick_for("lstm", "paragru")
@pytest.mark.parametrize("name", RECURRENT)
@example(batch=1, time=1, size=1, seed=0)
@settings(max_examples=3)
@given(
    batch=st.integers(1, 4), time=st.integers(1, 9), size=st.integers(1, 6), seed=st.integers(0, 99)
)
def test_values_and_gradients_equal_those_of_a_scan(name, batch, time, size, seed):
    cell = CELLS[name]
    inputs = inputs_of(cell, batch, time, size, seed)
    found = value_and_gradients(by_recurrence, cell, inputs)
    assert_close(found, value_and_gradients(by_definition, cell, inputs))


@pytest.mark.full
@pytest.mark.parametrize("name", RECURRENT)
def test_options_do_not_change_values(name):
    cell = CELLS[name]
    inputs = inputs_of(cell, 2, 7, 3, 0)
    expected = value_and_gradients(by_recurrence, cell, inputs)
    for options in ({"additive": False}, {"unroll": 3}):
        assert_close(
            value_and_gradients(functools.partial(by_recurrence, **options), cell, inputs), expected
        )


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "kind"),
    list(zip(RECURRENT, itertools.cycle(["per sequence", "per step"]), strict=False)),
)
def test_masks_of_the_hidden_state_equal_the_definition(name, kind):
    cell = CELLS[name]
    inputs = inputs_of(cell, 3, 5, 4, 0)
    shape = (3, 4) if kind == "per sequence" else (5, 3, 4)
    mask = jnp.asarray(np.random.default_rng(1).integers(0, 2, shape) * 2.0, jnp.float32)
    runs = [functools.partial(run, mask=mask) for run in (by_recurrence, by_definition)]
    found, expected = (value_and_gradients(run, cell, inputs) for run in runs)
    assert_close(found, expected)
    # The mask has an effect.
    assert not np.allclose(found[0], value_and_gradients(by_recurrence, cell, inputs)[0])


@pytest.mark.parametrize("name", RECURRENT)
def test_invalid_steps_leave_the_carry_unchanged(name):
    cell = CELLS[name]
    carry, x_TBG, *weights = inputs_of(cell, 2, 6, 3, 0)
    valid_T = jnp.arange(6) < 4

    def stopped(cell, carry, x_TBG, *weights):
        h_TBH, last = by_recurrence(cell, carry, x_TBG, *weights, valid_T=valid_T)
        return h_TBH[:4], last

    def short(cell, carry, x_TBG, *weights):
        return by_recurrence(cell, carry, x_TBG[:4], *weights)

    inputs = carry, x_TBG, *weights
    assert_close(
        value_and_gradients(stopped, cell, inputs), value_and_gradients(short, cell, inputs)
    )


@pytest.mark.parametrize("steps", [1, 3, 6, 9])
def test_segments_do_not_change_values(steps):
    cell = CELLS["lstm"]
    inputs = inputs_of(cell, 2, 6, 3, 0)

    def segmented(cell, carry, x_TBG, kernel_HG, bias_G):
        def run(carry, x_TBG):
            return by_recurrence(cell, carry, x_TBG, kernel_HG, bias_G)

        return run_in_segments(run, carry, x_TBG, steps)

    found = value_and_gradients(segmented, cell, inputs)
    assert_close(found, value_and_gradients(by_recurrence, cell, inputs))


def test_segments_need_less_memory_for_the_gradient():
    cell = CELLS["lstm"]
    carry, x_TBG, kernel_HG, _ = inputs_of(cell, 8, 256, 32, 0)
    x_TBD = x_TBG[..., :32]

    def temporary(steps):
        def run(carry, x_TBD, kernel_HG):
            x_TBG = x_TBD @ kernel_HG
            return by_recurrence(cell, carry, x_TBG, kernel_HG, None)

        def number(carry, x_TBD, kernel_HG):
            part = functools.partial(run, kernel_HG=kernel_HG)
            h_TBH, _ = run_in_segments(part, carry, x_TBD, steps)
            return jnp.sum(h_TBH[-1])

        program = jax.jit(jax.grad(number, 2)).lower(carry, x_TBD, kernel_HG).compile()
        return program.memory_analysis().temp_size_in_bytes

    assert temporary(16) < temporary(256) / 3


@pytest.mark.parametrize("name", RECURRENT)
def test_bfloat16_products_are_close_to_float32(name):
    cell = CELLS[name]
    inputs = inputs_of(cell, 2, 5, 4, 1)
    h_TBH, last = by_recurrence(cell, *inputs, dtype=jnp.bfloat16)
    assert h_TBH.dtype == jnp.float32 and all(part.dtype == jnp.float32 for part in last)
    assert_allclose(h_TBH, by_definition(cell, *inputs)[0], atol=0.05)


def test_fused_gates_equal_their_definitions():
    s_BG = jnp.asarray(np.random.default_rng(0).normal(0, 4, (3, 12)), jnp.float32)
    kinds = ("sigmoid", "tanh", "sigmoid")
    functions = {"sigmoid": jax.nn.sigmoid, "tanh": jnp.tanh}
    assert set(functions) == set(KINDS)

    def plain(s_BG):
        parts = jnp.split(s_BG, 3, axis=-1)
        return jnp.hstack([functions[kind](part) for kind, part in zip(kinds, parts, strict=True)])

    assert_allclose(fused_gates(s_BG, kinds), plain(s_BG), atol=3e-7)
    gradients = [
        jax.grad(lambda s_BG, f=f: jnp.sum(jnp.sin(f(s_BG))))(s_BG)
        for f in (lambda s_BG: fused_gates(s_BG, kinds), plain)
    ]
    assert_allclose(*gradients, atol=1e-6)
