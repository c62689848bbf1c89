"""Figures; the only module that knows matplotlib."""

from pathlib import Path
from typing import Any


def loss_curve(records: list[dict[str, Any]], path: Path) -> bool:
    """Draws training and validation perplexity by step into `path`; False if matplotlib (extra
    `plots`) is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for split, marker in (("train", ""), ("valid", "o")):
        points = [
            (record["step"], record["ppl"])
            for record in records
            if record["split"] == split and "ppl" in record
        ]
        if points:
            axes.plot(*zip(*points, strict=True), marker=marker, label=split)
    axes.set(xlabel="step", ylabel="perplexity", yscale="log", title=path.parent.name)
    axes.legend()
    axes.grid(True, which="both", alpha=0.3)
    figure.savefig(path, dpi=120)
    return True
