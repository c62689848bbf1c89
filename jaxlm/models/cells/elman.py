"""The Elman cell, or simple recurrent network."""

import jax
import jax.numpy as jnp

from jaxlm.models.cells.base import Carry, Cell


class ElmanCell(Cell):
    """Simple recurrent network (Elman 1990), with tanh.

        h' = tanh(W x + b + U h)

    The cell has one bias. PyTorch's `nn.RNN` has two, which occur only as their sum.

    Source: Elman, "Finding structure in time", 1990.

    Example:
      >>> import jax.numpy as jnp
      >>> (h_BH,) = ElmanCell().step((jnp.zeros((1, 2)),), jnp.zeros((1, 2)), jnp.zeros((1, 2)))
      >>> h_BH.tolist()
      [[0.0, 0.0]]
    """

    gates = ("hidden",)
    additive = True

    def activations(self, carry: Carry, x_BG: jax.Array, u_BG: jax.Array) -> dict[str, jax.Array]:
        return {"hidden": jnp.tanh(x_BG + u_BG)}

    def update(self, carry: Carry, gates: dict[str, jax.Array]) -> Carry:
        return (gates["hidden"],)
