"""The lecture's order at equal size: KN5, NPLM, Elman RNN, GRU and LSTM of 3M parameters on PTB.

Command    python experiments/ladder.py [folder of corpora]
Hardware   two CPU cores
Minutes    about 90
Expected   experiments/ladder.md, which it writes: not yet run
Published  at 13M: RNN 114.50, GRU 92.48, LSTM 78.93 test (Bai et al. 2018)

Words have 200 features, tied to the output through an adaptive softmax, which are 2M of the
parameters; hidden sizes make up the third. Everything else is the same for all four. Two seeds
each, side by side (`--seeds 2`); test is measured on the parameters that validation chose.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

import jax

import jaxlm

PAGE = Path(__file__).with_suffix(".md")
HIDDEN = {"nplm": 800, "rnn": 800, "gru": 450, "lstm": 385}
SHARED = (
    "--embedding-size 200 --tied --softmax adaptive --cutoffs 2000 5000 --dropout 0.3 --clip 1 "
    "--lr 2e-3 --schedule cosine --epochs 6 --seeds 2"
)
# A window model reads windows in any order; the others streams.
READS = {
    "nplm": "--n-step 5 --batching windows --batch-size 512",
    "rnn": "--batch-size 20 --bptt 35",
    "gru": "--batch-size 20 --bptt 35",
    "lstm": "--batch-size 20 --bptt 35",
}


def train(flags: str, out: Path) -> None:
    """Runs a training command, or goes on with it."""
    again = " --resume" if out.exists() else ""
    command = f"-m jaxlm.train {flags} --out {out}{again}"
    print("$ python", command, flush=True)
    subprocess.run([sys.executable, *command.split()], check=True)


def measured(folders: list[Path]) -> tuple[int, str, str]:
    """Parameters, and valid and test perplexity, with the standard deviation of several seeds."""
    runs = [jaxlm.load(folder) for folder in folders]
    cells = []
    for split in ("valid", "test"):
        found = [float(jaxlm.perplexity(run, split)) for run in runs]
        spread = f" ± {statistics.stdev(found):.2f}" if len(found) > 1 else ""
        cells.append(f"{statistics.mean(found):.2f}{spread}")
    counted = runs[0].model.trained_by == "counting"
    size = 0 if counted else sum(leaf.size for leaf in jax.tree.leaves(runs[0].params))
    return size, cells[0], cells[1]


def main() -> None:
    """Trains all five, and writes the page."""
    data = Path(sys.argv[1]) / "ptb" if len(sys.argv) > 1 else None
    corpus = str(data) if data and data.exists() else "ptb"
    began, rows = time.monotonic(), []
    out = Path("runs/ladder-ngram")
    train(f"--model ngram --corpus {corpus} --order 5", out)
    rows.append(("5-gram, modified Kneser-Ney", *measured([out])))
    for model, hidden in HIDDEN.items():
        out = Path(f"runs/ladder-{model}")
        train(
            f"--model {model} --corpus {corpus} --hidden-size {hidden} {SHARED} {READS[model]}", out
        )
        rows.append((f"{model}, {hidden} units", *measured(sorted(out.glob("seed-*")))))
    minutes = (time.monotonic() - began) / 60
    lines = [
        f"Perplexity on PTB, mean and standard deviation of two seeds, {minutes:.0f} minutes "
        "(`python experiments/ladder.py`):",
        "",
        "| model | parameters | valid | test |",
        "|---|---|---|---|",
    ]
    for name, size, valid, test in rows:
        lines.append(f"| {name} | {f'{size:,}' if size else '-'} | {valid} | {test} |")
    PAGE.write_text("\n".join([*lines, ""]))
    print(PAGE.read_text())


if __name__ == "__main__":
    main()
