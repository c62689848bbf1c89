"""h_t = a_t ⊙ h_{t-1} + b_t at all steps at once, with the gradient written out."""

import jax
import jax.numpy as jnp


@jax.custom_vjp
def linear_recurrence(a_TBH: jax.Array, b_TBH: jax.Array, h_BH: jax.Array) -> jax.Array:
    """Every h_t, [T, B, H], from h_BH before the first step.

    Steps compose: h ↦ a₂ (a₁ h + b₁) + b₂ is the step (a₂ a₁, a₂ b₁ + b₂), in any grouping, so that
    log T rounds of composing side by side do for T steps one after another (Blelloch 1990). A CPU,
    which has few cores to compose with, takes the T steps: on two cores 2.2 ms for 6.9 at [256, 32,
    256], 5 for 44 at [2048, 8, 256].

        dh_t = (what came to h_t) + a_{t+1} ⊙ dh_{t+1}      da_t = dh_t ⊙ h_{t-1}      db_t = dh_t

    The gradient is such a recurrence again, backwards in time.
    """
    return _run(a_TBH, b_TBH, h_BH)


def _run(a_TBH: jax.Array, b_TBH: jax.Array, h_BH: jax.Array) -> jax.Array:
    return jax.lax.platform_dependent(a_TBH, b_TBH, h_BH, cpu=one_by_one, default=side_by_side)


def one_by_one(a_TBH: jax.Array, b_TBH: jax.Array, h_BH: jax.Array) -> jax.Array:
    """By a loop over time."""

    def body(h_BH: jax.Array, step: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        a_BH, b_BH = step
        h_BH = a_BH * h_BH + b_BH
        return h_BH, h_BH

    return jax.lax.scan(body, h_BH, (a_TBH, b_TBH))[1]


def side_by_side(a_TBH: jax.Array, b_TBH: jax.Array, h_BH: jax.Array) -> jax.Array:
    """By an associative scan."""
    Steps = tuple[jax.Array, jax.Array]

    def compose(first: Steps, then: Steps) -> Steps:
        return first[0] * then[0], then[0] * first[1] + then[1]

    b_TBH = b_TBH.at[0].add(a_TBH[0] * h_BH)
    return jax.lax.associative_scan(compose, (a_TBH, b_TBH))[1]


def _forward(
    a_TBH: jax.Array, b_TBH: jax.Array, h_BH: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    h_TBH = _run(a_TBH, b_TBH, h_BH)
    return h_TBH, (a_TBH, h_TBH, h_BH)


def _backward(
    saved: tuple[jax.Array, ...], grad_TBH: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    a_TBH, h_TBH, h_BH = saved
    # What takes dh_{t+1} to h_t is a_{t+1}; nothing comes after the last.
    after_TBH = jnp.concatenate([a_TBH[1:], jnp.zeros_like(a_TBH[:1])])
    dh_TBH = _run(after_TBH[::-1], grad_TBH[::-1], jnp.zeros_like(h_BH))[::-1]
    before_TBH = jnp.concatenate([h_BH[None], h_TBH[:-1]])
    return dh_TBH * before_TBH, dh_TBH, a_TBH[0] * dh_TBH[0]


linear_recurrence.defvjp(_forward, _backward)
