"""Averages of the parameters over the steps, which are then what is evaluated and kept."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlm.errors import UserError, choose
from jaxlm.training.optimizers import OptimizerConfig
from jaxlm.training.state import TrainState

Share = Callable[[jax.Array], jax.Array]
"""Of the newest parameters in an average of so many of them."""


def averaged(state: TrainState, newest: Any, share: Share) -> TrainState:
    """The state after a step that led to the parameters `newest`.

    θ̄ ← θ̄ + share · (θ - θ̄)          θ̄ = θ as long as the average has not begun
    """
    count = state.averaged + (state.averaged > 0)
    part = jnp.where(count > 0, share(count), 1.0)
    params = jax.tree.map(lambda mean, new: mean + part * (new - mean), state.params, newest)
    return dataclasses.replace(state, params=params, iterate=newest, averaged=count)


class Average(NamedTuple):
    """An average: the share of the newest, how many parameters it begins with (0: it waits), and
    whether it begins after a validation, by the nlls of all validations so far.
    """

    share: Share
    start: float
    begins: Callable[[list[float]], bool]


def _ema(config: OptimizerConfig) -> Average:
    if not 0 < config.ema_decay < 1:
        raise UserError(f"--ema-decay {config.ema_decay}: must be between 0 and 1")

    def share(count: jax.Array) -> jax.Array:
        # At first a mean of few: the parameters there were at random should not linger.
        return jnp.maximum(1 - config.ema_decay, 9 / (9 + count))

    return Average(share, 1.0, lambda nlls: False)


def _triggered(config: OptimizerConfig) -> Average:
    if config.trigger_after < 1:
        raise UserError(f"--trigger-after {config.trigger_after}: must be at least 1")

    def begins(nlls: list[float]) -> bool:
        before = nlls[:-1][: -config.trigger_after]
        return bool(before) and nlls[-1] > min(before)

    return Average(lambda count: 1 / count, 0.0, begins)


AVERAGES: dict[str, Callable[[OptimizerConfig], Average | None]] = {
    "none": lambda config: None,
    # Polyak & Juditsky 1992, with the weights of the past falling off.
    "ema": _ema,
    # NT-ASGD: averaged SGD from when validation has not improved on the best of all but the last
    # few (Merity, Keskar & Socher 2018, algorithm 1).
    "triggered": _triggered,
}


def make_average(config: OptimizerConfig) -> Average | None:
    """What `config` averages; None for nothing. Raises UserError for an unknown name."""
    return choose(AVERAGES, config.average, "average")(config)
