"""Scores of the words of sentences: what reading studies and tables of other tools need."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from jaxlm.data.encoding import Split
from jaxlm.data.files import name_of
from jaxlm.data.sources import EmbeddedText
from jaxlm.data.spacing import mostly_unspaced
from jaxlm.data.splitting import NONE, check_split, split_words
from jaxlm.errors import SettingError, UserError, choose
from jaxlm.evaluation.generation import is_unicode
from jaxlm.evaluation.perplexity import report, score_split
from jaxlm.evaluation.scoring import TokenScores
from jaxlm.evaluation.tables import Columns
from jaxlm.runs.protocol import FRESH, WARM, Protocol
from jaxlm.runs.run import Run
from jaxlm.runs.starts import by_lines

CARRIED = "carried"
STARTS = (FRESH, WARM, CARRIED)
END = "<eos>"
"""The word of the row for the end of a sentence."""
UNITS = {"spaces": re.compile(r"\S+"), "characters": re.compile(r"\S")}
"""What a word is: a part between white space, or a character that is no white space."""


@dataclass(frozen=True)
class TokenisedSentences:
    """Sentences as token ids of a run, and the words that the tokens belong to.

    Attributes:
      run: the run, with the protocol that it is scored with.
      sentences: the sentences.
      words: offsets of the words of each sentence, int64 [words, 2].
      ids: token ids of each sentence, the end included if the tokenizer has one.
      word_of: index of the word of each token, by sentence. The number of the words is the index of
        the end of the sentence.
      scored: whether each token is scored, by sentence.
    """

    run: Run
    sentences: list[str]
    words: list[np.ndarray]
    ids: list[np.ndarray]
    word_of: list[np.ndarray]
    scored: list[np.ndarray]


@dataclass(frozen=True)
class SentenceScores(TokenisedSentences):
    """The scores of one run on sentences, token by token, and the words that the tokens belong to.

    Attributes, after those of `TokenisedSentences`:
      scores: scores of the scored tokens of all sentences, one after the other.
      protocol: sentences that say which tokens were scored, and from which state.
    """

    scores: TokenScores
    protocol: str

    def counted(self, first: bool = True, end: bool = True) -> "SentenceScores":
        """Return the scores without the first word of each sentence, or without its end.

        Args:
          first: whether the first word of each sentence counts.
          end: whether the end of each sentence counts.
        """
        keep = [
            scored & (first | (word_of > 0) | (len(words) == 0)) & (end | (word_of < len(words)))
            for scored, word_of, words in zip(self.scored, self.word_of, self.words, strict=True)
        ]
        was, now = np.concatenate(self.scored), np.concatenate(keep)
        kept = TokenScores(
            *(part if part is None else part[now[was]] for part in self.scores)  # type: ignore[arg-type]
        )
        left = [text for text, counts in (("first word", first), ("end", end)) if not counts]
        note = f" Left out: the {' and the '.join(left)} of each sentence." if left else ""
        return replace(self, scored=keep, scores=kept, protocol=self.protocol + note)

    def bits(self) -> list[np.ndarray]:
        """Return the surprisal of each token in bits, by sentence; NaN where it is not scored."""
        return self._by_token(-self.scores.log_prob / math.log(2))

    def by_sentence(self) -> Columns:
        """Return the columns tokens, oov and surprisal, with a row for each sentence.

        `tokens` and `oov` are the numbers of scored tokens, and of those that are `<unk>`.
        `surprisal` is in bits.
        """
        return {
            "tokens": [int(scored.sum()) for scored in self.scored],
            "oov": [
                int((unknown & scored).sum())
                for unknown, scored in zip(self._unknown(), self.scored, strict=True)
            ],
            "surprisal": [float(np.nansum(bits)) for bits in self.bits()],
        }

    def by_word(self) -> Columns:
        """Return columns with a row for each word, and one for the end of each sentence.

        Returns:
          `tokens`, the number of tokens of the word; `oov`, whether one of them is `<unk>`;
          `surprisal`, the sum over the tokens in bits, NaN if no token is scored; and with details
          `entropy`, that of the distribution of the word's first scored token in bits, and `rank`,
          the largest rank of its tokens (1: each token was the likeliest), None if not scored.
        """
        counts = [len(words) + 1 for words in self.words]
        starts = np.cumsum([0, *counts])
        rows = sum(counts)
        word = np.concatenate(
            [start + word_of for start, word_of in zip(starts, self.word_of, strict=False)]
        )
        scored = np.concatenate(self.scored)
        at = word[scored]
        bits = np.bincount(at, -self.scores.log_prob.astype(np.float64) / math.log(2), rows)
        has = np.bincount(at, minlength=rows) > 0
        tokens = np.bincount(word, minlength=rows)
        oov = np.bincount(word, np.concatenate(self._unknown()), rows) > 0
        columns = {
            "tokens": tokens.tolist(),
            "oov": oov.tolist(),
            "surprisal": np.where(has, 0.0 + bits, math.nan).tolist(),
        }
        if self.scores.rank is not None and self.scores.entropy is not None:
            entropy, rank = np.full(rows, math.nan), np.zeros(rows, np.int64)
            # The last assignment to an index counts, so the first token is assigned last.
            entropy[at[::-1]] = self.scores.entropy[::-1] / math.log(2)
            np.maximum.at(rank, at, self.scores.rank)
            columns["entropy"] = entropy.tolist()
            columns["rank"] = [int(place) if place else None for place in rank]
        # A run that predicts no end has no row for it. If a run predicts the end of some sentences,
        # such as of sentences that end in a blank, all sentences have the row.
        empty = np.zeros(rows, bool)
        empty[starts[1:] - 1] = not self.has_end()
        return {
            name: [value for value, out in zip(values, empty, strict=True) if not out]
            for name, values in columns.items()
        }

    def has_end(self) -> bool:
        """Return whether the run predicts the end of a sentence."""
        return any(
            bool((word_of == len(words)).any())
            for word_of, words in zip(self.word_of, self.words, strict=True)
        )

    def by_token(self) -> Columns:
        """Return the columns token and surprisal (bits), with a row for each token."""
        text = self.run.tokenizer.token_text
        return {
            "token": [text(int(id_)) for ids in self.ids for id_ in ids],
            "surprisal": np.concatenate(self.bits()).tolist(),
        }

    def _unknown(self) -> list[np.ndarray]:
        unk_id = self.run.vocabulary.unk_id
        return [
            np.zeros(len(ids), bool) if unk_id is None else np.asarray(ids == unk_id)
            for ids in self.ids
        ]

    def _by_token(self, values: np.ndarray) -> list[np.ndarray]:
        """Return values of the scored tokens as one array a sentence, NaN for other tokens."""
        scored = np.concatenate(self.scored)
        spread = np.full(len(scored), math.nan)
        spread[scored] = values
        return np.split(spread, np.cumsum([len(ids) for ids in self.ids])[:-1])


def score_sentences(
    run: Run,
    sentences: Iterable[str],
    *,
    start: str | None = None,
    words: str | None = None,
    detail: bool = True,
    split: str = NONE,
) -> SentenceScores:
    """Return the scores of a run on sentences, each token once.

    The numbers are those of `evaluate --lines` on a file whose lines are these sentences, each with
    a line feed at its end; with `start` "carried" those of `evaluate`, if the run reads a stream.
    (A run over bytes reads the line breaks of a file as they are: CRLF has one byte more.)

    Args:
      run: the run.
      sentences: the sentences, without line breaks. A sentence may be empty.
      start: "fresh": each sentence from the initial state; "warm": from the state after a stretch
        of the training text; "carried": the state goes on from sentence to sentence; None for warm
        if the run keeps such a stretch, and fresh otherwise.
      words: "spaces": words are the parts between white space; "characters": each character that is
        no white space is a word; None for characters if the text has no spaces between its words.
      detail: whether to compute the rank and the entropy of every token too.
      split: "treebank" or "wikitext": split the sentences into words as the training text of a run
        over words is split; "none": leave them as they are. See `split_words`. The rows stay those
        of the words as written.
    Raises:
      UserError: without sentences, for a sentence with a line break, and for a token that the
        vocabulary lacks, if it has no `<unk>`.
      SettingError: for a start that the run does not have.
    """
    encoded = encode_sentences(run, sentences, start=start, words=words, split=split)
    return encoded.with_scores(score_split(encoded.run, encoded.data, detail))


@dataclass(frozen=True)
class EncodedSentences(TokenisedSentences):
    """Sentences as token ids, ready to be scored.

    Attributes, after those of `TokenisedSentences`:
      data: the sentences as a split.
      split: how the sentences were split into words.
    """

    data: Split
    split: str

    def with_scores(self, scores: TokenScores) -> SentenceScores:
        """Return the sentences with the scores of their tokens, one after the other.

        Raises:
          UserError: if a score is NaN.
        """
        if np.isnan(scores.log_prob).any():
            name = self.run.name
            raise UserError(f"{name} gives no number as a likelihood: its parameters are damaged")
        protocol = report(self.run, self.data, scores).protocol
        if self.split != NONE:
            protocol += f" Words split as in {self.split}."
        parts = self.run, self.sentences, self.words, self.ids, self.word_of, self.scored
        return SentenceScores(*parts, scores, protocol)


def encode_sentences(
    run: Run,
    sentences: Iterable[str],
    *,
    start: str | None = None,
    words: str | None = None,
    split: str = NONE,
) -> EncodedSentences:
    """Return sentences as token ids, and the words that the tokens belong to.

    Args:
      run, sentences, start, words, split: the arguments of `score_sentences`.
    Raises:
      UserError, SettingError: as `score_sentences`.
    """
    texts = checked_sentences(sentences)
    unit = words_of(texts, words)
    run = _started(run, start)
    check_split(split)
    cut = [split_words(f"{text}\n", split) for text in texts]
    ids, spans = [], []
    for line, offsets in cut:
        ids.append(run.tokenizer.encode([line]))
        # Where the tokens stand in the sentence as written.
        spans.append(offsets[run.tokenizer.spans(line)])
    source = EmbeddedText("".join(line for line, _ in cut), exact=True)
    data = Split("sentences", np.concatenate(ids), source, run.tokenizer)
    found = [
        np.array([match.span() for match in UNITS[unit].finditer(text)], np.int64).reshape(-1, 2)
        for text in texts
    ]
    # A token belongs to the word that its last character is in. White space belongs to the word
    # after it, or to the end of the sentence.
    word_of = [
        np.searchsorted(words_N2[:, 1], spans_T2[:, 1], "left")
        for words_N2, spans_T2 in zip(found, spans, strict=True)
    ]
    return EncodedSentences(run, texts, found, ids, word_of, _scored(run, texts, ids), data, split)


def checked_sentences(sentences: Iterable[str]) -> list[str]:
    """Return sentences as a list. Raise UserError for what is no sentence, and for none."""
    if isinstance(sentences, str):
        raise UserError("`sentences` is one text: give a list of sentences")
    texts = list(sentences)
    for number, text in enumerate(texts, 1):
        if not isinstance(text, str):
            raise UserError(f"sentence {number} is {text!r}, not a text")
        if not is_unicode(text):
            raise UserError(f"sentence {number}, {text[:40]!r}, is not valid UTF-8 text")
        if "\n" in text or "\r" in text:
            raise UserError(
                f"sentence {number} has a line break: {text[:40]!r}; give one line a sentence"
            )
    if not any(text.strip() for text in texts):
        raise UserError("there is no sentence to score: give at least one that is not blank")
    return texts


def words_of(texts: Sequence[str], words: str | None) -> str:
    """Return the unit of words in UNITS: the one that is given, or the one that fits the text."""
    if words is None:
        return "characters" if mostly_unspaced(texts) else "spaces"
    choose(UNITS, words, "words")
    return words


def _started(run: Run, start: str | None) -> Run:
    """Return the run with the protocol that `start` asks for."""
    if start is not None:
        choose(dict.fromkeys(STARTS), start, "start")
    if start == CARRIED:
        if run.protocol.last_only:
            why = f"is for a stream, and {run.name} predicts the last word of each line alone"
            raise SettingError("start", CARRIED, why)
        if run.vocabulary.start_id is None:
            why = f"needs a token before the first sentence, and {run.name} has no start token"
            raise SettingError("start", CARRIED, why)
        return replace(run, protocol=Protocol())
    return by_lines(run, start)


def _scored(run: Run, texts: Sequence[str], ids: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return which tokens of each sentence the protocol of the run scores."""
    if not run.protocol.rows:
        return [np.ones(len(ids_T), bool) for ids_T in ids]
    found = []
    context = int(run.vocabulary.start_id is None)
    for text, ids_T in zip(texts, ids, strict=True):
        # A blank line is no row.
        scored = np.zeros(len(ids_T), bool)
        if text.strip() and len(ids_T) > context:
            scored[-1 if run.protocol.last_only else context :] = True
        found.append(scored)
    return found


FORMATS = ("wide", "long", "lm-zoo")
"""Shapes of a table of several runs."""


def score(
    runs: Run | Sequence[Run],
    sentences: Iterable[str],
    *,
    by: Literal["word", "sentence"] = "word",
    start: str | None = None,
    first: bool = True,
    end: bool = True,
    words: str | None = None,
    format: str = "wide",
    detail: bool = True,
    split: str = NONE,
) -> Columns:
    """Return the surprisal of each word of sentences under one run or several runs.

        surprisal(w) = -log2 P(w | the words before it in its sentence)

    The result is a dict of columns, which `pandas.DataFrame` takes. Sub-words and characters are
    summed to the words of the text, so runs over different tokens stand in one table. The words of
    a sentence sum to the sentence, and the sentences sum to what `perplexity(by_lines(run))` says.

    Example:
      >>> import jaxlm
      >>> text = jaxlm.read_corpus("toy")
      >>> run = jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=3), text, quiet=True)
      >>> table = jaxlm.score(run, ["我 喜欢 玩具"])
      >>> table["word"], [round(bits, 2) for bits in table["surprisal"]]
      (['我', '喜欢', '玩具', '<eos>'], [0.85, 1.85, 0.36, 0.32])

    Args:
      runs: a run, or several runs.
      sentences: the sentences, without line breaks.
      by: "word" for a row a word, "sentence" for a row a sentence.
      start: the state before each sentence: "fresh", "warm" or "carried" (from the sentence
        before); None for warm if the run keeps a stretch of training text, and fresh otherwise.
      first: whether the first word of each sentence counts.
      end: whether the end of each sentence counts; it is a row with the word `<eos>`.
      words: "spaces", "characters" or None; see `score_sentences`.
      format: "wide": the columns of each run beside those of the others; "long": a row a run, with
        a column `run`; "lm-zoo": the columns sentence_id, token_id, token, surprisal of one run.
      detail: whether to add the columns entropy and rank.
      split: "none", "treebank" or "wikitext"; see `score_sentences`.
    Returns:
      sentence_id and word_id (from 1) and word, or sentence_id, sentence and words; then for each
      run tokens, oov, surprisal (bits), entropy (bits), rank. With several runs in the wide format
      the name of the run follows the name of the column: `surprisal_lstm`.
    Raises:
      UserError: for bad sentences, and two runs of one name.
      SettingError: for a bad setting.
    """
    check_rows(by, format)
    found = score_all(
        runs,
        sentences,
        start=start,
        words=words,
        first=first,
        end=end,
        detail=detail and by == "word" and format != "lm-zoo",
        split=split,
    )
    return table_of(found, by, format)


def check_rows(by: str, format: str) -> None:
    """Raise SettingError unless `by` and `format` say what a row of a table of scores is."""
    if by not in ("word", "sentence"):
        raise SettingError("by", repr(by), "must be word or sentence")
    choose(dict.fromkeys(FORMATS), format, "format")
    if format == "lm-zoo" and by != "word":
        raise SettingError("by", by, "has no effect with `format` lm-zoo, which has a row a token")


def score_all(
    runs: Run | Sequence[Run],
    sentences: Iterable[str],
    *,
    start: str | None = None,
    words: str | None = None,
    first: bool = True,
    end: bool = True,
    detail: bool = True,
    split: str = NONE,
) -> list[SentenceScores]:
    """Return the scores of each run on the same sentences.

    Args:
      runs: a run, or several runs.
      sentences: the sentences, without line breaks.
      start: the state before each sentence; see `score_sentences`.
      words: the unit of words; None for the unit that fits the sentences.
      first: whether the first word of each sentence counts.
      end: whether the end of each sentence counts.
      detail: whether to compute ranks and entropies too.
      split: how to split the sentences into words; see `split_words`.
    Raises:
      UserError: without a run, and for bad sentences.
      SettingError: for a start that a run does not have.
    """
    several = [runs] if isinstance(runs, Run) else list(runs)
    if not several:
        raise UserError("there is no run: give at least one")
    texts = checked_sentences(sentences)
    unit = words_of(texts, words)
    return [
        score_sentences(run, texts, start=start, words=unit, detail=detail, split=split).counted(
            first, end
        )
        for run in several
    ]


def table_of(found: Sequence[SentenceScores], by: str = "word", format: str = "wide") -> Columns:
    """Return the columns of `score` for scores of the same sentences."""
    if format == "lm-zoo":
        return _lm_zoo(found)
    names = run_names([scores.run.name for scores in found])
    parts = [scores.by_word() if by == "word" else scores.by_sentence() for scores in found]
    with_end = [scores.has_end() for scores in found]
    keys = _sentence_keys(found[0]) if by == "sentence" else None
    if format == "long":
        columns: Columns = {}
        for name, part, has_end, scores in zip(names, parts, with_end, found, strict=True):
            key = keys or _word_keys(scores, has_end)
            rows = len(key["sentence_id"])
            for column, values in {**key, "run": [name] * rows, **part}.items():
                columns.setdefault(column, []).extend(values)
        return columns
    if keys is None:
        keys = _word_keys(found[0], any(with_end))
        for part, scores, has_end in zip(parts, found, with_end, strict=True):
            if any(with_end) and not has_end:
                _add_ends(part, scores)
    for name, part in zip(names, parts, strict=True):
        keys |= {f"{column}_{name}" if len(found) > 1 else column: part[column] for column in part}
    return keys


def _lm_zoo(found: Sequence[SentenceScores]) -> Columns:
    """Return the columns of LM Zoo's get-surprisals (Gauthier et al. 2020) for one run."""
    if len(found) > 1:
        raise SettingError(
            "format", "lm-zoo", f"holds one run, not {len(found)}: choose long or wide"
        )
    part = found[0].by_token()
    numbers = [(s, t) for s, ids in enumerate(found[0].ids, 1) for t in range(1, len(ids) + 1)]
    return {
        "sentence_id": [sentence for sentence, _ in numbers],
        "token_id": [token for _, token in numbers],
        **part,
    }


def _sentence_keys(scores: SentenceScores) -> Columns:
    return {
        "sentence_id": list(range(1, len(scores.sentences) + 1)),
        "sentence": list(scores.sentences),
        "words": [len(words) for words in scores.words],
    }


def _word_keys(scores: SentenceScores, has_end: bool) -> Columns:
    columns: Columns = {"sentence_id": [], "word_id": [], "word": []}
    for number, (text, words) in enumerate(zip(scores.sentences, scores.words, strict=True), 1):
        named = [text[first:last] for first, last in words] + [END] * has_end
        columns["sentence_id"] += [number] * len(named)
        columns["word_id"] += range(1, len(named) + 1)
        columns["word"] += named
    return columns


def _add_ends(part: Columns, scores: SentenceScores) -> None:
    """Add rows for the ends of the sentences to the columns of a run that predicts none."""
    nothing = {"tokens": 0, "oov": False, "surprisal": math.nan, "entropy": math.nan, "rank": None}
    ends = np.cumsum([len(words) for words in scores.words]).tolist()
    for column, values in part.items():
        for end in reversed(ends):
            values.insert(end, nothing[column])


def run_names(names: Sequence[str]) -> list[str]:
    """Return the last parts of the names of runs, or the whole names if two of these are equal."""
    short = [name_of(name) for name in names]
    used = short if len(set(short)) == len(short) else list(names)
    if len(set(used)) < len(used):
        twice = next(name for name in used if used.count(name) > 1)
        raise UserError(f"two runs have the name {twice}: give each run once")
    return used
