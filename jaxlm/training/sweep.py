"""Several runs that differ only in numbers, trained in parallel in one compiled function."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxlm.data.batching import Block
from jaxlm.errors import SettingError, choose
from jaxlm.models.layers import RATES
from jaxlm.models.neural import param_shapes, with_fused_loop
from jaxlm.ops.machine import step_options
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
        model = with_fused_loop(first.model.clone(**rates), "cudnn")
        step = block_function(model, optimizer, key, positions, varied=varied, share=share)
        return step(state, block, count)

    all_runs = jax.vmap(one_run, in_axes=(0, 0, 0, 0, None))
    options = step_options(first.model.compute_dtype)
    compiled = jax.jit(all_runs, donate_argnums=2, compiler_options=options)

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
    known = [item for item in NUMBERS if item in OPTIMIZER_NUMBERS or hasattr(spec.model, item)]
    numbers: dict[str, list[float]] = {}
    for name, values in sweep.items():
        choose(dict.fromkeys(known), name, "sweep")
        numbers[name] = _numbers(name, values)
    specs = []
    for combination in itertools.product(*numbers.values()):
        chosen = dict(zip(numbers, combination, strict=True))
        rates: dict[str, Any] = {name: value for name, value in chosen.items() if name in RATES}
        others: dict[str, Any] = {name: v for name, v in chosen.items() if name not in RATES}
        model = spec.model.clone(**rates)
        # A rate out of range is refused here, before any run has a folder.
        param_shapes(model)
        for seed in range(training.seed, training.seed + seeds):
            name = _run_name(chosen, seed, _exact)
            before = _run_name(chosen, seed, _short)
            if resume and folder and not holds_run(folder / name) and holds_run(folder / before):
                # Version 0.1.0 cut long numbers in the names of folders.
                name = before
            remote = sweep_remote(training.checkpoint_folder, folder, name, resume)
            config = replace(
                spec.config,
                network={**spec.config.network, **rates},
                optimizer=replace(optimizer, **others),
                training=replace(training, seed=seed, checkpoint_folder=remote),
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


def _numbers(name: str, values: Any) -> list[float]:
    """Return the values of a swept setting as numbers of Python; `values` may be an array.

    Raises:
      SettingError: unless `values` is a list of numbers that differ.
    """
    shown = f"{name}={values}"
    items = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(items, str) or not isinstance(items, Iterable):
        raise SettingError("sweep", shown, f"give a list of numbers, such as {name}=[0.1, 0.2]")
    numbers: list[float] = []
    for item in items:
        number = item.item() if hasattr(item, "item") and not getattr(item, "ndim", 0) else item
        if isinstance(number, bool) or not isinstance(number, Real):
            raise SettingError("sweep", f"{name}={item!r}", "give every run a number for it")
        numbers.append(number)  # type: ignore[arg-type]
    if len(set(numbers)) < len(numbers) or not numbers:
        shown = f"{name}={','.join(map(str, numbers))}"
        raise SettingError("sweep", shown, f"give values that differ, such as {name}=0.1,0.2")
    return numbers


def _run_name(chosen: Mapping[str, float], seed: int, spell: Callable[[float], str]) -> str:
    """Return the name of a run's folder, such as lr-0.001-seed-0."""
    parts = [f"{name.replace('_', '-')}-{spell(value)}" for name, value in chosen.items()]
    return "-".join([*parts, f"seed-{seed}"])


def _short(value: float) -> str:
    return f"{value:g}"


def _exact(value: float) -> str:
    """Return the short spelling of a number if it is exact, and every digit otherwise."""
    return _short(value) if float(_short(value)) == value else repr(value)


def _seed(spec: Spec) -> int:
    assert spec.config.training is not None
    return spec.config.training.seed
