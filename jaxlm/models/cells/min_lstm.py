"""The minimal long short-term memory."""

import jax
import jax.numpy as jnp

from jaxlm.models.cells.base import Carry, ParallelCell, positive


class MinLSTMCell(ParallelCell):
    """A long short-term memory whose gates do not see the state, which is all there is of it: no
    output gate, no cell apart (Feng et al. 2024).

        f, i = σ(W x + b)                n = g(W x + b)
        h'   = f / (f + i) ⊙ h + i / (f + i) ⊙ n

    With g(s) = s + ½ for s ≥ 0, else σ(s), as the paper trains it. The two gates share one whole,
    so that h keeps its scale.

    Source: Feng, Tung, Ahmed, Bengio & Hajimirsadeghi, "Were RNNs all we needed?", 2024, section
    3.2.
    """

    gates = ("forget", "input", "candidate")

    def activations(self, carry: Carry, x_BG: jax.Array, u_BG: jax.Array) -> dict[str, jax.Array]:
        f, i, n = jnp.split(x_BG, 3, axis=-1)
        return {"forget": jax.nn.sigmoid(f), "input": jax.nn.sigmoid(i), "candidate": positive(n)}

    def affine(self, gates: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        f, i = gates["forget"], gates["input"]
        kept = f / (f + i)
        return kept, (1 - kept) * gates["candidate"]
