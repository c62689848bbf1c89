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
        ladders,
    )
    from jaxlm.inspection.figures import figure
    from jaxlm.inspection.gradients import (
        GradientByLag,
        GradientThroughTime,
        gradient_by_lag,
        gradient_through_time,
    )
    from jaxlm.inspection.report import write_report
    from jaxlm.inspection.traces import Trace, trace
    from jaxlm.inspection.units import FEATURES, UnitScore, find_units
    from jaxlm.inspection.unrolled import Unrolled, bptt
    from jaxlm.inspection.word_senses import Occurrence, Senses, senses
    from jaxlm.inspection.word_vectors import map2d, neighbours, vectors, write_projector

_HOMES = {
    "jaxlm.inspection.backing_off": (
        "Ladder",
        "NextCounts",
        "Rung",
        "TokenLadders",
        "backoff",
        "counts",
        "ladders",
    ),
    "jaxlm.inspection.figures": ("figure",),
    "jaxlm.inspection.gradients": (
        "GradientByLag",
        "GradientThroughTime",
        "gradient_by_lag",
        "gradient_through_time",
    ),
    "jaxlm.inspection.report": ("write_report",),
    "jaxlm.inspection.traces": (
        "Trace",
        "trace",
    ),
    "jaxlm.inspection.units": (
        "FEATURES",
        "UnitScore",
        "find_units",
    ),
    "jaxlm.inspection.unrolled": (
        "Unrolled",
        "bptt",
    ),
    "jaxlm.inspection.word_senses": (
        "Occurrence",
        "Senses",
        "senses",
    ),
    "jaxlm.inspection.word_vectors": (
        "map2d",
        "neighbours",
        "vectors",
        "write_projector",
    ),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "FEATURES",
    "GradientByLag",
    "GradientThroughTime",
    "Ladder",
    "NextCounts",
    "Occurrence",
    "Rung",
    "Senses",
    "TokenLadders",
    "Trace",
    "UnitScore",
    "Unrolled",
    "backoff",
    "bptt",
    "counts",
    "figure",
    "find_units",
    "gradient_by_lag",
    "gradient_through_time",
    "ladders",
    "map2d",
    "neighbours",
    "senses",
    "trace",
    "vectors",
    "write_projector",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'jaxlm.inspection' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
