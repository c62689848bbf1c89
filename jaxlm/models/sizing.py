"""Choose the sizes of a model for a number of parameters."""

import dataclasses
import math
import re
from collections.abc import Collection
from typing import Any

import jax

from jaxlm.errors import SettingError
from jaxlm.models.neural import NeuralModel, param_shapes

WIDTHS = ("hidden_size", "embedding_size", "inner_size")
"""The settings that `sized` changes. They keep the proportions that the model has."""
LARGEST = 1 << 16
"""The largest width that is tried."""
UNITS = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000}
"""What the letter after a number of parameters stands for."""


def read_count(text: str | int) -> int:
    """Return a number of parameters, given as a number or as a text such as 3M or 250k.

    Example:
      >>> read_count("3M"), read_count("1.5m"), read_count("250k"), read_count(1200)
      (3000000, 1500000, 250000, 1200)

    Raises:
      SettingError: for another text.
    """
    if not isinstance(text, str):
        if not 1 <= text < math.inf:
            raise SettingError("params", text, "must be a number of parameters, such as 3_000_000")
        return int(text)
    found = re.fullmatch(r"([0-9][0-9_,]*(?:\.[0-9]+)?)([kmg]?)", text.strip().lower())
    count = float(re.sub("[_,]", "", found[1])) * UNITS[found[2]] if found else 0.0
    if not 0.5 < count < math.inf:
        raise SettingError("params", text, "must be a number of parameters, such as 3M or 250k")
    return round(count)


def parameter_count(model: NeuralModel) -> int:
    """Return the number of parameters of a model.

    Example:
      >>> import jaxlm
      >>> parameter_count(jaxlm.RNN(7, embedding_size=3, hidden_size=2))
      54
    """
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(param_shapes(model)))


def sized(model: NeuralModel, params: int | str, fixed: Collection[str] = ()) -> NeuralModel:
    """Return the widest model that has at most a number of parameters.

    The widths are the settings WIDTHS that the model has. They keep their proportions. A narrower
    model may have more parameters, if a projection between unequal widths falls away.

    Example:
      >>> import jaxlm
      >>> model = sized(jaxlm.LSTM(10_000), 3_000_000)
      >>> model.hidden_size, model.embedding_size, parameter_count(model)
      (141, 141, 2989612)

    Args:
      model: the model; its widths give the proportions.
      params: the largest number of parameters, such as 3_000_000 or "3M" (`read_count`).
      fixed: settings that keep their value.
    Raises:
      SettingError: if no width is free, and if the narrowest model has more parameters.
    """
    most = read_count(params)
    widths = [name for name in WIDTHS if getattr(model, name, 0)]
    names = [name for name in widths if name not in fixed]
    if getattr(model, "layer_sizes", ()):
        raise SettingError("params", params, "the layers have sizes of their own: no `layer_sizes`")
    if not names:
        choices = " or ".join(f"`{name}`" for name in widths)
        raise SettingError("params", params, f"no width of the model is free: leave out {choices}")
    first = getattr(model, names[0])

    def with_width(width: int) -> NeuralModel:
        sizes: dict[str, Any] = {
            name: max(1, round(width * getattr(model, name) / first)) for name in names
        }
        return dataclasses.replace(model, **sizes)

    def count(width: int) -> int:
        return parameter_count(with_width(width))

    smallest = count(1)
    if smallest > most:
        why = f"the narrowest {type(model).__name__} of this vocabulary has {smallest:,} parameters"
        raise SettingError("params", params, why)
    low, high = 1, 2
    while high < LARGEST and count(high) <= most:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if count(middle) <= most:
            low = middle
        else:
            high = middle
    return with_width(low)
