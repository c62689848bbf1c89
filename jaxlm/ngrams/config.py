"""The settings of counting n-grams."""

from dataclasses import dataclass
from typing import Annotated

from jaxlm.ranges import Range

Threshold = Annotated[int, Range(0)]
"""A number of occurrences at which an n-gram is left out."""
Share = Annotated[float, Range(above=0, below=1)]
"""A relative change of the perplexity."""


@dataclass(frozen=True)
class CountingConfig:
    """Settings of counting n-grams."""

    positions: str = "all"
    """Lines without <eos>: all (predict every word but the first) or last (the lecture)."""
    memory: str | None = None
    """Count within this much memory, such as 2GB, on disk if needed (none: all in memory)."""
    engine: str = "duckdb"
    """Engine that counts on disk: duckdb or spark, each installed by an extra of its name."""
    like_lmplz: bool = False
    """Modified Kneser-Ney only: estimate the discounts exactly as KenLM's lmplz does, which counts
    one n-gram of each lower order differently (give `unk` always too: lmplz always has <unk>)."""
    prune: tuple[Threshold, ...] | None = None
    """Leave out n-grams that occur at most this often, by order, as lmplz's --prune 0 0 1: all
    trigrams and longer n-grams that occur once (none: keep all)."""
    prune_entropy: Share | None = None
    """Leave out n-grams whose removal makes the perplexity larger by less than this share, such as
    1e-8, as SRILM's -prune (Stolcke 1998; none: keep all)."""
    prune_history: str = "counts"
    """For pruning by entropy: where the probability of a context comes from: counts (of the
    training text; better with Kneser-Ney) or model (the n-gram's own, as SRILM's -prune)."""
