"""The folder of a run: who may write to it, and the two files that describe the run.

runs/nplm-toy/
    config.json      every setting of the run, written before step 0
    tokenizer.json   tokenizer and vocabulary, written before step 0
    report.html      a page that shows how the run learned and reads, written at the end
    sessions.jsonl   command, versions, machine and devices of each training session
    metrics.jsonl    losses by step; the seed determines every byte
    timing.jsonl     seconds and tokens/s by step
    samples.jsonl    what the model wrote at validations, if it was asked to
    checkpoints/     last/ (two checkpoints) and best/ (one)    (models trained by gradient)
    ngrams/          one .npy file a table, memory-mapped       (models trained by counting)
    run.lock         there while a process trains the run
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxlm.data.files import write_text
from jaxlm.data.json_files import read_json
from jaxlm.data.tokenizers import Tokenizer, from_saved, to_json
from jaxlm.errors import UserError, reason
from jaxlm.runs import huggingface, remote_checkpoints
from jaxlm.runs.old_configs import complete, upgrade
from jaxlm.runs.remote_checkpoints import CHECKPOINTS, checkpoints_of
from jaxlm.runs.same_run import changed_settings, check_same_run

CONFIG, TOKENIZER, TABLES, LOCK = "config.json", "tokenizer.json", "ngrams", "run.lock"
REPORT = "report.html"
# The folder in which `RunFolder.save` makes a run: while it is there, the run is not complete.
SAVING = "saving.partial"
# The sections of config.json, and the entries of them that `load` and other readers use as texts.
SECTIONS = ("network", "text", "batching", "optimizer", "training", "counting")
TEXTS = (("training", "checkpoint_folder"), ("text", "corpus"), ("batching", "batching"))
# Everything that a run writes into its folder, config.json first. A new run takes a folder that has
# none of it.
OWN = (
    CONFIG,
    TOKENIZER,
    CHECKPOINTS,
    TABLES,
    "metrics.jsonl",
    "timing.jsonl",
    "samples.jsonl",
    "sessions.jsonl",
    "failed.json",
    REPORT,
    "tensorboard",
)


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    path: the folder. description: the content of config.json. tokenizer: the content of
    tokenizer.json. remote: the folder of `checkpoint_folder`, such as gs://bucket/runs, or None.
    """

    path: Path
    description: dict[str, Any]
    tokenizer: Tokenizer
    remote: str | None = None

    @property
    def checkpoints(self) -> Path | str:
        """The place of the run's checkpoints; see `checkpoints_of`."""
        return checkpoints_of(self.path, self.remote)

    @property
    def holds_run(self) -> bool:
        """True if the folder holds a run; see the function `holds_run`."""
        return holds_run(self.path)

    def claim(self, resume: bool) -> bool:
        """Take the folder for this run; a new run never overwrites an old run.

        A folder that already holds the run to resume is only checked: no file changes.

        Args:
          resume: whether the folder may hold this run already.
        Returns:
          True if the folder held no run, so that `create` wrote the description of this run.
        Raises:
          UserError: if a new run finds a run here, if a resumed run finds another run, and if the
            folder cannot be written. A refused folder stays as it was.
        """
        if not self.holds_run:
            if self.remote and not resume and remote_checkpoints.holds_run(self.checkpoints):
                raise UserError(
                    f"{self.checkpoints} already holds the checkpoints of a run: choose another "
                    f"`folder` or `checkpoint_folder`, or continue that run with `resume`"
                )
            self.create(take_over=resume)
            return True
        if not resume:
            raise UserError(
                f"{self.path} already holds a run: choose another `folder`{self._resume_advice()}"
            )
        if huggingface.is_huggingface(self.path):
            raise UserError(
                f"{self.path} is a Hugging Face folder, which keeps no state of training: `resume` "
                f"needs the folder that trained the run"
            )
        saved, saved_tokenizer = read_description(self.path)
        check_same_run(self.path, saved, saved_tokenizer, self.description, self.tokenizer)
        return False

    def changes(self) -> str:
        """Return the settings in which this run differs from the run in the folder, or ''.

        `resume` allows these settings to change; see `changed_settings`.
        """
        if not self.holds_run:
            return ""
        return changed_settings(read_description(self.path)[0], self.description)

    def create(self, take_over: bool = False) -> None:
        """Write the description of a new run; of two processes that try, one succeeds.

        Args:
          take_over: whether the folder may have an empty config.json, which a process leaves that
            is killed in this function.
        Raises:
          UserError: if the folder has files of a run, or cannot be written. A refused folder stays
            as it was.
        """
        if self.holds_run:
            raise UserError(f"{self.path} already holds a run: choose another `folder`")
        existed = os.path.exists(self.path)
        if existed and not os.path.isdir(self.path):
            raise UserError(f"`folder` {self.path} is a file: give a folder")
        killed = os.path.isfile(self.path / CONFIG)
        if killed and not take_over:
            raise self._being_created()
        # The tokenizer is written after the empty config.json.
        allowed = (CONFIG, TOKENIZER) if killed else ()
        found = [name for name in files_of_run(self.path) if name not in allowed]
        if CONFIG in found:
            # Another process has claimed the folder since the lines above.
            raise self._being_created()
        if found:
            raise lost_config(self.path, found)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # The claim: this fails if the file exists. Its content is written last.
            (self.path / CONFIG).open("w" if killed else "x").close()
        except FileExistsError:
            raise self._being_created() from None
        except OSError as error:
            if not existed:
                with contextlib.suppress(OSError):
                    self.path.rmdir()
            raise self._unwritable(error) from None
        try:
            self.write_description()
        except BaseException:
            self.release(keep_folder=existed)
            raise

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Within this context, no other process trains the run; others may load it.

        The system releases the lock if the process dies. A file system that knows no locks is used
        without. Some versions of filelock put a file in the place of the lock there, which stays if
        the process dies.

        Raises:
          UserError: if another process trains the run.
        """
        from filelock import FileLock, Timeout

        path = self.path / LOCK
        lock = FileLock(path)
        # A file system that knows no locks raises one of these two errors.
        with contextlib.suppress(OSError, NotImplementedError):
            try:
                lock.acquire(blocking=False)
            except Timeout:
                raise UserError(
                    f"another process trains the run in {self.path}: wait until it ends, or choose "
                    f"another `folder`; if no process does, remove {path}"
                ) from None
        try:
            yield
        finally:
            if lock.is_locked:
                # Before the release: a file that is removed later could be another process's lock.
                with contextlib.suppress(OSError):
                    path.unlink()
                lock.release()

    def save(self, write: Callable[[Path], None]) -> None:
        """Write a whole run; a save that is stopped half-way can be repeated.

        The parameters are written in the folder SAVING, then renamed; config.json is written last.

        Args:
          write: write(folder) writes the parameters into a folder.
        Raises:
          UserError: if the folder holds a run, or cannot be written. A refused folder stays as it
            was.
        """
        existed, saving = os.path.exists(self.path), self.path / SAVING
        # Nothing but a save that was stopped makes this folder, so the pieces beside it are its.
        stopped = os.path.isdir(saving) and not os.path.islink(saving) and not self.holds_run
        if not stopped:
            self._check_free()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from None
        written: list[str] = []
        try:
            with self.locked():
                try:
                    if stopped:
                        self._remove(OWN)
                        shutil.rmtree(saving, ignore_errors=True)
                    saving.mkdir()
                    write(saving)
                    for path in list(saving.iterdir()):
                        written.append(path.name)
                        os.replace(path, self.path / path.name)
                    written += [TOKENIZER, CONFIG]
                    write_description(self.path, self.description, self.tokenizer)
                    saving.rmdir()
                except BaseException:
                    # Without the lock, these files would be those of another process.
                    self._remove(written)
                    shutil.rmtree(saving, ignore_errors=True)
                    raise
        except BaseException as error:
            if not existed:
                with contextlib.suppress(OSError):
                    self.path.rmdir()
            if isinstance(error, OSError):
                raise self._unwritable(error) from None
            raise

    def write_description(self) -> None:
        """Write config.json and tokenizer.json, here and in `remote`.

        Raises:
          UserError: if a file cannot be written.
        """
        try:
            write_description(self.path, self.description, self.tokenizer)
        except OSError as error:
            raise self._unwritable(error) from None
        if self.remote:
            remote_checkpoints.copy_description(self.path, self.checkpoints)

    def release(self, keep_folder: bool = False) -> None:
        """Undo `create`: remove every file that a run writes; other files in the folder stay.

        `keep_folder` keeps the folder too if it is empty.
        """
        # config.json is the claim, and so goes last: then another process may take the folder.
        self._remove((LOCK, f"{CONFIG}.partial", f"{TOKENIZER}.partial", *reversed(OWN)))
        if not keep_folder:
            with contextlib.suppress(OSError):
                self.path.rmdir()
        if self.remote:
            remote_checkpoints.remove_description(self.checkpoints)

    def fetch(self) -> None:
        """Bring back the description of a run whose folder was lost, if `remote` has the run."""
        if self.remote and not self.holds_run and remote_checkpoints.holds_run(self.checkpoints):
            remote_checkpoints.fetch_description(self.checkpoints, self.path)

    def _remove(self, names: Sequence[str]) -> None:
        """Remove files of the folder, and folders that a run makes."""
        for name in names:
            path = self.path / name
            with contextlib.suppress(OSError):
                if path.is_dir() and name in (CHECKPOINTS, TABLES, "tensorboard"):
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)

    def _check_free(self) -> None:
        """Raise UserError if the folder has files of a run, or is a file."""
        if self.holds_run:
            raise UserError(f"{self.path} already holds a run: choose another `folder`")
        if os.path.exists(self.path) and not os.path.isdir(self.path):
            raise UserError(f"`folder` {self.path} is a file: give a folder")
        if found := files_of_run(self.path):
            raise lost_config(self.path, found)

    def _resume_advice(self) -> str:
        """Return the end of a message: `resume` continues the run, if it is this run."""
        kept = self.path / CHECKPOINTS
        if (kept / "best").exists() and not (kept / "last").exists():
            # The best parameters alone, as `Run.save` writes them, cannot be trained further.
            return ""
        try:
            saved, saved_tokenizer = read_description(self.path)
            check_same_run(self.path, saved, saved_tokenizer, self.description, self.tokenizer)
        except UserError:
            return ""
        return ", or continue it with `resume`"

    @property
    def has_saved(self) -> bool:
        """True if the run may have a finished checkpoint."""
        last = self.path / CHECKPOINTS / "last"
        return self.remote is not None or (
            os.path.isdir(last) and any(path.name.isdigit() for path in last.glob("*"))
        )

    def _being_created(self) -> UserError:
        return UserError(
            f"another process is starting a run in {self.path}, or was killed while it did: choose "
            f"another `folder`, or start the run there with `resume`"
        )

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(
            f"cannot write to {self.path}: {reason(error)}: choose another `folder`, or "
            f"free some space"
        )


def claim_all(
    folders: Sequence[RunFolder], resume: bool, locks: contextlib.ExitStack | None = None
) -> None:
    """Claim every folder; if a folder is refused, release the folders claimed before it.

    Args:
      folders: the folders.
      resume: whether the folders may hold these runs already.
      locks: keeps the locks of the folders until it is closed (`RunFolder.locked`); None for no
        locks.
    Raises:
      UserError: if a folder is refused, or if only some of several folders hold a run to resume.
    """
    new_folders = [folder for folder in folders if not folder.holds_run]
    # A process that is killed while it claims the folders leaves some of them new.
    begun = any(folder.has_saved for folder in folders)
    if resume and begun and 0 < len(new_folders) < len(folders):
        for folder in new_folders:
            if (found := files_of_run(folder.path)) and CONFIG not in found:
                raise lost_config(folder.path, found)
        # All runs go back to a step that all of them saved: the others would start anew.
        raise UserError(
            f"`resume`: {new_folders[0].path} holds no run, but {len(folders) - len(new_folders)} "
            f"other folders do: resume with the same `seeds` and `sweep`, or choose another "
            f"`folder`"
        )
    claimed: list[tuple[RunFolder, bool]] = []
    for folder in folders:
        existed = os.path.exists(folder.path)
        try:
            is_new = folder.claim(resume)
            if locks is not None:
                # Without the lock, the claim has passed to a process that resumes the run.
                locks.enter_context(folder.locked())
            if is_new:
                claimed.append((folder, existed))
        except UserError:
            for other, kept in claimed:
                other.release(keep_folder=kept)
            raise


def holds_run(folder: Path) -> bool:
    """Return whether a folder holds a run: a config.json that is not empty."""
    config = folder / CONFIG
    # For a name that is too long, os.path returns False, and Path raises OSError.
    return os.path.isfile(config) and os.path.getsize(config) > 0


def files_of_run(folder: Path) -> list[str]:
    """Return the names of the files and folders of `folder` that a run writes."""
    return [name for name in OWN if os.path.lexists(folder / name)]


def lost_config(folder: Path, found: Sequence[str]) -> UserError:
    """Return the error for a folder that has the files `found` of a run, but no config.json."""
    return UserError(
        f"{folder} has no {CONFIG}, but {', '.join(found)} of another run: choose another `folder`"
    )


def write_description(folder: Path, config: dict[str, Any], tokenizer: Tokenizer) -> None:
    """Write config.json and tokenizer.json, each to a temporary file that is then renamed."""
    contents = {
        TOKENIZER: to_json(tokenizer),
        CONFIG: json.dumps(config, ensure_ascii=False, indent=2) + "\n",
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in contents.items():
        write_text(folder / name, text)


def read_description(folder: Path) -> tuple[dict[str, Any], Tokenizer]:
    """Return the settings and the tokenizer of a run; settings of older versions are translated.

    Raises:
      UserError: if `folder` holds no run, or a damaged run.
    """
    if not os.path.isfile(folder / CONFIG):
        if os.path.isfile(folder):
            raise UserError(
                f"{folder} is a file, and no run: if it holds the model of another program, "
                f"`python -m jaxlm.convert` makes a run of it"
            )
        raise UserError(f"{folder} is not a run: it has no {CONFIG}{_runs_nearby(folder)}")
    return described(str(folder), lambda: _read_files(folder))


def _read_files(folder: Path) -> tuple[Any, Callable[[], Tokenizer]]:
    """Return the content of config.json, and a function that reads the tokenizer; see `described`.

    Raises:
      ForeignFolderError: for a Hugging Face folder of another model.
    """
    content = read_json(folder / CONFIG)
    if not huggingface.is_config(content):
        return content, lambda: from_saved(read_json(folder / TOKENIZER))
    huggingface.check_own(folder, content)
    settings, tokenizer = huggingface.read_run(folder, content)
    return settings, lambda: tokenizer


def described(
    name: str, read: Callable[[], tuple[Any, Callable[[], Tokenizer]]]
) -> tuple[dict[str, Any], Tokenizer]:
    """Return the settings and the tokenizer of a run, wherever they are kept.

    Args:
      name: the folder or the file, for an error.
      read: returns the content of config.json, and a function that reads the tokenizer.
    Raises:
      UserError: if one of them is damaged.
    """
    try:
        content, read_tokenizer = read()
        config = complete(upgrade(_checked_sections(content)))
        missing = {"model", "network"} - config.keys()
        if missing:
            raise ValueError(f"{CONFIG} has no {' and no '.join(sorted(missing))}")
        return config, read_tokenizer()
    except huggingface.ForeignFolderError:
        raise
    except UserError as error:
        raise UserError(f"{name} is a damaged run: {error}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise UserError(f"{name} is a damaged run: {reason}") from None


def _checked_sections(config: Any) -> dict[str, Any]:
    """Return the content of a config.json.

    Raises:
      ValueError: if it, or one of its sections, has another type.
    """
    if not isinstance(config, dict):
        raise ValueError(f"{CONFIG} holds a {type(config).__name__}, not an object")
    if not isinstance(config.get("model", ""), str):
        raise ValueError(f"{CONFIG}: `model` is not a text")
    for name in SECTIONS:
        if not isinstance(config.get(name, {}), dict):
            raise ValueError(f"{CONFIG}: {name!r} is not an object")
    for section, name in TEXTS:
        value = config.get(section, {}).get(name)
        if not isinstance(value, str | None):
            raise ValueError(f"{CONFIG}: `{name}` of `{section}` is not a text")
    return config


def read_sections(folder: Path, section: str) -> dict[str, Any]:
    """Return one section of the config.json in `folder`, empty if the run has no such section."""
    settings = read_description(folder)[0].get(section)
    return settings if isinstance(settings, dict) else {}


def _runs_nearby(folder: Path) -> str:
    """Return the end of a message: runs in `folder` and in its parent, or how to train."""
    configs: list[Path] = []
    for place in (folder, folder.parent):
        with contextlib.suppress(OSError):
            configs.extend(place.glob(f"*/{CONFIG}"))
    if not configs:
        return "; train a run with python -m jaxlm.train"
    runs = sorted(path.parent for path in configs)
    return f"; there are {', '.join(map(str, runs[:8]))}"
