"""Runs that differ in numbers alone, trained side by side in one compiled function."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlm.data.batching import Block
from jaxlm.errors import UserError, choose
from jaxlm.models.layers import RATES
from jaxlm.ops.machine import deterministic_options
from jaxlm.training.averaging import Share
from jaxlm.training.optimizers import Horizon, unchecked_optimizer
from jaxlm.training.state import TrainState
from jaxlm.training.step import StepMetrics, TrainBlock, block_function
from jaxlm.training.trainee import Settings

# What the runs may differ in, beside the seed: numbers that a compiled step can be given.
OPTIMIZER_NUMBERS = ("lr", "clip", "weight_decay")
NUMBERS = (*OPTIMIZER_NUMBERS, *RATES)


class Fleet(NamedTuple):
    """block: of all runs, over the state and block that `together` makes of theirs; `apart` is its
    inverse. One run's are what they are; several have a first axis more.
    """

    block: Callable[..., tuple[Any, Any]]
    together: Callable[[Sequence[Any]], Any]
    apart: Callable[[Any], list[Any]]

    @classmethod
    def of_one(cls, block: TrainBlock) -> "Fleet":
        """Of a single run."""
        return cls(block, lambda one: one[0], lambda one: [one])

    @classmethod
    def of_many(
        cls,
        runs: Sequence[Settings],
        horizon: Horizon,
        positions: str,
        *,
        varied: bool,
        share: Share | None,
    ) -> "Fleet":
        """Of several: `vmap` over state, batches, key, and the numbers they differ in."""
        first = runs[0]
        numbers = differing(runs)
        values = {
            name: jnp.asarray([number(run, name) for run in runs], jnp.float32) for name in numbers
        }
        keys = jnp.stack([jax.random.key(run.training.seed) for run in runs])

        def one(
            key: jax.Array, values: dict[str, Any], state: TrainState, block: Block, count: Any
        ) -> tuple[TrainState, StepMetrics]:
            rates = {name: value for name, value in values.items() if name in RATES}
            others = {name: value for name, value in values.items() if name not in RATES}
            optimizer = unchecked_optimizer(replace(first.optimizer, **others), horizon)
            model = first.model.clone(**rates)
            step = block_function(model, optimizer, key, positions, varied=varied, share=share)
            return step(state, block, count)

        side_by_side = jax.vmap(one, in_axes=(0, 0, 0, 0, None))
        many = jax.jit(side_by_side, donate_argnums=2, compiler_options=deterministic_options())

        def apart(tree: Any) -> list[Any]:
            def of(place: int) -> Any:
                return jax.tree.map(lambda array: array[place], tree)

            return [of(place) for place in range(len(runs))]

        def together(trees: Sequence[Any]) -> Any:
            return jax.tree.map(lambda *arrays: jnp.stack(arrays), *trees)

        return cls(
            lambda state, block, count: many(keys, values, state, block, count), together, apart
        )


def members(
    settings: Settings, seeds: int, sweep: Mapping[str, Sequence[float]], folder: Path | None
) -> list[Settings]:
    """The runs of a sweep: a seed and a combination of values each, in a folder named for them.

    Raises UserError for what cannot be swept.
    """
    for name, values in sweep.items():
        known = [one for one in NUMBERS if one in OPTIMIZER_NUMBERS or hasattr(settings.model, one)]
        choose(dict.fromkeys(known), name, "sweep")
        if len(set(values)) < len(values) or not values:
            raise UserError(f"--sweep {name}: give values that differ, such as {name}=0.1,0.2")
    first, found = settings.training.seed, []
    for values in itertools.product(*sweep.values()):
        chosen = dict(zip(sweep, values, strict=True))
        of_model: dict[str, Any] = {name: value for name, value in chosen.items() if name in RATES}
        of_optimizer: dict[str, Any] = {
            name: value for name, value in chosen.items() if name not in RATES
        }
        model = settings.model.clone(**of_model)
        # A rate that cannot be is told of before any run has a folder.
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
        for seed in range(first, first + seeds):
            parts = [f"{name.replace('_', '-')}-{value:g}" for name, value in chosen.items()]
            found.append(
                replace(
                    settings,
                    model=model,
                    optimizer=replace(settings.optimizer, **of_optimizer),
                    training=replace(settings.training, seed=seed),
                    folder=folder and folder / "-".join([*parts, f"seed-{seed}"]),
                )
            )
    return found


def number(run: Settings, name: str) -> Any:
    """A run's value of one of NUMBERS."""
    return getattr(run.optimizer if name in OPTIMIZER_NUMBERS else run.model, name)


def differing(runs: Sequence[Settings]) -> list[str]:
    """Which of NUMBERS are not the same in all runs."""
    known = [name for name in NUMBERS if hasattr(runs[0].model, name) or name in OPTIMIZER_NUMBERS]
    return [name for name in known if len({number(run, name) for run in runs}) > 1]


def check_fleet(runs: Sequence[Settings]) -> None:
    """Raises UserError for runs that differ in what one compiled step cannot be given."""
    first, allowed = runs[0], {*differing(runs), "seed"}
    for run in runs[1:]:
        for section in ("model", "batching", "optimizer", "training"):
            one, other = getattr(first, section), getattr(run, section)
            for name in _names(one):
                if name not in allowed and getattr(one, name) != getattr(other, name):
                    raise UserError(
                        f"--sweep {name}: runs that train together may differ in "
                        f"{', '.join(NUMBERS)} and the seed; train these one by one"
                    )
    for name in allowed - {"seed"}:
        if any(number(run, name) is None for run in runs):
            raise UserError(f"--sweep {name}: give every run a number for it")


def _names(section: Any) -> list[str]:
    # A Flax module has two fields of Flax's own.
    return [item.name for item in fields(section) if item.name not in ("parent", "name")]
