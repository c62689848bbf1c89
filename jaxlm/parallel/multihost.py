"""Several processes that train one model together, on one machine or on many.

The processes use JAX's distributed runtime, and each runs the same program. Where they have to
agree on a value, they exchange it with the functions of this module.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxlm.errors import SettingError, UserError


@dataclass(frozen=True)
class ProcessConfig:
    """The processes that train one model together."""

    distributed: bool = False
    """Join the processes that SLURM, Cloud TPU, Kubernetes or Open MPI started with this one."""
    coordinator: str | None = None
    """Address of the first process, such as 10.0.0.1:8476; the same in all processes."""
    processes: int | None = None
    """Number of processes."""
    process: int | None = None
    """Index of this process, from 0."""


def join_processes(config: ProcessConfig) -> None:
    """Join the other processes. Call it before JAX looks for devices.

    Without `distributed` and `coordinator` there is nothing to join.

    Raises:
      SettingError: if `process` is not the index of one of the `processes`.
      UserError: if the settings are incomplete, or the other processes do not join in time.
    """
    address = config.coordinator, config.processes, config.process
    if address == (None, None, None):
        if not config.distributed:
            return
    elif None in address:
        raise UserError("`coordinator`, `processes` and `process`: give all three, or none")
    else:
        assert config.processes is not None and config.process is not None
        if not 0 <= config.process < config.processes:
            why = f"must be from 0 to {config.processes - 1} (`processes` {config.processes})"
            raise SettingError("process", config.process, why)
    try:
        jax.distributed.initialize(*address)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"could not join the other processes: {reason}") from None


def is_first() -> bool:
    """Return whether this is the first process, which writes the log and prints to the terminal."""
    return jax.process_index() == 0


def allgather_ints(values: Sequence[int]) -> np.ndarray:
    """Return the values of all processes, int32 [processes, values], in each process.

    Each process waits here until all have called the function.
    """
    numbers = np.asarray(values, np.int32)
    if jax.process_count() == 1:
        return numbers[None]
    return np.asarray(multihost_utils.process_allgather(numbers))


def run_on_first(function: Callable[[], None]) -> None:
    """Run `function` on the first process only.

    All processes wait until it returns.

    Raises:
      Exception: on the first process, what `function` raises.
      UserError: on the other processes, if `function` raises an exception.
    """
    raised: Exception | None = None
    if is_first():
        try:
            function()
        except Exception as error:  # the other processes would wait for this one
            raised = error
    if allgather_ints([raised is not None])[0, 0]:
        raise raised or UserError("the first process could not take the run's folder")
