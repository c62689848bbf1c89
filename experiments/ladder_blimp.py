"""Train every model at three million parameters on WikiText-2, and measure BLiMP.

Command    python experiments/ladder_blimp.py FOLDER   (FOLDER holds wikitext-2/ and blimp/)
Hardware   a CPU core with bfloat16 units, without which bfloat16 is slower than float32
Minutes    a model 15 to 30 on one core, with the pairs
Expected   experiments/ladder_blimp.md and ladder_blimp.png, which this file makes from
           experiments/ladder_blimp.json
Published  5-gram 61.0, LSTM 70.1, Transformer-XL 69.6, GPT-2 81.5 (Warstadt et al. 2020); the first
           two are trained on 83 million words

The settings of a model are those of experiments/ladder_all.py. The rare words of WikiText-2 have
smaller embeddings (`--adaptive-input`). A result is put into experiments/ladder_blimp.json as soon
as its pairs are measured, so that a later call goes on with the models that are missing.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from commands import find_corpus
from ladder_all import LINEAR, MODELS, NAMES, Text, label, train
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import jaxlm

RESULTS = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).with_suffix(".md")
PICTURE = Path(__file__).with_suffix(".png")
BUDGET = "--epochs 2 --dtype bfloat16"
WIKITEXT = Text(
    "WikiText-2 by words",
    "wikitext-2",
    "",
    "--tied --softmax adaptive --cutoffs 2000 10000 --adaptive-input",
    "perplexity",
)
Row = dict[str, Any]


def measure(model: str, folder: Path) -> Row:
    """Train a model on WikiText-2, measure BLiMP, and return its row of ladder_blimp.json.

    The row has what `ladder_all.train` returns, the mean accuracy of the paradigms, and the mean of
    each phenomenon, in percent.
    """
    out = Path(f"runs/ladder-blimp-{model}")
    row = {"model": model, "budget": BUDGET} | train(model, WIKITEXT, BUDGET, 0, out, folder)
    run = jaxlm.load(out)
    found = jaxlm.pairs(run, folder / "blimp", split="wikitext")
    table, (name,) = found.by_phenomenon(), found.names
    return row | {
        "blimp": round(found.accuracy[name], 2),
        "ties": found.ties[name],
        "unknown": round(found.unknown_share()[name], 2),
        "phenomena": {
            str(phenomenon): round(float(accuracy), 2)
            for phenomenon, accuracy in zip(table["phenomenon"], table["accuracy"], strict=True)
        },
    }


def read_results() -> list[Row]:
    """Return the rows of ladder_blimp.json, in the order of the ladder."""
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    return sorted(rows, key=lambda row: list(MODELS).index(row["model"]))


def rank_correlation(a: list[float], b: list[float]) -> float:
    """Return Spearman's rank correlation of two lists without ties."""
    ranks = ([sorted(values).index(value) for value in values] for values in (a, b))
    return statistics.correlation(*ranks)


def order_of_grammar(rows: list[Row]) -> str:
    """Return a sentence that compares the order by perplexity with the order by BLiMP."""
    agreement = rank_correlation([-row["valid"] for row in rows], [row["blimp"] for row in rows])
    return (
        "Rank correlation (Spearman) of a low perplexity on validation and a high accuracy on "
        f"BLiMP, {len(rows)} models: {agreement:.2f}."
    )


def write_page(rows: list[Row]) -> None:
    """Write ladder_blimp.md."""
    machines = "; ".join(sorted({row["hardware"] for row in rows}))
    dates = sorted({row["date"] for row in rows})
    lines = [
        "# Grammar along the ladder\n",
        "`python experiments/ladder_blimp.py FOLDER` trains every model of the ladder at three "
        f"million parameters on WikiText-2 (`{BUDGET}`, one seed), and measures the 67,000 minimal "
        "pairs of BLiMP (Warstadt et al. 2020). The accuracy is the mean over the 67 paradigms, in "
        "percent; a tie counts half, and chance is 50. Sentences are split as WikiText-2 is "
        f"(`--split wikitext`); {rows[0]['unknown']:.2f}% of their words are `<unk>`. "
        f"{dates[0]} to {dates[-1]}, on {machines}. Minutes of different machines cannot be "
        "compared.\n",
        f"![BLiMP against perplexity]({PICTURE.name})\n",
        "| model | parameters | valid | test | BLiMP | minutes of training |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        size = f"{row['parameters']:,}" if "parameters" in row else ""
        lines.append(
            f"| {NAMES[row['model']]} | {size} | {row['valid']:.2f} | {row['test']:.2f} | "
            f"{row['blimp']:.2f} | {row['minutes']:.1f} |"
        )
    if len(rows) > 2:
        lines += ["", order_of_grammar(rows)]
    missing = [name for model, name in NAMES.items() if model not in {r["model"] for r in rows}]
    if missing:
        lines += ["", f"Not run yet: {', '.join(missing)}."]
    lines += [
        "",
        "## By phenomenon\n",
        f"| phenomenon | {' | '.join(NAMES[row['model']] for row in rows)} |",
        "|---" * (1 + len(rows)) + "|",
    ]
    for phenomenon in rows[0]["phenomena"]:
        cells = [f"{row['phenomena'][phenomenon]:.1f}" for row in rows]
        lines.append(f"| {phenomenon} | {' | '.join(cells)} |")
    PAGE.write_text("\n".join([*lines, ""]))


def draw(rows: list[Row]) -> None:
    """Draw the accuracy on BLiMP against the perplexity of validation into ladder_blimp.png."""
    figure = Figure(figsize=(6.4, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for row in rows:
        color, mark = ("#1f5aa6", "o")
        if row["model"] == "ngram":
            color, mark = "gray", "D"
        elif row["model"] in LINEAR:
            color, mark = "#c26a1f", "s"
        axes.plot(row["valid"], row["blimp"], mark, color=color)
    axes.axhline(50, color="gray", linestyle="--", linewidth=1)
    axes.invert_xaxis()
    axes.set(xlabel="perplexity on WikiText-2's validation (better to the right)")
    axes.set(ylabel="BLiMP, accuracy in percent (chance 50)")
    axes.set_title("circles: a nonlinear recurrence; squares: none", fontsize=9)
    axes.margins(x=0.16, y=0.1)
    axes.spines[["top", "right"]].set_visible(False)
    # Drawn once, so that the place of every point is known.
    figure.draw_without_rendering()
    label(axes, [(row["model"], row["valid"], row["blimp"], 0.0) for row in rows])
    figure.savefig(PICTURE, dpi=150)


def main() -> None:
    """Measure the models that are missing, and write experiments/ladder_blimp.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder that holds wikitext-2/ and blimp/")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--page", action="store_true", help="only write the page")
    options = parser.parse_args()
    if find_corpus("blimp", options.folder) == "blimp":
        parser.error(f"{options.folder} has no folder blimp/: give the folder that holds it")
    # Counting has no budget.
    done = {
        row["model"]
        for row in read_results()
        if row["model"] == "ngram" or row.get("budget") == BUDGET
    }
    for model in options.models:
        if model in done or options.page:
            continue
        found = measure(model, options.folder)
        rows = [row for row in read_results() if row["model"] != model] + [found]
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
        print(f"{NAMES[model]}: BLiMP {rows[-1]['blimp']:.2f}", flush=True)
    rows = read_results()
    if rows:
        draw(rows)
        write_page(rows)


if __name__ == "__main__":
    main()
