"""jaxlm: the ladder of classic language models, in JAX and Flax.

n-gram -> NPLM (Bengio 2003) -> Elman RNN -> GRU -> LSTM

    text = jaxlm.read_corpus("toy", eos=False)
    model = jaxlm.NPLM(vocab_size=len(text.vocabulary), n_step=2, embedding_size=2, hidden_size=2)
    run = jaxlm.fit(model, text, batching="rows", positions="last", batch_size=3, lr=0.1)
    jaxlm.next_words(run, "我 讨厌")

Axis letters in array names (`x_BTD`) are explained in `jaxlm.shapes`.
"""

from jaxlm.data.batching import BatchingConfig
from jaxlm.data.corpora import CORPORA
from jaxlm.data.text import Text, TextConfig, read_corpus
from jaxlm.data.vocabulary import Vocabulary
from jaxlm.errors import UserError
from jaxlm.evaluation.adaptation import Adaptation, adapted
from jaxlm.evaluation.generation import SamplingConfig, next_words, sample
from jaxlm.evaluation.mixing import Mixed, mixture
from jaxlm.evaluation.perplexity import Report, perplexity
from jaxlm.models import (
    CELLS,
    GRU,
    LSTM,
    MODELS,
    NPLM,
    RNN,
    LanguageModel,
    NeuralModel,
    NGram,
    Recurrent,
)
from jaxlm.recipes import RECIPES
from jaxlm.runs.plots import LiveCurve
from jaxlm.runs.run import Run, load
from jaxlm.training.counting import CountingConfig
from jaxlm.training.fit import fit, fit_many
from jaxlm.training.optimizers import OptimizerConfig
from jaxlm.training.progress import TrainingConfig

__version__ = "0.1.0"

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
    "CountingConfig",
    "LanguageModel",
    "LiveCurve",
    "Mixed",
    "NGram",
    "NeuralModel",
    "OptimizerConfig",
    "Recurrent",
    "Report",
    "Run",
    "SamplingConfig",
    "Text",
    "TextConfig",
    "TrainingConfig",
    "UserError",
    "Vocabulary",
    "adapted",
    "fit",
    "fit_many",
    "load",
    "mixture",
    "next_words",
    "perplexity",
    "read_corpus",
    "sample",
]
