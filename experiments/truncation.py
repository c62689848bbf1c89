"""Measure the effect of truncated back-propagation and of clipping, in chunks of 5, 20 and 70.

Command    python experiments/truncation.py [folder of corpora]
Hardware   one CPU core of two (AMD EPYC with AVX2)
Minutes    17
Expected   experiments/truncation.md, which this file writes
Published  none

Tiny Shakespeare by character, 32 features, 128 units, SGD. The carry passes from chunk to chunk, so
the length of a chunk changes only how far back the gradient reaches. A step has about 2240
characters for every length: 448 streams of 5, 112 of 20, or 32 of 70. So all runs have about the
same number of steps. `--sweep` trains four runs together: two rates, with the gradient clipped to
norm 0.25 or to 1e9 (practically never).

Results:
- Short chunks cost little, because the carry passes on. An LSTM gains 0.01 to 0.02 nats from 5 to
  20 characters, and 0.01 at most beyond 20. An Elman RNN gains at most 0.02 from 5 to 70.
- At the lower rate, training without clipping costs nothing, except for the Elman RNN in chunks of
  70.
- The higher rate is the better rate with clipping. Without clipping it loses more than truncation
  does, and more in longer chunks.
"""

import json
from pathlib import Path

from commands import PLAIN, call, find_corpus
from reproduce import minutes

PAGE = Path(__file__).with_suffix(".md")
LENGTHS = {5: 448, 20: 112, 70: 32}
RATES = {"rnn": (1.0, 4.0), "lstm": (4.0, 16.0)}
CLIPS = {"0.25": "clipped to 0.25", "1e9": "not clipped"}
EPOCHS = 3


def train(model: str, bptt: int, corpus: str) -> Path:
    """Train the four runs of a model and a length, and return their folder."""
    out = Path("runs") / f"truncation-{model}-{bptt}"
    rates = ",".join(map(str, RATES[model]))
    flags = (
        f"--model {model} --corpus {corpus} --config {PLAIN} --fractions 0.9 0.1 --tokens chars "
        f"--embedding-size 32 --hidden-size 128 --drop-state 0 --optimizer sgd "
        f"--batch-size {LENGTHS[bptt]} --bptt {bptt} --epochs {EPOCHS} "
        f"--sweep lr={rates} clip={','.join(CLIPS)} --out {out}"
    )
    if out.exists():
        flags += " --resume"
    call(["-m", "jaxlm.train", *flags.split()])
    return out


def best(folder: Path) -> float | None:
    """Return a run's best validation loss in nats per character.

    None if the run was stopped before its first validation.
    """
    lines = (folder / "metrics.jsonl").read_text().splitlines() if folder.exists() else []
    records = [json.loads(line) for line in lines]
    valid = [record for record in records if record["split"] == "valid"]
    found = [record["nll"] / record["tokens"] for record in valid]
    return min(found, default=None)


def minutes_together(folder: Path) -> float:
    """Return the minutes of the four runs in a folder, which train together.

    A run whose loss is not finite ends before the other runs, so these are the minutes of the run
    that took longest.
    """
    return max(minutes(path.parent) for path in folder.glob("*/timing.jsonl"))


def main() -> None:
    """Train all runs, and write experiments/truncation.md."""
    corpus = find_corpus("tinyshakespeare")
    spent = 0.0
    rows = [
        "| model | chunk | rate | " + " | ".join(CLIPS.values()) + " |",
        "|---|---|---|---|---|",
    ]
    for model, rates in RATES.items():
        for bptt in LENGTHS:
            out = train(model, bptt, corpus)
            spent += minutes_together(out)
            for rate in rates:
                cells = []
                for clip in CLIPS:
                    loss = best(out / f"lr-{rate:g}-clip-{float(clip):g}-seed-0")
                    cells.append("not finite" if loss is None else f"{loss:.3f}")
                rows.append(f"| {model} | {bptt} | {rate:g} | {' | '.join(cells)} |")
    title = (
        f"Best validation loss in nats per character after {EPOCHS} epochs of tiny Shakespeare "
        f"(`python experiments/truncation.py`, {spent:.0f} minutes):"
    )
    PAGE.write_text("\n".join(["# Truncation and clipping", "", title, "", *rows, ""]))
    print(PAGE.read_text())


if __name__ == "__main__":
    main()
