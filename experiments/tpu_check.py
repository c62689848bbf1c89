"""Compile every model's training step, evaluation and generation for TPUs, without a TPU.

Command    pip install "jax[tpu]" && python experiments/tpu_check.py --out experiments/tpu_check.md
Hardware   a CPU
Minutes    5
Expected   a table, tpu_check.md, and exit code 0: every program fits into memory, and none has a
           collective inside a loop over time

The times are estimates. Computation takes the longer of arithmetic and memory traffic at the
published rates, and communication follows. The cycles are the compiler's estimate. Without --out
the table is only printed.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

import programs

from jaxlm.models import MODELS

PAGE = Path(__file__).with_suffix(".md")
TOPOLOGIES = {"v5e:2x4": 2, "v6e:16x16": 2}
SETTINGS = {"embedding_size": 650, "hidden_size": 650, "num_layers": 2, "n_step": 5}
VOCABULARY, STREAMS, TIME = 10_000, 8, 35
NEURAL = [name for name, entry in MODELS.items() if entry.kind.trained_by == "gradient"]


def check(topology: str, name: str, task: str) -> tuple[str, list[str]]:
    """Compile a program; return its row of the table, and the errors that were found."""
    chip = programs.CHIPS[topology.split(":")[0]]
    mesh = programs.tpu_mesh(topology, TOPOLOGIES[topology])
    model = programs.build(name, VOCABULARY, dtype="bfloat16", **SETTINGS)
    batch = STREAMS * mesh.shape["data"]
    try:
        program = programs.TASKS[task](model, mesh, batch, TIME)
    except programs.DoesNotFitError as error:
        return f"| {topology} | {name} | {task} | does not fit | | | | | | |", [str(error)]
    compiled = program.compiled
    in_time = [each for each in compiled.collectives if each.in_time_loop]
    wrong = []
    if program.held > chip.memory:
        wrong.append(f"needs {program.held / 1e9:.1f} GB of {chip.memory / 1e9:.0f}")
    cell = getattr(model, "cell", None)
    if cell and cell.recurrent and not compiled.time_loops:
        wrong.append("no loop over time was found")
    if in_time:
        wrong.append(f"{len(in_time)} collectives in a loop over time: {in_time[0].name}")
    counts = Counter(each.kind for each in compiled.collectives)
    computation, communication = program.seconds(chip)
    row = (
        f"| {topology} | {name} | {task} | {program.held / 1e6:,.0f} | "
        f"{program.work.flops / 1e9:,.1f} | {1e3 * computation:.2f} | {1e3 * communication:.2f} | "
        f"{compiled.cycles / 1e6:.2f} | {compiled.time_loops} | {programs.shown(counts)} |"
    )
    return row, wrong


def main() -> int:
    """Check all programs that the flags name, and write the page if `--out` is given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--topologies", nargs="+", choices=list(TOPOLOGIES), default=list(TOPOLOGIES)
    )
    parser.add_argument("--models", nargs="+", choices=NEURAL, default=NEURAL)
    parser.add_argument(
        "--tasks", nargs="+", choices=list(programs.TASKS), default=list(programs.TASKS)
    )
    parser.add_argument("--out", type=Path, help="file of the table (default: only print it)")
    options = parser.parse_args()
    lines = [
        "# Programs for TPUs",
        "",
        "Programs of one device, compiled for TPUs on a machine without a TPU "
        "(`python experiments/tpu_check.py --out experiments/tpu_check.md`): "
        f"{VOCABULARY:,} words, two layers of {SETTINGS['hidden_size']} units, bfloat16. In a "
        f"step and in generation, each device on `data` has {STREAMS} streams of {TIME} words. "
        "Evaluation reads one stream, which is not sharded, of as many words as the model's "
        "`tokens_in_chunk(False)` returns. The vocabulary is sharded over two devices on `model`.",
        "",
        "| slice | model | program | MB held | GFLOP | ms computing | ms communicating | Mcycles | "
        "loops over time | collectives |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    failures = []
    for topology in options.topologies:
        for name in options.models:
            for task in options.tasks:
                row, wrong = check(topology, name, task)
                print(row, flush=True)
                lines.append(row)
                failures += [f"{topology} {name} {task}: {error}" for error in wrong]
    if options.out:
        options.out.write_text("\n".join([*lines, ""]))
    print("\n".join(failures), file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
