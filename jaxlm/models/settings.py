"""The settings of a model: the fields of its class, each declared once, with its help text."""

import ast
import dataclasses
import functools
import inspect
import itertools
import textwrap
import types
import typing
from collections.abc import Mapping
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
def setting_defaults(model_class: type) -> Mapping[str, Any]:
    """Return the default value of each setting of a model class, in the order of its fields.

    A setting is a dataclass field with a default value.

    Example:
      >>> from jaxlm.models.nplm import NPLM
      >>> setting_defaults(NPLM)["n_step"]
      4
    """
    defaults = {field.name: field.default for field in dataclasses.fields(model_class)}
    return types.MappingProxyType(
        {
            name: default
            for name, default in defaults.items()
            if name not in NOT_SETTINGS and default is not dataclasses.MISSING
        }
    )


@functools.cache
def model_settings(model_class: type) -> dict[str, Setting]:
    """Return the settings of a model class by name, with types and help texts.

    The help of a setting is the text below its field. To find it, the source of the class is read,
    which takes some hundredths of a second: `setting_defaults` does not.

    Example:
      >>> from jaxlm.models.nplm import NPLM
      >>> model_settings(NPLM)["n_step"]
      Setting(name='n_step', type=<class 'int'>, default=4, help='Words of context the model sees.')
    """
    hints, defaults = typing.get_type_hints(model_class), setting_defaults(model_class)
    helps = field_docs(model_class, set(defaults))
    return {
        name: Setting(name, hints[name], default, helps.get(name, ""))
        for name, default in defaults.items()
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
