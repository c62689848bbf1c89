"""The gated recurrent unit with elementwise recurrent weights."""

import jax

from jaxlm.models.cells.base import Carry, Cell
from jaxlm.models.cells.gru import gru_gates


class ParaGRUCell(Cell):
    """GRU whose recurrent weights are elementwise, so that Newton's method solves it exactly.

        r, z = σ(W x + b + u ⊙ h)
        n    = tanh(W x + b + u ⊙ (r ⊙ h))
        h'   = (1 - z) ⊙ h + z ⊙ n

    A unit reads no other unit of its layer; the units meet in the layer above. The gates stay
    nonlinear in h, unlike those of minGRU.

    Source: Danieli et al., "ParaRNN: Unlocking parallel training of nonlinear RNNs for large
    language models", 2025, section 3 (ParaGRU).

    Example:
      >>> import jax.numpy as jnp
      >>> (h_BH,) = ParaGRUCell().step((jnp.ones((1, 2)),), jnp.zeros((1, 6)), jnp.zeros((1, 6)))
      >>> h_BH.tolist()
      [[0.5, 0.5]]
    """

    gates = ("reset", "update", "candidate")
    elementwise = True

    def activations(self, carry: Carry, x_BG: jax.Array, u_BG: jax.Array) -> dict[str, jax.Array]:
        return gru_gates(x_BG, u_BG)

    def update(self, carry: Carry, gates: dict[str, jax.Array]) -> Carry:
        (h_BH,), z_BH = carry, gates["update"]
        return ((1 - z_BH) * h_BH + z_BH * gates["candidate"],)
