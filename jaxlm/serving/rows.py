"""Rows of tokens, the unit of work: a row is read, scored or written in steps, among other rows."""

import abc
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlm.models.base import Carry
from jaxlm.serving.engines import Drawing, Engine, Read

if TYPE_CHECKING:
    from jaxlm.serving.jobs import Job


class Row(abc.ABC):
    """A row of a job.

    Args:
      job: the job that the row belongs to.
    """

    job: "Job"

    @abc.abstractmethod
    def group(self, engine: Engine) -> Hashable:
        """Return the kind and the shape of the row's next step. Rows of one group share a call."""

    @staticmethod
    @abc.abstractmethod
    def step(engine: Engine, rows: Sequence[Any]) -> Sequence[Any]:
        """Compute the next step of rows of one group, and return a result for each row."""

    @abc.abstractmethod
    def take(self, result: Any) -> "Sequence[Row]":
        """Keep the result of a step; return the rows that go on, none at the end."""


class Reading(Row):
    """A row that is read, to predict the token after it.

    Args:
      job: the job.
      ids: token ids, int32 [T].
      carry: the carry before them.
      then: called with the prediction; it returns the rows that go on, if any.
    """

    def __init__(
        self, job: "Job", ids: np.ndarray, carry: Carry, then: Callable[[Read], Sequence[Row]]
    ) -> None:
        self.job, self.left, self.carry, self._then = job, ids, carry, then

    def group(self, engine: Engine) -> Hashable:
        return Reading, engine.width(len(self.left))

    @staticmethod
    def step(engine: Engine, rows: Sequence["Reading"]) -> Sequence[Read]:
        width = engine.width(len(rows[0].left))
        return engine.read([row.left[:width] for row in rows], [row.carry for row in rows], width)

    def take(self, result: Read) -> Sequence[Row]:
        width = self.job.engine.width(len(self.left))
        self.left, self.carry = self.left[width:], result.carry
        return [self] if len(self.left) else self._then(result)


class Scoring(Row):
    """A row whose tokens are all scored.

    Args:
      job: the job.
      inputs: the tokens that are read, int32 [T].
      targets: the token after each of them, int32 [T].
      carry: the carry before them.
      detail: whether ranks and entropies are computed too.
    """

    def __init__(
        self, job: "Job", inputs: np.ndarray, targets: np.ndarray, carry: Carry, detail: bool
    ) -> None:
        self.job, self.carry, self._detail = job, carry, detail
        self._inputs, self._targets = inputs, targets
        self._parts: list[tuple[np.ndarray, ...]] = []

    def group(self, engine: Engine) -> Hashable:
        return Scoring, engine.width(len(self._inputs)), self._detail

    @staticmethod
    def step(engine: Engine, rows: Sequence["Scoring"]) -> Sequence[Any]:
        width = engine.width(len(rows[0]._inputs))
        return engine.score(
            [row._inputs[:width] for row in rows],
            [row._targets[:width] for row in rows],
            [row.carry for row in rows],
            width,
            rows[0]._detail,
        )

    def take(self, result: tuple[tuple[np.ndarray, ...], Carry]) -> Sequence[Row]:
        scores, self.carry = result
        self._parts.append(scores)
        width = len(scores[0])
        self._inputs, self._targets = self._inputs[width:], self._targets[width:]
        return [self] if len(self._inputs) else []

    def scores(self) -> tuple[np.ndarray, ...]:
        """Return the log-probability of each target; with details also ranks and entropies."""
        return tuple(np.concatenate(parts) for parts in zip(*self._parts, strict=True))


class Writing(Row):
    """A row that is written, a few tokens at a time.

    Args:
      job: the job.
      read: the prediction of the first token.
      uniforms: two random numbers for each token, [length, 2].
      drawing: how tokens are drawn.
      stops: called with the ids so far; it returns whether the row ends with them.
    """

    def __init__(
        self,
        job: "Job",
        read: Read,
        uniforms: np.ndarray,
        drawing: Drawing,
        stops: Callable[[list[int]], bool],
    ) -> None:
        self.job, self._drawing, self._uniforms, self._stops = job, drawing, uniforms, stops
        self._logits_V, self.carry = read.logits_V, read.carry
        self.ids: list[int] = []

    def group(self, engine: Engine) -> Hashable:
        return Writing

    @staticmethod
    def step(engine: Engine, rows: Sequence["Writing"]) -> Sequence[Any]:
        return engine.write(
            [row._logits_V for row in rows],
            [row.carry for row in rows],
            [row._next_numbers() for row in rows],
            [row._drawing for row in rows],
        )

    def _next_numbers(self) -> np.ndarray:
        most = self.job.engine.slice
        numbers = self._uniforms[len(self.ids) : len(self.ids) + most]
        return np.pad(numbers, ((0, most - len(numbers)), (0, 0)))

    def take(self, result: tuple[np.ndarray, np.ndarray, Carry]) -> Sequence[Row]:
        tokens, self._logits_V, self.carry = result
        # The row may be longer than a multiple of the slice: the tokens after its end are dropped.
        self.ids += tokens.tolist()[: len(self._uniforms) - len(self.ids)]
        ends = len(self.ids) >= len(self._uniforms) or self._stops(self.ids)
        return [] if ends else [self]
