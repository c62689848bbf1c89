"""What a program without jaxlm must know about a model: its tokenizer, its state, and its start."""

import json
from typing import Any, NamedTuple

import numpy as np

from jaxlm.data.tokenizers import to_json
from jaxlm.errors import UserError
from jaxlm.models.base import LanguageModel
from jaxlm.models.registry import name_of
from jaxlm.runs.run import Run
from jaxlm.runs.starts import WARM_START

LOG_PROBABILITIES = ("adaptive", "mixture")
"""The values of the setting `softmax` whose logits are log-probabilities."""


class State(NamedTuple):
    """One array of the state that a model keeps between two calls."""

    name: str
    """The name of the input, such as "h_0"."""
    shape: tuple[int, ...]
    """The shape without the batch, which is the first axis."""
    dtype: str
    """The dtype, as NumPy calls it."""
    initial: Any
    """The state before a text: one number, or a list of the numbers of one row."""


def description_of(run: Run, states: list[State], suffix: str = "") -> dict[str, Any]:
    """Return the description of a run that is written without jaxlm's own code, for JSON.

    The entries are:

        format            1, the version of this list
        model             the name of the model, such as "lstm"
        settings          the settings of the model
        vocab_size        the number of tokens V
        tokenizer         the content of tokenizer.json: the tokens by id, and how a text is cut
        start_id          id of the token that is read before a text; null if there is none
        warm_start        ids of a stretch of training text, for a start in the middle of a text
        protocol          how the run is scored (jaxlm.Protocol)
        output            "logits", or "log-probabilities"
        state             input, output, shape, dtype and initial value of each array of the state

    Args:
      run: the run.
      states: the arrays of the state, in the order of the program's inputs.
      suffix: what is added to the name of an array of the state where it is an output.
    """
    model: Any = run.model
    is_normalised = getattr(model, "softmax", "") in LOG_PROBABILITIES
    return {
        "format": 1,
        "model": model_name(run.model),
        "settings": model.settings(),
        "vocab_size": model.vocab_size,
        "tokenizer": json.loads(to_json(run.tokenizer)),
        "start_id": run.vocabulary.start_id,
        "warm_start": run.settings.get(WARM_START) or [],
        "protocol": run.protocol.as_json(),
        "output": "log-probabilities" if is_normalised else "logits",
        "state": [
            {
                "input": state.name,
                "output": state.name + suffix,
                "shape": list(state.shape),
                "dtype": state.dtype,
                "initial": state.initial,
            }
            for state in states
        ],
    }


def model_name(model: LanguageModel) -> str:
    """Return the name of a model in MODELS, or the name of its class.

    Example:
      >>> import jaxlm
      >>> model_name(jaxlm.LSTM(7))
      'lstm'
    """
    return name_of(model) or type(model).__name__


def initial_value(array: Any) -> Any:
    """Return the number that fills an array, or the array as a list if its numbers differ.

    Example:
      >>> initial_value(np.zeros((2, 3))), initial_value(np.array([1, 2]))
      (0.0, [1, 2])
    """
    array = np.asarray(array)
    # JSON has no bfloat16.
    if array.dtype.kind not in "iub":
        array = array.astype(np.float32)
    is_constant = array.size > 0 and bool((array == array.flat[0]).all())
    return array.flat[0].item() if is_constant else array.tolist()


def check_by_gradient(run: Run, remedy: str) -> None:
    """Raise UserError for a run that is no neural model; `remedy` says what to do with it."""
    if run.model.trained_by != "gradient":
        raise UserError(
            f"{run.name} has the model {type(run.model).__name__}, which has tables and no "
            f"matrices: {remedy}"
        )
