"""Time jaxlm, PyTorch and linen's cells on the same shapes, alternating, in one run.

Command    python experiments/benchmark --torch-python PATH [--only medium] [--out FOLDER]
Hardware   any; the table names it (CPU, or the GPU that both frameworks find)
Minutes    20 on two cores with --dtypes float32 --growth; 1 with --only small --tasks step as well
Expected   geometric means, x PyTorch: RESULTS.md (AVX2, float32, PyTorch as it is started): step
           1.23, evaluation 1.29, generation 3.9; RESULTS-avx512.md (the faster PyTorch):
           step 1.24 and 1.11, evaluation 1.19 and 0.93, generation 4.4 and 4.9 (float32,
           bfloat16)
Published  none

PATH is a Python that has torch; the default is this Python. Three tasks are timed for each shape:
- step: forward pass, backward pass, clipping, Adam;
- evaluation: forward pass and cross-entropy;
- generation: 20 streams of 200 words, word by word.
Both dtypes are timed: float32, and bfloat16 against PyTorch's autocast. A round times every peer
once. A time is the median over the rounds, and a ratio is the median of the rounds' ratios. On a
CPU PyTorch is timed twice: as it is started, and with freed memory kept, as jaxlm's train command
keeps it; jaxlm's process keeps it for all tasks. The ratio is to the faster of the two. The limit
is a lower bound: the arithmetic of the products at the measured rate, plus the unavoidable memory
traffic at the measured bandwidth. Rate and bandwidth are measured between the rounds.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import report
from report import KEPT
from shapes import DTYPES, GROWTH, SHAPES, TASKS, Shape
from wire import TOO_LONG, Peer, started

HERE = Path(__file__).parent
KEEP_FREED_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str((1 << 63) - 1),
}
"""glibc's variables for what `jaxlm.commands.process.keep_freed_memory` sets."""


def alternate(
    peers: dict[str, Peer], requests: dict[str, dict[str, Any]], rounds: int, seconds: float
) -> dict[str, Any]:
    """Time every peer, round after round.

    Args:
      peers: the processes, by name.
      requests: the work that each peer prepares, by name.
      rounds: number of timings of each peer.
      seconds: duration of a timing, about.
    Returns:
      {"times": seconds of one repetition, a list per peer, "failed": error message per peer}. A
      peer that failed has no times.
    """
    estimates, times, failed = {}, {name: [] for name in requests}, {}
    for name, request in requests.items():
        answer = peers[name].ask(prepare=request, name=name)
        if "error" in answer:
            failed[name] = answer["error"]
        else:
            estimates[name] = answer["estimate"]
            if answer["estimate"] > TOO_LONG:
                times[name].append(answer["estimate"])
    for _ in range(rounds):
        for name, estimate in estimates.items():
            if name in failed:
                continue
            # Slow work is timed fewer times.
            enough = 1 if estimate > TOO_LONG else 5 if estimate > 4 * seconds else rounds
            if len(times[name]) >= enough:
                continue
            answer = peers[name].ask(seconds=seconds, name=name)
            if "error" in answer:
                # The process was killed, and its times so far are left out.
                failed[name] = answer["error"]
                times[name].clear()
            else:
                times[name].append(answer["seconds"])
    for name in estimates.keys() - failed.keys():
        peers[name].ask(forget=True)
    return {"times": {name: found for name, found in times.items() if found}, "failed": failed}


def measure_limit(peer: Peer, accelerator: bool) -> dict[str, float]:
    """Return FLOP/s of a product in each dtype, and bytes/s of an update in place.

    Each is the best of five timings.
    """
    found = {}
    size = 8192 if accelerator else 2048
    for dtype in DTYPES:
        peer.ask(prepare={"who": "limit", "what": "product", "size": size, "dtype": dtype})
        best = min(peer.ask(seconds=0.3)["seconds"] for _ in range(5))
        found[dtype] = 2 * size**3 / best
    # Larger than any cache.
    count = 1 << (28 if accelerator else 26)
    peer.ask(prepare={"who": "limit", "what": "memory", "size": count})
    found["bandwidth"] = 8 * count / min(peer.ask(seconds=0.3)["seconds"] for _ in range(5))
    return found


def peak_memory(commands: dict[str, list[str]], shape: Shape, patience: float) -> dict[str, int]:
    """Return the peak memory of a new process that runs training steps, in bytes, by peer.

    A peer that does not answer within `patience` seconds is missing.
    """
    found = {}
    for who in ("jaxlm", "PyTorch", KEPT):
        environment = _environment(who, dict(os.environ))
        with started(commands[who], environment, patience) as peer:
            if "error" in peer.ask(prepare=_request(who, shape, "step", "float32")):
                continue
            # After an error the next request starts a new process, which has run no step.
            if "error" not in peer.ask(seconds=1):
                found[who] = peer.ask(peak=True)["peak"]
    return found


def _request(who: str, shape: Shape, task: str, dtype: str) -> dict[str, Any]:
    return {"who": who, "shape": shape.as_dict(), "task": task, "dtype": dtype}


def _environment(who: str, environment: dict[str, str]) -> dict[str, str]:
    return environment | KEEP_FREED_MEMORY if who == KEPT else environment


def machine() -> dict[str, Any]:
    """Describe the machine: CPU, vector units, cores, Python, and the date."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    flags = ""
    if info.is_file():
        lines = info.read_text().splitlines()
        named = dict(line.split("\t: ", 1) for line in lines if "\t: " in line)
        fields = {key.strip(): value for key, value in named.items()}
        model = f"{fields.get('model name', model)}, family {fields.get('cpu family')}"
        known = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
        flags = " ".join(flag for flag in known if flag in fields.get("flags", "").split())
    return {
        "cpu": model.strip(),
        "vector units": flags,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Return all timings, as plain data.

    With `--out`, the timings so far are written to results.json after each row.
    """
    jax_side = [sys.executable, str(HERE / "jax_side.py")]
    torch_side = [options.torch_python, str(HERE / "torch_side.py")]
    commands = {"jaxlm": jax_side, "linen": jax_side, "PyTorch": torch_side, KEPT: torch_side}
    # The processes share the GPU's memory, so JAX must not allocate most of it at the start.
    environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | os.environ
    with contextlib.ExitStack() as stack:
        peers = {
            name: stack.enter_context(
                started(command, _environment(name, environment), options.patience)
            )
            for name, command in commands.items()
        }
        about = {name: peers[name].ask(about=True) for name in ("jaxlm", "PyTorch")}
        accelerator = about["jaxlm"]["device"] != "cpu"
        limits = [measure_limit(peers["jaxlm"], accelerator)]
        results: dict[str, Any] = {"machine": machine(), "about": about}
        results |= {"limit": _median_limit(limits), "rows": [], "memory": {}, "growth": []}
        shapes = {
            name: shape
            for name, shape in SHAPES.items()
            if (not options.only or name in options.only)
            and (accelerator or not shape.accelerator_only)
        }
        for name, shape in shapes.items():
            for task in options.tasks:
                for dtype in options.dtypes:
                    who = ["jaxlm", "PyTorch"] + [KEPT] * (not accelerator)
                    if task == "step" and dtype == "float32":
                        who.append("linen")
                    asked = {name: peers[name] for name in who}
                    found = _timed(asked, (shape, task, dtype), options)
                    row = {"shape": name, "task": task, "dtype": dtype, **found}
                    results["rows"].append(row)
                    write(results, options.out)
                    print(report.line(row), flush=True)
            limits.append(measure_limit(peers["jaxlm"], accelerator))
            results["limit"] = _median_limit(limits)
        for point in _growth(peers, options) if options.growth else ():
            results["growth"].append(point)
            write(results, options.out)
    for name, shape in shapes.items():
        if name in options.memory:
            results["memory"][name] = peak_memory(commands, shape, options.patience)
            write(results, options.out)
    write(results, options.out)
    return results


def write(results: dict[str, Any], folder: Path | None) -> None:
    """Write results.json into a folder, unless the folder is None.

    The file is written under another name and then renamed, so that it is always whole.
    """
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "results.json.partial"
    partial.write_text(json.dumps(results, indent=1) + "\n")
    partial.replace(folder / "results.json")


def _median_limit(limits: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(found[key] for found in limits) for key in limits[0]}


def _timed(
    peers: dict[str, Peer], case: tuple[Shape, str, str], options: argparse.Namespace
) -> dict[str, Any]:
    requests = {name: _request(name, *case) for name in peers}
    return alternate(peers, requests, options.rounds, options.seconds)


def _growth(peers: dict[str, Peer], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Time the step of the small LSTM as T, B, H or V grows. Yield each point."""
    from dataclasses import replace

    asked = {name: peers[name] for name in ("jaxlm", "PyTorch", KEPT)}
    for axis, sizes in GROWTH.items():
        for size in sizes:
            shape = replace(SHAPES["small"], **{axis: size})
            if axis == "hidden_size":
                shape = replace(shape, embedding_size=size)
            timed = _timed(asked, (shape, "step", "float32"), options)
            line = report.line({"shape": "", "task": "", "dtype": "", **timed})
            print(axis, size, line, flush=True)
            yield {"axis": axis, "size": size, **timed}


def main() -> None:
    """Time all shapes, print the tables, and save them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--only", action="append", choices=list(SHAPES), default=[])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--memory", nargs="*", choices=list(SHAPES), default=["long"])
    parser.add_argument("--growth", action="store_true", help="also vary T, B, H and V (figures)")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=0.4, help="duration of a timing")
    parser.add_argument("--patience", type=float, default=600, help="seconds to wait for a peer")
    parser.add_argument("--out", type=Path, help="folder for results.json, RESULTS.md and figures")
    options = parser.parse_args()
    results = run(options)
    text = report.markdown(results)
    print(text)
    if options.out:
        (options.out / "RESULTS.md").write_text(text)
        if results["growth"]:
            report.growth_figure(results["growth"], options.out / "growth.png")


if __name__ == "__main__":
    main()
