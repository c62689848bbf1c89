"""The worker: a thread that owns a run, and serves the requests of many clients in batches."""

import contextlib
import queue
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Hashable, Sequence
from concurrent.futures import Future, InvalidStateError
from typing import Any

from jaxlm.runs.run import Run
from jaxlm.runs.starts import by_lines
from jaxlm.serving.engines import Engine, engine_of, warm_up_random_numbers
from jaxlm.serving.jobs import Job
from jaxlm.serving.limits import Limits
from jaxlm.serving.rows import Row

ROWS = 8
"""Rows in a batch."""
WAIT = 0.002
"""Seconds that an idle worker waits for more requests after the first."""


class Worker:
    """Serves one run. Only its thread touches the model, so a run is asked by one job at a time.

    A job is cut into rows of tokens. In each step the worker takes up to `rows` rows of one kind
    and one width, of any jobs, and computes them in one call. Rows that are not done go to the end
    of their queue; the kinds take turns. So a long request does not hold up the short ones, and a
    request that arrives while the model is busy joins the next step.

    A failing row fails its own job alone: the rows of a call that failed are computed again one by
    one.

    Example:
      >>> import jaxlm
      >>> text = jaxlm.read_corpus("toy", eos=False)
      >>> run = jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=3), text, quiet=True)
      >>> from jaxlm.serving.jobs import NextJob
      >>> with Worker(run) as worker:
      ...     answer = worker.submit(NextJob(Limits(), "我 讨厌", top=1)).result()
      >>> answer["words"][0]["word"]
      '挨打'

    Args:
      run: the run.
      rows: the largest number of rows in a call; 1 for no batches.
      wait: seconds that an idle worker waits for more requests after the first.
      limits: the limits of the service, for which all programs are compiled at the start.
    """

    def __init__(
        self, run: Run, *, rows: int = ROWS, wait: float = WAIT, limits: Limits | None = None
    ) -> None:
        self.run, self._wait, self._limits = run, wait, limits or Limits()
        self.engine: Engine = engine_of(run, rows)
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._groups: OrderedDict[Hashable, deque[Row]] = OrderedDict()
        self._stopped = False
        self.calls = 0
        self._thread = threading.Thread(
            target=self._work, name=f"jaxlm serves {run.name}", daemon=True
        )

    def __enter__(self) -> "Worker":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def warm_up(self) -> None:
        """Compile everything that a request may need. Call it before the thread starts."""
        self.engine.warm_up()
        self.engine.line_carry(by_lines(self.run))
        warm_up_random_numbers((self._limits.max_samples, self._limits.max_length))

    def submit(self, job: Job) -> Future[dict[str, Any]]:
        """Queue a job, and return its future. Any thread may call this method.

        Raises:
          RuntimeError: if the worker was stopped.
        """
        if self._stopped:
            raise RuntimeError("the worker is stopped")
        self._jobs.put(job)
        return job.future

    @property
    def is_alive(self) -> bool:
        """True while the worker's thread runs."""
        return self._thread.is_alive()

    def stop(self, timeout: float = 5.0) -> None:
        """Cancel all open jobs, and end the thread. Wait at most `timeout` seconds for its end."""
        self._stopped = True
        self._jobs.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _work(self) -> None:
        while not self._stopped:
            if not self._groups:
                self._collect()
            while not self._stopped and not self._jobs.empty():
                self._begin(self._jobs.get())
            if self._groups and not self._stopped:
                self._step()
        for rows in self._groups.values():
            for row in rows:
                row.job.future.cancel()
        while not self._jobs.empty():
            if job := self._jobs.get():
                job.future.cancel()

    def _collect(self) -> None:
        """Wait for a job, and then a little for more jobs."""
        self._begin(self._jobs.get())
        end = time.monotonic() + self._wait
        while (left := end - time.monotonic()) > 0 and not self._stopped:
            try:
                self._begin(self._jobs.get(timeout=left))
            except queue.Empty:
                return

    def _begin(self, job: Job | None) -> None:
        """Cut a job into rows, and queue them; None ends the worker."""
        if job is None or job.future.cancelled():
            return
        job.engine = self.engine
        try:
            rows = job.rows()
        except Exception as error:
            _fail(job, error)
            return
        job.open_rows = len(rows)
        self._queue(rows)

    def _queue(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._groups.setdefault(row.group(self.engine), deque()).append(row)

    def _step(self) -> None:
        """Compute one step of the group whose turn it is."""
        group, waiting = self._groups.popitem(last=False)
        rows: list[Row] = []
        while waiting and len(rows) < self.engine.rows:
            row = waiting.popleft()
            if not row.job.future.done():
                rows.append(row)
        if waiting:
            # The other groups have their turn first.
            self._groups[group] = waiting
        if rows:
            self._compute(rows)

    def _compute(self, rows: Sequence[Row]) -> None:
        self.calls += 1
        try:
            results = type(rows[0]).step(self.engine, rows)
        except Exception as error:
            if len(rows) == 1:
                _fail(rows[0].job, error)
                return
            for row in rows:
                self._compute([row])
            return
        for row, result in zip(rows, results, strict=True):
            self._take(row, result)

    def _take(self, row: Row, result: Any) -> None:
        """Give a row its result; answer its job if this was the last row."""
        job = row.job
        try:
            following = row.take(result)
            self._queue(following)
            job.open_rows += len(following) - 1
            if not job.open_rows:
                _finish(job.future, job.answer())
        except Exception as error:
            _fail(job, error)


def _fail(job: Job, error: Exception) -> None:
    # A cancelled job takes no error.
    with contextlib.suppress(InvalidStateError):
        job.future.set_exception(error)


def _finish(future: Future[dict[str, Any]], answer: dict[str, Any]) -> None:
    with contextlib.suppress(InvalidStateError):
        future.set_result(answer)
