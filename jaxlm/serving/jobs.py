"""Jobs: what a request asks of a run, as rows of tokens, and the answer that the rows make."""

import abc
import math
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from jaxlm.data.batching import rows_of
from jaxlm.data.splitting import NONE
from jaxlm.errors import check_at_least
from jaxlm.evaluation.generation import (
    Context,
    SamplingConfig,
    UnknownWords,
    check_sampling,
    continuation,
    encode_context,
    generation_note,
)
from jaxlm.evaluation.scoring import TokenScores
from jaxlm.evaluation.sentences import check_rows, checked_sentences, encode_sentences, table_of
from jaxlm.models.base import Carry
from jaxlm.runs.run import Run
from jaxlm.serving.engines import EVERY, Drawing, Engine, Read, random_numbers
from jaxlm.serving.limits import Limits, check_most
from jaxlm.serving.rows import Reading, Row, Scoring, Writing

SHORTER = "send a shorter text"
FEWER = "send fewer sentences in a request"


class Job(abc.ABC):
    """The work that one request asks of a run. The worker calls all methods in its own thread.

    The future has the answer, a dict of JSON values, or the error. A job whose future is cancelled
    is dropped at the next step.

    Args:
      limits: the limits of the service.
    """

    engine: Engine

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.future: Future[dict[str, Any]] = Future()
        self.open_rows = 0

    @property
    def run(self) -> Run:
        """The run that the job asks."""
        return self.engine.run

    def carry_of(self, context: Context) -> Carry:
        """Return the carry with which the ids of a context are read."""
        carry = context.start.carry
        return self.engine.initial_carry() if carry is None else carry

    @abc.abstractmethod
    def rows(self) -> Sequence[Row]:
        """Return the rows of the job, at least one.

        Raises:
          UserError: if the run cannot do what is asked.
        """

    @abc.abstractmethod
    def answer(self) -> dict[str, Any]:
        """Return the answer, once all rows are done."""


class NextJob(Job):
    """The most probable next words after a text, as `jaxlm.next_words`.

    Args:
      limits: the limits of the service.
      text: the text.
      top: number of words.
      start: "fresh", "warm", or None for the default of the run.
    """

    def __init__(self, limits: Limits, text: str, top: int = 5, start: str | None = None) -> None:
        super().__init__(limits)
        check_at_least("top", top, 1)
        check_most("words", top, limits.max_top, "ask for fewer")
        check_most("characters", len(text), limits.max_characters, SHORTER)
        self._text, self._top, self._start = text, top, start
        self._log_probs_V = np.zeros(0)
        self._note = ""

    def rows(self) -> Sequence[Row]:
        context = encode_context(self.run, self._text, self._start)
        check_most("tokens", context.ids.size, self.limits.max_tokens, SHORTER)
        self._note = context.note
        return [Reading(self, context.ids[0], self.carry_of(context), self._keep)]

    def _keep(self, read: Read) -> Sequence[Row]:
        self._log_probs_V = read.log_probs_V
        return []

    def answer(self) -> dict[str, Any]:
        best = np.argsort(-self._log_probs_V, kind="stable")[: self._top].tolist()
        text_of = self.run.tokenizer.token_text
        words = [
            {"word": text_of(index), "probability": float(np.exp(self._log_probs_V[index]))}
            for index in best
        ]
        notes = UnknownWords(self.run).note(self._text), self._note
        return {"words": words, "notes": list(filter(None, notes))}


class ScoreJob(Job):
    """The surprisal of each word of sentences, as `jaxlm.score`.

    Args:
      limits: the limits of the service.
      sentences: the sentences.
      by: "word" or "sentence".
      start: "fresh", "warm", "carried", or None for the default of the run.
      first: whether the first word of each sentence counts.
      end: whether the end of each sentence counts.
      words: "spaces", "characters", or None for the unit that fits the text.
      split: "none", "treebank" or "wikitext".
      detail: whether to add entropy and rank.
    """

    def __init__(
        self,
        limits: Limits,
        sentences: Sequence[str],
        by: str = "word",
        start: str | None = None,
        first: bool = True,
        end: bool = True,
        words: str | None = None,
        split: str = NONE,
        detail: bool = True,
    ) -> None:
        super().__init__(limits)
        check_rows(by, "wide")
        texts = checked_sentences(sentences)
        check_most("sentences", len(texts), limits.max_sentences, FEWER)
        check_most("characters", sum(map(len, texts)), limits.max_characters, FEWER)
        self._texts, self._by, self._counted = texts, by, (first, end)
        self._settings: dict[str, Any] = {"start": start, "words": words, "split": split}
        self._detail = detail and by == "word"

    def rows(self) -> Sequence[Row]:
        self._encoded = encode_sentences(self.run, self._texts, **self._settings)
        run, data = self._encoded.run, self._encoded.data
        check_most("tokens", len(data), self.limits.max_tokens, FEWER)
        if run.protocol.rows:
            inputs, targets = rows_of(data)
            carry = self.engine.line_carry(run)
        else:
            # One stream, from the token that stands before a text.
            ids = np.asarray(data.ids, np.int32)
            inputs, targets = [np.append(np.int32(run.model.filler_id), ids[:-1])], [ids]
            carry = self.engine.initial_carry()
        self._rows = [
            Scoring(self, *row, carry, self._detail) for row in zip(inputs, targets, strict=True)
        ]
        return self._rows

    def answer(self) -> dict[str, Any]:
        last_only = self._encoded.run.protocol.last_only
        parts = [row.scores() for row in self._rows]
        kept = [tuple(array[-1:] if last_only else array for array in part) for part in parts]
        columns = map(np.concatenate, zip(*kept, strict=True))
        # An engine may have computed details that are not asked for.
        scores = TokenScores(*list(columns)[: 3 if self._detail else 1])
        found = self._encoded.with_scores(scores).counted(*self._counted)
        table = table_of([found], self._by)
        values = zip(*table.values(), strict=True)
        rows = [dict(zip(table, row, strict=True)) for row in values]
        impossible = sum(math.isinf(row["surprisal"]) for row in rows)
        notes = []
        if impossible:
            unit = f"{self._by}{'s' * (impossible > 1)}"
            notes.append(f"{impossible} {unit} with probability 0: the surprisal is infinite")
        return {"protocol": found.protocol, "rows": rows, "notes": notes}


class GenerateJob(Job):
    """Continuations of a prompt, as `jaxlm.sample`.

    Args:
      limits: the limits of the service.
      prompt: the text to continue.
      config: the settings.
    """

    def __init__(self, limits: Limits, prompt: str, config: SamplingConfig) -> None:
        super().__init__(limits)
        check_sampling(config)
        check_most("tokens of `length`", config.length, limits.max_length, "ask for fewer")
        check_most("samples", config.samples, limits.max_samples, "ask for fewer")
        check_most("characters", len(prompt), limits.max_characters, SHORTER)
        self._prompt, self._config = prompt, config
        self._written: list[Writing] = []
        self._notes: list[str] = []

    def rows(self) -> Sequence[Row]:
        config, limits = self._config, self.limits
        context = encode_context(self.run, self._prompt, config.start)
        check_most("tokens", context.ids.size, limits.max_tokens, SHORTER)
        self._ids = context.text_ids.tolist()
        notes = generation_note(self.run), UnknownWords(self.run).note(self._prompt)
        self._notes = list(filter(None, notes))
        most = limits.max_samples, limits.max_length
        uniforms = random_numbers(config.seed, config.samples, config.length, most)
        drawing = Drawing(
            config.temperature,
            EVERY if config.top_k is None else config.top_k,
            math.inf if config.top_p is None else config.top_p,
        )

        def then(read: Read) -> Sequence[Row]:
            # The prompt is read once for all continuations.
            self._written = [
                Writing(self, read, numbers, drawing, self._stops) for numbers in uniforms
            ]
            return self._written

        return [Reading(self, context.ids[0], self.carry_of(context), then)]

    def _stops(self, ids: list[int]) -> bool:
        """Return whether a continuation has one of the stop texts."""
        stop = self._config.stop
        return bool(stop) and continuation(self.run.tokenizer, self._ids, ids, stop)[1]

    def answer(self) -> dict[str, Any]:
        tokenizer, stop = self.run.tokenizer, self._config.stop
        texts = [continuation(tokenizer, self._ids, row.ids, stop)[0] for row in self._written]
        return {"texts": texts, "notes": self._notes}
