"""A recipe from beginning to end: trained, measured once, compared, and written into the table.

Command    python experiments/reproduce.py NAME [--data FOLDER] [--seed 0] [--out runs/NAME]
           [--max-minutes M]
Hardware   any; what it ran on goes into the table
Minutes    as the table in experiments/README.md says
Expected   the recipe's own range (`jaxlm.RECIPES[NAME]["expected"]`)
Published  the recipe's own figures

Training that was cut off goes on where it was. The row goes into experiments/recipes.json, from
which the table in experiments/README.md is drawn again.
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
    """Runs the recipe's command, or goes on with it; returns the command as one types it. `budget`:
    minutes, if not the recipe's own.
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
    """Wall-clock minutes of all sessions of a run: its times begin again in each."""
    total = before = 0.0
    for line in (out / "timing.jsonl").read_text().splitlines():
        seconds = json.loads(line)["seconds"]
        total += seconds - before if seconds >= before else seconds
        before = seconds
    return total / 60


def hardware() -> str:
    """What this ran on, in words."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return device.device_kind
    model, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.is_file():
        said = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        said = {field.strip(): value.strip() for field, value in said.items()}
        # One name is given to machines of very different speed: their vectors tell them apart.
        vectors = {"avx512f": "AVX-512", "avx2": "AVX2"}
        widest = [vectors[one] for one in vectors if one in said.get("flags", "").split()]
        model = " with ".join([said.get("model name", model), *widest[:1]])
    return f"{len(os.sched_getaffinity(0))} cores, {model}"


def verdict(name: str, found: dict[str, float]) -> str:
    """Whether what was found lies where the recipe expects it."""
    expected = jaxlm.RECIPES[name]["expected"]
    if not expected:
        return "no range is expected yet: this is a first run"
    parts = []
    for split, (least, most) in expected.items():
        inside = least <= found[split] <= most
        parts.append(
            f"{split} {found[split]:.2f} {'in' if inside else 'OUTSIDE'} {least} to {most}"
        )
    return "; ".join(parts)


def table(rows: dict[str, Any]) -> str:
    """The results as Markdown: every recipe, also those that have not been run."""

    def cell(figures: dict[str, float]) -> str:
        if "train" in figures:
            return f"{figures['train']:.2f} (train)"
        shown = [f"{figures[one]:.2f}" if one in figures else "-" for one in ("valid", "test")]
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
        mean = {name: sum(one[name] for one in runs) / len(runs) for name in names}
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
    """Keeps the rows, and draws the table again."""
    ROWS.write_text(json.dumps(rows, indent=1) + "\n")
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    PAGE.write_text(f"{before}{BEGIN}\n{table(rows)}\n{END}{after}")


def main() -> None:
    """Trains, measures, compares, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=list(jaxlm.RECIPES))
    parser.add_argument("--data", type=Path, help="folder that holds the corpora, by name")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--max-minutes", type=float, help="a budget other than the recipe's")
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
