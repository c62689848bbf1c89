"""Compare all models at three million parameters: quality for equal epochs and for equal minutes.

Command    python experiments/ladder_all.py FOLDER [--texts ptb] [--budgets epochs]
           (FOLDER holds ptb/ and xiyouji/)
Hardware   two CPU cores; seed 0 of the budget `minutes` on one machine, with nothing beside it
Minutes    equal minutes: 11 x 6 per text and seed; equal epochs: not measured
Expected   experiments/ladder_all.md and ladder_all.png, which this file makes from
           experiments/ladder_all.json; so far equal minutes with seed 0 were run
Published  at 13M on PTB: RNN 114.50, GRU 92.48, LSTM 78.93 test (Bai et al. 2018)

A run takes the flags of its model, of its text and of its budget. `--params 3M` chooses the widths.
With equal minutes, seed 0 has the minutes, and the other seeds take as many steps as seed 0 took:
they need no machine of the same speed.
On PTB the embedding is tied to an adaptive softmax; of Journey to the West every character is
predicted by a softmax over all characters. Test is measured on the parameters with the best
validation loss. A result is put into experiments/ladder_all.json as soon as its run ends, so that a
later call goes on with the runs that are missing; a run that was interrupted is resumed.
"""

import argparse
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
from commands import PLAIN, call, find_corpus
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from reproduce import hardware, minutes

import jaxlm

RESULTS = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).with_suffix(".md")
PICTURE = Path(__file__).with_suffix(".png")
WARMUP = 300
STREAMS = (
    f"--batch-size 20 --bptt 35 --drop-state 0 --warmup-steps {WARMUP} --clip 1 --schedule cosine"
)
# The new word and the memory share the state of a layer without gates, or of a layer whose units do
# not see each other. A link past the layer keeps the word.
DEEP = f"--residual --layer-norm --optimizer adamw --weight-decay 0.05 {STREAMS}"
MODELS = {
    "ngram": "--order 5",
    # The NPLM reads windows in any order; the other models read streams. Validation perplexity of
    # other NPLM settings on PTB (KN5 has 148.0):
    # - 800 units, dropout 0.3: 153.1, increasing from the sixth of eight epochs on;
    # - 800 units, dropout 0.5: 150.1;
    # - 400 units, dropout 0.5, weight decay 0.3: 8% worse.
    "nplm": "--embedding-size 240 --n-step 5 --dropout 0.5 --optimizer adamw --weight-decay 0.05 "
    "--lr 2e-3 --batching windows --batch-size 512 --clip 1 --schedule cosine",
    "modern-nplm": "--embedding-size 200 --n-step 15 --far-windows 4 --far-size 10 --num-layers 4 "
    f"--dropout 0.4 --lr 2e-3 {STREAMS}",
    "rnn": "--num-layers 2 --timescale 50 --init-scale 0.05 --dropout 0.2 --dropout-output 0.4 "
    f"--lr 2e-3 {DEEP}",
    "gru": f"--embedding-size 200 --init-scale 0.1 --dropout 0.4 --lr 3e-3 {STREAMS}",
    "lstm": f"--embedding-size 200 --init-scale 0.1 --dropout 0.4 --lr 3e-3 {STREAMS}",
    "mogrifier": f"--embedding-size 200 --init-scale 0.1 --dropout 0.4 --lr 2e-3 {STREAMS}",
    "mingru": f"--num-layers 3 --dropout 0.3 --lr 2e-3 {DEEP}",
    "minlstm": f"--num-layers 3 --dropout 0.3 --lr 2e-3 {DEEP}",
    "paragru": f"--num-layers 3 --dropout 0.3 --lr 2e-3 {DEEP}",
    "paralstm": f"--num-layers 3 --dropout 0.3 --lr 2e-3 {DEEP}",
    "transformer": f"--num-layers 4 --n-step 70 --dropout 0.3 --lr 1e-3 {STREAMS}",
}
"""The flags of each model, for both texts."""
NAMES = {"ngram": "5-gram (KN)", "nplm": "NPLM", "modern-nplm": "modern NPLM", "rnn": "Elman RNN"}
NAMES |= {"gru": "GRU", "lstm": "LSTM", "mogrifier": "Mogrifier LSTM", "mingru": "minGRU"}
NAMES |= {"minlstm": "minLSTM", "paragru": "ParaGRU", "paralstm": "ParaLSTM"}
NAMES |= {"transformer": "Transformer"}
NETWORKS = {model: name for model, name in NAMES.items() if model != "ngram"}
LINEAR = ("nplm", "modern-nplm", "mingru", "minlstm", "transformer")
"""Networks without a nonlinear recurrence: all their time steps can be computed in parallel."""


class Text(NamedTuple):
    """A text: its path below the folder of corpora, the flags of networks, and its unit."""

    title: str
    path: str
    reading: str
    network: str
    unit: str


TEXTS = {
    "ptb": Text(
        "Penn Treebank by words",
        "ptb",
        "",
        "--tied --softmax adaptive --cutoffs 2000 5000",
        "perplexity",
    ),
    "xiyouji": Text(
        "Journey to the West by characters",
        "xiyouji/input.txt",
        "--tokens chars",
        "--tied",
        "bits per character",
    ),
}
BUDGETS = {"epochs": "--epochs 4 --dtype bfloat16", "minutes": "--epochs 40 --max-minutes 6"}


def budget_flags(text: str, budget: str, model: str, seed: int) -> str:
    """Return the flags of a budget. A later seed of the budget `minutes` repeats seed 0's steps."""
    if budget == "epochs" or seed == 0:
        return BUDGETS[budget]
    first = (text, budget, model, 0)
    for row in read_results():
        if (row["text"], row["budget"], row["model"], row["seed"]) == first:
            flags = f"--steps {row['steps']}"
            # With --max-minutes, the warm-up takes at most a fifth of the steps.
            longest = round(0.2 * row["steps"])
            if "--warmup-steps" in MODELS[model] and longest < WARMUP:
                flags += f" --warmup-steps {longest}"
            return flags
    raise SystemExit(f"{model}: run seed 0 of the budget {budget} first")


def train(
    model: str, chosen: Text, budget: str, seed: int, out: Path, folder: Path | None
) -> dict[str, Any]:
    """Train a model, or resume it, and return what a table says of its run.

    Args:
      model: name of the model, a key of MODELS.
      chosen: the text.
      budget: flags of the length of the training.
      seed: seed of the run.
      out: folder of the run.
      folder: folder that holds the corpora; None to fetch the text.
    Returns:
      Perplexities of validation and test, minutes, hardware, date and version of jax; of a network
      also the number of parameters, of epochs and of steps.
    """
    corpus = find_corpus(chosen.path, folder)
    flags = f"--model {model} --corpus {corpus} --config {PLAIN} {chosen.reading} {MODELS[model]}"
    flags += f" --out {out}"
    if model != "ngram":
        flags += f" {chosen.network} --params 3M --seed {seed} --no-report {budget}"
    if (out / "config.json").exists():
        flags += " --resume"
    print("$ python -m jaxlm.train", flags, flush=True)
    began = time.perf_counter()
    call(f"-m jaxlm.train {flags}".split())
    spent = (time.perf_counter() - began) / 60
    run = jaxlm.load(out)
    row: dict[str, Any] = {
        split: round(float(jaxlm.perplexity(run, split)), 4) for split in ("valid", "test")
    }
    if model != "ngram":
        records = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
        last = [record for record in records if record["split"] == "train"][-1]
        spent = minutes(out)
        row |= {
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(run.params)),
            "epochs": last["epoch"],
            "steps": last["step"],
        }
    about = {"hardware": hardware(), "date": time.strftime("%Y-%m-%d"), "jax": jax.__version__}
    return row | {"minutes": round(spent, 2)} | about


def read_results() -> list[dict[str, Any]]:
    """Return the rows of ladder_all.json."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else []


def keep(row: dict[str, Any]) -> None:
    """Put a row into ladder_all.json, in the place of the row of the same run."""
    order = {name: index for names in (TEXTS, BUDGETS, MODELS) for index, name in enumerate(names)}

    def place(row: dict[str, Any]) -> tuple[int, ...]:
        return *(order[row[key]] for key in ("text", "budget", "model")), row["seed"]

    rows = [other for other in read_results() if place(other) != place(row)] + [row]
    RESULTS.write_text(json.dumps(sorted(rows, key=place), indent=1) + "\n")


def quality(rows: list[dict[str, Any]], split: str) -> list[float]:
    """Return the perplexity of each row, or its bits per character."""
    values = [row[split] for row in rows]
    if TEXTS[rows[0]["text"]].unit == "perplexity":
        return values
    return [math.log2(value) for value in values]


def seconds_of_epoch(text: str, model: str) -> float | None:
    """Return the seconds of an epoch, from the run that had the cores alone; None without this run.

    The run is seed 0 with equal minutes. Counting has no epochs: its seconds are those of the whole
    run.
    """
    for row in read_results():
        if (row["text"], row["model"]) == (text, model) and row["seed"] == 0:
            if row["budget"] == "minutes":
                return 60 * row["minutes"] / row["epochs"]
            if model == "ngram":
                return 60 * row["minutes"]
    return None


def table(text: str, budget: str) -> list[str]:
    """Return a table of the runs of a text and a budget, as lines of Markdown."""
    digits = 2 if TEXTS[text].unit == "perplexity" else 3
    found: dict[str, list[dict[str, Any]]] = {}
    for row in read_results():
        # Counting has no epochs, and takes seconds.
        if row["text"] == text and (row["budget"] == budget or row["model"] == "ngram"):
            found.setdefault(row["model"], []).append(row)
    networks = [row for rows in found.values() for row in rows if row["model"] != "ngram"]
    if not networks:
        return []
    machines = ", ".join(sorted({row["hardware"] for row in networks}))
    dates = sorted({row["date"] for row in networks})
    lines = [
        f"## {TEXTS[text].title}, equal {budget}\n",
        f"`{BUDGETS[budget]}`; {TEXTS[text].unit}, mean and standard deviation of the seeds; "
        f"{machines}; {dates[0]} to {dates[-1]}.\n",
        "| model | parameters | valid | test | seeds | epochs | seconds per epoch |",
        "|---|---|---|---|---|---|---|",
    ]
    for model in filter(found.__contains__, MODELS):
        rows = found[model]
        cells = [f"{rows[0]['parameters']:,}" if "parameters" in rows[0] else ""]
        for split in ("valid", "test"):
            values = quality(rows, split)
            spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.{digits}f}{spread}")
        cells.append(str(len(rows)))
        epochs = [row["epochs"] for row in rows if "epochs" in row]
        cells.append(f"{statistics.mean(epochs):.1f}" if epochs else "")
        seconds = seconds_of_epoch(text, model)
        cells.append("" if seconds is None else f"{seconds:.0f}")
        lines.append(f"| {NAMES[model]} | {' | '.join(cells)} |")
    return [*lines, ""]


def missing() -> list[str]:
    """Return lines of Markdown that name the networks without a run, by text and budget."""
    done = {(row["text"], row["budget"], row["model"]) for row in read_results()}
    lines = []
    for text, chosen in TEXTS.items():
        for budget in BUDGETS:
            names = [name for m, name in NETWORKS.items() if (text, budget, m) not in done]
            if names:
                who = "all" if len(names) == len(NETWORKS) else ", ".join(names)
                lines.append(f"- {chosen.title}, equal {budget}: {who}")
    return ["## Networks that were not run yet\n", *lines, ""] if lines else []


def write_page() -> None:
    """Write ladder_all.md from ladder_all.json."""
    lines = [
        "# The ladder at three million parameters\n",
        "`python experiments/ladder_all.py FOLDER` has the settings, and trains the runs that "
        "`ladder_all.json` lacks. FOLDER holds `ptb/` and `xiyouji/`. `--params 3M` "
        "chooses the widths. The seconds per epoch contain the validation. They are those of seed "
        "0 with equal minutes, which had the cores for itself.\n",
    ]
    if PICTURE.exists():
        lines.append(f"![quality against seconds per epoch]({PICTURE.name})\n")
    for text in TEXTS:
        for budget in BUDGETS:
            lines += table(text, budget)
    lines += missing()
    PAGE.write_text("\n".join(lines))


def points(text: str) -> list[tuple[str, float, float, float]]:
    """Return (model, seconds per epoch, test quality, its deviation) after equal minutes.

    The seconds are those of seed 0, which had the cores for itself; counting has no epochs, and its
    seconds are those of the whole run. The deviation is 0 with one seed.
    """
    found = []
    for model in MODELS:
        rows = [
            row
            for row in read_results()
            if (row["text"], row["model"]) == (text, model)
            and (row["budget"] == "minutes" or model == "ngram")
        ]
        if rows:
            values = quality(rows, "test")
            seconds = seconds_of_epoch(text, model)
            if seconds is None:
                continue
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            found.append((model, seconds, statistics.mean(values), spread))
    return found


PLACES = (
    ((7, 0), "left", "center"),
    ((-7, 0), "right", "center"),
    ((0, 7), "center", "bottom"),
    ((0, -7), "center", "top"),
    ((6, 7), "left", "bottom"),
    ((6, -7), "left", "top"),
)
"""Places of a label beside its point: offset in points, horizontal and vertical alignment."""


def label(axes: Any, found: list[tuple[str, float, float, float]]) -> None:
    """Write the name of each point at the place where it overlaps least with points and names."""
    renderer = axes.figure.canvas.get_renderer()
    drawn = axes.transData.transform([(seconds, value) for _, seconds, value, _ in found])
    taken = [Bbox.from_extents(x - 6, y - 6, x + 6, y + 6) for x, y in drawn]
    taken += [text.get_window_extent(renderer) for text in axes.texts]

    def overlap(box: Bbox) -> float:
        shared = (Bbox.intersection(box, other) for other in taken)
        return sum(part.width * part.height for part in shared if part is not None)

    for model, seconds, value, _ in found:
        tried = []
        for offset, side, height in PLACES:
            text = axes.annotate(
                NAMES[model],
                (seconds, value),
                offset,
                textcoords="offset points",
                ha=side,
                va=height,
                fontsize=8,
            )
            box = text.get_window_extent(renderer)
            tried.append((overlap(box), len(tried), text, box))
        best = min(tried, key=lambda one: one[:2])
        taken.append(best[3])
        for _, _, text, _ in tried:
            if text is not best[2]:
                text.remove()


def draw() -> None:
    """Draw quality against the seconds of an epoch, a panel for each text, into ladder_all.png."""
    drawn = {text: points(text) for text in TEXTS}
    drawn = {text: found for text, found in drawn.items() if len(found) > 1}
    if not drawn:
        return
    figure = Figure(figsize=(5.4 * len(drawn), 3.9), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(drawn), squeeze=False)[0]
    for axes, (text, found) in zip(panels, drawn.items(), strict=True):
        for model, seconds, value, spread in found:
            if model == "ngram":
                axes.axhline(value, color="gray", linestyle="--", linewidth=1)
                name = f"{NAMES[model]}, {seconds:.0f} s in all"
                where = axes.get_yaxis_transform()
                axes.text(0.99, value, name, transform=where, ha="right", va="bottom", fontsize=8)
                continue
            color, mark = ("#c26a1f", "s") if model in LINEAR else ("#1f5aa6", "o")
            axes.errorbar(seconds, value, yerr=spread or None, fmt=mark, color=color, capsize=3)
        axes.set(xlabel="seconds per epoch on two cores")
        axes.set(ylabel=f"test, {TEXTS[text].unit} (lower is better)", title=TEXTS[text].title)
        axes.margins(x=0.18, y=0.1)
        axes.spines[["top", "right"]].set_visible(False)
    about = "3 million parameters, six minutes of training on two CPU cores"
    figure.suptitle(f"{about}; circles: a nonlinear recurrence, squares: none", fontsize=9)
    # Drawn once, so that the place of every point is known.
    figure.draw_without_rendering()
    for axes, found in zip(panels, drawn.values(), strict=True):
        label(axes, [point for point in found if point[0] != "ngram"])
    figure.savefig(PICTURE, dpi=150)


def main() -> None:
    """Train the runs that are missing, and write experiments/ladder_all.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--texts", nargs="+", choices=list(TEXTS), default=list(TEXTS))
    parser.add_argument("--budgets", nargs="+", choices=list(BUDGETS), default=list(BUDGETS))
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--page", action="store_true", help="only write the page")
    options = parser.parse_args()
    novel = TEXTS["xiyouji"].path
    # The novel is not fetched by name.
    trained = "xiyouji" in options.texts and not options.page
    if trained and find_corpus(novel, options.folder) == novel:
        parser.error(f"give the folder that holds {novel}, or --texts ptb")
    done = {(row["text"], row["budget"], row["model"], row["seed"]) for row in read_results()}
    for text in options.texts:
        for budget in options.budgets:
            for seed in options.seeds:
                for model in options.models:
                    # Counting has no seed and no budget.
                    once = (budget, seed) != ("epochs", 0) and model == "ngram"
                    if options.page or once or (text, budget, model, seed) in done:
                        continue
                    out = Path(f"runs/ladder-{text}-{budget}-{model}-{seed}")
                    flags = budget_flags(text, budget, model, seed)
                    row = {"text": text, "budget": budget, "model": model, "seed": seed}
                    keep(row | train(model, TEXTS[text], flags, seed, out, options.folder))
                    write_page()
    draw()
    write_page()
    print(PAGE.read_text())


if __name__ == "__main__":
    main()
