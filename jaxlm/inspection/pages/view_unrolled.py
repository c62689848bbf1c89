"""The view "unrolled": a recurrent run unrolled over the first tokens of the text."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxlm.inspection.pages.choosing import Both, both, each, or_missing
from jaxlm.inspection.pieces import readable
from jaxlm.inspection.unrolled import Unrolled, bptt, most_steps
from jaxlm.runs.run import Run
from jaxlm.runs.starts import start_of

# Tokens of the text in the figure; more do not fit beside each other.
MOST_TOKENS = 10
# Units of a state that are drawn.
SHOWN_UNITS = 16


def collect(runs: Sequence[Run], text: str, options: Any) -> dict[str, Any]:
    """Return the network of each recurrent run, unrolled."""

    def of_run(run: Run) -> dict[str, Any]:
        part = readable(run, text)
        row, tokens = row_of(run, part, options.start)
        return figure_of(bptt(run, row, start=options.start)) | {
            "tokens": tokens,
            "of_tokens": len(run.tokenizer.encode_context(part)),
            "last_only": run.protocol.last_only,
        }

    shown, without = each(runs, options.labels, of_run, lambda run: _reason(run, text))
    return or_missing(shown, without)


def row_of(run: Run, text: str, start: str | None = None) -> tuple[str, int]:
    """Return the beginning of a text for the figure, and its number of tokens.

    The run can read all of the text.
    A run that reads each line on its own gets the first line of two tokens or more.
    """
    lines = text.splitlines() if run.protocol.rows else []
    long_enough = (line for line in lines if len(run.tokenizer.encode_context(line)) > 1)
    line = next(long_enough, text)
    spans = run.tokenizer.spans(line)
    # A large network is unrolled over fewer steps. The last token is only a target.
    most = min(MOST_TOKENS, max(2, most_steps(run) + 1 - len(start_of(run, start).ids)))
    if len(spans) <= most:
        return line, len(spans)
    return line[: int(spans[most - 1][1])], most


def figure_of(unrolled: Unrolled) -> dict[str, Any]:
    """Return what the figure shows of an unrolled network: the last layer's states, and norms.

    With several layers, a norm is that of the layers' matrices together.
    """
    states = [value_TH for name, value_TH in unrolled.states.items() if name.endswith("/h")]
    last_TH = (states or list(unrolled.states.values()))[-1]
    shown = last_TH[:, :SHOWN_UNITS]
    steps = len(unrolled.inputs)
    whole = unrolled.gradient
    norm = _together(np.linalg.norm(value) for value in whole.values())
    left_out = [
        _together(np.linalg.norm(part) for part in unrolled.left_out(cut).values())
        for cut in range(1, steps + 1)
    ]
    return {
        "inputs": unrolled.inputs,
        "targets": unrolled.targets,
        "losses": unrolled.losses,
        "total": unrolled.total,
        "states": shown,
        "units": last_TH.shape[1],
        "largest": float(np.abs(shown).max()) or 1.0,
        "gradients": _together(unrolled.pairs.values()),
        "contributions": _together(
            np.linalg.norm(value.reshape(steps, -1).astype(np.float64), axis=1)
            for value in unrolled.contributions.values()
        ),
        "gradient_norm": norm,
        "left_out": np.array(left_out) / (norm or 1.0),
        "matrices": len(whole),
    }


def _together(norms: Any) -> Any:
    """Return the norm of several matrices together, from the norm of each."""
    return np.sqrt(np.sum([np.square(norm) for norm in norms], axis=0))


def _reason(run: Run, text: str) -> Both | None:
    """Return why a run cannot be unrolled, or None if it can."""
    if run.model.trained_by != "gradient":
        recurrent = False
    else:
        cell = getattr(run.model, "cell", None)
        recurrent = cell is not None and cell.has_matrix
    if not recurrent:
        return both(
            "this run has no recurrent matrix, so that there is nothing to unroll. Add a run of an "
            "Elman network, a GRU or an LSTM.",
            "这个模型没有循环矩阵，没有可以展开的东西。请加上一个 RNN、GRU 或 LSTM。",
        )
    if len(run.tokenizer.encode_context(readable(run, text))) < 2:
        return both(
            "the text has fewer than 2 tokens. Give a longer text.",
            "这段文本不足 2 个词元。请给出更长的文本。",
        )
    return None
