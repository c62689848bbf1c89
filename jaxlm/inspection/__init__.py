"""What a trained model does inside: its gates, states and probabilities, as data.

    trace = jaxlm.inspection.trace(run, "the text")

A name is imported when it is first used (PEP 562).
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxlm.inspection.backing_off import (
        Ladder,
        NextCounts,
        Rung,
        TokenLadders,
        backoff,
        counts,
    )
    from jaxlm.inspection.traces import Trace, trace
    from jaxlm.inspection.units import FEATURES, UnitScore, find_units

_HOMES = {
    "jaxlm.inspection.backing_off": (
        "Ladder",
        "NextCounts",
        "Rung",
        "TokenLadders",
        "backoff",
        "counts",
    ),
    "jaxlm.inspection.traces": ("Trace", "trace"),
    "jaxlm.inspection.units": ("FEATURES", "UnitScore", "find_units"),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "FEATURES",
    "Ladder",
    "NextCounts",
    "Rung",
    "TokenLadders",
    "Trace",
    "UnitScore",
    "backoff",
    "counts",
    "find_units",
    "trace",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'jaxlm.inspection' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
