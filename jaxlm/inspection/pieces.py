"""Read a text with a run piece by piece: scores, next tokens and recorded arrays of each piece."""

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxlm.data.corpora import LONGEST_SHOWN
from jaxlm.data.tokenizers import quoted
from jaxlm.errors import UserError
from jaxlm.evaluation.generation import UnknownWords, check_unicode, unread_note
from jaxlm.inspection.arguments import check_run, check_text
from jaxlm.inspection.recorded import (
    HIDDEN,
    checked_units,
    collections,
    missing,
    named_arrays,
    recorded_names,
)
from jaxlm.ranges import Size, checked
from jaxlm.runs.run import Run
from jaxlm.runs.starts import Start, start_of

if TYPE_CHECKING:
    import jax

    from jaxlm.models.neural import NeuralModel
    from jaxlm.models.ngram import NGram

# Tokens that an error lists.
MOST_LISTED = 5
# A chunk is padded to 8, 16, 32, ... tokens, so that few programs are compiled.
SMALLEST_CHUNK = 8


class Reading(NamedTuple):
    """A text that is cut into tokens, and how the run reads them.

    Attributes:
      text: the text.
      ids: id of each token, int32 [T].
      spans: character offsets of each token, int64 [T, 2].
      skipped: character offsets of the words that the run cannot read, int64 [N, 2].
      start: the state from which the model reads.
      segments: the tokens that are read from this state on: slices of [0, T).
      note: a sentence that says so.
    """

    text: str
    ids: np.ndarray
    spans: np.ndarray
    skipped: np.ndarray
    start: Start
    segments: list[slice]
    note: str


class Piece(NamedTuple):
    """The values that a run computes while it reads some consecutive tokens.

    Attributes:
      tokens: the tokens, a slice of [0, T); `arrays` has a row for each.
      predictions: the rows of the distributions, a slice of [0, T + 1); row t comes before token t.
      arrays: float32 [tokens, units] by name, and the kind of each name.
      kinds: the kind of each array.
      surprisal, entropy, rank: of each prediction; the value of row T has no meaning.
      next_ids, next_probabilities: the most probable tokens of each prediction.
    """

    tokens: slice
    predictions: slice
    arrays: dict[str, np.ndarray]
    kinds: dict[str, str]
    surprisal: np.ndarray
    entropy: np.ndarray
    rank: np.ndarray
    next_ids: np.ndarray
    next_probabilities: np.ndarray


def read(run: Run, text: str, start: str | None = None) -> Reading:
    """Cut a text into tokens, and decide how the run reads them.

    A word that the vocabulary lacks is read as `<unk>`. If the vocabulary has no `<unk>`, the text
    is read without it.

    Args:
      run: the run.
      text: the text.
      start: "fresh", "warm", or None for the default of the run.
    Raises:
      UserError: for a `run` that is no Run, an empty text, text that is not Unicode, and a text of
        which the run can read nothing.
      SettingError: for a start that the run does not have.
    """
    check_run(run)
    check_text(text)
    check_unicode(text)
    skipped = unread(run, text)
    parts = _without(text, skipped)
    ids = np.concatenate([run.tokenizer.encode_context(part) for part in parts]).astype(np.int32)
    if not len(ids):
        raise _nothing_to_read(run, text, skipped)
    by_lines = run.protocol.rows
    begin = start_of(run, (run.protocol.start if by_lines else None) if start is None else start)
    spans = run.tokenizer.spans(text)
    if len(skipped):
        spans = spans[~np.isin(spans[:, 0], skipped[:, 0])]
    segments = _lines(text, spans) if by_lines else [slice(0, len(ids))]
    notes = [_note(run, begin, by_lines), unknown_note(run, text)]
    note = "; ".join(filter(None, notes))
    return Reading(text, ids, spans, skipped, begin, segments, note)


def unread(run: Run, text: str) -> np.ndarray:
    """Return the offsets of the words or characters that a run cannot read, int64 [N, 2].

    They are those that its vocabulary lacks, if it has no `<unk>`.

    Example:
      >>> import jaxlm
      >>> text = jaxlm.read_corpus("toy", eos=False)
      >>> run = jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=3), text, quiet=True)
      >>> unread(run, "我 恨 玩具").tolist()
      [[2, 3]]
    """
    tokenizer = run.tokenizer
    if run.vocabulary.unk is not None or not tokenizer.closed_vocabulary:
        return np.zeros((0, 2), np.int64)

    @functools.cache
    def lacks(piece: str) -> bool:
        return tokenizer.unseen([piece.replace("\r\n", "\n")]) is not None

    spans = tokenizer.spans(text)
    found = [lacks(text[first:last]) for first, last in spans.tolist()]
    return spans[np.array(found, bool)]


def readable(run: Run, text: str) -> str:
    """Return a text without the words or characters that a run cannot read.

    Example:
      >>> import jaxlm
      >>> text = jaxlm.read_corpus("toy", tokens="chars")
      >>> run = jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=3), text, quiet=True)
      >>> readable(run, "我 恨 玩具")
      '我  玩具'
    """
    return "".join(_without(text, unread(run, text)))


def unknown_note(run: Run, text: str) -> str:
    """Return a sentence that names the words that a run does not know; "" if there are none."""
    left_out = dict.fromkeys(text[first:last] for first, last in unread(run, text).tolist())
    return UnknownWords(run).note(text) or unread_note(list(left_out))


def _without(text: str, skipped: np.ndarray) -> list[str]:
    """Return the parts of a text between the offsets `skipped`."""
    edges = [0, *skipped.reshape(-1).tolist(), len(text)]
    return [text[first:last] for first, last in zip(edges[::2], edges[1::2], strict=True)]


def _nothing_to_read(run: Run, text: str, skipped: np.ndarray) -> UserError:
    """Return the error for a text without any token that the run can read."""
    shown = text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."
    if not len(skipped):
        return UserError(f"the text {shown!r} has no token to trace: give a word")
    known = [token for token in run.vocabulary.tokens if token.isalpha()][:MOST_LISTED]
    such = f", such as {', '.join(known)}" if known else ""
    joined = run.tokenizer.unit == "words" and len(text.split()) == 1 and len(text.strip()) > 4
    return UserError(
        f"{run.name} can read nothing of the text {shown!r}: it knows {len(run.vocabulary)} "
        f"tokens, and has no <unk>. Give a text of its tokens{such}, or leave this run out"
        f"{'; put blanks between the words' * joined}"
    )


def _lines(text: str, spans: np.ndarray) -> list[slice]:
    """Return the tokens of each line as slices; a line break belongs to the line that it ends."""
    breaks = np.flatnonzero(np.frombuffer(text.encode("utf-32-le"), np.uint32) == ord("\n"))
    line_T = np.searchsorted(breaks, spans[:, 1] - 1)
    ends = [*(1 + np.flatnonzero(np.diff(line_T))).tolist(), len(spans)]
    if len(breaks) and breaks[-1] == spans[-1, 1] - 1:
        # The last token ends its line, so the prediction after it is that of a new line.
        ends.append(len(spans))
    return [slice(a, b) for a, b in itertools.pairwise([0, *ends])]


def _note(run: Run, start: Start, by_lines: bool) -> str:
    """Return how the run reads a text."""
    state = (
        "the state after a stretch of the training text"
        if start.carry is not None
        else "the initial state of the model"
    )
    unit = "each line" if by_lines else "the text"
    note = f"{unit} is read from {state} (start {start.name})"
    if not start.ids and not run.model.starts_from_nothing:
        note += f"; the first token of {unit} is not predicted"
    if run.protocol.last_only:
        note += "; the run was trained to predict the last token of each line alone"
    if not run.model.across_lines:
        note += "; the context begins anew in each line"
    window = run.model.window
    if window is not None:
        note += f"; the model sees the last {window} tokens"
    if run.model.pads and start.carry is None:
        filler = quoted(run.tokenizer.token_text(run.model.filler_id))
        note += f", and reads {filler} in the place of tokens before the first"
    return note


def read_pieces(
    run: Run,
    reading: Reading,
    *,
    count: int = 5,
    units: Mapping[str, Sequence[int]] | None = None,
    chunk: int = 2048,
) -> Iterator[Piece]:
    """Yield the values that a run computes, piece by piece, in the order of the text.

    Args:
      run: the run.
      reading: the text, from `read`.
      count: number of next tokens to keep for each position.
      units: the units to keep, by the name of the array. None for all.
      chunk: largest number of tokens that the model reads in one call.
    Raises:
      UserError: for `units` that the run does not have.
      SettingError: for a count or a chunk below 1.
    """
    count = min(checked("count", count, Size), len(run.vocabulary))
    chunk = checked("chunk", chunk, Size)
    if run.model.trained_by not in PIECES:
        raise UserError(f"{run.name} is a mixture, which has no inside: look into its parts")
    return PIECES[run.model.trained_by](run, reading, count, units, chunk)


def _neural_pieces(
    run: Run,
    reading: Reading,
    count: int,
    units: Mapping[str, Sequence[int]] | None,
    chunk: int,
) -> Iterator[Piece]:
    """Yield what a neural model computes, chunk by chunk, with the carry between them."""
    from jaxlm.models.neural import NeuralModel

    model: Any = run.model
    assert isinstance(model, NeuralModel)
    order, kinds = recorded_names(model)
    keep = None if units is None else checked_units(run.name, model, units)
    before = list(reading.start.ids)
    chunk = min(chunk, max(16, model.tokens_in_chunk(True)))
    for segment in reading.segments:
        carry = model.initial_carry(1) if reading.start.carry is None else reading.start.carry
        # The prediction after input j is row `first + j` of the predictions.
        inputs_T = np.concatenate([np.array(before, np.int32), reading.ids[segment]])
        first = segment.start + 1 - len(before)
        targets_T = np.append(reading.ids[first : segment.stop], 0)[: len(inputs_T)]
        for begin in range(0, len(inputs_T), chunk):
            size = min(chunk, len(inputs_T) - begin)
            padding = 0, min(_bucket(size), chunk) - size
            window = slice(begin, begin + size)
            result, carry = _read_chunk(
                run.params,
                np.pad(inputs_T[window], padding)[None],
                np.pad(targets_T[window], padding)[None],
                carry,
                np.int32(size),
                keep,
                model,
                count,
            )
            scores, arrays = (_on_host(part, size) for part in result)
            # The start token is no token of the text.
            skipped = max(0, len(before) - begin)
            at = segment.start + begin - len(before) + skipped
            tokens = slice(at, at + size - skipped)
            row = first + begin
            end = min(row + size, _after(reading, segment))
            used = slice(0, end - row)
            yield Piece(
                tokens,
                slice(row, end),
                {name: arrays[name][skipped:] for name in order if name in arrays},
                kinds,
                surprisal=scores["surprisal"][used],
                entropy=scores["entropy"][used],
                rank=scores["rank"][used],
                next_ids=scores["next_ids"][used],
                next_probabilities=scores["next_probabilities"][used],
            )


def _after(reading: Reading, segment: slice) -> int:
    """Return the end of the predictions of a segment, as a row of [0, T + 1).

    The prediction after the last token of a line is that of the next line, which starts anew.
    """
    return len(reading.ids) + 1 if segment is reading.segments[-1] else int(segment.stop)


def _bucket(size: int) -> int:
    """Return the smallest of 8, 16, 32, ... that is at least `size`."""
    return max(SMALLEST_CHUNK, 1 << (size - 1).bit_length())


def _on_host(arrays: dict[str, "jax.Array"], size: int) -> dict[str, np.ndarray]:
    """Return the first `size` rows of arrays [T, ...] as NumPy arrays."""
    return {name: np.asarray(array)[:size] for name, array in arrays.items()}


@functools.cache
def _compiled_read() -> Any:
    import jax

    return jax.jit(_compute, static_argnames=("model", "count"))


def _read_chunk(*arguments: Any) -> Any:
    return _compiled_read()(*arguments)


def _compute(
    params: Any,
    inputs_1T: Any,
    targets_1T: Any,
    carry: Any,
    length: Any,
    keep: dict[str, Any] | None,
    model: "NeuralModel",
    count: int,
) -> Any:
    """Return the scores of the targets, the recorded arrays, and the carry after `length` inputs.

    Args:
      params: the parameters.
      inputs_1T: the tokens that are read, padded.
      targets_1T: the token after each input, padded.
      carry: the carry before the inputs.
      length: number of inputs that are read.
      keep: units to keep by the name of the array; None for all.
      model: the model.
      count: number of next tokens.
    """
    import jax
    import jax.numpy as jnp

    hidden_1TF, carry, recorded = _apply(model, params, inputs_1T, carry, length, keep)
    arrays = {HIDDEN: hidden_1TF[0]} | recorded
    if keep is not None:
        arrays = {name: arrays[name][:, index] for name, index in keep.items()}
    logits_1TV: Any = model.apply({"params": params}, hidden_1TF, method="logits")
    log_probs_TV = jax.nn.log_softmax(logits_1TV[0].astype(jnp.float32))
    log_prob_T1 = jnp.take_along_axis(log_probs_TV, targets_1T[0][:, None], axis=-1)
    best_TK, ids_TK = jax.lax.top_k(log_probs_TV, count)
    terms_TV = jnp.where(log_probs_TV > -jnp.inf, jnp.exp(log_probs_TV) * log_probs_TV, 0.0)
    scores = {
        "surprisal": -log_prob_T1[:, 0],
        "entropy": -jnp.sum(terms_TV, axis=-1),
        # Parameters with NaN give no probability, and no rank.
        "rank": jnp.where(
            jnp.isnan(log_prob_T1[:, 0]), 0, 1 + jnp.sum(log_probs_TV > log_prob_T1, axis=-1)
        ),
        "next_ids": ids_TK,
        "next_probabilities": jnp.exp(best_TK),
    }
    return (scores, {name: array.astype(jnp.float32) for name, array in arrays.items()}), carry


def _apply(
    model: "NeuralModel", params: Any, inputs_1T: Any, carry: Any, length: Any, keep: Any
) -> tuple[Any, Any, dict[str, Any]]:
    """Return the features [1, T, F], the carry, and the recorded arrays [T, units] by name."""
    variables, given = {"params": params}, {"length": length}
    if keep is not None and not set(keep) - {HIDDEN}:
        # Nothing is recorded, so the model may run as it does in scoring.
        result: Any = model.apply(variables, inputs_1T, carry, **given)
        return *result, {}
    (hidden_1TF, carry), recorded = model.apply(
        variables, inputs_1T, carry, **given, mutable=list(collections())
    )
    named = {name: array for name, _, array in named_arrays(recorded, inputs_1T.shape)}
    return hidden_1TF, carry, named


def _ngram_pieces(
    run: Run,
    reading: Reading,
    count: int,
    units: Mapping[str, Sequence[int]] | None,
    chunk: int,
) -> Iterator[Piece]:
    """Yield what an n-gram computes for each segment of the text."""
    for name in units or ():
        raise missing(name, run.name, {})
    model: Any = run.model
    tables, before, total = run.params, list(reading.start.ids), len(reading.ids)
    for segment in reading.segments:
        carry = model.initial_carry(1) if reading.start.carry is None else reading.start.carry
        inputs_T = np.concatenate([np.array(before, np.int64), reading.ids[segment]])
        contexts, _ = model.contexts(tables, inputs_T[None], carry)
        # Without a start token, the first prediction comes from no token at all.
        contexts = [ids_1P[0, len(before) :] for ids_1P in contexts]
        end = _after(reading, segment)
        for row in range(segment.start, end, chunk):
            rows = slice(row, min(row + chunk, end))
            here = slice(rows.start - segment.start, rows.stop - segment.start)
            targets = np.append(reading.ids, 0)[rows]
            parts = [ids_P[here] for ids_P in contexts]
            yield _ngram_piece(model, tables, parts, targets, rows, min(rows.stop, total), count)


def _ngram_piece(
    model: "NGram",
    tables: Any,
    contexts: list[np.ndarray],
    targets: np.ndarray,
    rows: slice,
    last: int,
    count: int,
) -> Piece:
    """Return the piece of the predictions `rows`, from the ids of their contexts.

    `last` is the end of the tokens of these predictions.
    """
    probability, _ = tables.score(contexts, targets)
    entropy, rank = np.empty(len(targets)), np.empty(len(targets), np.int64)
    next_ids = np.empty((len(targets), count), np.int32)
    next_probabilities = np.empty((len(targets), count))
    for index, target in enumerate(targets):
        p_V, _ = tables.distribution([int(ids[index]) for ids in contexts])
        best = np.argsort(-p_V, kind="stable")[:count]
        next_ids[index], next_probabilities[index] = best, p_V[best]
        rank[index] = 1 + np.count_nonzero(p_V > p_V[target])
        entropy[index] = 0.0 - p_V @ np.log(np.where(p_V > 0, p_V, 1))
    with np.errstate(divide="ignore"):
        surprisal = 0.0 - np.log(probability)
    return Piece(
        slice(rows.start, last),
        rows,
        {},
        {},
        surprisal,
        entropy,
        rank,
        next_ids,
        next_probabilities,
    )


PIECES: dict[str, Any] = {"gradient": _neural_pieces, "counting": _ngram_pieces}
"""How a run reads a text, by `trained_by` of its model."""
