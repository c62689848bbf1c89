"""A recurrence over time with the gradient written out: any cell, one product a step.

Automatic differentiation of a scan keeps an accumulator of the recurrent matrix's gradient, and
adds a thin product to it in every step. Here the backward loop finds only what a step's gates and
the state before it should have been; the matrix's gradient is one product after the loop.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlm.ops.products import Compute, product, product_by_transposed, transposed_product

# Numbers in a recurrent matrix that is turned before the backward loop, at most. A larger one does
# not stay in a core's cache, and is read faster as it lies (200x800 and 256x1024 against 650x2600).
LARGEST_TRANSPOSED = 1 << 19
OVER_TIME = "over_time"

Carry = tuple[jax.Array, ...]
Step = Callable[[Carry, jax.Array, jax.Array], Carry]
"""step(carry, x_BG, u_BG) -> carry, elementwise in the batch; the hidden state first. Hashable."""


def recurrence(
    step: Step,
    carry: Carry,
    x_TBG: jax.Array,
    kernel_HG: jax.Array,
    bias_G: jax.Array | None = None,
    mask: jax.Array | None = None,
    live_T: jax.Array | None = None,
    *,
    dtype: Any = jnp.float32,
    additive: bool = False,
    unroll: int = 1,
) -> tuple[jax.Array, Carry]:
    """Runs `step` over time.

        u_t = (m_t ⊙ h_{t-1}) U (+ bias)          carry_t = step(carry_{t-1}, x_t, u_t)

    carry: arrays [B, H], float32, the hidden state h first. x_TBG: float32, the input's part of all
    gates at every step. kernel_HG: U, float32. mask: m, what the recurrent link is multiplied by,
    such as a dropout mask: [B, H], one a sequence (Gal & Ghahramani 2016), or [T, B, H], one a
    step; it has no gradient. live_T: bool, steps that count; the others leave the carry, and h, as
    they were. dtype: of the products' operands; sums, gates and carry are
    float32. additive: whether the step only ever sees x + u, of which one then is kept for the
    gradient in place of both. unroll: steps in one turn of the loop.

    Returns every hidden state, float32 [T, B, H], and the last carry. Values and gradients are
    those of `jax.lax.scan` over the same step, in another order of summation.

        dU = Σ_t (m_t ⊙ h_{t-1})ᵀ du_t    dh_{t-1} = m_t ⊙ du_t Uᵀ + (what the step passes back)
    """
    bias_G = jnp.zeros((0,), jnp.float32) if bias_G is None else bias_G
    settings = _Settings(step, Compute.now(dtype), additive, unroll)
    return _recurrence(settings, carry, x_TBG, kernel_HG, bias_G, mask, live_T)


class _Settings(NamedTuple):
    """What is known when compiling."""

    step: Step
    compute: Compute
    additive: bool
    unroll: int


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _recurrence(
    settings: _Settings,
    carry: Carry,
    x_TBG: jax.Array,
    kernel_HG: jax.Array,
    bias_G: jax.Array,
    mask: jax.Array | None,
    live_T: jax.Array | None,
) -> tuple[jax.Array, Carry]:
    def body(carry: Carry, at_t: tuple[Any, ...]) -> tuple[Carry, jax.Array]:
        x_BG, mask_BH, live = at_t
        u_BG = _product(_masked(carry[0], mask_BH, mask), kernel_HG, settings.compute.dtype, bias_G)
        carry = where_live(live, settings.step(carry, x_BG, u_BG), carry)
        return carry, carry[0]

    at = x_TBG, _by_step(mask), live_T
    last, h_TBH = over_time(body, carry, at, unroll=settings.unroll)
    return h_TBH, last


def over_time(body: Any, carry: Any, at: Any, **options: Any) -> Any:
    """`jax.lax.scan` over time steps, by a name that it keeps in the compiled program."""
    with jax.named_scope(OVER_TIME):
        return jax.lax.scan(body, carry, at, **options)


def where_live(live: jax.Array | None, after: Any, before: Any) -> Any:
    """What a step makes of arrays; or what they were before it, if it does not count."""
    if live is None:
        return after
    return jax.tree.map(lambda new, old: jnp.where(live, new, old), after, before)


def _by_step(mask: jax.Array | None) -> jax.Array | None:
    """What of the mask differs from step to step."""
    return None if mask is None or mask.ndim == 2 else mask


def _masked(h_BH: jax.Array, mask_BH: jax.Array | None, mask: jax.Array | None) -> jax.Array:
    """h under the step's mask, or else the sequence's, or else as it is."""
    of_step = mask if mask_BH is None else mask_BH
    return h_BH if of_step is None else h_BH * of_step


def _product(h_BH: jax.Array, kernel_HG: jax.Array, dtype: Any, bias_G: jax.Array) -> jax.Array:
    u_BG = product(h_BH.astype(dtype), kernel_HG.astype(dtype))
    return u_BG + bias_G if bias_G.size else u_BG


def _forward(settings: _Settings, *arrays: Any) -> tuple[tuple[jax.Array, Carry], tuple[Any, ...]]:
    with settings.compute.context():
        return _values_and_saved(settings, *arrays)


def _values_and_saved(
    settings: _Settings,
    carry: Carry,
    x_TBG: jax.Array,
    kernel_HG: jax.Array,
    bias_G: jax.Array,
    mask: jax.Array | None,
    live_T: jax.Array | None,
) -> tuple[tuple[jax.Array, Carry], tuple[Any, ...]]:
    def body(carry: Carry, at_t: tuple[Any, ...]) -> tuple[Carry, tuple[Carry, Any]]:
        x_BG, mask_BH, live = at_t
        u_BG = _product(_masked(carry[0], mask_BH, mask), kernel_HG, settings.compute.dtype, bias_G)
        if settings.additive:
            # The gates know x and u by their sum alone.
            x_BG = x_BG + u_BG
            after = settings.step(carry, x_BG, jnp.zeros((), x_BG.dtype))
            after = where_live(live, after, carry)
            return after, (after, x_BG)
        after = where_live(live, settings.step(carry, x_BG, u_BG), carry)
        return after, (after, u_BG)

    at = x_TBG, _by_step(mask), live_T
    last, (carries, kept_TBG) = over_time(body, carry, at, unroll=settings.unroll)
    kept = (kept_TBG,) if settings.additive else (x_TBG, kept_TBG)
    return (carries[0], last), (carry, carries, kept, kernel_HG, bias_G, mask, live_T)


def _backward(
    settings: _Settings, saved: tuple[Any, ...], grads: tuple[jax.Array, Carry]
) -> tuple[Any, ...]:
    with settings.compute.context():
        return _gradients(settings, saved, grads)


def _gradients(
    settings: _Settings, saved: tuple[Any, ...], grads: tuple[jax.Array, Carry]
) -> tuple[Any, ...]:
    first, carries, kept, kernel_HG, bias_G, mask, live_T = saved
    dh_TBH, dlast = grads
    step, dtype = settings.step, settings.compute.dtype
    low_HG = kernel_HG.astype(dtype)
    # Turned once: inside the loop, a thin product with the transpose takes half as long again in
    # float32, no longer in bfloat16.
    turns = low_HG.size <= LARGEST_TRANSPOSED and low_HG.dtype == jnp.float32
    transposed_GH = jax.lax.optimization_barrier(low_HG.T) if turns else None
    # The carry before each step: the first, and all but the last.
    before = tuple(
        jnp.concatenate([one[None], many[:-1]]) for one, many in zip(first, carries, strict=True)
    )

    def body(dcarry: Carry, at_t: tuple[Any, ...]) -> tuple[Carry, tuple[jax.Array, ...]]:
        dh_BH, carry, kept, mask_BH, live = at_t
        dcarry = (dcarry[0] + dh_BH, *dcarry[1:])
        if settings.additive:
            _, pull = jax.vjp(lambda carry, s: step(carry, s, jnp.zeros((), s.dtype)), carry, *kept)
        else:
            _, pull = jax.vjp(step, carry, *kept)
        dbefore, *dgates = pull(dcarry)
        if live is not None:
            dgates = [jnp.where(live, dgate, 0.0) for dgate in dgates]
        du_BG = dgates[-1]
        low_BG = du_BG.astype(dtype)
        if transposed_GH is None:
            through_u = product_by_transposed(low_BG, low_HG)
        else:
            through_u = product(low_BG, transposed_GH)
        through_u = _masked(through_u, mask_BH, mask)
        dbefore = (dbefore[0] + through_u, *dbefore[1:])
        return where_live(live, dbefore, dcarry), tuple(dgates)

    at = (dh_TBH, before, kept, _by_step(mask), live_T)
    dfirst, dgates = over_time(body, dlast, at, reverse=True, unroll=settings.unroll)
    dx_TBG, du_TBG = dgates[0], dgates[-1]
    time, batch, width = du_TBG.shape
    h_TBH = before[0] if mask is None else before[0] * mask
    h_NH = h_TBH.reshape(time * batch, -1).astype(dtype)
    du_NG = du_TBG.reshape(time * batch, width)
    dkernel_HG = transposed_product(h_NH, du_NG.astype(dtype))
    dbias_G = du_NG.sum(0) if bias_G.size else bias_G
    return dfirst, dx_TBG, dkernel_HG, dbias_G, None, None


_recurrence.defvjp(_forward, _backward)


def in_segments(
    run: Callable[[Carry, Any], tuple[jax.Array, Carry]],
    carry: Carry,
    inputs: Any,
    steps: int,
) -> tuple[jax.Array, Carry]:
    """run(carry, inputs) -> (h_TBH, carry), `steps` time steps at a time; `inputs`: arrays such as
    x_TBD, time first. What a segment keeps for
    the gradient is computed again when the gradient comes to it (rematerialisation: Chen et al.
    2016). Kept are x, h and the carry between segments, and the rest of one segment at a time: for
    an LSTM H + D numbers a step and row in place of 6 H + D.
    """
    again = jax.checkpoint(run)
    time = jax.tree.leaves(inputs)[0].shape[0]
    whole = time // steps

    def body(carry: Carry, segment: Any) -> tuple[Carry, jax.Array]:
        h_SBH, carry = again(carry, segment)
        return carry, h_SBH

    def cut(x: jax.Array) -> jax.Array:
        return x[: whole * steps].reshape(whole, steps, *x.shape[1:])

    carry, h_KSBH = jax.lax.scan(body, carry, jax.tree.map(cut, inputs))
    h_TBH = h_KSBH.reshape(whole * steps, *h_KSBH.shape[2:])
    if whole * steps == time:
        return h_TBH, carry
    rest_SBH, carry = again(carry, jax.tree.map(lambda x: x[whole * steps :], inputs))
    return jnp.concatenate([h_TBH, rest_SBH]), carry
