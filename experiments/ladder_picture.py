"""Draw the ladder at three million parameters: test perplexity on PTB, model by model.

Command    python experiments/ladder_picture.py
Hardware   any
Minutes    0.1
Expected   docs/images/ladder.png, from the table in experiments/ladder.md
Published  none
"""

import math
import re
from pathlib import Path

from matplotlib.figure import Figure

HERE = Path(__file__).parent
TABLE = HERE / "ladder.md"
PICTURE = HERE.parent / "docs" / "images" / "ladder.png"
NAMES = {
    "KN5 (interpolated, modified)": "5-gram",
    "nplm": "NPLM",
    "rnn": "Elman RNN",
    "gru": "GRU",
    "lstm": "LSTM",
}


def read_table(text: str) -> list[tuple[str, float, float]]:
    """Return model, mean test perplexity and standard deviation (NaN if there is none) by row."""
    rows = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] in NAMES:
            mean, *deviation = map(float, re.findall(r"\d+\.\d+", cells[3]))
            rows.append((NAMES[cells[0]], mean, *(deviation or [math.nan])))
    return rows


def draw(rows: list[tuple[str, float, float]], path: Path) -> None:
    """Draw a bar for each model, with its perplexity, into the PNG file `path`."""
    names, means, deviations = zip(*rows, strict=True)
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    axes = figure.add_subplot()
    colors = ["#9aa5b1", "#7b9cc2", "#5b86c0", "#3a6fb8", "#1f5aa6"]
    axes.bar(names, means, yerr=deviations, color=colors, width=0.62, error_kw={"capsize": 3})
    for place, mean in enumerate(means):
        axes.text(place, mean + 4, f"{mean:.1f}", ha="center")
    axes.set_ylabel("test perplexity (lower is better)")
    axes.set_ylim(0, 1.15 * max(means))
    axes.set_title("Penn Treebank: counting, and networks of three million parameters")
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    draw(read_table(TABLE.read_text(encoding="utf-8")), PICTURE)
    print(f"saved in {PICTURE}")
