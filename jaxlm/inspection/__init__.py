"""What a trained model does inside: its gates, states and probabilities, as data.

    trace = jaxlm.inspection.trace(run, "the text")

A name is imported when it is first used (PEP 562).
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxlm.inspection.backing_off import Ladder, NextCounts, Rung, backoff, counts, ladders
    from jaxlm.inspection.word_senses import Occurrence, Senses, senses
    from jaxlm.inspection.word_vectors import map2d, neighbours, vectors, write_projector

_HOMES = {
    "jaxlm.inspection.backing_off": (
        "Ladder",
        "NextCounts",
        "Rung",
        "backoff",
        "counts",
        "ladders",
    ),
    "jaxlm.inspection.word_senses": ("Occurrence", "Senses", "senses"),
    "jaxlm.inspection.word_vectors": ("map2d", "neighbours", "vectors", "write_projector"),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Ladder",
    "NextCounts",
    "Occurrence",
    "Rung",
    "Senses",
    "backoff",
    "counts",
    "ladders",
    "map2d",
    "neighbours",
    "senses",
    "vectors",
    "write_projector",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'jaxlm.inspection' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
