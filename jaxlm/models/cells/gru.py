"""The gated recurrent unit."""

import jax
import jax.numpy as jnp

from jaxlm.models.cells.base import Carry, Cell
from jaxlm.ops.fused_gates import fused_gates


def gru_gates(x_BG: jax.Array, u_BG: jax.Array) -> dict[str, jax.Array]:
    """Return r, z = σ(x + u) and n = tanh(x + r ⊙ u), [B, H] each, by the gate's name.

    Args:
      x_BG: the inputs of the gates, in the order reset, update, candidate.
      u_BG: what the gates read of the state, in the same order.
    """
    size = x_BG.shape[-1] // 3
    # M: the reset gate and the update gate, 2 H numbers.
    rz_BM = fused_gates(x_BG[:, : 2 * size] + u_BG[:, : 2 * size], ("sigmoid", "sigmoid"))
    r_BH, z_BH = jnp.split(rz_BM, 2, axis=-1)
    n_BH = fused_gates(x_BG[:, 2 * size :] + r_BH * u_BG[:, 2 * size :], ("tanh",))
    return {"reset": r_BH, "update": z_BH, "candidate": n_BH}


class GRUCell(Cell):
    """Gated recurrent unit (Cho et al. 2014), with the reset gate applied after the product.

        r, z = σ(W x + b + U h + b_u)
        n    = tanh(W x + b + r ⊙ (U h + b_u))
        h'   = (1 - z) ⊙ n + z ⊙ h

    The paper applies the reset gate before the product: U (r ⊙ h). The form above, also used by
    PyTorch and cuDNN, computes U h for all gates in one product. Its recurrent bias b_u is inside
    r ⊙ (...), so it cannot be merged with b.

    Source: Cho et al., "Learning phrase representations using RNN encoder-decoder", 2014, section
    2.3.

    Example:
      >>> import jax.numpy as jnp
      >>> (h_BH,) = GRUCell().step((jnp.ones((1, 2)),), jnp.zeros((1, 6)), jnp.zeros((1, 6)))
      >>> h_BH.tolist()
      [[0.5, 0.5]]
    """

    gates = ("reset", "update", "candidate")
    recurrent_bias = True

    def activations(self, carry: Carry, x_BG: jax.Array, u_BG: jax.Array) -> dict[str, jax.Array]:
        return gru_gates(x_BG, u_BG)

    def update(self, carry: Carry, gates: dict[str, jax.Array]) -> Carry:
        (h_BH,), z_BH = carry, gates["update"]
        return ((1 - z_BH) * gates["candidate"] + z_BH * h_BH,)
