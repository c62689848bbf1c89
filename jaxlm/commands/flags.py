"""The flags of a command: those that its short help shows, and those that a wrong flag may mean."""

import dataclasses
import re
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import tyro

from jaxlm.errors import UserError, nearest_setting, with_synonym
from jaxlm.models.settings import field_docs


class Flag(NamedTuple):
    """One flag of a command.

    name: the name of its field. flag: the flag without dashes, such as "hidden_size". type: its
    type with annotations. default: its default value. help: its help text, or "" (`flags_of`).
    """

    name: str
    flag: str
    type: Any
    default: Any
    help: str

    @property
    def is_switch(self) -> bool:
        """True if the flag has no value, and a second form --no-FLAG."""
        return isinstance(self.default, bool)


def flags_of(kind: Any, default: Any = None, helps: bool = False) -> list[Flag]:
    """Return the flags of a command, also of the sections that it holds.

    Args:
      kind: a dataclass, whose fields are flags or dataclasses with flags.
      default: an instance of `kind` with the default values; None for the defaults of its fields.
      helps: whether to find the help texts. The source of the dataclasses is read for them.
    """
    return list(_flags_of(typing.get_origin(kind) or kind, default, helps))


def _flags_of(kind: Any, default: Any, helps: bool) -> Iterator[Flag]:
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = dataclasses.fields(kind)
    docs = field_docs(kind, {field.name for field in fields}) if helps else {}
    for field in fields:
        value = field.default if default is None else getattr(default, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield from _flags_of(type(value), value, helps)
            continue
        notes = typing.get_args(hints[field.name])[1:] if _is_annotated(hints[field.name]) else ()
        if any(note is _POSITIONAL for note in notes):
            continue
        names = [note.name for note in notes if getattr(note, "name", None)]
        texts = [note.help for note in notes if getattr(note, "help", None)]
        flag = names[0] if names else field.name
        help_text = texts[0] if texts else docs.get(field.name, "")
        yield Flag(field.name, flag.replace("-", "_"), hints[field.name], value, help_text)


# The note that `Positional` adds to a type.
_POSITIONAL = typing.get_args(tyro.conf.Positional[int])[1]


def _is_annotated(hint: Any) -> bool:
    return typing.get_origin(hint) is Annotated


def first_flags(flags: Sequence[Flag], groups: Mapping[str, Collection[str]]) -> tuple[Any, Any]:
    """Return a dataclass with the flags that a short help shows, and an instance of it.

    Args:
      flags: all flags of a command.
      groups: the names of the flags to show, in their order, by the title of a box. A name that
        the command lacks is left out.
    """
    found = {flag.name: flag for flag in flags}
    boxes: list[tuple[str, Any, Any]] = []
    for title, names in groups.items():
        shown = [found[name] for name in names if name in found]
        if shown:
            box = dataclasses.make_dataclass(title, [_field(flag) for flag in shown], frozen=True)
            box.__doc__ = ""
            boxes.append((title, box, dataclasses.field(default_factory=box)))
    kind = dataclasses.make_dataclass("FirstFlags", boxes, frozen=True)
    return kind, kind()


def _field(flag: Flag) -> tuple[str, Any, Any]:
    notes: list[Any] = [tyro.conf.arg(help=flag.help)]
    if flag.flag != flag.name:
        notes = [tyro.conf.arg(name=flag.flag, help=flag.help)]
    kind = typing.get_args(flag.type)[0] if _is_annotated(flag.type) else flag.type
    return flag.name, Annotated[kind, *notes], dataclasses.field(default=flag.default)


def with_known_flags(argv: Sequence[str], flags: Sequence[Flag]) -> list[str]:
    """Return the arguments with words of other programs replaced, such as --learning-rate by --lr.

    A flag may also be spelled with `_` and with capital letters.
    """
    known = _forms(flags)
    words = []
    for word in argv:
        flag, equals, value = word.partition("=")
        meant = with_synonym(_name(flag), known)
        if _is_flag(flag) and flag.startswith("--") and meant in known:
            word = f"{_spelled(meant)}{equals}{value}"
        words.append(word)
    return words


def check_flags(argv: Sequence[str], flags: Sequence[Flag], elsewhere: Mapping[str, str]) -> None:
    """Raise UserError for the first argument that looks like a flag and is not one.

    Args:
      argv: the arguments, as `with_known_flags` returns them.
      flags: the flags of the command.
      elsewhere: for flags that only other models have, what to say of them.
    """
    known = _forms(flags)
    for word in argv:
        flag = word.partition("=")[0]
        name = _name(flag)
        if not _is_flag(flag) or (flag == _spelled(name) and name in known):
            continue
        meant = with_synonym(name, elsewhere)
        if meant in elsewhere and meant not in known:
            raise UserError(f"unknown flag {flag}: {_spelled(meant)} {elsewhere[meant]}")
        close = name if name in known else nearest_setting(name, known)
        hint = f": did you mean {_spelled(close)}?" if close else ""
        raise UserError(f"unknown flag {flag}{hint}")


def _forms(flags: Sequence[Flag]) -> dict[str, None]:
    """Return the names of flags and of their second forms, and the flags of every command."""
    names = [flag.flag for flag in flags]
    negative = [f"no_{flag.flag}" for flag in flags if flag.is_switch]
    return dict.fromkeys([*names, *negative, "help", "help_all", "version"])


def _is_flag(word: str) -> bool:
    """Return whether a word is spelled like a flag, and not like a negative number."""
    return re.fullmatch(r"--?[A-Za-z][\w-]*", word) is not None and word != "-h"


def _spelled(name: str) -> str:
    return "--" + name.replace("_", "-")


def _name(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_").lower()
