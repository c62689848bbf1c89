"""The state from which a run reads a text: fresh, or warm after a stretch of its training text."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from jaxlm.errors import SettingError, UserError, choose
from jaxlm.models.base import Carry
from jaxlm.runs.protocol import FRESH, WARM, Protocol

if TYPE_CHECKING:
    from jaxlm.runs.run import Run

WARM_START = "warm_start"
"""The entry of config.json with the token ids of the stretch of training text."""
# Tokens of the stretch. The state of a recurrent model hardly depends on tokens farther back.
LENGTH = 256
STARTS = (FRESH, WARM)


@dataclass(frozen=True)
class Start:
    """The state from which a run reads a text.

    Attributes:
      name: "fresh" or "warm".
      carry: the carry of one row, with which `ids` are read; None for the initial carry.
      ids: ids of the tokens that the model reads just before the text, at most one: the start
        token, or the last token of the stretch of training text.
    """

    name: str
    carry: Carry
    ids: tuple[int, ...]


def warm_stretch(ids: np.ndarray, start_id: int | None) -> list[int]:
    """Return the token ids that a run reads before a warm start, or [] if the text is too short.

    They are about LENGTH tokens of the training text, from its middle. They end with the end of a
    line, so that the model reads the next token as the first token of a line.

    Args:
      ids: token ids of the training text.
      start_id: id of the start token, which ends each line; None if there is none.

    Example:
      >>> warm_stretch(np.array([5, 6, 0, 7, 8]), start_id=0)
      [5, 6, 0]
    """
    end = max(len(ids) // 2, min(len(ids), LENGTH))
    stretch = [int(id_) for id_ in ids[max(0, end - LENGTH) : end]]
    if start_id in stretch:
        while stretch[-1] != start_id:
            stretch.pop()
    elif start_id is not None:
        stretch.append(start_id)
    return stretch if len(stretch) > 1 else []


def start_of(run: "Run", start: str | None = None) -> Start:
    """Return the state from which a run reads a text.

    Args:
      run: the run.
      start: "fresh", the initial state of the model; "warm", the state after a stretch of the
        training text; None for "warm" if the run keeps such a stretch, and "fresh" otherwise. A run
        keeps a stretch if it was trained on a stream of text, because such a run has seen the
        initial state only rarely.
    Raises:
      SettingError: for another start, and for "warm" if the run keeps no stretch.
    """
    kept = run.settings.get(WARM_START)
    if start is None:
        start = WARM if kept else FRESH
    choose(dict.fromkeys(STARTS), start, "start")
    if start == WARM:
        if not kept:
            why = (
                f"needs a stretch of training text, and {run.name} keeps none: only runs that were "
                f"trained on a stream of text keep it; use `start` {FRESH}"
            )
            raise SettingError("start", start, why)
        return Start(WARM, run.warm_carry, (kept[-1],))
    start_id = run.vocabulary.start_id
    return Start(FRESH, None, () if start_id is None else (start_id,))


def carry_after(run: "Run", stretch: list[int]) -> Carry:
    """Return the carry of one row after the tokens of `stretch` but the last.

    Raises:
      UserError: if `stretch` is not a list of token ids.
    """
    size = len(run.vocabulary)
    valid = isinstance(stretch, list) and all(
        isinstance(id_, int) and not isinstance(id_, bool) and 0 <= id_ < size for id_ in stretch
    )
    if not valid or len(stretch) < 2:
        raise UserError(
            f"the entry {WARM_START} of the config.json of {run.name} is damaged: it must be a "
            f"list of token ids, at least 2, each from 0 to {size - 1}; remove it to start fresh"
        )
    tokens_1T = np.array([stretch[:-1]], np.int32)
    return run.model.next_log_probs(run.params, tokens_1T)[1]


def by_lines(run: "Run", start: str | None = None) -> "Run":
    """Return a run that scores each line on its own, from the same state.

    A run that was trained on a stream carries its state over line ends when it scores a text. Here
    the score of a line does not depend on the other lines.

        report = jaxlm.perplexity(jaxlm.by_lines(run), text="sentences.txt")

    Example:
      >>> import jaxlm
      >>> text = jaxlm.read_corpus("toy")
      >>> run = jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=2, stream=True), text, quiet=True)
      >>> jaxlm.by_lines(run).protocol
      Protocol(rows=True, last_only=False, start='warm')

    Args:
      run: the run.
      start: "fresh" or "warm"; see `start_of`. An n-gram whose context is cut at each line's start
        is always fresh.
    Raises:
      SettingError: for another start, and for "warm" if the run keeps no stretch of text.
    """
    if start == WARM and not run.model.across_lines:
        start = FRESH
    name = start_of(run, start).name
    return replace(run, protocol=Protocol(True, run.protocol.last_only, name))
