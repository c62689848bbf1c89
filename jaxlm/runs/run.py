"""A trained model that can be asked, and the folder it is kept in.

runs/nplm-toy/
    config.json      what made it, every setting included       (before step 0)
    tokenizer.json   tokenizer and vocabulary                   (before step 0)
    sessions.jsonl   command, versions, machine and devices of each time it was trained
    metrics.jsonl    loss by step, what the seed determines
    timing.jsonl     seconds and tokens/s by step
    checkpoints/     last/ (two) and best/ (one)      (models trained by gradient)
    ngrams/          one .npy file a table, mapped     (models trained by counting)
"""

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.data.batching import BatchingConfig
from jaxlm.data.tokenizers import Tokenizer, from_json, to_json
from jaxlm.data.vocabulary import Vocabulary
from jaxlm.errors import UserError
from jaxlm.models import MODELS, describe_model, make_model
from jaxlm.models.base import LanguageModel
from jaxlm.models.neural import NeuralModel
from jaxlm.ngrams.tables import Tables
from jaxlm.runs.checkpoints import Checkpoints, Warn

CONFIG, TOKENIZER, CHECKPOINTS = "config.json", "tokenizer.json", "checkpoints"
TABLES = "ngrams"


@dataclass(frozen=True)
class Run:
    """A model with its parameters and its tokenizer: all that is needed to ask it something."""

    model: LanguageModel
    params: Any
    tokenizer: Tokenizer
    config: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    step: int = 0
    stopped_by: int = 0
    """The signal that ended training early, 0 if none did."""

    @property
    def vocabulary(self) -> Vocabulary:
        return self.tokenizer.vocabulary

    @property
    def name(self) -> str:
        return str(self.folder) if self.folder else type(self.model).__name__

    @property
    def in_rows(self) -> bool:
        """Whether it was trained on lines, each on its own, rather than on one stream."""
        return self.config.get("batching", {}).get("batching") == "rows"

    @property
    def last_only(self) -> bool:
        """Whether it was trained to predict a line's last word alone."""
        return self.in_rows and self.config["batching"]["positions"] == "last"


def describe(
    model: LanguageModel, sections: Mapping[str, Any], config: dict[str, Any], kept: bool
) -> dict[str, Any]:
    """What config.json says: `config`, the model, and every setting of `sections`.

    Raises UserError for a model that could not be loaded again, if the run is to be kept.
    """
    # A model of one's own need not be in MODELS, unless its run is to be loaded again.
    name, network = describe_model(model) if kept else (type(model).__name__, {})
    settings = {title: asdict(section) for title, section in sections.items()}
    return config | {"model": name, "network": network} | settings


def write_description(folder: Path, config: dict[str, Any], tokenizer: Tokenizer) -> None:
    """Writes config.json and tokenizer.json, each aside and renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        TOKENIZER: to_json(tokenizer),
        CONFIG: json.dumps(config, ensure_ascii=False, indent=2) + "\n",
    }
    for name, text in contents.items():
        partial = folder / f"{name}.partial"
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, folder / name)


def claim_folder(folder: Path, config: dict[str, Any], tokenizer: Tokenizer, resume: bool) -> None:
    """Makes `folder` this run's: a new run never overwrites an old one, and only its own is
    resumed.

    Raises UserError if a new run finds a run there, or a resumed one finds another model, text or
    batching.
    """
    if (folder / CONFIG).exists():
        if not resume:
            raise UserError(
                f"{folder} already holds a run: choose another --out, or continue it with --resume"
            )
        saved, saved_tokenizer = read_description(folder)
        for section in ("model", "network", "batching"):
            now = json.loads(json.dumps(config[section]))
            before = _completed(section, saved, now)
            if before != now:
                difference = _differences(before, config[section])
                raise UserError(
                    f"{folder} holds another run: its {section} is {difference}; repeat the "
                    f"command that made it with --resume, or choose another --out"
                )
        names = _optimizer(saved), _optimizer(config)
        if names[0] != names[1]:
            raise UserError(
                f"{folder} was trained with --optimizer {names[0]}, not {names[1]}, and its state "
                f"would be lost: resume with --optimizer {names[0]}, or choose another --out"
            )
        places = _place(saved), _place(config)
        if places[0] != places[1]:
            raise UserError(
                f"{folder} has its checkpoints in {places[0] or folder / CHECKPOINTS}, not in "
                f"{places[1] or folder / CHECKPOINTS}: resume with the same --checkpoint-folder"
            )
        if to_json(saved_tokenizer) != to_json(tokenizer):
            sizes = len(saved_tokenizer.vocabulary), len(tokenizer.vocabulary)
            raise UserError(
                f"{folder} was trained with another vocabulary ({sizes[0]} tokens, this text "
                f"gives {sizes[1]}): resume with the same --corpus and --tokens"
            )
    elif folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder} is a file: give a folder")
    try:
        write_description(folder, config, tokenizer)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from None


def _completed(section: str, saved: dict[str, Any], now: Any) -> Any:
    """A section of config.json; settings that there were not yet when it was written have their
    defaults, which change nothing. Of a section without settings (a count has no batches) it
    stays without.
    """
    entry = MODELS.get(saved["model"])
    kinds = {"network": entry.config if entry else None, "batching": BatchingConfig}
    kind = kinds.get(section)
    if kind is None:
        return saved[section]
    defaults = json.loads(json.dumps(vars(kind())))
    return {name: value for name, value in defaults.items() if name in now} | saved[section]


def give_up_folder(folder: Path) -> None:
    """Undoes `claim_folder` for a run of which nothing came; what else is in the folder stays."""
    for name in (CONFIG, TOKENIZER):
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _optimizer(config: dict[str, Any]) -> str | None:
    return config.get("optimizer", {}).get("optimizer")


def _place(config: dict[str, Any]) -> str | None:
    place: str | None = config.get("training", {}).get("checkpoint_folder")
    return place.rstrip("/") if place else None


def _differences(saved: Any, asked: Any) -> str:
    if not isinstance(saved, dict):
        return f"{saved}, not {asked}"
    changed = [name for name in asked if saved.get(name) != asked[name]]
    return ", ".join(f"{name} {saved.get(name)}, not {asked[name]}" for name in changed)


def read_description(folder: Path) -> tuple[dict[str, Any], Tokenizer]:
    """The configuration and tokenizer of a run. Raises UserError if `folder` holds no run, or a
    damaged one.
    """
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} is not a run: it has no {CONFIG}{_runs_beside(folder)}")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        return config, from_json((folder / TOKENIZER).read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} is a damaged run: {type(error).__name__}: {error}") from None


def _runs_beside(folder: Path) -> str:
    found = sorted(
        path.parent for path in [*folder.glob(f"*/{CONFIG}"), *folder.parent.glob(f"*/{CONFIG}")]
    )
    return (
        f"; there are {', '.join(map(str, found[:8]))}"
        if found
        else "; train one with python -m jaxlm.train"
    )


def checkpoints_of(folder: Path, elsewhere: str | None) -> Path | str:
    """Where a run's checkpoints are: in its folder, or in a folder of that name elsewhere."""
    return f"{elsewhere.rstrip('/')}/{folder.name}" if elsewhere else folder / CHECKPOINTS


def _restored(model: NeuralModel, folder: Path, warn: Warn) -> tuple[Any, int] | None:
    """The parameters of the best checkpoint, or else the last, and their step."""
    tokens_BT = np.zeros((1, 2), np.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), tokens_BT)["params"]
    saved = read_description(folder)[0].get("training", {})
    checkpoints = Checkpoints(checkpoints_of(folder, saved.get("checkpoint_folder")), warn)
    restored = checkpoints.restore_params(shapes)
    checkpoints.close()
    return (jax.tree.map(jnp.asarray, restored[0]), restored[1]["step"]) if restored else None


def _mapped(model: LanguageModel, folder: Path, warn: Warn) -> tuple[Any, int] | None:
    """The tables of counted n-grams, mapped into memory."""
    if not (folder / TABLES).is_dir():
        return None
    try:
        return Tables.load(folder / TABLES), 1
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / TABLES} is damaged: {error}; count again") from None


PARAMETERS: dict[str, Callable[..., tuple[Any, int] | None]] = {
    "gradient": _restored,
    "counting": _mapped,
}


def load(folder: str | Path, warn: Warn = print) -> Run:
    """A run from its folder, with the best parameters by validation, or else the last.

    run = jaxlm.load("runs/nplm-toy")

    Nothing is unpickled. Raises UserError if the folder holds no run, or no whole checkpoint.
    """
    folder = Path(folder)
    config, tokenizer = read_description(folder)
    vocabulary = tokenizer.vocabulary
    model = make_model(config["model"], config["network"], len(vocabulary), vocabulary.start_id)
    found = PARAMETERS[model.trained_by](model, folder, warn)
    if found is None:
        raise UserError(
            f"{folder} has no whole checkpoint yet: train on with --resume, or choose another run"
        )
    params, step = found
    return Run(model, params, tokenizer, config, folder, step)
