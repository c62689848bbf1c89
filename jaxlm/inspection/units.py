"""Find the units of a model that follow a property of the text, such as being inside quotes."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxlm.errors import UserError, choose
from jaxlm.inspection.arguments import described
from jaxlm.inspection.pieces import Piece, Reading, read, read_pieces
from jaxlm.inspection.recorded import STATES
from jaxlm.ranges import Size, checked
from jaxlm.runs.run import Run

Feature = Callable[[str], Any]
"""feature(text) returns a number for each character of the text."""
OPENING_QUOTES, CLOSING_QUOTES = "“「『«", "”」』»"
OPENING_BRACKETS, CLOSING_BRACKETS = "([{（［｛【《〈", ")]}）］｝】》〉"
COMMAS = ",，、"


class UnitScore(NamedTuple):
    """The correlation of a unit with a feature of the text."""

    name: str
    """Name of the array in a trace, such as "layers_1/c"."""
    unit: int
    """Index of the unit in this array."""
    correlation: float
    """Pearson's correlation, from -1 to 1; 0 for a unit that never changes."""


def find_units(
    run: Run,
    text: str,
    feature: str | Feature,
    *,
    start: str | None = None,
    top: int = 20,
    chunk: int = 2048,
) -> list[UnitScore]:
    """Return the units whose values follow a feature of the text most closely.

        r = Σ_t (x_t - x̄) (f_t - f̄) / √(Σ_t (x_t - x̄)² Σ_t (f_t - f̄)²)

    where x_t is the value of a unit after token t, and f_t the feature of the token's last
    character. Every gate, state and feature of every layer takes part. The units with the largest
    |r| come first. Two arrays that are equal are listed once. The sums are taken in float64 while
    the text is read, so the memory does not grow with the text.

    Example:
      >>> import jaxlm
      >>> text = jaxlm.read_corpus("toy", eos=False)
      >>> model = jaxlm.LSTM(len(text.vocabulary), embedding_size=2, hidden_size=3)
      >>> run = jaxlm.fit(model, text, batching="rows", steps=2, batch_size=3, quiet=True)
      >>> scores = jaxlm.inspection.find_units(run, "我 讨厌 挨打", "position in line", top=2)
      >>> [abs(score.correlation) <= 1 for score in scores]
      [True, True]

    Args:
      run: the run.
      text: the text.
      feature: a name in FEATURES, or a function of the text that returns one number for each
        character.
      start: the state from which the text is read; see `trace`.
      top: number of units to return.
      chunk: largest number of tokens that the model reads in one call.
    Raises:
      UserError: for a run that records no units, an unknown feature, a feature that is not one
        finite number for each character, a feature that is the same at every token, and in the
        cases of `trace`.
      SettingError: for a `top` below 1, and in the cases of `trace`.
    """
    top = checked("top", top, Size)
    if isinstance(feature, str):
        name, function = feature, choose(FEATURES, feature, "feature")
    elif callable(feature):
        name, function = getattr(feature, "__name__", "feature"), feature
    else:
        raise UserError(
            f"`feature` is {described(feature)}: give a function of the text, or a name: "
            f"{', '.join(FEATURES)}"
        )
    found = correlations(run, text, {name: function}, start=start, chunk=chunk)
    if name not in found:
        raise UserError(
            f"the feature {name!r} has the same value at every token of the text, so no unit can "
            f"follow it: give a text in which it changes"
        )
    return ranked(found[name], top)


def correlations(
    run: Run,
    text: str,
    features: Mapping[str, Feature],
    *,
    start: str | None = None,
    chunk: int = 2048,
) -> dict[str, dict[str, np.ndarray]]:
    """Return Pearson's correlation of every unit with each feature, in one pass over the text.

    The result has an array [units] for each feature that changes in the text, and each array of the
    trace. A unit that never changes has the correlation 0.

    Args:
      run: the run.
      text: the text.
      features: functions of the text by name; see `find_units`.
      start: the state from which the text is read; see `trace`.
      chunk: largest number of tokens that the model reads in one call.
    """
    reading = read(run, text, start)
    centred, names = _centred(reading, features)
    sums: dict[str, _Sums] = {}
    equal: set[tuple[str, str]] = set()
    # With the default count, `trace` and this function share a compiled program.
    for piece in read_pieces(run, reading, chunk=chunk):
        if not piece.arrays:
            raise UserError(
                f"{run.name} was trained by {run.model.trained_by} and has no units: find units in "
                f"a run that was trained by gradient"
            )
        if piece.tokens.start == piece.tokens.stop:
            # The model has read the start token alone.
            continue
        if not sums:
            sums = {name: _Sums(rows[0], len(names)) for name, rows in piece.arrays.items()}
            equal = set(itertools.combinations(_by_preference(piece), 2))
        for name, rows in piece.arrays.items():
            sums[name].add(rows, centred[:, piece.tokens])
        equal = {
            (first, second)
            for first, second in equal
            if np.array_equal(piece.arrays[first], piece.arrays[second])
        }
    repeated = {second for _, second in equal}
    kept = {name: total.correlations(centred) for name, total in sums.items()}
    return {
        feature: {name: values[index] for name, values in kept.items() if name not in repeated}
        for index, feature in enumerate(names)
    }


def ranked(by_array: Mapping[str, np.ndarray], top: int) -> list[UnitScore]:
    """Return the `top` units with the largest |correlation|, from `correlations` of one feature."""
    scores = [
        UnitScore(name, unit, value)
        for name, values in by_array.items()
        for unit, value in enumerate(values.tolist())
    ]
    return sorted(scores, key=lambda score: -abs(score.correlation))[:top]


def _by_preference(piece: Piece) -> list[str]:
    """Return the names of the arrays, states first.

    Of equal arrays, the first is listed: the gate of an Elman layer is its state, and the features
    that the output layer reads are often the state of the last layer.
    """
    return sorted(piece.arrays, key=lambda name: piece.kinds[name] != STATES)


def _centred(reading: Reading, features: Mapping[str, Feature]) -> tuple[np.ndarray, list[str]]:
    """Return the features of each token minus their means, float64 [F, T], and their names.

    Features that are the same at every token are left out.
    """
    last_T = reading.spans[:, 1] - 1
    rows, names = [], []
    for name, function in features.items():
        returned = function(reading.text)
        try:
            values = np.asarray(returned, np.float64)
        except (TypeError, ValueError):
            raise UserError(
                f"the feature {name!r} returned {described(returned)} that is no array of numbers: "
                f"return one number for each character"
            ) from None
        if values.shape != (len(reading.text),):
            raise UserError(
                f"the feature {name!r} returned an array of shape {values.shape} for a text of "
                f"{len(reading.text)} characters: return one number for each character"
            )
        if not np.isfinite(values).all():
            raise UserError(f"the feature {name!r} returned a value that is not finite")
        f_T = values[last_T]
        if (f_T != f_T[0]).any():
            # Scaled by a power of 2, which rounds nothing, so that no square overflows.
            f_T = np.ldexp(f_T, -np.frexp(np.abs(f_T).max())[1])
            rows.append(f_T - f_T.mean())
            names.append(name)
    return np.array(rows).reshape(len(rows), len(last_T)), names


class _Sums:
    """The sums over time that a correlation needs, for each unit of an array.

    Values are taken relative to the first, so that a unit that hardly changes loses no digits, and
    a unit that never changes has the variance 0 exactly.
    """

    def __init__(self, first_U: np.ndarray, features: int) -> None:
        self.first_U = first_U.astype(np.float64)
        self.count = 0
        self.x_U = np.zeros(len(first_U))
        self.squares_U = np.zeros(len(first_U))
        self.products_FU = np.zeros((features, len(first_U)))

    def add(self, rows_TU: np.ndarray, centred_FT: np.ndarray) -> None:
        x_TU = rows_TU - self.first_U
        self.count += len(x_TU)
        self.x_U += x_TU.sum(axis=0)
        self.squares_U += np.einsum("tu,tu->u", x_TU, x_TU)
        self.products_FU += centred_FT @ x_TU

    def correlations(self, centred_FT: np.ndarray) -> np.ndarray:
        """Return the correlation of each feature with each unit, [F, U]."""
        variance_U = np.maximum(self.squares_U - self.x_U**2 / self.count, 0)
        scale_FU = np.sqrt(np.outer(np.einsum("ft,ft->f", centred_FT, centred_FT), variance_U))
        correlation_FU = np.divide(
            self.products_FU, scale_FU, out=np.zeros_like(scale_FU), where=scale_FU > 0
        )
        return np.clip(correlation_FU, -1, 1)


def _of_characters(is_true: Callable[[str], bool]) -> Feature:
    """Return the feature that is 1 at the characters for which `is_true`, and else 0."""

    def feature(text: str) -> np.ndarray:
        return np.fromiter(map(is_true, text), np.float64, len(text))

    return feature


def inside_quotes(text: str) -> np.ndarray:
    """Return 1 after an opening quote up to the character before the closing quote, else 0.

    A straight double quote opens if none is open, and closes otherwise. A blank line closes all
    quotes, so that a forgotten mark does not turn the rest of the text around.

    Example:
      >>> inside_quotes('a "b" c').tolist()
      [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    """
    values, is_open, previous = np.zeros(len(text)), False, ""
    for index, character in enumerate(text):
        if character == '"':
            is_open = not is_open
        elif character in OPENING_QUOTES:
            is_open = True
        elif character in CLOSING_QUOTES or (character == previous == "\n"):
            is_open = False
        values[index], previous = is_open, character
    return values


def bracket_depth(text: str) -> np.ndarray:
    """Return how many brackets are open after each character.

    Example:
      >>> bracket_depth("f(g[0])").tolist()
      [0.0, 1.0, 1.0, 2.0, 2.0, 1.0, 0.0]
    """
    values, depth = np.zeros(len(text)), 0
    for index, character in enumerate(text):
        depth += character in OPENING_BRACKETS
        depth = max(0, depth - (character in CLOSING_BRACKETS))
        values[index] = depth
    return values


def position_in_line(text: str) -> np.ndarray:
    """Return how many characters each character stands after the line break before it.

    Example:
      >>> position_in_line("ab\\nc").tolist()
      [1.0, 2.0, 0.0, 1.0]
    """
    is_break = np.fromiter((character == "\n" for character in text), bool, len(text))
    place = np.arange(len(text))
    last_break = np.maximum.accumulate(np.where(is_break, place, -1)) if text else place
    return (place - last_break).astype(np.float64)


def after_a_comma(text: str) -> np.ndarray:
    """Return 1 at a comma and at the blanks after it, else 0.

    Example:
      >>> after_a_comma("a, b").tolist()
      [0.0, 1.0, 1.0, 0.0]
    """
    values, value = np.zeros(len(text)), 0.0
    for index, character in enumerate(text):
        if not character.isspace():
            value = float(character in COMMAS)
        values[index] = value
    return values


def start_of_a_word(text: str) -> np.ndarray:
    """Return 1 at the first letter or digit of each word, else 0.

    Example:
      >>> start_of_a_word("to be").tolist()
      [1.0, 0.0, 0.0, 1.0, 0.0]
    """
    inside = _of_characters(str.isalnum)(text)
    before = np.concatenate([[0.0], inside])[: len(inside)]
    return inside * (1 - before)


FEATURES: dict[str, Feature] = {
    "inside quotes": inside_quotes,
    "bracket depth": bracket_depth,
    "position in line": position_in_line,
    "after a comma": after_a_comma,
    "upper case": _of_characters(str.isupper),
    "inside a word": _of_characters(str.isalnum),
    "start of a word": start_of_a_word,
}
"""Features of a text by name: functions that return one number for each character.

A value describes the text up to and including its character, as a state of a model does."""
