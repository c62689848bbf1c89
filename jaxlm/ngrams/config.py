"""The settings of counting."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CountingConfig:
    """How n-grams are counted."""

    positions: str = "all"
    """Lines without <eos>: predict every word but the first (all), or only the last (the
    lecture)."""
    memory: str | None = None
    """Count within this much memory, such as 2GB, on disk where needed (none: all in memory)."""
    engine: str = "duckdb"
    """What counts on disk: duckdb or spark (extras of those names)."""
