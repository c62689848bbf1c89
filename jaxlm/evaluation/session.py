"""A session: a run that reads a text token by token, and predicts the next token at any point."""

import math
import threading
from typing import Any

import numpy as np

from jaxlm.errors import check_at_least
from jaxlm.evaluation.generation import check_unicode
from jaxlm.runs.run import Run
from jaxlm.runs.starts import start_of


class Session:
    """A text that grows, and a run that has read it so far.

    The model keeps its state between the calls, so a new token costs one time step, whatever was
    read before. The model is compiled once, for a single token. Several threads may use a session;
    each call is then done as a whole.

    Example:
      >>> import jaxlm
      >>> text = jaxlm.read_corpus("toy", eos=False)
      >>> run = jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=3), text, quiet=True)
      >>> session = jaxlm.Session(run)
      >>> [round(bits, 2) for bits in session.push("我 讨厌")]
      [0.81, 1.81]
      >>> [(word, round(p, 3)) for word, p in session.next_words(1)]
      [('挨打', 0.786)]
      >>> session.text, len(session)
      ('我 讨厌', 2)

    Args:
      run: the trained run.
      start: the state before the text: "fresh", "warm" (after a stretch of training text), or None
        for warm if the run was trained on a stream of text.
    """

    def __init__(self, run: Run, start: str | None = None) -> None:
        self.run = run
        self._start = start_of(run, start)
        self._lock = threading.Lock()
        self._ids: list[int] = []
        self._carry: Any = None
        self._log_probs_V: np.ndarray | None = None
        self.reset()

    def reset(self) -> None:
        """Forget everything that was read."""
        with self._lock:
            model, start = self.run.model, self._start
            carry = model.initial_carry(1) if start.carry is None else start.carry
            self._ids, self._carry, self._log_probs_V = [], carry, None
            for index in start.ids:
                self._read(index)
            if not start.ids and model.starts_from_nothing:
                self._ask(np.zeros((1, 0), np.int32))

    def push(self, text: str) -> list[float]:
        """Read `text`, and return the surprisal of each of its tokens, in bits.

        The surprisal of a token is -log₂ P(token | the text before it). It is NaN for the first
        token if the run has no token that starts a text.

        Raises:
          UserError: for a token that the vocabulary lacks, if it has no `<unk>`. Then nothing of
            `text` is read.
        """
        check_unicode(text)
        ids = self.run.tokenizer.encode_context(text).tolist()
        with self._lock:
            bits = []
            for index in ids:
                log_probs_V = self._log_probs_V
                log_prob = math.nan if log_probs_V is None else float(log_probs_V[index])
                bits.append(0.0 - log_prob / math.log(2))
                self._read(index)
                self._ids.append(index)
            return bits

    def next_words(self, count: int = 5) -> list[tuple[str, float]]:
        """Return the `count` most probable next tokens, with their probabilities.

        The most probable token is first. Tokens are texts that people can read, as in
        `jaxlm.next_words`. The list is empty if nothing was read yet and the run has
        no token that starts a text.

        Raises:
          SettingError: for a count below 1.
        """
        check_at_least("count", count, 1)
        with self._lock:
            log_probs_V = self._log_probs_V
        if log_probs_V is None:
            return []
        best = np.argsort(-log_probs_V, kind="stable")[:count]
        text_of = self.run.tokenizer.token_text
        return [(text_of(index), float(np.exp(log_probs_V[index]))) for index in best.tolist()]

    @property
    def text(self) -> str:
        """The text that was read so far."""
        with self._lock:
            return self.run.tokenizer.decode(self._ids)

    def __len__(self) -> int:
        """Return the number of tokens that were read."""
        with self._lock:
            return len(self._ids)

    def _read(self, index: int) -> None:
        self._ask(np.array([[index]], np.int32))

    def _ask(self, tokens_1T: np.ndarray) -> None:
        log_probs_1V, self._carry = self.run.model.next_log_probs(
            self.run.params, tokens_1T, self._carry
        )
        self._log_probs_V = np.asarray(log_probs_1V)[0]
