"""Dynamic evaluation: parameters that follow the text, and are pulled back to the trained ones."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.models.neural import NeuralModel
from jaxlm.ops.machine import deterministic_options, jit_with

# Added to the root mean square of a parameter's gradient, and the sequences of which one gradient
# is the mean when it is taken: both as in the authors' published code.
EPSILON = 0.002
ROWS = 100
# Batches of the training text that are looked at, spread over the whole.
BATCHES = 200


class Rule(NamedTuple):
    """update(θ, θ_trained, gradient, rms, mean_rms, lr, decay) of one array of parameters; and
    whether it wants `rms`, the root mean squares of the gradients in training.
    """

    update: Callable[..., jax.Array]
    wants_rms: bool


def _sgd(
    theta: Any, trained: Any, gradient: Any, rms: Any, mean: Any, lr: Any, decay: Any
) -> jax.Array:
    return theta - lr * gradient + decay * (trained - theta)


def _rms(
    theta: Any, trained: Any, gradient: Any, rms: Any, mean: Any, lr: Any, decay: Any
) -> jax.Array:
    # No parameter is pulled further than to where it was trained to.
    pull = jnp.minimum(decay * rms / mean, 1.0)
    return theta - lr * gradient / (rms + EPSILON) + pull * (trained - theta)


RULES: dict[str, Rule] = {
    # θ ← θ - η ∇L + λ (θ_g - θ)
    "sgd": Rule(_sgd, False),
    # θ ← θ - η ∇L / (√MS + ε) + λ (√MS / mean √MS) ⊙ (θ_g - θ), with MS of the training text
    "rms": Rule(_rms, True),
}
"""By name; L is the mean nll of a segment. Source: Krause, Kahembwe, Murray & Renals, "Dynamic
evaluation of neural sequence models", 2018, sections 4.1 and 4.2.
"""


class Following(NamedTuple):
    """What the parameters follow the text by: √MS of each (zeros where the rule does not ask), the
    mean over arrays of their means, η and λ.
    """

    rms: Any
    mean_rms: Any
    lr: Any
    decay: Any

    def step(self, rule: str, params: Any, trained: Any, gradient: Any) -> Any:
        """The parameters after one step."""
        update = RULES[rule].update

        def one(*arrays: jax.Array) -> jax.Array:
            return update(*arrays, self.mean_rms, self.lr, self.decay)

        return jax.tree.map(one, params, trained, gradient, self.rms)


def no_rms(params: Any) -> tuple[Any, Any]:
    """In place of `training_rms` for a rule that does not ask: scalars 0, and 1."""
    return jax.tree.map(lambda array: jnp.zeros(()), params), jnp.ones(())


def training_rms(model: NeuralModel, params: Any, ids: np.ndarray, steps: int) -> tuple[Any, Any]:
    """√MS of every parameter's gradient over the training text `ids`, and the mean over arrays of
    their means. A gradient is that of the mean nll of ROWS sequences of `steps` tokens.
    """
    rows = max(1, min(ROWS, len(ids) // (2 * steps)))
    length = len(ids) // rows
    text_BT = ids[: rows * length].reshape(rows, length).astype(np.int32)
    # Every so many segments one is looked at; the ones between are read for the state alone.
    starts = range(0, length - steps, steps)
    every = max(1, len(starts) // BATCHES)
    carry = model.initial_carry(rows)
    total, taken = jax.tree.map(jnp.zeros_like, params), 0
    for begin in range(0, len(starts) - every + 1, every):
        first = starts[begin]
        segment = text_BT[:, first : first + steps], text_BT[:, first + 1 : first + steps + 1]
        total = _add_square(params, *segment, carry, total, model)
        carry = _carry_after(params, text_BT[:, first : first + every * steps], carry, model)
        taken += 1
    rms = jax.tree.map(lambda array: jnp.sqrt(array / max(1, taken)), total)
    means = [jnp.mean(array) for array in jax.tree.leaves(rms)]
    return rms, jnp.mean(jnp.stack(means))


@functools.partial(
    jit_with, deterministic_options, static_argnames="model", donate_argnames="total"
)
def _add_square(
    params: Any, inputs_BT: Any, targets_BT: Any, carry: Any, total: Any, model: NeuralModel
) -> Any:
    def mean_nll(params: Any) -> jax.Array:
        weights_BT = jnp.full(targets_BT.shape, 1 / targets_BT.size, jnp.float32)
        found: Any = model.apply(
            {"params": params}, inputs_BT, targets_BT, weights_BT, carry, method="objective"
        )
        return found[0]

    gradient = jax.grad(mean_nll)(params)
    return jax.tree.map(lambda sums, one: sums + one * one, total, gradient)


@functools.partial(jax.jit, static_argnames="model")
def _carry_after(params: Any, tokens_BT: Any, carry: Any, model: NeuralModel) -> Any:
    return model.apply({"params": params}, tokens_BT, carry, positions="last")[1]
