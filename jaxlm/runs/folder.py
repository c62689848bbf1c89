"""The folder of a run: who may write to it, and the two files that describe the run.

runs/nplm-toy/
    config.json      every setting of the run, written before step 0
    tokenizer.json   tokenizer and vocabulary, written before step 0
    sessions.jsonl   command, versions, machine and devices of each training session
    metrics.jsonl    losses by step; the seed determines every byte
    timing.jsonl     seconds and tokens/s by step
    checkpoints/     last/ (two checkpoints) and best/ (one)    (models trained by gradient)
    ngrams/          one .npy file a table, memory-mapped       (models trained by counting)
"""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxlm.data.files import write_text
from jaxlm.data.tokenizers import Tokenizer, from_json, to_json
from jaxlm.errors import UserError
from jaxlm.models.registry import MODELS
from jaxlm.runs import remote_checkpoints
from jaxlm.runs.old_configs import upgrade

CONFIG, TOKENIZER, CHECKPOINTS, TABLES = "config.json", "tokenizer.json", "checkpoints", "ngrams"
# A resumed run must have been started with the same of these sections.
SAME_SECTIONS = ("model", "network", "batching", "protocol")


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
        """True if the folder has a config.json."""
        return (self.path / CONFIG).exists()

    def claim(self, resume: bool) -> None:
        """Write the description of this run into the folder; a new run never overwrites an old run.

        Args:
          resume: whether the folder may hold this run already.
        Raises:
          UserError: if a new run finds a run here, if a resumed run finds another run, and if the
            folder cannot be written. A refused new run leaves the folder as it was.
        """
        existed, new = self.path.exists(), not self.holds_run
        if self.remote and not resume and remote_checkpoints.holds_run(self.checkpoints):
            raise UserError(
                f"{self.checkpoints} already holds the checkpoints of a run: choose another "
                f"`folder` or `checkpoint_folder`, or continue that run with `resume`"
            )
        if not new:
            self._check_same_run(resume)
        elif existed and not self.path.is_dir():
            raise UserError(f"`folder` {self.path} is a file: give a folder")
        try:
            self.write_description()
        except UserError:
            if new:
                self.release()
            if existed:
                self.path.mkdir(exist_ok=True)
            raise

    def write_description(self) -> None:
        """Write config.json and tokenizer.json, here and in `remote`.

        Raises:
          UserError: if a file cannot be written.
        """
        try:
            write_description(self.path, self.description, self.tokenizer)
        except OSError as error:
            raise UserError(
                f"cannot write to {self.path}: {error.strerror}: choose another `folder`, or free "
                f"some space"
            ) from None
        if self.remote:
            remote_checkpoints.copy_description(self.path, self.checkpoints)

    def release(self) -> None:
        """Undo `claim` for a run that wrote nothing; other files in the folder stay."""
        for name in (CONFIG, TOKENIZER, f"{CONFIG}.partial", f"{TOKENIZER}.partial"):
            with contextlib.suppress(OSError):
                (self.path / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()
        if self.remote:
            remote_checkpoints.remove_description(self.checkpoints)

    def fetch(self) -> None:
        """Bring back the description of a run whose folder was lost, from its remote checkpoints.

        Raises:
          UserError: if there is no run in `remote` either.
        """
        if not self.remote or self.holds_run:
            return
        if not remote_checkpoints.holds_run(self.checkpoints):
            raise UserError(
                f"`resume`: neither {self.path} nor {self.checkpoints} holds a run to continue; "
                f"leave `resume` out to start a new run"
            )
        remote_checkpoints.fetch_description(self.checkpoints, self.path)

    def _check_same_run(self, resume: bool) -> None:
        """Raise UserError unless `resume` is given and the folder holds the same run."""
        if not resume:
            raise UserError(
                f"{self.path} already holds a run: choose another `folder`, or continue it with "
                f"`resume`"
            )
        saved, saved_tokenizer = read_description(self.path)
        now = json.loads(json.dumps(self.description))
        for section in SAME_SECTIONS:
            before = _with_defaults(section, saved, now.get(section))
            if before != now.get(section):
                raise UserError(
                    f"{self.path} holds another run: its {section} is "
                    f"{_differences(before, now.get(section))}; repeat the command that made it "
                    f"with `resume`, or choose another `folder`"
                )
        for name in ("optimizer", "average", "freeze"):
            old, new = (run.get("optimizer", {}).get(name) for run in (saved, now))
            if _changes_state(name, old, new):
                raise UserError(
                    f"{self.path} was trained with `{name}` {_shown(old)}, not {_shown(new)}, and "
                    f"its state would be lost: resume with `{name}` {_shown(old)}, or choose "
                    f"another `folder`"
                )
        old, new = (run.get("training", {}).get("seed") for run in (saved, now))
        if old != new:
            raise UserError(
                f"{self.path} was trained with `seed` {old}, not {new}, which orders the batches: "
                f"resume with `seed` {old}, or choose another `folder`"
            )
        places = [checkpoints_of(self.path, _remote(run)) for run in (saved, now)]
        if str(places[0]) != str(places[1]):
            raise UserError(
                f"{self.path} has its checkpoints in {places[0]}, not in {places[1]}: resume with "
                f"the same `checkpoint_folder`"
            )
        if to_json(saved_tokenizer) != to_json(self.tokenizer):
            sizes = len(saved_tokenizer.vocabulary), len(self.tokenizer.vocabulary)
            raise UserError(
                f"{self.path} was trained with another vocabulary ({sizes[0]} tokens, this text "
                f"gives {sizes[1]}): resume with the same `corpus` and `tokens`"
            )


def claim_all(folders: Sequence[RunFolder], resume: bool) -> None:
    """Claim every folder; if a folder is refused, release the folders claimed before it.

    Raises:
      UserError: if a folder is refused, or if only some of several folders hold a run to resume.
    """
    new_folders = [folder for folder in folders if not folder.holds_run]
    if resume and 0 < len(new_folders) < len(folders):
        # All runs go back to a step that all of them saved: the others would start anew.
        raise UserError(
            f"`resume`: {new_folders[0].path} holds no run, but {len(folders) - len(new_folders)} "
            f"other folders do: resume with the same `seeds` and `sweep`, or choose another "
            f"`folder`"
        )
    claimed: list[RunFolder] = []
    for folder in folders:
        new = not folder.holds_run
        try:
            folder.claim(resume)
        except UserError:
            for other in claimed:
                other.release()
            raise
        claimed += [folder] * new


def checkpoints_of(folder: Path, remote: str | None) -> Path | str:
    """Return where a run's checkpoints are: in its folder, or under its name in `remote`."""
    return f"{remote.rstrip('/')}/{folder.name}" if remote else folder / CHECKPOINTS


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
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} is not a run: it has no {CONFIG}{_runs_nearby(folder)}")
    try:
        config = upgrade(json.loads((folder / CONFIG).read_text(encoding="utf-8")))
        missing = {"model", "network"} - config.keys()
        if missing:
            raise ValueError(f"{CONFIG} has no {' and no '.join(sorted(missing))}")
        return config, from_json((folder / TOKENIZER).read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder} is a damaged run: {type(error).__name__}: {error}") from None


def read_sections(folder: Path, section: str) -> dict[str, Any]:
    """Return one section of the config.json in `folder`, empty if the run has no such section."""
    settings: dict[str, Any] = read_description(folder)[0].get(section, {})
    return settings


def _runs_nearby(folder: Path) -> str:
    """Return the end of a message: runs in `folder` and in its parent, or how to train."""
    configs = [*folder.glob(f"*/{CONFIG}"), *folder.parent.glob(f"*/{CONFIG}")]
    if not configs:
        return "; train a run with python -m jaxlm.train"
    runs = sorted(path.parent for path in configs)
    return f"; there are {', '.join(map(str, runs[:8]))}"


def _with_defaults(section: str, saved: dict[str, Any], now: Any) -> Any:
    """Return a section of a saved config.json, with every setting that the section `now` has.

    A setting that jaxlm did not have yet when the run was made gets its default value: the run was
    trained as if the setting had this value.
    """
    before = saved.get(section)
    if not isinstance(before, dict) or not isinstance(now, dict):
        return before
    entry = MODELS.get(saved["model"])
    defaults: dict[str, Any] = {}
    if section == "network" and entry is not None:
        defaults = {name: setting.default for name, setting in entry.settings.items()}
    elif section == "batching":
        from jaxlm.data.batching import BatchingConfig

        defaults = vars(BatchingConfig())
    plain = json.loads(json.dumps(defaults))
    return {name: value for name, value in plain.items() if name in now} | before


def _changes_state(name: str, old: Any, new: Any) -> bool:
    """Return whether the training state has other arrays with `new` than with `old`."""
    if name == "optimizer":
        return bool(old != new)
    # None, and a setting that the saved config.json lacks, mean that nothing is averaged or frozen.
    return (old in (None, "none")) != (new in (None, "none"))


def _shown(value: Any) -> Any:
    return "none" if value is None else value


def _remote(config: dict[str, Any]) -> str | None:
    place: str | None = config.get("training", {}).get("checkpoint_folder")
    return place.rstrip("/") if place else None


def _differences(saved: Any, asked: Any) -> str:
    """Return the settings in which two sections differ, with both values."""
    if not isinstance(saved, dict) or not isinstance(asked, dict):
        return f"{saved}, not {asked}"
    changed = [name for name in asked if saved.get(name) != asked[name]]
    return ", ".join(f"{name} {saved.get(name)}, not {asked[name]}" for name in changed)
