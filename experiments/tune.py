"""Measure which constants are fastest on this CPU, and write them into jaxlm's table of CPUs.

Command    python experiments/tune.py [--write]
Hardware   any CPU; nothing else should run on its cores
Minutes    15 on two cores for all constants; 4 with --only chunk_tokens largest_transposed
Expected   a row of `jaxlm/ops/cpus.json`, as JSON
Published  none

The constants are the fields of `jaxlm.ops.cpus.Constants`. One constant is varied at a time. Each
of its values has a process of its own. The processes are timed in turns. A value replaces the value
before if it is at least 3% faster, twice, in the geometric mean over the shapes. On a CPU without
bfloat16 units, nothing is tuned in bfloat16. Without --write the row is only printed. With it, the
row replaces the row of this kind of CPU in the table.
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

BENCHMARK = Path(__file__).parent / "benchmark"
sys.path.insert(0, str(BENCHMARK))

import jaxlib  # noqa: E402
from shapes import SHAPES  # noqa: E402
from wire import Peer, started  # noqa: E402

from jaxlm.ops.cpus import (  # noqa: E402
    SUMS_BY_YNNPACK,
    TABLE,
    WITH_BFLOAT16,
    Constants,
    Row,
    read_table,
    row_of_this_cpu,
    this_cpu,
)

GAIN = 1.03
"""A value must be this many times as fast as the value before, in two measurements."""
OPTIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "sums by YNNPACK": SUMS_BY_YNNPACK,
    "no YNNPACK": {"xla_cpu_experimental_ynn_fusion_type": ""},
    "oneDNN": {"xla_cpu_use_onednn": True, "xla_cpu_experimental_onednn_custom_call": True},
    "vectors of 256 bits": {"xla_cpu_prefer_vector_width": 256},
    "vectors of 512 bits": {"xla_cpu_prefer_vector_width": 512},
}
"""Compiler options to try."""
DTYPES = ("float32", "bfloat16")


class Trial(NamedTuple):
    """One constant, and the work whose time depends on it.

    path: the field of Constants, then keys of its mapping. values: the values to try. task, dtype
    and shapes: the work.
    """

    path: tuple[str, ...]
    values: Sequence[Any]
    task: str
    dtype: str
    shapes: tuple[str, ...]


SHAPES_OF = {
    "step": ("small", "medium", "long", "nplm"),
    "evaluation": ("small", "gru medium", "nplm"),
    "generation": ("small", "medium"),
}
"""The shapes on which compiler options are tried, by task."""
TRIALS = [
    Trial(("options", task, dtype), list(OPTIONS.values()), task, dtype, shapes)
    for task, shapes in SHAPES_OF.items()
    for dtype in DTYPES
]
TRIALS += [
    Trial(("chunk_tokens",), (160, 320, 640), "step", "float32", ("small", "wt2", "long", "nplm")),
    Trial(("words_with_gradient",), (3584, 7168, 14336), "step", "float32", ("small", "wt2")),
    Trial(
        ("words_without_gradient",), (1024, 2048, 4096), "evaluation", "float32", ("nplm", "wt2")
    ),
    Trial(
        ("chunk_tokens_without_gradient",),
        (256, 512, 1024, 2048),
        "evaluation",
        "float32",
        ("nplm", "long"),
    ),
]
TRIALS += [
    Trial(("largest_transposed", dtype), (0, 1 << 19, 1 << 21), "step", dtype, ("small", "medium"))
    for dtype in DTYPES
]
TRIALS += [
    Trial(
        ("materialises_transposes", dtype),
        (False, True),
        "step",
        dtype,
        ("small", "medium", "long", "nplm"),
    )
    for dtype in DTYPES
]


def with_value(constants: Constants, path: tuple[str, ...], value: Any) -> Constants:
    """Return the constants with another value at `path`: a field, then keys of its mapping."""

    def put(tree: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
        below = value if len(keys) == 1 else put(tree.get(keys[0], {}), keys[1:])
        return {**tree, keys[0]: below}

    return Constants(**put(asdict(constants), path))


def value_at(constants: Constants, path: tuple[str, ...]) -> Any:
    """Return the value at `path`; {} for options that the constants do not have."""
    found: Any = asdict(constants)
    for key in path:
        found = found.get(key, {})
    return found


def times_of(
    peers: Mapping[str, Peer], shape: str, task: str, dtype: str, rounds: int, seconds: float
) -> dict[str, float]:
    """Return the seconds of one repetition for each peer, the median of alternating rounds.

    A peer that fails is missing, and the error is printed.
    """
    request = {"who": "jaxlm", "shape": SHAPES[shape].as_dict(), "task": task, "dtype": dtype}
    times: dict[str, list[float]] = {}
    for name, peer in peers.items():
        answer = peer.ask(prepare=request | {"constants": json.loads(name)})
        if "error" in answer:
            print(f"  {name}: {answer['error']}", file=sys.stderr)
        else:
            times[name] = []
    for turn in range(rounds):
        names = list(times)
        # Each round begins with another peer.
        for index in range(len(names)):
            name = names[(turn + index) % len(names)]
            answer = peers[name].ask(seconds=seconds)
            if "error" in answer:
                print(f"  {name}: {answer['error']}", file=sys.stderr)
                del times[name]
            else:
                times[name].append(answer["seconds"])
    return {name: statistics.median(found) for name, found in times.items()}


def tune(constants: Constants, trial: Trial, options: argparse.Namespace) -> Constants:
    """Return the constants with the fastest value of one constant, and print what was measured.

    The fastest value replaces the value before only if it is GAIN times as fast twice: beside all
    values, and alone beside the value before with twice as many rounds.
    """
    now = value_at(constants, trial.path)
    values = [now, *(value for value in trial.values if value != now)]
    print(f"{'.'.join(trial.path)} ({trial.task}, {trial.dtype}, {', '.join(trial.shapes)})")
    gains = gains_of(constants, trial, values, options.rounds, options.seconds)
    best = max(range(len(gains)), key=lambda index: gains[index])
    if gains[best] < GAIN:
        return constants
    print("  again, the fastest beside the value before:")
    again = gains_of(constants, trial, [now, values[best]], 2 * options.rounds, options.seconds)
    return with_value(constants, trial.path, values[best]) if again[1] >= GAIN else constants


def gains_of(
    constants: Constants, trial: Trial, values: Sequence[Any], rounds: int, seconds: float
) -> list[float]:
    """Return how many times as fast as the first value each value is, and print it.

    A gain is the geometric mean over the shapes of the trial; 0 for a value that fails. If the
    first value fails, all gains are 0.
    """
    names = [json.dumps(asdict(with_value(constants, trial.path, value))) for value in values]
    command = [sys.executable, str(BENCHMARK / "jax_side.py")]
    ratios: dict[str, list[float]] = {name: [] for name in names}
    with contextlib.ExitStack() as stack:
        peers = {
            name: stack.enter_context(started(command, dict(os.environ), 300)) for name in names
        }
        for shape in trial.shapes:
            times = times_of(peers, shape, trial.task, trial.dtype, rounds, seconds)
            if names[0] not in times:
                print(f"  {json.dumps(values[0])} fails on {shape}, so no value is compared")
                return [0.0] * len(values)
            for name, taken in times.items():
                ratios[name].append(times[names[0]] / taken)
            for name in peers.keys() - times.keys():
                peers.pop(name)
    gains = []
    for name, value in zip(names, values, strict=True):
        whole = len(ratios[name]) == len(trial.shapes)
        gains.append(statistics.geometric_mean(ratios[name]) if whole else 0.0)
        each = " ".join(f"{ratio:.2f}" for ratio in ratios[name])
        print(f"  {gains[-1]:.3f}  ({each})  {json.dumps(value)}", flush=True)
    return gains


def bfloat16_step(constants: Constants, options: argparse.Namespace) -> float:
    """Return how many times as fast as in float32 a train step is in bfloat16."""
    command = [sys.executable, str(BENCHMARK / "jax_side.py")]
    name = json.dumps(asdict(constants))
    ratios = []
    with started(command, dict(os.environ), 300) as peer:
        for shape in ("small", "medium", "long", "gru medium", "nplm"):
            found = [
                times_of({name: peer}, shape, "step", dtype, options.rounds, options.seconds)[name]
                for dtype in DTYPES
            ]
            ratios.append(found[0] / found[1])
    return statistics.geometric_mean(ratios)


def rates() -> dict[str, float]:
    """Return GFLOP/s of a product of matrices of 2048 x 2048, by dtype; the best of five."""
    found, size = {}, 2048
    command = [sys.executable, str(BENCHMARK / "jax_side.py")]
    with started(command, dict(os.environ), 300) as peer:
        for dtype in DTYPES:
            peer.ask(prepare={"who": "limit", "what": "product", "size": size, "dtype": dtype})
            best = min(peer.ask(seconds=0.3)["seconds"] for _ in range(5))
            found[dtype] = round(2 * size**3 / best / 1e9, 1)
    return found


def cpu_name() -> str:
    """Return the name of the CPU, as /proc/cpuinfo has it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return "unknown"


def main() -> None:
    """Tune each constant, print the row, and write it if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the row into the table")
    names = sorted({name for trial in TRIALS for name in (trial.path[0], trial.task)})
    parser.add_argument("--only", nargs="*", choices=names, help="constants or tasks to tune")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.2, help="duration of a timing")
    options = parser.parse_args()
    began = time.time()
    vendor, level = this_cpu()
    same = row_of_this_cpu()
    constants = same.constants
    for trial in TRIALS:
        chosen = not options.only or {trial.path[0], trial.task} & set(options.only)
        if chosen and (trial.dtype == "float32" or level in WITH_BFLOAT16):
            constants = tune(constants, trial, options)
    row = Row(
        vendor,
        level,
        cpu=cpu_name(),
        cores=len(os.sched_getaffinity(0)),
        date=time.strftime("%Y-%m-%d"),
        jaxlib=jaxlib.__version__,
        gflops=rates(),
        bfloat16_step=round(bfloat16_step(constants, options), 2),
        constants=constants,
    )
    print(json.dumps(row.as_json(), indent=1))
    print(f"{(time.time() - began) / 60:.1f} minutes")
    if options.write:
        write(row)


def write(row: Row) -> None:
    """Write the row into the table, in the place of the row of the same kind of CPU."""
    others = [
        other for other in read_table() if (other.vendor, other.level) != (row.vendor, row.level)
    ]
    rows = sorted([*others, row], key=lambda one: (one.vendor, one.level))
    entries = [one.as_json() for one in rows]
    TABLE.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    print(f"written to {TABLE}")


if __name__ == "__main__":
    main()
