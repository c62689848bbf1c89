"""Checkpoint files of a run; the only module that imports orbax.

A checkpoint holds `params`, `rest` (the other parts of the training state) and `meta` (JSON: step,
digests, and what the loop remembers). Orbax writes it to a temporary folder in the background, and
renames the folder when it is complete. The digest of the arrays finds later damage.
"""

import contextlib
import dataclasses
import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.serialization
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxlm.errors import UserError
from jaxlm.parallel.mesh import to_host
from jaxlm.parallel.multihost import is_first
from jaxlm.runs.remote_checkpoints import path_of

Warn = Callable[[str], None]
State = Any
"""A training state: a dataclass of pytrees with the fields `params` and `step`."""


class Checkpoints:
    """The checkpoints of one run.

    There are two kinds: "last", the newest `keep` checkpoints, and "best", a single checkpoint, the
    best by validation.

    Args:
      folder: a folder of any file system that orbax knows, such as gs://bucket/run.
      warn: called with one line of text for each damaged checkpoint that is skipped.
      keep: how many of the newest checkpoints are kept.
    """

    def __init__(self, folder: Path | str, warn: Warn, keep: int = 2) -> None:
        import orbax.checkpoint as ocp

        self._ocp, self._warn = ocp, warn
        self._folder = path_of(folder)
        self._kept = {"last": keep, "best": 1}
        self._managers: dict[str, Any] = {}
        self._writing: dict[str, int] = {}
        self._remedy = (
            "Earlier checkpoints are whole: remove the cause (free some space, if the disk is "
            "full), then repeat the command with `resume`"
        )

    def _manager(self, kind: str) -> Any:
        """Return orbax's CheckpointManager of a kind, made when it is first asked for."""
        if kind not in self._managers:
            options = self._ocp.CheckpointManagerOptions(
                max_to_keep=self._kept[kind],
                create=True,
                enable_async_checkpointing=True,
                # Threads that wait for folders which a full disk refuses would hold the process
                # for minutes after its error.
                async_options=self._ocp.options.AsyncOptions(
                    create_directories_asynchronously=False
                ),
            )
            self._managers[kind] = self._ocp.CheckpointManager(self._folder / kind, options=options)
        return self._managers[kind]

    def save(self, kind: str, state: State, meta: dict[str, Any]) -> None:
        """Start to write `state` in the background; remove checkpoints of this and later steps.

        Args:
          kind: "last" or "best".
          state: the training state.
          meta: values for JSON that are kept beside the arrays.
        Raises:
          UserError: if this or an earlier write failed.
        """
        params, rest = _parts(state)
        self._write(kind, int(state.step), params, rest, meta)

    def save_params(self, kind: str, params: Any, step: int) -> None:
        """Start to write parameters alone, which can be loaded but not trained further.

        Args:
          kind: "last" or "best".
          params: the parameters.
          step: the train step that the parameters are from.
        """
        self._remedy = "Remove the cause (free some space, if the disk is full), then save again"
        arrays = {path: np.array(to_host(leaf)) for path, leaf in _flat(params).items()}
        self._write(kind, step, arrays, {"step": np.asarray(step, np.int32)}, {})

    def _write(
        self,
        kind: str,
        step: int,
        params: dict[str, Any],
        rest: dict[str, Any],
        meta: dict[str, Any],
    ) -> None:
        meta = meta | {"step": step, "params": digest(params), "rest": digest(rest)}
        save, args = self._ocp.args.StandardSave, self._ocp.args
        self._wait(kind)
        try:
            manager = self._manager(kind)
            for old in manager.all_steps():
                if old >= step:
                    manager.delete(old)
            self._writing[kind] = step
            manager.save(
                step,
                args=args.Composite(params=save(params), rest=save(rest), meta=args.JsonSave(meta)),
            )
        except Exception as error:  # orbax, tensorstore and the system raise unrelated types
            raise self._save_failed(step, error) from error

    def _save_failed(self, step: int, error: Exception) -> UserError:
        """Return the error for a checkpoint that could not be written, with a remedy."""
        reason = " ".join(str(error).split())
        # Tensorstore says last what the system said.
        if code := re.search(r"os_error_code='(\d+)'", reason):
            reason = os.strerror(int(code[1]))
        reason = reason[:200] or type(error).__name__
        return UserError(
            f"could not write the checkpoint of step {step} to {self._folder}: {reason}. "
            f"{self._remedy}"
        )

    def wait(self) -> None:
        """Wait until everything saved is on disk; raise UserError if it could not be written."""
        for kind in self._managers:
            self._wait(kind)

    def _wait(self, kind: str) -> None:
        if kind not in self._managers:
            return
        try:
            self._managers[kind].wait_until_finished()
            self._managers[kind].check_for_errors()
        except Exception as error:  # see save
            raise self._save_failed(self._writing.get(kind, 0), error) from error

    def close(self) -> None:
        """End orbax's threads. A failed write is reported by `save` and `wait`, not here."""
        for manager in self._managers.values():
            with contextlib.suppress(Exception):
                manager.close()
        self._managers.clear()

    def drop_last(self, step: int) -> int | None:
        """Remove the "last" checkpoint of `step`, and return the newest step that is left."""
        self._wait("last")
        manager = self._manager("last")
        if step in manager.all_steps():
            manager.delete(step)
        return manager.latest_step()

    def readable_steps(self) -> list[int]:
        """Return the steps of the "last" checkpoints that are complete, newest first."""
        return self._steps("last")

    def restore(self, template: State) -> tuple[State, dict[str, Any]] | None:
        """Return the newest "last" state that can be read, and its meta; None if nothing was saved.

        A checkpoint that cannot be read, or whose arrays differ from what was written, is skipped
        with a warning.

        Raises:
          UserError: if there are checkpoints and none can be read. A run that started anew here
            would overwrite files that may still be of use.
        """
        steps = self._steps("last")
        for step in steps:
            saved = self.restore_step(step, template)
            if saved is not None:
                return saved
        if steps:
            raise self.unreadable(steps)
        return None

    def restore_step(self, step: int, template: State) -> tuple[State, dict[str, Any]] | None:
        """Return the "last" state of one step and its meta; warn and return None if damaged."""
        params, rest = _parts(template)
        saved = self._read("last", step, {"params": params, "rest": rest})
        if saved is None:
            return None
        return _whole(template, saved["params"], saved["rest"]), saved["meta"]

    def unreadable(self, steps: list[int]) -> UserError:
        """Return the error to raise if no "last" checkpoint of these steps can be read."""
        return UserError(
            f"no checkpoint in {self._folder / 'last'} can be read (steps "
            f"{', '.join(map(str, steps))}): damaged, or of another version of jaxlm. They are "
            f"left as they are; to start over, choose another `folder`"
        )

    def remove_half_written(self) -> None:
        """Remove what a killed run left behind while it wrote a checkpoint.

        Only a run that trains on may do so: a reader must not touch what a running process writes.
        """
        for half_written in self._folder.glob("*/*.orbax-checkpoint-tmp*") if is_first() else ():
            with contextlib.suppress(OSError):
                half_written.rmtree()

    def restore_params(self, template: Any) -> tuple[Any, dict[str, Any], str] | None:
        """Return the parameters of the best checkpoint, or else of the last one.

        Returns:
          The parameters, their meta, and "best" or "last"; None if there is no checkpoint.
        """
        for kind in ("best", "last"):
            tried: set[int] = set()
            # A run that trains now may replace the checkpoint that was listed a moment ago.
            while left := [step for step in self._steps(kind) if step not in tried]:
                tried.add(left[0])
                saved = self._read(kind, left[0], {"params": _flat(template)})
                if saved is not None:
                    return unflatten_dict(saved["params"], sep="/"), saved["meta"], kind
        return None

    def _steps(self, kind: str) -> list[int]:
        """Return the steps of the complete checkpoints of a kind, newest first."""
        if not (self._folder / kind).is_dir():
            return []
        try:
            steps = self._manager(kind).all_steps()
        except Exception:  # damaged metadata of a checkpoint: `_read` says so
            names = [path.name for path in (self._folder / kind).iterdir()]
            steps = [int(name) for name in names if name.isdigit()]
        return sorted(steps, reverse=True)

    def _read(self, kind: str, step: int, templates: dict[str, Any]) -> dict[str, Any] | None:
        """Return the parts of a checkpoint and its meta; warn and return None if it is damaged.

        `templates` has a tree of arrays, or of shapes, for each part to read: "params", "rest".
        """
        args = self._ocp.args
        shapes = jax.tree.map(lambda a: np.empty(a.shape, a.dtype), templates)
        items = {name: args.StandardRestore(tree) for name, tree in shapes.items()}
        try:
            read = self._manager(kind).restore(
                step, args=args.Composite(**items, meta=args.JsonRestore())
            )
            saved = {name: read[name] for name in templates} | {"meta": read["meta"]}
            damaged = [name for name in templates if digest(saved[name]) != saved["meta"][name]]
            reason = f"its {' and '.join(damaged)} are not what was written" if damaged else ""
            reason = reason or _other_shape(saved, shapes)
        except Exception as error:  # a damaged file can fail in any layer below
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        if not reason:
            return saved
        if not (self._folder / kind / str(step)).is_dir():
            # It was removed after it was listed, and is not damaged.
            self._manager(kind).reload()
            return None
        self._warn(f"the {kind} checkpoint of step {step} is damaged ({reason}): skipped")
        return None


def _other_shape(saved: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Return the first array whose shape is another than `wanted`, or ''.

    Orbax returns arrays in the shape in which they were saved.
    """
    for part, arrays in wanted.items():
        for path, array in arrays.items():
            shape = np.shape(saved[part][path])
            if shape != array.shape:
                return f"its {path} has the shape {shape}, and this network needs {array.shape}"
    return ""


def _flat(tree: Any) -> dict[str, Any]:
    """Return path -> array. Arrays without elements are left out: orbax cannot write them."""
    leaves = flatten_dict(flax.serialization.to_state_dict(tree), sep="/")
    return {path: leaf for path, leaf in leaves.items() if leaf is not None and leaf.size}


def _parts(state: State) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return copies of the parameters, and of the rest of the state, on the host.

    They are copies because the next train step reuses the state's memory while orbax still writes.
    """
    params = {path: np.array(to_host(leaf)) for path, leaf in _flat(state.params).items()}
    rest = dataclasses.replace(state, params={})
    return params, {path: np.array(to_host(leaf)) for path, leaf in _flat(rest).items()}


def _whole(template: State, params: dict[str, Any], rest: dict[str, Any]) -> State:
    """Return the state that `_parts` split; arrays that it left out are the template's."""
    tree = flatten_dict(flax.serialization.to_state_dict(template), sep="/", keep_empty_nodes=True)
    tree |= rest | {f"params/{path}": leaf for path, leaf in params.items()}
    return flax.serialization.from_state_dict(template, unflatten_dict(tree, sep="/"))


def digest(tree: Any) -> str:
    """Return the sha256 of the names, shapes, dtypes and bytes of a tree of arrays."""
    result = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        result.update(f"{jax.tree_util.keystr(path)}{array.shape}{array.dtype}".encode())
        result.update(array.tobytes())
    return result.hexdigest()
