"""The long short-term memory with elementwise recurrent weights."""

import jax
import jax.numpy as jnp

from jaxlm.models.cells.base import Carry, Cell
from jaxlm.ops.fused_gates import fused_gates


class ParaLSTMCell(Cell):
    """LSTM whose recurrent weights are elementwise, so that Newton's method solves it exactly.

        f  = σ(W x + b + u ⊙ h + p_f ⊙ c)         g = tanh(W x + b + u ⊙ h)
        c' = f ⊙ c + (1 - f) ⊙ g
        o  = σ(W x + b + u ⊙ h + p_o ⊙ c')        h' = o ⊙ tanh(c')

    The input gate is 1 - f (Greff et al. 2017), and p_f and p_o are peepholes (Gers & Schmidhuber
    2000). A unit reads only its own h and c; the units meet in the layer above.

    Source: Danieli et al., "ParaRNN: Unlocking parallel training of nonlinear RNNs for large
    language models", 2025, section 3 (ParaLSTM).

    Example:
      >>> import jax.numpy as jnp
      >>> carry = jnp.zeros((1, 2)), jnp.ones((1, 2))
      >>> h_BH, c_BH = ParaLSTMCell().step(carry, jnp.zeros((1, 6)), jnp.zeros((1, 10)))
      >>> c_BH.tolist()
      [[0.5, 0.5]]
    """

    gates = ("forget", "cell", "output")
    carry = ("h", "c")
    forget_gate = "forget"
    elementwise = True
    weights = ("forget_peephole", "output_peephole")

    def activations(self, carry: Carry, x_BG: jax.Array, u_BG: jax.Array) -> dict[str, jax.Array]:
        _, c_BH = carry
        width = x_BG.shape[-1]
        f_BH, g_BH, o_BH = jnp.split(x_BG + u_BG[:, :width], 3, axis=-1)
        to_f_BH, to_o_BH = jnp.split(u_BG[:, width:], 2, axis=-1)
        # M: the forget gate and the candidate, 2 H numbers.
        fg_BM = jnp.concatenate([f_BH + to_f_BH * c_BH, g_BH], axis=-1)
        f_BH, g_BH = jnp.split(fused_gates(fg_BM, ("sigmoid", "tanh")), 2, axis=-1)
        # The output gate reads the new c.
        new_c_BH = f_BH * c_BH + (1 - f_BH) * g_BH
        o_BH = fused_gates(o_BH + to_o_BH * new_c_BH, ("sigmoid",))
        return {"forget": f_BH, "cell": g_BH, "output": o_BH}

    def update(self, carry: Carry, gates: dict[str, jax.Array]) -> Carry:
        _, c_BH = carry
        f_BH = gates["forget"]
        c_BH = f_BH * c_BH + (1 - f_BH) * gates["cell"]
        return gates["output"] * jnp.tanh(c_BH), c_BH
