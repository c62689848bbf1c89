"""The settings of counting n-grams."""

from dataclasses import dataclass


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
