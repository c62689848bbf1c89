"""The lecture's order at equal size: KN5, NPLM, Elman RNN, GRU and LSTM of 3M parameters on PTB.

Command    python experiments/ladder.py [folder of corpora]
Hardware   two CPU cores
Minutes    182, with other jobs on the same cores (AMD EPYC with AVX-512)
Expected   valid / test: KN5 148.01 / 141.19, NPLM 146.2 / 137.4, RNN 125.2 / 119.4, GRU 94.6 /
           90.2, LSTM 95.5 / 90.6; standard deviations are in experiments/ladder.md, which it
           writes
Published  at 13M: RNN 114.50, GRU 92.48, LSTM 78.93 test (Bai et al. 2018)

Words have 200 to 270 features, tied to the output through an adaptive softmax, which are two
thirds of the parameters or more; hidden sizes make up the rest. All are trained by Adam for as many
epochs. The Elman network has what validation liked in its recipe, `ptb-rnn`, and GRU and LSTM that
of `ptb-gru`. Two seeds each, side by side (`--seeds 2`); test is measured on the parameters that
validation chose.
"""

import statistics
from pathlib import Path

import jax
from commands import call, find_corpus
from reproduce import minutes

import jaxlm

PAGE = Path(__file__).with_suffix(".md")
SHARED = "--tied --softmax adaptive --cutoffs 2000 5000 --clip 1 --schedule cosine --epochs 8"
STREAMS = "--batch-size 20 --bptt 35 --warmup-steps 300"
MODELS = {
    # A window model reads windows in any order; the others streams. On validation (KN5 148.0) it
    # was 153.1 with 800 units and dropout 0.3, rising from the sixth of eight epochs on, and 150.1
    # with 0.5; with 400 and weight decay 0.05 it was 1.6% ahead of that at the fourth, and with 0.3
    # 8% behind.
    "nplm": "--embedding-size 240 --hidden-size 400 --n-step 5 --dropout 0.5 --optimizer adamw "
    "--weight-decay 0.05 --lr 2e-3 --batching windows --batch-size 512",
    "rnn": "--embedding-size 270 --hidden-size 270 --num-layers 2 --residual --layer-norm "
    "--timescale 50 --init-scale 0.05 --dropout 0.2 --dropout-output 0.4 --optimizer adamw "
    f"--weight-decay 0.05 --lr 2e-3 {STREAMS}",
    "gru": f"--embedding-size 200 --hidden-size 450 --init-scale 0.1 --dropout 0.4 --lr 3e-3 "
    f"{STREAMS}",
    "lstm": f"--embedding-size 200 --hidden-size 385 --init-scale 0.1 --dropout 0.4 --lr 3e-3 "
    f"{STREAMS}",
}


def train(flags: str, out: Path) -> None:
    """Runs a training command, or goes on with it."""
    again = " --resume" if out.exists() else ""
    command = f"-m jaxlm.train {flags} --out {out}{again}"
    print("$ python", command, flush=True)
    call(command.split())


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
    corpus = find_corpus("ptb")
    out = Path("runs/ladder-ngram")
    train(f"--model ngram --corpus {corpus} --order 5", out)
    rows = [("KN5 (interpolated, modified)", *measured([out]), 0.0)]
    for model, flags in MODELS.items():
        out = Path(f"runs/ladder-{model}")
        train(f"--model {model} --corpus {corpus} {flags} {SHARED} --seeds 2", out)
        members = sorted(out.glob("seed-*"))
        # Both were trained at once: the clock of either is that of both.
        rows.append((model, *measured(members), minutes(members[0])))
    lines = [
        "Perplexity on PTB, mean and standard deviation of two seeds, 8 epochs "
        "(`python experiments/ladder.py`, which has the settings):",
        "",
        "| model | parameters | valid | test | minutes, both seeds |",
        "|---|---|---|---|---|",
    ]
    for name, size, valid, test, spent in rows:
        counted = f"{size:,}" if size else "-"
        lines.append(f"| {name} | {counted} | {valid} | {test} | {spent:.0f} |")
    PAGE.write_text("\n".join([*lines, ""]))
    print(PAGE.read_text())


if __name__ == "__main__":
    main()
