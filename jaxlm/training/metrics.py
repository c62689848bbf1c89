"""Measurements of a train step besides its loss. A new metric is one function and one line."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax


class StepValues(NamedTuple):
    """The values of one train step: pytrees with the structure of the parameters.

    gradient: the gradient before clipping. updates: what the optimizer adds to the parameters.
    params: the parameters before the step.
    """

    gradient: Any
    updates: Any
    params: Any


METRICS: dict[str, Callable[[StepValues], jax.Array]] = {
    # The global norm of the gradient, before clipping.
    "grad_norm": lambda values: optax.tree.norm(values.gradient),
}
"""Metrics by their name in metrics.jsonl: StepValues -> float32 scalar.

A value that is not finite is left out of metrics.jsonl, because JSON has no such number."""

MUST_BE_FINITE = ("grad_norm",)
"""Metrics that end the run if they are not finite, as the loss does."""

COUNTED = ("newton_fallbacks",)
"""Measurements that a record has the sum of, since the last record; of others, the last step's."""
