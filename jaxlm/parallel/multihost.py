"""Several processes, on one machine or on many, that train one model together, by JAX's own
distributed runtime. Each runs the same program; what they must agree on, they ask here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxlm.errors import UserError


@dataclass(frozen=True)
class ProcessConfig:
    """Which processes train together."""

    distributed: bool = False
    """Join the processes that SLURM, Cloud TPU, Kubernetes or Open MPI started with this one."""
    coordinator: str | None = None
    """Or: the first process's address, such as 10.0.0.1:8476, the same for all of them,"""
    processes: int | None = None
    """how many there are,"""
    process: int | None = None
    """and which this is, from 0."""


def join_processes(config: ProcessConfig) -> None:
    """Joins the other processes, before JAX looks for devices. Raises UserError for flags that do
    not belong together, and for processes that do not come.
    """
    by_hand = config.coordinator, config.processes, config.process
    if by_hand == (None, None, None):
        if not config.distributed:
            return
    elif None in by_hand:
        raise UserError("--coordinator, --processes and --process: give all three, or none")
    else:
        assert config.processes is not None and config.process is not None
        if not 0 <= config.process < config.processes:
            raise UserError(
                f"--process {config.process}: must be from 0 to {config.processes - 1} "
                f"(--processes {config.processes})"
            )
    try:
        jax.distributed.initialize(*by_hand)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"could not join the other processes: {reason}") from None


def is_first() -> bool:
    """Whether this process speaks for all: it writes the log."""
    return jax.process_index() == 0


def allgather_ints(mine: Sequence[int]) -> np.ndarray:
    """What every process says, [processes, numbers], to all of them; each waits for the last."""
    numbers = np.asarray(mine, np.int32)
    if jax.process_count() == 1:
        return numbers[None]
    return np.asarray(multihost_utils.process_allgather(numbers))


def run_on_first(function: Callable[[], None]) -> None:
    """Run `function` on the first process only; if it raises UserError there, all processes do."""
    refused: UserError | None = None
    if is_first():
        try:
            function()
        except UserError as error:
            refused = error
    if allgather_ints([refused is not None])[0, 0]:
        raise refused or UserError("the first process could not take the run's folder")
