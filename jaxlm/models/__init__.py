"""The language models. A new model is one file here, and one line in `registry.MODELS`."""

from typing import Any

from jaxlm.models.base import LanguageModel
from jaxlm.models.registry import (
    MODELS,
    describe_model,
    make_model,
    register_cell,
    register_model,
)

# These names are imported when they are first used. The neural models need JAX and Flax; the n-gram
# needs neither.
_LAZY = {
    "CELLS": "jaxlm.models.cells",
    "GRU": "jaxlm.models.recurrent.model",
    "LSTM": "jaxlm.models.recurrent.model",
    "NGram": "jaxlm.models.ngram",
    "NPLM": "jaxlm.models.nplm",
    "ModernNPLM": "jaxlm.models.modern_nplm",
    "Mogrifier": "jaxlm.models.recurrent.mogrifier",
    "NeuralModel": "jaxlm.models.neural",
    "RNN": "jaxlm.models.recurrent.model",
    "Recurrent": "jaxlm.models.recurrent.model",
    "Transformer": "jaxlm.models.transformer",
}

__all__ = [
    "CELLS",
    "GRU",
    "LSTM",
    "MODELS",
    "NPLM",
    "RNN",
    "LanguageModel",
    "ModernNPLM",
    "Mogrifier",
    "NGram",
    "NeuralModel",
    "Recurrent",
    "Transformer",
    "describe_model",
    "make_model",
    "register_cell",
    "register_model",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
