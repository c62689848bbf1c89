"""cuDNN's LSTM, by way of `jax.experimental.rnn`, from the parameters of any other LSTM layer."""

import jax
import jax.numpy as jnp


def pack(kernel_DG: jax.Array, bias_G: jax.Array, recurrent_HG: jax.Array) -> jax.Array:
    """W, b and U as cuDNN's one vector: W and U turned, [G, D] and [G, H], then the bias of the
    input, then that of the recurrent link, which is zero. The gates' order i, f, g, o is PyTorch's.
    """
    parts = kernel_DG.T, recurrent_HG.T, bias_G, jnp.zeros_like(bias_G)
    return jnp.concatenate([part.reshape(-1) for part in parts])


def lstm(
    x_BTD: jax.Array,
    carry: tuple[jax.Array, jax.Array],
    kernel_DG: jax.Array,
    bias_G: jax.Array,
    recurrent_HG: jax.Array,
    length: jax.Array | None = None,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """h_BTH and (h, c) after `length` steps (none: all), float32 (TF32 where JAX's matmul precision
    allows it).

    To be called where `kernels.cudnn_is_here`: elsewhere it cannot even be traced.
    """
    from jax.experimental import rnn

    batch, time, inputs = x_BTD.shape
    h_1BH, c_1BH = (part[None] for part in carry)
    lengths_B = jnp.full((batch,), time if length is None else length, jnp.int32)
    weights = pack(kernel_DG, bias_G, recurrent_HG)
    h_BTH, h_1BH, c_1BH = rnn.lstm(
        x_BTD,
        h_1BH,
        c_1BH,
        weights,
        lengths_B,
        inputs,
        recurrent_HG.shape[0],
        1,
        0.0,
        False,
    )
    return h_BTH, (h_1BH[0], c_1BH[0])
