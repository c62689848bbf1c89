"""Trace a text through a run: gates, states and features after each token, and its surprisal."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlm.data.files import replacing
from jaxlm.errors import SettingError, reason
from jaxlm.inspection.arguments import as_folder, in_a_line
from jaxlm.inspection.pieces import Piece, Reading, read, read_pieces
from jaxlm.inspection.recorded import (
    GATES,
    HIDDEN,
    STATES,
    layer_of,
    missing,
    models_with_gates,
    recorded_names,
)
from jaxlm.runs.run import Run
from jaxlm.runs.starts import Start

if TYPE_CHECKING:
    from jaxlm.inspection.backing_off import TokenLadders

__all__ = [
    "GATES",
    "HIDDEN",
    "STATES",
    "Reading",
    "Trace",
    "models_with_gates",
    "read",
    "recorded_names",
    "trace",
]

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
      skipped: offsets of the words or characters that the run cannot read, because its vocabulary
        lacks them and has no `<unk>`, int64 [N, 2]. The model reads on without them; no other
        array has a row for them.
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
    skipped: np.ndarray
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

    def __repr__(self) -> str:
        """Return the run, the beginning of the text, and the shapes of the arrays."""
        shapes = [f"{name} {list(array.shape)}" for name, array in self.arrays.items()]
        lines = [f"Trace of {in_a_line(self.text)!r} by {self.run}: {len(self)} tokens"]
        lines += [f"arrays: {', '.join(shapes)}"] if shapes else []
        lines += ["ngram: order, count, discount, backoff_weight"] if self.ngram else []
        return "\n  ".join(lines)

    @property
    def layers(self) -> list[str]:
        """Names of the layers that have gates or states, such as "layers_0"."""
        found = (layer_of(name) for name, kind in self.kinds.items() if kind in (GATES, STATES))
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
            raise missing(layer, self.run, self.kinds)
        return [
            name.rpartition("/")[2]
            for name, found in self.kinds.items()
            if found == kind and layer_of(name) == layer
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
    counts: bool = True,
) -> Trace:
    """Return every gate, state and feature of a run for each token of a text, and its surprisal.

    The text is read from the state `start` on, as `jaxlm.next_words` reads a context. A run whose
    protocol scores lines on their own reads each line anew. Unknown words are read as `<unk>`; a
    run whose vocabulary has no `<unk>` reads the text without them. The numbers do not depend on
    `chunk`. With `units` or `folder` the memory does not grow with the recorded arrays.

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
      >>> print(jaxlm.inspection.trace(run, "我", units={"hidden": [0]}))
      Trace of '我' by LSTM: 1 tokens
        arrays: hidden [1, 1]

    Args:
      run: the run.
      text: the text.
      start: "fresh" or "warm"; see `jaxlm.runs.starts.start_of`. None for the default of the run.
      count: number of next tokens to keep for each position.
      units: the units to keep, by the name of the array. None for all.
      folder: a folder for the arrays, one .npy file each; the trace then has memory maps.
      chunk: largest number of tokens that the model reads in one call.
      counts: whether to count the training text of an n-gram again; see `token_ladders`.
    Raises:
      UserError: for a `run` that is no Run, an empty text, text that is not Unicode, a text of
        which the run can read nothing, and for `units` that the run does not have.
      SettingError: for a count or a chunk below 1, `units` that are no dict of whole numbers, a
        start that the run does not have, and a folder that cannot be written.
    """
    place = None if folder is None else as_folder(folder)
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
                        if place is None
                        else stack.enter_context(_appended(place, name, shape))
                    )
                arrays[name][piece.tokens] = rows
            pieces.append(piece._replace(arrays={}))
    if place is not None:
        arrays = {name: np.load(_path(place, name), mmap_mode="r") for name in arrays}
    return _assembled(run, reading, pieces, arrays, counts)


def _ladders(run: Run, reading: Reading, counts: bool) -> "TokenLadders":
    """Return the order that answered for each token of a text, and with `counts` its count."""
    from jaxlm.inspection.backing_off import TokenLadders, token_ladders

    parts = [
        token_ladders(run, reading.ids[segment], start=reading.start.name, counts=counts)
        for segment in reading.segments
    ]
    return TokenLadders(
        order=np.concatenate([part.order for part in parts]),
        count=np.concatenate([part.count for part in parts]),
        discount=np.concatenate([part.discount for part in parts]),
        backoff_weight=np.concatenate([part.backoff_weight for part in parts]),
        note=parts[0].note,
    )


LADDERS = {"counting": _ladders}
"""How a run says which order answered, by `trained_by` of its model."""


def _assembled(
    run: Run,
    reading: Reading,
    pieces: Sequence[Piece],
    arrays: dict[str, np.ndarray],
    counts: bool,
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
    ngram = ladders(run, reading, counts) if ladders else None
    return Trace(
        run=run.name,
        text=reading.text,
        tokens=[texts[index] for index in reading.ids.tolist()],
        ids=reading.ids,
        spans=reading.spans,
        skipped=reading.skipped,
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
