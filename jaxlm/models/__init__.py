"""The ladder of models. A new one is one file here and one line in MODELS."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any, NamedTuple

from jaxlm.errors import UserError, choose
from jaxlm.models.base import LanguageModel
from jaxlm.models.cells import CELLS
from jaxlm.models.modern_nplm import ModernNPLM, ModernNPLMConfig
from jaxlm.models.neural import NeuralModel
from jaxlm.models.ngram import NGram, NGramConfig
from jaxlm.models.nplm import NPLM, NPLMConfig
from jaxlm.models.recurrent.model import GRU, LSTM, RNN, Recurrent, RecurrentConfig
from jaxlm.models.recurrent.mogrifier import Mogrifier, MogrifierConfig
from jaxlm.ops.machine import default_dtype

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
    "describe_model",
    "make_model",
]


class ModelEntry(NamedTuple):
    """A model by name: what configures it, what makes it from a configuration's fields, and its
    class, which says how it is trained.
    """

    config: type
    make: Callable[..., LanguageModel]
    kind: type[LanguageModel]


def _recurrent(name: str) -> ModelEntry:
    def make(**fields: Any) -> Recurrent:
        return Recurrent(cell=CELLS[name], **fields)

    return ModelEntry(RecurrentConfig, make, Recurrent)


MODELS: dict[str, ModelEntry] = {
    "ngram": ModelEntry(NGramConfig, NGram, NGram),
    "nplm": ModelEntry(NPLMConfig, NPLM, NPLM),
    "modern-nplm": ModelEntry(ModernNPLMConfig, ModernNPLM, ModernNPLM),
    **{name: _recurrent(name) for name in CELLS},
    "mogrifier": ModelEntry(MogrifierConfig, Mogrifier, Mogrifier),
}


def make_model(
    name: str, config: Any, vocab_size: int, start_id: int | None = None
) -> LanguageModel:
    """The model called `name`, as `config` (of MODELS[name].config) describes it; `start_id` is the
    token that stands before a text, None if there is none. A dtype that is not given is that of the
    machine (`ops.kernels.default_dtype`). Raises UserError for an unknown name.
    """
    fields = vars(config) if not isinstance(config, dict) else config
    # JSON has no tuples, and a model's fields must be hashable.
    fields = {key: tuple(one) if isinstance(one, list) else one for key, one in fields.items()}
    if "dtype" in fields and fields["dtype"] is None:
        fields["dtype"] = default_dtype()
    return choose(MODELS, name, "model").make(vocab_size=vocab_size, start_id=start_id, **fields)


def describe_model(model: LanguageModel) -> tuple[str, dict[str, Any]]:
    """The inverse of `make_model`: the name in MODELS and the configuration's fields.

    Raises UserError for a model that MODELS cannot make, which a run folder therefore could not
    bring back.
    """
    # A kind of its own before the kind it is made from.
    kinds = {entry.kind for entry in MODELS.values() if isinstance(model, entry.kind)}
    closest = max(kinds, key=lambda kind: len(kind.__mro__), default=None)
    for name, entry in MODELS.items():
        if entry.kind is not closest:
            continue
        network = {field.name: getattr(model, field.name, None) for field in fields(entry.config)}
        same = entry.make(vocab_size=model.vocab_size, start_id=model.start_id, **network)
        if getattr(model, "cell", None) == getattr(same, "cell", None):
            return name, network
    cell = f" with {model.cell}" if hasattr(model, "cell") else ""
    raise UserError(
        f"{type(model).__name__}{cell} is not in MODELS ({', '.join(MODELS)}): add its line, "
        f"so that its run can be loaded"
    )
