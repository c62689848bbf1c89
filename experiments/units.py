"""Find the units of two character LSTMs that follow a property of the text, on held-out text.

Command    python experiments/units.py FOLDER   (holds tinyshakespeare/ and xiyouji/)
Hardware   two CPU cores, shared with other jobs
Minutes    20 for training, 8 for the units
Expected   experiments/units.md, which this file writes
Published  cells that follow quotes and the position in a line: Karpathy et al. 2016, section 4.2

An LSTM of 2 x 256 units reads tiny Shakespeare for 7 epochs (1.478 nats per character on the
validation split), and another reads Journey to the West for 757 steps, nine tenths of an epoch
(5.696 nats). A unit is chosen on the first half of the test split, as the one with the largest |r|
of all gates and states. Its correlation is then measured on the second half, which had no part in
the choice. The last column does the same for the model before training: random units follow some
properties too.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from commands import run as run_commands

import jaxlm
from jaxlm.evaluation.perplexity import open_split
from jaxlm.inspection import FEATURES
from jaxlm.inspection.units import correlations, ranked

PAGE = Path(__file__).with_suffix(".md")
COMMON = (
    "python -m jaxlm.train --model lstm --tokens chars --num-layers 2 --hidden-size 256 --lr 2e-3 "
    "--sample-every 0"
)
RUNS = {
    "tinyshakespeare": "--fractions 0.9 0.05 0.05 --embedding-size 64 --dropout 0.1 --epochs 7",
    "xiyouji": "--embedding-size 128 --steps 757",
}
NAMES = {"tinyshakespeare": "tiny Shakespeare", "xiyouji": "Journey to the West"}


def speaker(text: str) -> list[float]:
    """Return 1 in the lines that end with a colon, which name the speaker."""
    lines = text.splitlines(keepends=True)
    return [float(line.rstrip().endswith(":")) for line in lines for _ in line]


def position_in_speech(text: str) -> list[float]:
    """Return how many characters each character stands after the blank line before it."""
    values, count, previous = [], 0, ""
    for character in text:
        count = 0 if character == previous == "\n" else count + 1
        values.append(float(count))
        previous = character
    return values


def blank_line(text: str) -> list[float]:
    """Return 1 at the line break that ends a blank line."""
    pairs = zip(" " + text, text, strict=False)
    return [float(before == character == "\n") for before, character in pairs]


def vowel(text: str) -> list[float]:
    """Return 1 at the letters a, e, i, o and u."""
    return [float(character.lower() in "aeiou") for character in text]


OWN: dict[str, Callable[[str], Any]] = {
    "vowel": vowel,
    "blank line": blank_line,
    "position in the speech": position_in_speech,
    "name of the speaker": speaker,
}


def untrained(run: jaxlm.Run) -> jaxlm.Run:
    """Return the run with the parameters that its model has before training."""
    model: Any = run.model
    params = model.init(jax.random.key(0), np.zeros((1, 2), np.int32))["params"]
    return replace(run, params=params)


def rows(name: str, run: jaxlm.Run) -> list[str]:
    """Return the lines of the table for a run, the largest correlation of the second half first."""
    text = "".join(open_split(run, split="test").source.lines())
    halves = text[: len(text) // 2], text[len(text) // 2 :]
    features = FEATURES | OWN
    chosen, measured = (correlations(run, half, features) for half in halves)
    before = [correlations(untrained(run), half, features) for half in halves]
    found = []
    for feature in features:
        # A property that never changes in one half has no correlation there.
        if not all(feature in half for half in (chosen, measured, *before)):
            continue
        (best,), (random,) = (ranked(half[feature], 1) for half in (chosen, before[0]))
        value = measured[feature][best.name][best.unit]
        control = before[1][feature][random.name][random.unit]
        line = (
            f"| {NAMES[name]} | {feature} | {best.name} | {best.unit} | {best.correlation:.3f} "
            f"| {value:.3f} | {control:.3f} |"
        )
        found.append((-abs(value), line))
    return [line for _, line in sorted(found)]


def write(runs: dict[str, jaxlm.Run]) -> None:
    """Measure the units of the runs on their test splits, and write experiments/units.md."""
    title = (
        "# Units that follow the text",
        "",
        "The unit of an LSTM of 2 x 256 units that follows a property of the text most closely "
        "(`python experiments/units.py`). The unit is chosen on the first half of the test split. "
        "The columns r have Pearson's correlation with its value at each character. Untrained: the "
        "same choice before training, r on the second half. Properties that never change in one "
        "half are left out.",
        "",
    )
    header = "| text | property | array | unit | r, first half | r, second half | untrained |"
    table = [line for name, run in runs.items() for line in rows(name, run)]
    PAGE.write_text(
        "\n".join([*title, header, "|---|---|---|---|---|---|---|", *table, ""]),
        encoding="utf-8",
    )
    print(PAGE.read_text(encoding="utf-8"))


def main() -> None:
    """Train the LSTMs, unless they are trained, and measure their units."""
    folders = {name: Path(f"runs/units-{name}") for name in RUNS}
    run_commands(*(f"{COMMON} --corpus {name} {RUNS[name]} --out {folders[name]}" for name in RUNS))
    write({name: jaxlm.load(folder) for name, folder in folders.items()})


if __name__ == "__main__":
    main()
