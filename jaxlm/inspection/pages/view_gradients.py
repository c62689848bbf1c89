"""The view "gradients": how far back the loss of each run reaches, trained and untrained."""

from collections.abc import Sequence
from typing import Any

from jaxlm.inspection.gradients import GradientByLag, gradient_by_lag
from jaxlm.inspection.pages.choosing import Both, both, each, or_missing
from jaxlm.inspection.pieces import readable
from jaxlm.runs.run import Run

# With these numbers a run by characters with two layers of 256 units takes about half a second.
LARGEST_LAG, POSITIONS = 60, 16
# A curve needs lag 1 and a few lags more.
FEWEST_TOKENS = 6


def collect(runs: Sequence[Run], text: str, options: Any) -> dict[str, Any]:
    """Return the gradient by lag of each neural run, as trained and as its training began."""

    def of_run(run: Run) -> dict[str, Any]:
        import jax

        part, largest = part_of(run, text), largest_lag(run, text)
        settings: dict[str, Any] = {"start": options.start, "positions": POSITIONS}
        key = jax.random.key(run.settings.get("training", {}).get("seed", 0))
        found = {
            "trained": gradient_by_lag(run, part, largest, **settings),
            "untrained": gradient_by_lag(run, part, largest, key=key, **settings),
        }
        curves = {name: _from_lag_1(one) for name, one in found.items()}
        return curves | {"unit": run.tokenizer.unit, "window": run.model.window}

    shown, without = each(runs, options.labels, of_run, lambda run: reason(run, text))
    return or_missing(shown, without)


def part_of(run: Run, text: str) -> str:
    """Return the part of a text in which gradients are measured: all that the run can read.

    A run that reads each line anew has no gradient across lines: of its text, the part is the line
    with the most tokens.
    """
    part = readable(run, text)
    if not run.protocol.rows:
        return part
    return max(part.splitlines(), key=lambda line: _tokens(run, line), default="")


def _tokens(run: Run, text: str) -> int:
    return len(run.tokenizer.encode_context(text))


def largest_lag(run: Run, text: str) -> int:
    """Return the largest lag of the curves: half of a short text, so that there are positions."""
    tokens = _tokens(run, part_of(run, text))
    return max(2, min(LARGEST_LAG, tokens // 2))


def reason(run: Run, text: str) -> Both | None:
    """Return why a run has no gradient by lag, or None if it has."""
    if run.model.trained_by != "gradient":
        return both(
            "this run counts n-grams, so that its loss has no gradient. Add a neural run, such as "
            "an LSTM, to see one.",
            "这个模型靠计数，损失没有梯度。请加上一个神经网络模型（例如 LSTM）再看。",
        )
    if run.protocol.last_only:
        return both(
            "this run learnt to predict the last token of each line alone, so that most of its "
            "losses are arbitrary. Train it with `positions` all to see its gradients.",
            "这个模型只学过预测每行的最后一个词元，其余位置的损失没有意义。"
            "请用 `positions` all 训练后再看。",
        )
    tokens = _tokens(run, part_of(run, text))
    if tokens < FEWEST_TOKENS:
        where = ("the longest line of the text", "最长的一行") if run.protocol.rows else None
        en, zh = where or ("the text", "这段文本")
        return both(
            f"{en} has {tokens} tokens, too few for a gradient by lag. Give a text of "
            f"{FEWEST_TOKENS} tokens or more{' in a line' * run.protocol.rows}; 100 make a smooth "
            f"curve.",
            f"{zh}只有 {tokens} 个词元，太短，画不出随距离变化的梯度。"
            f"请给出{'每行' * run.protocol.rows}至少 {FEWEST_TOKENS} 个词元的文本；"
            f"100 个以上曲线才平滑。",
        )
    return None


def _from_lag_1(found: GradientByLag) -> dict[str, Any]:
    keep = found.lags >= 1
    return {
        "lags": found.lags[keep],
        "norms": found.norms[keep],
        "time_constant": found.time_constant,
        "below": found.below_one_percent,
        "positions": found.positions,
    }
