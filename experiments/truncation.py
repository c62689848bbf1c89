"""What truncating back-propagation costs, and what clipping saves, in chunks of 5, 20 and 70.

Command    python experiments/truncation.py [folder of corpora]
Hardware   one CPU core of two (AMD EPYC with AVX2)
Minutes    17
Expected   experiments/truncation.md, which it writes
Published  none

Tiny Shakespeare by character, 32 features, 128 units, SGD. The carry always flows on; what the
length of a chunk changes is how far back the gradient reaches. A step has about 2240 characters
whatever the length (448 streams of 5, 112 of 20, 32 of 70), so that every run takes as many steps.
Four runs at a time, by `--sweep`: two rates, the gradient clipped to norm 0.25 and hardly ever.

What it shows: as the carry flows on, a short reach of the gradient costs little (from 5 to 20
characters 0.01 to 0.02 nats of an LSTM's, beyond 20 0.01 at most; from 5 to 70 at most 0.02 of an
Elman network's). Not clipping costs nothing at the lower rate, but for the Elman network in chunks
of 70; at the higher, which is the better one with clipping, it costs more than all that, and the
more the further the gradient reaches.
"""

import json
import time
from pathlib import Path

from commands import call, find_corpus

PAGE = Path(__file__).with_suffix(".md")
LENGTHS = {5: 448, 20: 112, 70: 32}
RATES = {"rnn": (1.0, 4.0), "lstm": (4.0, 16.0)}
CLIPS = {"0.25": "clipped to 0.25", "1e9": "not clipped"}
EPOCHS = 3


def train(model: str, bptt: int, corpus: str) -> Path:
    """Trains the four runs of a model and a length; returns their folder."""
    out = Path("runs") / f"truncation-{model}-{bptt}"
    rates = ",".join(map(str, RATES[model]))
    flags = (
        f"--model {model} --corpus {corpus} --fractions 0.9 0.1 --tokens chars --embedding-size 32 "
        f"--hidden-size 128 --optimizer sgd --batch-size {LENGTHS[bptt]} --bptt {bptt} "
        f"--epochs {EPOCHS} --sweep lr={rates} clip={','.join(CLIPS)} --out {out}"
    )
    if out.exists():
        flags += " --resume"
    call(["-m", "jaxlm.train", *flags.split()])
    return out


def best(folder: Path) -> float | None:
    """A run's best validation loss, nats a character; None for one that was out before any."""
    lines = (folder / "metrics.jsonl").read_text().splitlines() if folder.exists() else []
    records = [json.loads(line) for line in lines]
    found = [one["nll"] / one["tokens"] for one in records if one["split"] == "valid"]
    return min(found, default=None)


def main() -> None:
    """Trains all, and writes the page."""
    corpus = find_corpus("tinyshakespeare")
    began = time.monotonic()
    rows = [
        "| model | chunk | rate | " + " | ".join(CLIPS.values()) + " |",
        "|---|---|---|---|---|",
    ]
    for model, rates in RATES.items():
        for bptt in LENGTHS:
            out = train(model, bptt, corpus)
            for rate in rates:
                cells = []
                for clip in CLIPS:
                    loss = best(out / f"lr-{rate:g}-clip-{float(clip):g}-seed-0")
                    cells.append("not finite" if loss is None else f"{loss:.3f}")
                rows.append(f"| {model} | {bptt} | {rate:g} | {' | '.join(cells)} |")
    minutes = (time.monotonic() - began) / 60
    title = (
        f"Best validation loss in nats a character after {EPOCHS} epochs of tiny Shakespeare "
        f"(`python experiments/truncation.py`, {minutes:.0f} minutes):"
    )
    PAGE.write_text("\n".join([title, "", *rows, ""]))
    print(PAGE.read_text())


if __name__ == "__main__":
    main()
