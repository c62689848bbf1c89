"""Averages of the parameters over the train steps, which are then validated and kept."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlm.errors import choose
from jaxlm.ranges import check_settings
from jaxlm.training.optimizers import OptimizerConfig
from jaxlm.training.state import TrainState

Share = Callable[[jax.Array], jax.Array]
"""share(n): weight of the newest parameters in a running average over n steps, float32 scalars."""


def averaged(state: TrainState, newest: Any, share: Share) -> TrainState:
    """Return the state with the parameters `newest` of a step added to the running average.

        θ̄ ← θ̄ + share(n) · (θ - θ̄)          θ̄ = θ until the average starts

    θ is `newest`, θ̄ is `params` of the state, and n counts the steps in the average, this step
    included.
    """
    count = state.averaged + (state.averaged > 0)
    weight = jnp.where(count > 0, share(count), 1.0)
    params = jax.tree.map(lambda mean, new: mean + weight * (new - mean), state.params, newest)
    return dataclasses.replace(state, params=params, iterate=newest, averaged=count)


class Average(NamedTuple):
    """A running average of the parameters.

    share: weight of the newest parameters. start: number of steps that count as averaged before
    step 0; 0 if the average starts later. begins: given the nll of every validation so far, returns
    whether an average that has not started starts now.
    """

    share: Share
    start: float
    begins: Callable[[list[float]], bool]


def _ema(config: OptimizerConfig) -> Average:
    check_settings(config, ["ema_decay"])

    def share(count: jax.Array) -> jax.Array:
        # The first averages are over few steps, so that the random start is soon forgotten.
        return jnp.maximum(1 - config.ema_decay, 9 / (9 + count))

    return Average(share, 1.0, lambda nlls: False)


def _triggered(config: OptimizerConfig) -> Average:
    check_settings(config, ["trigger_after"])

    def begins(nlls: list[float]) -> bool:
        before = nlls[:-1][: -config.trigger_after]
        return bool(before) and nlls[-1] > min(before)

    return Average(lambda count: 1 / count, 0.0, begins)


AVERAGES: dict[str, Callable[[OptimizerConfig], Average | None]] = {
    "none": lambda config: None,
    # Polyak & Juditsky 1992, with weights that decay exponentially.
    "ema": _ema,
    # NT-ASGD: averaging starts once validation is worse than the best of all but the last few
    # validations (Merity, Keskar & Socher 2018, algorithm 1).
    "triggered": _triggered,
}


def make_average(config: OptimizerConfig) -> Average | None:
    """Return the average that `config` names, or None for no average."""
    return choose(AVERAGES, config.average, "average")(config)
