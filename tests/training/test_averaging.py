"""Averages of the parameters against their definitions, step by step."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.training.averaging import averaged, make_average
from jaxlm.training.optimizers import OptimizerConfig
from jaxlm.training.state import TrainState


def run(average, iterates, begin_at=None):
    """Return the average after each step. The first iterate is the start of training."""
    first = jnp.float32(iterates[0])
    state = TrainState(
        jnp.int32(0), first, None, None, jnp.float32(1), first, jnp.float32(average.start)
    )
    found = []
    for step, iterate in enumerate(iterates[1:], 1):
        state = averaged(state, jnp.float32(iterate), average.share)
        assert state.iterate == np.float32(iterate)
        if step == begin_at:
            state = state.replace(averaged=jnp.float32(1))
        found.append(float(state.params))
    return found


def test_triggered_is_the_mean_from_its_first_step_on():
    average = make_average(OptimizerConfig(average="triggered"))
    iterates = [5.0, 1.0, 4.0, 2.0, 9.0, 3.0]
    found = run(average, iterates, begin_at=2)
    # The results of steps 1 and 2 are the iterates. Then the mean begins with step 2.
    expected = [1.0, 4.0, 3.0, 5.0, 4.5]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_ema_decays_at_its_rate():
    average = make_average(OptimizerConfig(average="ema", ema_decay=0.9))
    found = run(average, [1.0] * 200 + [0.0] * 10)
    np.testing.assert_allclose(found[198], 1.0, rtol=1e-6)
    np.testing.assert_allclose(found[-1], 0.9**10, rtol=1e-5)


def test_the_start_has_little_weight_in_ema():
    average = make_average(OptimizerConfig(average="ema", ema_decay=0.999))
    assert run(average, [100.0] + [0.0] * 100)[-1] < 100 * 0.001


@pytest.mark.parametrize(
    ("nlls", "begins"),
    [
        ([3.0], False),
        ([3.0, 4.0, 4.0], False),
        # 3.5 is worse than 3.0, the best loss without the previous two validations.
        ([3.0, 2.0, 2.0, 3.5], True),
        ([3.0, 2.0, 2.0, 2.5], False),
        ([5.0, 4.0, 3.0, 2.0, 1.0], False),
    ],
)
def test_the_average_begins_when_validation_stops_improving(nlls, begins):
    average = make_average(OptimizerConfig(average="triggered", trigger_after=2))
    assert average.begins(nlls) == begins


def test_no_average_by_default_and_bad_settings_are_errors():
    assert make_average(OptimizerConfig()) is None
    for options, message in (
        ({"average": "emma"}, "'emma'.*did you mean 'ema'"),
        ({"average": "ema", "ema_decay": 1.0}, "`ema_decay` 1.0"),
        ({"average": "triggered", "trigger_after": 0}, "`trigger_after` 0"),
    ):
        with pytest.raises(UserError, match=message):
            make_average(OptimizerConfig(**options))
