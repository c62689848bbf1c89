"""Exact perplexity, with its protocol: every token scored once, from sums and counts."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxlm.data.corpora import SPLITS, cache_folder, corpus_sources
from jaxlm.data.encoding import Split, TextSize
from jaxlm.data.shards import is_prepared, read_prepared
from jaxlm.data.sources import TextFile
from jaxlm.data.tokenizers import to_json
from jaxlm.errors import UserError, choose
from jaxlm.evaluation.scoring import Scorer, TokenScores
from jaxlm.runs.log import perplexity_of
from jaxlm.runs.run import Run


@dataclass(frozen=True)
class Report:
    """What a text cost a model. `nll` is summed, in nats; everything else follows from it and the
    counts.
    """

    run: str
    split: str
    nll: float
    tokens: int
    unknown: int
    size: TextSize | None
    protocol: str
    impossible: int = 0
    """Tokens that were given probability 0: any of them makes the perplexity infinite."""

    @property
    def nats_per_token(self) -> float:
        return self.nll / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(nll / tokens)."""
        return perplexity_of(self.nats_per_token)

    @property
    def bits(self) -> float:
        """The whole text's cost in bits."""
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
    """The text to measure `run` on, cut into tokens by the run's own tokenizer.

    corpus: by name or path (default: the one it was trained on); split: default test, or else
    valid, or else train; text: a file of its own, whole. Raises UserError for what does not exist
    or cannot be encoded.
    """
    if text is not None:
        if not Path(text).is_file():
            raise UserError(f"--text {text} does not exist")
        return _encoded(run, str(text), TextFile(Path(text)))
    settings = run.config.get("text", {})
    name = corpus or settings.get("corpus")
    if name is None:
        raise UserError(f"{run.name} does not say what it was trained on: give a corpus or a text")
    if is_prepared(Path(name)):
        return _prepared(run, name, split)
    fractions = settings.get("fractions") if corpus in (None, settings.get("corpus")) else None
    sources = corpus_sources(
        name, tuple(fractions) if fractions else None, run.tokenizer.name == "words"
    )
    split = split or next(choice for choice in reversed(SPLITS) if choice in sources)
    return _encoded(run, f"{name} {split}", choose(sources, split, f"split of {name}"))


def _prepared(run: Run, name: str, split: str | None) -> Split:
    tokenizer, splits = read_prepared(Path(name))
    if to_json(tokenizer) != to_json(run.tokenizer):
        raise UserError(
            f"{name} was prepared with other tokens than those of {run.name}: give the text itself"
        )
    split = split or next(choice for choice in reversed(SPLITS) if choice in splits)
    return choose(splits, split, f"split of {name}")


def _encoded(run: Run, name: str, source: object) -> Split:
    encoded = Split.encode(name, source, run.tokenizer, cache_folder)  # type: ignore[arg-type]
    if not len(encoded):
        raise UserError(f"{name} is empty: there is nothing to score")
    return encoded


def score(
    run: Run, split: Split, detail: bool = False, scorer: Scorer | None = None
) -> TokenScores:
    """The log-probability of every token that `run`'s protocol counts."""
    scorer = scorer or Scorer(run.model, detail)
    return scorer.split(run.params, split, run.in_rows, run.last_only)


def report(run: Run, split: Split, scores: TokenScores) -> Report:
    """The figures of `scores`, and how they were counted."""
    ids = split.ids if not run.in_rows else np.array([id_ for id_, _ in scored_ids(run, split)])
    unk_id = run.vocabulary.unk_id
    unknown = 0 if unk_id is None else int(np.count_nonzero(ids == unk_id))
    whole = not run.last_only
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
    if run.last_only:
        counted = f"{tokens:,} tokens, the last of each line alone; state reset at each line"
    elif run.in_rows:
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
    """The exact perplexity of `run`, as a Report: `float(report)` is the number, `print(report)`
    tells how it was counted.

        PP = exp(-1/N Σ_t log P(w_t | w_1 ... w_{t-1}))

    Every token is scored once, `<eos>` and the first word included, the sum taken in float64; the
    number depends neither on batch size nor on chunk length. `split` is a Split, or a name
    (default: test, or else valid, or else train) in `corpus` (default: the run's own); or give
    `text`, a file.

    Raises UserError for a text that does not exist, or cannot be encoded with the run's vocabulary.
    """
    if not isinstance(split, Split):
        split = open_split(run, corpus, split, text)
    return report(run, split, score(run, split))


def scored_ids(run: Run, split: Split) -> Iterator[tuple[int, str]]:
    """The id and text of every token that is scored, in the order of the scores."""
    from jaxlm.data.batching import rows_of

    tokens = run.vocabulary.tokens
    if not run.in_rows:
        yield from ((int(id_), tokens[id_]) for id_ in split.ids)
        return
    for row in rows_of(split)[1]:
        yield from ((int(id_), tokens[id_]) for id_ in (row[-1:] if run.last_only else row))


def write_per_token(run: Run, split: Split, scores: TokenScores, path: Path) -> None:
    """A table, tab-separated: token, natural log-probability, surprisal in bits, rank, entropy in
    bits.

    White space inside a token is written as JSON escapes, so that a line is a token. `scores` need
    detail.
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
        raise UserError(f"cannot write --per-token {path}: {error.strerror}") from None
