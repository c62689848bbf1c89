"""What a trained model does inside: its gates, states and probabilities, as data.

    trace = jaxlm.inspection.trace(run, "the text")

A name is imported when it is first used (PEP 562).
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxlm.inspection.traces import NGramTrace, Trace, trace
    from jaxlm.inspection.units import FEATURES, UnitScore, find_units

_HOMES = {
    "jaxlm.inspection.traces": ("NGramTrace", "Trace", "trace"),
    "jaxlm.inspection.units": ("FEATURES", "UnitScore", "find_units"),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "FEATURES",
    "NGramTrace",
    "Trace",
    "UnitScore",
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
