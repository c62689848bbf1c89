"""Two runs on one text, line by line: the difference in bits, its interval and its p."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.data.encoding import TextSize
from jaxlm.data.text import lines_of_file
from jaxlm.errors import SettingError, UserError, check_at_least, choose
from jaxlm.evaluation.sentences import (
    SentenceScores,
    checked_sentences,
    score_sentences,
    words_of,
)
from jaxlm.evaluation.tables import Columns
from jaxlm.runs.run import Run
from jaxlm.runs.starts import STARTS

CONFIDENCE = 0.95
RESAMPLES = 10_000
# Numbers in one array of resampled lines: 8 MB.
BATCH_NUMBERS = 1 << 20
# Entries of config.json that are equal in runs that differ by their seeds alone.
SETTINGS = ("model", "network", "text", "batching", "optimizer", "counting")
SHOWN = 40


@dataclass(frozen=True)
class Side:
    """The runs of one side of a comparison, which differ by their seeds alone.

    Attributes:
      names: the names of the runs.
      bits_RL: bits of each line under each run, float64 [runs, lines].
      tokens_L: number of scored tokens of each line, int64 [lines].
    """

    names: list[str]
    bits_RL: np.ndarray
    tokens_L: np.ndarray

    @property
    def bits(self) -> np.ndarray:
        """Bits of each line, the mean over the runs, float64 [lines]."""
        return self.bits_RL.mean(axis=0)

    def per(self, count: float) -> tuple[float, float | None]:
        """Return mean and standard deviation over the runs of the bits of all lines by `count`.

        The standard deviation has the divisor n - 1. It is None for a single run.
        """
        values = self.bits_RL.sum(axis=1) / count
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
        return float(values.mean()), deviation

    @property
    def bits_per_token(self) -> list[float]:
        """Bits per token of each run."""
        return (self.bits_RL.sum(axis=1) / self.tokens_L.sum()).tolist()


@dataclass(frozen=True)
class Comparison:
    """The difference between two sides, in bits of B minus bits of A; below 0, B predicts better.

    Attributes:
      a, b: the two sides.
      lines: the lines that were scored.
      numbers: the number of each line in the text, from 1.
      unit: "word", or "character" for a text without spaces between its words.
      units: number of words or characters in the lines; None if only the last tokens are scored.
      mean: mean difference a line in bits.
      interval: its bootstrap interval.
      unit_interval: bootstrap interval of the difference a word or character; None without `units`.
      p: the p of the permutation test, two-sided.
      confidence: the confidence of the intervals.
      exact: whether the test tried all signs.
      protocol: sentences that say what was counted, and how the statistics were computed.
    """

    a: Side
    b: Side
    lines: list[str]
    numbers: list[int]
    unit: str
    units: int | None
    mean: float
    interval: tuple[float, float]
    unit_interval: tuple[float, float] | None
    p: float
    confidence: float
    exact: bool
    protocol: str

    @property
    def difference(self) -> np.ndarray:
        """Bits of B minus bits of A of each line, float64 [lines]."""
        return self.b.bits - self.a.bits

    @property
    def better(self) -> str | None:
        """ "A" or "B", the side that predicts the text better; None if no difference is shown.

        A difference is shown if the interval lies on one side of 0 and p is at most 1 - confidence.
        """
        low, high = self.interval
        if self.p > 1 - self.confidence + 1e-12 or low <= 0 <= high:
            return None
        return "A" if low > 0 else "B"

    @property
    def meaning(self) -> str:
        """A sentence that says what the comparison shows."""
        low, high = self.interval
        sure = f"{100 * self.confidence:g}% interval"
        if self.better is None:
            same = not np.any(self.difference)
            why = "both sides give every line the same bits" if same else f"p = {shown_p(self.p)}"
            return (
                f"No difference is shown: B minus A is {self.mean:z.3f} bits per line, {sure} "
                f"{low:z.3f} to {high:z.3f}; {why}."
            )
        low, high = sorted(map(abs, self.interval))
        other = {"A": "B", "B": "A"}[self.better]
        return (
            f"{self.better} is better: it needs {abs(self.mean):.3f} bits per line less than "
            f"{other}, {sure} {low:.3f} to {high:.3f}; p = {shown_p(self.p)}."
        )

    def largest(self, better: str, count: int = 3) -> list[int]:
        """Return the indices of the lines that A or B predicts better by most bits, best first.

        Of lines with the same text, the first stands for all.
        """
        gain_L = self.difference if better == "A" else -self.difference
        found: dict[str, int] = {}
        for index in np.argsort(-gain_L, kind="stable").tolist():
            if len(found) == count or gain_L[index] <= 0:
                break
            found.setdefault(self.lines[index], index)
        return list(found.values())

    def columns(self) -> Columns:
        """Return the columns line, text, tokens_a, tokens_b, bits_a, bits_b and difference."""
        return {
            "line": list(self.numbers),
            "text": list(self.lines),
            "tokens_a": self.a.tokens_L.tolist(),
            "tokens_b": self.b.tokens_L.tolist(),
            "bits_a": self.a.bits.tolist(),
            "bits_b": self.b.bits.tolist(),
            "difference": self.difference.tolist(),
        }

    def __str__(self) -> str:
        return f"{self.meaning} {self.protocol}"


def shown_p(p: float) -> str:
    """Return p with four decimals, or with one digit if it is smaller.

    Example:
      >>> shown_p(0.25), shown_p(1 / 10_001), shown_p(0.00001)
      ('0.2500', '0.0001', '1e-05')
    """
    return f"{p:.4f}" if p >= 0.00005 or p == 0 else f"{p:.0e}"


def compare(
    a: Run | Sequence[Run],
    b: Run | Sequence[Run],
    *,
    text: str | Path | Iterable[str],
    start: str | None = None,
    known_only: bool = False,
    encoding: str | None = None,
    column: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Return the difference in bits between two runs on the lines of a text.

        d_l = -log2 P_B(line l) + log2 P_A(line l)

    The bits of a line do not depend on how it is cut into tokens, so runs over words, sub-words and
    characters can be compared. Both must count the same parts of each line, from the same kind of
    state; otherwise the comparison is refused.

    - The interval is that of the paired percentile bootstrap over lines (Efron & Tibshirani 1993,
      ch. 13; Koehn 2004).
    - p is that of the two-sided permutation test of the mean, which flips the sign of each d_l
      (Good 2005, ch. 3). All 2^lines signs are tried if they are at most `resamples`. Otherwise
      signs are drawn, and p = (1 + draws as extreme) / (1 + draws).

    Both treat the lines as independent, and describe these runs, not other seeds. With several runs
    a side, d_l is the difference of the means over the runs.

    Example:
      >>> import jaxlm
      >>> text = jaxlm.read_corpus("toy")
      >>> size = len(text.vocabulary)
      >>> a, b = (
      ...     jaxlm.fit(jaxlm.NGram(size, order=order), text, quiet=True) for order in (1, 3)
      ... )
      >>> found = jaxlm.compare(a, b, text=["我 喜欢 玩具", "我 爱 爸爸", "我 讨厌 挨打"])
      >>> round(found.mean, 2), found.p
      (-7.99, 0.25)

    Args:
      a: a run, or several runs that differ by their seeds.
      b: as `a`.
      text: the path of a text file, or lines without line breaks. Blank lines are left out.
      start: the state before each line: "fresh" or "warm"; None for warm if a run keeps a stretch
        of training text, and fresh otherwise.
      known_only: whether to leave out the lines in which a run reads a word as `<unk>`.
      encoding: the encoding of the file; None for UTF-8.
      column: the column to read, if the file is a table.
      resamples: number of resamples of the bootstrap, and of random signs.
      seed: seed of both.
    Raises:
      UserError: if the runs count different things, or a run gives a line probability 0.
      SettingError: for a bad setting.
    """
    if start is not None:
        choose(dict.fromkeys(STARTS), start, "start")
    check_at_least("resamples", resamples, 100)
    check_at_least("seed", seed, 0)
    sides = [_runs(side, name) for side, name in ((a, "A"), (b, "B"))]
    if isinstance(text, str | Path):
        lines = [line.rstrip("\n") for line in lines_of_file(text, encoding, column)]
    else:
        for name, value in {"encoding": encoding, "column": column}.items():
            if value is not None:
                raise SettingError(name, value, "is for a file, and `text` is a list of lines")
        lines = checked_sentences(text)
    reference = sides[0][0]
    for run in (run for side in sides for run in side):
        if run.protocol.last_only != reference.protocol.last_only:
            last, every = (run, reference) if run.protocol.last_only else (reference, run)
            raise _unequal(
                last, "predicts the last token of each line alone", every, "every token of a line"
            )
    # The first runs of both sides come first, so that most refusals come before the other seeds.
    order = [sides[0][0], sides[1][0], *sides[0][1:], *sides[1][1:]]
    counted: list[_Counted] = []
    for run in order:
        counted.append(_counted(run, lines, start))
        _check_starts(counted[0], counted[-1])
        _check_parts(counted[0], counted[-1], lines)
    known = _known_lines(counted, lines, known_only)
    kept = [index for index in known if counted[0].tokens_L[index]]
    if len(kept) < 2:
        left = "line" if len(kept) == 1 else "lines"
        raise UserError(
            f"a comparison needs at least 2 lines with tokens to predict, and the text has "
            f"{len(kept)} {left}{' without <unk>' if known_only else ''}: give a longer text"
        )
    for item in counted:
        if impossible := int(np.isinf(item.bits_L[kept]).sum()):
            which = "1 line" if impossible == 1 else f"{impossible:,} lines"
            raise UserError(
                f"{item.run.name} gives {which} probability 0, which is infinitely many bits: "
                f"train it with a smoothing that leaves every word a probability, or leave the "
                f"{'line' if impossible == 1 else 'lines'} out"
            )
    more = len(sides[0]) - 1
    found = [
        _side([counted[0], *counted[2 : 2 + more]], kept),
        _side([counted[1], *counted[2 + more :]], kept),
    ]
    kept_lines = [lines[index] for index in kept]
    unit = words_of(kept_lines, None).removesuffix("s")
    if unit == "space":
        unit = "word"
    units_L = None
    if not reference.protocol.last_only:
        units_L = np.array(
            [
                getattr(TextSize.of([f"{lines[index][counted[0].first[index] :]}\n"]), f"{unit}s")
                for index in kept
            ]
        )
    difference_L = found[1].bits - found[0].bits
    options: dict[str, Any] = {"resamples": resamples, "seed": seed}
    return Comparison(
        a=found[0],
        b=found[1],
        lines=kept_lines,
        numbers=[index + 1 for index in kept],
        unit=unit,
        units=None if units_L is None else int(units_L.sum()),
        mean=float(difference_L.mean()),
        interval=bootstrap_interval(difference_L, **options),
        unit_interval=(
            None if units_L is None else bootstrap_interval(difference_L, units_L, **options)
        ),
        p=permutation_p(difference_L, **options),
        confidence=CONFIDENCE,
        exact=_tries_all(len(kept), resamples),
        protocol=_protocol(counted[0], lines, known, kept, known_only, resamples, seed),
    )


def bootstrap_interval(
    difference_L: np.ndarray,
    units_L: np.ndarray | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a mean, or of a ratio of sums.

    Efron & Tibshirani (1993), ch. 13. Lines are drawn with replacement; a line keeps its pair of
    scores, so that the bootstrap is paired.

    Example:
      >>> low, high = bootstrap_interval(np.array([1.0, 2.0, 3.0, 2.0]))
      >>> low < 2.0 < high
      True

    Args:
      difference_L: difference of each line, at least 2.
      units_L: number of words of each line, for the sum of the differences by the sum of the words;
        None for the mean difference.
      resamples: number of resamples.
      seed: seed of the draws.
      confidence: the confidence of the interval.
    """
    from scipy import stats

    data = (difference_L,) if units_L is None else (difference_L, units_L)
    found = stats.bootstrap(
        data,
        _mean if units_L is None else _ratio,
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        batch=_batch(difference_L),
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def permutation_p(difference_L: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """Return the two-sided p of the hypothesis that each difference is as likely with either sign.

        p = (1 + draws with |Σ_l ±d_l| >= |Σ_l d_l|) / (1 + draws)

    Good (2005), ch. 3; Phipson & Smyth (2010) for the 1. If A and B were equally good on every
    line, their names could be swapped on any line. If all signs are tried, p is the share of them
    that is as extreme. `scipy.stats.permutation_test` gives the same, but takes minutes for 40,000
    lines.

    Example:
      >>> permutation_p(np.array([1.0, 2.0, 3.0]))
      0.25

    Args:
      difference_L: difference of each line.
      resamples: all 2^lines signs are tried if they are at most this many, and otherwise as many
        random signs.
      seed: seed of the random signs.
    """
    lines, generator = len(difference_L), np.random.default_rng(seed)
    exact = _tries_all(lines, resamples)
    total, step = 2**lines if exact else resamples, _batch(difference_L)
    whole = difference_L.sum()
    # Sums that differ by rounding alone count as equal.
    limit = abs(whole) - 1e-12 * np.abs(difference_L).sum()
    extreme = 0
    for begin in range(0, total, step):
        draws = min(step, total - begin)
        if exact:
            numbers = np.arange(begin, begin + draws, dtype=np.int64)
            plus: np.ndarray = numbers[:, None] >> np.arange(lines) & 1
        else:
            packed = generator.integers(0, 256, (draws, -(-lines // 8)), np.uint8)
            plus = np.unpackbits(packed, axis=1, count=lines)
        # With a plus for some lines and a minus for the others: Σ ±d = 2 Σ_plus d - Σ d.
        extreme += int(np.count_nonzero(np.abs(2 * (plus @ difference_L) - whole) >= limit))
    return extreme / total if exact else (1 + extreme) / (1 + total)


def _mean(values: np.ndarray, axis: int = -1) -> Any:
    return np.mean(values, axis=axis)


def _ratio(values: np.ndarray, counts: np.ndarray, axis: int = -1) -> Any:
    # A resample may have only lines without a word, such as lines of one word that is context.
    return values.sum(axis=axis) / np.maximum(counts.sum(axis=axis), 1)


def _batch(values: np.ndarray) -> int:
    return max(1, BATCH_NUMBERS // len(values))


def _tries_all(lines: int, resamples: int) -> bool:
    return lines < 64 and 2**lines <= resamples


@dataclass(frozen=True)
class _Counted:
    """The bits of each line under one run, and which parts of the line the run scores.

    Attributes:
      run: the run, with the protocol that it was scored with.
      bits_L, tokens_L: bits and scored tokens of each line.
      first: offset of the first scored character of each line.
      parts: for each line, the offset of the first scored character that is not blank (None if no
        token is scored), and whether the end of the line is scored.
      blanks: for lines with other white space than single blanks: the offsets of scored blanks.
      unknown: the spans of the scored `<unk>` by the index of the line, for lines that have any.
    """

    run: Run
    bits_L: np.ndarray
    tokens_L: np.ndarray
    first: list[int]
    parts: list[tuple[int | None, bool]]
    blanks: dict[int, frozenset[int]]
    unknown: dict[int, frozenset[tuple[int, int]]]


def _counted(run: Run, lines: Sequence[str], start: str | None) -> _Counted:
    """Score the lines, and find out what was counted in each."""
    scores = score_sentences(run, lines, start=start, words="spaces", detail=False)
    columns = scores.by_sentence()
    first: list[int] = []
    parts: list[tuple[int | None, bool]] = []
    blanks, unknown = {}, {}
    for index, line in enumerate(lines):
        spans_N2, unknown_N = _scored_spans(scores, index)
        if not len(spans_N2):
            first.append(0)
            parts.append((None, False))
            continue
        begin = int(spans_N2[0, 0])
        first.append(begin)
        filled = begin + len(line[begin:]) - len(line[begin:].lstrip())
        parts.append((filled, bool(spans_N2[-1, 1] > len(line))))
        if line != " ".join(line.split()):
            inside = {at for low, high in spans_N2 for at in range(low, min(high, len(line)))}
            blanks[index] = frozenset(at for at in inside if line[at].isspace())
        if unknown_N.any():
            unknown[index] = frozenset((int(low), int(high)) for low, high in spans_N2[unknown_N])
    return _Counted(
        scores.run,
        np.array(columns["surprisal"]),
        np.array(columns["tokens"], np.int64),
        first,
        parts,
        blanks,
        unknown,
    )


def _scored_spans(scores: SentenceScores, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the spans [tokens, 2] of the scored tokens of a line, and whether each is `<unk>`.

    The first span of a line whose first token is not scored begins where that token ends.
    """
    tokenizer, scored_T = scores.run.tokenizer, scores.scored[index]
    spans_T2 = tokenizer.spans(f"{scores.sentences[index]}\n")
    found_N2 = spans_T2[scored_T].copy()
    if len(found_N2):
        place = int(np.flatnonzero(scored_T)[0])
        found_N2[0, 0] = spans_T2[place - 1, 1] if place else 0
    unk_id = tokenizer.vocabulary.unk_id
    ids_N = scores.ids[index][scored_T]
    return found_N2, np.zeros(len(ids_N), bool) if unk_id is None else ids_N == unk_id


def _side(counted: Sequence[_Counted], kept: Sequence[int]) -> Side:
    return Side(
        [item.run.name for item in counted],
        np.stack([item.bits_L[kept] for item in counted]),
        counted[0].tokens_L[kept],
    )


def _runs(side: Run | Sequence[Run], name: str) -> list[Run]:
    """Return the runs of a side. Raise UserError unless they differ by their seeds alone."""
    runs = [side] if isinstance(side, Run) else list(side)
    if not runs:
        raise UserError(f"side {name} has no run: give at least one")
    first = runs[0]
    for index, run in enumerate(runs[1:], 1):
        if any(
            run is other or (run.folder is not None and run.folder == other.folder)
            for other in runs[:index]
        ):
            raise UserError(f"{run.name} is twice on side {name}: give each run once")
        differ = [key for key in SETTINGS if run.settings.get(key) != first.settings.get(key)] or [
            what
            for what, value, other in (
                ("model", run.model, first.model),
                ("vocabulary", run.vocabulary.tokens, first.vocabulary.tokens),
            )
            if value != other
        ]
        if differ:
            raise UserError(
                f"the runs of side {name} must differ by their seeds alone, and {first.name} and "
                f"{run.name} differ in {', '.join(differ)}: give runs of one setting"
            )
    return runs


def _unequal(one: Run, does: str, other: Run, instead: str, cure: str = "") -> UserError:
    """Return the error that one run counts something that the other does not."""
    return UserError(
        f"the protocols are unequal: {one.name} {does}, and {other.name} {instead}"
        f"{cure or '; choose runs that are trained with the same settings of the text'}"
    )


def _check_starts(a: _Counted, b: _Counted) -> None:
    """Raise UserError unless two runs start each line from the same kind of state."""
    starts = [item.run.protocol.start for item in (a, b)]
    if starts[0] != starts[1]:
        does, instead = (f"starts each line {start}" for start in starts)
        raise _unequal(a.run, does, b.run, instead, cure="; give `start` fresh for both")


def _check_parts(a: _Counted, b: _Counted, lines: Sequence[str]) -> None:
    """Raise UserError unless two runs predict the same parts of each line."""
    for index, (first, second) in enumerate(zip(a.parts, b.parts, strict=True)):
        if first == second:
            continue
        if first[0] != second[0]:
            does, instead = (_begins(lines[index], begin) for begin, _ in (first, second))
            where = f"of line {index + 1} ({_cut(lines[index])!r})"
            raise _unequal(a.run, f"{does} {where}", b.run, instead)
        one, other = (a, b) if first[1] else (b, a)
        raise _unequal(one.run, "predicts the end of each line", other.run, "does not")
    for index in sorted({*a.blanks, *b.blanks}):
        if a.blanks.get(index) != b.blanks.get(index):
            one, other = (a, b) if a.blanks.get(index) else (b, a)
            raise _unequal(
                one.run,
                f"predicts all the white space of line {index + 1} ({_cut(lines[index])!r})",
                other.run,
                "does not",
                cure="; leave one blank between words, and none at the ends of the line",
            )


def _begins(line: str, begin: int | None) -> str:
    if begin is None:
        return "predicts nothing"
    if not line[:begin].strip():
        return "predicts the first word"
    return f"predicts only what follows {_cut(line[:begin].rstrip())!r}"


def _cut(text: str, width: int = SHOWN) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _known_lines(counted: Sequence[_Counted], lines: Sequence[str], known_only: bool) -> list[int]:
    """Return the indices of the lines to compare, as far as `<unk>` is concerned.

    Raises:
      UserError: if `<unk>` stands in different places, or for different words; unless `known_only`.
    """
    if known_only:
        return [
            index
            for index in range(len(lines))
            if not any(index in item.unknown for item in counted)
        ]
    cure = "; give `known_only` to compare the lines without <unk> alone"
    a = counted[0]
    for b in counted[1:]:
        if a.unknown != b.unknown:
            totals = [sum(map(len, item.unknown.values())) for item in (a, b)]
            if totals[0] == totals[1]:
                raise UserError(
                    f"the protocols are unequal: {a.run.name} and {b.run.name} read different "
                    f"words as <unk>, {totals[0]:,} each{cure}"
                )
            does, instead = (f"reads {total:,} tokens as <unk>" for total in totals)
            raise _unequal(a.run, does, b.run, instead, cure)
        if a.unknown and {*a.run.vocabulary.tokens} != {*b.run.vocabulary.tokens}:
            raise UserError(
                f"the protocols are unequal: the vocabularies of {a.run.name} and {b.run.name} "
                f"differ, so that <unk> stands for different words{cure}"
            )
    return list(range(len(lines)))


def _protocol(
    reference: _Counted,
    lines: Sequence[str],
    known: Sequence[int],
    kept: Sequence[int],
    known_only: bool,
    resamples: int,
    seed: int,
) -> str:
    """Return the sentences that say what was counted and how the statistics were computed."""
    run = reference.run
    every = "the last token of each line alone" if run.protocol.last_only else "each token once"
    if not run.protocol.last_only and run.vocabulary.start_id is None:
        every = "each token once but the first of each line, which is context"
    ends = sum(reference.parts[index][1] for index in kept)
    unknown = sum(len(reference.unknown.get(index, ())) for index in kept)
    left = []
    if without := len(lines) - len(known):
        left.append(f"{without:,} with <unk>")
    if blank := len(known) - len(kept):
        left.append(f"{blank:,} with nothing to predict")
    signs = f"{resamples:,} random signs"
    if _tries_all(len(kept), resamples):
        signs = f"all {2 ** len(kept):,} signs"
    return (
        f"Counted: {len(kept):,} lines, {every}; each line from the {run.protocol.start} state; "
        f"line ends {'counted' if ends else 'not counted'}; {unknown:,} <unk>"
        f"{'; lines left out: ' + ', '.join(left) if left else ''}. "
        f"Interval: paired bootstrap over lines, {resamples:,} resamples. "
        f"p: permutation test, {signs}; seed {seed}. "
        f"Both are about the choice of lines, not of seeds."
    )
