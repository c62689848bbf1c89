"""Every optimizer against torch.optim, over 27 steps of the same gradients (make_fixtures.py)."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlm.training.optimizers import OPTIMIZERS, Horizon, OptimizerConfig, make_optimizer

FIXTURE = np.load(Path(__file__).parent / "optimizers.npz")
CASES = json.loads(str(FIXTURE["options"]))
NAMES = ("kernel", "bias")


def steps_of(config, start, gradients):
    """Return the parameters after each step, with a leading axis of steps."""
    optimizer = make_optimizer(config, Horizon(10, 100))

    def step(state, gradient):
        params, opt_state = state
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        params = optax.apply_updates(params, updates)
        return (params, opt_state), params

    return jax.lax.scan(step, (start, optimizer.init(start)), gradients)[1]


def arrays(prefix):
    return {name: jnp.asarray(FIXTURE[f"{prefix}/{name}"], jnp.float32) for name in NAMES}


@pytest.mark.parametrize(("index", "name", "options"), [(i, *case) for i, case in enumerate(CASES)])
def test_parameters_of_every_step_equal_pytorch(index, name, options):
    config = OptimizerConfig(optimizer=name, **options)
    found = steps_of(config, arrays("start"), arrays("gradient"))
    start = arrays("start")
    for key in NAMES:
        # Compare the sum of the updates, which is much smaller than the parameters.
        expected = FIXTURE[f"{index}/{key}"] - FIXTURE[f"start/{key}"]
        np.testing.assert_allclose(found[key] - start[key], expected, rtol=1e-4, atol=1e-6)


def test_every_optimizer_except_lion_is_compared():
    # PyTorch has no Lion.
    assert {name for name, _ in CASES} == set(OPTIMIZERS) - {"lion"}


@pytest.mark.parametrize("name", ["rmsprop", "adagrad"])
def test_epsilon_is_added_outside_the_root(name):
    config = OptimizerConfig(optimizer=name, lr=1.0, beta2=0.0)
    found = steps_of(config, {"w": jnp.zeros(())}, {"w": jnp.full((1,), 1e-6)})
    assert found["w"][0] == pytest.approx(-1e-6 / (1e-6 + 1e-8), rel=1e-5)
