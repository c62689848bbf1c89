"""What a recipe is."""

from typing import Any

Recipe = dict[str, Any]
"""settings, paper, published, expected and measured: see `jaxlm.recipes`."""


def not_yet_run(
    settings: dict[str, Any], paper: str, published: dict[str, float] | None = None
) -> Recipe:
    """A recipe whose own numbers are not known yet."""
    return {
        "settings": settings,
        "paper": paper,
        "published": published or {},
        "expected": {},
        "measured": {},
    }
