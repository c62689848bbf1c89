"""Exact perplexity, with its protocol: every token is scored once, from sums and counts."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from jaxlm.data.batching import rows_of
from jaxlm.data.encoding import Split, TextSize
from jaxlm.data.text import TextConfig, open_file, open_text
from jaxlm.errors import SettingError, UserError
from jaxlm.evaluation.scoring import Scorer, TokenScores
from jaxlm.runs.log import perplexity_of
from jaxlm.runs.run import Run


@dataclass(frozen=True)
class Report:
    """The score of a run on a text: the sums, and how they were counted.

    Attributes:
      run: name of the run.
      split: name of the text.
      nll: negative log-likelihood in nats, summed over the scored tokens.
      tokens: number of scored tokens.
      unknown: number of scored tokens that are `<unk>`.
      size: size of the text, for bits per word, character and byte; None if only the last token of
        each line was scored.
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
    run: Run, corpus: str | None = None, split: str | None = None, text: str | Path | None = None
) -> Split:
    """Return the text to evaluate a run on, cut into tokens by the tokenizer of the run.

    Args:
      run: the run.
      corpus: name or path of the corpus; None for the corpus that the run was trained on.
      split: "train", "valid" or "test"; None for the first of test, valid and train that exists.
      text: a text file to evaluate as a whole, instead of a corpus.
    Raises:
      UserError: for a text that does not exist, is empty or cannot be encoded.
    """
    if text is not None:
        found = open_file(text, run.tokenizer)
    else:
        trained_on = run.settings.get("text", {})
        name = corpus or trained_on.get("corpus")
        if name is None:
            raise UserError(
                f"{run.name} does not say what it was trained on: give a corpus or a text"
            )
        fractions = trained_on.get("fractions") if name == trained_on.get("corpus") else None
        config = TextConfig(corpus=name, fractions=tuple(fractions) if fractions else None)
        found = open_text(config, run.tokenizer).split(split)
        found = replace(found, name=f"{name} {found.name}")
    if not len(found):
        raise UserError(f"{found.name} is empty: there is nothing to score")
    return found


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
    return scorer.split(run.params, split, run.protocol.rows, run.protocol.last_only)


def report(run: Run, split: Split, scores: TokenScores) -> Report:
    """Return the report of a run on a split whose tokens have been scored (`score`)."""
    ids = split.ids
    if run.protocol.rows:
        ids = np.array([id_ for id_, _ in scored_ids(run, split)])
    unk_id = run.vocabulary.unk_id
    unknown = 0 if unk_id is None else int(np.count_nonzero(ids == unk_id))
    whole = not run.protocol.last_only
    return Report(
        run=run.name,
        split=split.name,
        nll=scores.nll,
        tokens=len(scores.log_prob),
        unknown=unknown,
        size=split.text_size() if whole else None,
        protocol=_protocol(run, len(scores.log_prob), unknown),
        impossible=int(np.count_nonzero(np.isneginf(scores.log_prob))),
    )


def _protocol(run: Run, tokens: int, unknown: int) -> str:
    """Return the sentence that says which tokens were counted, and in which context."""
    if run.protocol.last_only:
        counted = f"{tokens:,} tokens, the last of each line alone; state reset at each line"
    elif run.protocol.rows:
        counted = f"{tokens:,} tokens, each once; state reset at each line"
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
    corpus: str | None = None,
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
        that exists. With a Split, `corpus` and `text` are ignored.
      corpus: name or path of the corpus; None for the corpus that the run was trained on.
      text: a text file to evaluate as a whole, instead of a corpus.
    Raises:
      UserError: for a text that does not exist, is empty, or has a token that the vocabulary of the
        run lacks, if there is no `<unk>`.
    """
    if not isinstance(split, Split):
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

    The log-probability is natural; surprisal and entropy are in bits. A token that is white space
    or has a tab is written with Python's escapes, such as \\n, so that each line is one token.

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
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "w", encoding="utf-8") as file:
            file.write("token\tlog_prob\tsurprisal_bits\trank\tentropy_bits\n")
            for (_, token), log_prob, rank, entropy in columns:
                shown = (
                    token.encode("unicode_escape").decode()
                    if token.isspace() or "\t" in token
                    else token
                )
                bits = -log_prob / math.log(2)
                file.write(
                    f"{shown}\t{log_prob:.6f}\t{bits:.6f}\t{rank}\t{entropy / math.log(2):.6f}\n"
                )
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise SettingError("per_token", path, f"cannot be written: {error.strerror}") from None
