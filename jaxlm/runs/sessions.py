"""sessions.jsonl: the command, versions, machine and devices of each training session of a run."""

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jaxlm.parallel.mesh import Mesh, devices_of
from jaxlm.runs.log import writing

SESSIONS = "sessions.jsonl"
PACKAGES = ("jaxlm", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


COUNTING = {"kinds": ["cpu: NumPy"], "mesh": {}, "processes": 1}
"""The devices of a session that trains by counting."""


def session_of(mesh: Mesh | None, devices: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the versions, the machine, and the devices of this session.

    Two sessions of one command on one machine have equal entries. `devices` is described in place
    of the devices of `mesh` if it is given; then no device of JAX is started.
    """
    versions = {name: _version(name) for name in PACKAGES}
    return {
        "versions": {"python": platform.python_version()} | versions,
        "machine": platform.platform(),
        "cores": os.cpu_count(),
        "devices": devices_of(mesh) if devices is None else devices,
    }


def record_session(folder: Path, command: Any, session: dict[str, Any]) -> None:
    """Add a line to the sessions.jsonl of a run."""
    line = json.dumps({"command": command} | session)
    with writing(folder / SESSIONS), open(folder / SESSIONS, "a", encoding="utf-8") as file:
        file.write(line + "\n")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
