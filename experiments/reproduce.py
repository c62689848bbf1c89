"""Train a recipe, measure it, compare it with its expected range, and write its row in the table.

Command    python experiments/reproduce.py NAME [--data FOLDER] [--seed 0] [--out runs/NAME-SEED]
           [--max-minutes M] [--dtype bfloat16]
Hardware   any; the table names it
Minutes    see the table in experiments/README.md
Expected   the recipe's range (`jaxlm.RECIPES[NAME]["expected"]`)
Published  the recipe's published numbers

Interrupted training is resumed. The result is written into experiments/recipes.json, by seed, with
its command, hardware, date and version. The table in experiments/README.md is then generated from
that file. A row is the mean over the seeds whose command (without --seed) and hardware agree; other
seeds of the recipe have a row of their own.

NAME is a recipe with a corpus: `own-text` and `small-text` are for a text of the user.
"""

import argparse
import json
import os
import platform
import re
import sys
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
WITHOUT_CORPUS = ("own-text", "small-text")
"""Recipes for a text of the user: there is nothing to reproduce."""
BY_FLAG = ("corpus", "dtype", "max_minutes", "steps")
"""Settings of a recipe that the command of this file gives, or that it fits to the minutes."""
ABOUT = ("command", "hardware", "date", "version")
"""What a result says about its run, beside its figures."""


def train(
    name: str, out: Path, seed: int, data: Path | None, budget: float | None, dtype: str | None
) -> list[str]:
    """Run the recipe's command, or resume it.

    Args:
      name: name of the recipe.
      out: folder of the run.
      seed: seed of the run.
      data: folder that holds the corpora; None to fetch the recipe's corpus.
      budget: minutes of training; None for the recipe's setting.
      dtype: number type of the activations; None for the recipe's setting.
    Returns:
      The words of the command, as typed in a shell.
    """
    command = ["-m", "jaxlm.train", "--recipe", name, "--seed", str(seed)]
    if budget is not None:
        command += ["--max-minutes", f"{budget:g}"]
    if dtype is not None:
        command += ["--dtype", dtype]
    typed = ["python", *command]
    command += ["--out", str(out)]
    if data:
        command += ["--corpus", find_corpus(jaxlm.RECIPES[name]["settings"]["corpus"], data)]
    if (out / "config.json").exists():
        check_settings(name, out)
        command.append("--resume")
    call(command)
    return typed


def check_settings(name: str, out: Path) -> None:
    """Exit with code 2 if the run in the folder was trained with other settings than the recipe's.

    A recipe can change after the run. The row would then show the recipe's command beside figures
    of other settings. Settings that the command gives by a flag are not compared.
    """
    saved: dict[str, Any] = {}
    for section in ("network", "batching", "optimizer", "training"):
        saved |= json.loads((out / "config.json").read_text()).get(section, {})
    settings = jaxlm.RECIPES[name]["settings"]
    settings = json.loads(json.dumps({k: v for k, v in settings.items() if k not in BY_FLAG}))
    other = [setting for setting in settings.keys() & saved if settings[setting] != saved[setting]]
    if other:
        first = min(other)
        print(
            f"error: the run in {out} has {first} {saved[first]}, the recipe {name} has "
            f"{settings[first]}: choose another --out to train the recipe anew",
            file=sys.stderr,
        )
        sys.exit(2)


def minutes(out: Path) -> float:
    """Return the wall-clock minutes of all sessions of a run.

    In a run of jaxlm 0.1 the seconds start at 0 in each session.
    """
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
        vectors = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 BF16"}
        vectors |= {"avx512f": "AVX-512", "avx2": "AVX2"}
        widest = [vectors[flag] for flag in vectors if flag in fields.get("flags", "").split()]
        model = " with ".join([fields.get("model name", model), *widest[:1]])
    cores = len(os.sched_getaffinity(0))
    return f"{cores} core{'s' * (cores > 1)}, {model}"


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


def alike(seeds: dict[str, dict[str, Any]]) -> list[dict[str, dict[str, Any]]]:
    """Return the results of a recipe by seed, in groups that have one command and one hardware.

    The commands of a group differ only in `--seed`.
    """
    groups: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for seed, result in seeds.items():
        command = re.sub(r" --seed \S+", "", result["command"])
        groups.setdefault((command, result["hardware"]), {})[seed] = result
    return list(groups.values())


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
        published = cell(recipe["published"])
        if name not in rows:
            ours = "for a text of your own" if name in WITHOUT_CORPUS else "not yet run"
            lines.append(f"| `{name}` | {published} | {ours} | | | | |")
            continue
        for group in alike(rows[name]["seeds"]):
            results = list(group.values())
            mean = {
                figure: sum(result[figure] for result in results) / len(results)
                for figure in results[0]
                if figure not in ABOUT
            }
            dates, versions = (
                " and ".join(dict.fromkeys(result[about] for result in results))
                for about in ("date", "version")
            )
            cells = [
                f"`{name}`",
                published,
                cell({split: mean[split] for split in mean if split != "minutes"}),
                f"{mean['minutes']:.1f}",
                results[0]["hardware"],
                ", ".join(group),
                f"`{results[0]['command']}`, {dates}, {versions}",
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
    parser.add_argument("--dtype", help="in place of the recipe's number type")
    options = parser.parse_args()
    if options.name in WITHOUT_CORPUS:
        print(
            f"error: {options.name} is a recipe for a text of your own: it has no corpus and no "
            "figures to reproduce",
            file=sys.stderr,
        )
        sys.exit(2)
    out = options.out or Path("runs") / f"{options.name}-{options.seed}"
    typed = train(options.name, out, options.seed, options.data, options.max_minutes, options.dtype)
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
    row["seeds"][str(options.seed)] = {
        **found,
        "minutes": minutes(out),
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
