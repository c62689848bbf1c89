"""The models by name. A new model or cell is one file and one line in MODELS, or a call of
register_model or register_cell.
"""

import dataclasses
import importlib
import inspect
import json
import types
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from jaxlm.errors import UserError, choose
from jaxlm.models.base import LanguageModel
from jaxlm.models.settings import NOT_SETTINGS, Setting, model_settings, setting_defaults
from jaxlm.ranges import as_tuples, checked, kinds_of

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
        """The settings of the model by name, with types and help texts."""
        return model_settings(self.kind)

    @property
    def defaults(self) -> Mapping[str, Any]:
        """The default value of each setting by name."""
        return setting_defaults(self.kind)

    def make(self, vocab_size: int, start_id: int | None, **settings: Any) -> LanguageModel:
        """Return the model with these settings. A setting that you leave out has its default."""
        fixed = {} if self.cell is None else {"cell": self.make_cell()}
        return self.kind(vocab_size=vocab_size, start_id=start_id, **fixed, **settings)  # type: ignore[call-arg]


def _import(target: str) -> Any:
    """Return the object that a text such as "jaxlm.models.nplm:NPLM" names."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


_RECURRENT = "jaxlm.models.recurrent.model:Recurrent"
# The class that a model must have, by its `trained_by`. Training and run folders rely on it.
_BASES = {"gradient": "jaxlm.models.neural:NeuralModel", "counting": "jaxlm.models.ngram:NGram"}

MODELS: dict[str, ModelEntry] = {
    "ngram": ModelEntry("jaxlm.models.ngram:NGram"),
    "nplm": ModelEntry("jaxlm.models.nplm:NPLM"),
    "modern-nplm": ModelEntry("jaxlm.models.modern_nplm:ModernNPLM"),
    "transformer": ModelEntry("jaxlm.models.transformer:Transformer"),
    "rnn": ModelEntry("jaxlm.models.recurrent.model:RNN", "jaxlm.models.cells.elman:ElmanCell"),
    "gru": ModelEntry("jaxlm.models.recurrent.model:GRU", "jaxlm.models.cells.gru:GRUCell"),
    "lstm": ModelEntry("jaxlm.models.recurrent.model:LSTM", "jaxlm.models.cells.lstm:LSTMCell"),
    "mingru": ModelEntry(_RECURRENT, "jaxlm.models.cells.min_gru:MinGRUCell"),
    "minlstm": ModelEntry(_RECURRENT, "jaxlm.models.cells.min_lstm:MinLSTMCell"),
    "paragru": ModelEntry(_RECURRENT, "jaxlm.models.cells.para_gru:ParaGRUCell"),
    "paralstm": ModelEntry(_RECURRENT, "jaxlm.models.cells.para_lstm:ParaLSTMCell"),
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
      UserError: for a name that another class has, and a class whose runs could not be trained,
        saved or loaded.
    """
    if not (isinstance(model_class, type) and issubclass(model_class, LanguageModel)):
        raise UserError(f"register_model takes a subclass of LanguageModel, not {model_class!r}")
    check_trainable(model_class)
    _check_fields(model_class)
    taken = MODELS.get(name)
    if taken is not None and taken.cell is not None:
        raise UserError(f"the name {name!r} is taken by the cell {taken.make_cell()}")
    if taken is not None and not _same_source(taken.kind, model_class):
        raise UserError(f"the name {name!r} is taken by {taken.kind.__name__}")
    MODELS[name] = ModelEntry(model_class)


def check_trainable(model_class: type) -> None:
    """Raise UserError for a class of models that cannot be trained."""
    name = model_class.__name__
    if not issubclass(model_class, LanguageModel):
        raise UserError(f"{name} is not a LanguageModel")
    missing = sorted(getattr(model_class, "__abstractmethods__", ()))
    if missing:
        raise UserError(f"{name} cannot be trained: it lacks {', '.join(missing)}")
    trained_by = getattr(model_class, "trained_by", None)
    if trained_by not in _BASES:
        choices = " or ".join(map(repr, _BASES))
        raise UserError(
            f"{name} cannot be trained: its `trained_by` is {trained_by!r}, not {choices}"
        )
    base: type = _import(_BASES[trained_by])
    if not issubclass(model_class, base):
        raise UserError(
            f"{name} cannot be trained: a model that is trained by {trained_by} must be a subclass "
            f"of jaxlm.{base.__name__}"
        )


def _check_fields(model_class: Any) -> None:
    """Raise UserError unless each field of a class can be a flag and an entry of config.json.

    The settings of all classes in MODELS are read together. So a class whose settings cannot be
    read would break the other models too.
    """
    name = model_class.__name__
    try:
        kinds = typing.get_type_hints(model_class)
    except Exception as error:
        raise UserError(
            f"{name} cannot be registered: the type of a field cannot be read ({error}); import "
            f"the names of types outside `if TYPE_CHECKING`"
        ) from None
    fields = {field.name: field for field in dataclasses.fields(model_class)}
    for field in inspect.get_annotations(model_class):
        is_class_variable = typing.get_origin(kinds[field]) is ClassVar or kinds[field] is ClassVar
        if field not in fields and not is_class_variable:
            raise UserError(
                f"{name} cannot be registered: `{field}` is no field of a dataclass; write "
                f"@dataclasses.dataclass(frozen=True) above the class"
            )
    for field in fields:
        if field in NOT_SETTINGS:
            continue
        default = fields[field].default
        if default is dataclasses.MISSING or not fields[field].init:
            why = "needs a plain default, because it is a setting of the model"
            raise UserError(f"{name} cannot be registered: the field `{field}` {why}")
        if not _is_plain_type(kinds[field]):
            raise UserError(
                f"{name} cannot be registered: the field `{field}` is {kinds[field]}, and "
                f"there is no flag for it; use int, float, bool, str, None, tuples or unions"
            )
        _check_plain(name, field, default)


def _is_plain_type(kind: Any) -> bool:
    """Return whether a field of this type can be a flag and an entry of config.json."""
    origin = typing.get_origin(kind)
    if origin is typing.Literal:
        return True
    if origin in (tuple, typing.Union, types.UnionType):
        items = [item for item in typing.get_args(kind) if item is not ...]
        return all(map(_is_plain_type, items))
    return kind in (int, float, bool, str, types.NoneType)


def _check_plain(model: str, field: str, value: Any) -> None:
    """Raise UserError for a value that config.json would not bring back.

    Args:
      model: name of the model's class.
      field: name of the setting.
      value: its value.
    """
    try:
        same = as_tuples(json.loads(json.dumps(value))) == value
    except (TypeError, ValueError):
        same = False
    if not same:
        raise UserError(
            f"the field `{field}` of {model} is {value!r}, which config.json cannot keep: use a "
            f"number, a text, None or a tuple, such as a name in a table of your own"
        )


def register_cell(name: str, cell: "Cell") -> None:
    """Register your own cell under a name, and `Recurrent` with this cell as a model of that name.

    Example:
      >>> import jaxlm
      >>> from jaxlm.models.cells import ElmanCell
      >>> class MyCell(ElmanCell):
      ...     pass
      >>> jaxlm.register_cell("my-cell", MyCell())

    Raises:
      UserError: for a name that another cell or model has, a value that is not a Cell, and a cell
        that cannot be hashed.
    """
    from jaxlm.models.cells import CELLS, Cell

    if not isinstance(cell, Cell):
        raise UserError(f"register_cell takes an instance of a Cell, not {cell!r}")
    cell.check()
    taken = MODELS.get(name)
    if taken is not None and taken.cell is None:
        raise UserError(f"the name {name!r} is taken by the model {taken.kind.__name__}")
    if taken is not None and not _same_source(type(taken.make_cell()), type(cell)):
        raise UserError(f"the name {name!r} is taken by the cell {taken.make_cell()}")
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
        Lists become tuples, also inside of lists, because JSON stores a tuple as a list.
      vocab_size: number of tokens that the model knows.
      start_id: id of the token before the first token of a text; None if there is none.

    Raises:
      UserError: for an unknown model or setting.
      SettingError: for a value of another type, or out of its range.
    """
    entry = choose(MODELS, name, "model")
    values: dict[str, Any] = {}
    for key, value in settings.items():
        choose(entry.defaults, key, f"setting of {name}")
        values[key] = checked(key, value, kinds_of(entry.kind)[key])
    return entry.make(vocab_size, start_id, **values)


def name_of(model: LanguageModel) -> str | None:
    """Return the name in MODELS of a model's class and cell.

    `Recurrent` and its subclasses RNN, GRU and LSTM have the name of the model's cell. A model of
    another class must have the cell of its class. Return None if there is no such name.
    """
    cell = getattr(model, "cell", None)
    for name, entry in MODELS.items():
        if entry.cell is not None:
            # A model without a cell skips these entries: their classes import JAX.
            if cell is not None and type(model) in _plain_recurrent() and entry.make_cell() == cell:
                return name
        elif _is_class(entry.target, type(model)) and cell == getattr(type(model), "cell", None):
            return name
    return None


def _plain_recurrent() -> set[type]:
    """Return `Recurrent` and its subclasses that differ from it only by the default cell."""
    return {entry.kind for entry in MODELS.values() if entry.cell is not None}


def _is_class(target: str | type, model_class: type) -> bool:
    """Return whether an entry's target is this class, without importing another class."""
    if isinstance(target, str):
        return target == f"{model_class.__module__}:{model_class.__qualname__}"
    return target is model_class


def describe_model(model: LanguageModel) -> tuple[str, dict[str, Any]]:
    """Return a name and settings from which `make_model` makes a model that computes the same.

    `vocab_size` and `start_id` are not settings: they come from the vocabulary. The class of the
    made model is the class in MODELS. So `Recurrent` with an LSTMCell becomes an `LSTM`.

    Raises:
      UserError: for a model whose run could not be loaded: it is not registered, has another cell
        than its class, or has a setting that config.json cannot keep.
    """
    name, kind = name_of(model), type(model)
    if name is None:
        cell = getattr(model, "cell", None)
        if cell is not None and kind in _plain_recurrent():
            what = f"{kind.__name__} with {cell} is not registered"
            remedy = "call jaxlm.register_cell first"
        elif any(_is_class(entry.target, kind) for entry in MODELS.values()):
            what = f"{kind.__name__} is registered with {kind.cell}, not with {cell}"  # type: ignore[attr-defined]
            remedy = f"make {cell} the default `cell` of a class of its own"
        else:
            what = f"{kind.__name__} is not registered"
            remedy = "call jaxlm.register_model first"
        raise UserError(
            f"{what}, so its run could not be loaded: {remedy}, or fit without `folder`"
        )
    settings = model.settings()
    for field, value in settings.items():
        _check_plain(kind.__name__, field, value)
    return name, settings
