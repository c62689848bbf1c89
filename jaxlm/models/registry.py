"""The models by name. A new model is one file and one line here, or a call of register_model."""

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxlm.errors import UserError, choose
from jaxlm.models.base import LanguageModel
from jaxlm.models.settings import Setting, model_settings

if TYPE_CHECKING:
    from jaxlm.models.cells import Cell


class ModelEntry(NamedTuple):
    """A model by name.

    target: the model's class, or where it is, such as "jaxlm.models.nplm:NPLM": then the class, and
    with it JAX, is imported when it is first used. cell: the name in CELLS of the cell of a
    recurrent model.
    """

    target: str | type[LanguageModel]
    cell: str | None = None

    @property
    def kind(self) -> type[LanguageModel]:
        """The model's class."""
        if not isinstance(self.target, str):
            return self.target
        module, _, name = self.target.partition(":")
        kind: type[LanguageModel] = getattr(importlib.import_module(module), name)
        return kind

    @property
    def settings(self) -> dict[str, Setting]:
        """The settings of the model by name."""
        return model_settings(self.kind)

    def make(self, vocab_size: int, start_id: int | None, **settings: Any) -> LanguageModel:
        """Return the model with these settings; a setting that is left out has its default."""
        fixed: dict[str, Any] = {}
        if self.cell is not None:
            from jaxlm.models.cells import CELLS

            fixed["cell"] = CELLS[self.cell]
        return self.kind(vocab_size=vocab_size, start_id=start_id, **fixed, **settings)  # type: ignore[call-arg]


_RECURRENT = "jaxlm.models.recurrent.model:Recurrent"

MODELS: dict[str, ModelEntry] = {
    "ngram": ModelEntry("jaxlm.models.ngram:NGram"),
    "nplm": ModelEntry("jaxlm.models.nplm:NPLM"),
    "modern-nplm": ModelEntry("jaxlm.models.modern_nplm:ModernNPLM"),
    "transformer": ModelEntry("jaxlm.models.transformer:Transformer"),
    "rnn": ModelEntry(_RECURRENT, "rnn"),
    "gru": ModelEntry(_RECURRENT, "gru"),
    "lstm": ModelEntry(_RECURRENT, "lstm"),
    "mingru": ModelEntry(_RECURRENT, "mingru"),
    "minlstm": ModelEntry(_RECURRENT, "minlstm"),
    "mogrifier": ModelEntry("jaxlm.models.recurrent.mogrifier:Mogrifier"),
}


def register_model(name: str, model_class: type[LanguageModel]) -> None:
    """Make a model of your own known by name.

    Its runs can then be kept and loaded, and `--model NAME` trains it, with a flag for each field
    of the class. For the commands, put the class and this call into a file, and give the file as
    `--plugin FILE.py`.

    Example:
      >>> import jaxlm
      >>> class WiderNPLM(jaxlm.NPLM):
      ...     hidden_size: int = 400
      >>> jaxlm.register_model("wider-nplm", WiderNPLM)

    Raises:
      UserError: for a name that another class has, or a class that is no LanguageModel.
    """
    if not (isinstance(model_class, type) and issubclass(model_class, LanguageModel)):
        raise UserError(f"register_model takes a subclass of LanguageModel, not {model_class!r}")
    entry = ModelEntry(model_class)
    if name in MODELS and not _same_source(MODELS[name].kind, model_class):
        raise UserError(f"the name {name!r} is taken by {MODELS[name].kind.__name__}")
    MODELS[name] = entry


def register_cell(name: str, cell: "Cell") -> None:
    """Make a cell of your own, and `Recurrent` with this cell as a model, known by name.

    Example:
      >>> import jaxlm
      >>> from jaxlm.models.cells import ElmanCell
      >>> class MyCell(ElmanCell):
      ...     pass
      >>> jaxlm.register_cell("my-cell", MyCell())

    Raises:
      UserError: for a name that another cell or model has, or a value that is no Cell.
    """
    from jaxlm.models.cells import CELLS, Cell

    if not isinstance(cell, Cell):
        raise UserError(f"register_cell takes an instance of a Cell, not {cell!r}")
    taken = CELLS.get(name) or MODELS.get(name)
    if taken is not None and not _same_source(type(taken), type(cell)):
        raise UserError(f"the name {name!r} is taken by {taken}")
    CELLS[name] = cell
    MODELS[name] = ModelEntry(_RECURRENT, name)


def _same_source(one: type, other: type) -> bool:
    """Return whether two classes are one: the same, or the same code run again in a notebook."""
    return (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)


def make_model(
    name: str, settings: Mapping[str, Any], vocab_size: int, start_id: int | None = None
) -> LanguageModel:
    """Return the model called `name`.

    Example:
      >>> make_model("nplm", {"n_step": 2, "hidden_size": 2}, vocab_size=7).n_step
      2

    Args:
      name: a name in MODELS.
      settings: values of the model's settings by name; the others have their defaults. Lists, which
        JSON has in the place of tuples, become tuples.
      vocab_size: number of tokens that the model knows.
      start_id: id of the token that stands before a text; None if there is none.

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
    # RNN, GRU and LSTM are `Recurrent` with a cell, and nothing more.
    kind = type(model).__dict__.get("stands_for", type(model))
    for name, entry in MODELS.items():
        if isinstance(entry.target, str) and entry.target.partition(":")[2] != kind.__name__:
            continue
        if entry.kind is not kind:
            continue
        if entry.cell is None:
            return name
        from jaxlm.models.cells import CELLS

        if CELLS[entry.cell] == getattr(model, "cell", None):
            return name
    return None


def describe_model(model: LanguageModel) -> tuple[str, dict[str, Any]]:
    """Return the name and settings with which `make_model` makes the same model again.

    Raises:
      UserError: for a model that is not registered, which a run folder could not bring back.
    """
    name = name_of(model)
    if name is None:
        what, call = type(model).__name__, "register_model"
        if hasattr(model, "cell") and type(model).__dict__.get("stands_for", type(model)) in {
            MODELS["lstm"].kind
        }:
            what, call = f"{what} with {model.cell}", "register_cell"
        raise UserError(
            f"{what} is not registered, so its run could not be loaded: call jaxlm.{call} first, "
            f"or fit without `folder`"
        )
    return name, model.settings()
