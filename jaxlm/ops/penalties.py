"""What is added to the loss to keep activations small and slow."""

import jax
import jax.numpy as jnp


def activation_penalty(hidden_BTF: jax.Array, shares_BT: jax.Array) -> jax.Array:
    """Σ_bt share · mean_f h²: activation regularisation, AR, of which the paper takes α times, on
    the last layer's output after dropout (Merity, McCann & Socher, "Revisiting activation
    regularization for language RNNs", 2017, section 3.1).

    With shares of 1 / (B T), the mean over all. float32 scalar.
    """
    return jnp.sum(shares_BT * _mean_square(hidden_BTF))


def temporal_penalty(hidden_BTF: jax.Array, shares_BT: jax.Array) -> jax.Array:
    """Σ_bt share · mean_f (h_t - h_{t-1})², from the second step on: temporal activation
    regularisation, TAR, β times in the paper, on the last layer's output before dropout (ibid.,
    section 3.2). A step's share is the later one's. float32 scalar.
    """
    steps_BTF = hidden_BTF[:, 1:] - hidden_BTF[:, :-1]
    return jnp.sum(shares_BT[:, 1:] * _mean_square(steps_BTF))


def _mean_square(x_BTF: jax.Array) -> jax.Array:
    return jnp.mean(jnp.square(x_BTF.astype(jnp.float32)), axis=-1)
