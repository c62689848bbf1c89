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


def write_numbers(path: Path, runs: Sequence[Run], text: str, options: Options) -> list[str]:
    """Write what a page shows of a whole text, however long it is.

    For each run the file has, under the label of the run, "tokens", "spans", "surprisal",
    "entropy" and "rank" of each token, "next_words" and "next_probabilities" before each token and
    after the last, and every gate and state by its name in a trace.

    Args:
      path: the file; its ending says the format.
      runs: the runs.
      text: the text.
      options: see Options; `labels` has a name for each run.
    Returns:
      A note for each run of which the file has some units only.
    Raises:
      SettingError: for another ending.
    """
    check_ending(path)
    numbers: dict[str, Any] = {"text": text}
    notes = []
    for number, (run, label) in enumerate(zip(runs, options.labels, strict=True), start=1):
        found, note = _traced(run, text, options, BYTES[path.suffix])
        notes += [note] if note else []
        # The folder of a run may be called "text".
        name = f"{label} ({number})" if label in numbers else label
        numbers[name] = _columns(found) | {"vocabulary": list(run.vocabulary.tokens)}
    if path.suffix == ".json":
        write_text(path, as_json(numbers) + "\n")
        return notes
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **_flat(numbers))
    return notes


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
        return options.trace(run, text), ""
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


def _flat(numbers: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers with one level of names, "run/surprisal", and texts as arrays."""
    flat: dict[str, Any] = {"text": np.array(numbers["text"])}
    for label, columns in numbers.items():
        if label != "text":
            for name, value in columns.items():
                if name != "next_words":
                    flat[f"{label}/{name}"] = np.array(value)
    return flat
