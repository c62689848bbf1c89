"""cuDNN's LSTM (`jax.experimental.rnn`), with the parameters of the other LSTM time loops."""

import jax
import jax.numpy as jnp

from jaxlm.ops.machine import current_precision


def pack(kernel_DG: jax.Array, bias_G: jax.Array, recurrent_HG: jax.Array) -> jax.Array:
    """Return the parameter vector that cuDNN reads, from W, b and U.

    The vector holds Wᵀ [G, D], Uᵀ [G, H], the input bias, and a recurrent bias of zeros. The order
    of the gates is i, f, g, o, as in PyTorch.
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
    """Run an LSTM over time with cuDNN.

    Call it only if `machine.cudnn_is_here()` is true; without cuDNN, JAX cannot trace it. Products
    are float32, or TF32 where JAX's matmul precision allows it.

    Args:
      x_BTD: the layer's input, float32.
      carry: initial (h, c), float32 [B, H] each.
      kernel_DG: input matrix W, float32. The order of the gates is i, f, g, o.
      bias_G: bias b, float32.
      recurrent_HG: recurrent matrix U, float32.
      length: number of time steps to run, int32 scalar; None runs all steps.
    Returns:
      h_BTH, and (h, c) after `length` steps, float32.
    """
    from jax.experimental import rnn

    batch, time, inputs = x_BTD.shape
    h_1BH, c_1BH = (part[None] for part in carry)
    lengths_B = jnp.full((batch,), time if length is None else length, jnp.int32)
    # M: all parameters in one vector.
    weights_M = pack(kernel_DG, bias_G, recurrent_HG)
    # One layer, dropout rate 0, not bidirectional.
    h_BTH, h_1BH, c_1BH = rnn.lstm(
        x_BTD,
        h_1BH,
        c_1BH,
        weights_M,
        lengths_B,
        inputs,
        recurrent_HG.shape[0],
        1,
        0.0,
        False,
        # The gradient is traced after the context of the precision has ended.
        precision=current_precision(),
    )
    return h_BTH, (h_1BH[0], c_1BH[0])
