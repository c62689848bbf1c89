"""The check that a resumed run is the run in the folder."""

import json
from pathlib import Path
from typing import Any

from jaxlm.data.tokenizers import Tokenizer, to_json
from jaxlm.errors import UserError
from jaxlm.runs.remote_checkpoints import checkpoints_of

TEXT_DIGESTS = "text_sha256"
"""The entry of config.json with the digest of each split that training reads."""
# A resumed run must have been started with the same of these sections.
SAME_SECTIONS = ("model", "network", "batching", "protocol")
COUNTED_WITH: dict[str, Any] = {
    "like_lmplz": False,
    "prune": None,
    "prune_entropy": None,
    "prune_history": "counts",
}
"""Settings of counting that a resumed run must have been started with, and their values in runs of
versions without them."""


def check_same_run(
    folder: Path,
    saved: dict[str, Any],
    saved_tokenizer: Tokenizer,
    description: dict[str, Any],
    tokenizer: Tokenizer,
) -> None:
    """Raise UserError unless a resumed run is the run that its folder holds.

    Args:
      folder: the folder of the run.
      saved: the content of the folder's config.json.
      saved_tokenizer: the tokenizer in the folder.
      description: the content that config.json would have for the resumed run.
      tokenizer: the tokenizer of the resumed run.
    """
    now = json.loads(json.dumps(description))
    for section in SAME_SECTIONS:
        before, asked = saved.get(section), now.get(section)
        if before != asked:
            raise UserError(
                f"{folder} holds another run: its {section} is "
                f"{_differences(before, asked)}; repeat the command that made it "
                f"with `resume`, or choose another `folder`"
            )
    for name in ("optimizer", "average", "freeze"):
        old, new = (_section(run, "optimizer").get(name) for run in (saved, now))
        if _changes_state(name, old, new):
            raise UserError(
                f"{folder} was trained with `{name}` {_shown(old)}, not {_shown(new)}, and "
                f"its state would be lost: resume with `{name}` {_shown(old)}, or choose "
                f"another `folder`"
            )
    old, new = (_section(run, "training").get("seed") for run in (saved, now))
    if old != new:
        raise UserError(
            f"{folder} was trained with `seed` {old}, not {new}, which orders the batches: "
            f"resume with `seed` {old}, or choose another `folder`"
        )
    for name, default in COUNTED_WITH.items():
        old, new = (_section(run, "counting").get(name, default) for run in (saved, now))
        if old != new:
            raise UserError(
                f"{folder} was counted with `{name}` {_shown(old)}, not {_shown(new)}: resume with "
                f"the same `{name}`, or choose another `folder`"
            )
    places = [checkpoints_of(folder, _remote(run)) for run in (saved, now)]
    if str(places[0]) != str(places[1]):
        raise UserError(
            f"{folder} has its checkpoints in {places[0]}, not in {places[1]}: resume with "
            f"the same `checkpoint_folder`"
        )
    if to_json(saved_tokenizer) != to_json(tokenizer):
        sizes = len(saved_tokenizer.vocabulary), len(tokenizer.vocabulary)
        raise UserError(
            f"{folder} was trained with another vocabulary ({sizes[0]} tokens, this text "
            f"gives {sizes[1]}): resume with the same `corpus` and `tokens`"
        )
    _check_same_text(folder, saved, now)


def _check_same_text(folder: Path, saved: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise UserError if the run was trained on another text.

    A run without digests, which an older version made, is not checked.
    """
    old, new = (_section(run, TEXT_DIGESTS) for run in (saved, now))
    if not old or not new:
        return
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if names:
        corpus = _section(now, "text").get("corpus")
        raise UserError(
            f"{folder} was trained on another text: `corpus` {corpus} has another "
            f"{' and '.join(names)} split; resume with the same `corpus` and `fractions`, or "
            f"choose another `folder`"
        )


def changed_settings(saved: dict[str, Any], description: dict[str, Any]) -> str:
    """Return the settings with which a resumed run goes on differently, with both values.

    Example:
      >>> changed_settings({"optimizer": {"lr": 0.1}}, {"optimizer": {"lr": 0.2}})
      '`lr` 0.2 (was 0.1)'

    Args:
      saved: the content of the folder's config.json.
      description: the content that config.json will have.
    """
    now = json.loads(json.dumps(description))
    changes = []
    for section in ("optimizer", "training"):
        old, new = (run.get(section) for run in (saved, now))
        if isinstance(old, dict) and isinstance(new, dict):
            changes += [
                f"`{name}` {_shown(value)} (was {_shown(old[name])})"
                for name, value in new.items()
                if name in old and old[name] != value
            ]
    return ", ".join(changes)


def _section(config: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a section of a config.json, empty if it is missing or damaged."""
    section = config.get(name)
    return section if isinstance(section, dict) else {}


def _changes_state(name: str, old: Any, new: Any) -> bool:
    """Return whether the training state has other arrays with `new` than with `old`."""
    # None, and a setting that the saved config.json lacks, mean that nothing is averaged or frozen.
    old, new = (None if value == "none" else value for value in (old, new))
    if name == "freeze":
        return (old is None) != (new is None)
    return bool(old != new)


def _shown(value: Any) -> Any:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "none" if value is None else value


def _remote(config: dict[str, Any]) -> str | None:
    place: str | None = _section(config, "training").get("checkpoint_folder")
    return place.rstrip("/") if place else None


def _differences(saved: Any, asked: Any) -> str:
    """Return the settings in which two sections differ, with both values."""
    if not isinstance(saved, dict) or not isinstance(asked, dict):
        return f"{saved}, not {asked}"
    names = {**saved, **asked}
    values = {name: (saved.get(name, "absent"), asked.get(name, "absent")) for name in names}
    changed = {name: both for name, both in values.items() if both[0] != both[1]}
    return ", ".join(f"{name} {old}, not {new}" for name, (old, new) in changed.items())
