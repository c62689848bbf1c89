"""What the views share: which runs a view can show, and why it leaves the others out."""

from collections.abc import Callable, Sequence
from typing import Any

from jaxlm.errors import UserError
from jaxlm.runs.run import Run

Both = dict[str, str]
"""A text in the languages of the page: {"en": ..., "zh": ...}."""
# The Chinese explanation of an error that only Python's message explains.
OTHERWISE = "原因（英文）：{error}"


def both(en: str, zh: str) -> Both:
    """Return a text in English and Chinese."""
    return {"en": en, "zh": zh}


def missing(en: str, zh: str) -> dict[str, Both]:
    """Return what a view collects that has nothing to show: why, and what to do."""
    return {"missing": both(en, zh)}


def each(
    runs: Sequence[Run],
    labels: Sequence[str],
    collect: Callable[[Run], dict[str, Any]],
    reason: Callable[[Run], Both | None],
) -> tuple[list[dict[str, Any]], list[Both]]:
    """Collect a view's data of every run that has them.

    Args:
      runs: the runs.
      labels: a short name for each.
      collect: returns the data of a run.
      reason: returns why a run has nothing to show, or None if it may have.
    Returns:
      The data of the runs, with "name" and "index" of the run on the page; and sentences that say
      why the other runs are left out, one for each reason.
    """
    shown: list[dict[str, Any]] = []
    without: dict[tuple[str, str], list[str]] = {}
    for index, (run, label) in enumerate(zip(runs, labels, strict=True)):
        why = reason(run)
        if why is None:
            try:
                shown.append({"name": label, "index": index} | collect(run))
                continue
            except UserError as error:
                why = both(str(error), OTHERWISE.format(error=error))
        without.setdefault((why["en"], why["zh"]), []).append(label)
    return shown, [
        both(f"{', '.join(left)}: {en}", f"{'、'.join(left)}：{zh}")
        for (en, zh), left in without.items()
    ]


def or_missing(shown: list[dict[str, Any]], without: list[Both], **more: Any) -> dict[str, Any]:
    """Return the runs that are shown, or the reasons if there is none."""
    if shown:
        return {"runs": shown, "without": without} | more
    reasons = {language: " ".join(why[language] for why in without) for language in ("en", "zh")}
    return {"missing": reasons}
