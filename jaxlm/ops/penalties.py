"""Penalties on hidden states, added to the training loss: AR and TAR."""

import jax
import jax.numpy as jnp


def activation_penalty(hidden_BTF: jax.Array, shares_BT: jax.Array) -> jax.Array:
    """Return the activation regularisation (AR), a float32 scalar.

        Σ_bt share · mean_f h²

    The paper adds α times this value to the loss, where h is the last layer's output after dropout.
    `shares_BT` is each position's weight in the loss; with 1 / (B T) the penalty is a plain mean.

    Source: Merity, McCann & Socher, "Revisiting activation regularization for language RNNs", 2017,
    section 3.1.
    """
    return jnp.sum(shares_BT * _mean_square(hidden_BTF))


def temporal_penalty(hidden_BTF: jax.Array, shares_BT: jax.Array) -> jax.Array:
    """Return the temporal activation regularisation (TAR), a float32 scalar.

        Σ_bt share · mean_f (h_t - h_{t-1})²

    The sum starts at the second time step, and uses the share of position t. The paper adds β times
    this value to the loss, where h is the last layer's output before dropout.

    Source: Merity, McCann & Socher 2017, section 3.2.
    """
    # S = T - 1 differences.
    change_BSF = hidden_BTF[:, 1:] - hidden_BTF[:, :-1]
    return jnp.sum(shares_BT[:, 1:] * _mean_square(change_BSF))


def _mean_square(x_BTF: jax.Array) -> jax.Array:
    """Return the mean of x² over the features, float32 [B, T]."""
    return jnp.mean(jnp.square(x_BTF.astype(jnp.float32)), axis=-1)
