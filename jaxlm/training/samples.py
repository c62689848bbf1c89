"""Samples of a model while it trains: a line of text that it would write now."""

import re
import time
from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size

from jaxlm.data.text import Text
from jaxlm.errors import SettingError, UserError
from jaxlm.evaluation.generation import encode_context, sample
from jaxlm.runs.log import Log
from jaxlm.runs.run import Run

# Cells of a terminal that a sample takes at most: a line of the log then fits into 80 columns.
WIDTH = 58
# Tokens that are long enough to fill WIDTH; a token of words or of bpe is several characters.
CHARACTERS, WORDS = 60, 20
# Without `sample_every`, samples take at most this share of the time.
SHARE = 0.02


def check_sample_every(sample_every: int | None, validates: bool, processes: int = 1) -> None:
    """Raise SettingError for a `sample_every` that cannot work.

    Args:
      sample_every: validations between two samples, 0 or None.
      validates: whether the run has validations.
      processes: number of processes that train the run.
    """
    if sample_every is None:
        return
    if isinstance(sample_every, bool) or not isinstance(sample_every, int) or sample_every < 0:
        raise SettingError("sample_every", sample_every, "must be an integer, 0 or more")
    if sample_every and not validates:
        why = "counts validations, which need a validation split: leave it out, or set it to 0"
        raise SettingError("sample_every", sample_every, why)
    if sample_every and processes > 1:
        raise SettingError("sample_every", sample_every, "needs a run of one process: set it to 0")


class Samples:
    """Decides when a sample is shown, and shows it.

    The samples are those of `jaxlm.sample(run, seed=0)`. They draw no random number of the
    training, so a run has the same bytes with and without them.

    Args:
      every: validations between two samples; 0 for no samples; None for a sample at the validations
        of a text by characters, unless samples take more than SHARE of the time, or the log is not
        shown.
      text: the corpus.
      log: where the samples are shown.
    """

    def __init__(self, every: int | None, text: Text, log: Log) -> None:
        self._every, self._text, self._log = every, text, log
        self._automatic = every is None
        if every is None:
            self._every = int(text.tokenizer.name == "chars" and log.is_shown)
        self._free_at = 0.0
        """The time from which samples take less than SHARE of the time again."""
        self._is_compiled = False
        """False before the first sample, whose compilation does not count in the share."""
        self._shown_at = 0
        """The number of validations at the last sample."""

    def is_due(self, validations: int) -> bool:
        """Return whether a sample is shown after this many validations."""
        if not self._every or validations % self._every or validations == self._shown_at:
            return False
        return not self._automatic or time.monotonic() >= self._free_at

    def show(self, run: Run, validations: int = 1) -> None:
        """Show a sample of the run; `validations` is the number of its validations so far."""
        self._shown_at = validations
        began = time.monotonic()
        by_characters = self._text.tokenizer.name in ("chars", "bytes")
        try:
            (text,) = sample(run, self._prompt(run), length=CHARACTERS if by_characters else WORDS)
        except UserError as error:
            self._every = 0
            self._log.note(f"note: no samples: {error}")
            return
        self._log.sample(run.step, shown(text))
        ended = time.monotonic()
        if self._is_compiled:
            self._free_at = ended + (ended - began) / SHARE
        self._is_compiled = True

    def _prompt(self, run: Run) -> str:
        """Return the shortest prompt that the model can continue: empty, or a start of the text."""
        try:
            encode_context(run, "")
            return ""
        except UserError:
            count = run.model.window or 1
            ids: Sequence[int] = self._text.train.ids[:count].tolist()
            return run.tokenizer.decode(ids)


def shown(text: str) -> str:
    """Return a text on one line of at most WIDTH cells, with " / " for a line break.

    Example:
      >>> shown("ROMEO:\\nI would" + 50 * " she")
      'ROMEO: / I would she she she she she she she she she she s'
    """
    lines = [" ".join(line.split()) for line in text.strip().splitlines()]
    line = re.sub("( / )+", " / ", " / ".join(lines))
    line = "".join(item if item.isprintable() else "?" for item in line)
    return set_cell_size(line, WIDTH).rstrip() if cell_len(line) > WIDTH else line
