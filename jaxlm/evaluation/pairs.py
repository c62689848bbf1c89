"""Minimal pairs: whether a run gives the good sentence of a pair the better score."""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxlm.data.columns import TABLE_ENDINGS, records, table_ending
from jaxlm.data.splitting import NONE, check_split, split_words
from jaxlm.errors import SettingError, UserError, choose
from jaxlm.evaluation.perplexity import line_carry
from jaxlm.evaluation.scoring import Scorer
from jaxlm.evaluation.sentences import run_names
from jaxlm.evaluation.tables import Columns
from jaxlm.runs.protocol import WARM
from jaxlm.runs.run import Run
from jaxlm.runs.starts import by_lines

ALPHA = 0.8
ALL = "pairs"
"""The paradigm of pairs that name none."""
_SHOWN = 40


class Pair(NamedTuple):
    """A good and a bad sentence, and the paradigm and the phenomenon that they belong to."""

    good: str
    bad: str
    paradigm: str = ALL
    phenomenon: str = ""


@dataclass(frozen=True)
class Fields:
    """Names of the columns of a file of pairs. The defaults are the names of BLiMP.

    good: the good sentence. bad: the bad sentence. group: the paradigm; None for UID, or for the
    name of the file if it has no UID. phenomenon: the group of paradigms; None for linguistics_term
    if the file has it.
    """

    good: str = "sentence_good"
    bad: str = "sentence_bad"
    group: str | None = None
    phenomenon: str | None = None


@dataclass(frozen=True)
class PairScores:
    """Scores of several runs on minimal pairs.

    Attributes:
      pairs: the pairs.
      names: the names of the runs.
      good: scores of the good sentences, float64 [runs, pairs].
      bad: scores of the bad sentences, float64 [runs, pairs].
      words: scored tokens of both sentences without the ends of the lines, int64 [runs, pairs].
      unknown: the number of these tokens that are `<unk>`, int64 [runs, pairs].
      protocols: a sentence for each run that says what was counted.
    """

    pairs: list[Pair]
    names: list[str]
    good: np.ndarray
    bad: np.ndarray
    words: np.ndarray
    unknown: np.ndarray
    protocols: list[str]

    @property
    def points(self) -> np.ndarray:
        """1 where the good sentence has the better score, 0.5 for a tie, else 0; [runs, pairs]."""
        return np.where(self.good == self.bad, 0.5, np.where(self.good > self.bad, 1.0, 0.0))

    @property
    def ties(self) -> dict[str, int]:
        """The number of ties of each run."""
        counts = (self.good == self.bad).sum(1)
        return dict(zip(self.names, counts.tolist(), strict=True))

    @property
    def accuracy(self) -> dict[str, float]:
        """The accuracy of each run in percent: the mean over the paradigms, as BLiMP counts."""
        points = [_mean_by(self.points[run], self._paradigms()) for run in range(len(self.names))]
        return dict(zip(self.names, map(_mean, points), strict=True))

    @property
    def columns(self) -> Columns:
        """A row for each pair: its sentences, and both scores and the point of each run."""
        columns: Columns = {
            "phenomenon": [pair.phenomenon for pair in self.pairs],
            "paradigm": [pair.paradigm for pair in self.pairs],
            "good": [pair.good for pair in self.pairs],
            "bad": [pair.bad for pair in self.pairs],
        }
        if not any(columns["phenomenon"]):
            del columns["phenomenon"]
        for run, name in enumerate(self.names):
            end = f"_{name}" if len(self.names) > 1 else ""
            columns[f"score_good{end}"] = self.good[run].tolist()
            columns[f"score_bad{end}"] = self.bad[run].tolist()
            columns[f"point{end}"] = self.points[run].tolist()
        return columns

    def by_paradigm(self) -> Columns:
        """Return the accuracy of each paradigm in percent, and the share of unknown words.

        Returns:
          phenomenon, paradigm and pairs; then for each run accuracy, ties and unknown (percent).
          With several runs the name of the run follows the name of the column.
        """
        groups = self._paradigms()
        columns: Columns = {
            "phenomenon": [phenomenon for phenomenon, _ in groups],
            "paradigm": [paradigm for _, paradigm in groups],
            "pairs": [len(rows) for rows in groups.values()],
        }
        for run, end in self._ends():
            columns[f"accuracy{end}"] = _mean_by(self.points[run], groups)
            columns[f"ties{end}"] = [
                int((self.good[run, rows] == self.bad[run, rows]).sum()) for rows in groups.values()
            ]
            columns[f"unknown{end}"] = self._unknown(run, groups.values())
        return columns

    def by_phenomenon(self) -> Columns:
        """Return `by_paradigm` by phenomenon: the mean accuracy of its paradigms."""
        table, names = self.by_paradigm(), dict.fromkeys(pair.phenomenon for pair in self.pairs)
        at = [[i for i, known in enumerate(table["phenomenon"]) if known == name] for name in names]
        rows = {name: [] for name in names}  # type: dict[str, list[int]]
        for index, pair in enumerate(self.pairs):
            rows[pair.phenomenon].append(index)
        columns: Columns = {
            "phenomenon": list(names),
            "paradigms": [len(places) for places in at],
            "pairs": [len(indices) for indices in rows.values()],
        }
        for run, end in self._ends():
            accuracy, ties = table[f"accuracy{end}"], table[f"ties{end}"]
            columns[f"accuracy{end}"] = [_mean([accuracy[i] for i in places]) for places in at]
            columns[f"ties{end}"] = [sum(ties[i] for i in places) for places in at]
            columns[f"unknown{end}"] = self._unknown(run, map(np.array, rows.values()))
        return columns

    def unknown_share(self) -> dict[str, float]:
        """Return the share of unknown words of each run in all pairs, in percent."""
        every = [np.arange(len(self.pairs))]
        return {name: self._unknown(run, every)[0] for run, name in enumerate(self.names)}

    def _ends(self) -> list[tuple[int, str]]:
        """Return the index of each run, and how the names of its columns end."""
        several = len(self.names) > 1
        return [(run, f"_{name}" if several else "") for run, name in enumerate(self.names)]

    def _unknown(self, run: int, groups: Iterable[np.ndarray]) -> list[float]:
        return [
            100 * float(self.unknown[run, rows].sum()) / max(1, int(self.words[run, rows].sum()))
            for rows in groups
        ]

    def _paradigms(self) -> dict[tuple[str, str], np.ndarray]:
        """Return the indices of the pairs of each (phenomenon, paradigm), in the order given."""
        groups: dict[tuple[str, str], list[int]] = {}
        for index, pair in enumerate(self.pairs):
            groups.setdefault((pair.phenomenon, pair.paradigm), []).append(index)
        return {name: np.array(rows) for name, rows in groups.items()}


def _mean_by(points: np.ndarray, groups: dict[tuple[str, str], np.ndarray]) -> list[float]:
    """Return the mean of the points of each group, in percent."""
    return [100 * float(points[rows].sum()) / len(rows) for rows in groups.values()]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


Measure = Callable[[float, int, float], float]
MEASURES: dict[str, Measure] = {
    "sum": lambda total, tokens, alpha: total,
    "mean": lambda total, tokens, alpha: total / tokens,
    "length": lambda total, tokens, alpha: total / tokens**alpha,
}
"""Score of a sentence, from the sum of the log-probabilities of its tokens and their number."""


def pairs(
    runs: Run | Sequence[Run],
    pairs: str | Path | Iterable[Pair | tuple[str, str]],
    *,
    measure: str = "sum",
    alpha: float | None = None,
    start: str | None = None,
    split: str = NONE,
    fields: Fields = Fields(),
) -> PairScores:
    """Return the scores of runs on minimal pairs, such as BLiMP (Warstadt et al. 2020).

        score(s) = log P(s)     log P(s) / tokens (mean)     log P(s) / tokens^alpha (length)

    A run is right on a pair if the good sentence has the better score. A tie counts half, so a
    model that gives both sentences of each pair one score has exactly 50.

    Example:
      >>> import jaxlm
      >>> text = jaxlm.read_corpus("toy")
      >>> run = jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=3), text, quiet=True)
      >>> found = jaxlm.pairs(run, [("我 喜欢 玩具", "喜欢 我 玩具"), ("我 玩具", "我 玩具")])
      >>> found.accuracy, found.ties, found.columns["point"]
      ({'NGram': 75.0}, {'NGram': 1}, [1.0, 0.5])

    Args:
      runs: a run, or several runs.
      pairs: (good, bad) sentences; or the path of a file in JSON lines, TSV or CSV, or of a folder
        with such files, such as BLiMP's.
      measure: "sum", "mean" or "length".
      alpha: the exponent of `measure` "length"; None for 0.8.
      start: the state before each sentence: "fresh" or "warm"; None for warm if the run keeps a
        stretch of training text, and fresh otherwise.
      split: "treebank" or "wikitext": split the sentences into words as the training text of a run
        over words is split; "none": leave them as they are. See `split_words`.
      fields: names of the columns of a file.
    Raises:
      UserError: for a bad pair or file, and a token that the vocabulary lacks, if it has no
        `<unk>`.
      SettingError: for a bad setting.
    """
    several = [runs] if isinstance(runs, Run) else list(runs)
    if not several:
        raise UserError("there is no run: give at least one")
    check_measure(measure, alpha)
    check_split(split)
    started = [by_lines(run, start) for run in several]
    names = run_names([run.name for run in several])
    listed = read_pairs(pairs, fields) if isinstance(pairs, str | os.PathLike) else _given(pairs)
    where: dict[str, int] = {}
    for pair in listed:
        where.setdefault(pair.good, len(where))
        where.setdefault(pair.bad, len(where))
    texts = [split_words(text, split)[0] for text in where] if split != NONE else list(where)
    good = np.array([where[pair.good] for pair in listed])
    bad = np.array([where[pair.bad] for pair in listed])
    found = [_scores(run, texts, MEASURES[measure], ALPHA if alpha is None else alpha)
             for run in started]  # fmt: skip
    return PairScores(
        listed,
        names,
        np.stack([item.score[good] for item in found]),
        np.stack([item.score[bad] for item in found]),
        np.stack([item.words[good] + item.words[bad] for item in found]),
        np.stack([item.unknown[good] + item.unknown[bad] for item in found]),
        [_protocol(run, measure, alpha, split) for run in started],
    )


def check_measure(measure: str, alpha: float | None) -> None:
    """Raise UserError for an unknown `measure`, and for an `alpha` that it does not use."""
    choose(MEASURES, measure, "measure")
    if alpha is None:
        return
    if measure != "length":
        raise SettingError("alpha", alpha, f"has no effect with `measure` {measure}: use length")
    if not (isinstance(alpha, int | float) and 0 <= alpha <= 1):
        raise SettingError("alpha", alpha, "must be between 0 (the sum) and 1 (the mean)")


def read_pairs(path: str | Path, fields: Fields = Fields()) -> list[Pair]:
    """Return the pairs of a file, or of all tables in a folder by the order of their names.

    Args:
      path: a file in JSON lines, TSV or CSV, plain or compressed; or a folder.
      fields: names of the columns.
    Raises:
      UserError: for a file that cannot be read, and a line without two sentences. The error names
        the file and the line.
    """
    path = Path(path).expanduser()
    shown = str(path) if str(path).isprintable() else repr(str(path))
    # `os.path` takes a name that is too long for a name that does not exist.
    if os.path.isdir(path):
        try:
            files = sorted(file for file in path.iterdir() if file.is_file() and _is_table(file))
        except OSError as error:
            raise UserError(f"cannot read {shown}: {error.strerror}") from None
        if not files:
            endings = ", ".join(TABLE_ENDINGS)
            raise UserError(f"{shown} has no file of pairs: its files must end in {endings}")
    elif os.path.exists(path):
        files = [path]
    else:
        raise UserError(f"{shown} does not exist: give a file of pairs, or a folder of such files")
    found = [pair for file in files for pair in _of_file(file, fields)]
    if not found:
        raise UserError(f"{shown} has no pairs")
    return found


def _is_table(file: Path) -> bool:
    return table_ending(file) is not None and not file.name.startswith(".")


def _of_file(path: Path, fields: Fields) -> Iterator[Pair]:
    """Yield the pairs of a file."""
    stem = path.name.split(".")[0] or path.name
    for number, record in records(path, fields.good):
        line = f"{path}, line {number}"
        sentences = [
            _sentence(_value(record, name, setting, line), f"{line}: {name}")
            for name, setting in ((fields.good, "good"), (fields.bad, "bad"))
        ]
        groups = [
            _label(_value(record, name, setting, line) if name else record.get(usual), default)
            for name, setting, usual, default in (
                (fields.group, "group", "UID", stem),
                (fields.phenomenon, "phenomenon", "linguistics_term", ""),
            )
        ]
        yield Pair(*sentences, *groups)


def _value(record: dict[str, Any], name: str, setting: str, line: str) -> Any:
    """Return the value of a field. Raise UserError if the record lacks it."""
    if name in record:
        return record[name]
    names = ", ".join(map(str, record))
    names = names if names.isprintable() else repr(names)[1:-1]
    shown = names if len(names) <= 5 * _SHOWN else f"{names[: 5 * _SHOWN]} ..."
    raise UserError(
        f"{line}, has no field {name}, but {shown or 'none at all'}; name the field by `{setting}`"
    )


def _sentence(value: Any, where: str) -> str:
    """Return a sentence. Raise UserError for what cannot be one."""
    shown = repr(value)
    shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]} ..."
    if not isinstance(value, str):
        raise UserError(f"{where} is {shown}, not a text")
    if not value.strip():
        raise UserError(f"{where} is empty: give two sentences")
    if "\n" in value or "\r" in value:
        raise UserError(f"{where} has a line break: {shown}")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise UserError(f"{where} is no Unicode text: {shown}") from None
    return value


def _label(value: Any, default: str) -> str:
    """Return the name of a group, on one line; `default` if there is none."""
    return default if value is None else " ".join(str(value).split())


def _given(given: Iterable[Pair | tuple[str, str]]) -> list[Pair]:
    """Return pairs that a caller gave as (good, bad)."""
    found = []
    for number, item in enumerate(given, 1):
        if isinstance(item, str) or not isinstance(item, Sequence) or len(item) < 2:
            raise UserError(f"pair {number} is {repr(item)[:_SHOWN]}, not (good, bad)")
        if not isinstance(item, Pair) and len(item) > 2:
            raise UserError(f"pair {number} has {len(item)} parts: give (good, bad), or a Pair")
        pair = item if isinstance(item, Pair) else Pair(*item)
        for name in ("good", "bad"):
            _sentence(getattr(pair, name), f"pair {number}: {name}")
        found.append(pair)
    if not found:
        raise UserError("there is no pair to score: give at least one")
    return found


class _Scores(NamedTuple):
    """Score, scored tokens without the end of the line, and unknown tokens of each sentence."""

    score: np.ndarray
    words: np.ndarray
    unknown: np.ndarray


def _scores(run: Run, texts: Sequence[str], measure: Measure, alpha: float) -> _Scores:
    """Return the scores of sentences. Sentences with the same tokens are scored once."""
    start_id, unk_id = run.vocabulary.start_id, run.vocabulary.unk_id
    before = np.array([] if start_id is None else [start_id], np.int32)
    rows: dict[bytes, int] = {}
    ids: list[np.ndarray] = []
    row_of = np.zeros(len(texts), np.int64)
    for index, text in enumerate(texts):
        row = np.concatenate([before, run.tokenizer.encode([f"{text}\n"])]).astype(np.int32)
        if len(row) < 2:
            raise UserError(
                f"{run.name} predicts no token of {text!r}, which is one token: it has no start "
                f"token; train with `eos`, or leave the pair out"
            )
        key = row.tobytes()
        if key not in rows:
            rows[key] = len(ids)
            ids.append(row)
        row_of[index] = rows[key]
    last_only = run.protocol.last_only
    score, words, unknown = np.zeros(len(ids)), *np.zeros((2, len(ids)), np.int64)
    scored = Scorer(run.model).sentences(run.params, ids, last_only, line_carry(run))
    for index, log_probs in scored:
        targets = ids[index][-1:] if last_only else ids[index][1:]
        score[index] = measure(math.fsum(log_probs), len(targets), alpha)
        words[index] = (
            np.count_nonzero(targets != start_id) if start_id is not None else len(targets)
        )
        unknown[index] = 0 if unk_id is None else np.count_nonzero(targets == unk_id)
    if np.isnan(score).any():
        text = texts[int(np.argmax(np.isnan(score[row_of])))]
        raise UserError(
            f"{run.name} gives no number as the score of {text!r}: its parameters are damaged"
        )
    return _Scores(score[row_of], words[row_of], unknown[row_of])


def _protocol(run: Run, measure: str, alpha: float | None, split: str) -> str:
    """Return the sentence that says how a run was scored."""
    how = {
        "sum": "the sum of its log-probabilities",
        "mean": "the mean of its log-probabilities",
        "length": f"the sum of its log-probabilities / tokens^{ALPHA if alpha is None else alpha}",
    }[measure]
    state = "the initial state"
    if run.protocol.start == WARM:
        state = "the warm state, after a stretch of the training text"
    counted = "each token counted"
    if run.protocol.last_only:
        counted = "the last token alone counted"
    elif run.vocabulary.start_id is None:
        counted = "each token but the first counted"
    elif "<eos>" in run.vocabulary:
        counted = "each token and <eos> counted"
    cut = "" if split == NONE else f"; words split as in {split}"
    return f"Score of a sentence: {how}, from {state}; {counted}{cut}; a tie counts half."
