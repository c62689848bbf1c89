"""Training by counting: the n-gram."""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from jaxlm.data.batching import POSITIONS
from jaxlm.data.text import Text
from jaxlm.errors import UserError, choose
from jaxlm.evaluation.scoring import Scorer
from jaxlm.models.ngram import NGram
from jaxlm.ngrams.counts import Sequences, check_order
from jaxlm.ngrams.engines import ENGINES
from jaxlm.ngrams.external import count_within, parse_memory
from jaxlm.ngrams.smoothing import SMOOTHINGS, Estimate
from jaxlm.ngrams.tables import Tables
from jaxlm.runs.log import Log
from jaxlm.runs.run import TABLES, Run, claim_folder, describe, give_up_folder
from jaxlm.training.options import with_options
from jaxlm.training.progress import perplexity_of


@dataclass(frozen=True)
class CountingConfig:
    """How n-grams are counted."""

    positions: str = "all"
    """Lines without <eos>: predict every word but the first, or the last alone (the lecture)."""
    memory: str | None = None
    """Count within this much memory, such as 2GB, on disk where need be (none: all in memory)."""
    engine: str = "duckdb"
    """What counts on disk: duckdb or spark (extras of those names)."""


def fit_by_counting(
    model: NGram,
    text: Text,
    *,
    counting: CountingConfig | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    config: dict[str, Any] | None = None,
    console: Console | None = None,
    **options: Any,
) -> Run:
    """Counts and smooths; see `jaxlm.fit`. `options` are fields of CountingConfig.

    Counting is done in one go: `resume` begins again where it was cut off, and leaves a finished
    run as it is. Raises UserError for a setting that cannot work, an order larger than any line,
    and a disk that is full.
    """
    (counting,) = with_options([counting or CountingConfig()], options)
    # All that can be refused is, before a run folder is made.
    _check(model, text, counting)
    model = replace(model, start_id=text.vocabulary.start_id)
    place = Path(folder) if folder else None
    description = _description(model, text, counting, config or {}, place)
    if place:
        claim_folder(place, description, text.tokenizer, resume)
    log = Log(place, console, 1, False)
    if place and (place / TABLES).is_dir():
        log.note("this run is complete: there is nothing left to count")
        return Run(model, Tables.load(place / TABLES), text.tokenizer, description, place, 1)
    log.start_from(0)
    began = time.perf_counter()
    try:
        with _scratch(place) as scratch:
            estimate = _estimate(model, text, counting, scratch)
            seconds = time.perf_counter() - began
            tables = _kept(estimate.tables, place, scratch)
    except UserError:
        # Too little memory or disk: there is nothing yet that --resume could save.
        if place and not resume:
            give_up_folder(place)
        raise
    run = Run(model, tables, text.tokenizer, description, place, 1)
    _tell(log, estimate, seconds, len(text.train))
    _validate(log, run, text)
    return run


def _check(model: NGram, text: Text, counting: CountingConfig) -> None:
    choose(dict.fromkeys(POSITIONS), counting.positions, "positions")
    choose(SMOOTHINGS, model.smoothing, "smoothing")
    choose(ENGINES, counting.engine, "engine")
    if counting.memory is not None:
        parse_memory(counting.memory)
    check_order(sequences(model, text), model.order, model.vocab_size)


def _validate(log: Log, run: Run, text: Text) -> None:
    if text.valid is None or not len(text.valid):
        return
    scores = Scorer(run.model).split(run.params, text.valid, run.in_rows, run.last_only)
    loss = scores.nll / len(scores.log_prob)
    ppl = perplexity_of(loss)
    log.record(
        1,
        {"split": "valid", "nll": scores.nll, "tokens": len(scores.log_prob), "ppl": ppl},
        f"valid loss {loss:.4f}  ppl {ppl:8.2f}",
    )


def _description(
    model: NGram,
    text: Text,
    counting: CountingConfig,
    config: dict[str, Any],
    place: Path | None,
) -> dict[str, Any]:
    sections = {"text": text.config, "counting": counting}
    description = describe(model, sections, config, kept=place is not None)
    # What evaluation asks of every run: which tokens of a text are counted.
    rows = text.vocabulary.start_id is None
    return description | {
        "batching": {"batching": "rows", "positions": counting.positions}
        if rows
        else {"batching": "streams", "positions": "all"}
    }


def sequences(model: NGram, text: Text) -> Sequences:
    """The training text as the n-gram reads it."""
    start_id, V = text.vocabulary.start_id, model.vocab_size
    if start_id is None:
        return Sequences.rows(text.train.rows(), V)
    if model.stream:
        return Sequences.stream(text.train.ids, start_id)
    return Sequences.lines(text.train.ids, start_id, V)


@contextlib.contextmanager
def _scratch(place: Path | None) -> Iterator[Path]:
    """A folder for what counting needs meanwhile: in the run's own, so that what is finished can be
    renamed into place, or a temporary one. Removed at the end, whatever happens.
    """
    if place is None:
        with tempfile.TemporaryDirectory(prefix="jaxlm-") as folder:
            yield Path(folder)
        return
    scratch = place / f"{TABLES}.partial"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        yield scratch
    except OSError as error:
        raise UserError(
            f"cannot write the tables to {place}: {error.strerror}: free some space, then repeat "
            f"the command"
        ) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _estimate(model: NGram, text: Text, counting: CountingConfig, scratch: Path) -> Estimate:
    memory = None if counting.memory is None else parse_memory(counting.memory)
    counts, allocate = count_within(
        sequences(model, text),
        model.order,
        model.vocab_size,
        memory,
        scratch / TABLES,
        scratch,
        counting.engine,
    )
    return SMOOTHINGS[model.smoothing](counts, allocate, model.add_k)


def keep_tables(tables: Tables, place: Path) -> Tables:
    """Puts `tables` into the folder of a run, written aside and renamed; returns them mapped."""
    with _scratch(place) as scratch:
        return _kept(tables, place, scratch)


def _kept(tables: Tables, place: Path | None, scratch: Path) -> Tables:
    """`tables` in the folder of the run, written aside and renamed."""
    if place is None:
        return tables
    tables.save(scratch / TABLES)
    os.replace(scratch / TABLES, place / TABLES)
    return Tables.load(place / TABLES)


def _tell(log: Log, estimate: Estimate, seconds: float, tokens: int) -> None:
    """The n-grams of each order, and the discounts."""
    tables = estimate.tables
    for order, size in enumerate(tables.sizes, start=1):
        discounts = ""
        if estimate.discounts:
            shown = " ".join(f"{value:.4f}" for value in estimate.discounts[order - 1])
            discounts = f"  discounts {shown}"
        log.note(f"order {order}  {size:10,} n-grams{discounts}")
    for note in estimate.notes:
        log.note(f"note: {note}")
    log.note(f"{tokens:,} tokens counted and smoothed in {seconds:.2f} s")
