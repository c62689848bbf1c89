"""A loop over time with any number of products in a step, whose matrices' gradients are each one
product after the loop. `ops.recurrence` is the faster one for a step with a single product.
"""

import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxlm.ops.machine import steps_per_iteration
from jaxlm.ops.products import Compute, product, transposed_product
from jaxlm.ops.recurrence import over_time

Carry = tuple[jax.Array, ...]


class Multiply(Protocol):
    """multiply(name, a_BF): a times the matrix of that name, [B, O], float32; each name once."""

    def __call__(self, name: str, a_BF: jax.Array) -> jax.Array: ...


Step = Callable[[Multiply, Carry, Any], Carry]
"""step(multiply, carry, at_t) -> carry, the hidden state first. Hashable."""


def plain_product(kernel_FO: jax.Array, a_BF: jax.Array, dtype: Any) -> jax.Array:
    """a U with operands in `dtype` and sums in float32."""
    return product(a_BF.astype(dtype), kernel_FO.astype(dtype))


def products_in_time(
    step: Step, kernels: dict[str, jax.Array], carry: Carry, inputs: Any, dtype: Any = jnp.float32
) -> tuple[jax.Array, Carry]:
    """Runs `step` over time: every hidden state, float32 [T, B, H], and the last carry.

    kernels: the matrices [F, O] by name, float32; carry: arrays [B, H]; inputs: a pytree of arrays
    whose first axis is time. Values and gradients are those of `jax.lax.scan` over the same step.

        dU = Σ_t a_tᵀ dy_t          for y_t = a_t U + (the rest of the step)

    Automatic differentiation of the scan would add each a_tᵀ dy_t to dU inside the loop. Here y_t
    is given an e_t = 0 on top, whose gradient is dy_t, and a_t is kept.
    """
    return _run(step, Compute.now(dtype), kernels, carry, inputs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _run(
    step: Step, compute: Compute, kernels: dict[str, jax.Array], carry: Carry, inputs: Any
) -> tuple[jax.Array, Carry]:
    def multiply(name: str, a_BF: jax.Array) -> jax.Array:
        return plain_product(kernels[name], a_BF, compute.dtype)

    def body(carry: Carry, at_t: Any) -> tuple[Carry, jax.Array]:
        carry = step(multiply, carry, at_t)
        return carry, carry[0]

    carry, h_TBH = over_time(body, carry, inputs, unroll=steps_per_iteration())
    return h_TBH, carry


def _forward(
    step: Step, compute: Compute, kernels: dict[str, jax.Array], carry: Carry, inputs: Any
) -> tuple[tuple[jax.Array, Carry], Any]:
    time, batch = jax.tree.leaves(inputs)[0].shape[0], carry[0].shape[0]
    zeros = {
        name: jnp.zeros((time, batch, kernel.shape[1]), jnp.float32)
        for name, kernel in kernels.items()
    }

    def run(zeros: dict[str, jax.Array], carry: Carry, inputs: Any) -> Any:
        def body(carry: Carry, at_t: tuple[Any, Any]) -> tuple[Carry, Any]:
            zero, inputs_t = at_t
            read: dict[str, jax.Array] = {}

            def multiply(name: str, a_BF: jax.Array) -> jax.Array:
                assert name not in read, f"two products called {name} in one step"
                read[name] = a_BF.astype(compute.dtype)
                return plain_product(kernels[name], a_BF, compute.dtype) + zero[name]

            carry = step(multiply, carry, inputs_t)
            return carry, (carry[0], read)

        at = zeros, inputs
        carry, (h_TBH, read) = over_time(body, carry, at, unroll=steps_per_iteration())
        return (h_TBH, carry), read

    with compute.context():
        out, pull, read = jax.vjp(run, zeros, carry, inputs, has_aux=True)
    return out, (pull, read)


def _backward(step: Step, compute: Compute, saved: Any, grads: tuple[jax.Array, Carry]) -> Any:
    pull, read = saved
    dy, dcarry, dinputs = pull(grads)

    def gradient(name: str) -> jax.Array:
        a_NF = read[name].reshape(-1, read[name].shape[-1])
        dy_NO = dy[name].reshape(-1, dy[name].shape[-1]).astype(compute.dtype)
        with compute.context():
            return transposed_product(a_NF, dy_NO)

    return {name: gradient(name) for name in read}, dcarry, dinputs


_run.defvjp(_forward, _backward)
