"""Several runs that differ only in numbers, trained in parallel in one compiled function."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxlm.data.batching import Block
from jaxlm.errors import SettingError, choose
from jaxlm.models.layers import RATES
from jaxlm.ops.machine import deterministic_options
from jaxlm.runs.folder import holds_run, read_sections
from jaxlm.runs.remote_checkpoints import checkpoints_of
from jaxlm.runs.remote_checkpoints import holds_run as remote_holds_run
from jaxlm.training.averaging import Share
from jaxlm.training.optimizers import CustomParts, Horizon, unchecked_optimizer
from jaxlm.training.state import TrainState
from jaxlm.training.step import StepMetrics, StepRunner, block_function
from jaxlm.training.trainee import Spec

OPTIMIZER_NUMBERS = ("lr", "clip", "weight_decay")
NUMBERS = (*OPTIMIZER_NUMBERS, *RATES)
"""Settings that runs may differ in, besides the seed. The compiled step gets them as arguments."""


def sweep_runner(
    specs: Sequence[Spec],
    horizon: Horizon,
    positions: str,
    *,
    varied: bool,
    share: Share | None,
    custom: CustomParts | None = None,
) -> StepRunner:
    """Return the runner of several runs: `vmap` over states, batches, keys, and NUMBERS.

    Args:
      specs: the runs.
      horizon: the length of training, for the schedules.
      positions: "all", or "last" to predict the last position alone.
      varied: whether batches differ in length.
      share: weight of the newest parameters in the running average; None without averaging.
      custom: the user's own optimizer or schedule.
    """
    first = specs[0]
    optimizer_config = first.config.optimizer
    assert optimizer_config is not None
    values_R = {
        name: jnp.asarray([number(spec, name) for spec in specs], jnp.float32)
        for name in differing(specs)
    }
    keys_R = jnp.stack([jax.random.key(_seed(spec)) for spec in specs])

    def one_run(
        key: jax.Array, values: dict[str, Any], state: TrainState, block: Block, count: Any
    ) -> tuple[TrainState, StepMetrics]:
        rates = {name: value for name, value in values.items() if name in RATES}
        others = {name: value for name, value in values.items() if name not in RATES}
        optimizer = unchecked_optimizer(replace(optimizer_config, **others), horizon, custom)
        model = first.model.clone(**rates)
        step = block_function(model, optimizer, key, positions, varied=varied, share=share)
        return step(state, block, count)

    all_runs = jax.vmap(one_run, in_axes=(0, 0, 0, 0, None))
    compiled = jax.jit(all_runs, donate_argnums=2, compiler_options=deterministic_options())

    def run_block(state: Any, block: Any, count: Any) -> tuple[Any, Any]:
        return compiled(keys_R, values_R, state, block, count)

    def stack(trees: Sequence[Any]) -> Any:
        return jax.tree.map(lambda *arrays: jnp.stack(arrays), *trees)

    def unstack(tree: Any) -> list[Any]:
        return [jax.tree.map(lambda array: array[run], tree) for run in range(len(specs))]  # noqa: B023

    return StepRunner(run_block, stack, unstack)


def sweep_specs(
    spec: Spec,
    seeds: int,
    sweep: Mapping[str, Sequence[float]],
    folder: Path | None,
    resume: bool = False,
) -> list[Spec]:
    """Return the runs of a sweep: one for each seed and combination of values.

    Args:
      spec: the model and settings that all runs share; its seed is the first seed.
      seeds: number of seeds of each combination.
      sweep: values by the name of a setting.
      folder: the folder that holds the folders of the runs, such as lr-0.001-seed-0; or None.
      resume: whether the runs are resumed.
    Raises:
      SettingError: for a setting that cannot be swept.
    """
    optimizer, training = spec.config.optimizer, spec.config.training
    assert optimizer is not None and training is not None
    for name, values in sweep.items():
        known = [item for item in NUMBERS if item in OPTIMIZER_NUMBERS or hasattr(spec.model, item)]
        choose(dict.fromkeys(known), name, "sweep")
        if len(set(values)) < len(values) or not values:
            shown = ",".join(map(str, values))
            why = f"give values that differ, such as {name}=0.1,0.2"
            raise SettingError("sweep", f"{name}={shown}", why)
    specs = []
    for values in itertools.product(*sweep.values()):
        chosen = dict(zip(sweep, values, strict=True))
        rates: dict[str, Any] = {name: value for name, value in chosen.items() if name in RATES}
        others: dict[str, Any] = {name: v for name, v in chosen.items() if name not in RATES}
        model = spec.model.clone(**rates)
        # A rate out of range is refused here, before any run has a folder.
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
        for seed in range(training.seed, training.seed + seeds):
            parts = [f"{name.replace('_', '-')}-{value:g}" for name, value in chosen.items()]
            name = "-".join([*parts, f"seed-{seed}"])
            remote = sweep_remote(training.checkpoint_folder, folder, name, resume)
            # Runs that a signal ends between two of their saves go back to a common step.
            keep = max(2, training.keep)
            config = replace(
                spec.config,
                network={**spec.config.network, **rates},
                optimizer=replace(optimizer, **others),
                training=replace(training, seed=seed, keep=keep, checkpoint_folder=remote),
            )
            place = folder and folder / name
            specs.append(Spec(model, config, place))
    return specs


def sweep_remote(remote: str | None, folder: Path | None, run: str, resume: bool) -> str | None:
    """Return the folder that holds the remote checkpoints of a run of a sweep.

    It is REMOTE/SWEEP, where SWEEP is the name of the sweep's folder, so that two sweeps do not
    meet. A resumed run of version 0.1.0 has its checkpoints in REMOTE itself.

    Args:
      remote: the setting `checkpoint_folder`, or None.
      folder: the folder of the sweep, or None.
      run: the name of the run's folder, such as lr-0.001-seed-0.
      resume: whether the run is resumed.
    """
    if remote is None or folder is None:
        return remote
    own = f"{remote.rstrip('/')}/{folder.resolve().name}"
    if not resume:
        return own
    place = folder / run
    if holds_run(place):
        saved = read_sections(place, "training").get("checkpoint_folder")
        return remote if saved == remote else own
    before, now = (checkpoints_of(place, at) for at in (remote, own))
    return remote if remote_holds_run(before) and not remote_holds_run(now) else own


def number(spec: Spec, name: str) -> Any:
    """Return a run's value of the setting `name`, which is one of NUMBERS."""
    return getattr(spec.config.optimizer if name in OPTIMIZER_NUMBERS else spec.model, name)


def differing(specs: Sequence[Spec]) -> list[str]:
    """Return the names in NUMBERS whose values differ between the runs."""
    known = [name for name in NUMBERS if hasattr(specs[0].model, name) or name in OPTIMIZER_NUMBERS]
    return [name for name in known if len({number(spec, name) for spec in specs}) > 1]


def check_sweep(specs: Sequence[Spec]) -> None:
    """Raise SettingError for runs that differ in a setting other than NUMBERS and the seed."""
    first, allowed = specs[0], {*differing(specs), "seed"}
    for spec in specs[1:]:
        pairs = [(first.model, spec.model)]
        pairs += [
            (getattr(first.config, title), getattr(spec.config, title))
            for title in ("batching", "optimizer", "training")
        ]
        for one, other in pairs:
            for name in _names(one):
                if name not in allowed and getattr(one, name) != getattr(other, name):
                    why = (
                        f"runs that train together may differ in {', '.join(NUMBERS)} and the "
                        f"seed; train these runs one by one"
                    )
                    raise SettingError("sweep", name, why)
    for name in allowed - {"seed"}:
        if any(number(spec, name) is None for spec in specs):
            raise SettingError("sweep", name, "give every run a number for it")


def _seed(spec: Spec) -> int:
    assert spec.config.training is not None
    return spec.config.training.seed


def _names(section: Any) -> list[str]:
    """Return the names of the settings of a section or a model."""
    # A Flax module has two fields of Flax's own.
    return [item.name for item in fields(section) if item.name not in ("parent", "name")]
