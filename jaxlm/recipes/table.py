"""The type of a recipe."""

from typing import Any

Recipe = dict[str, Any]
"""The keys are settings, by_model, paper, published, expected and measured: see `jaxlm.recipes`."""


def not_yet_run(
    settings: dict[str, Any], paper: str, published: dict[str, float] | None = None
) -> Recipe:
    """Return a recipe that has not been run yet."""
    return {
        "settings": settings,
        "paper": paper,
        "published": published or {},
        "expected": {},
        "measured": {},
    }
