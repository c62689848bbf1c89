"""The models by name. A new model or cell is one file and one line in MODELS, or a call of
register_model or register_cell.
"""

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxlm.errors import UserError, choose
from jaxlm.models.base import LanguageModel
from jaxlm.models.settings import Setting, model_settings

if TYPE_CHECKING:
    from jaxlm.models.cells import Cell


class ModelEntry(NamedTuple):
    """An entry of MODELS: the class of a model, and the cell of a recurrent model."""

    target: str | type[LanguageModel]
    """The class, or its module and name, such as "jaxlm.models.nplm:NPLM". A class that is given by
    name is imported, and JAX with it, when it is first used."""
    cell: "str | Cell | None" = None
    """The cell of a recurrent model, or its module and class, such as
    "jaxlm.models.cells.gru:GRUCell"; None for other models."""

    @property
    def kind(self) -> type[LanguageModel]:
        """The model's class."""
        if not isinstance(self.target, str):
            return self.target
        kind: type[LanguageModel] = _import(self.target)
        return kind

    def make_cell(self) -> "Cell":
        """Return the cell of a recurrent model."""
        assert self.cell is not None
        cell: Cell = _import(self.cell)() if isinstance(self.cell, str) else self.cell
        return cell

    @property
    def settings(self) -> dict[str, Setting]:
        """The settings of the model by name."""
        return model_settings(self.kind)

    def make(self, vocab_size: int, start_id: int | None, **settings: Any) -> LanguageModel:
        """Return the model with these settings. A setting that you leave out has its default."""
        fixed = {} if self.cell is None else {"cell": self.make_cell()}
        return self.kind(vocab_size=vocab_size, start_id=start_id, **fixed, **settings)  # type: ignore[call-arg]


def _import(target: str) -> Any:
    """Return the object that a text such as "jaxlm.models.nplm:NPLM" names."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


_RECURRENT = "jaxlm.models.recurrent.model:Recurrent"

MODELS: dict[str, ModelEntry] = {
    "ngram": ModelEntry("jaxlm.models.ngram:NGram"),
    "nplm": ModelEntry("jaxlm.models.nplm:NPLM"),
    "modern-nplm": ModelEntry("jaxlm.models.modern_nplm:ModernNPLM"),
    "transformer": ModelEntry("jaxlm.models.transformer:Transformer"),
    "rnn": ModelEntry(_RECURRENT, "jaxlm.models.cells.elman:ElmanCell"),
    "gru": ModelEntry(_RECURRENT, "jaxlm.models.cells.gru:GRUCell"),
    "lstm": ModelEntry(_RECURRENT, "jaxlm.models.cells.lstm:LSTMCell"),
    "mingru": ModelEntry(_RECURRENT, "jaxlm.models.cells.min_gru:MinGRUCell"),
    "minlstm": ModelEntry(_RECURRENT, "jaxlm.models.cells.min_lstm:MinLSTMCell"),
    "mogrifier": ModelEntry("jaxlm.models.recurrent.mogrifier:Mogrifier"),
}


def register_model(name: str, model_class: type[LanguageModel]) -> None:
    """Register your own model class under a name.

    Runs of the model can then be saved and loaded, and `--model NAME` trains it, with a flag for
    each field of the class. For the commands, put the class and this call into a file, and give the
    file as `--plugin FILE.py`.

    Example:
      >>> import jaxlm
      >>> class WiderNPLM(jaxlm.NPLM):
      ...     hidden_size: int = 400
      >>> jaxlm.register_model("wider-nplm", WiderNPLM)

    Raises:
      UserError: for a name that another class has, or a class that is not a LanguageModel.
    """
    if not (isinstance(model_class, type) and issubclass(model_class, LanguageModel)):
        raise UserError(f"register_model takes a subclass of LanguageModel, not {model_class!r}")
    entry = ModelEntry(model_class)
    taken = MODELS.get(name)
    if taken is not None and taken.cell is not None:
        raise UserError(f"the name {name!r} is taken by the cell {taken.make_cell()}")
    if taken is not None and not _same_source(taken.kind, model_class):
        raise UserError(f"the name {name!r} is taken by {taken.kind.__name__}")
    MODELS[name] = entry


def register_cell(name: str, cell: "Cell") -> None:
    """Register your own cell under a name, and `Recurrent` with this cell as a model of that name.

    Example:
      >>> import jaxlm
      >>> from jaxlm.models.cells import ElmanCell
      >>> class MyCell(ElmanCell):
      ...     pass
      >>> jaxlm.register_cell("my-cell", MyCell())

    Raises:
      UserError: for a name that another cell or model has, or a value that is not a Cell.
    """
    from jaxlm.models.cells import CELLS, Cell

    if not isinstance(cell, Cell):
        raise UserError(f"register_cell takes an instance of a Cell, not {cell!r}")
    taken = CELLS.get(name) or MODELS.get(name)
    if taken is not None and not _same_source(type(taken), type(cell)):
        raise UserError(f"the name {name!r} is taken by {taken}")
    CELLS[name] = cell
    MODELS[name] = ModelEntry(_RECURRENT, cell)


def _same_source(first: type, second: type) -> bool:
    """Return whether two classes have the same module and name.

    If so, they are the same class, or a notebook has run the code of the class again.
    """
    return (first.__module__, first.__qualname__) == (second.__module__, second.__qualname__)


def make_model(
    name: str, settings: Mapping[str, Any], vocab_size: int, start_id: int | None = None
) -> LanguageModel:
    """Return the model that is registered as `name`, with the given settings.

    Example:
      >>> make_model("nplm", {"n_step": 2, "hidden_size": 2}, vocab_size=7).n_step
      2

    Args:
      name: a name in MODELS.
      settings: values of the model's settings by name. The other settings have their defaults.
        Lists become tuples, because JSON stores a tuple as a list.
      vocab_size: number of tokens that the model knows.
      start_id: id of the token before the first token of a text; None if there is none.

    Raises:
      UserError: for an unknown model or setting.
    """
    entry = choose(MODELS, name, "model")
    values: dict[str, Any] = {}
    for key, value in settings.items():
        choose(entry.settings, key, f"setting of {name}")
        values[key] = tuple(value) if isinstance(value, list) else value
    return entry.make(vocab_size, start_id, **values)


def name_of(model: LanguageModel) -> str | None:
    """Return the name in MODELS of a model's class and cell; None if it is not registered."""
    # RNN, GRU and LSTM only set the cell of `Recurrent`, and are registered as `Recurrent`.
    model_class = type(model).__dict__.get("stands_for", type(model))
    for name, entry in MODELS.items():
        # Other names are skipped first, because `kind` imports the class.
        if isinstance(entry.target, str) and entry.target.partition(":")[2] != model_class.__name__:
            continue
        if entry.kind is not model_class:
            continue
        if entry.cell is None or entry.make_cell() == getattr(model, "cell", None):
            return name
    return None


def describe_model(model: LanguageModel) -> tuple[str, dict[str, Any]]:
    """Return the name and settings from which `make_model` makes an equal model.

    Raises:
      UserError: for a model that is not registered, because its run could not be loaded.
    """
    name = name_of(model)
    if name is None:
        description, register = type(model).__name__, "register_model"
        if hasattr(model, "cell") and type(model).__dict__.get("stands_for", type(model)) in {
            MODELS["lstm"].kind
        }:
            description, register = f"{description} with {model.cell}", "register_cell"
        raise UserError(
            f"{description} is not registered, so its run could not be loaded: call "
            f"jaxlm.{register} first, or fit without `folder`"
        )
    return name, model.settings()
