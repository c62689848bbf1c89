"""Dynamic evaluation: gradient steps on the evaluated text, with decay to the trained parameters.

Source: Krause, Kahembwe, Murray & Renals, "Dynamic evaluation of neural sequence models", 2018.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.errors import SettingError
from jaxlm.models.neural import NeuralModel
from jaxlm.ops.machine import deterministic_options, jit_with

# ε of the rule "rms", and the number of sequences over which a training gradient is averaged. Both
# are from the authors' published code.
EPSILON = 0.002
ROWS = 100
# Number of training gradients to compute. Fewer than twice this number are computed, spread evenly
# over the training text.
BATCHES = 200
# Largest number of elements that a layer computes in one call, where only the carry is wanted.
MOST_NUMBERS = 1 << 26


class UpdateRule(NamedTuple):
    """One step of dynamic evaluation, for one array θ of parameters.

    Attributes:
      update: (θ, θ_trained, gradient, rms, mean_rms, lr, decay) -> the new θ. `RuleArguments`
        describes the last four arguments.
      needs_rms: whether `update` uses `rms` and `mean_rms`.
      rates: learning rates η that are tried on the validation text.
      decays: decays λ that are tried with the best rate; the first one is used to find the rate.
    """

    update: Callable[..., jax.Array]
    needs_rms: bool
    rates: tuple[float, ...]
    decays: tuple[float, ...]


def _sgd(
    theta: Any, trained: Any, gradient: Any, rms: Any, mean_rms: Any, lr: Any, decay: Any
) -> jax.Array:
    """Return θ - η ∇L + λ (θ_g - θ)."""
    return theta - lr * gradient + decay * (trained - theta)


def _rms(
    theta: Any, trained: Any, gradient: Any, rms: Any, mean_rms: Any, lr: Any, decay: Any
) -> jax.Array:
    """Return θ - η ∇L / (√MS + ε) + min(λ √MS / mean √MS, 1) ⊙ (θ_g - θ)."""
    # A decay of more than 1 would move a parameter past its trained value.
    decay_per_parameter = jnp.minimum(decay * rms / mean_rms, 1.0)
    step = lr * gradient / (rms + EPSILON)
    return theta - step + decay_per_parameter * (trained - theta)


UPDATE_RULES: dict[str, UpdateRule] = {
    "sgd": UpdateRule(_sgd, False, (0.01, 0.03, 0.1, 0.3, 1.0), (1e-3, 0.0, 3e-3, 1e-2)),
    "rms": UpdateRule(_rms, True, (5e-4, 1e-3, 2e-3, 4e-3, 8e-3), (0.02, 0.0, 5e-3, 0.05)),
}
"""Update rules by name. In their equations L is the mean nll of a segment, θ_g are the trained
parameters, and MS is the mean square of the gradients on the training text. Source: Krause et al.
2018, sections 4.1 and 4.2.
"""


class RuleArguments(NamedTuple):
    """Arguments of an update rule that stay the same in all steps.

    Attributes:
      rms: √MS of each parameter's training gradient, a tree like the parameters; zeros for a rule
        that does not use it.
      mean_rms: mean over the arrays of the mean of each array in `rms`.
      lr: learning rate η.
      decay: decay rate λ to the trained parameters.
    """

    rms: Any
    mean_rms: Any
    lr: Any
    decay: Any

    def update(self, rule: str, params: Any, trained: Any, gradient: Any) -> Any:
        """Return the parameters after one step.

        Args:
          rule: name of the update rule.
          params: parameters before the step.
          trained: trained parameters, to which the rule decays.
          gradient: gradient of the segment's mean nll at `params`.
        """
        update_array = UPDATE_RULES[rule].update

        def update(*arrays: jax.Array) -> jax.Array:
            return update_array(*arrays, self.mean_rms, self.lr, self.decay)

        return jax.tree.map(update, params, trained, gradient, self.rms)


def unused_rms(params: Any) -> tuple[Any, Any]:
    """Return placeholders for the result of `training_rms`, for a rule that does not use it."""
    return jax.tree.map(lambda array: jnp.zeros(()), params), jnp.ones(())


def training_rms(
    model: NeuralModel, params: Any, ids: np.ndarray, segment_length: int
) -> tuple[Any, Any]:
    """Return the root mean squares √MS of the training gradients.

    A training gradient is the gradient of the mean nll over ROWS sequences of `segment_length`
    tokens, or over fewer sequences if the text is short. Fewer than 2 · BATCHES gradients are
    computed.

    Args:
      model: the neural model.
      params: its trained parameters.
      ids: token ids of the training text, integers [number of tokens].
      segment_length: tokens in a segment.
    Returns:
      rms: √MS of every parameter, a tree like `params`.
      mean_rms: mean over the arrays of the mean of each array in `rms`, a scalar.
    Raises:
      SettingError: if the text has `segment_length` tokens or fewer.
    """
    if len(ids) <= segment_length:
        why = f"rms needs a training text of more tokens than this; it has {len(ids):,}"
        raise SettingError("dynamic_steps", segment_length, why)
    rows = max(1, min(ROWS, len(ids) // (2 * segment_length)))
    length = len(ids) // rows
    # The ids of a large text are a memory map, and stay there.
    text_BT = ids[: rows * length].reshape(rows, length)
    # One segment in `stride` has its gradient computed. The model reads the segments between only
    # to bring the carry forward.
    starts = range(0, length - segment_length, segment_length)
    stride = max(1, len(starts) // BATCHES)
    gap = stride * segment_length
    width = math.ceil(gap / math.ceil(gap * rows * model.widest / MOST_NUMBERS))
    carry = model.initial_carry(rows)
    total, count = jax.tree.map(jnp.zeros_like, params), 0
    for index in range(0, len(starts) - stride + 1, stride):
        first = starts[index]
        inputs_BT, targets_BT = (
            text_BT[:, start : start + segment_length].astype(np.int32)
            for start in (first, first + 1)
        )
        total = _add_square(params, inputs_BT, targets_BT, carry, total, model)
        for start in range(first, first + gap, width):
            read_BT = text_BT[:, start : min(start + width, first + gap)].astype(np.int32)
            carry = _carry_after(params, read_BT, carry, model)
        count += 1
    rms = jax.tree.map(lambda array: jnp.sqrt(array / count), total)
    means = [jnp.mean(array) for array in jax.tree.leaves(rms)]
    return rms, jnp.mean(jnp.stack(means))


@functools.partial(
    jit_with, deterministic_options, static_argnames="model", donate_argnames="total"
)
def _add_square(
    params: Any, inputs_BT: Any, targets_BT: Any, carry: Any, total: Any, model: NeuralModel
) -> Any:
    """Return `total` plus the square of the gradient of the mean nll."""

    def mean_nll(params: Any) -> jax.Array:
        weights_BT = jnp.full(targets_BT.shape, 1 / targets_BT.size, jnp.float32)
        objective: Any = model.apply(
            {"params": params}, inputs_BT, targets_BT, weights_BT, carry, method="objective"
        )
        return objective[0]

    gradient = jax.grad(mean_nll)(params)
    return jax.tree.map(lambda sums, array: sums + array * array, total, gradient)


@functools.partial(jax.jit, static_argnames="model")
def _carry_after(params: Any, tokens_BT: Any, carry: Any, model: NeuralModel) -> Any:
    """Return the carry after the model has read the tokens."""
    return model.apply({"params": params}, tokens_BT, carry, positions="last")[1]
