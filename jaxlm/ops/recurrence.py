"""A loop over time for any cell with one product per step, with a hand-written gradient.

Automatic differentiation of a scan accumulates the recurrent matrix's gradient inside the loop, and
adds a thin product to it in each step. Here, the backward loop computes only the gradients of the
gates and of the carry. The matrix's gradient is one product after the loop.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlm.ops.machine import must_transpose_recurrent, steps_per_iteration
from jaxlm.ops.products import Compute, product, product_by_transposed, transposed_product

# Name of the time loops in compiled programs.
TIME_SCOPE = "over_time"

Carry = tuple[jax.Array, ...]
"""The state: arrays [B, H]. The hidden state comes first."""
Step = Callable[[Carry, jax.Array, jax.Array], Carry]
"""step(carry, x_BG, u_BG) -> carry, elementwise in the batch. The carry's first array is the hidden
state. A step is hashable."""


def recurrence(
    step: Step,
    carry: Carry,
    x_TBG: jax.Array,
    kernel: jax.Array,
    bias_G: jax.Array | None = None,
    mask: jax.Array | None = None,
    valid_T: jax.Array | None = None,
    *,
    dtype: Any = jnp.float32,
    additive: bool = False,
    unroll: int | None = None,
) -> tuple[jax.Array, Carry]:
    """Run a cell over time with a hand-written gradient.

        u_t = (m_t ⊙ h_{t-1}) U (+ bias)          carry_t = step(carry_{t-1}, x_t, u_t)
        dU = Σ_t (m_t ⊙ h_{t-1})ᵀ du_t    dh_{t-1} = m_t ⊙ du_t Uᵀ + (the step's gradient)

    The step's gradient reaches h_{t-1} as an element of carry_{t-1}, and not through u_t. Values
    and gradients equal the values and gradients of `jax.lax.scan` over the same step, up to the
    order of summation. Sums, gates and carry are float32.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxlm.models.cells import CELLS
      >>> x_TBG, kernel_HG = jnp.zeros((5, 2, 4 * 3)), jnp.zeros((3, 4 * 3))
      >>> carry = jnp.zeros((2, 3)), jnp.ones((2, 3))
      >>> h_TBH, (h_BH, c_BH) = recurrence(CELLS["lstm"].step, carry, x_TBG, kernel_HG)
      >>> h_TBH.shape, c_BH[0].tolist()
      ((5, 2, 3), [0.03125, 0.03125, 0.03125])

    Args:
      step: the cell, elementwise in the batch: (carry, x_BG, u_BG) -> carry.
      carry: initial state, float32 arrays [B, H]; the hidden state h comes first.
      x_TBG: W x + b for all gates and all time steps, float32.
      kernel: recurrent matrix U, float32; or a vector [G], whose product with h is elementwise
        (`recurrent_product`).
      bias_G: recurrent bias, float32; None for a cell without it.
      mask: factor m of h, such as a dropout mask; None for 1. [B, H] is one mask per sequence
        (Gal & Ghahramani 2016), and [T, B, H] one mask per time step. Its gradient is not computed.
      valid_T: bool; a step where it is False leaves the carry unchanged. None if all are valid.
      dtype: dtype of the operands of the products.
      additive: whether the cell uses x and u only as their sum. If so, the forward loop stores the
        sum for the gradient, in place of both.
      unroll: number of time steps in one iteration of the compiled loop; None for the number that
        is fastest on the platform (`machine.steps_per_iteration`).
    Returns:
      Each hidden state h_TBH, float32, and the carry after the last step.
    """
    bias_G = jnp.zeros((0,), jnp.float32) if bias_G is None else bias_G
    unroll = steps_per_iteration() if unroll is None else unroll
    settings = LoopSettings(step, Compute.now(dtype), additive, unroll)
    return _recurrence(settings, carry, x_TBG, kernel, bias_G, mask, valid_T)


class LoopSettings(NamedTuple):
    """The static arguments of `recurrence`; see there."""

    step: Step
    compute: Compute
    additive: bool
    unroll: int


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _recurrence(
    settings: LoopSettings,
    carry: Carry,
    x_TBG: jax.Array,
    kernel: jax.Array,
    bias_G: jax.Array,
    mask: jax.Array | None,
    valid_T: jax.Array | None,
) -> tuple[jax.Array, Carry]:
    width = x_TBG.shape[-1]

    def body(carry: Carry, inputs_t: tuple[Any, ...]) -> tuple[Carry, jax.Array]:
        x_BG, mask_BH, valid = inputs_t
        h_BH = _masked(carry[0], mask_BH, mask)
        u_BG = recurrent_product(h_BH, kernel, settings.compute.dtype, bias_G, width)
        carry = where_valid(valid, settings.step(carry, x_BG, u_BG), carry)
        return carry, carry[0]

    inputs = x_TBG, _step_masks(mask), valid_T
    last, h_TBH = scan_over_time(body, carry, inputs, unroll=settings.unroll)
    return h_TBH, last


def scan_over_time(body: Any, carry: Any, inputs: Any, **options: Any) -> Any:
    """Run `jax.lax.scan` over time steps, named TIME_SCOPE in the compiled program."""
    with jax.named_scope(TIME_SCOPE):
        return jax.lax.scan(body, carry, inputs, **options)


def where_valid(valid: jax.Array | None, new: Any, old: Any) -> Any:
    """Return the arrays of `new` if the time step is valid, otherwise the arrays of `old`.

    `valid` is a bool scalar; None means that the step is valid.
    """
    if valid is None:
        return new
    return jax.tree.map(lambda after, before: jnp.where(valid, after, before), new, old)


def _step_masks(mask: jax.Array | None) -> jax.Array | None:
    """Return the per-step masks [T, B, H]. None if there is one mask per sequence, or no mask."""
    return None if mask is None or mask.ndim == 2 else mask


def _masked(h_BH: jax.Array, mask_BH: jax.Array | None, mask: jax.Array | None) -> jax.Array:
    """Return h times the mask of the time step, or of the whole sequence, if there is one.

    `mask_BH` is the mask of the time step, and `mask` the argument of `recurrence`.
    """
    factor_BH = mask if mask_BH is None else mask_BH
    return h_BH if factor_BH is None else h_BH * factor_BH


def recurrent_product(
    h_BH: jax.Array, kernel: jax.Array, dtype: Any, bias_G: jax.Array, width: int
) -> jax.Array:
    """Return u = h U + bias, [B, G] float32.

    Args:
      h_BH: hidden states, float32.
      kernel: U, a matrix [H, G]; or a vector, for u = (h, h, ..., 1) ⊙ U, which is elementwise and
        has float32 operands. Its first `width` elements multiply h.
      dtype: dtype of the operands of the product with a matrix.
      bias_G: the bias; an array of size 0 stands for no bias.
      width: number of elements of all gates.
    """
    if kernel.ndim == 1:
        u_BG = _beside(h_BH, kernel.size, width) * kernel
    else:
        u_BG = product(h_BH.astype(dtype), kernel.astype(dtype))
    return u_BG + bias_G if bias_G.size else u_BG


def _beside(h_BH: jax.Array, total: int, width: int) -> jax.Array:
    """Return h beside itself for `width` elements, then ones up to `total` elements."""
    parts = [h_BH] * (width // h_BH.shape[-1])
    if total > width:
        parts.append(jnp.ones((h_BH.shape[0], total - width), h_BH.dtype))
    return jnp.concatenate(parts, axis=-1)


def through_recurrent(
    du: jax.Array, kernel: jax.Array, dtype: Any, size: int, width: int
) -> jax.Array:
    """Return the gradient of h, [..., H], from the gradient of u.

    Args:
      du: gradient of u, [..., G].
      kernel: U, a matrix or a vector, as in `recurrent_product`.
      dtype: dtype of the operands of the product with a matrix.
      size: number of units H.
      width: number of elements of all gates.
    """
    if kernel.ndim == 1:
        through = du[..., :width] * kernel[:width]
        return through.reshape(*du.shape[:-1], -1, size).sum(-2)
    flat_NG = du.reshape(-1, du.shape[-1]).astype(dtype)
    dh_NH = product_by_transposed(flat_NG, kernel.astype(dtype))
    return dh_NH.reshape(*du.shape[:-1], -1)


def recurrent_gradients(
    h_TBH: jax.Array,
    du_TBG: jax.Array,
    kernel: jax.Array,
    bias_G: jax.Array,
    dtype: Any,
    width: int,
) -> tuple[jax.Array, jax.Array]:
    """Return the gradients of U and of its bias.

    Args:
      h_TBH: hidden state before each step, after its mask.
      du_TBG: gradient of u.
      kernel: U, a matrix or a vector, as in `recurrent_product`.
      bias_G: the bias; an array of size 0 stands for no bias, and is its own gradient.
      dtype: dtype of the operands of the product that gives the gradient of a matrix.
      width: number of elements of all gates.
    """
    time, batch, total = du_TBG.shape
    du_NG = du_TBG.reshape(time * batch, total)
    h_NH = h_TBH.reshape(time * batch, -1)
    if kernel.ndim == 1:
        dkernel = (_beside(h_NH, total, width) * du_NG).sum(0)
    else:
        dkernel = transposed_product(h_NH.astype(dtype), du_NG.astype(dtype))
    return dkernel, du_NG.sum(0) if bias_G.size else bias_G


def _forward(
    settings: LoopSettings, *arrays: Any
) -> tuple[tuple[jax.Array, Carry], tuple[Any, ...]]:
    with settings.compute.context():
        return values_and_saved(settings, *arrays)


def values_and_saved(
    settings: LoopSettings,
    carry: Carry,
    x_TBG: jax.Array,
    kernel: jax.Array,
    bias_G: jax.Array,
    mask: jax.Array | None,
    valid_T: jax.Array | None,
) -> tuple[tuple[jax.Array, Carry], tuple[Any, ...]]:
    """Return the results of `recurrence`, and what `loop_gradients` needs.

    `loop_gradients` needs the initial carry, the carries after all steps, arrays [T, B, H], the
    inputs of the gates, and the other arguments.

    Args:
      settings: the static arguments of `recurrence`.
      carry, x_TBG, kernel, mask, valid_T: as in `recurrence`.
      bias_G: as in `recurrence`; an array of size 0 for a cell without a recurrent bias.
    """
    width = x_TBG.shape[-1]

    def body(carry: Carry, inputs_t: tuple[Any, ...]) -> tuple[Carry, tuple[Carry, Any]]:
        x_BG, mask_BH, valid = inputs_t
        h_BH = _masked(carry[0], mask_BH, mask)
        u_BG = recurrent_product(h_BH, kernel, settings.compute.dtype, bias_G, width)
        if settings.additive:
            # The gates need only the sum of x and u.
            sum_BG = x_BG + u_BG
            new = settings.step(carry, sum_BG, jnp.zeros_like(sum_BG))
            new = where_valid(valid, new, carry)
            return new, (new, sum_BG)
        new = where_valid(valid, settings.step(carry, x_BG, u_BG), carry)
        return new, (new, u_BG)

    inputs = x_TBG, _step_masks(mask), valid_T
    last, (carries, stored_TBG) = scan_over_time(body, carry, inputs, unroll=settings.unroll)
    stored = (stored_TBG,) if settings.additive else (x_TBG, stored_TBG)
    return (carries[0], last), (carry, carries, stored, kernel, bias_G, mask, valid_T)


def _backward(
    settings: LoopSettings, saved: tuple[Any, ...], grads: tuple[jax.Array, Carry]
) -> tuple[Any, ...]:
    with settings.compute.context():
        return loop_gradients(settings, saved, grads)


def loop_gradients(
    settings: LoopSettings, saved: tuple[Any, ...], grads: tuple[jax.Array, Carry]
) -> tuple[Any, ...]:
    """Return the gradients of the arguments of `recurrence`, by a loop backwards in time.

    Args:
      settings: the settings of the forward loop.
      saved: the second result of `values_and_saved`.
      grads: the gradients of h_TBH and of the carry after the last step.
    """
    initial, carries, stored, kernel, bias_G, mask, valid_T = saved
    dh_TBH, dlast = grads
    step, dtype = settings.step, settings.compute.dtype
    size, width, elementwise = dh_TBH.shape[-1], stored[0].shape[-1], kernel.ndim == 1
    operand = kernel if elementwise else kernel.astype(dtype)
    # The matrix is transposed once, before the loop. Inside the loop, a thin product with the
    # transpose takes 1.5 times as long in float32; in bfloat16 it takes no longer.
    transposes = not elementwise and must_transpose_recurrent(operand.size, operand.dtype)
    transposed_GH = jax.lax.optimization_barrier(operand.T) if transposes else None
    # The carry before each step: the initial carry, then the carry after each step but the last.
    previous = tuple(
        jnp.concatenate([initial_BH[None], carry_TBH[:-1]])
        for initial_BH, carry_TBH in zip(initial, carries, strict=True)
    )

    def body(dcarry: Carry, inputs_t: tuple[Any, ...]) -> tuple[Carry, tuple[jax.Array, ...]]:
        dh_BH, carry, stored_t, mask_BH, valid = inputs_t
        dcarry = (dcarry[0] + dh_BH, *dcarry[1:])
        if settings.additive:

            def step_of_sum(carry: Carry, sum_BG: jax.Array) -> Carry:
                return step(carry, sum_BG, jnp.zeros_like(sum_BG))

            _, pullback = jax.vjp(step_of_sum, carry, *stored_t)
        else:
            _, pullback = jax.vjp(step, carry, *stored_t)
        dprevious, *dgates = pullback(dcarry)
        if valid is not None:
            dgates = [jnp.where(valid, dgate_BG, 0.0) for dgate_BG in dgates]
        if transposed_GH is None:
            through_u_BH = through_recurrent(dgates[-1], operand, dtype, size, width)
        else:
            through_u_BH = product(dgates[-1].astype(dtype), transposed_GH)
        through_u_BH = _masked(through_u_BH, mask_BH, mask)
        dprevious = (dprevious[0] + through_u_BH, *dprevious[1:])
        return where_valid(valid, dprevious, dcarry), tuple(dgates)

    inputs = (dh_TBH, previous, stored, _step_masks(mask), valid_T)
    dinitial, dgates = scan_over_time(body, dlast, inputs, reverse=True, unroll=settings.unroll)
    dx_TBG, du_TBG = dgates[0], dgates[-1]
    masked_h_TBH = previous[0] if mask is None else previous[0] * mask
    dkernel, dbias_G = recurrent_gradients(masked_h_TBH, du_TBG, kernel, bias_G, dtype, width)
    return dinitial, dx_TBG, dkernel, dbias_G, None, None


_recurrence.defvjp(_forward, _backward)


def run_in_segments(
    run: Callable[[Carry, Any], tuple[jax.Array, Carry]],
    carry: Carry,
    inputs: Any,
    steps: int,
) -> tuple[jax.Array, Carry]:
    """Run a time loop in segments, and compute each segment again in the backward pass.

    This is rematerialisation (Chen et al. 2016). For the gradient, the loop stores x, h, the carry
    between segments, and the other arrays of a single segment. For an LSTM these are H + D numbers
    per time step and row, in place of 6 H + D.

    Args:
      run: the time loop: (carry, inputs) -> (h_TBH, carry).
      carry: initial state, arrays [B, H].
      inputs: pytree of arrays such as x_TBD, whose first axis is time.
      steps: number of time steps in a segment. The last segment may be shorter.
    Returns:
      Each hidden state h_TBH, and the carry after the last step.
    """
    checkpointed = jax.checkpoint(run)
    time = jax.tree.leaves(inputs)[0].shape[0]
    segments = time // steps

    def body(carry: Carry, segment: Any) -> tuple[Carry, jax.Array]:
        # S: the time steps of a segment. K: segments.
        h_SBH, carry = checkpointed(carry, segment)
        return carry, h_SBH

    def split(x: jax.Array) -> jax.Array:
        return x[: segments * steps].reshape(segments, steps, *x.shape[1:])

    carry, h_KSBH = jax.lax.scan(body, carry, jax.tree.map(split, inputs))
    # M: the K · S time steps of all whole segments.
    h_MBH = h_KSBH.reshape(segments * steps, *h_KSBH.shape[2:])
    if segments * steps == time:
        return h_MBH, carry
    # R: the remaining time steps.
    h_RBH, carry = checkpointed(carry, jax.tree.map(lambda x: x[segments * steps :], inputs))
    return jnp.concatenate([h_MBH, h_RBH]), carry
