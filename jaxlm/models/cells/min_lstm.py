"""The minimal long short-term memory."""

import jax
import jax.numpy as jnp

from jaxlm.models.cells.base import Carry, ParallelCell, positive


class MinLSTMCell(ParallelCell):
    """A long short-term memory whose gates depend only on the input (Feng et al. 2024).

        s_f, s_i = W x + b               n = g(W x + b)
        f  = σ(s_f) / (σ(s_f) + σ(s_i))  i = 1 - f
        h' = f ⊙ h + i ⊙ n

    Here g(s) = s + ½ for s ≥ 0, else σ(s), as the paper trains the cell. The weights of h and n sum
    to 1, so h keeps its scale. The cell has no output gate, and h is its only state.

    Source: Feng, Tung, Ahmed, Bengio & Hajimirsadeghi, "Were RNNs all we needed?", 2024, section
    3.2.

    Example:
      >>> import jax.numpy as jnp
      >>> (h_BH,) = MinLSTMCell().step((jnp.ones((1, 2)),), jnp.zeros((1, 6)), jnp.zeros(()))
      >>> h_BH.tolist()
      [[0.75, 0.75]]
    """

    gates = ("forget", "input", "candidate")
    forget_gate = "forget"

    def activations(self, carry: Carry, x_BG: jax.Array, u_BG: jax.Array) -> dict[str, jax.Array]:
        f, i, n = jnp.split(x_BG, 3, axis=-1)
        # The quotient by logarithms, because both sigmoids may be too small for float32.
        forget = jax.nn.sigmoid(jax.nn.log_sigmoid(f) - jax.nn.log_sigmoid(i))
        return {"forget": forget, "input": 1 - forget, "candidate": positive(n)}

    def affine(self, gates: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return gates["forget"], gates["input"] * gates["candidate"]
