"""Checkpoint files: the only module that knows orbax.

Each checkpoint holds `params`, `rest` (the other parts of the training state) and `meta` (JSON:
step, digests, what the loop remembers). Orbax writes it aside, renames it when whole, and does so
in the background; the digest of the arrays finds what was damaged since.
"""

import contextlib
import dataclasses
import hashlib
import logging
import os
import re
import sys
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
from jaxlm.training.state import TrainState

Warn = Callable[[str], None]


class Checkpoints:
    """The checkpoints of one run: the last `keep` ones, and the best by validation. folder: of any
    file system that orbax knows, such as gs://bucket/run.
    """

    def __init__(self, folder: Path | str, warn: Warn, keep: int = 2) -> None:
        import orbax.checkpoint as ocp

        # Orbax logs every save, and every error that it also raises, which is told by us.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        logging.getLogger("asyncio").addFilter(_not_of_tensorstore)
        if not isinstance(sys.unraisablehook, _Unraisable):
            sys.unraisablehook = _Unraisable(sys.unraisablehook)
        self._ocp, self._warn = ocp, warn
        self._folder = path_of(folder)
        self._kept = {"last": keep, "best": 1}
        self._managers: dict[str, Any] = {}
        self._writing: dict[str, int] = {}

    def _manager(self, kind: str) -> Any:
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

    def save(self, kind: str, state: TrainState, meta: dict[str, Any]) -> None:
        """Starts writing `state`; raises UserError if this or an earlier write failed.

        Checkpoints of this and later steps, left from before a resumption, make way for it.
        """
        params, rest = _parts(state)
        step = int(state.step)
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
        reason = " ".join(str(error).split())
        # Tensorstore says last what the system said.
        if code := re.search(r"os_error_code='(\d+)'", reason):
            reason = os.strerror(int(code[1]))
        reason = reason[:200] or type(error).__name__
        return UserError(
            f"could not write the checkpoint of step {step} to {self._folder}: {reason}. Earlier "
            f"checkpoints are whole: when that is put right (free some space, if it is full), "
            f"repeat the command with --resume"
        )

    def wait(self) -> None:
        """Returns when everything saved is on disk; raises UserError if it could not be written."""
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
        """Lets go of orbax's threads. `save` and `wait` tell of a write that failed, not this."""
        for manager in self._managers.values():
            with contextlib.suppress(Exception):
                manager.close()
        self._managers.clear()

    def drop_last(self, step: int) -> int | None:
        """Removes the "last" checkpoint of `step`, if it is there; the newest step that is left."""
        self._wait("last")
        manager = self._manager("last")
        if step in manager.all_steps():
            manager.delete(step)
        return manager.latest_step()

    def restore(self, template: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest whole state of "last" and its meta; None if nothing was saved yet.

        A checkpoint that cannot be read, or whose arrays are not what was written, is skipped with
        a warning. Raises UserError if that leaves none: a run that began anew here would write over
        what may still be of use.
        """
        # Left by a run that was killed. Not in `restore_params`: who only reads a run must leave
        # alone what it is writing.
        for half_written in self._folder.glob("*/*.orbax-checkpoint-tmp*") if is_first() else ():
            with contextlib.suppress(OSError):
                half_written.rmtree()
        params, rest = _parts(template)
        steps = self._steps("last")
        for step in steps:
            saved = self._read("last", step, {"params": params, "rest": rest})
            if saved is not None:
                return _whole(template, saved["params"], saved["rest"]), saved["meta"]
        if steps:
            raise UserError(
                f"no checkpoint in {self._folder / 'last'} can be read (steps "
                f"{', '.join(map(str, steps))}): damaged, or of another version of jaxlm. They are "
                f"left as they are; to start over, choose another --out"
            )
        return None

    def restore_params(self, template: Any) -> tuple[Any, dict[str, Any], str] | None:
        """The parameters of the best checkpoint, or else of the last; their meta; and which of the
        two. None if none.
        """
        for kind in ("best", "last"):
            for step in self._steps(kind):
                saved = self._read(kind, step, {"params": _flat(template)})
                if saved is not None:
                    return unflatten_dict(saved["params"], sep="/"), saved["meta"], kind
        return None

    def _steps(self, kind: str) -> list[int]:
        if not (self._folder / kind).is_dir():
            return []
        return sorted(self._manager(kind).all_steps(), reverse=True)

    def _read(self, kind: str, step: int, templates: dict[str, Any]) -> dict[str, Any] | None:
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
        except Exception as error:  # a damaged file can fail in any layer below
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        if not reason:
            return saved
        self._warn(f"the {kind} checkpoint of step {step} is damaged ({reason}): skipped")
        return None


def path_of(folder: Path | str) -> Any:
    """orbax's own kind of path, with pathlib's methods; it is pathlib's where the files are here.
    Raises ImportError, at its first use, if the file system is of a package that is missing.
    """
    from etils import epath

    if "://" not in str(folder):
        return epath.Path(folder).resolve()
    # gcsfs logs each attempt with its traceback; what it raises in the end is told by us.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    # To make gs://bucket/run absolute would make it a local one.
    return epath.Path(folder)


class _Unraisable:
    """Passes over what tensorstore tells an event loop that orbax closed at the first of several
    errors; all else goes to `before`.
    """

    def __init__(self, before: Callable[[Any], Any]) -> None:
        self._before = before

    def __call__(self, unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            self._before(unraisable)


def _not_of_tensorstore(record: logging.LogRecord) -> bool:
    return "OCDBT" not in record.getMessage()


def _flat(tree: Any) -> dict[str, Any]:
    """Path -> array; arrays without elements, which orbax cannot write, are left out."""
    leaves = flatten_dict(flax.serialization.to_state_dict(tree), sep="/")
    return {path: leaf for path, leaf in leaves.items() if leaf is not None and leaf.size}


def _parts(state: TrainState) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters, and the rest of the state, as copies on the host.

    Copies, because the next train step is given the state's memory while orbax still writes.
    """
    params = {path: np.array(to_host(leaf)) for path, leaf in _flat(state.params).items()}
    rest = dataclasses.replace(state, params={})
    return params, {path: np.array(to_host(leaf)) for path, leaf in _flat(rest).items()}


def _whole(template: TrainState, params: dict[str, Any], rest: dict[str, Any]) -> TrainState:
    """The state that `_parts` took apart; what it left out is the template's."""
    tree = flatten_dict(flax.serialization.to_state_dict(template), sep="/", keep_empty_nodes=True)
    tree |= rest | {f"params/{path}": leaf for path, leaf in params.items()}
    return flax.serialization.from_state_dict(template, unflatten_dict(tree, sep="/"))


def digest(tree: Any) -> str:
    """sha256 of the names, shapes, types and bytes of a tree of arrays."""
    result = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        result.update(f"{jax.tree_util.keystr(path)}{array.shape}{array.dtype}".encode())
        result.update(array.tobytes())
    return result.hexdigest()
