"""How an n-gram answers: the ladder of its orders (`backoff`), and plain counts (`counts`).

Every smoothing of jaxlm interpolates the orders:

    P(w | h) = n(h w) / d(h) + backoff(h) · P(w | h')        h': h without its first word
    P(w)     = n(w) / d + backoff() / V

A rung of the ladder is one order: its own term n(h w) / d(h), and its weight, the product of
backoff(·) of all longer contexts. The terms times their weights sum to P(w | h).

The tables of a run hold P and backoff, not the counts. The counts come from the training text,
which is read and counted again. A run of an ARPA file, and a run whose text is missing, has no
counts: they are None, and a note says why.
"""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlm.data.digests import split_digest
from jaxlm.data.encoding import Split
from jaxlm.data.text import Text
from jaxlm.data.tokenizers import Tokenizer
from jaxlm.errors import UserError
from jaxlm.evaluation.generation import encode_context, next_ids
from jaxlm.evaluation.perplexity import open_split
from jaxlm.inspection.arguments import check_run, check_text, described
from jaxlm.models.ngram import NGram
from jaxlm.ngrams.counts import Counts, Sequences, count_ngrams
from jaxlm.ngrams.lmplz import last_ngrams
from jaxlm.ngrams.pruning import mark_rare, thresholds_of, without
from jaxlm.ngrams.smoothing import KEEPING_SHARES, SMOOTHINGS, Estimate, adjusted_counts
from jaxlm.ngrams.tables import NOTHING, Tables
from jaxlm.runs.run import Run
from jaxlm.runs.same_run import TEXT_DIGESTS
from jaxlm.runs.starts import start_of

if TYPE_CHECKING:
    from rich.table import Table

INTERPOLATED = (
    "modified-kneser-ney",
    "kneser-ney",
    "witten-bell",
    "add-k",
    "maximum-likelihood",
)
"""The smoothings whose tables are interpolated, as the equations above say."""
CONTINUATION = ("modified-kneser-ney", "kneser-ney")
"""The smoothings whose lower orders count the different words before an n-gram."""
COUNT, CONTINUATION_COUNT = "count", "continuation count"
LINE_START = "<s>"
"""How a ladder shows the start of a line."""
_RECOUNT = "recount"
MOST_TOKENS = 20_000_000
"""Tokens of a training text up to which it is counted again without being asked."""
_WIDTH = 80


@dataclass(frozen=True)
class Rung:
    """One order of the answer of an n-gram.

    Attributes:
      order: number of words of the n-gram h w; 0 for the uniform distribution.
      context: the words of h.
      context_count: Σ_w of the counts of h w; None if the counts are unknown.
      pair_count: the count of h w; None if the counts are unknown.
      kind: what the two counts count. "count": occurrences. "continuation count": the number of
        different words that occur before h w (Kneser-Ney, below the longest order). "" if unknown.
      discount: what smoothing takes away from the count: pair_count - context_count · probability;
        None if the counts are unknown.
      probability: the own term of the order, n(h w) / d(h).
      weight: how much of the answer is left for this order: the product of the back-off weights of
        all longer contexts.
      contribution: weight · probability.
      backoff: the back-off weight of h, which the next shorter order gets; 1 if h was never seen.
      smoothed: P(w | h) of the model if this were its longest order.
      listed: whether the n-gram h w is in the tables.
    """

    order: int
    context: tuple[str, ...]
    context_count: int | None
    pair_count: int | None
    kind: str
    discount: float | None
    probability: float
    weight: float
    contribution: float
    backoff: float
    smoothed: float
    listed: bool


@dataclass(frozen=True)
class Ladder:
    """The answer of an n-gram, order by order; see `backoff`.

    Attributes:
      context: the context, as it was given.
      word: the next word whose probability this is.
      rungs: one for each order, longest first.
      probability: P(word | context), the sum of the contributions.
      smoothing: the smoothing of the run.
      note: how the model reads the context, and why counts are unknown; "" if there is nothing to
        say.
    """

    context: str
    word: str
    rungs: tuple[Rung, ...]
    probability: float
    smoothing: str
    note: str = ""

    @property
    def order(self) -> int:
        """The order of the longest n-gram that the tables list."""
        return max(rung.order for rung in self.rungs if rung.listed)

    def table(self) -> "Table":
        """Return the ladder as a table of at most 80 columns."""
        headers = ("order", "context", "count", "pair", "discount", "prob.", "weight", "adds")
        rows = [
            [
                str(rung.order) if rung.order else "1/V",
                _words_shown(rung.context),
                _count_shown(rung, rung.context_count),
                _count_shown(rung, rung.pair_count),
                "" if rung.discount is None else f"{rung.discount:z.3f}",
                f"{rung.probability:.4f}",
                f"{rung.weight:.4f}",
                f"{rung.contribution:.4f}",
            ]
            for rung in self.rungs
        ]
        answer = f") = {self.probability:.6g}, {self.smoothing}"
        given = _end_of(_shown(self.context), 20) if self.context else ""
        title = f"P({_end_of(_shown(self.word), 20)} | {given}{answer}"
        return _table(title, self._legend(), headers, rows, text_column=1)

    def _legend(self) -> str:
        """Return what the stars of the table mean, and the note."""
        stars = any(rung.kind == CONTINUATION_COUNT for rung in self.rungs)
        return "\n".join(
            [
                *["* number of different words before the n-gram"] * stars,
                *[self.note] * bool(self.note),
            ]
        )

    def __str__(self) -> str:
        return _printed(self.table())


@dataclass(frozen=True)
class TokenLadders:
    """The order that answered for each token of a text, T tokens; see `token_ladders`.

    Attributes:
      order: int64 [T], the longest listed n-gram that ends with the token.
      count: float64 [T], the count of that n-gram (`Rung.pair_count`); NaN if unknown.
      discount: float64 [T], what smoothing takes away from the count; NaN if unknown.
      backoff_weight: float64 [T], the product of the back-off weights of the longer contexts; 1
        where the longest order answered.
      note: why counts are unknown; "" if they are known.
    """

    order: np.ndarray
    count: np.ndarray
    discount: np.ndarray
    backoff_weight: np.ndarray
    note: str


@dataclass(frozen=True)
class NextCounts:
    """The words that follow a context in a text, with their counts; see `counts`.

    Attributes:
      context: the words of the context.
      words: the words that follow it, the most frequent first.
      counts: how often each of them follows.
      vocabulary_size: number of words of the vocabulary.
    """

    context: tuple[str, ...]
    words: tuple[str, ...]
    counts: tuple[int, ...]
    vocabulary_size: int

    @property
    def total(self) -> int:
        """The number of times that the context occurs with a word after it."""
        return sum(self.counts)

    @property
    def frequencies(self) -> tuple[float, ...]:
        """Relative frequency of each word, count / total."""
        return tuple(count / self.total for count in self.counts)

    @property
    def never_seen(self) -> int:
        """Number of words of the vocabulary that never follow the context: their count is 0."""
        return self.vocabulary_size - len(self.words)

    def of(self, word: str) -> tuple[int, float | None]:
        """Return count and relative frequency of `word`; the frequency of 0 / 0 is None."""
        count = dict(zip(self.words, self.counts, strict=True)).get(word, 0)
        return count, count / self.total if self.total else None

    def table(self, top: int = 10) -> "Table":
        """Return the `top` most frequent next words as a table of at most 80 columns."""
        found = zip(self.words, self.counts, self.frequencies, strict=True)
        rows = [
            [_shown(word), f"{count:,}", f"{frequency:.4f}"]
            for _, (word, count, frequency) in zip(range(top), found, strict=False)
        ]
        if len(self.words) > top:
            rows.append([f"... {len(self.words) - top:,} more", "", ""])
        times = "once" if self.total == 1 else f"{self.total:,} times"
        title = f"{_end_of(_words_shown(self.context), 60) or '(no context)'}: {times}"
        headers = ("next word", "count", "count / total")
        return _table(title, self._zero(), headers, rows, text_column=0)

    def _zero(self) -> str:
        """Return what the counts say of all other words."""
        if not self.total:
            return "never seen with a word after it: 0 / 0 says nothing"
        return f"count 0, probability 0: the other {self.never_seen:,} words of the vocabulary"

    def __str__(self) -> str:
        return _printed(self.table())


@dataclass(frozen=True)
class Recount:
    """The counts that an n-gram was smoothed from, by the ids of its tables.

    Attributes:
      counts: for orders 1 ... n, the counts that the smoothing works with (`adjusted_counts` for
        Kneser-Ney), int [number of n-grams].
      totals: for orders 1 ... n, Σ_w of these counts by context, int64 [number of contexts].
      at_line_start: for orders 1 ... n, the smallest id of an n-gram at the start of a line.
      uniform_weight: the weight of the uniform distribution in P(w) of order 1.
    """

    counts: tuple[np.ndarray, ...]
    totals: tuple[np.ndarray, ...]
    at_line_start: tuple[int, ...]
    uniform_weight: float


def backoff(
    run: Run,
    context: str,
    word: str | None = None,
    *,
    text: Text | None = None,
    start: str | None = None,
) -> Ladder:
    """Return the ladder of an n-gram's answer: what each order adds to P(word | context).

    Orders that would reach back beyond the start of a line or of the text have no rung. A run of an
    ARPA file does not say how it was smoothed. Its ladder is read as a back-off model: the longest
    listed n-gram gives the whole probability, and the shorter orders have the weight 0.

    Example:
      >>> import jaxlm
      >>> text = jaxlm.read_corpus("toy", eos=False)
      >>> run = jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=3), text, quiet=True)
      >>> ladder = backoff(run, "我 讨厌")
      >>> ladder.word, round(ladder.probability, 4), [rung.order for rung in ladder.rungs]
      ('挨打', 0.7857, [3, 2, 1, 0])
      >>> [(rung.context, rung.pair_count) for rung in ladder.rungs[:2]]
      [(('我', '讨厌'), 1), (('讨厌',), 1)]

    Args:
      run: the run of an n-gram.
      context: the text before the next word.
      word: the next word, one token; None for the most probable one.
      text: the training text, to count again; None for the corpus that the run's settings name.
      start: the state from which the model reads the context; see `jaxlm.next_words`.
    Raises:
      UserError: for a run of another model, an unknown word, and a word of several tokens.

    Source: Chen & Goodman, "An empirical study of smoothing techniques for language modeling",
    1998, sections 2.2 and 2.8.
    """
    model, tables = _ngram(run)
    check_text(context, "context")
    encoded = encode_context(run, context, start)
    index = next_ids(run, encoded, 1)[0][0] if word is None else _one_token(run, word)
    known, why = recount(run, text)
    carry = model.initial_carry(1) if encoded.start.carry is None else encoded.start.carry
    contexts, seen_1S = model.contexts(tables, encoded.ids, carry)
    rungs = _rungs(run, seen_1S[0], [int(ids_1P[0, -1]) for ids_1P in contexts], index, known)
    return _ladder(run, context, index, rungs, encoded.note, why)


def ladders(
    run: Run, passage: str, *, text: Text | None = None, start: str | None = None
) -> list[Ladder]:
    """Return the ladder of every token of a passage, given the tokens before it.

    This is `backoff` at every token, with one look-up for the whole passage.

    Example:
      >>> import jaxlm
      >>> text = jaxlm.read_corpus("toy", eos=False)
      >>> run = jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=3), text, quiet=True)
      >>> [(ladder.word, ladder.order) for ladder in ladders(run, "我 爱 挨打")]
      [('我', 2), ('爱', 3), ('挨打', 1)]

    Args:
      run: the run of an n-gram.
      passage: the text whose tokens are answered. It goes on, so that no `<eos>` ends it.
      text: the training text, to count again; None for the corpus that the run's settings name.
      start: the state from which the model reads the passage; see `jaxlm.next_words`.
    Returns:
      A ladder for each token. Its context is the last n - 1 tokens that the model saw.
    Raises:
      UserError: for a run of another model, and an unknown word.
    """
    ids = encode_context(run, passage, start).text_ids
    why = recount(run, text)[1]
    answers = zip(ids.tolist(), token_rungs(run, ids, text=text, start=start), strict=True)
    return [
        _ladder(run, " ".join(rungs[0].context), word, rungs, "", why) for word, rungs in answers
    ]


def token_rungs(
    run: Run, ids: Any, *, text: Text | None = None, start: str | None = None
) -> list[tuple[Rung, ...]]:
    """Return the rungs of every token of a text, longest order first; see `ladders`.

    Args:
      run: the run of an n-gram.
      ids: token ids of the text, int [T].
      text: the training text, to count again; None for the corpus that the run's settings name.
      start: the state from which the model reads the text; see `jaxlm.next_words`.
    Raises:
      UserError: for a run of another model.
    """
    model, tables = _ngram(run)
    words, known = np.asarray(ids, np.int64), recount(run, text)[0]
    before, seen_S = _contexts_before(run, words, start)
    ngrams = _ngrams(tables, before, words)
    return [
        _rungs_of(
            run,
            seen_S[place : place + model.order - 1],
            [int(of_length[place]) for of_length in before],
            [int(of_order[place]) for of_order in ngrams],
            known,
        )
        for place in range(len(words))
    ]


def _contexts_before(
    run: Run, words: np.ndarray, start: str | None
) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the ids of the contexts of 1 ... n - 1 tokens before each word, and the tokens read.

    Args:
      run: the run of an n-gram of order n.
      words: token ids of a text, int64 [T].
      start: the state from which the model reads the text; see `jaxlm.next_words`.
    Returns:
      For each length the ids, int64 [T]; and the tokens, so that the n - 1 tokens from place t on
      come before word t.
    """
    model, tables = _ngram(run)
    begin = start_of(run, start)
    carry = model.initial_carry(1) if begin.carry is None else begin.carry
    read_1T = np.concatenate([np.array(begin.ids, np.int64), words])[None]
    contexts, _ = model.contexts(tables, read_1T, carry)
    first = len(begin.ids)
    # Column i of the contexts is the context before token i.
    return [ids_1P[0, first:-1] for ids_1P in contexts], model.seen(read_1T, carry)[0, first:]


def _ngrams(tables: Tables, contexts: Sequence[np.ndarray], words: np.ndarray) -> list[np.ndarray]:
    """Return the ids of the n-grams (context, word) of orders 1 ... n, int64 [T] each.

    Args:
      tables: the tables.
      contexts: for lengths 1 ... n - 1, the ids of the contexts, int64 [T].
      words: word ids, int64 [T].
    """
    longer = [tables.find(order, ids, words) for order, ids in enumerate(contexts, start=2)]
    return [words, *longer]


def _ladder(
    run: Run, context: str, word: int, rungs: tuple[Rung, ...], note: str, why: str
) -> Ladder:
    """Return the ladder of some rungs.

    Args:
      run: the run of an n-gram.
      context: the context as a text.
      word: id of the next word.
      rungs: the rungs.
      note: how the model reads the context.
      why: why counts are unknown.
    """
    smoothing = _ngram(run)[0].smoothing
    notes = [note, why]
    if _is_renormalised(run):
        notes.append("the longest listed n-gram is shown with the whole probability")
    elif smoothing not in INTERPOLATED:
        notes.append(
            f"the smoothing {smoothing} does not say whether it interpolates: the longest listed "
            f"n-gram is shown with the whole probability"
        )
    return Ladder(
        context,
        run.tokenizer.token_text(word),
        rungs,
        sum(rung.contribution for rung in rungs),
        smoothing,
        "; ".join(filter(None, notes)),
    )


def token_ladders(
    run: Run,
    ids: Any,
    *,
    text: Text | None = None,
    start: str | None = None,
    counts: bool = True,
) -> TokenLadders:
    """Return, for each token of a text, the order that answered, its count, discount and weight.

    This is `backoff` at every token, in NumPy, for the longest listed n-gram alone.

    Example:
      >>> import jaxlm
      >>> text = jaxlm.read_corpus("toy", eos=False)
      >>> run = jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=3), text, quiet=True)
      >>> found = token_ladders(run, run.vocabulary.ids("我 讨厌 挨打".split()))
      >>> found.order.tolist(), found.count.tolist()
      ([2, 3, 3], [3.0, 1.0, 1.0])

    Args:
      run: the run of an n-gram.
      ids: token ids of the text, int [T].
      text: the training text, to count again; None for the corpus that the run's settings name.
      start: the state from which the model reads the text; see `jaxlm.next_words`.
      counts: whether to count the training text again, for `count` and `discount`. It takes as long
        as training, and as much memory.
    Raises:
      UserError: for a run of another model.
    """
    model, tables = _ngram(run)
    known, why = recount(run, text) if counts else (None, "counts are unknown: not asked for")
    words = np.asarray(ids, np.int64)
    contexts, _ = _contexts_before(run, words, start)
    probability = np.asarray(tables.probabilities[0][words], np.float64)
    order = np.ones(len(words), np.int64)
    weight, unknown = np.ones(len(words)), np.full(len(words), np.nan)
    count, discount = unknown.copy(), unknown.copy()
    if known:
        own = probability - known.uniform_weight / model.vocab_size
        count = known.counts[0][words].astype(np.float64)
        discount = count - known.totals[0][0] * np.maximum(own, 0)
    for length, context in enumerate(contexts, start=1):
        ngrams = tables.find(length + 1, context, words)
        listed = ngrams >= 0
        passed = _rows(tables.backoffs[length - 1], context, 1.0)
        new = np.where(listed, _rows(tables.probabilities[length], ngrams), passed * probability)
        if known:
            own = np.maximum(new - passed * probability, 0)
            counted = _rows(known.counts[length], ngrams)
            totals = _rows(known.totals[length], context)
            count = np.where(listed, counted, count)
            discount = np.where(listed, counted - totals * own, discount)
        weight = np.where(listed, 1.0, weight * passed)
        order = np.where(listed, length + 1, order)
        probability = new
    if not known or not _is_interpolated(run):
        discount = unknown
    return TokenLadders(order, count, discount, weight, why)


def _rows(values: Any, index: np.ndarray, missing: float = 0.0) -> np.ndarray:
    """Return values[index] as float64, and `missing` where the index is negative.

    `values` may be empty: pruning can leave an order without n-grams.
    """
    found = np.full(index.shape, missing)
    listed = index >= 0
    found[listed] = values[index[listed]]
    return found


def counts(run: Run | Text, context: str = "") -> NextCounts:
    """Return how often each word follows `context` in the training text, without any smoothing.

        P(w | h) = c(h w) / c(h)

    A word that never follows the context has the count 0 and the probability 0. The context may
    have any number of words, and stays within a line.

    Example:
      >>> import jaxlm
      >>> found = counts(jaxlm.read_corpus("toy", eos=False), "我")
      >>> dict(zip(found.words, found.counts)), found.total, found.of("挨打")
      ({'喜欢': 1, '爱': 1, '讨厌': 1}, 3, (0, 0.0))

    Args:
      run: a run of any model, whose training text is read; or a text, as of `jaxlm.read_corpus`.
      context: the words before the next word.
    Raises:
      UserError: if the training text of the run is missing or was changed, and for an unknown word.
    """
    if not isinstance(run, Text):
        check_run(run)
    check_text(context, "context")
    split = run.train if isinstance(run, Text) else training_split(run)[0]
    tokenizer: Tokenizer = run.tokenizer
    size = len(tokenizer.vocabulary)
    lines = Sequences.of_split(split, size)
    wanted = tokenizer.encode_context(context)
    previous = lines.previous
    # previous[i] is the token before words[i] in its line. So previous[i - b] = h_{k-b} for
    # b = 0 ... k - 1 finds the context h_1 ... h_k before words[i].
    found = np.arange(len(previous))
    for back, token in enumerate(wanted[::-1]):
        found = found[found >= back]
        found = found[previous[found - back] == token]
    numbers = np.bincount(np.asarray(lines.words)[found], minlength=size)
    ids = np.argsort(-numbers, kind="stable")[: np.count_nonzero(numbers)]
    return NextCounts(
        tuple(map(tokenizer.token_text, wanted.tolist())),
        tuple(map(tokenizer.token_text, ids.tolist())),
        tuple(numbers[ids].tolist()),
        size,
    )


def recount(run: Run, text: Text | None = None) -> tuple[Recount | None, str]:
    """Return the counts of an n-gram's training text, and a note that says why there are none.

    The counts are None if the text is missing, was changed, was counted on disk because it is
    larger than memory, or has more than MOST_TOKENS tokens and is not given as `text`. They are
    kept with the run, so that a text is counted once.

    Args:
      run: the run of an n-gram.
      text: the training text; None for the corpus that the run's settings name.
    """
    if text is not None:
        if not isinstance(text, Text):
            raise UserError(
                f"`text` is {described(text)}: give the training text as jaxlm.read_corpus returns "
                f"it"
            )
        if text.vocabulary.tokens != run.vocabulary.tokens:
            return None, f"counts are unknown: {text.name} has another vocabulary than the run"
        return _recount(run, text)
    # As functools.cached_property does: the counts live as long as the run.
    kept = vars(run)
    if _RECOUNT not in kept:
        kept[_RECOUNT] = _recount(run, None)
    found: tuple[Recount | None, str] = kept[_RECOUNT]
    return found


def training_split(run: Run) -> tuple[Split, bool]:
    """Return the training text of a run, and whether a digest says that it is the same text.

    Raises:
      UserError: if the text is missing or was changed.
    """
    split = open_split(run, split="train")
    saved = run.settings.get(TEXT_DIGESTS, {}).get("train")
    if saved is not None and saved != split_digest(split):
        raise UserError(f"{split.name} is not the text of the training: it was changed since")
    return split, saved is not None


def _recount(run: Run, text: Text | None) -> tuple[Recount | None, str]:
    """Return what `recount` returns, without keeping it."""
    model, tables = _ngram(run)
    if model.smoothing not in SMOOTHINGS:
        return None, "counts are unknown: an ARPA file does not hold them"
    if _is_renormalised(run):
        return None, "counts do not explain a pruned model whose back-off weights are computed anew"
    counting, is_known = run.settings.get("counting", {}), False
    if counting.get("like_lmplz") and run.settings.get("text", {}).get("vocabulary_file"):
        return None, "counts are unknown: they are of more words than the vocabulary has"
    if text is None:
        if counting.get("memory"):
            return None, "counts are unknown: the text was counted on disk; give it as `text`"
        try:
            split, is_known = training_split(run)
        except UserError as error:
            return None, f"counts are unknown: {error}"
        if len(split) > MOST_TOKENS:
            why = f"{len(split):,} tokens, more than {MOST_TOKENS:,}: give it as `text`"
            return None, f"counts are unknown: the training text has {why}"
    elif text.vocabulary.tokens != run.vocabulary.tokens:
        return (
            None,
            f"counts are unknown: {text.name} was cut into the tokens of another vocabulary",
        )
    else:
        split = text.train
    read = Sequences.of_split(split, model.vocab_size, model.stream)
    try:
        found = count_ngrams(read, model.order, model.vocab_size)
    except UserError as error:
        return None, f"counts are unknown: {error}"
    raw: Sequence[int] = ()
    vocabulary = run.vocabulary
    if counting.get("like_lmplz") and vocabulary.start_id is not None:
        raw = last_ngrams(read, found, vocabulary.start_id, vocabulary.unk_id)
    thresholds = thresholds_of(counting.get("prune"), model.order)
    if any(thresholds):
        found = replace(found, dropped=mark_rare(found, thresholds))
    # With a digest the text is known to be the right one, and orders 1 and 2 determine P(w).
    # Without a digest, all probabilities are estimated again and compared.
    again = Counts(found.vocab_size, found.orders[:2], found.dropped[:2]) if is_known else found
    more = {"raw": raw} if raw else {}
    smooth: Callable[..., Estimate] = SMOOTHINGS[model.smoothing]
    estimate = smooth(again, add_k=model.add_k, **more)
    estimated = estimate.tables
    if again.dropped:
        estimated = without(estimated, again.dropped)
    counted = _counted(found, model.smoothing in CONTINUATION)
    if not _is_counted_from(tables, counted, estimated, 1 if is_known else model.order):
        return None, f"counts are unknown: {split.name} is not the text of the training"
    numbers = tuple(np.rint(number).astype(np.int64) for number in counted.probabilities)
    all_words = np.array([numbers[0].sum()])
    totals = [all_words, *(np.rint(total).astype(np.int64) for total in counted.backoffs)]
    starts = [own.at_line_start for own in found.orders]
    if found.dropped:
        starts = [
            int(np.count_nonzero(~dropped[:start]))
            for dropped, start in zip(found.dropped, starts, strict=True)
        ]
    return Recount(numbers, tuple(totals), tuple(starts), estimate.uniform_weight), ""


def _counted(found: Counts, continuation: bool) -> Tables:
    """Return the n-grams that tables of these counts list, with counts in the place of numbers.

    The probability of an n-gram is its count, and the back-off weight of a context is the sum of
    the counts of all n-grams that begin with it, including those in `found.dropped`.

    Args:
      found: the counts of a text.
      continuation: whether the counts are Kneser-Ney's.
    """
    numbers = [
        adjusted_counts(found, order) if continuation else found.orders[order - 1].counts
        for order in range(1, len(found.orders) + 1)
    ]
    base, totals = found.vocab_size + 1, []
    for own, number, contexts in zip(found.orders[1:], numbers[1:], numbers[:-1], strict=True):
        totals.append(np.bincount(own.keys // base, number, minlength=len(contexts)))
    keys = tuple(own.keys for own in found.orders[1:])
    counted = Tables(found.vocab_size, keys, tuple(numbers), tuple(totals))
    return without(counted, found.dropped) if found.dropped else counted


def _is_counted_from(tables: Tables, counted: Tables, estimated: Tables, orders: int) -> bool:
    """Return whether tables list the n-grams of the counts, with the estimated probabilities.

    Args:
      tables: the tables of the run.
      counted: the n-grams of a text; see `_counted`.
      estimated: tables of these counts.
      orders: the number of orders, from 1 on, whose probabilities are compared.
    """
    keys = counted.keys
    pairs = zip(tables.probabilities[:orders], estimated.probabilities[:orders], strict=True)
    return (
        tables.vocab_size == counted.vocab_size
        and len(tables.keys) == len(keys)
        and all(np.array_equal(a, b) for a, b in zip(tables.keys, keys, strict=True))
        and all(np.allclose(a, b, rtol=1e-9, atol=0) for a, b in pairs)
    )


def _rungs(
    run: Run, seen: np.ndarray, contexts: Sequence[int], word: int, known: Recount | None
) -> tuple[Rung, ...]:
    """Return the rungs of the answer P(word | seen); see `_rungs_of`."""
    tables = _ngram(run)[1]
    ngrams = _ngrams(tables, [np.array([context]) for context in contexts], np.array([word]))
    return _rungs_of(run, seen, contexts, [int(found[0]) for found in ngrams], known)


def _rungs_of(
    run: Run,
    seen: np.ndarray,
    contexts: Sequence[int],
    ngrams: Sequence[int],
    known: Recount | None,
) -> tuple[Rung, ...]:
    """Return the rungs of the answer P(word | seen), longest order first.

    Args:
      run: the run of an n-gram.
      seen: the last n - 1 tokens; V at the start of a line, NOTHING before the text.
      contexts: for each length 1 ... n - 1, the id of the context, or NOTHING.
      ngrams: for each order 1 ... n, the id of the n-gram of context and word, or NOTHING.
      known: the counts, or None.
    """
    model, tables = _ngram(run)
    V = model.vocab_size
    lower, steps, last = 1.0 / V, [], seen.tolist()
    for order in range(1, model.order + 1):
        words = last[len(last) - (order - 1) :]
        if NOTHING in words or V in words[1:]:
            break
        context = contexts[order - 2] if order > 1 else 0
        ngram = ngrams[order - 1]
        if order > 1:
            passed = float(tables.backoffs[order - 2][context]) if context >= 0 else 1.0
        else:
            passed = known.uniform_weight if known else 0.0
        smoothed = passed * lower if ngram < 0 else float(tables.probabilities[order - 1][ngram])
        own = max(0.0, smoothed - passed * lower) if ngram >= 0 else 0.0
        steps.append((order, words, context, ngram, passed, smoothed, own))
        lower = smoothed
    interpolated, weight, rungs = _is_interpolated(run), 1.0, []
    for order, words, context, ngram, passed, smoothed, own in reversed(steps):
        if not interpolated:
            own = smoothed if ngram >= 0 else 0.0
        context_count = pair_count = discount = None
        kind = ""
        if known:
            context_count = int(known.totals[order - 1][context]) if context >= 0 else 0
            pair_count = int(known.counts[order - 1][ngram]) if ngram >= 0 else 0
            discount = pair_count - context_count * own
            shorter = order < model.order and not (order > 1 and words[0] == V)
            is_continuation = model.smoothing in CONTINUATION and shorter
            kind = CONTINUATION_COUNT if is_continuation else COUNT
        texts = tuple(
            LINE_START if token == V else run.tokenizer.token_text(token) for token in words
        )
        rungs.append(
            Rung(
                order,
                texts,
                context_count,
                pair_count,
                kind,
                discount,
                own,
                weight,
                weight * own,
                passed,
                smoothed,
                ngram >= 0,
            )
        )
        weight *= passed if interpolated or ngram < 0 else 0.0
    if known:
        uniform = 1.0 / V
        rungs.append(
            Rung(0, (), None, None, "", None, uniform, weight, weight * uniform, 0.0, uniform, True)
        )
    return tuple(rungs)


def _is_interpolated(run: Run) -> bool:
    """Return whether the equations of this module hold for the tables of a run."""
    return _ngram(run)[0].smoothing in INTERPOLATED and not _is_renormalised(run)


def _is_renormalised(run: Run) -> bool:
    """Return whether pruning computed the back-off weights anew (`jaxlm.ngrams.pruning`)."""
    counting = run.settings.get("counting") or {}
    by_count = any(counting.get("prune") or ())
    return counting.get("prune_entropy") is not None or (
        by_count and _ngram(run)[0].smoothing not in KEEPING_SHARES
    )


def _ngram(run: Run) -> tuple[NGram, Tables]:
    """Return the model and the tables of an n-gram's run.

    Raises:
      UserError: for a run of another model.
    """
    check_run(run)
    if not isinstance(run.model, NGram):
        raise UserError(
            f"{run.name} has the model {type(run.model).__name__}: only n-grams back off; train "
            f"one with `model` ngram"
        )
    return run.model, run.params


def _one_token(run: Run, word: str) -> int:
    """Return the id of `word`.

    Raises:
      UserError: if the run reads it as another number of tokens than one, or does not know it.
    """
    check_text(word, "word")
    ids = run.tokenizer.encode_context(word)
    if len(ids) != 1:
        raise UserError(
            f"the next word {word!r} is {len(ids)} tokens of {run.name}: give one token"
        )
    return int(ids[0])


def _shown(text: str) -> str:
    """Return a text in one line: line breaks and other controls are escaped.

    Example:
      >>> print(_shown("a\\nb"), _shown(" "))
      a\\nb ␣
    """
    if text.strip(" ") == "":
        return "␣" * len(text)
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _words_shown(words: Sequence[str]) -> str:
    """Return words in one line, with blanks between them."""
    return " ".join(map(_shown, words))


def _count_shown(rung: Rung, count: int | None) -> str:
    """Return a count with thousands separators and the mark of its kind; "?" if it is unknown."""
    if count is None:
        return "?" if rung.order else ""
    return f"{count:,}{'*' if rung.kind == CONTINUATION_COUNT else ''}"


def _table(
    title: str, note: str, headers: Sequence[str], rows: Sequence[Sequence[str]], text_column: int
) -> "Table":
    """Return a table of at most 80 columns, in which one column is text and the others numbers.

    A text that is too long for the table loses its beginning.
    """
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text as RichText

    # In this box Rich draws three spaces before each column, and one at the end.
    widths = [max(map(cell_len, column)) for column in zip(headers, *rows, strict=True)]
    widths[text_column] = 0
    room = max(8, _WIDTH - sum(widths) - 3 * len(headers) - 1)
    lines = [line for part in note.split("\n") for line in textwrap.wrap(part, _WIDTH)]
    table = Table(
        title=_unwrapped(title),
        caption=_unwrapped("\n".join(lines)),
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )
    for index, header in enumerate(headers):
        is_text = index == text_column
        table.add_column(header, justify="left" if is_text else "right", no_wrap=True)
    for row in rows:
        cells = list(row)
        cells[text_column] = _end_of(cells[text_column], room)
        table.add_row(*map(RichText, cells))
    return table


def _end_of(text: str, width: int) -> str:
    """Return a text of at most `width` columns: a longer text loses its beginning."""
    from rich.cells import cell_len

    while cell_len(text) > width:
        text = "…" + text[2:]
    return text


def _unwrapped(text: str) -> Any:
    """Return a text that Rich does not break at the width of its table."""
    from rich.text import Text as RichText

    return RichText(text, no_wrap=True, overflow="ignore")


def _printed(table: "Table") -> str:
    """Return a table as text of 80 columns."""
    import io

    from rich.console import Console

    console = Console(file=io.StringIO(), width=_WIDTH, color_system=None)
    console.print(table)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in lines)
