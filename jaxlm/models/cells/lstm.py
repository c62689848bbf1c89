"""The long short-term memory."""

import jax
import jax.numpy as jnp

from jaxlm.models.cells.base import Carry, Cell
from jaxlm.ops.fused_gates import fused_gates


class LSTMCell(Cell):
    """Long short-term memory (Hochreiter & Schmidhuber 1997), with a forget gate (Gers et al.
    2000).

        i, f, o = σ(W x + b + U h)      g = tanh(W x + b + U h)
        c' = f ⊙ c + i ⊙ g              h' = o ⊙ tanh(c')

    The gates have PyTorch's order i, f, g, o. The cell has one bias. PyTorch's `nn.LSTM` has two,
    which occur only as their sum.

    Source: Hochreiter & Schmidhuber, "Long short-term memory", 1997; Gers, Schmidhuber & Cummins,
    "Learning to forget", 2000.

    Example:
      >>> import jax.numpy as jnp
      >>> carry = jnp.zeros((1, 2)), jnp.ones((1, 2))
      >>> h_BH, c_BH = LSTMCell().step(carry, jnp.zeros((1, 8)), jnp.zeros((1, 8)))
      >>> c_BH.tolist()
      [[0.5, 0.5]]
    """

    gates = ("input", "forget", "cell", "output")
    carry = ("h", "c")
    forget_gate = "forget"
    additive = True

    def activations(self, carry: Carry, x_BG: jax.Array, u_BG: jax.Array) -> dict[str, jax.Array]:
        gates_BG = fused_gates(x_BG + u_BG, ("sigmoid", "sigmoid", "tanh", "sigmoid"))
        return dict(zip(self.gates, jnp.split(gates_BG, 4, axis=-1), strict=True))

    def update(self, carry: Carry, gates: dict[str, jax.Array]) -> Carry:
        _, c_BH = carry
        c_BH = gates["forget"] * c_BH + gates["input"] * gates["cell"]
        return gates["output"] * jnp.tanh(c_BH), c_BH
