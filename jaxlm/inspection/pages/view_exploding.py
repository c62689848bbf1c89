"""The view "exploding": the gradient by lag with the recurrent matrix scaled to several radii."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxlm.inspection.gradients import (
    gradient_through_time,
    linear_norms,
    own_radii,
    recurrent_kernels,
)
from jaxlm.inspection.pages import view_gradients
from jaxlm.inspection.pages.choosing import Both, both, each, or_missing
from jaxlm.runs.run import Run

# With these positions the 11 radii take about a second for two layers of 256 units.
POSITIONS = 8
RADII = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5)
MOST_WEIGHTS = 300_000
"""Numbers in the recurrent matrices of all runs that are shown, so that a page is made in seconds.
The first run is shown in any case."""
STEPS = 60
"""Products with the matrix alone. They need no text, so that a short one shows as many."""
# Below and above these factors over all steps, a gradient vanishes or explodes.
VANISHED, EXPLODED = 0.01, 100.0


def collect(runs: Sequence[Run], text: str, options: Any) -> dict[str, Any]:
    """Return the norms for each radius: of the matrix alone, and of the network."""

    def of_run(run: Run) -> dict[str, Any]:
        kernels = recurrent_kernels(run.params, run.name)
        network, own = _network(run, text)
        own = own or own_radii(kernels, run.name)
        linear = linear_norms(kernels, own, RADII, STEPS)
        all_radii = [radius for radii in own.values() for radius in radii]
        return network | {
            "linear": linear,
            "kinds": [_kind(row) for row in linear],
            "own_radii": all_radii,
            "gated": len(all_radii) > len(own),
        }

    chosen, left_out = _simplest(runs)
    shown, without = each(
        [runs[index] for index in chosen],
        [options.labels[index] for index in chosen],
        of_run,
        _reason,
    )
    for one in shown:
        one["index"] = chosen[one["index"]]
    if left_out:
        names = [options.labels[index] for index in left_out]
        without.append(
            both(
                f"{', '.join(names)}: the matrices of all runs together are too large for this "
                f"page. Make a page of this run alone to see its curves.",
                f"{'、'.join(names)}：所有模型的循环矩阵加起来太大，这个页面放不下。"
                f"请单独为它生成一个页面。",
            )
        )
    return or_missing(shown, without, radii=RADII)


def _network(run: Run, text: str) -> tuple[dict[str, Any], dict[str, list[float]] | None]:
    """Return the network's own curves, and the radii of its matrices.

    A text that is too short for curves has no lags, and the radii are None.
    """
    if view_gradients.reason(run, text):
        return {"lags": [], "norms": [], "network_kinds": [], "positions": 0}, None
    found = gradient_through_time(
        run,
        view_gradients.part_of(run, text),
        RADII,
        view_gradients.largest_lag(run, text),
        start="fresh",
        positions=POSITIONS,
    )
    curves = {
        "lags": found.lags[1:],
        "norms": found.norms[:, 1:],
        "network_kinds": [_kind(row[1:]) for row in found.norms],
        "positions": found.positions,
    }
    return curves, found.own_radii


def _gates(run: Run) -> int | None:
    """Return the number of gates of a run with a recurrent matrix, or None for other runs."""
    cell = getattr(run.model, "cell", None)
    return len(cell.gates) if cell is not None and cell.has_matrix else None


def _simplest(runs: Sequence[Run]) -> tuple[list[int], list[int]]:
    """Return which runs are shown, and which runs are too large to be shown with them, by index.

    The runs with the fewest gates come first, because they follow the radius most. All runs are
    returned as shown if none has a recurrent matrix.
    """
    able = [(gates, index) for index, run in enumerate(runs) if (gates := _gates(run)) is not None]
    chosen: list[int] = []
    left_out: list[int] = []
    weights = 0
    for _, index in sorted(able):
        kernels = recurrent_kernels(runs[index].params, runs[index].name)
        size = sum(kernel.size for kernel in kernels.values())
        if chosen and weights + size > MOST_WEIGHTS:
            left_out.append(index)
            continue
        chosen.append(index)
        weights += size
    return chosen or list(range(len(runs))), left_out


def _reason(run: Run) -> Both | None:
    """Return why a run cannot be shown, or None if it can."""
    if _gates(run) is None:
        return both(
            "this run has no recurrent matrix, so that no gradient passes through one at each "
            "step. Add a run of an Elman network, a GRU or an LSTM.",
            "这个模型没有循环矩阵，梯度不会在每一步都乘上同一个矩阵。请加上一个 RNN、GRU 或 LSTM。",
        )
    return None


def _kind(norms: np.ndarray) -> str:
    """Return what a gradient does from the first step to the last, by its name in the texts."""
    ratio = norms[-1] / norms[0] if norms[0] > 0 else 0.0
    return "vanishes" if ratio < VANISHED else "explodes" if ratio > EXPLODED else "kept"
