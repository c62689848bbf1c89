"""A recurrence over time with the gradient written out: any cell, one product a step.

Automatic differentiation of a scan keeps an accumulator of the recurrent matrix's gradient, and
adds a thin product to it in every step. Here the backward loop finds only what a step's gates and
the state before it should have been; the matrix's gradient is one product after the loop.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# Numbers in a recurrent matrix that is turned before the backward loop. A larger one does not stay
# in a core's cache, and is read faster as it lies (measured: 200x800 and 256x1024 against 650x2600).
TURNED = 1 << 19

Carry = tuple[jax.Array, ...]
Step = Callable[[Carry, jax.Array, jax.Array], Carry]
"""step(carry, x_BG, u_BG) -> carry, elementwise in the batch; the hidden state first. Hashable."""


def recurrence(
    step: Step,
    carry: Carry,
    x_TBG: jax.Array,
    kernel_HG: jax.Array,
    bias_G: jax.Array | None = None,
    *,
    dtype: Any = jnp.float32,
    additive: bool = False,
    unroll: int = 1,
) -> tuple[jax.Array, Carry]:
    """Runs `step` over time: u_t = h_{t-1} U (+ bias), carry_t = step(carry_{t-1}, x_t, u_t).

    carry: arrays [B, H], float32, the hidden state h first. x_TBG: float32, the input's part of all
    gates at every step. kernel_HG: U, float32. dtype: of the products' operands; sums, gates and
    carry are float32. additive: whether the step only ever sees x + u, of which one then is kept
    for the gradient in place of both. unroll: steps in one turn of the loop.

    Returns every hidden state, float32 [T, B, H], and the last carry. Values and gradients are
    those of `jax.lax.scan` over the same step, in another order of summation.

        dU = Σ_t h_{t-1}ᵀ du_t            dh_{t-1} = du_t Uᵀ + (what the step itself passes back)
    """
    bias_G = jnp.zeros((0,), jnp.float32) if bias_G is None else bias_G
    return _recurrence(step, dtype, additive, unroll, carry, x_TBG, kernel_HG, bias_G)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _recurrence(
    step: Step,
    dtype: Any,
    additive: bool,
    unroll: int,
    carry: Carry,
    x_TBG: jax.Array,
    kernel_HG: jax.Array,
    bias_G: jax.Array,
) -> tuple[jax.Array, Carry]:
    def body(carry: Carry, x_BG: jax.Array) -> tuple[Carry, jax.Array]:
        u_BG = _product(carry[0], kernel_HG, dtype, bias_G)
        carry = step(carry, x_BG, u_BG)
        return carry, carry[0]

    last, h_TBH = jax.lax.scan(body, carry, x_TBG, unroll=unroll)
    return h_TBH, last


def _product(h_BH: jax.Array, kernel_HG: jax.Array, dtype: Any, bias_G: jax.Array) -> jax.Array:
    u_BG = jnp.matmul(
        h_BH.astype(dtype), kernel_HG.astype(dtype), preferred_element_type=jnp.float32
    )
    return u_BG + bias_G if bias_G.size else u_BG


def _forward(
    step: Step,
    dtype: Any,
    additive: bool,
    unroll: int,
    carry: Carry,
    x_TBG: jax.Array,
    kernel_HG: jax.Array,
    bias_G: jax.Array,
) -> tuple[tuple[jax.Array, Carry], tuple[Any, ...]]:
    def body(carry: Carry, x_BG: jax.Array) -> tuple[Carry, tuple[Carry, Any]]:
        u_BG = _product(carry[0], kernel_HG, dtype, bias_G)
        if additive:
            # The gates know x and u by their sum alone.
            x_BG = x_BG + u_BG
            after = step(carry, x_BG, jnp.zeros((), x_BG.dtype))
            return after, (after, x_BG)
        after = step(carry, x_BG, u_BG)
        return after, (after, u_BG)

    last, (carries, kept_TBG) = jax.lax.scan(body, carry, x_TBG, unroll=unroll)
    kept = (kept_TBG,) if additive else (x_TBG, kept_TBG)
    return (carries[0], last), (carry, carries, kept, kernel_HG, bias_G)


def _backward(
    step: Step,
    dtype: Any,
    additive: bool,
    unroll: int,
    saved: tuple[Any, ...],
    grads: tuple[jax.Array, Carry],
) -> tuple[Any, ...]:
    first, carries, kept, kernel_HG, bias_G = saved
    dh_TBH, dlast = grads
    kernel_GH = kernel_HG.T.astype(dtype)
    if kernel_GH.size <= TURNED:
        # Turned once: inside the loop, a thin product with the transpose takes half as long again.
        kernel_GH = jax.lax.optimization_barrier(kernel_GH)
    # The carry before each step: the first, and all but the last.
    before = tuple(
        jnp.concatenate([one[None], many[:-1]]) for one, many in zip(first, carries, strict=True)
    )

    def body(dcarry: Carry, at_t: tuple[Any, ...]) -> tuple[Carry, tuple[jax.Array, ...]]:
        dh_BH, carry, kept = at_t
        dcarry = (dcarry[0] + dh_BH, *dcarry[1:])
        if additive:
            _, pull = jax.vjp(lambda carry, s: step(carry, s, jnp.zeros((), s.dtype)), carry, *kept)
        else:
            _, pull = jax.vjp(step, carry, *kept)
        dbefore, *dgates = pull(dcarry)
        du_BG = dgates[-1]
        through_u = jnp.matmul(du_BG.astype(dtype), kernel_GH, preferred_element_type=jnp.float32)
        return (dbefore[0] + through_u, *dbefore[1:]), tuple(dgates)

    at = (dh_TBH, before, kept)
    dfirst, dgates = jax.lax.scan(body, dlast, at, reverse=True, unroll=unroll)
    dx_TBG, du_TBG = dgates[0], dgates[-1]
    time, batch, width = du_TBG.shape
    h_NH = before[0].reshape(time * batch, -1).astype(dtype)
    du_NG = du_TBG.reshape(time * batch, width)
    dkernel_HG = jnp.matmul(h_NH.T, du_NG.astype(dtype), preferred_element_type=jnp.float32)
    dbias_G = du_NG.sum(0) if bias_G.size else bias_G
    return dfirst, dx_TBG, dkernel_HG, dbias_G


_recurrence.defvjp(_forward, _backward)
