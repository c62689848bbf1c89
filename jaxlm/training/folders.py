"""The folders of runs that train together."""

import json
import os
import platform
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jaxlm.data.text import Text
from jaxlm.errors import UserError
from jaxlm.parallel.mesh import Mesh, devices_of
from jaxlm.parallel.multihost import allgather_ints, is_first
from jaxlm.runs.log import writing
from jaxlm.runs.remote_checkpoints import fetch, give_up, is_kept, keep
from jaxlm.runs.run import (
    CONFIG,
    checkpoints_of,
    claim_folder,
    give_up_folder,
    write_description,
)
from jaxlm.training.trainee import Settings

SESSIONS = "sessions.jsonl"


def claim_folders(runs: Sequence[Settings], text: Text, resume: bool) -> None:
    """Makes all folders these runs', or none: what is refused leaves no other run's folder behind.

    Raises UserError as `claim_folder` does, and for a place of checkpoints that is another run's,
    or where nothing can be written.
    """
    _by_the_first(partial(_claim, runs, text, resume))


def fetch_folders(runs: Sequence[Settings]) -> None:
    """Makes the folders of runs to be resumed that were lost with their machine, from where their
    checkpoints are. Raises UserError if there is none.
    """
    _by_the_first(partial(_fetch, runs))


def _by_the_first(do: Callable[[], None]) -> None:
    """Of several processes the first does it, for all; what it may not, all may not."""
    refused: UserError | None = None
    if is_first():
        try:
            do()
        except UserError as error:
            refused = error
    if allgather_ints([refused is not None])[0, 0]:
        raise refused or UserError("the first process could not take the run's folder")


def _fetch(runs: Sequence[Settings]) -> None:
    for run in runs:
        place = _elsewhere(run)
        if not run.folder or not place or (run.folder / CONFIG).exists():
            continue
        if not is_kept(place):
            raise UserError(
                f"--resume: neither {run.folder} nor {place} holds a run to continue; leave "
                f"--resume out to start one"
            )
        fetch(place, run.folder)


def _claim(runs: Sequence[Settings], text: Text, resume: bool) -> None:
    made: list[Settings] = []
    for run in runs:
        if run.folder is None:
            continue
        new = not (run.folder / CONFIG).exists()
        try:
            _claim_one(run, run.folder, text, resume)
        except UserError:
            for one in made:
                _give_up(one)
            raise
        made += [run] * new


def _claim_one(run: Settings, folder: Path, text: Text, resume: bool) -> None:
    place, was_there = _elsewhere(run), folder.exists()
    if place and not resume and is_kept(place):
        raise UserError(
            f"{place} already holds the checkpoints of a run: choose another --out or "
            f"--checkpoint-folder, or continue that run with --resume"
        )
    new = not (folder / CONFIG).exists()
    claim_folder(folder, run.description(text), text.tokenizer, resume)
    if place:
        try:
            keep(folder, place)
        except UserError:
            if new:
                _give_up(run)
            if was_there:
                folder.mkdir(exist_ok=True)
            raise


def _give_up(run: Settings) -> None:
    assert run.folder is not None
    give_up_folder(run.folder)
    if place := _elsewhere(run):
        give_up(place)


def describe_again(runs: Sequence[Settings], text: Text) -> None:
    """Writes what the runs are, which has changed since they were claimed."""
    for run in runs:
        if run.folder and is_first():
            write_description(run.folder, run.description(text), text.tokenizer)
            if place := _elsewhere(run):
                keep(run.folder, place)


def _elsewhere(run: Settings) -> str | None:
    """Where the run keeps its checkpoints, if not in its folder."""
    if not run.folder or not run.training.checkpoint_folder:
        return None
    return str(checkpoints_of(run.folder, run.training.checkpoint_folder))


def session_of(mesh: Mesh | None) -> dict[str, Any]:
    """What a session of training runs on: versions, machine, devices and their mesh. Nothing that
    would differ if it was started again.
    """
    names = ("jaxlm", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    versions = {name: _version(name) for name in names}
    return {
        "versions": {"python": platform.python_version()} | versions,
        "machine": platform.platform(),
        "cores": os.cpu_count(),
        "devices": devices_of(mesh),
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def record_session(runs: Sequence[Settings], session: dict[str, Any]) -> None:
    """Adds a line to each run's sessions.jsonl: the command, and what it runs on."""
    for run in runs:
        if run.folder and is_first():
            about = {"command": run.config.get("command")} | session
            with writing(run.folder / SESSIONS), open(run.folder / SESSIONS, "a") as file:
                file.write(json.dumps(about) + "\n")
