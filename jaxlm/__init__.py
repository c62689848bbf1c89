"""jaxlm: the ladder of classic language models, in JAX and Flax.

n-gram -> NPLM (Bengio 2003) -> Elman RNN -> GRU -> LSTM -> their descendants

    text = jaxlm.read_corpus("toy", eos=False)
    model = jaxlm.NPLM(vocab_size=len(text.vocabulary), n_step=2, embedding_size=2, hidden_size=2)
    run = jaxlm.fit(model, text, batching="rows", positions="last", batch_size=3, lr=0.1)
    jaxlm.next_words(run, "我 讨厌")

`jaxlm.shapes` explains the axis letters in array names such as `x_BTD`. A name is imported when it
is first used (PEP 562), so that asking an n-gram does not import JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxlm.data.batching import BatchingConfig
    from jaxlm.data.corpora import CORPORA
    from jaxlm.data.small_batch import SmallBatch, make_batch
    from jaxlm.data.text import Text, TextConfig, read_corpus
    from jaxlm.data.vocabulary import Vocabulary
    from jaxlm.errors import SettingError, UserError
    from jaxlm.evaluation.adaptation import Adaptation, adapted
    from jaxlm.evaluation.comparing import Comparison, compare
    from jaxlm.evaluation.generation import SamplingConfig, next_words, sample
    from jaxlm.evaluation.mixed_runs import MixedRun, interpolate
    from jaxlm.evaluation.mixing import Mixed, mixture
    from jaxlm.evaluation.pairs import PairScores, pairs
    from jaxlm.evaluation.perplexity import Report, perplexity
    from jaxlm.evaluation.sentences import score
    from jaxlm.evaluation.session import Session
    from jaxlm.models.base import LanguageModel
    from jaxlm.models.cells import CELLS
    from jaxlm.models.modern_nplm import ModernNPLM
    from jaxlm.models.neural import NeuralModel
    from jaxlm.models.ngram import NGram
    from jaxlm.models.nplm import NPLM
    from jaxlm.models.recurrent.model import GRU, LSTM, RNN, Recurrent
    from jaxlm.models.recurrent.mogrifier import Mogrifier
    from jaxlm.models.registry import MODELS, register_cell, register_model
    from jaxlm.models.transformer import Transformer
    from jaxlm.ngrams.config import CountingConfig
    from jaxlm.recipes import RECIPES
    from jaxlm.runs.plots import LiveCurve
    from jaxlm.runs.protocol import Protocol
    from jaxlm.runs.pruning import prune
    from jaxlm.runs.run import Run, load
    from jaxlm.runs.starts import by_lines
    from jaxlm.training.config import RunConfig, TrainingConfig
    from jaxlm.training.fit import fit, fit_many
    from jaxlm.training.optimizers import OptimizerConfig

__version__ = "0.1.0"

_HOMES = {
    "jaxlm.data.batching": ("BatchingConfig",),
    "jaxlm.data.corpora": ("CORPORA",),
    "jaxlm.data.small_batch": ("SmallBatch", "make_batch"),
    "jaxlm.data.text": ("Text", "TextConfig", "read_corpus"),
    "jaxlm.data.vocabulary": ("Vocabulary",),
    "jaxlm.errors": ("SettingError", "UserError"),
    "jaxlm.evaluation.adaptation": ("Adaptation", "adapted"),
    "jaxlm.evaluation.comparing": ("Comparison", "compare"),
    "jaxlm.evaluation.generation": ("SamplingConfig", "next_words", "sample"),
    "jaxlm.evaluation.pairs": ("PairScores", "pairs"),
    "jaxlm.evaluation.sentences": ("score",),
    "jaxlm.evaluation.session": ("Session",),
    "jaxlm.evaluation.mixed_runs": ("MixedRun", "interpolate"),
    "jaxlm.evaluation.mixing": ("Mixed", "mixture"),
    "jaxlm.evaluation.perplexity": ("Report", "perplexity"),
    "jaxlm.models.base": ("LanguageModel",),
    "jaxlm.models.cells": ("CELLS",),
    "jaxlm.models.modern_nplm": ("ModernNPLM",),
    "jaxlm.models.neural": ("NeuralModel",),
    "jaxlm.models.ngram": ("NGram",),
    "jaxlm.models.nplm": ("NPLM",),
    "jaxlm.models.recurrent.model": ("GRU", "LSTM", "RNN", "Recurrent"),
    "jaxlm.models.recurrent.mogrifier": ("Mogrifier",),
    "jaxlm.models.registry": ("MODELS", "register_cell", "register_model"),
    "jaxlm.models.transformer": ("Transformer",),
    "jaxlm.ngrams.config": ("CountingConfig",),
    "jaxlm.recipes": ("RECIPES",),
    "jaxlm.runs.plots": ("LiveCurve",),
    "jaxlm.runs.protocol": ("Protocol",),
    "jaxlm.runs.pruning": ("prune",),
    "jaxlm.runs.run": ("Run", "load"),
    "jaxlm.runs.starts": ("by_lines",),
    "jaxlm.training.config": ("RunConfig", "TrainingConfig"),
    "jaxlm.training.fit": ("fit", "fit_many"),
    "jaxlm.training.optimizers": ("OptimizerConfig",),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "CELLS",
    "CORPORA",
    "GRU",
    "LSTM",
    "MODELS",
    "NPLM",
    "RECIPES",
    "RNN",
    "Adaptation",
    "BatchingConfig",
    "Comparison",
    "CountingConfig",
    "LanguageModel",
    "LiveCurve",
    "Mixed",
    "MixedRun",
    "ModernNPLM",
    "Mogrifier",
    "NGram",
    "NeuralModel",
    "OptimizerConfig",
    "PairScores",
    "Protocol",
    "Recurrent",
    "Report",
    "Run",
    "RunConfig",
    "SamplingConfig",
    "Session",
    "SettingError",
    "SmallBatch",
    "Text",
    "TextConfig",
    "TrainingConfig",
    "Transformer",
    "UserError",
    "Vocabulary",
    "adapted",
    "by_lines",
    "compare",
    "fit",
    "fit_many",
    "interpolate",
    "load",
    "make_batch",
    "mixture",
    "next_words",
    "pairs",
    "perplexity",
    "prune",
    "read_corpus",
    "register_cell",
    "register_model",
    "sample",
    "score",
]


def __getattr__(name: str) -> Any:
    if name == "inspection":
        return importlib.import_module("jaxlm.inspection")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'jaxlm' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
