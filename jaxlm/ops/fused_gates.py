"""The squashing functions of gates, all gates of a step at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

# Both are one tanh: σ(s) = ½ tanh(½ s) + ½. So value = slope · tanh(slope · s) + shift.
KINDS = {"sigmoid": (0.5, 0.5), "tanh": (1.0, 0.0)}


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def fused_gates(s_BG: jax.Array, kinds: tuple[str, ...]) -> jax.Array:
    """σ or tanh of each gate: `kinds` names one a gate, whose values lie side by side in the last
    axis.

        σ(s) = ½ tanh(½ s) + ½          σ' = σ (1 - σ)          tanh' = 1 - tanh²

    One tanh over the whole array is a single pass that XLA vectorises and shares between threads;
    gate by gate, a time step's small passes cost more to start than to run.
    """
    return _forward(s_BG, kinds)[0]


def _constants(kinds: tuple[str, ...], width: int) -> tuple[np.ndarray, np.ndarray]:
    """slope and shift of every column, float32 [G]."""
    size = width // len(kinds)
    slopes, shifts = np.array([KINDS[kind] for kind in kinds], np.float32).T
    return np.repeat(slopes, size), np.repeat(shifts, size)


def _forward(s_BG: jax.Array, kinds: tuple[str, ...]) -> tuple[jax.Array, jax.Array]:
    slope_G, shift_G = _constants(kinds, s_BG.shape[-1])
    # Else XLA computes the gates anew in each pass that reads one of them.
    value_BG = jax.lax.optimization_barrier(slope_G * jnp.tanh(slope_G * s_BG) + shift_G)
    return value_BG, value_BG


def _backward(kinds: tuple[str, ...], value_BG: jax.Array, grad_BG: jax.Array) -> tuple[jax.Array]:
    slope_G, shift_G = _constants(kinds, value_BG.shape[-1])
    t_BG = value_BG - shift_G
    # slope² (1 - tanh²), with tanh = (value - shift) / slope.
    return (grad_BG * (slope_G * slope_G - t_BG * t_BG),)


fused_gates.defvjp(_forward, _backward)
