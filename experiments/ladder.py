"""Compare the lecture's models at equal size: KN5; NPLM, RNN, GRU, LSTM of 3M parameters on PTB.

Command    python experiments/ladder.py [folder of corpora]
Hardware   two CPU cores
Minutes    182, with other jobs on the same cores (AMD EPYC with AVX-512)
Expected   valid / test: KN5 148.01 / 141.19, NPLM 146.2 / 137.4, RNN 125.2 / 119.4, GRU 94.6 /
           90.2, LSTM 95.5 / 90.6; experiments/ladder.md, which this file writes, has the standard
           deviations
Published  at 13M: RNN 114.50, GRU 92.48, LSTM 78.93 test (Bai et al. 2018)

Word embeddings have 200 to 270 features and are tied to an adaptive softmax. They are two thirds of
the parameters or more; the hidden size is chosen to reach 3M. All networks are trained by Adam
for the same number of epochs. The Elman RNN has the settings of its recipe, `ptb-rnn`; GRU and LSTM
have the settings of `ptb-gru`. Validation chose both recipes. Each network has two seeds, trained
together (`--seeds 2`). Test is measured on the parameters with the best validation loss.
"""

import statistics
from pathlib import Path

import jax
from commands import PLAIN, call, find_corpus
from reproduce import minutes

import jaxlm

PAGE = Path(__file__).with_suffix(".md")
SHARED = "--tied --softmax adaptive --cutoffs 2000 5000 --clip 1 --schedule cosine --epochs 8"
STREAMS = "--batch-size 20 --bptt 35 --warmup-steps 300 --drop-state 0"
MODELS = {
    # The NPLM reads windows in any order; the other models read streams. Validation perplexity of
    # other NPLM settings (KN5 has 148.0):
    # - 800 units, dropout 0.3: 153.1, increasing from the sixth of eight epochs on;
    # - 800 units, dropout 0.5: 150.1;
    # - 400 units, dropout 0.5, weight decay 0.05: at the fourth epoch 1.6% better than 800 units;
    # - 400 units, dropout 0.5, weight decay 0.3: 8% worse.
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
    """Run a training command, or resume it."""
    again = " --resume" if out.exists() else ""
    command = f"-m jaxlm.train {flags} --out {out}{again}"
    print("$ python", command, flush=True)
    call(command.split())


def measured(folders: list[Path]) -> tuple[int, str, str]:
    """Return number of parameters, valid and test perplexity of the runs in `folders`.

    The perplexities are texts: the mean over the seeds, with the standard deviation.
    """
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
    """Train all five models, and write experiments/ladder.md."""
    corpus = find_corpus("ptb")
    out = Path("runs/ladder-ngram")
    train(f"--model ngram --corpus {corpus} --order 5", out)
    rows = [("KN5 (interpolated, modified)", *measured([out]), 0.0)]
    for model, flags in MODELS.items():
        out = Path(f"runs/ladder-{model}")
        train(f"--model {model} --corpus {corpus} --config {PLAIN} {flags} {SHARED} --seeds 2", out)
        seeds = sorted(out.glob("seed-*"))
        # The seeds were trained together, so each has the time of both.
        rows.append((model, *measured(seeds), minutes(seeds[0])))
    lines = [
        "Perplexity on PTB, mean and standard deviation of two seeds, 8 epochs "
        "(`python experiments/ladder.py` has the settings):",
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
