"""Training by counting: n-grams are counted and smoothed, and the tables kept in the folder."""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from jaxlm.data.batching import POSITIONS
from jaxlm.data.digests import text_digests
from jaxlm.data.shards import is_prepared
from jaxlm.data.text import Text
from jaxlm.errors import SettingError, UserError, choose, reason
from jaxlm.evaluation.scoring import Scorer
from jaxlm.models.ngram import NGram
from jaxlm.ngrams.config import CountingConfig
from jaxlm.ngrams.counts import Counts, Sequences, check_order
from jaxlm.ngrams.engines import ENGINES
from jaxlm.ngrams.external import count_within, in_folders, parse_memory
from jaxlm.ngrams.lmplz import last_ngrams, with_unlisted
from jaxlm.ngrams.pruning import (
    HISTORIES,
    count_histories,
    mark_rare,
    mark_words,
    prune_by_entropy,
    renamed,
    renormalised,
    thresholds_of,
    without,
)
from jaxlm.ngrams.smoothing import KEEPING_SHARES, SMOOTHINGS, Estimate, modified_kneser_ney
from jaxlm.ngrams.tables import Allocate, Tables, in_memory
from jaxlm.runs.folder import TABLES, RunFolder
from jaxlm.runs.log import METRICS, Log, perplexity_of, read_records, shown_perplexity
from jaxlm.runs.run import Run, read_tables
from jaxlm.runs.same_run import TEXT_DIGESTS
from jaxlm.runs.sessions import COUNTING, record_session, session_of
from jaxlm.training.config import RunConfig, check_valid_split
from jaxlm.training.samples import Samples, check_sample_every


def fit_by_counting(
    model: NGram,
    text: Text,
    config: RunConfig,
    folder: Path | None = None,
    resume: bool = False,
    console: Console | None = None,
    sample_every: int | None = None,
) -> Run:
    """Count and smooth n-grams; see `jaxlm.fit`.

    There are no checkpoints: `resume` counts again if the run was interrupted before its tables
    were complete, validates if it was interrupted later, and leaves a finished run unchanged.

    Args:
      model: the n-gram.
      text: the corpus.
      config: every setting.
      folder: where the run is kept; None to keep nothing.
      resume: whether the folder may hold this run already.
      console: where the log is printed.
      sample_every: 0 for no sample, another number for a sample at the end, None for a sample of a
        text by characters.
    Raises:
      UserError: for a setting that cannot work, an order longer than any line, and a full disk.
    """
    counting = config.counting
    assert counting is not None
    # Every setting is checked before a run folder is made.
    check_counting(model, text, counting)
    check_order(sequences(model, text), model.order, model.vocab_size)
    check_sample_every(sample_every, True)
    model = replace(model, start_id=text.vocabulary.start_id)
    protocol = config.protocol(model.start_id)
    check_valid_split(text, protocol)
    if folder:
        config = config.with_about(**{TEXT_DIGESTS: text_digests(text)})
    settings = config.as_json(model.start_id)
    run_folder = RunFolder(folder, settings, text.tokenizer) if folder else None
    log = Log(folder, console, 1)

    def run(tables: Tables) -> Run:
        return Run(model, tables, text.tokenizer, protocol, settings, folder, 1)

    with contextlib.ExitStack() as locks:
        is_new = run_folder is not None and run_folder.claim(resume)
        if run_folder is not None:
            locks.enter_context(run_folder.locked())
        if resume and folder and (folder / TABLES).is_dir():
            tables = read_tables(folder)
            if _is_validated(folder, text):
                log.note("this run is complete: there is nothing left to count")
                return run(tables)
            log.note("the tables are complete: there is nothing left to count")
        else:
            if run_folder and not is_new:
                run_folder.write_description()
            try:
                tables = _count(log, model, text, config, folder)
            except (UserError, MemoryError) as error:
                # There is nothing yet that `resume` could continue.
                if run_folder and is_new:
                    run_folder.release()
                if isinstance(error, UserError):
                    raise
                raise UserError(
                    "the memory is full: count on disk with `memory`, such as 2GB, or use a lower "
                    "`order`"
                ) from error
        log.start_from(0)
        if folder:
            record_session(folder, config.about.get("command"), session_of(None, COUNTING))
        counted = run(tables)
        _validate(log, counted, text)
        samples = Samples(sample_every and 1, text, log)
        if samples.is_due(1):
            samples.show(counted)
        return counted


def _count(log: Log, model: NGram, text: Text, config: RunConfig, folder: Path | None) -> Tables:
    """Count and smooth the n-grams, log what was found, and return the tables.

    With a folder the tables are kept there. Records of an earlier session are removed first, so
    that records beside complete tables are of these tables.

    Raises:
      UserError: if a file cannot be written.
    """
    counting = config.counting
    assert counting is not None
    log.start_from(0)
    began = time.perf_counter()
    with _scratch(folder) as scratch:
        estimate = _estimate(model, text, counting, scratch)
        seconds = time.perf_counter() - began
        tables = _kept(estimate.tables, folder, scratch)
    _log_estimate(log, estimate, seconds, len(text.train))
    return tables


def _is_validated(folder: Path, text: Text) -> bool:
    """Return whether an earlier session recorded the validation, if the text has one."""
    if text.valid is None or not len(text.valid):
        return True
    return any(record.get("split") == "valid" for record in read_records(folder / METRICS))


def check_counting(model: NGram, text: Text, counting: CountingConfig) -> None:
    """Raise UserError for a setting that cannot work, without a look at the lines of the text."""
    choose(dict.fromkeys(POSITIONS), counting.positions, "positions")
    choose(SMOOTHINGS, model.smoothing, "smoothing")
    if model.smoothing != "add-k" and model.add_k != type(model).add_k:
        why = f"has no effect with `smoothing` {model.smoothing}: it belongs to add-k"
        raise SettingError("add_k", model.add_k, why)
    choose(ENGINES, counting.engine, "engine")
    if counting.memory is not None:
        parse_memory(counting.memory)
    if model.stream and text.vocabulary.start_id is None:
        raise SettingError("stream", True, "needs a token that ends each line: use `eos`")
    if counting.like_lmplz:
        _check_like_lmplz(model, text)
    thresholds_of(counting.prune, model.order)
    choose(dict.fromkeys(HISTORIES), counting.prune_history, "prune_history")
    if counting.prune_entropy is None and counting.prune_history != HISTORIES[0]:
        why = "has no effect without `prune_entropy`: leave it out"
        raise SettingError("prune_history", counting.prune_history, why)


def _check_like_lmplz(model: NGram, text: Text) -> None:
    """Raise SettingError if lmplz could not estimate this model."""
    if model.smoothing != "modified-kneser-ney":
        why = f"needs the smoothing modified-kneser-ney, which lmplz has; it is {model.smoothing}"
        raise SettingError("like_lmplz", True, why)
    if model.stream or text.vocabulary.start_id is None:
        why = "needs lines that end in <eos>, as lmplz reads them: use `eos` without `stream`"
        raise SettingError("like_lmplz", True, why)
    if text.config.vocabulary_file is not None and is_prepared(Path(text.name)):
        why = (
            "with `vocabulary_file` counts all words of a text, and a prepared text does not have "
            "them: give the text itself"
        )
        raise SettingError("like_lmplz", True, why)


def _validate(log: Log, run: Run, text: Text) -> None:
    """Score the validation split, if there is one, and log its perplexity."""
    if text.valid is None or not len(text.valid):
        return
    scores = Scorer(run.model).split(
        run.params, text.valid, run.protocol.rows, run.protocol.last_only
    )
    loss = scores.nll / len(scores.log_prob)
    ppl = perplexity_of(loss)
    log.record(
        1,
        {"split": "valid", "nll": scores.nll, "tokens": len(scores.log_prob), "ppl": ppl},
        f"valid loss {loss:z.4f}  ppl {shown_perplexity(ppl, 8)}",
    )


def sequences(model: NGram, text: Text) -> Sequences:
    """Return the training text as the n-gram counts it; see `Sequences.of_split`."""
    return Sequences.of_split(text.train, model.vocab_size, model.stream)


@contextlib.contextmanager
def _scratch(folder: Path | None) -> Iterator[Path]:
    """Yield a path for temporary files, and remove it at the end.

    It is inside the run's folder, so that finished tables can be renamed into place.

    Raises:
      UserError: if a file cannot be written within this context.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="jaxlm-") as temporary:
            yield Path(temporary)
        return
    scratch = folder / f"{TABLES}.partial"
    # A link in the place of the folder is removed, not followed.
    if scratch.is_symlink():
        scratch.unlink()
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        yield scratch
    except OSError as error:
        raise UserError(
            f"cannot write the tables to {folder}: {reason(error)}: free some space, "
            f"then repeat the command"
        ) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _estimate(model: NGram, text: Text, counting: CountingConfig, scratch: Path) -> Estimate:
    """Return the smoothed tables; arrays too large for `memory` are files in `scratch`."""
    memory = None if counting.memory is None else parse_memory(counting.memory)
    thresholds = thresholds_of(counting.prune, model.order)
    read, V = sequences(model, text), model.vocab_size
    leaves_out = counting.like_lmplz and text.config.vocabulary_file is not None
    if leaves_out:
        assert model.start_id is not None
        train, tokens = text.train, text.vocabulary.tokens
        pieces = text.tokenizer.pieces(train.source.lines())
        read, V = with_unlisted(pieces, tokens, model.start_id)
    prunes = leaves_out or any(thresholds) or counting.prune_entropy is not None
    counts, allocate = count_within(
        read,
        model.order,
        V,
        memory,
        scratch / ("unpruned" if prunes else TABLES),
        scratch,
        counting.engine,
    )
    if any(thresholds):
        counts = replace(counts, dropped=mark_rare(counts, thresholds, allocate))
    if leaves_out:
        marks = mark_words(counts, model.vocab_size, allocate)
        for mark, rare in zip(marks, counts.dropped or marks, strict=True):
            mark |= rare
        counts = replace(counts, dropped=marks, outside=V - model.vocab_size)
    vocabulary = text.vocabulary
    if counting.like_lmplz:
        assert vocabulary.start_id is not None
        raw = last_ngrams(read, counts, vocabulary.start_id, vocabulary.unk_id)
        estimate = modified_kneser_ney(counts, allocate, raw=raw)
    else:
        estimate = SMOOTHINGS[model.smoothing](counts, allocate, model.add_k)
    return replace(estimate, tables=_pruned(model, estimate, counts, counting, scratch, allocate))


def _pruned(
    model: NGram,
    estimate: Estimate,
    counts: Counts,
    counting: CountingConfig,
    scratch: Path,
    allocate: Allocate,
) -> Tables:
    """Return the estimated tables without the n-grams that `counting` leaves out.

    Args:
      model: the n-gram, whose start_id is the token that ends a line.
      estimate: the tables of all counted n-grams.
      counts: the counts, with the n-grams that are left out by their counts.
      counting: the settings.
      scratch: folder for the arrays of the tables, in TABLES, and for temporary arrays.
      allocate: the `Allocate` of the counts. If it allocates in memory, pruning does too.
    """
    tables, entropy = estimate.tables, counting.prune_entropy

    def allocate_in(results: str) -> Allocate:
        if allocate is in_memory:
            return in_memory
        return in_folders(scratch / results, scratch / f"for-{results}")

    if counts.dropped:
        allocate_counted = allocate_in(TABLES if entropy is None else "by-count")
        renormalises = model.smoothing not in KEEPING_SHARES
        # The weights that `without` keeps are read while the new weights are written.
        allocate_kept = allocate_counted
        if renormalises:
            allocate_kept = renamed(allocate_counted, "backoffs-", "old-backoffs-")
        tables = without(tables, counts.dropped, allocate_kept, model.vocab_size)
        if renormalises:
            tables = renormalised(tables, allocate_counted)
    if entropy is not None:
        histories = (
            count_histories(counts, allocate) if counting.prune_history == "counts" else None
        )
        end_id = None if model.stream else model.start_id
        tables = prune_by_entropy(tables, entropy, end_id, allocate_in(TABLES), histories)
    return tables


def _kept(tables: Tables, folder: Path | None, scratch: Path) -> Tables:
    """Write the tables to `scratch`, rename that into `folder`, and return the tables mapped."""
    if folder is None:
        return tables
    tables.save(scratch / TABLES)
    os.replace(scratch / TABLES, folder / TABLES)
    return Tables.load(folder / TABLES, check=False)


def _log_estimate(log: Log, estimate: Estimate, seconds: float, tokens: int) -> None:
    """Log the number of n-grams of each order, and the discounts."""
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
