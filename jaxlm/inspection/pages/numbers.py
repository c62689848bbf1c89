"""The numbers of a page as a file: NumPy's .npz, or JSON."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.data.files import replacing, write_text
from jaxlm.errors import SettingError
from jaxlm.inspection.pages.building import shown
from jaxlm.inspection.pages.html import as_json
from jaxlm.inspection.pages.view_gates import full_name, layers_of
from jaxlm.inspection.pages.views import Options
from jaxlm.inspection.pieces import readable
from jaxlm.inspection.traces import Trace, trace
from jaxlm.runs.run import Run

ENDINGS = (".npz", ".json")
BYTES = {".npz": 256 << 20, ".json": 32 << 20}
"""Largest size of the gates and states of a run in a file. Of a longer text, the first units of
each array are kept."""
MOST_TEXT_BYTES = 1 << 30
"""Largest size of an array of texts in NumPy's format."""
ABOUT = {
    "unit": "Surprisal and entropy are in bits: -log2 of the probability, and its mean over the "
    "vocabulary. A missing number is null in JSON and NaN in NumPy's format.",
    "axes": "T tokens; K most probable next tokens; V tokens of the vocabulary; units of a layer. "
    "Row t of next_* is the distribution before token t, and row T comes after the last token.",
}
"""What a file says of its numbers."""
COLUMNS = {
    "tokens": "[T] text of each token",
    "ids": "[T] id of each token",
    "spans": "[T, 2] offsets in the text of a token's first character and of the one after it",
    "skipped": "[N, 2] offsets of what the run cannot read and leaves out",
    "unknown": "[T] whether the token is read as <unk>",
    "surprisal": "[T] -log2 of the probability of the token, in bits",
    "entropy": "[T] entropy of the distribution before the token, in bits",
    "rank": "[T] place of the token by probability, 1 for the likeliest; 0 if none is predicted",
    "next_words": "[T + 1, K] text of the most probable next tokens; empty where none",
    "next_ids": "[T + 1, K] their ids; -1 where none",
    "next_probabilities": "[T + 1, K] their probabilities",
    "note": "how the text was read",
    "vocabulary": "[V] text of each id",
    "ngram/order": "[T] order of the n-gram that gave the probability",
    "ngram/count": "[T] count of this n-gram",
    "ngram/discount": "[T] discount of this count",
    "ngram/backoff_weight": "[T] product of the back-off weights of the longer contexts",
    "ngram/note": "why counts are unknown; empty if they are known",
}
"""What a file says of each array of a run, by its name."""


def write_numbers(path: Path, runs: Sequence[Run], text: str, options: Options) -> list[str]:
    """Write what a page shows of a whole text, however long it is.

    For each run the file has, under the label of the run, "tokens", "spans", "surprisal",
    "entropy" and "rank" of each token, "next_words" and "next_probabilities" before each token and
    after the last, and every gate and state by its name in a trace. "about" explains the unit and
    the axes of each array: in JSON an object, in NumPy's format a text.

    Args:
      path: the file; its ending says the format.
      runs: the runs.
      text: the text.
      options: see Options; `labels` has a name for each run.
    Returns:
      A note for each run of which the file has some units only.
    Raises:
      SettingError: for another ending, and for tokens that are too long for arrays of NumPy.
    """
    check_ending(path)
    columns: dict[str, dict[str, Any]] = {}
    arrays: dict[str, str] = {}
    notes = []
    for run, label in zip(runs, options.labels, strict=True):
        found, note = _traced(run, text, options, BYTES[path.suffix])
        notes += [note] if note else []
        columns[label] = _columns(found) | {"vocabulary": _vocabulary(run)}
        arrays |= _described(columns[label], found)
    about = ABOUT | {"arrays": arrays}
    if path.suffix == ".json":
        # A run may have the name of an entry.
        by_run = {f"{k} (run)" if k in ("text", "about") else k: v for k, v in columns.items()}
        write_text(path, as_json({"about": about, "text": text} | by_run) + "\n")
        return notes
    _check_texts_fit(path, columns)
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **_flat(text, about, columns))
    return notes


def _check_texts_fit(path: Path, columns: dict[str, dict[str, Any]]) -> None:
    """Raise SettingError if the texts are too large for arrays of NumPy.

    An array has 4 bytes for each character of its longest text, for each of its texts.
    """
    for label, of_run in columns.items():
        for name in ("vocabulary", "tokens"):
            longest = max(map(len, of_run[name]), default=0)
            size = 4 * longest * len(of_run[name])
            if size > MOST_TEXT_BYTES:
                why = (
                    f"would need {size / 1e9:.1f} GB for the {name} of {label}, because a token "
                    f"has {longest:,} characters: write a .json file"
                )
                raise SettingError("data", path, why)


def _vocabulary(run: Run) -> list[str]:
    """Return the text of each id, as `tokens` writes the text of a token."""
    return [run.tokenizer.token_text(index) for index in range(len(run.vocabulary))]


def check_ending(path: Path) -> None:
    """Raise SettingError unless the ending of a file is one of ENDINGS."""
    if path.suffix not in ENDINGS:
        raise SettingError("data", path, f"must end in {' or '.join(ENDINGS)}")


def _traced(run: Run, text: str, options: Options, room: int) -> tuple[Trace, str]:
    """Return a trace whose arrays have at most `room` bytes, and a note if they lack units."""
    beginning = options.trace(run, shown(text))
    count = len(run.tokenizer.encode_context(readable(run, text)))
    widths = {name: array.shape[1] for name, array in beginning.arrays.items()}
    share = room / max(1, 4 * count * sum(widths.values()))
    if share >= 1:
        return options.trace(run, text, counts=True), ""
    units = {name: range(max(1, int(width * share))) for name, width in widths.items()}
    note = (
        f"{run.name}: the file has the first {max(map(len, units.values()))} units of each gate "
        f"and state, because the text has {count:,} tokens"
    )
    return trace(run, text, start=options.start, count=options.count, units=units), note


def _columns(found: Trace) -> dict[str, Any]:
    columns: dict[str, Any] = {
        "tokens": found.tokens,
        "ids": found.ids,
        "spans": found.spans,
        "skipped": found.skipped,
        "unknown": found.unknown,
        "surprisal": found.surprisal,
        "entropy": found.entropy,
        "rank": found.rank,
        "next_words": found.next_words,
        "next_ids": found.next_ids,
        "next_probabilities": found.next_probabilities,
        "note": found.note,
    }
    if found.ngram is not None:
        columns |= {f"ngram/{name}": value for name, value in vars(found.ngram).items()}
    for layer, arrays in layers_of(found).items():
        columns |= {full_name(layer, short): array for short, array in arrays.items()}
    return columns


def _described(columns: dict[str, Any], found: Trace) -> dict[str, str]:
    """Return what each array of a run is, by name."""
    said = {}
    for name in columns:
        if name in COLUMNS:
            said[name] = COLUMNS[name]
        elif name in found.kinds:
            said[name] = f"[T, units] {found.kinds[name]}: values of the units after token t"
    return said


def _flat(text: str, about: dict[str, Any], runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the numbers with one level of names, "run/surprisal", and texts as arrays."""
    lines = [f"{name}: {about[name]}" for name in ABOUT]
    lines += [f"run/{name}: {said}" for name, said in about["arrays"].items()]
    flat: dict[str, Any] = {"text": np.array(text), "about": np.array("\n".join(lines))}
    for label, columns in runs.items():
        for name, value in columns.items():
            rows = _square(value) if name == "next_words" else value
            flat[f"{label}/{name}"] = np.array(rows)
    return flat


def _square(words: list[list[str]]) -> list[list[str]]:
    """Return lists of words of one length; where a list is shorter, the last words are empty."""
    longest = max(map(len, words), default=0)
    return [[*row, *[""] * (longest - len(row))] for row in words]
