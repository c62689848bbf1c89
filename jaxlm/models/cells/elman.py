"""The simple recurrent network."""

import jax
import jax.numpy as jnp

from jaxlm.models.cells.base import Carry, Cell


class ElmanCell(Cell):
    """Simple recurrent network (Elman 1990), with tanh.

        h' = tanh(W x + b + U h)

    Source: Elman, "Finding structure in time", 1990. One bias; PyTorch's `nn.RNN` has two that only
    ever appear as their sum.
    """

    gates = ("hidden",)
    additive = True

    def activations(self, carry: Carry, x_BG: jax.Array, u_BG: jax.Array) -> dict[str, jax.Array]:
        return {"hidden": jnp.tanh(x_BG + u_BG)}

    def update(self, carry: Carry, gates: dict[str, jax.Array]) -> Carry:
        return (gates["hidden"],)
