"""The gated recurrent unit."""

import jax
import jax.numpy as jnp

from jaxlm.models.cells.base import Carry, Cell


class GRUCell(Cell):
    """Gated recurrent unit (Cho et al. 2014), in the form that resets after the product.

        r, z = σ(W x + b + U h + b_u)
        n    = tanh(W x + b + r ⊙ (U h + b_u))
        h'   = (1 - z) ⊙ n + z ⊙ h

    The paper resets h before the product, U (r ⊙ h). This form, of PyTorch and cuDNN, computes U h
    for all gates in one product; for it the recurrent bias b_u is inside r ⊙ (...) and cannot merge
    with b.

    Source: Cho et al., "Learning phrase representations using RNN encoder-decoder", 2014, section
    2.3.
    """

    gates = ("reset", "update", "candidate")
    recurrent_bias = True

    def activations(self, carry: Carry, x_BG: jax.Array, u_BG: jax.Array) -> dict[str, jax.Array]:
        x_r, x_z, x_n = jnp.split(x_BG, 3, axis=-1)
        u_r, u_z, u_n = jnp.split(u_BG, 3, axis=-1)
        r = jax.nn.sigmoid(x_r + u_r)
        z = jax.nn.sigmoid(x_z + u_z)
        return {"reset": r, "update": z, "candidate": jnp.tanh(x_n + r * u_n)}

    def update(self, carry: Carry, gates: dict[str, jax.Array]) -> Carry:
        (h,), z = carry, gates["update"]
        return ((1 - z) * gates["candidate"] + z * h,)
