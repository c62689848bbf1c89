"""The minimal gated recurrent unit."""

import jax
import jax.numpy as jnp

from jaxlm.models.cells.base import Carry, ParallelCell, positive


class MinGRUCell(ParallelCell):
    """A gated recurrent unit whose gates depend only on the input (Feng et al. 2024).

        z  = σ(W x + b)                  n = g(W x + b)
        h' = (1 - z) ⊙ h + z ⊙ n

    Here g(s) = s + ½ for s ≥ 0, else σ(s), as the paper trains the cell. In this cell, z is the
    weight of the candidate n; in a GRU in PyTorch's form, z is the weight of the old state h.

    Source: Feng, Tung, Ahmed, Bengio & Hajimirsadeghi, "Were RNNs all we needed?", 2024, section
    3.1.

    Example:
      >>> import jax.numpy as jnp
      >>> (h_BH,) = MinGRUCell().step((jnp.ones((1, 2)),), jnp.zeros((1, 4)), jnp.zeros(()))
      >>> h_BH.tolist()
      [[0.75, 0.75]]
    """

    gates = ("update", "candidate")

    def activations(self, carry: Carry, x_BG: jax.Array, u_BG: jax.Array) -> dict[str, jax.Array]:
        z, n = jnp.split(x_BG, 2, axis=-1)
        return {"update": jax.nn.sigmoid(z), "candidate": positive(n)}

    def affine(self, gates: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        z = gates["update"]
        return 1 - z, z * gates["candidate"]
