"""A trained model with all that its users need: `Run`, `Run.save` and `load`."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxlm.data.tokenizers import Tokenizer
from jaxlm.data.vocabulary import Vocabulary
from jaxlm.errors import SettingError, UserError
from jaxlm.models.base import Carry, LanguageModel
from jaxlm.models.registry import MODELS, describe_model, make_model
from jaxlm.runs.folder import TABLES, RunFolder, read_description
from jaxlm.runs.huggingface import is_huggingface, read_params
from jaxlm.runs.protocol import Protocol
from jaxlm.runs.remote_checkpoints import CHECKPOINTS, check_readable, checkpoints_of
from jaxlm.runs.starts import WARM_START, carry_after

Warn = Callable[[str], None]
UNK_IN_TRAINING = "unk_in_training"
"""The entry of config.json that says whether the training text has `<unk>`."""


@dataclass(frozen=True)
class Run:
    """A trained model: the model with its parameters, its tokenizer and its protocol.

    Functions that score, predict, generate and inspect take a Run.

    model: the model. params: its parameters. tokenizer: cuts text into the model's tokens.
    protocol: how the run is scored. settings: the content of config.json. folder: where the run is
    kept, or None. step: the train step that the parameters are from. stopped_by: the signal that
    ended training early, 0 if none did.

    Example:
      >>> import jaxlm
      >>> text = jaxlm.read_corpus("toy", eos=False)
      >>> run = jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=3), text, quiet=True)
      >>> run.model.order, len(run.vocabulary)
      (3, 7)
    """

    model: LanguageModel
    params: Any
    tokenizer: Tokenizer
    protocol: Protocol = field(default_factory=Protocol)
    settings: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    step: int = 0
    stopped_by: int = 0

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens that the model knows."""
        return self.tokenizer.vocabulary

    @functools.cached_property
    def warm_carry(self) -> Carry:
        """The carry of one row after the stretch of training text that the run keeps, but its last
        token; see `jaxlm.runs.starts.start_of`."""
        return carry_after(self, self.settings.get(WARM_START, []))

    @property
    def name(self) -> str:
        """The folder of the run, or the class of its model."""
        return str(self.folder) if self.folder else type(self.model).__name__

    def save(self, folder: str | Path) -> "Run":
        """Write the run to a new folder, and return the run as `load` would bring it back.

        The folder has the parameters of this run, without what training would need to continue. If
        they cannot be written, the folder is left as it was. A save that is killed can be repeated.

        Raises:
          UserError: if the folder holds a run already, cannot be written, or if the model is not
            registered.
        """
        name, network = describe_model(self.model)
        description = self.settings | {
            "model": name,
            "network": network,
            "protocol": self.protocol.as_json(),
        }
        # The checkpoints of the new folder are in the new folder.
        training = description.get("training")
        if isinstance(training, dict):
            description["training"] = training | {"checkpoint_folder": None}
        write = WRITERS[self.model.trained_by]
        place = RunFolder(Path(folder), description, self.tokenizer)
        place.save(lambda partial: write(self, partial))
        return load(place.path)


def load(folder: str | Path, warn: Warn = print, *, checkpoint_folder: str | None = None) -> Run:
    """Return the run that a folder keeps, with the best parameters by validation, or else the last.

        run = jaxlm.load("runs/nplm-toy")

    A Hugging Face folder that jaxlm wrote is a run too. No file is unpickled.

    Args:
      folder: the folder of the run.
      warn: called with a line of text for each damaged checkpoint that is skipped.
      checkpoint_folder: the folder of the checkpoints, if training wrote them elsewhere. The
        config.json of the run names this folder too, but a stranger may have written the file, so
        that the place is read only if you name it here.
    Raises:
      UserError: if the folder holds no run, no whole checkpoint, a model that is not registered, or
        a protocol that this version does not know.
      SettingError: for another `checkpoint_folder` than the run has.
    """
    folder = Path(folder)
    settings, tokenizer = read_description(folder)
    _check_place(folder, settings, checkpoint_folder)
    vocabulary = tokenizer.vocabulary
    name = settings["model"]
    check_registered(folder, name)
    try:
        protocol = Protocol.from_json(settings["protocol"])
    except UserError as error:
        raise UserError(f"{folder} cannot be loaded: {error}") from None
    model = described_model(folder, settings, vocabulary)
    read = read_params if is_huggingface(folder) else READERS[model.trained_by]
    restored = read(model, folder, settings, warn)
    if restored is None:
        raise UserError(
            f"{folder} has no whole checkpoint yet: train on with `resume`, or choose another run"
        )
    params, step = restored
    return Run(model, params, tokenizer, protocol, settings, folder, step)


def load_all(
    folders: Sequence[str | Path], warn: Warn = print, *, checkpoint_folder: str | None = None
) -> list[Run]:
    """Return the runs of several folders; see `load` for the arguments and the errors.

    `checkpoint_folder` is for the runs that training kept there. Other runs, such as an n-gram
    beside a network, have their parameters in their own folders.
    """
    elsewhere = [checkpoint_folder is not None and _is_kept_elsewhere(path) for path in folders]
    if not any(elsewhere):
        # The errors of `load` say what is wrong.
        elsewhere = [True] * len(folders)
    return [
        load(folder, warn, checkpoint_folder=checkpoint_folder if asked else None)
        for folder, asked in zip(folders, elsewhere, strict=True)
    ]


def _is_kept_elsewhere(folder: str | Path) -> bool:
    """Return whether the config.json of a run names a folder for its checkpoints."""
    training = read_description(Path(folder))[0].get("training")
    return isinstance(training, dict) and training.get("checkpoint_folder") is not None


def _check_place(folder: Path, settings: dict[str, Any], asked: str | None) -> None:
    """Raise SettingError unless `asked` is the folder in which the run has its checkpoints."""
    remote = settings.get("training", {}).get("checkpoint_folder")
    if (asked or "").rstrip("/") == (remote or "").rstrip("/"):
        return
    if remote is None:
        why = f"{folder} has its checkpoints in its own folder: leave the setting out"
    else:
        why = (
            f"{folder} says that its checkpoints are in {remote}: to read that place, give "
            f"`checkpoint_folder` {remote}"
        )
    raise SettingError("checkpoint_folder", "none" if asked is None else asked, why)


def check_registered(folder: Path, name: str) -> None:
    """Raise UserError unless `name`, the model of the run in `folder`, is registered."""
    if name not in MODELS:
        raise UserError(
            f"{folder} is a run of a model called {name!r}, which is not registered: call "
            f"jaxlm.register_model first, or give the file that does so as `plugin`"
        )


def described_model(place: Path, settings: dict[str, Any], vocabulary: Vocabulary) -> LanguageModel:
    """Return the model that the settings of a run describe; `place` names the run in an error.

    Raises:
      UserError: for a setting that does not exist, or has a value that it cannot have.
    """
    name, network = settings["model"], settings["network"]
    try:
        return make_model(name, network, len(vocabulary), vocabulary.start_id)
    except UserError as error:
        # The user gave no such setting: the message must not name a flag.
        why = str(error).replace("`", "")
        raise UserError(f"{place} cannot be loaded: its network: {why}") from None


def _read_checkpoint(
    model: Any, folder: Path, settings: dict[str, Any], warn: Warn
) -> tuple[Any, int] | None:
    """Return the parameters of the best checkpoint, or else of the last one, and their step."""
    import jax
    import jax.numpy as jnp

    from jaxlm.models.neural import param_shapes, tree_bytes
    from jaxlm.ops.machine import check_fits, host_memory
    from jaxlm.runs.checkpoints import Checkpoints

    remote = settings.get("training", {}).get("checkpoint_folder")
    shapes = param_shapes(model)
    check_fits(f"the parameters of {folder}", tree_bytes(shapes), host_memory(), "is it whole?")
    place = checkpoints_of(folder, remote)
    if remote:
        check_readable(place)
    checkpoints = Checkpoints(place, warn)
    restored = checkpoints.restore_params(shapes)
    checkpoints.close()
    return (jax.tree.map(jnp.asarray, restored[0]), restored[1]["step"]) if restored else None


def _write_checkpoint(run: Run, folder: Path) -> None:
    """Write the parameters as the best checkpoint."""
    from jaxlm.runs.checkpoints import Checkpoints

    checkpoints = Checkpoints(folder / CHECKPOINTS, print)
    checkpoints.save_params("best", run.params, run.step)
    checkpoints.wait()
    checkpoints.close()


def _read_tables(
    model: LanguageModel, folder: Path, settings: dict[str, Any], warn: Warn
) -> tuple[Any, int] | None:
    """Return the tables of an n-gram, memory-mapped, and 1 for the step."""
    return (read_tables(folder), 1) if (folder / TABLES).is_dir() else None


def read_tables(folder: Path) -> Any:
    """Return the tables of the n-gram in a run's folder, memory-mapped.

    Raises:
      UserError: if they are damaged.
    """
    from jaxlm.ngrams.tables import Tables

    try:
        return Tables.load(folder / TABLES)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{folder / TABLES} is damaged: {reason}; remove this folder, then count again with "
            f"`resume`"
        ) from None


def _write_tables(run: Run, folder: Path) -> None:
    """Write the tables of an n-gram."""
    run.params.save(folder / TABLES)


READERS: dict[str, Callable[..., tuple[Any, int] | None]] = {
    "gradient": _read_checkpoint,
    "counting": _read_tables,
}
"""How a run is read, by `trained_by` of its model: (model, folder, settings, warn) -> parameters
and step, or None if the folder has no parameters yet."""
WRITERS: dict[str, Callable[[Run, Path], None]] = {
    "gradient": _write_checkpoint,
    "counting": _write_tables,
}
"""How a run is written, by `trained_by` of its model."""
