"""The view "learning": loss, validation and gradient norm of each run, from metrics.jsonl."""

import math
from collections.abc import Sequence
from typing import Any

from jaxlm.inspection.pages.choosing import Both, both, each, or_missing
from jaxlm.runs.log import METRICS, SAMPLES, read_records
from jaxlm.runs.run import Run

# Points of a curve, and samples; a longer log is thinned out evenly.
MOST_POINTS, MOST_SAMPLES = 400, 12


def collect(runs: Sequence[Run], text: str, options: Any) -> dict[str, Any]:
    """Return the records of each run's log, and the samples that it wrote at validations."""

    def of_run(run: Run) -> dict[str, Any]:
        train, valid = _points(run, "train"), _points(run, "valid")
        best = min(valid, key=lambda point: point["loss"], default=None)
        return {
            "train": _thinned(train),
            "valid": _thinned(valid),
            "best": best,
            "clip": run.settings.get("optimizer", {}).get("clip"),
            "samples": _samples(run),
        }

    shown, without = each(runs, options.labels, of_run, _reason)
    return or_missing(shown, without)


def _records(run: Run) -> list[dict[str, Any]]:
    """Return the records of a run's log that have a step."""
    path = run.folder / METRICS if run.folder else None
    if path is None or not path.exists():
        return []
    return [record for record in read_records(path) if isinstance(record.get("step"), int)]


def _samples(run: Run) -> list[dict[str, Any]]:
    """Return step and text of the samples of a run, evenly thinned out to MOST_SAMPLES."""
    path = run.folder / SAMPLES if run.folder else None
    found = [] if path is None else read_records(path)
    found = [record for record in found if isinstance(record.get("text"), str)]
    step = max(1.0, (len(found) - 1) / (MOST_SAMPLES - 1))
    return [found[round(index * step)] for index in range(min(len(found), MOST_SAMPLES))]


def _points(run: Run, split: str) -> list[dict[str, Any]]:
    """Return step, loss in nats per token, and gradient norm of each record of a split."""
    return [
        {"step": record["step"], "loss": loss, "norm": record.get("grad_norm")}
        for record in _records(run)
        if record.get("split") == split and (loss := _loss(record)) is not None
    ]


def _loss(record: dict[str, Any]) -> float | None:
    """Return the loss of a record in nats per token, or None if it has none."""
    perplexity = record.get("ppl")
    if isinstance(record.get("loss"), int | float):
        return float(record["loss"])
    if isinstance(record.get("nll"), int | float) and record.get("tokens"):
        return record["nll"] / record["tokens"]
    if isinstance(perplexity, int | float) and perplexity > 0:
        return math.log(perplexity)
    return None


def _thinned(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return at most MOST_POINTS points, evenly spaced, with the first and the last."""
    if len(points) <= MOST_POINTS:
        return points
    step = (len(points) - 1) / (MOST_POINTS - 1)
    return [points[round(index * step)] for index in range(MOST_POINTS)]


def _reason(run: Run) -> Both | None:
    """Return why a run has no learning curve, or None if it has."""
    if run.model.trained_by != "gradient":
        return both(
            "this run was counted in one pass over the text, so that it has no learning curve. Add "
            "a neural run to see one.",
            "这个模型只把文本数了一遍，没有学习曲线。请加上一个神经网络模型再看。",
        )
    if not _points(run, "train") and not _points(run, "valid"):
        return both(
            f"the folder of this run has no {METRICS} with losses. Train the run with "
            f"`python -m jaxlm.train` to get one.",
            f"模型的文件夹里没有带损失的 {METRICS}。用 `python -m jaxlm.train` 训练会得到它。",
        )
    return None
