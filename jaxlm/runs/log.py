"""The log of a run: metrics.jsonl, a progress bar or plain lines, and TensorBoard if asked for.

metrics.jsonl holds only what the seed determines, so that two runs of one command can be compared
byte for byte. Times go to timing.jsonl, and samples, which may be left out to save time, go to
samples.jsonl.
"""

import contextlib
import importlib.util
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text as RichText

from jaxlm.data.files import write_text
from jaxlm.errors import UserError, reason

METRICS, TIMING, SAMPLES = "metrics.jsonl", "timing.jsonl", "samples.jsonl"
Warn = Callable[[str], None]
Callback = Callable[[dict[str, Any]], None]
"""callback(record): called with a record such as {"step": 200, "split": "train", "ppl": 9.5}.

A callback may have a method `finish()`, which `fit` calls once at the end of training, also after
an error, and a method `sample(step, text)`, which gets the samples that `sample_every` asks for."""


class Log:
    """Writes records to a folder and shows progress; a context manager.

    Args:
      folder: where the .jsonl files go; None to write no files.
      console: where lines and the progress bar are printed.
      total_steps: the length of the progress bar.
      tensorboard: whether to write TensorBoard event files too.
      label: text before each printed line, such as the name of the run.
      live: whether to show a progress bar on a terminal or in a notebook.
      callbacks: functions that are called with each record.
      run_name: the entry `run` of the records that callbacks get; None for no such entry.
    """

    def __init__(
        self,
        folder: Path | None,
        console: Console | None,
        total_steps: int,
        tensorboard: bool = False,
        label: str = "",
        live: bool = True,
        callbacks: Sequence[Callback] = (),
        run_name: str | None = None,
    ) -> None:
        self._folder, self._label, self._callbacks = folder, label, tuple(callbacks)
        self._console = console or Console()
        self._created, self._seconds_before = time.perf_counter(), 0.0
        self._clock: float | None = None
        self._tokens = 0
        self._bar = Progress(
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            # A live bar takes over what other code prints, and a quiet console would drop it.
            disable=self._console.quiet
            or not live
            or not (self._console.is_terminal or self._console.is_jupyter),
        )
        self._task = self._bar.add_task("", total=total_steps, status="compiling")
        self._named = {} if run_name is None else {"run": run_name}
        self._tensorboard = tensorboard
        self._events: Any = None
        # The first step of this session.
        self._first = 1

    def __enter__(self) -> "Log":
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()
        if self._events:
            self._events.close()

    def start_from(self, step: int) -> None:
        """Remove the records of steps after `step`, which a resumed run will write again.

        The seconds of timing.jsonl go on from those of its last record.
        """
        self._bar.update(self._task, completed=step)
        self._first = step + 1
        if self._folder is None:
            return
        _, timing, _ = (
            keep_records_up_to(self._folder / name, step, self.warn)
            for name in (METRICS, TIMING, SAMPLES)
        )
        seconds = timing[-1].get("seconds") if timing else None
        # The file may be damaged.
        self._seconds_before = seconds if isinstance(seconds, int | float) else 0.0

    def expect(self, total: int) -> None:
        """Set the length of the progress bar."""
        self._bar.update(self._task, total=total)

    def advance(self, step: int, tokens: int, loss: float) -> None:
        """Move the progress bar to `step`.

        Args:
          step: number of steps taken.
          tokens: training targets since the last call, which the rate counts.
          loss: loss of the last step in nats per token, to show.
        """
        if self._clock is None:
            # The rate excludes the first dispatch, which compiles.
            self._clock = time.perf_counter()
        else:
            self._tokens += tokens
        status = f"loss {loss:z.4f}  ppl {shown_perplexity(perplexity_of(loss))}"
        status += f"  {self.rate():,.0f} tokens/s"
        self._bar.update(self._task, completed=step, status=status)

    def rate(self) -> float:
        """Return training tokens per second so far, without compilation and validation."""
        elapsed = time.perf_counter() - self._clock if self._clock else 0.0
        return self._tokens / elapsed if elapsed else 0.0

    @contextlib.contextmanager
    def clock_stopped(self) -> Iterator[None]:
        """Exclude the time within this context from the rate."""
        began = time.perf_counter()
        yield
        if self._clock is not None:
            self._clock += time.perf_counter() - began

    def record(self, step: int, values: dict[str, Any], line: str) -> None:
        """Print `line`, call the callbacks, and append the record to metrics.jsonl.

        Args:
          step: number of steps taken.
          values: the values to record by name; a value of infinity is left out of the file.
          line: the record for the terminal.
        Raises:
          UserError: if the record cannot be written.
        """
        self.note(line)
        for callback in self._callbacks:
            callback(self._named | {"step": step} | values)
        if self._folder is None:
            return
        # JSON cannot express a perplexity or a metric that is not finite.
        finite = {
            name: value
            for name, value in values.items()
            if not isinstance(value, float) or math.isfinite(value)
        }
        self._append(METRICS, {"step": step} | finite)
        seconds = self._seconds_before + time.perf_counter() - self._created
        timing = {
            "step": step,
            "seconds": round(seconds, 3),
            "tokens_per_second": round(self.rate(), 1),
        }
        self._append(TIMING, timing)
        if self._tensorboard:
            # Made only now: a folder that is refused on the way here stays as it was.
            self._events = self._events or _event_writer(self._folder, self._first)
            prefix = values.get("split", "train")
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._events.add_scalar(f"{prefix}/{name}", value, step)

    def _append(self, name: str, record: dict[str, Any]) -> None:
        """Append one line of JSON to a file of the folder."""
        assert self._folder is not None
        with writing(self._folder / name), open(self._folder / name, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    @property
    def is_shown(self) -> bool:
        """False if the console is quiet."""
        return not self._console.quiet

    def sample(self, step: int, text: str) -> None:
        """Print a text that the model has written, and append it to samples.jsonl.

        The callbacks that have a method `sample` get the text too.
        """
        # As the model wrote it: neither markup, nor a `setting` that a command spells as a flag.
        line = RichText(f"{self._label}step {step:6d}  sample  {text}")
        self._console.print(line, highlight=False, soft_wrap=True)
        if self._folder is not None:
            self._append(SAMPLES, {"step": step, "text": text})
        for callback in self._callbacks:
            if take := getattr(callback, "sample", None):
                take(step, text)

    def note(self, text: str) -> None:
        """Print a line above the progress bar."""
        line = escape(self._label + text)
        self._console.print(line, highlight=False, emoji=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Print a line that starts with `warning`."""
        self.note(f"warning: {text}")


def perplexity_of(nats: float) -> float:
    """Return exp(nats), or infinity where a float cannot hold it."""
    return math.exp(nats) if nats < 700 else math.inf


def shown_perplexity(perplexity: float, width: int = 0, digits: int = 2) -> str:
    """Return a perplexity as text: with `digits` decimals, or in powers of ten above one million.

    The text is padded to `width` characters.

    Example:
      >>> shown_perplexity(61.234), shown_perplexity(1.23e35), shown_perplexity(math.inf)
      ('61.23', '1.2e+35', 'inf')
    """
    text = f"{perplexity:.{digits}f}" if perplexity <= 1e6 else f"{perplexity:.1e}"
    return text.rjust(width)


def read_records(path: Path, warn: Warn | None = None) -> list[dict[str, Any]]:
    """Return the records of a .jsonl file, without a last line that a crash cut short.

    Args:
      path: the file. Without it there are no records.
      warn: called with a line of text if other lines are damaged, which are left out too.
    """
    records, damaged = [], []
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    for number, line in enumerate(lines, start=1):
        if record := _record_of(line):
            records.append(record)
        # A whole file ends with a line break, so that its last line is empty.
        elif line.strip() and number < len(lines):
            damaged.append(str(number))
    if damaged and warn is not None:
        shown = ", ".join(damaged[:8]) + ", ..." * (len(damaged) > 8)
        s, are = ("", "is") if len(damaged) == 1 else ("s", "are")
        warn(f"{path}: line{s} {shown} {are} damaged and left out")
    return records


def _record_of(line: bytes) -> dict[str, Any] | None:
    """Return the record of a line, or None if the line is damaged."""
    try:
        record = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    step = record.get("step") if isinstance(record, dict) else None
    return record if isinstance(step, int) and not isinstance(step, bool) else None


def keep_records_up_to(path: Path, step: int, warn: Warn | None = None) -> list[dict[str, Any]]:
    """Rewrite a .jsonl file without the records after `step`, and return the other records.

    Damaged lines are left out; `warn` is called with a line of text that names them.
    """
    if not path.exists():
        return []
    kept = [record for record in read_records(path, warn) if record["step"] <= step]
    with writing(path):
        write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
    return kept


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within this context, an OSError becomes a UserError that names `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"could not write {path}: {reason(error)}. Checkpoints already written are "
            f"whole: free some space, then repeat the command with `resume`"
        ) from None


def check_tensorboard() -> None:
    """Raise UserError if tensorboardX is not installed."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise UserError("`tensorboard` needs an extra package: pip install tensorboardX")


def _event_writer(folder: Path, first: int) -> Any:
    """Return the writer of TensorBoard's event files.

    TensorBoard forgets the events of an earlier session from the step `first` on.
    """
    from tensorboardX import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"), purge_step=first)
