"""The linear recurrence h_t = a_t ⊙ h_{t-1} + b_t, parallel in time, with its own gradient rule."""

import jax
import jax.numpy as jnp

from jaxlm.ops.machine import computes_time_steps_in_sequence


@jax.custom_vjp
def linear_recurrence(a_TBH: jax.Array, b_TBH: jax.Array, h_BH: jax.Array) -> jax.Array:
    """Return h_t of every time step, [T, B, H], where `h_BH` is the state before the first step.

        h_t = a_t ⊙ h_{t-1} + b_t
        dh_t = g_t + a_{t+1} ⊙ dh_{t+1}      da_t = dh_t ⊙ h_{t-1}      db_t = dh_t

    Here g_t is the gradient with respect to the output h_t, and dh_t the gradient with respect to
    h_t as output and as state. The gradient is a linear recurrence too, backwards in time.

    Two steps compose into one: h ↦ a₂ (a₁ h + b₁) + b₂ is the step (a₂ a₁, a₂ b₁ + b₂). Composition
    is associative, so an associative scan replaces T sequential steps by log T parallel rounds
    (Blelloch 1990). A CPU has few cores, and runs the T steps in sequence
    (`ops.machine.computes_time_steps_in_sequence`).

    Example:
      >>> import jax.numpy as jnp
      >>> half_TBH, one_TBH = jnp.full((3, 1, 1), 0.5), jnp.ones((3, 1, 1))
      >>> linear_recurrence(half_TBH, one_TBH, jnp.zeros((1, 1))).ravel().tolist()
      [1.0, 1.5, 1.75]
    """
    return _run(a_TBH, b_TBH, h_BH)


def _run(a_TBH: jax.Array, b_TBH: jax.Array, h_BH: jax.Array) -> jax.Array:
    """Run the scan that is fastest on the platform."""
    scan = sequential_scan if computes_time_steps_in_sequence() else parallel_scan
    return scan(a_TBH, b_TBH, h_BH)


def sequential_scan(a_TBH: jax.Array, b_TBH: jax.Array, h_BH: jax.Array) -> jax.Array:
    """Return h_t of every time step, computed by a loop over time."""

    def body(h_BH: jax.Array, step: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        a_BH, b_BH = step
        h_BH = a_BH * h_BH + b_BH
        return h_BH, h_BH

    return jax.lax.scan(body, h_BH, (a_TBH, b_TBH))[1]


def parallel_scan(a_TBH: jax.Array, b_TBH: jax.Array, h_BH: jax.Array) -> jax.Array:
    """Return h_t of every time step, computed by an associative scan."""
    Step = tuple[jax.Array, jax.Array]

    def compose(first: Step, second: Step) -> Step:
        return first[0] * second[0], second[0] * first[1] + second[1]

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
    # The factor of dh_{t+1} in dh_t is a_{t+1}. The last step has no next step, so its factor is 0.
    next_a_TBH = jnp.concatenate([a_TBH[1:], jnp.zeros_like(a_TBH[:1])])
    dh_TBH = _run(next_a_TBH[::-1], grad_TBH[::-1], jnp.zeros_like(h_BH))[::-1]
    previous_h_TBH = jnp.concatenate([h_BH[None], h_TBH[:-1]])
    return dh_TBH * previous_h_TBH, dh_TBH, a_TBH[0] * dh_TBH[0]


linear_recurrence.defvjp(_forward, _backward)
