"""The settings of a model: the fields of its class, each declared once, with its help text."""

import ast
import dataclasses
import functools
import inspect
import itertools
import textwrap
import typing
from typing import Any, NamedTuple

# Fields that the library fills in. They are not settings of a user.
NOT_SETTINGS = ("vocab_size", "start_id", "cell", "parent", "name")


class Setting(NamedTuple):
    """One setting of a model: its name, type, default value and help text."""

    name: str
    type: Any
    default: Any
    help: str


@functools.cache
def model_settings(model_class: type) -> dict[str, Setting]:
    """Return the settings of a model class by name, in the order of its fields.

    A setting is a dataclass field with a default value, and its help is the text below the field.

    Example:
      >>> from jaxlm.models.nplm import NPLM
      >>> model_settings(NPLM)["n_step"]
      Setting(name='n_step', type=<class 'int'>, default=4, help='Words of context the model sees.')
    """
    types = typing.get_type_hints(model_class)
    names = {field.name for field in dataclasses.fields(model_class)} - {*NOT_SETTINGS}
    helps = field_docs(model_class, names)
    return {
        field.name: Setting(field.name, types[field.name], field.default, helps.get(field.name, ""))
        for field in dataclasses.fields(model_class)
        if field.name in names and field.default is not dataclasses.MISSING
    }


def field_docs(dataclass: type, names: set[str]) -> dict[str, str]:
    """Return the text below each of the fields `names` of a class and its base classes.

    A text of several lines becomes one line. Only the source of classes that declare one of these
    fields is read.

    The text of a class whose source cannot be read is missing, such as a class typed at a prompt.
    """
    texts: dict[str, str] = {}
    for base in reversed(dataclass.__mro__[:-1]):
        if not names & inspect.get_annotations(base).keys():
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError, SyntaxError):
            continue
        body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
        for field, text in itertools.pairwise(body):
            if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
                continue
            if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                texts[field.target.id] = " ".join(str(text.value.value).split())
    return texts
