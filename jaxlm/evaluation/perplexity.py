"""Exact perplexity, with its protocol: every token is scored once, from sums and counts."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from jaxlm.data.batching import rows_of
from jaxlm.data.corpora import SENTENCES, is_cut
from jaxlm.data.encoding import Split, TextSize
from jaxlm.data.files import replacing
from jaxlm.data.text import TextConfig, corpus_name, open_file, open_text
from jaxlm.errors import SettingError, UserError
from jaxlm.evaluation.scoring import Scorer, TokenScores
from jaxlm.runs.log import perplexity_of
from jaxlm.runs.protocol import WARM
from jaxlm.runs.run import Run
from jaxlm.runs.starts import start_of


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
        only the last token of each line was scored.
      protocol: sentences that say which tokens were counted.
      impossible: number of tokens with probability 0; above 0, the perplexity is infinite.
    """

    run: str
    split: str
    nll: float
    tokens: int
    unknown: int
    size: TextSize | None
    protocol: str
    impossible: int = 0

    @property
    def nats_per_token(self) -> float:
        """nll / tokens."""
        return self.nll / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(nll / tokens)."""
        return perplexity_of(self.nats_per_token)

    @property
    def bits(self) -> float:
        """The negative log-likelihood of all scored tokens in bits."""
        return self.nll / math.log(2)

    def __float__(self) -> float:
        return self.perplexity

    def __str__(self) -> str:
        per = {"token": self.tokens}
        if self.size:
            per |= {
                "word": self.size.words,
                "character": self.size.characters,
                "byte": self.size.bytes,
            }
        bits = ", ".join(
            f"{self.bits / count:.4f} a {unit}" for unit, count in per.items() if count
        )
        return (
            f"{self.run} on {self.split}: perplexity {self.perplexity:.2f} "
            f"({self.nats_per_token:.4f} nats a token; bits: {bits}). {self.protocol}"
        )


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
      UserError: for a text that does not exist, is empty or cannot be encoded.
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
        same = name == trained_on.get("corpus") and is_cut(name)
        own = trained_on if same else {}
        fractions = own.get("fractions")
        config = TextConfig(
            corpus=name,
            fractions=tuple(fractions) if fractions else None,
            encoding=encoding or own.get("encoding"),
            column=column or own.get("column"),
        )
        found = open_text(config, run.tokenizer).split(split)
        found = replace(found, name=f"{name} {found.name}")
    if not len(found):
        raise UserError(f"{found.name} is empty: there is nothing to score")
    return found


def check_where(corpus: str | Path | None, split: object, text: str | Path | None) -> None:
    """Raise SettingError for a corpus or a split beside a text, which is scored as a whole."""
    for name, value in {"split": split, "corpus": corpus}.items():
        if text is not None and value is not None:
            raise SettingError(name, value, "has no effect with a `text`: leave one of them out")


def score(
    run: Run, split: Split, detail: bool = False, scorer: Scorer | None = None
) -> TokenScores:
    """Return the log-probability of every token that the run's protocol counts.

    Args:
      run: the run.
      split: the text.
      detail: whether to compute ranks and entropies too. Ignored if `scorer` is given.
      scorer: a scorer of the run's model; None for a new Scorer without a mesh.
    """
    scorer = scorer or Scorer(run.model, detail)
    protocol, carry = run.protocol, None
    if protocol.start == WARM:
        start = start_of(run, WARM)
        carry = start.carry
        if run.vocabulary.start_id is None:
            # No start token precedes the lines, so the whole stretch is read here.
            last = np.array([start.ids], np.int32)
            carry = run.model.next_log_probs(run.params, last, carry)[1]
    return scorer.split(run.params, split, protocol.rows, protocol.last_only, carry)


def report(run: Run, split: Split, scores: TokenScores) -> Report:
    """Return the report of a run on a split whose tokens have been scored (`score`)."""
    ids = split.ids
    if run.protocol.rows:
        ids = np.array([id_ for id_, _ in scored_ids(run, split)])
    unk_id = run.vocabulary.unk_id
    unknown = 0 if unk_id is None else int(np.count_nonzero(ids == unk_id))
    return Report(
        run=run.name,
        split=split.name,
        nll=scores.nll,
        tokens=len(scores.log_prob),
        unknown=unknown,
        size=_scored_size(run, split),
        protocol=_protocol(run, len(scores.log_prob), unknown),
        impossible=int(np.count_nonzero(np.isneginf(scores.log_prob))),
    )


def _scored_size(run: Run, split: Split) -> TextSize | None:
    """Return the size of the part of the text that is scored.

    In a stream this part is the whole text. In rows it is every line that is not blank, without
    the first token of the line if there is no start token. None if only the last token of each
    line is scored, or if the tokenizer does not know where the first token ends.
    """
    if run.protocol.last_only:
        return None
    if not run.protocol.rows:
        return split.text_size()
    lines = (line for line in split.source.lines() if line.strip())
    if split.tokenizer.vocabulary.start_id is not None:
        return TextSize.of(lines)
    parts = [split.tokenizer.after_first_token(line) for line in lines]
    return None if None in parts else TextSize.of(part for part in parts if part)


def _protocol(run: Run, tokens: int, unknown: int) -> str:
    """Return the sentence that says which tokens were counted, and in which context."""
    reset = "state reset at each line"
    if run.protocol.start == WARM:
        reset = "each line from the warm state, after a stretch of the training text"
    if run.protocol.last_only:
        counted = f"{tokens:,} tokens, the last of each line alone; {reset}"
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
    return report(run, split, score(run, split))


def scored_ids(run: Run, split: Split) -> Iterator[tuple[int, str]]:
    """Yield the id and the text of every token that is scored, in the order of the scores."""
    tokens = run.vocabulary.tokens
    if not run.protocol.rows:
        yield from ((int(id_), tokens[id_]) for id_ in split.ids)
        return
    for row in rows_of(split)[1]:
        scored = row[-1:] if run.protocol.last_only else row
        yield from ((int(id_), tokens[id_]) for id_ in scored)


def write_per_token(run: Run, split: Split, scores: TokenScores, path: Path) -> None:
    """Write a tab-separated table: token, log-probability, surprisal, rank and entropy.

    The log-probability is natural; surprisal and entropy are in bits. Characters of a token that
    cannot be printed, such as a tab or a line break, are written with Python's escapes, such as
    \\n, so that each line is one token.

    Args:
      run: the run.
      split: the text.
      scores: its scores, with detail.
      path: the file to write.
    Raises:
      SettingError: if the file cannot be written.
    """
    assert scores.rank is not None and scores.entropy is not None
    columns = zip(scored_ids(run, split), scores.log_prob, scores.rank, scores.entropy, strict=True)
    try:
        with replacing(path) as partial, open(partial, "w", encoding="utf-8") as file:
            file.write("token\tlog_prob\tsurprisal_bits\trank\tentropy_bits\n")
            for (_, token), log_prob, rank, entropy in columns:
                bits = -log_prob / math.log(2)
                file.write(
                    f"{_printable(token)}\t{log_prob:.6f}\t{bits:.6f}\t{rank}\t"
                    f"{entropy / math.log(2):.6f}\n"
                )
    except OSError as error:
        raise SettingError("per_token", path, f"cannot be written: {error.strerror}") from None


def _printable(token: str) -> str:
    """Return a token with Python's escapes for the characters that cannot be printed."""
    if token.isprintable():
        return token
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in token
    )
