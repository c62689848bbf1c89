"""Train a recipe, measure it, compare it with its expected range, and write its row in the table.

Command    python experiments/reproduce.py NAME [--data FOLDER] [--seed 0] [--out runs/NAME]
           [--max-minutes M]
Hardware   any; the table names it
Minutes    see the table in experiments/README.md
Expected   the recipe's range (`jaxlm.RECIPES[NAME]["expected"]`)
Published  the recipe's published numbers

Interrupted training is resumed. The row is written into experiments/recipes.json, and the table in
experiments/README.md is then generated from that file.
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import jax
from commands import call, find_corpus

import jaxlm
from jaxlm.evaluation.perplexity import open_split

HERE = Path(__file__).parent
ROWS, PAGE = HERE / "recipes.json", HERE / "README.md"
BEGIN, END = "<!-- recipes -->", "<!-- end of recipes -->"


def train(name: str, out: Path, seed: int, data: Path | None, budget: float | None) -> list[str]:
    """Run the recipe's command, or resume it.

    Args:
      name: name of the recipe.
      out: folder of the run.
      seed: seed of the run.
      data: folder that holds the corpora; None to fetch the recipe's corpus.
      budget: minutes of training; None for the recipe's setting.
    Returns:
      The words of the command, as typed in a shell.
    """
    command = ["-m", "jaxlm.train", "--recipe", name, "--seed", str(seed)]
    if budget is not None:
        command += ["--max-minutes", f"{budget:g}"]
    typed = ["python", *command]
    command += ["--out", str(out)]
    if data:
        command += ["--corpus", find_corpus(jaxlm.RECIPES[name]["settings"]["corpus"], data)]
    if (out / "config.json").exists():
        command.append("--resume")
    call(command)
    return typed


def minutes(out: Path) -> float:
    """Return the wall-clock minutes of all sessions of a run. Times start at 0 in each session."""
    total = before = 0.0
    for line in (out / "timing.jsonl").read_text().splitlines():
        seconds = json.loads(line)["seconds"]
        total += seconds - before if seconds >= before else seconds
        before = seconds
    return total / 60


def hardware() -> str:
    """Describe the machine: the GPU, or number and kind of CPU cores."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return device.device_kind
    model, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.is_file():
        fields = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        fields = {field.strip(): value.strip() for field, value in fields.items()}
        # CPUs of the same name differ in speed, so the widest vector unit is named too.
        vectors = {"avx512f": "AVX-512", "avx2": "AVX2"}
        widest = [vectors[flag] for flag in vectors if flag in fields.get("flags", "").split()]
        model = " with ".join([fields.get("model name", model), *widest[:1]])
    return f"{len(os.sched_getaffinity(0))} cores, {model}"


def verdict(name: str, found: dict[str, float]) -> str:
    """Compare the perplexities, by split, with the recipe's expected range; return a sentence."""
    expected = jaxlm.RECIPES[name]["expected"]
    if not expected:
        return "the recipe has no expected range yet"
    parts = []
    for split, (least, most) in expected.items():
        inside = least <= found[split] <= most
        parts.append(
            f"{split} {found[split]:.2f} {'in' if inside else 'OUTSIDE'} {least} to {most}"
        )
    return "; ".join(parts)


def table(rows: dict[str, Any]) -> str:
    """Return a Markdown table of all recipes, with results if they were run."""

    def cell(figures: dict[str, float]) -> str:
        if "train" in figures:
            return f"{figures['train']:.2f} (train)"
        splits = ("valid", "test")
        shown = [f"{figures[split]:.2f}" if split in figures else "-" for split in splits]
        return " / ".join(shown) if figures else "-"

    lines = [
        "| recipe | published, valid / test | ours | minutes | hardware | seeds | how and when |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, recipe in jaxlm.RECIPES.items():
        published, row = cell(recipe["published"]), rows.get(name)
        if row is None:
            lines.append(f"| `{name}` | {published} | not yet run | | | | |")
            continue
        runs = list(row["seeds"].values())
        names = runs[0].keys()
        mean = {name: sum(run[name] for run in runs) / len(runs) for name in names}
        cells = [
            f"`{name}`",
            published,
            cell({split: mean[split] for split in names if split != "minutes"}),
            f"{mean['minutes']:.1f}",
            row["hardware"],
            ", ".join(row["seeds"]),
            f"`{row['command']}`, {row['date']}, {row['version']}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def write(rows: dict[str, Any]) -> None:
    """Save the rows, and generate the table in experiments/README.md."""
    ROWS.write_text(json.dumps(rows, indent=1) + "\n")
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    PAGE.write_text(f"{before}{BEGIN}\n{table(rows)}\n{END}{after}")


def main() -> None:
    """Train a recipe, measure it, compare, and write the row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=list(jaxlm.RECIPES))
    parser.add_argument("--data", type=Path, help="folder that holds the corpora")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--max-minutes", type=float, help="in place of the recipe's budget")
    options = parser.parse_args()
    out = options.out or Path("runs") / f"{options.name}-{options.seed}"
    typed = train(options.name, out, options.seed, options.data, options.max_minutes)
    run = jaxlm.load(out)
    found = {}
    for split in ("valid", "test", "train"):
        if split in ("valid", "test") and not _has(run, split):
            continue
        if split == "train" and found:
            continue
        report = jaxlm.perplexity(run, split)
        print(report)
        found[split] = report.perplexity
    print(verdict(options.name, found))
    rows = json.loads(ROWS.read_text()) if ROWS.exists() else {}
    row = rows.setdefault(options.name, {"seeds": {}})
    row["seeds"][str(options.seed)] = found | {"minutes": minutes(out)}
    row |= {
        "command": " ".join(typed),
        "hardware": hardware(),
        "date": time.strftime("%Y-%m-%d"),
        "version": f"jax {jax.__version__}",
    }
    write(rows)


def _has(run: Any, split: str) -> bool:
    try:
        open_split(run, split=split)
    except jaxlm.UserError:
        return False
    return True


if __name__ == "__main__":
    main()
