"""The benchmark's timings as lines, tables and a figure."""

import math
import statistics
from pathlib import Path
from typing import Any

from shapes import SHAPES

KEPT = "PyTorch, memory kept"
"""PyTorch in a process whose C library keeps freed memory."""


def medians(row: dict[str, Any]) -> dict[str, float]:
    """Return the median seconds of one repetition, by peer."""
    return {name: statistics.median(times) for name, times in row["times"].items()}


def faster_peer(row: dict[str, Any]) -> str:
    """Return the name of the PyTorch process with the smaller median."""
    found = medians(row)
    return min(("PyTorch", KEPT), key=lambda name: found.get(name, math.inf))


def ratio(row: dict[str, Any], peer: str | None = None) -> float | None:
    """Return how many times faster jaxlm is than the peer, the median over rounds.

    The peer is the faster PyTorch, if it is not given. None if either was not timed.
    """
    jaxlm_times, peer_times = (
        row["times"].get(name) for name in ("jaxlm", peer or faster_peer(row))
    )
    if not jaxlm_times or not peer_times:
        return None
    return statistics.median(b / a for a, b in zip(jaxlm_times, peer_times, strict=False))


def line(row: dict[str, Any]) -> str:
    """Return a row as a line of text."""
    parts = [f"{name} {1000 * found:.1f} ms" for name, found in medians(row).items()]
    parts += [f"{name}: {why}" for name, why in row["failed"].items()]
    times = ratio(row)
    end = f" -> {times:.2f}x PyTorch" if times else ""
    return f"{row['shape']:11} {row['task']:10} {row['dtype']:8} {', '.join(parts)}{end}"


def limit_seconds(row: dict[str, Any], limit: dict[str, float]) -> float:
    """Return the lower bound in seconds: arithmetic at its rate plus traffic at its bandwidth."""
    shape = SHAPES[row["shape"]]
    arithmetic = shape.flops(row["task"]) / limit[row["dtype"]]
    return arithmetic + shape.traffic(row["task"]) / limit["bandwidth"]


def geometric_mean(values: list[float]) -> float:
    """Return exp of the mean logarithm."""
    return math.exp(statistics.fmean(map(math.log, values)))


def _table(rows: list[dict[str, Any]], limit: dict[str, float]) -> list[str]:
    lines = [
        f"| shape | jaxlm ms | PyTorch ms | {KEPT} ms | linen ms | x PyTorch "
        "| tokens/s | GFLOP/s | of the limit |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    ratios, as_started, most = [], [], []
    for row in rows:
        found = medians(row)
        if (peer := faster_peer(row)) in found:
            most.append(found[peer] / limit_seconds(row, limit))
        cells = [
            f"{1000 * found[name]:.1f}" if name in found else row["failed"].get(name, "")
            for name in ("jaxlm", "PyTorch", KEPT, "linen")
        ]
        times = ratio(row)
        ratios += [times] if times else []
        if found_as_started := ratio(row, "PyTorch"):
            as_started.append(found_as_started)
        cells.append(f"{times:.2f}" if times else "")
        if "jaxlm" in found:
            shape, task, seconds = SHAPES[row["shape"]], row["task"], found["jaxlm"]
            cells.append(f"{shape.tokens(task) / seconds:,.0f}")
            cells.append(f"{shape.flops(task) / seconds / 1e9:.0f}")
            cells.append(f"{100 * limit_seconds(row, limit) / seconds:.0f}%")
        lines.append(f"| {row['shape']} | {' | '.join(cells)} |")
    if ratios:
        mean, least = geometric_mean(ratios), min(ratios)
        lines.append(
            f"\nGeometric mean {mean:.2f}x PyTorch, least {least:.2f}x. A program at the "
            f"limit would have {geometric_mean(most):.2f}x."
        )
    if as_started:
        lines[-1] += (
            f" Against PyTorch as it is started: {geometric_mean(as_started):.2f}x, "
            f"least {min(as_started):.2f}x."
        )
    return lines


def _against_the_faster(rows: list[dict[str, Any]]) -> list[str]:
    """Compare jaxlm's bfloat16 step with the faster of PyTorch's float32 and bfloat16 steps."""
    by_shape: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        if row["task"] == "step":
            by_shape.setdefault(row["shape"], {})[row["dtype"]] = medians(row)
    ratios = []
    for found in by_shape.values():
        pytorch = [
            times[name] for times in found.values() for name in ("PyTorch", KEPT) if name in times
        ]
        jaxlm = found.get("bfloat16", {}).get("jaxlm")
        if jaxlm and pytorch and len(found) == 2:
            ratios.append(min(pytorch) / jaxlm)
    if not ratios:
        return []
    mean = geometric_mean(ratios)
    return [
        f"jaxlm's bfloat16 step against the faster of PyTorch's float32 and autocast: geometric "
        f"mean {mean:.2f}x, least {min(ratios):.2f}x.\n"
    ]


def markdown(results: dict[str, Any]) -> str:
    """Return all results as a Markdown page."""
    machine, about, limit = results["machine"], results["about"], results["limit"]
    versions = ", ".join(
        f"{name} {value}" for side in about.values() for name, value in side.items()
    )
    lines = [
        "# jaxlm, PyTorch and linen side by side\n",
        ", ".join(f"{name}: {value}" for name, value in machine.items() if value) + ".",
        versions + ".",
        f"Measured between the rounds: float32 products {limit['float32'] / 1e9:.0f} GFLOP/s, "
        f"bfloat16 products {limit['bfloat16'] / 1e9:.0f}, memory "
        f"{limit['bandwidth'] / 1e9:.0f} GB/s (read and written in place).\n",
        "Times are milliseconds of one training step, of one evaluation of the same batch, or of "
        "generating 20 streams of 200 words. Each is a median of alternating rounds. GFLOP/s "
        "counts only the products. The limit is a lower bound: the arithmetic of the products at "
        "the rate above, plus the unavoidable memory traffic at the bandwidth above (Adam's seven "
        "passes over the parameters; reading the matrices).\n",
        f"`{KEPT}` is PyTorch in a process whose C library keeps freed memory (`MALLOC_ARENA_MAX=1 "
        "MALLOC_MMAP_MAX_=0` and a large `MALLOC_TRIM_THRESHOLD_`), as jaxlm's train command does. "
        "The ratios are to the faster PyTorch.\n",
    ]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in results["rows"]:
        groups.setdefault((row["task"], row["dtype"]), []).append(row)
    for (task, dtype), rows in groups.items():
        lines += [f"## {task}, {dtype}\n", *_table(rows, limit), ""]
    lines += _against_the_faster(results["rows"])
    if results["memory"]:
        lines += ["## Peak memory of a process that takes training steps, float32\n"]
        lines += [
            f"| shape | jaxlm MB | PyTorch MB | {KEPT} MB | share of PyTorch |",
            "|---|---|---|---|---|",
        ]
        for name, found in results["memory"].items():
            cells = [
                f"{found[who] / 1e6:.0f}" if who in found else ""
                for who in ("jaxlm", "PyTorch", KEPT)
            ]
            both = "jaxlm" in found and "PyTorch" in found
            cells.append(f"{100 * found['jaxlm'] / found['PyTorch']:.0f}%" if both else "")
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def growth_figure(growth: list[dict[str, Any]], path: Path) -> None:
    """Plot the milliseconds of the small LSTM's step as one axis grows, a line for each peer."""
    from matplotlib.figure import Figure

    axes_of = list(dict.fromkeys(point["axis"] for point in growth))
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    for place, axis in enumerate(axes_of, 1):
        axes = figure.add_subplot(1, len(axes_of), place)
        points = [point for point in growth if point["axis"] == axis]
        for name in ("jaxlm", "PyTorch", KEPT):
            timed = [point for point in points if name in point["times"]]
            if not timed:
                continue
            sizes = [point["size"] for point in timed]
            axes.plot(sizes, [1000 * medians(point)[name] for point in timed], "o-", label=name)
        axes.set(xscale="log", yscale="log", xlabel=axis, ylabel="ms per step")
        axes.set_xticks([point["size"] for point in points], [point["size"] for point in points])
        axes.minorticks_off()
        axes.grid(True, alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)
