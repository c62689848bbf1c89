"""Output layers: from features to the distribution of the next token.

A new output layer is one file in this folder and one line in HEADS.
"""

import dataclasses
from typing import Any

from jaxlm.errors import SettingError, choose
from jaxlm.models.heads.adaptive_softmax import AdaptiveSoftmax, increasing
from jaxlm.models.heads.base import Head
from jaxlm.models.heads.output_layer import OutputLayer, SampledSoftmax
from jaxlm.models.heads.softmax_mixture import SoftmaxMixture
from jaxlm.models.layers import DTYPES
from jaxlm.ranges import check_settings

HEADS: dict[str, type[Head]] = {
    "full": OutputLayer,
    "adaptive": AdaptiveSoftmax,
    "sampled": SampledSoftmax,
    "mixture": SoftmaxMixture,
}
"""Output layers by the value of the setting `softmax`."""

__all__ = [
    "HEADS",
    "Head",
    "OutputLayer",
    "describe_head",
    "make_head",
    "softmaxes_with",
]


def make_head(model: Any, **module_options: Any) -> Head:
    """Return the output layer that a model's settings describe.

    Called in a model's `setup`, it makes the layer a submodule of the model. With parent=None the
    layer has no parameters, and only methods such as `note` and `describe` can be called.

    Args:
      model: a NeuralModel.
      module_options: arguments of every Flax module, such as `parent`.

    Raises:
      UserError: for an unknown `softmax` or `dtype`, or a wrong setting of the output layer.
    """
    # The settings of the other output layers have no effect, but a value out of its range is a
    # mistake. How many tokens a cutoff may leave is a matter of the adaptive softmax alone.
    check_settings(model, ("sampled_words", "softmaxes", "init_scale"))
    if not increasing((0, *model.cutoffs)):
        shown = ",".join(map(str, model.cutoffs))
        raise SettingError("cutoffs", shown, "must increase strictly from at least 1")
    kind = choose(HEADS, model.softmax, "softmax")
    dtype = choose(DTYPES, model.compute_dtype, "dtype")
    names = {field.name for field in dataclasses.fields(kind)} - {"dtype", "parent", "name"}
    settings = {name: getattr(model, name) for name in names}
    head = kind(dtype=dtype, **settings, **module_options)
    head.check()
    return head


def softmaxes_with(setting: str) -> list[str]:
    """Return the values of `softmax` with which a setting of output layers has an effect.

    Example:
      >>> softmaxes_with("cutoffs"), softmaxes_with("hidden_size")
      (['adaptive'], [])
    """
    return [
        name
        for name, kind in HEADS.items()
        if setting in {field.name for field in dataclasses.fields(kind)}
    ]


def describe_head(model: Any, features: int) -> dict[str, str]:
    """Return a text that describes the parameters of a model's output layer, by their path.

    `features` is the number of features that the output layer reads.
    """
    descriptions = make_head(model, parent=None).describe(features)
    return {f"output{suffix}": text for suffix, text in descriptions.items()}
