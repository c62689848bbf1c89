"""Newton's method over time against the loop over time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxlm.models.cells import CELLS
from jaxlm.models.recurrent.layer import recurrent_shape
from jaxlm.ops import affine_scan
from jaxlm.ops.affine_scan import Units, Whole
from jaxlm.ops.newton import LARGEST_JACOBIANS, newton_recurrence
from jaxlm.ops.recurrence import recurrence

RECURRENT = [name for name, cell in CELLS.items() if cell.recurrent]
TIME, BATCH, SIZE = 40, 3, 8


def arguments(cell, scale, seed=0):
    """Return (carry, x_TBG, kernel, bias_G) of random numbers."""
    draw = np.random.default_rng(seed).standard_normal
    width = len(cell.gates) * SIZE
    shape = recurrent_shape(cell, SIZE)
    arrays = [0.5 * draw((BATCH, SIZE)) for _ in cell.carry]
    kernel = scale * draw(shape) * (1.0 if cell.elementwise else SIZE**-0.5)
    others = draw((TIME, BATCH, width)), kernel, 0.1 * draw(shape[-1])
    to_float = functools.partial(jnp.asarray, dtype=jnp.float32)
    return tuple(map(to_float, arrays)), *map(to_float, others)


def total_of(run, cell, weights):
    """Return a function of the arguments that sums what `run` returns, with weights."""

    def total(carry, x_TBG, kernel, bias_G):
        h_TBH, last, *_ = run(cell.step, carry, x_TBG, kernel, bias_G)
        sums = [
            jnp.vdot(array, weight) for array, weight in zip((h_TBH, *last), weights, strict=True)
        ]
        return sum(sums)

    return total


@pytest.mark.quick_for(
    "rnn-full-plain", "lstm-full-masks", "gru-diagonal-mask", "paralstm-diagonal-length"
)
@pytest.mark.parametrize(
    ("name", "jacobian", "options"),
    [
        ("rnn", "full", "plain"),
        ("rnn", "diagonal", "masks"),
        ("gru", "full", "length"),
        ("gru", "diagonal", "mask"),
        ("lstm", "full", "masks"),
        ("lstm", "diagonal", "plain"),
        ("paragru", "full", "mask"),
        ("paragru", "diagonal", "masks"),
        ("paralstm", "full", "plain"),
        ("paralstm", "diagonal", "length"),
    ],
)
def test_values_and_gradients_equal_the_loop_over_time(name, jacobian, options):
    cell = CELLS[name]
    carry, x_TBG, kernel, bias_G = arguments(cell, 1.0)
    draw = np.random.default_rng(1)
    given = {
        "plain": {},
        "mask": {"mask": jnp.asarray(draw.choice([0.0, 2.0], (BATCH, SIZE)), jnp.float32)},
        "masks": {"mask": jnp.asarray(draw.choice([0.0, 2.0], (TIME, BATCH, SIZE)), jnp.float32)},
        "length": {"valid_T": jnp.arange(TIME) < 23},
    }[options]
    weights = [draw.standard_normal((TIME, BATCH, SIZE)).astype(np.float32)]
    weights += [draw.standard_normal((BATCH, SIZE)).astype(np.float32) for _ in cell.carry]
    newton = functools.partial(newton_recurrence, jacobian=jacobian, **given)
    loop = functools.partial(recurrence, **given)
    found = jax.jit(functools.partial(newton, cell.step))(carry, x_TBG, kernel, bias_G)
    expected = jax.jit(functools.partial(loop, cell.step))(carry, x_TBG, kernel, bias_G)
    assert found[2].converged == 1 and 1 < found[2].iterations <= TIME + 1
    for array, other in zip(jax.tree.leaves(found[:2]), jax.tree.leaves(expected), strict=True):
        assert_allclose(array, other, atol=1e-5, rtol=1e-5)
    gradients = [
        jax.jit(jax.grad(total_of(run, cell, weights), (0, 1, 2, 3)))(carry, x_TBG, kernel, bias_G)
        for run in (newton, loop)
    ]
    for array, other in zip(*map(jax.tree.leaves, gradients), strict=True):
        assert_allclose(array, other, atol=1e-5 * max(1.0, float(abs(other).max())), rtol=1e-5)


@pytest.mark.quick_for("chaotic")
@pytest.mark.parametrize(
    ("options", "least", "most"),
    [
        ({"jacobian": "diagonal", "most_iterations": 5}, 5, 5),
        # The residual is small after T iterations or a few less.
        ({"jacobian": "full"}, TIME - 5, TIME + 1),
    ],
    ids=["too few iterations", "chaotic"],
)
def test_states_that_do_not_converge_are_those_of_the_loop(options, least, most):
    """Recurrent weights this large make an Elman network chaotic.

    T iterations solve it up to rounding, but its solution is not the loop's.
    """
    cell = CELLS["rnn"]
    given = arguments(cell, 6.0)
    h_TBH, last, newton = newton_recurrence(cell.step, *given, **options)
    assert newton.converged == 0
    assert least <= newton.iterations <= most
    expected, end = recurrence(cell.step, *given)
    assert_allclose(h_TBH, expected, atol=1e-6)
    assert_allclose(last[0], end[0], atol=1e-6)
    run = functools.partial(newton_recurrence, **options)
    weights = [np.ones((TIME, BATCH, SIZE), np.float32), np.ones((BATCH, SIZE), np.float32)]
    gradients = [
        jax.grad(total_of(function, cell, weights), (1, 2))(*given)
        for function in (run, recurrence)
    ]
    for array, other in zip(*map(jax.tree.leaves, gradients), strict=True):
        assert_allclose(array, other, rtol=1e-4, atol=1e-4 * float(abs(other).max()))


def wide_arguments(cell, scale, size=96):
    """Return (carry, x_TBG, kernel, bias_G) of a layer that is too wide for a full Jacobian."""
    draw, width = np.random.default_rng(3).standard_normal, len(cell.gates) * size
    arrays = [0.5 * draw((BATCH, size)) for _ in cell.carry]
    others = draw((TIME, BATCH, width)), scale * draw((size, width)) * size**-0.5
    to_float = functools.partial(jnp.asarray, dtype=jnp.float32)
    return tuple(map(to_float, arrays)), *map(to_float, others)


def test_the_states_that_are_returned_are_tested():
    """The last step with the diagonal alone makes these states worse, though its start was exact.

    The whole Jacobian is nilpotent, and its diagonal is ±2.
    """
    kernel = jnp.array([[2.0, 2.0], [-2.0, -2.0]])
    given = (jnp.array([[4e-7, 0.0]]),), jnp.zeros((8, 1, 2)), kernel, jnp.zeros(2)
    step = CELLS["rnn"].step
    h_TBH, _, newton = newton_recurrence(step, *given, jacobian="diagonal")
    assert_allclose(h_TBH, recurrence(step, *given)[0], atol=1e-6)
    assert newton.converged == 0


@pytest.mark.parametrize(("scale", "converged"), [(0.5, True), (3.0, False), (6.0, False)])
def test_a_chaotic_network_is_known_by_its_whole_jacobian(scale, converged):
    """The errors of a chaotic network grow from unit to unit, which the diagonal does not show."""
    cell = CELLS["rnn"]
    given = wide_arguments(cell, scale)
    h_TBH, _, newton = newton_recurrence(cell.step, *given)
    assert bool(newton.converged) == converged
    assert_allclose(h_TBH, recurrence(cell.step, *given)[0], atol=1e-5)


@pytest.mark.quick_for("gru")
@pytest.mark.parametrize("name", ["rnn", "gru", "lstm"])
def test_newton_converges_beside_a_loop_in_bfloat16(name):
    """Its own products are float32, so it differs from the loop only by the loop's rounding."""
    cell = CELLS[name]
    given = wide_arguments(cell, 0.8)
    h_TBH, _, newton = newton_recurrence(cell.step, *given, dtype=jnp.bfloat16)
    assert newton.converged == 1 and newton.iterations < TIME
    expected, _ = recurrence(cell.step, *given, dtype=jnp.bfloat16)
    assert 0 < abs(h_TBH - expected).max() < 0.05


def test_jacobians_that_need_too_much_memory_are_diagonal(monkeypatch):
    cell = CELLS["gru"]
    given = arguments(cell, 1.0)
    reports = []
    for largest in (LARGEST_JACOBIANS, TIME * BATCH * SIZE**2 - 1):
        monkeypatch.setattr("jaxlm.ops.newton.LARGEST_JACOBIANS", largest)
        reports.append(newton_recurrence(cell.step, *given)[2])
    for report, jacobian in zip(reports, ("full", "diagonal"), strict=True):
        chosen = newton_recurrence(cell.step, *given, jacobian=jacobian)[2]
        assert report.iterations == chosen.iterations
    assert reports[0].iterations < reports[1].iterations


@pytest.mark.quick_for("2-whole")
@pytest.mark.parametrize("matrices", [Units(), Whole()], ids=["units", "whole"])
@pytest.mark.parametrize("count", [1, 2])
def test_the_scans_in_parallel_equal_those_in_sequence(matrices, count):
    draw = np.random.default_rng(2).standard_normal
    time, batch, size = 13, 2, 3
    shape = (count, count, batch, size)
    if isinstance(matrices, Whole):
        shape = (batch, count * size, count * size)
    a = jnp.asarray(0.6 * draw((time, *shape)) * (count * size) ** -0.5, jnp.float32)
    arrays = [tuple(jnp.asarray(draw((time, batch, size)), jnp.float32) for _ in range(count))
              for _ in range(2)]  # fmt: skip
    b, old = map(matrices.pack, arrays)
    first = jnp.ones_like(b[0])
    in_sequence = affine_scan.solve(matrices, a, b, first)
    in_parallel = affine_scan.parallel_solve(matrices, a, b, first)
    assert_allclose(in_parallel, in_sequence, rtol=1e-4, atol=1e-4)
    # By hand: a loop in NumPy.
    v = np.asarray(first)
    for t in range(time):
        v = np.asarray(matrices.apply(a[t], jnp.asarray(v)) + b[t])
        assert_allclose(in_sequence[t], v, rtol=1e-4, atol=1e-4)
    for damping in (1e-3, 1.0):
        filters = [
            scan(matrices, a, b, first, old, jnp.float32(damping))
            for scan in (affine_scan._filter_in_sequence, affine_scan._filter_in_parallel)
        ]
        assert_allclose(filters[1], filters[0], rtol=2e-4, atol=2e-4)
    near = affine_scan.damped(matrices, a, b, first, old, jnp.float32(1e-7))
    assert_allclose(near, in_sequence, rtol=1e-3, atol=1e-3)
    far = affine_scan.damped(matrices, a, b, first, old, jnp.float32(1e7))
    assert_allclose(far, old, rtol=1e-3, atol=1e-3)


def test_iterations_that_overflow_still_converge():
    """Recurrent weights of 40 have Jacobians whose product overflows float32 within 25 steps."""
    cell = CELLS["rnn"]
    carry, x_TBG, _, bias_G = arguments(cell, 1.0)
    kernel = 40.0 * jnp.eye(SIZE)
    expected, _ = recurrence(cell.step, carry, x_TBG, kernel, bias_G)
    for damped in (False, True):
        h_TBH, _, newton = newton_recurrence(
            cell.step, carry, x_TBG, kernel, bias_G, jacobian="full", damped=damped
        )
        assert newton.converged == 1
        assert_allclose(h_TBH, expected, atol=1e-5)


@pytest.mark.quick_for("2.0-10.0-1")
@pytest.mark.parametrize(("bias", "scale", "seed"), [(0.0, 4.0, 0), (2.0, 10.0, 1), (3.0, 10.0, 1)])
def test_states_that_overshoot_have_not_converged(bias, scale, seed):
    """Undamped steps with the full Jacobian can lead to states of 1e11 with a small residual."""
    cell = CELLS["gru"]
    draw = np.random.default_rng(seed).standard_normal
    size, time = 24, 300
    to_float = functools.partial(jnp.asarray, dtype=jnp.float32)
    x_TBG = 0.5 * draw((time, 1, 3 * size))
    x_TBG[..., size : 2 * size] += bias
    carry = (to_float(draw((1, size))),)
    given = carry, to_float(x_TBG), to_float(scale * draw((size, 3 * size)) * size**-0.5)
    expected, _ = recurrence(cell.step, *given)
    for damped in (False, True):
        found, _, _ = newton_recurrence(cell.step, *given, jacobian="full", damped=damped)
        assert_allclose(found, expected, atol=1e-5)


def test_a_recurrence_that_remembers_is_not_chaotic():
    """An LSTM with open forget gates keeps its state for 1,024 steps."""
    cell, time = CELLS["lstm"], 1024
    draw = np.random.default_rng(3).standard_normal
    x_TBG = 0.3 * draw((time, 2, 4 * SIZE))
    x_TBG[:, :, SIZE : 2 * SIZE] += 8.0  # the forget gate
    carry = tuple(jnp.zeros((2, SIZE)) for _ in cell.carry)
    kernel = jnp.asarray(0.01 * draw((SIZE, 4 * SIZE)), jnp.float32)
    arrays = carry, jnp.asarray(x_TBG, jnp.float32), kernel
    h_TBH, last, newton = jax.jit(functools.partial(newton_recurrence, cell.step))(*arrays)
    expected, expected_last = jax.jit(functools.partial(recurrence, cell.step))(*arrays)
    assert newton.converged == 1 and newton.iterations < 30
    assert_allclose(h_TBH, expected, atol=1e-5)
    for array, other in zip(last, expected_last, strict=True):
        assert_allclose(array, other, rtol=2e-5, atol=1e-5)


def test_a_large_element_does_not_hide_the_error_of_the_others():
    """Every h is exact to 1e-5 beside a cell state of 90."""
    cell = CELLS["lstm"]
    carry, x_TBG, kernel, _ = arguments(cell, 1.0)
    carry = carry[0], carry[1].at[:, 0].set(90.0)
    # The first unit keeps its state.
    x_TBG = x_TBG.at[:, :, SIZE].set(30.0)
    run = functools.partial(newton_recurrence, jacobian="diagonal")
    h_TBH, _, newton = jax.jit(functools.partial(run, cell.step))(carry, x_TBG, kernel)
    expected, _ = jax.jit(functools.partial(recurrence, cell.step))(carry, x_TBG, kernel)
    assert newton.converged == 1
    assert_allclose(h_TBH, expected, atol=5e-6)
