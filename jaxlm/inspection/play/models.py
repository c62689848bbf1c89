"""Models as the page reads them: settings, arrays, tokenizer, and the state before the text."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax
import numpy as np

from jaxlm.data.tokenizers import BPE_WORDS, BPE_WORDS_UNTIL_0_1, Tokenizer
from jaxlm.errors import UserError
from jaxlm.inspection.play.packing import packed, packed_ids
from jaxlm.models.cells import (
    Cell,
    ElmanCell,
    GRUCell,
    LSTMCell,
    MinGRUCell,
    MinLSTMCell,
    ParaGRUCell,
    ParaLSTMCell,
)
from jaxlm.models.neural import NeuralModel
from jaxlm.models.ngram import NGram
from jaxlm.models.nplm import NPLM
from jaxlm.models.recurrent.model import LearnedStart, Recurrent
from jaxlm.ngrams.tables import Tables
from jaxlm.runs.run import Run
from jaxlm.runs.starts import Start, start_of

PLAYABLE = (
    "it runs ngram, nplm, rnn, gru, lstm, mingru, minlstm, paragru and paralstm, with a full "
    "softmax"
)
# The cells that models.js has, by their name there.
CELL_NAMES: dict[type[Cell], str] = {
    ElmanCell: "rnn",
    GRUCell: "gru",
    LSTMCell: "lstm",
    MinGRUCell: "mingru",
    MinLSTMCell: "minlstm",
    ParaGRUCell: "paragru",
    ParaLSTMCell: "paralstm",
}
# The settings of the output layer with which it is logits of one matrix and a bias.
FULL = ("full", "sampled")


@dataclass(frozen=True)
class Described:
    """A model as the page reads it, without its tokenizer.

    Attributes:
      settings: JSON values.
      arrays: packed arrays by name.
    """

    settings: dict[str, Any]
    arrays: dict[str, dict[str, Any]]


def describe(run: Run, dtype: str = "float16", start: str | None = None) -> Described:
    """Return the model of a run as the page reads it.

    Args:
      run: the run.
      dtype: type of the weights in the page, float16 or float32.
      start: the state before the text: "fresh", "warm", or None for the default of the run.
    Raises:
      UserError: for a model that the page cannot run.
      SettingError: for a start that the run does not have.
    """
    describer = _describer(run)
    begin = start_of(run, start)
    described = describer(run, begin, dtype)
    common = {
        "vocab_size": run.model.vocab_size,
        "start_id": run.model.start_id,
    }
    before = {"name": begin.name, "ids": list(begin.ids)}
    settings = described.settings
    return Described(
        common | settings | {"start": before | settings.get("start", {})}, described.arrays
    )


Describer = Callable[[Run, Start, str], Described]


def _describer(run: Run) -> Describer:
    """Return the function that describes the model of `run`.

    A class of a user's own is run by the page if it inherits its mathematics.

    Raises:
      UserError: if the page does not have the mathematics of the model.
    """
    model: Any = run.model
    if isinstance(model, NGram):
        return _ngram
    kind = type(model).__name__
    describer = DESCRIBERS.get(type(model).encode) if isinstance(model, NeuralModel) else None
    if isinstance(model, Recurrent):
        kind += f" with {model.cell}"
        own_layer = type(model).make_layer is not Recurrent.make_layer
        if own_layer or type(model.cell) not in CELL_NAMES:
            describer = None
    if describer is None or model.overrides_logits:
        raise UserError(f"the page cannot run {run.name}, which is a {kind}: {PLAYABLE}")
    if model.softmax not in FULL or model.adaptive_input:
        raise UserError(
            f"the page cannot run {run.name}, whose softmax is {model.softmax}: {PLAYABLE}"
        )
    return describer


def _weights(run: Run, dtype: str) -> dict[str, dict[str, Any]]:
    """Return every parameter, packed, by its path."""
    flat = flax.traverse_util.flatten_dict(run.params, sep="/")
    return {path: packed(np.asarray(values, np.float32), dtype) for path, values in flat.items()}


def _recurrent(run: Run, begin: Start, dtype: str) -> Described:
    model: Any = run.model
    arrays = _weights(run, dtype)
    carry = begin.carry
    if model.learned_start:
        # The page reads these arrays as the state before the text.
        arrays = {path: array for path, array in arrays.items() if not path.startswith("start/")}
        if carry is None:
            carry = LearnedStart(model.sizes, model.cell.carry).apply(
                {"params": run.params["start"]}, model.initial_carry(1)
            )
    if carry is not None:
        for index, layer in enumerate(carry):
            for name, state_1H in zip(model.cell.carry, layer, strict=True):
                # The state is small, and every later state follows from it.
                arrays[f"start/{index}/{name}"] = packed(np.asarray(state_1H)[0], "float32")
    settings = {
        "kind": "recurrent",
        "cell": CELL_NAMES[type(model.cell)],
        "layers": list(model.sizes),
        "embedding_size": model.embedding_size,
        "residual": model.residual,
        "layer_norm": model.layer_norm,
        "tied": model.tied,
    }
    return Described(settings, arrays)


def _nplm(run: Run, begin: Start, dtype: str) -> Described:
    model: Any = run.model
    names = ("n_step", "embedding_size", "hidden_size", "num_layers", "residual", "layer_norm")
    settings = {name: getattr(model, name) for name in (*names, "direct", "tied")}
    carry = model.initial_carry(1) if begin.carry is None else begin.carry
    # Without a start token nothing stands for the words before the text, so it must have n words.
    missing = 0 if begin.ids else model.n_step
    start = {"carry": np.asarray(carry)[0].tolist(), "missing": missing}
    return Described(settings | {"kind": "nplm", "start": start}, _weights(run, dtype))


def _ngram(run: Run, begin: Start, dtype: str) -> Described:
    model: Any = run.model
    tables: Tables = run.params
    if sum(tables.sizes) > MOST_NGRAMS:
        raise UserError(
            f"{run.name} has {sum(tables.sizes):,} n-grams, and a browser opens pages of at most "
            f"{MOST_NGRAMS:,}: prune it, or leave it out"
        )
    base = tables.vocab_size + 1
    # Probabilities of single words may be too small for float16.
    arrays = {"probabilities-1": packed(tables.probabilities[0], "float32")}
    for order, keys in enumerate(tables.keys, start=2):
        prefixes = base if order == 2 else len(tables.keys[order - 3])
        followers = np.bincount(keys // base, minlength=prefixes)
        arrays[f"followers-{order}"] = packed_ids(followers)
        arrays[f"words-{order}"] = packed_ids(keys % base)
        arrays[f"probabilities-{order}"] = packed(tables.probabilities[order - 1], dtype)
    for order, weights in enumerate(tables.backoffs, start=1):
        arrays[f"backoffs-{order}"] = packed(weights, dtype)
    carry = model.initial_carry(1) if begin.carry is None else begin.carry
    settings = {
        "kind": "ngram",
        "order": tables.order,
        "stream": model.stream,
        "smoothing": model.smoothing,
        "start": {"carry": np.asarray(carry)[0].tolist()},
    }
    return Described(settings, arrays)


MOST_NGRAMS = 30_000_000
"""The most n-grams of a run that are packed. The page has two bytes or more for each of them."""

# How a neural model is described, by the method that computes its features.
DESCRIBERS: dict[Any, Describer] = {Recurrent.encode: _recurrent, NPLM.encode: _nplm}


def describe_tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return a tokenizer as the page reads it.

    Raises:
      UserError: for a tokenizer that the page does not have.
    """
    vocabulary = tokenizer.vocabulary
    if tokenizer.name not in TOKENIZER_STATES:
        raise UserError(
            f"the page cannot cut text as the tokenizer {tokenizer.name!r} does: it has "
            f"{', '.join(TOKENIZER_STATES)}"
        )
    return {
        "kind": tokenizer.name,
        "unit": tokenizer.unit,
        "unk": vocabulary.unk,
        "start": vocabulary.start,
        "tokens": list(vocabulary.tokens),
    } | TOKENIZER_STATES[tokenizer.name](tokenizer)


def _state(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the arguments of the tokenizer's constructor."""
    return tokenizer.state()


def _bpe_state(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the merges of a BPE model, and the pattern that cuts text before they apply.

    Raises:
      UserError: if the model cuts text in another way than those that jaxlm trains.
    """
    model = json.loads(tokenizer.state()["model"])
    steps = (model["pre_tokenizer"] or {}).get("pretokenizers") or []
    pattern = steps[0].get("pattern") if steps else None
    known = [{"Regex": words} for words in (BPE_WORDS, BPE_WORDS_UNTIL_0_1)]
    if model["normalizer"] or pattern not in known:
        raise UserError("the page reads only the BPE models that jaxlm trains")
    merges = model["model"]["merges"]
    # Older versions of `tokenizers` write a merge as one text.
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    return {"merges": pairs, "pattern": pattern["Regex"]}


TOKENIZER_STATES: dict[str, Callable[[Tokenizer], dict[str, Any]]] = {
    "words": _state,
    "chars": _state,
    "bytes": _state,
    "bpe": _bpe_state,
}
"""What the page needs of each tokenizer besides its vocabulary."""
