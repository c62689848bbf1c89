"""The folders of runs that train together."""

import json
import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jaxlm.data.text import Text
from jaxlm.errors import UserError
from jaxlm.processes import agreed, is_first
from jaxlm.sharding import Mesh, devices_of
from jaxlm.training.log import writing
from jaxlm.training.member import Settings
from jaxlm.training.runs import claim_folder, give_up_folder, write_description

SESSIONS = "sessions.jsonl"


def claim_folders(runs: Sequence[Settings], text: Text, resume: bool) -> None:
    """Makes all folders these runs', or none: what is refused leaves no other run's folder behind.
    Of several processes the first does it, for all.

    Raises UserError as `claim_folder` does.
    """
    refused: UserError | None = None
    if is_first():
        try:
            _claim(runs, text, resume)
        except UserError as error:
            refused = error
    if agreed([refused is not None])[0, 0]:
        raise refused or UserError("the first process could not take the run's folder")


def _claim(runs: Sequence[Settings], text: Text, resume: bool) -> None:
    made: list[Path] = []
    for run in runs:
        if run.folder is None:
            continue
        new = not run.folder.exists()
        try:
            claim_folder(run.folder, run.description(text), text.tokenizer, resume)
        except UserError:
            for folder in made:
                give_up_folder(folder)
            raise
        made += [run.folder] * new


def describe_again(runs: Sequence[Settings], text: Text) -> None:
    """Writes what the runs are, which has changed since they were claimed."""
    for run in runs:
        if run.folder and is_first():
            write_description(run.folder, run.description(text), text.tokenizer)


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
