"""Optimizers and schedules against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import UserError
from jaxlm.training.optimizers import (
    DECOUPLED_DECAY,
    OPTIMIZERS,
    SCHEDULES,
    Horizon,
    OptimizerConfig,
    make_optimizer,
    make_schedule,
)

HORIZON = Horizon(steps_per_epoch=3, total_steps=14)
PARAMS = {"kernel": jnp.array([[3.0, -4.0]]), "bias": jnp.array([2.0])}


def updates_of(gradient, params=PARAMS, **options):
    optimizer = make_optimizer(OptimizerConfig(**options), HORIZON)
    return optimizer.update(gradient, optimizer.init(params), params)[0]


def rates(steps: int, **options) -> np.ndarray:
    schedule = make_schedule(OptimizerConfig(**options), HORIZON)
    return np.array([schedule(jnp.asarray(step)) for step in range(steps)])


@pytest.mark.quick_for("cosine")
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_lowers_a_quadratic(name, schedule):
    def cost(params):
        return sum(jnp.sum(array**2) for array in jax.tree.leaves(params))

    updates = updates_of(jax.grad(cost)(PARAMS), optimizer=name, schedule=schedule, lr=0.01)
    after = jax.tree.map(jnp.add, PARAMS, updates)
    assert np.isfinite(cost(after))
    assert cost(after) < cost(PARAMS)


G = 0.5  # the gradient of every step below
SECOND_UPDATES = {
    "sgd": -G,
    "momentum": -(0.9 * G + G),
    "adam": -1.0,
    "adamw": -1.0,
    # Dozat 2016: the decayed mean with the bias correction of step 3, plus the gradient with the
    # bias correction of step 2.
    "nadam": -(0.9 * 0.19 / (1 - 0.9**3) + 0.1 / (1 - 0.9**2)),
    "rmsprop": -G / np.sqrt(0.1 * G**2 + 0.9 * 0.1 * G**2),
    "adagrad": -G / np.sqrt(2 * G**2),
    "lion": -1.0,
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_second_update_equals_the_paper(name):
    config = OptimizerConfig(optimizer=name, lr=1.0, beta2=0.9)
    optimizer = make_optimizer(config, HORIZON)
    params = {"kernel": jnp.ones((1, 1))}
    state = optimizer.init(params)
    for _ in range(2):
        updates, state = optimizer.update({"kernel": jnp.full((1, 1), G)}, state, params)
    assert updates["kernel"][0, 0] == pytest.approx(SECOND_UPDATES[name], rel=1e-4)


def test_constant_and_plateau_schedules_start_with_a_constant_rate():
    for schedule in ("constant", "plateau"):
        np.testing.assert_allclose(rates(5, schedule=schedule, lr=0.3), 0.3)


def test_step_decay_multiplies_the_rate_before_each_epoch_after_full_epochs():
    found = rates(12, schedule="step-decay", lr=8.0, decay=0.5, full_epochs=2)
    np.testing.assert_allclose(found, [8] * 6 + [4] * 3 + [2] * 3)


def test_step_decay_counts_the_epochs_of_the_warm_up():
    found = rates(9, schedule="step-decay", lr=8.0, decay=0.5, full_epochs=2, warmup_steps=4)
    np.testing.assert_allclose(found, [0, 2, 4, 6, 8, 8, 4, 4, 4])


def test_cosine_falls_to_zero_at_the_last_step():
    found = rates(15, schedule="cosine", lr=2.0)
    expected = [1 + np.cos(np.pi * step / 14) for step in range(15)]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_cosine_begins_after_a_linear_warm_up():
    found = rates(15, schedule="cosine", lr=2.0, warmup_steps=4)
    np.testing.assert_allclose(found[:5], [0, 0.5, 1, 1.5, 2])
    np.testing.assert_allclose(found[9], 1.0, rtol=1e-6)
    np.testing.assert_allclose(found[14], 0.0, atol=1e-7)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_does_not_change_biases(name):
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    updates = updates_of(zero, optimizer=name, lr=0.1, weight_decay=0.01)
    assert updates["bias"] == 0
    kernel = np.asarray(updates["kernel"])
    assert (np.sign(kernel) == -np.sign(PARAMS["kernel"])).all()
    if name in DECOUPLED_DECAY:
        np.testing.assert_allclose(kernel, -0.1 * 0.01 * PARAMS["kernel"], rtol=1e-6)


def test_adam_scales_the_l2_penalty_and_sgd_does_not():
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    l2 = updates_of(zero, optimizer="adam", lr=0.1, weight_decay=0.01)["kernel"]
    np.testing.assert_allclose(l2, -0.1 * np.sign(PARAMS["kernel"]), rtol=1e-4)
    sgd = updates_of(zero, optimizer="sgd", lr=0.1, weight_decay=0.01)["kernel"]
    np.testing.assert_allclose(sgd, -0.1 * 0.01 * PARAMS["kernel"], rtol=1e-6)


@pytest.mark.parametrize(("length", "clipped"), [(5.0, 1.0), (0.5, 0.5)])
def test_gradients_are_clipped_by_the_global_norm(length, clipped):
    gradient = {"kernel": jnp.array([[0.6, 0.0]]) * length, "bias": jnp.array([0.8]) * length}
    updates = updates_of(gradient, optimizer="sgd", lr=1.0, clip=1.0)
    np.testing.assert_allclose(updates["kernel"], [[-0.6 * clipped, 0]], rtol=1e-6)
    np.testing.assert_allclose(updates["bias"], [-0.8 * clipped], rtol=1e-6)


def test_clip_comes_before_weight_decay():
    gradient = {"kernel": jnp.array([[10.0, 0.0]]), "bias": jnp.array([0.0])}
    updates = updates_of(gradient, optimizer="sgd", lr=1.0, clip=1.0, weight_decay=1.0)
    np.testing.assert_allclose(updates["kernel"], [[-1 - 3, 4]], rtol=1e-6)


WRONG = [
    ({"optimizer": "adma"}, "adam"),
    ({"schedule": "cosin"}, "cosine"),
    ({"lr": 0.0}, "`lr`"),
    ({"lr": -1.0}, "`lr`"),
    ({"lr": float("nan")}, "`lr`"),
    ({"clip": 0.0}, "`clip`"),
    ({"clip": -0.25}, "`clip`"),
    ({"decay": 0.0}, "`decay`"),
    ({"weight_decay": -0.1}, "`weight_decay`"),
    ({"weight_decay": float("nan")}, "`weight_decay`"),
    ({"warmup_steps": -1}, "`warmup_steps`"),
    ({"plateau_patience": 0}, "`plateau_patience`"),
]


@pytest.mark.parametrize(("options", "named"), WRONG)
def test_bad_settings_are_errors(options, named):
    with pytest.raises(UserError, match=named):
        make_optimizer(OptimizerConfig(**options), HORIZON)
