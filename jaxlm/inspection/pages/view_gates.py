"""The view "gates": gates and states of the units, token by token."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlm.inspection.pages.html import packed
from jaxlm.inspection.traces import STATES, Trace, models_with_gates
from jaxlm.inspection.units import FEATURES, Feature, UnitScore, correlations, ranked
from jaxlm.runs.run import Run

if TYPE_CHECKING:
    from jaxlm.inspection.pages.views import Options

BYTES = 780_000
"""Bytes of the arrays of all runs on a page, before base64 makes 4 of 3."""
FEWEST = 64
"""In a text of fewer tokens some unit follows any property by chance, so none is named."""
OF_LETTERS = ("inside a word", "start of a word")
"""Properties that say nothing of a token that is a whole word."""
LISTED = 3
"""Units that are named for each property of the text."""
Layers = dict[str, dict[str, np.ndarray]]
Correlations = dict[str, dict[str, np.ndarray]]


def collect(runs: Sequence[Run], text: str, options: "Options") -> dict[str, Any]:
    """Return gates, states and features of each run, of as many units as there is room for."""
    traces = [options.trace(run, text) for run in runs]
    layers = [layers_of(trace) for trace in traces]
    having = [label for label, found in zip(options.labels, layers, strict=True) if found]
    if not having:
        return {"missing": nothing_recorded(options.labels)}
    room = BYTES // len(having)
    collected: list[dict[str, Any]] = []
    for run, label, trace, found in zip(runs, options.labels, traces, layers, strict=True):
        if not found:
            collected.append({"missing": no_gates(label, having)})
            continue
        follows: Correlations = {}
        if len(trace) >= FEWEST:
            follows = correlations(run, text, _features(run), start=options.start)
        collected.append(_strips(trace, found, follows, room))
    return {"runs": collected, "fewest": FEWEST}


def _features(run: Run) -> dict[str, Feature]:
    """Return the properties whose units are sought, by name."""
    by_words = run.tokenizer.unit == "words"
    return {k: v for k, v in FEATURES.items() if not (by_words and k in OF_LETTERS)}


def layers_of(trace: Trace) -> Layers:
    """Return the arrays of a trace by layer and name.

    An array that belongs to no layer makes a layer of its own. Of equal arrays, one is kept: the
    gate of an Elman layer is its state.
    """
    layers: Layers = {}
    states = {name: array for name, array in trace.arrays.items() if trace.kinds[name] == STATES}
    kept: list[np.ndarray] = []
    for name, array in trace.arrays.items():
        others = kept if name in states else [*states.values(), *kept]
        if any(_same(array, other) for other in others):
            continue
        kept.append(array)
        layer, _, short = name.rpartition("/")
        layers.setdefault(layer or name, {})[short] = array
    return layers


def _arrays(layers: Layers) -> Iterable[np.ndarray]:
    return (array for arrays in layers.values() for array in arrays.values())


def _same(array: np.ndarray, other: np.ndarray) -> bool:
    return array.shape == other.shape and bool(np.array_equal(array, other))


def _strips(trace: Trace, layers: Layers, follows: Correlations, room: int) -> dict[str, Any]:
    """Return the layers of a run in `room` bytes.

    A value has 16 bits if there is room for all units, and else 8 bits. If there is no room even
    then, some units are left out.
    """
    values = sum(array.size for array in _arrays(layers))
    dtype = "uint16" if 2 * values <= room else "uint8"
    share = min(1.0, room / values)
    present = {full_name(name, short) for name, arrays in layers.items() for short in arrays}
    best = {
        feature: ranked({name: by[name] for name in by if name in present}, LISTED)
        for feature, by in follows.items()
    }
    return {
        "bits": 16 if dtype == "uint16" else 8,
        "features": list(follows),
        "layers": [
            _layer(name, arrays, trace, follows, kept_units(name, arrays, best, share), dtype)
            for name, arrays in layers.items()
        ],
        "found": [
            {
                "feature": feature,
                "first": first_place(trace, FEATURES[feature]),
                "units": [
                    {"layer": layer, "array": short, "unit": score.unit, "r": score.correlation}
                    for score in scores
                    for layer, short in [_parts(score.name)]
                ],
            }
            for feature, scores in best.items()
        ],
    }


def first_place(trace: Trace, feature: Feature) -> int:
    """Return the index of the first token at which a property of the text holds.

    A property that is a number holds where it is above its least value.
    """
    values_T = np.asarray(feature(trace.text))[trace.spans[:, 1] - 1]
    return int(np.argmax(values_T > values_T.min()))


def full_name(layer: str, short: str) -> str:
    """Return the name that an array of `layers_of` has in a trace."""
    return short if layer == short else f"{layer}/{short}"


def _parts(name: str) -> tuple[str, str]:
    """Return the layer and the name within it of an array of a trace."""
    layer, _, short = name.rpartition("/")
    return layer or name, short


def kept_units(
    layer: str,
    arrays: dict[str, np.ndarray],
    best: dict[str, list[UnitScore]],
    share: float,
) -> np.ndarray:
    """Return the units of a layer that the page keeps, in order.

    Args:
      layer: name of the layer.
      arrays: its arrays, [T, units].
      best: for each feature the units that follow it; they are kept.
      share: the share of the units that there is room for; the others are those that change least.
    """
    units = max(array.shape[1] for array in arrays.values())
    if share >= 1:
        return np.arange(units)
    named = {
        score.unit for scores in best.values() for score in scores if _parts(score.name)[0] == layer
    }
    last = list(arrays.values())[-1].astype(np.float64)
    change = np.zeros(units)
    change[: last.shape[1]] = last.std(axis=0) / (1e-9 + np.abs(last).max(axis=0))
    change[list(named)] = np.inf
    count = max(1, len(named), int(units * share))
    return np.sort(np.argsort(-change, kind="stable")[:count])


def _layer(
    name: str,
    arrays: dict[str, np.ndarray],
    trace: Trace,
    follows: Correlations,
    kept: np.ndarray,
    dtype: str,
) -> dict[str, Any]:
    """Return the arrays of a layer for the units `kept`, with their correlations by feature."""
    collected = []
    for short, array in arrays.items():
        full, units = full_name(name, short), kept[kept < array.shape[1]]
        # Repeated arrays have no correlations.
        r_FU = [by[full][units] for by in follows.values() if full in by]
        collected.append(
            {
                "name": short,
                "kind": trace.kinds[full],
                "values": packed(array[:, units], dtype, by_column=True),
                "follows": packed(np.array(r_FU)),
            }
        )
    return {
        "name": name,
        "units": kept.tolist(),
        "of": max(array.shape[1] for array in arrays.values()),
        "arrays": collected,
    }


def no_gates(label: str, having: Sequence[str]) -> dict[str, str]:
    """Return why a run has no gates, and which of the page's runs have gates."""
    return {
        "en": f"{label} has no gates and no hidden units. On this page {_and(having)} "
        f"{'has' if len(having) == 1 else 'have'} them: choose it above.",
        "zh": f"{label} 没有门，也没有隐藏单元。本页中有的是：{'、'.join(having)}，请在上方选择。",
    }


def nothing_recorded(labels: Sequence[str]) -> dict[str, str]:
    """Return why no run of the page has gates, and what to do."""
    models = ", ".join(models_with_gates())
    are = "is an n-gram: it has" if len(labels) == 1 else "are n-grams: they have"
    return {
        "en": f"{_and(labels)} {are} no gates. Add a run of another model to see them: {models}.",
        "zh": f"{'、'.join(labels)} 是 n-gram 模型，没有门。请加上一个有门的模型再看：{models}。",
    }


def _and(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
