"""The values that a setting can have: its type and its range, declared as the type of its field.

    @dataclass(frozen=True)
    class Config:
        lr: Positive = 1e-3
        rounds: Annotated[int, Range(0, 100)] = 5

`check_settings(Config(lr=-1.0))` then raises SettingError. The command line, a config file and the
options of a function share the check.
"""

import functools
import typing
from collections.abc import Collection, Mapping
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, NamedTuple, Union

import numpy as np

from jaxlm.errors import SettingError

# The largest numbers that JAX's usual types hold. A larger number would become another number.
LARGEST_INT32 = (1 << 31) - 1
LARGEST_FLOAT32 = 3.4028234e38


class Range(NamedTuple):
    """The numbers that a setting can have. NaN and infinity are in no range.

    least, most: the smallest and the largest number. above, below: bounds that are not in the range
    themselves. A bound that is None is the largest number of the type, int32 or float32.

    Example:
      >>> 1 in Range(0, below=1), str(Range(0, below=1))
      (False, 'at least 0 and below 1')
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def __contains__(self, value: Any) -> bool:
        largest: float = LARGEST_FLOAT32
        if isinstance(value, Integral):
            largest = LARGEST_INT32
        elif abs(value) <= LARGEST_FLOAT32:
            # Training computes in float32, in which 1e-50 is 0, and 1 - 1e-9 is 1.
            value = float(np.float32(value))
        lowest = -largest if self.least is None else self.least
        highest = largest if self.most is None else self.most
        return bool(
            lowest <= value <= highest
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        if self.least is not None and self.most is not None:
            return f"from {self.least:g} to {self.most:,}"
        bounds = {"at least": self.least, "above": self.above, "at most": self.most}
        bounds["below"] = self.below
        parts = [f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None]
        return " and ".join(parts) or "a number"

    def why(self, value: Any) -> str:
        """Return the text of an error for a `value` that is not in the range."""
        has_top = self.most is not None or self.below is not None
        if isinstance(value, Integral):
            large = not has_top and int(value) > LARGEST_INT32
            return f"must be {self}" + f" and at most {LARGEST_INT32:,}" * large
        return f"must be {self}" + ", and finite in float32" * (not has_top)


Size = Annotated[int, Range(1)]
"""A number of things, 1 or more."""
Steps = Annotated[int, Range(above=0)]
"""A number of train steps or validations."""
Positive = Annotated[float, Range(above=0)]
"""A number above 0."""
NotNegative = Annotated[float, Range(0)]
"""A number of 0 or more."""
Finite = Annotated[float, Range()]
"""Any number but NaN and infinity."""
Rate = Annotated[float, Range(0, below=1)]
"""A dropout rate, or another probability below 1."""
Share = Annotated[float, Range(0, 1)]
"""A part of a whole."""
Layers = Annotated[int, Range(1, 1000)]
"""A number of layers. Each is traced on its own, so thousands would take hours to compile."""
Window = Annotated[int, Range(1, 10_000)]
"""A number of words whose features are concatenated, each by an operation of its own."""
Seed = Annotated[int, Range(0, (1 << 32) - 1)]
"""A seed of random numbers. JAX reads 32 bits: 0 and 2³² would be the same seed."""

# The types of settings: the word for an error, and the class of the values.
_TYPES: dict[Any, tuple[str, type]] = {
    str: ("a text", str),
    bool: ("true or false", bool),
    int: ("an integer", Integral),
    float: ("a number", Real),
}


def as_tuples(value: Any) -> Any:
    """Return `value` with each list, also inside of lists and tuples, as a tuple.

    JSON stores a tuple as a list. A Flax module is a static argument of compiled functions, and
    must be hashable.

    Example:
      >>> as_tuples([[1, 2], [3]]), as_tuples("text")
      (((1, 2), (3,)), 'text')
    """
    return tuple(map(as_tuples, value)) if isinstance(value, list | tuple) else value


def kinds_of(owner: Any) -> dict[str, Any]:
    """Return the type of each field of a dataclass by name, with the ranges."""
    return _kinds_of(owner)


@functools.cache
def _kinds_of(owner: Any) -> dict[str, Any]:
    return typing.get_type_hints(owner, include_extras=True)


def checked(name: str, value: Any, kind: Any) -> Any:
    """Return `value` as a setting of the type `kind` keeps it.

    Lists become tuples, and scalars of NumPy and JAX become numbers of Python. A model of the
    user's own may have settings of other types than texts, numbers and tuples of them; they are not
    checked.

    Raises:
      SettingError: for a value of another type, or outside of the range of `kind`.
    """
    if isinstance(value, list):
        value = as_tuples(value)
    elif hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    _check(name, value, kind)
    return value


def check_settings(owner: Any, names: Collection[str] | None = None) -> None:
    """Raise SettingError for a field of a dataclass with another type or outside of its range.

    Arrays of JAX are not checked: in a sweep, a setting is a traced number.

    Args:
      owner: an instance of a dataclass.
      names: the fields to check; None for all.
    """
    kinds = kinds_of(type(owner))
    for name in type(owner).__dataclass_fields__ if names is None else names:
        value = getattr(owner, name, None)
        if name in kinds and not hasattr(value, "aval"):
            _check(name, value, kinds[name])


def check_values(owner: type, values: Mapping[str, Any]) -> None:
    """Raise SettingError for a value that the field of its name in `owner` cannot have."""
    kinds = kinds_of(owner)
    for name, value in values.items():
        if name in kinds:
            checked(name, value, kinds[name])


def _check(name: str, value: Any, kind: Any) -> None:
    kinds = typing.get_args(kind) if _is_union(kind) else (kind,)
    fitting = [single for single in kinds if _is_of(single, value)]
    if not fitting:
        shown = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:60]}..."
        raise SettingError(name, shown, f"must be {' or '.join(map(_describe, kinds))}")
    for single in fitting:
        _check_range(name, value, single)


def _check_range(name: str, value: Any, kind: Any) -> None:
    base, ranges = _parts(kind)
    if typing.get_origin(base) is tuple and isinstance(value, tuple):
        item_base, item_ranges = _parts(typing.get_args(base)[0])
        if item_base in (int, float):
            for allowed in item_ranges:
                wrong = [item for item in value if item not in allowed]
                if wrong:
                    why = f"each {allowed.why(wrong[0])}"
                    raise SettingError(name, " ".join(map(str, value)), why)
    if base in (int, float) and not isinstance(value, bool):
        for allowed in ranges:
            if value not in allowed:
                raise SettingError(name, value, allowed.why(value))


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in (Union, UnionType)


def _parts(kind: Any) -> tuple[Any, tuple[Range, ...]]:
    """Return a type without its annotations, and the ranges among them."""
    if typing.get_origin(kind) is not Annotated:
        return kind, ()
    base, *annotations = typing.get_args(kind)
    return base, tuple(item for item in annotations if isinstance(item, Range))


def _is_of(kind: Any, value: Any) -> bool:
    base, _ = _parts(kind)
    if typing.get_origin(base) is tuple:
        item_kind = typing.get_args(base)[0]
        return isinstance(value, tuple) and all(_is_of(item_kind, item) for item in value)
    if base not in _TYPES:
        return base is not NoneType or value is None
    # In Python, True is an integer.
    return isinstance(value, _TYPES[base][1]) and (base is bool or not isinstance(value, bool))


def _describe(kind: Any) -> str:
    base, _ = _parts(kind)
    if typing.get_origin(base) is tuple:
        return f"a list, each item {_describe(typing.get_args(base)[0])}"
    return "none" if base is NoneType else _TYPES[base][0]
