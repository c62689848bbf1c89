"""Exact perplexity, with its protocol: every token is scored once, from sums and counts."""

import contextlib
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.data.batching import rows_of
from jaxlm.data.corpora import SENTENCES, is_cut
from jaxlm.data.digests import split_digest
from jaxlm.data.encoding import Split, TextSize
from jaxlm.data.files import is_same_file, replacing, why_unwritable
from jaxlm.data.shards import PreparedSplit
from jaxlm.data.text import Text, TextConfig, corpus_name, open_file, open_text
from jaxlm.errors import SettingError, UserError, reason
from jaxlm.evaluation.scoring import Scorer, TokenScores
from jaxlm.runs.log import perplexity_of, shown_perplexity
from jaxlm.runs.protocol import WARM
from jaxlm.runs.run import Run
from jaxlm.runs.same_run import TEXT_DIGESTS
from jaxlm.runs.starts import start_of

# Texts that pandas or R reads as a missing value, in lower case.
MISSING = {"#n/a", "#n/a n/a", "#na", "-1.#ind", "-1.#qnan", "-nan", "1.#ind", "1.#qnan"}
MISSING |= {"<na>", "n/a", "na", "null", "nan", "none"}
# Texts that a program may read as a number or a truth value, and the integers that are written as
# that program would write them.
NUMBER = re.compile(
    r"\s*([+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?inf(inity)?|true|false)\s*", re.ASCII | re.I
)
INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}", re.ASCII)


@dataclass(frozen=True)
class Report:
    """The score of a run on a text: the sums, and how they were counted.

    Attributes:
      run: name of the run.
      split: name of the text.
      nll: negative log-likelihood in nats, summed over the scored tokens.
      tokens: number of scored tokens.
      unknown: number of scored tokens that are `<unk>`.
      size: size of the scored part of the text, for bits per word, character and byte; None if
        only the last token of each line was scored. It has 0 words if white space does not divide
        the text into words, as in Chinese.
      protocol: sentences that say which tokens were counted.
      impossible: number of tokens with probability 0; above 0, the perplexity is infinite.
      known_nll: `nll` of the scored tokens that are not `<unk>`; None if no token is `<unk>`.
    """

    run: str
    split: str
    nll: float
    tokens: int
    unknown: int
    size: TextSize | None
    protocol: str
    impossible: int = 0
    known_nll: float | None = None

    @property
    def nats_per_token(self) -> float:
        """nll / tokens."""
        return self.nll / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(nll / tokens)."""
        return perplexity_of(self.nats_per_token)

    @property
    def perplexity_without_unknown(self) -> float:
        """exp of the mean nll of the scored tokens that are not `<unk>`.

        It is KenLM's "perplexity excluding OOVs". NaN if all scored tokens are `<unk>`.
        """
        if self.known_nll is None:
            return self.perplexity
        known = self.tokens - self.unknown
        return perplexity_of(self.known_nll / known) if known else math.nan

    @property
    def without_unknown(self) -> str:
        """The line on the perplexity without unknown words; "" if no scored token is `<unk>`."""
        if not self.unknown:
            return ""
        without = shown_perplexity(self.perplexity_without_unknown, digits=4)
        return (
            f"{self.run}: perplexity {without} without the {self.unknown:,} <unk>, "
            f"{shown_perplexity(self.perplexity, digits=4)} with them"
        )

    @property
    def bits(self) -> float:
        """The negative log-likelihood of all scored tokens in bits."""
        return self.nll / math.log(2)

    def __float__(self) -> float:
        return self.perplexity

    def __str__(self) -> str:
        counts = {"token": self.tokens}
        if self.size:
            counts |= {
                "word": self.size.words,
                "character": self.size.characters,
                "byte": self.size.bytes,
            }
        bits = ", ".join(
            f"{self.bits / count:z.4f} per {unit}" for unit, count in counts.items() if count
        )
        line = (
            f"{self.run} on {self.split}: perplexity {shown_perplexity(self.perplexity)} "
            f"({self.nats_per_token:z.4f} nats per token; bits: {bits}). {self.protocol}"
        )
        return "\n".join(filter(None, [line, self.without_unknown]))


def open_split(
    run: Run,
    corpus: str | Path | None = None,
    split: str | None = None,
    text: str | Path | None = None,
    encoding: str | None = None,
    column: str | None = None,
) -> Split:
    """Return the text to evaluate a run on, cut into tokens by the tokenizer of the run.

    Args:
      run: the run.
      corpus: name or path of the corpus; None for the corpus that the run was trained on.
      split: "train", "valid" or "test"; None for the first of test, valid and train that exists.
      text: a text file to evaluate as a whole, instead of a corpus.
      encoding: the encoding of the corpus or the text; None for the run's own encoding if the
        corpus is the one that the run was trained on, and else for UTF-8.
      column: the column to read, if the corpus or the text is a table; None as for `encoding`.
    Raises:
      UserError: for a text that does not exist, is empty or cannot be encoded, and for a file that
        was changed since the run was trained on it.
      SettingError: for a corpus or a split beside a text.
    """
    check_where(corpus, split, text)
    if text is not None:
        found = open_file(text, run.tokenizer, encoding, column)
    else:
        trained_on = run.settings.get("text", {})
        name = corpus or trained_on.get("corpus")
        if name is None:
            raise UserError(
                f"{run.name} does not say what it was trained on: give a corpus or a text"
            )
        if name == SENTENCES:
            raise UserError(
                f"{run.name} was trained on sentences, and keeps no text: give a corpus or a text"
            )
        name = corpus_name(name)
        own = trained_on if _is_own_corpus(run, name) else {}
        fractions = own.get("fractions")
        config = TextConfig(
            corpus=name,
            fractions=tuple(fractions) if fractions else None,
            encoding=encoding or own.get("encoding"),
            column=column or own.get("column"),
        )
        whole = open_text(config, run.tokenizer)
        found = whole.split(split)
        if own and os.path.isfile(name):
            _check_unchanged(run, whole)
        found = replace(found, name=f"{name} {found.name}")
    if not len(found):
        raise UserError(f"{found.name} is empty: there is nothing to score")
    return found


def _is_own_corpus(run: Run, name: str) -> bool:
    """Return whether `fractions` can cut a corpus, and the run was trained on it."""
    own = run.settings.get("text", {}).get("corpus")
    if own is None or not is_cut(name):
        return False
    return name == own or (os.path.exists(name) and is_same_file(Path(name), Path(own)))


def _check_unchanged(run: Run, text: Text) -> None:
    """Raise UserError if the file that the run was trained on was changed since.

    The splits are shares of the file. So another part of a changed file is its test split, and the
    run may have been trained on it. The validation split shows the change, as it is short.

    Args:
      run: the run.
      text: the file, cut into splits.
    """
    saved = run.settings.get(TEXT_DIGESTS, {})
    witness = "valid" if "valid" in saved else "train"
    if witness not in saved:
        return
    digest = None
    # A changed file may lack the split, or have words that the run cannot read.
    with contextlib.suppress(UserError):
        digest = split_digest(text.split(witness))
    if digest != saved[witness]:
        raise UserError(
            f"{text.name} was changed since {run.name} was trained on it, so its splits may hold "
            f"other lines than at that time: bring the old file back (jaxlm.evaluate scores all of "
            f"any file with `text`)"
        )


def check_where(corpus: str | Path | None, split: object, text: str | Path | None) -> None:
    """Raise SettingError for a corpus or a split beside a text, which is scored as a whole."""
    for name, value in {"split": split, "corpus": corpus}.items():
        if text is not None and value is not None:
            raise SettingError(name, value, "has no effect with a `text`: leave one of them out")


def score_split(
    run: Run, split: Split, detail: bool = False, scorer: Scorer | None = None
) -> TokenScores:
    """Return the log-probability of every token that the run's protocol counts.

    Args:
      run: the run.
      split: the text.
      detail: whether to compute ranks and entropies too. Ignored if `scorer` is given.
      scorer: a scorer of the run's model; None for a new Scorer without a mesh.
    Raises:
      UserError: if a log-probability is NaN.
    """
    scorer = scorer or Scorer(run.model, detail)
    protocol, carry = run.protocol, line_carry(run)
    scores = scorer.split(run.params, split, protocol.rows, protocol.last_only, carry)
    if np.isnan(scores.log_prob).any():
        raise UserError(f"{run.name} gives no number as a likelihood: its parameters are damaged")
    return scores


def line_carry(run: Run) -> Any:
    """Return the carry of one row from which a run reads each line; None for the initial carry."""
    if run.protocol.start != WARM:
        return None
    start = start_of(run, WARM)
    if run.vocabulary.start_id is not None:
        return start.carry
    # No start token precedes the lines, so the whole stretch is read here.
    return run.model.next_log_probs(run.params, np.array([start.ids], np.int32), start.carry)[1]


def report(run: Run, split: Split, scores: TokenScores) -> Report:
    """Return the report of a run on a split whose tokens have been scored (`score_split`)."""
    ids: Any = split.ids
    if run.protocol.rows:
        ids = np.fromiter((id_ for id_, _ in scored_ids(run, split)), np.int32)
    unk_id = run.vocabulary.unk_id
    is_unknown = np.zeros(0, bool) if unk_id is None else np.asarray(ids == unk_id)
    unknown = int(np.count_nonzero(is_unknown))
    return Report(
        run=run.name,
        split=split.name,
        nll=scores.nll,
        tokens=len(scores.log_prob),
        unknown=unknown,
        size=_scored_size(run, split),
        protocol=_protocol(run, split, len(scores.log_prob), unknown),
        impossible=int(np.count_nonzero(np.isneginf(scores.log_prob))),
        known_nll=TokenScores(scores.log_prob[~is_unknown]).nll if unknown else None,
    )


def _scored_size(run: Run, split: Split) -> TextSize | None:
    """Return the size of the part of the text that is scored.

    In a stream this part is the whole text. In rows it is every line that is not blank, without
    the first token of the line if there is no start token. None if only the last token of each
    line is scored, or if the tokenizer does not know where the first token ends.
    """
    size = _size(run, split)
    return size if size is None or split.has_words() else replace(size, words=0)


def _size(run: Run, split: Split) -> TextSize | None:
    """Return `_scored_size` with the parts between white space as words, in any text."""
    if run.protocol.last_only:
        return None
    if not run.protocol.rows:
        return split.text_size()
    lines = (line for line in split.source.lines() if line.strip())
    if split.tokenizer.vocabulary.start_id is not None:
        return TextSize.of(lines)
    parts = [split.tokenizer.after_first_token(line) for line in lines]
    return None if None in parts else TextSize.of(part for part in parts if part)


def _protocol(run: Run, split: Split, tokens: int, unknown: int) -> str:
    """Return the sentence that says which tokens were counted, and in which context."""
    reset = "state reset at each line"
    if run.protocol.start == WARM:
        reset = "each line from the warm state, after a stretch of the training text"
    if run.protocol.last_only:
        counted = f"{tokens:,} tokens, the last of each line alone; {reset}"
    elif run.protocol.rows and run.vocabulary.start_id is None:
        unit = run.tokenizer.unit
        counted = (
            f"{tokens:,} tokens of {sum(map(len, split.rows())):,} {unit}; the first of each line "
            f"is context and is not scored; {reset}"
        )
    elif run.protocol.rows:
        counted = f"{tokens:,} tokens, each once; {reset}"
    else:
        reads = (
            "state carried over line ends"
            if run.model.across_lines
            else "context cut at each line's start"
        )
        counted = f"{tokens:,} tokens, each once, the first included; one stream, {reads}"
    eos = "<eos> counted at each line's end" if "<eos>" in run.vocabulary else "no <eos>"
    return f"Counted: {counted}; {eos}; {unknown:,} <unk>; vocabulary {len(run.vocabulary):,}."


def perplexity(
    run: Run,
    split: Split | str | None = None,
    *,
    corpus: str | Path | None = None,
    text: str | Path | None = None,
) -> Report:
    """Return the exact perplexity of a run as a Report.

        PP = exp(-1/N Σ_t log P(w_t | w_1 ... w_{t-1}))

    `float(report)` is the number, and `print(report)` says how it was counted. A run that reads a
    stream scores every token once, `<eos>` and the first word included. A run that reads rows
    scores each line on its own: without a start token the first word of a line is not scored, and
    with positions "last" only the last word is scored. The sum is taken in float64, and the number
    depends neither on batch size nor on chunk length.

    Example:
      >>> import jaxlm
      >>> text = jaxlm.read_corpus("toy", eos=False)
      >>> run = jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=3), text, quiet=True)
      >>> round(float(jaxlm.perplexity(run)), 4)
      2.1106

    Args:
      run: the run.
      split: a Split, or "train", "valid" or "test"; None for the first of test, valid and train
        that exists. A Split goes without `corpus` and `text`.
      corpus: name or path of the corpus; None for the corpus that the run was trained on.
      text: a text file to evaluate as a whole, instead of a corpus.
    Raises:
      UserError: for a text that does not exist, is empty, or has a token that the vocabulary of the
        run lacks, if there is no `<unk>`.
      SettingError: for an argument that has no effect, such as a corpus beside a text.
    """
    if isinstance(split, Split):
        for name, value in {"corpus": corpus, "text": text}.items():
            if value is not None:
                raise SettingError(name, value, "has no effect with a Split: leave it out")
    else:
        split = open_split(run, corpus, split, text)
    return report(run, split, score_split(run, split))


def scored_ids(run: Run, split: Split) -> Iterator[tuple[int, str]]:
    """Yield the id and the text of every token that is scored, in the order of the scores."""
    tokens = run.vocabulary.tokens
    if not run.protocol.rows:
        yield from ((int(id_), tokens[id_]) for id_ in split.ids)
        return
    for row in rows_of(split)[1]:
        scored = row[-1:] if run.protocol.last_only else row
        yield from ((int(id_), tokens[id_]) for id_ in scored)


def _scored_texts(run: Run, split: Split) -> Iterator[str]:
    """Yield the text of every token that is scored, as it stands in the text."""
    tokenizer = run.tokenizer
    if run.vocabulary.unk is None or isinstance(split, PreparedSplit):
        # No token differs from its text, or the text is not kept.
        yield from (tokenizer.token_text(id_) for id_, _ in scored_ids(run, split))
    elif not run.protocol.rows:
        yield from tokenizer.pieces(split.source.lines())
    else:
        first = 0 if run.vocabulary.start_id is not None else 1
        for line in split.source.lines():
            pieces = list(tokenizer.pieces([line]))[first:] if line.strip() else []
            yield from pieces[-1:] if run.protocol.last_only else pieces


def write_per_token(run: Run, split: Split, scores: TokenScores, path: Path) -> None:
    """Write a tab-separated table with one line per token.

    Its columns are the token, its natural log-probability, its surprisal in bits, its rank, the
    entropy in bits, and the text of the token, which is the word itself where the token is `<unk>`.
    `fields` describes the escapes, so that a table that is read by another program has the same
    rows and different texts for different tokens.

    Args:
      run: the run.
      split: the text.
      scores: its scores, with detail.
      path: the file to write.
    Raises:
      SettingError: if the file cannot be written.
    """
    assert scores.rank is not None and scores.entropy is not None
    why = why_unwritable(path)
    if why is not None:
        raise SettingError("per_token", repr(str(path)), why)
    tokens = fields([run.tokenizer.token_text(id_) for id_, _ in scored_ids(run, split)])
    texts = fields(list(_scored_texts(run, split)))
    columns = zip(tokens, scores.log_prob, scores.rank, scores.entropy, texts, strict=True)
    try:
        with replacing(path) as partial, open(partial, "w", encoding="utf-8") as file:
            file.write("token\tlog_prob\tsurprisal_bits\trank\tentropy_bits\ttext\n")
            for token, log_prob, rank, entropy, text in columns:
                bits = -log_prob / math.log(2)
                file.write(
                    f"{token}\t{log_prob:z.6f}\t{bits:z.6f}\t{rank}\t"
                    f"{entropy / math.log(2):z.6f}\t{text}\n"
                )
    except OSError as error:
        raise SettingError("per_token", path, f"cannot be written: {reason(error)}") from None


def fields(texts: Sequence[str]) -> list[str]:
    """Return texts as a column of a tab-separated table that needs no quotes.

    - A backslash is doubled. A double quote, and a character that cannot be printed, such as a tab
      or a line break, is written with Python's escapes: \\x22, \\t, \\n.
    - The first character of a text that pandas or R would read as a missing value, such as NA or
      nan, is escaped too.
    - If all texts could be numbers or truth values, the same holds for those that a number would
      not bring back, such as 01 or True.
    - An empty text is \\e.

    Python's codec `unicode_escape` brings every text back except the empty text.

    Example:
      >>> fields(["cat", "\\n", "NA", "1.0", ""])
      ['cat', '\\\\n', '\\\\x4eA', '1.0', '\\\\e']
    """
    only_numbers = all(NUMBER.fullmatch(text) for text in set(texts))
    return [_field(text, only_numbers) for text in texts]


def _field(text: str, only_numbers: bool) -> str:
    """Return one field of `fields`."""
    if not text:
        return r"\e"
    changes = only_numbers and not INTEGER.fullmatch(text)
    if changes or text.strip().casefold() in MISSING:
        return _escaped(text[0], always=True) + _escaped(text[1:])
    return _escaped(text)


def _escaped(text: str, always: bool = False) -> str:
    """Return a text with escapes for the characters that need them, or for all if `always`."""
    if not always and text.isprintable() and '"' not in text and "\\" not in text:
        return text
    return "".join(
        f"\\x{ord(character):02x}"
        if character == '"' or (always and " " <= character <= "~")
        else character
        if character.isprintable() and character != "\\"
        else character.encode("unicode_escape").decode()
        for character in text
    )
