"""The benchmark's timings as lines, tables and a figure."""

import math
import statistics
from pathlib import Path
from typing import Any

from shapes import SHAPES


def medians(row: dict[str, Any]) -> dict[str, float]:
    """Return the median seconds of one repetition, by peer."""
    return {name: statistics.median(times) for name, times in row["times"].items()}


def ratio(row: dict[str, Any], peer: str = "PyTorch") -> float | None:
    """Return how many times faster jaxlm is than the peer, the median over rounds.

    None if either was not timed.
    """
    jaxlm_times, peer_times = row["times"].get("jaxlm"), row["times"].get(peer)
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
        "| shape | jaxlm ms | PyTorch ms | linen ms | x PyTorch "
        "| tokens/s | GFLOP/s | of the limit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    ratios, most = [], []
    for row in rows:
        found = medians(row)
        if "PyTorch" in found:
            most.append(found["PyTorch"] / limit_seconds(row, limit))
        cells = [
            f"{1000 * found[name]:.1f}" if name in found else row["failed"].get(name, "")
            for name in ("jaxlm", "PyTorch", "linen")
        ]
        times = ratio(row)
        ratios += [times] if times else []
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
    return lines


def _against_the_faster(rows: list[dict[str, Any]]) -> list[str]:
    """Compare jaxlm's bfloat16 step with the faster of PyTorch's float32 and bfloat16 steps."""
    by_shape: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        if row["task"] == "step":
            by_shape.setdefault(row["shape"], {})[row["dtype"]] = medians(row)
    ratios = []
    for found in by_shape.values():
        pytorch = [times["PyTorch"] for times in found.values() if "PyTorch" in times]
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
    ]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in results["rows"]:
        groups.setdefault((row["task"], row["dtype"]), []).append(row)
    for (task, dtype), rows in groups.items():
        lines += [f"## {task}, {dtype}\n", *_table(rows, limit), ""]
    lines += _against_the_faster(results["rows"])
    if results["memory"]:
        lines += ["## Peak memory of a process that takes training steps, float32\n"]
        lines += ["| shape | jaxlm MB | PyTorch MB | share |", "|---|---|---|---|"]
        for name, found in results["memory"].items():
            jaxlm, pytorch = found["jaxlm"], found["PyTorch"]
            share = f"{100 * jaxlm / pytorch:.0f}%"
            lines.append(f"| {name} | {jaxlm / 1e6:.0f} | {pytorch / 1e6:.0f} | {share} |")
        lines.append("")
    return "\n".join(lines)


def growth_figure(growth: list[dict[str, Any]], path: Path) -> None:
    """Plot the milliseconds of the small LSTM's step as one axis grows."""
    from matplotlib.figure import Figure

    axes_of = list(dict.fromkeys(point["axis"] for point in growth))
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    for place, axis in enumerate(axes_of, 1):
        axes = figure.add_subplot(1, len(axes_of), place)
        points = [point for point in growth if point["axis"] == axis]
        for name in ("jaxlm", "PyTorch"):
            timed = [point for point in points if name in point["times"]]
            sizes = [point["size"] for point in timed]
            axes.plot(sizes, [1000 * medians(point)[name] for point in timed], "o-", label=name)
        axes.set(xscale="log", yscale="log", xlabel=axis, ylabel="ms a step")
        axes.set_xticks([point["size"] for point in points], [point["size"] for point in points])
        axes.minorticks_off()
        axes.grid(True, alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)
