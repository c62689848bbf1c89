"""Trace a text through a run: gates, states and features after each token, and its surprisal."""

import contextlib
import functools
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxlm.data.files import replacing
from jaxlm.data.tokenizers import quoted
from jaxlm.errors import SettingError, UserError, check_at_least, reason
from jaxlm.evaluation.generation import UnknownWords, check_unicode
from jaxlm.models.registry import MODELS
from jaxlm.runs.run import Run
from jaxlm.runs.starts import Start, start_of

if TYPE_CHECKING:
    import jax

    from jaxlm.inspection.backing_off import TokenLadders
    from jaxlm.models.neural import NeuralModel
    from jaxlm.models.ngram import NGram

HIDDEN = "hidden"
"""The name of the features that the output layer reads."""
GATES, STATES = "gates", "states"
# A chunk is padded to 8, 16, 32, ... tokens, so that few programs are compiled.
SMALLEST_CHUNK = 8
NATS_PER_BIT = np.log(2.0)


@dataclass(frozen=True, eq=False)
class Trace:
    """The values that a run computes while it reads a text of T tokens, as NumPy arrays.

    Row t of `arrays` is the value after token t. Row t of the next tokens is the distribution
    before token t, from which its surprisal comes; row T comes after the last token.

    Attributes:
      run: name of the run.
      text: the text.
      tokens: the text of each token, as `Tokenizer.token_text` writes it.
      ids: id of each token, int32 [T].
      spans: offsets of each token's first character and of the character after it, int64 [T, 2].
      unknown: whether the token is `<unk>`, bool [T]; its word is text[start:end] of its span.
      surprisal: -log₂ P(token), float64 [T]; NaN where the run predicts nothing.
      entropy: entropy of the distribution in bits, float64 [T]; NaN where there is none.
      rank: place of the token by probability, 1 for the likeliest, int64 [T]; 0 where none.
      next_ids: ids of the most probable next tokens, int32 [T + 1, count]; -1 where none.
      next_probabilities: their probabilities, float64 [T + 1, count]; NaN where none.
      next_words: their texts, a list of T + 1 lists; an empty list where none.
      arrays: the recorded arrays by name, float32 [T, units]: "layers_0/forget", "layers_0/h", ...;
        "hidden", the features that the output layer reads; and the features of other layers.
      kinds: for each name in `arrays` its kind: "gates", "states", "features" or "hidden".
      ngram: the order that gave each token its probability, the count of this n-gram, its discount
        and the back-off weight, of an n-gram; None for other models.
      start: the state from which the text was read.
      note: how the text was read, in a sentence.
    """

    run: str
    text: str
    tokens: list[str]
    ids: np.ndarray
    spans: np.ndarray
    unknown: np.ndarray
    surprisal: np.ndarray
    entropy: np.ndarray
    rank: np.ndarray
    next_ids: np.ndarray
    next_probabilities: np.ndarray
    next_words: list[list[str]]
    arrays: dict[str, np.ndarray]
    kinds: dict[str, str]
    ngram: "TokenLadders | None"
    start: Start
    note: str

    def __len__(self) -> int:
        """Return the number of tokens T."""
        return len(self.ids)

    def __getitem__(self, name: str) -> np.ndarray:
        """Return the array of this name, [T, units].

        Raises:
          UserError: if the trace has no such array.
        """
        if name not in self.arrays:
            raise missing(name, self.run, self.kinds)
        return self.arrays[name]

    @property
    def layers(self) -> list[str]:
        """Names of the layers that have gates or states, such as "layers_0"."""
        found = (_layer(name) for name, kind in self.kinds.items() if kind in (GATES, STATES))
        return list(dict.fromkeys(found))

    def gates(self, layer: str) -> list[str]:
        """Return the names of the gates of a layer: `trace[f"{layer}/{gate}"]` is an array.

        Raises:
          UserError: if the run has no such layer.
        """
        return self._names(layer, GATES)

    def states(self, layer: str) -> list[str]:
        """Return the names of the states of a layer, such as h and c.

        Raises:
          UserError: if the run has no such layer.
        """
        return self._names(layer, STATES)

    def _names(self, layer: str, kind: str) -> list[str]:
        if layer not in self.layers:
            raise missing(f"{layer}/...", self.run, self.kinds)
        return [
            name.rpartition("/")[2]
            for name, found in self.kinds.items()
            if found == kind and _layer(name) == layer
        ]


def trace(
    run: Run,
    text: str,
    *,
    start: str | None = None,
    count: int = 5,
    units: Mapping[str, Sequence[int]] | None = None,
    folder: str | Path | None = None,
    chunk: int = 2048,
) -> Trace:
    """Return every gate, state and feature of a run for each token of a text, and its surprisal.

    The text is read from the state `start` on, as `jaxlm.next_words` reads a context. A run whose
    protocol scores lines on their own reads each line anew. The numbers do not depend on `chunk`.
    With `units` or `folder` the memory does not grow with the recorded arrays.

    Example:
      >>> import jaxlm
      >>> text = jaxlm.read_corpus("toy", eos=False)
      >>> model = jaxlm.LSTM(len(text.vocabulary), embedding_size=2, hidden_size=3)
      >>> run = jaxlm.fit(model, text, batching="rows", steps=2, batch_size=3, quiet=True)
      >>> trace = jaxlm.inspection.trace(run, "我 讨厌 挨打")
      >>> trace.layers, trace.gates("layers_0"), trace.states("layers_0")
      (['layers_0'], ['input', 'forget', 'cell', 'output'], ['h', 'c'])
      >>> trace["layers_0/forget"].shape
      (3, 3)

    Args:
      run: the run.
      text: the text.
      start: "fresh" or "warm"; see `jaxlm.runs.starts.start_of`. None for the default of the run.
      count: number of next tokens to keep for each position.
      units: the units to keep, by the name of the array. None for all.
      folder: a folder for the arrays, one .npy file each; the trace then has memory maps.
      chunk: largest number of tokens that the model reads in one call.
    Raises:
      UserError: for an empty text, text that is not Unicode, an unknown word if the vocabulary has
        no `<unk>`, and for `units` that the run does not have.
      SettingError: for a count or a chunk below 1, a start that the run does not have, and a folder
        that cannot be written.
    """
    reading = read(run, text, start)
    with contextlib.ExitStack() as stack:
        arrays: dict[str, Any] = {}
        pieces: list[Piece] = []
        for piece in read_pieces(run, reading, count=count, units=units, chunk=chunk):
            for name, rows in piece.arrays.items():
                if name not in arrays:
                    shape = len(reading.ids), rows.shape[1]
                    arrays[name] = (
                        np.empty(shape, np.float32)
                        if folder is None
                        else stack.enter_context(_appended(Path(folder), name, shape))
                    )
                arrays[name][piece.tokens] = rows
            pieces.append(piece._replace(arrays={}))
    if folder is not None:
        arrays = {name: np.load(_path(Path(folder), name), mmap_mode="r") for name in arrays}
    return _assembled(run, reading, pieces, arrays)


class Reading(NamedTuple):
    """A text that is cut into tokens, and how the run reads them.

    Attributes:
      text: the text.
      ids: id of each token, int32 [T].
      spans: character offsets of each token, int64 [T, 2].
      start: the state from which the model reads.
      segments: the tokens that are read from this state on: slices of [0, T).
      note: a sentence that says so.
    """

    text: str
    ids: np.ndarray
    spans: np.ndarray
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

    Args:
      run: the run.
      text: the text.
      start: "fresh", "warm", or None for the default of the run.
    Raises:
      UserError: for an empty text, text that is not Unicode, and an unknown word if the vocabulary
        has no `<unk>`.
      SettingError: for a start that the run does not have.
    """
    check_unicode(text)
    ids = run.tokenizer.encode_context(text).astype(np.int32)
    if not len(ids):
        raise UserError(f"the text {text!r} has no token to trace: give a word")
    by_lines = run.protocol.rows
    begin = start_of(run, (run.protocol.start if by_lines else None) if start is None else start)
    spans = run.tokenizer.spans(text)
    segments = _lines(text, spans) if by_lines else [slice(0, len(ids))]
    notes = [_note(run, begin, by_lines), UnknownWords(run).note(text)]
    note = "; ".join(filter(None, notes))
    return Reading(text, ids, spans, begin, segments, note)


def _lines(text: str, spans: np.ndarray) -> list[slice]:
    """Return the tokens of each line as slices; a line break belongs to the line that it ends."""
    breaks = np.flatnonzero(np.frombuffer(text.encode("utf-32-le"), np.uint32) == ord("\n"))
    line_T = np.searchsorted(breaks, spans[:, 1] - 1)
    firsts = [0, *(1 + np.flatnonzero(np.diff(line_T))).tolist(), len(spans)]
    return [slice(a, b) for a, b in itertools.pairwise(firsts)]


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
    check_at_least("count", count, 1)
    check_at_least("chunk", chunk, 1)
    count = min(count, len(run.vocabulary))
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
    keep = None if units is None else _checked_units(run, model, kinds, units)
    before, total = list(reading.start.ids), len(reading.ids)
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
            # After the last token of a line, the next line starts anew.
            end = min(row + size, segment.stop if segment.stop < total else total + 1)
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
        "rank": 1 + jnp.sum(log_probs_TV > log_prob_T1, axis=-1),
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
        variables, inputs_1T, carry, **given, mutable=list(_collections())
    )
    named = {name: array for name, _, array in _named(recorded, inputs_1T.shape)}
    return hidden_1TF, carry, named


def _collections() -> tuple[str, ...]:
    """Return the collections that models record."""
    from jaxlm.models.neural import FEATURES
    from jaxlm.models.recurrent.layer import RECORDED

    return (*RECORDED, FEATURES)


def _named(recorded: Any, shape: tuple[int, int]) -> Iterator[tuple[str, str, Any]]:
    """Yield the name, the kind and the array [T, units] of each recorded array.

    Args:
      recorded: the collections, as `apply` returns them.
      shape: (1, T). Arrays that do not begin with these axes have no row for each token, and are
        left out.
    """
    taken: set[str] = set()
    # States first: in a cell that names a gate as a state, the gate gets the longer name.
    for kind in sorted(recorded, key=lambda kind: kind != STATES):
        for path, array in _leaves(recorded[kind]):
            if array.shape[:2] == shape:
                name = "/".join(path)
                name = f"{name}_{kind}" if name in {*taken, HIDDEN} else name
                taken.add(name)
                yield name, kind, array.reshape(shape[1], -1)


def _leaves(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the path and the array of each leaf, in the order of the tree."""
    from jaxlm.models.neural import RECORD

    if isinstance(tree, Mapping):
        for key, branch in tree.items():
            # These parts of a path say where a model records, and not what.
            named = () if key in (RECORD, "recurrent") else (key,)
            yield from _leaves(branch, path + named)
    elif isinstance(tree, tuple):
        # `sow` keeps a tuple with the value of each call.
        for branch in tree:
            yield from _leaves(branch, path)
    else:
        yield path, tree


@functools.lru_cache(maxsize=8)
def _recorded_shapes(model: "NeuralModel") -> tuple[dict[str, str], dict[str, int]]:
    """Return the kind and the number of units of each array that a model records, by name."""
    import jax

    from jaxlm.models.neural import param_shapes

    kinds: dict[str, str] = {}
    widths: dict[str, int] = {}

    def shapes(params: Any, tokens_1T: Any) -> Any:
        (hidden_1TF, _), recorded = model.apply(
            {"params": params}, tokens_1T, mutable=list(_collections())
        )
        for name, kind, array in _named(recorded, tokens_1T.shape):
            kinds[name], widths[name] = kind, array.shape[-1]
        kinds[HIDDEN], widths[HIDDEN] = HIDDEN, hidden_1TF.shape[-1]
        return ()

    jax.eval_shape(shapes, param_shapes(model), np.zeros((1, SMALLEST_CHUNK), np.int32))
    return kinds, widths


def recorded_names(model: "NeuralModel") -> tuple[list[str], dict[str, str]]:
    """Return the names of the arrays that a model records, in order, and the kind of each.

    The arrays of a layer come in the order in which its cell names gates and states.
    """
    kinds, _ = _recorded_shapes(model)
    cell = getattr(model, "cell", None)
    order = [] if cell is None else [*cell.gates, *cell.carry]

    def place(name: str) -> Any:
        last = name.rpartition("/")[2]
        numbered = [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
        layer = [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", _layer(name))]
        known = order.index(last) if last in order else len(order)
        return name == HIDDEN, layer, known, numbered

    names = sorted(kinds, key=place)
    return names, {name: kinds[name] for name in names}


def _checked_units(
    run: Run, model: "NeuralModel", kinds: dict[str, str], units: Mapping[str, Sequence[int]]
) -> dict[str, np.ndarray]:
    """Return `units` as arrays.

    Raises:
      UserError: for a name or a unit that the run does not have.
    """
    _, widths = _recorded_shapes(model)
    checked = {}
    for name, wanted in units.items():
        if name not in kinds:
            raise missing(name, run.name, kinds)
        index = np.asarray(wanted, np.int32).reshape(-1)
        for unit in index[(index < 0) | (index >= widths[name])][:1].tolist():
            last = widths[name] - 1
            raise UserError(f"`units`: {name} of {run.name} has the units 0 to {last}, not {unit}")
        checked[name] = index
    return checked


def missing(name: str, run: str, kinds: Mapping[str, str]) -> UserError:
    """Return the error for an array that a trace of `run` does not have.

    Args:
      name: name of the array.
      run: name of the run.
      kinds: the arrays that the run has, with their kinds.
    """
    if any(kind in (GATES, STATES) for kind in kinds.values()):
        return UserError(f"{run} records no {name!r}; it records {', '.join(kinds)}")
    has = f"; it records {', '.join(kinds)}" if kinds else ""
    return UserError(
        f"{run} has no gates and no states, so no {name!r}{has}. Runs of these models have gates: "
        f"{', '.join(models_with_gates())}"
    )


def models_with_gates() -> list[str]:
    """Return the names of the registered models that have gates.

    Example:
      >>> models_with_gates()[:3]
      ['rnn', 'gru', 'lstm']
    """
    return [
        name
        for name, entry in MODELS.items()
        if entry.cell is not None or hasattr(entry.kind, "cell")
    ]


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
        end = segment.stop if segment.stop < total else total + 1
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


def _ladders(run: Run, reading: Reading) -> "TokenLadders":
    """Return the order that answered for each token of a text, with its count."""
    from jaxlm.inspection.backing_off import TokenLadders, token_ladders

    parts = [
        token_ladders(run, reading.ids[segment], start=reading.start.name)
        for segment in reading.segments
    ]
    return TokenLadders(
        order=np.concatenate([part.order for part in parts]),
        count=np.concatenate([part.count for part in parts]),
        discount=np.concatenate([part.discount for part in parts]),
        backoff_weight=np.concatenate([part.backoff_weight for part in parts]),
        note=parts[0].note,
    )


PIECES: dict[str, Any] = {"gradient": _neural_pieces, "counting": _ngram_pieces}
"""How a run reads a text, by `trained_by` of its model."""
LADDERS = {"counting": _ladders}
"""How a run says which order answered, by `trained_by` of its model."""


def _assembled(
    run: Run, reading: Reading, pieces: Sequence[Piece], arrays: dict[str, np.ndarray]
) -> Trace:
    """Return the trace of a text from its pieces, whose arrays are in `arrays`."""
    total, width = len(reading.ids), pieces[0].next_ids.shape[1]
    nats = np.full((2, total + 1), np.nan)
    rank = np.zeros(total + 1, np.int64)
    next_ids = np.full((total + 1, width), -1, np.int32)
    next_probabilities = np.full((total + 1, width), np.nan)
    kinds: dict[str, str] = {}
    for piece in pieces:
        rows = piece.predictions
        nats[0, rows], nats[1, rows], rank[rows] = piece.surprisal, piece.entropy, piece.rank
        next_ids[rows], next_probabilities[rows] = piece.next_ids, piece.next_probabilities
        kinds = {name: piece.kinds[name] for name in piece.kinds if name in arrays}
    # The sum makes a negative zero positive.
    bits = nats / NATS_PER_BIT + 0.0
    texts = [run.tokenizer.token_text(index) for index in range(len(run.vocabulary))]
    unk_id = run.vocabulary.unk_id
    ladders = LADDERS.get(run.model.trained_by)
    ngram = ladders(run, reading) if ladders else None
    return Trace(
        run=run.name,
        text=reading.text,
        tokens=[texts[index] for index in reading.ids.tolist()],
        ids=reading.ids,
        spans=reading.spans,
        unknown=np.zeros(total, bool) if unk_id is None else reading.ids == unk_id,
        surprisal=bits[0, :total],
        entropy=bits[1, :total],
        rank=rank[:total],
        next_ids=next_ids,
        next_probabilities=next_probabilities,
        next_words=[[texts[index] for index in row if index >= 0] for row in next_ids.tolist()],
        arrays={name: arrays[name] for name in kinds},
        kinds=kinds,
        ngram=ngram,
        start=reading.start,
        note="; ".join(filter(None, [reading.note, ngram.note if ngram else ""])),
    )


def _layer(name: str) -> str:
    """Return the part of an array's name that names its layer."""
    return name.rpartition("/")[0]


def _path(folder: Path, name: str) -> Path:
    """Return the file of an array."""
    return folder / f"{name}.npy"


class _Appended:
    """An array [T, units] in a .npy file, whose rows are written in order."""

    def __init__(self, file: Any, shape: tuple[int, int]) -> None:
        self.file, self.rows = file, 0
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)

    def __setitem__(self, rows: slice, values: np.ndarray) -> None:
        assert rows.start == self.rows, "rows are written in order"
        self.rows = rows.stop
        self.file.write(np.ascontiguousarray(values, "<f4").tobytes())


@contextlib.contextmanager
def _appended(folder: Path, name: str, shape: tuple[int, int]) -> Iterator[_Appended]:
    """Yield an array that is written to a file row by row; an error leaves no file.

    Raises:
      SettingError: if the file cannot be written.
    """
    path = _path(folder, name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial, open(partial, "wb") as file:
            yield _Appended(file, shape)
    except OSError as error:
        raise SettingError("folder", folder, f"cannot be written: {reason(error)}") from None
