"""Every cell against its textbook equations in float64 NumPy, gate by gate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.models import CELLS

BATCH, HIDDEN = 3, 5


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def elman(carry, x, u):
    """Elman 1990: h' = tanh(W x + b + U h)."""
    h = np.tanh(x[0] + u[0])
    return {"hidden": h}, (h,)


def gru(carry, x, u):
    """Cho et al. 2014, with the reset gate after the product: h' = (1 - z) n + z h."""
    (h,) = carry
    r = sigmoid(x[0] + u[0])
    z = sigmoid(x[1] + u[1])
    n = np.tanh(x[2] + r * u[2])
    return {"reset": r, "update": z, "candidate": n}, ((1 - z) * n + z * h,)


def lstm(carry, x, u):
    """Hochreiter & Schmidhuber 1997 with a forget gate: c' = f c + i g, h' = o tanh(c')."""
    _, c = carry
    i = sigmoid(x[0] + u[0])
    f = sigmoid(x[1] + u[1])
    g = np.tanh(x[2] + u[2])
    o = sigmoid(x[3] + u[3])
    c_next = f * c + i * g
    return {"input": i, "forget": f, "cell": g, "output": o}, (o * np.tanh(c_next), c_next)


def positive(s):
    return np.where(s >= 0, s + 0.5, sigmoid(s))


def min_gru(carry, x, u):
    """Feng et al. 2024: h' = (1 - z) h + z n, without u."""
    (h,) = carry
    z, n = sigmoid(x[0]), positive(x[1])
    return {"update": z, "candidate": n}, ((1 - z) * h + z * n,)


def min_lstm(carry, x, u):
    """Feng et al. 2024: h' = (f h + i n) / (f + i), without u."""
    (h,) = carry
    f, i, n = sigmoid(x[0]), sigmoid(x[1]), positive(x[2])
    gates = {"forget": f / (f + i), "input": i / (f + i), "candidate": n}
    return gates, (gates["forget"] * h + gates["input"] * n,)


def para_gru(carry, x, u):
    """Danieli et al. 2025: h' = (1 - z) h + z n, with the reset gate on the elementwise u h."""
    (h,) = carry
    r, z = sigmoid(x[0] + u[0]), sigmoid(x[1] + u[1])
    n = np.tanh(x[2] + r * u[2])
    return {"reset": r, "update": z, "candidate": n}, ((1 - z) * h + z * n,)


def para_lstm(carry, x, u):
    """Danieli et al. 2025: i = 1 - f; f reads c and o reads the new c, with factors u[3], u[4]."""
    _, c = carry
    f = sigmoid(x[0] + u[0] + u[3] * c)
    g = np.tanh(x[1] + u[1])
    c_next = f * c + (1 - f) * g
    o = sigmoid(x[2] + u[2] + u[4] * c_next)
    return {"forget": f, "cell": g, "output": o}, (o * np.tanh(c_next), c_next)


# x and u are lists of arrays [B, H], an array for each gate; in u, an array for each learned vector
# follows. Oracles use places instead of names of gates, so they notice if a cell renames or
# reorders its gates.
ORACLES = {
    "rnn": elman,
    "gru": gru,
    "lstm": lstm,
    "mingru": min_gru,
    "minlstm": min_lstm,
    "paragru": para_gru,
    "paralstm": para_lstm,
}


def random_step(cell, seed=0):
    """Return a random carry, x_BG and u_BG, so large that some gates saturate."""
    rng = np.random.default_rng(seed)
    width = len(cell.gates) * HIDDEN
    carry = tuple(rng.normal(0, 1, (BATCH, HIDDEN)).astype(np.float32) for _ in cell.carry)
    x_BG, u_BG = rng.normal(0, 3, (2, BATCH, width)).astype(np.float32)
    vectors = rng.normal(0, 1, (BATCH, len(cell.weights) * HIDDEN)).astype(np.float32)
    return carry, x_BG, np.concatenate([u_BG, vectors], axis=-1)


def expected(name, carry, x_BG, u_BG):
    x, u = (
        np.split(array_BG.astype(np.float64), array_BG.shape[-1] // HIDDEN, axis=-1)
        for array_BG in (x_BG, u_BG)
    )
    return ORACLES[name](tuple(array.astype(np.float64) for array in carry), x, u)


def assert_same(actual, oracle):
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, oracle, rtol=2e-6, atol=2e-7)


def test_every_cell_has_an_oracle():
    assert CELLS.keys() == ORACLES.keys()


@pytest.mark.parametrize("name", CELLS)
def test_a_forget_gate_of_one_keeps_the_state(name):
    cell = CELLS[name]
    carry, *_ = random_step(cell)
    gates = dict.fromkeys(cell.gates, jnp.zeros((BATCH, HIDDEN)))
    if cell.forget_gate is not None:
        gates[cell.forget_gate] += 1
        np.testing.assert_array_equal(cell.update(carry, gates)[-1], carry[-1])


@pytest.mark.parametrize("name", CELLS)
def test_activations_equal_the_oracle(name):
    cell = CELLS[name]
    gates, _ = expected(name, *random_step(cell))
    activations = cell.activations(*jax.tree.map(jnp.asarray, random_step(cell)))
    assert tuple(activations) == cell.gates == tuple(gates)
    for gate in gates:
        assert_same(activations[gate], gates[gate])


@pytest.mark.parametrize("name", CELLS)
def test_the_step_equals_the_oracle(name):
    cell = CELLS[name]
    _, carry = expected(name, *random_step(cell))
    after = cell.step(*jax.tree.map(jnp.asarray, random_step(cell)))
    assert len(after) == len(cell.carry) == len(carry)
    for array, oracle in zip(after, carry, strict=True):
        assert_same(array, oracle)


@pytest.mark.parametrize("name", CELLS)
def test_the_gradient_of_the_step_equals_the_oracle(name):
    """Compare the derivative in a random direction with central differences of the oracle."""
    cell = CELLS[name]
    point, direction, weights = (random_step(cell, seed) for seed in (0, 1, 2))

    def measured(step):
        return sum(jnp.sum(w * array) for w, array in zip(weights[0], step, strict=True))

    gradient = jax.grad(lambda point: measured(cell.step(*point)))(jax.tree.map(jnp.asarray, point))
    slope = sum(
        np.sum(np.float64(g) * d)
        for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
    )

    def oracle(distance):
        # The inputs of the oracle are float64, because rounding to float32 would change them.
        moved = jax.tree.map(
            lambda a, d: np.float64(a) + distance * np.float64(d), point, direction
        )
        _, after = expected(name, *moved)
        return sum(np.sum(w * array) for w, array in zip(weights[0], after, strict=True))

    np.testing.assert_allclose(slope, (oracle(1e-5) - oracle(-1e-5)) / 2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("size", [60.0, 120.0])
def test_extreme_gates_have_finite_values_and_gradients(name, size):
    cell = CELLS[name]
    carry, x_BG, u_BG = random_step(cell)
    for sign in (1, -1):

        def total(x_BG, sign=sign):
            return cell.step(carry, sign * size + x_BG, u_BG)[0].sum()

        value, gradient_BG = jax.value_and_grad(total)(x_BG)
        assert np.isfinite(value) and np.isfinite(gradient_BG).all(), (name, sign * size)
