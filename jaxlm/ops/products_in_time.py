"""A loop over time for cells with several products per step, with a hand-written gradient.

The gradient of each matrix is one product after the loop. For cells with one product per step,
`ops.recurrence` is faster.
"""

import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxlm.ops.machine import steps_per_iteration
from jaxlm.ops.products import Compute, product, transposed_product
from jaxlm.ops.recurrence import Carry, scan_over_time


class Multiply(Protocol):
    """A function: multiply(name, a_BF) returns a times the matrix `name`, float32 [B, O].

    A step must use each name exactly once.
    """

    def __call__(self, name: str, a_BF: jax.Array) -> jax.Array: ...


Step = Callable[[Multiply, Carry, Any], Carry]
"""step(multiply, carry, inputs_t) -> carry. `inputs_t` are the inputs of one time step. The carry's
first array is the hidden state. A step is hashable."""


def plain_product(kernel_FO: jax.Array, a_BF: jax.Array, dtype: Any) -> jax.Array:
    """Return the product a U, float32, for U `kernel_FO`, with operands in `dtype`."""
    return product(a_BF.astype(dtype), kernel_FO.astype(dtype))


def products_in_time(
    step: Step, kernels: dict[str, jax.Array], carry: Carry, inputs: Any, dtype: Any = jnp.float32
) -> tuple[jax.Array, Carry]:
    """Run `step` over time, with the gradient of each matrix computed after the loop.

        dU = Σ_t a_tᵀ dy_t          for y_t = a_t U + (the rest of the step)

    Values and gradients equal the values and gradients of `jax.lax.scan` over the same step.
    Automatic differentiation of the scan would add each a_tᵀ dy_t to dU inside the loop. Here, a
    zero e_t is added to y_t, so that the gradient of e_t is dy_t. The a_t are stored.

    Example:
      >>> import jax.numpy as jnp
      >>> def step(multiply, carry, x_BH):
      ...     return (multiply("recurrent", carry[0]) + x_BH,)
      >>> x_TBH, h_BH = jnp.ones((3, 1, 1)), jnp.zeros((1, 1))
      >>> kernels = {"recurrent": jnp.asarray([[0.5]])}
      >>> h_TBH, (last_BH,) = products_in_time(step, kernels, (h_BH,), x_TBH)
      >>> h_TBH.ravel().tolist()
      [1.0, 1.5, 1.75]

    Args:
      step: the cell. It multiplies only through its argument `multiply`; see `Step`.
      kernels: the matrices [F, O] by name, float32.
      carry: initial state, arrays [B, H]; the hidden state comes first.
      inputs: pytree of arrays whose first axis is time. `step` gets the arrays of one time step.
      dtype: dtype of the operands of the products.
    Returns:
      Each hidden state, float32 [T, B, H], and the carry after the last step.
    """
    return _run(step, Compute.now(dtype), kernels, carry, inputs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _run(
    step: Step, compute: Compute, kernels: dict[str, jax.Array], carry: Carry, inputs: Any
) -> tuple[jax.Array, Carry]:
    def multiply(name: str, a_BF: jax.Array) -> jax.Array:
        return plain_product(kernels[name], a_BF, compute.dtype)

    def body(carry: Carry, inputs_t: Any) -> tuple[Carry, jax.Array]:
        carry = step(multiply, carry, inputs_t)
        return carry, carry[0]

    carry, h_TBH = scan_over_time(body, carry, inputs, unroll=steps_per_iteration())
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
        def body(carry: Carry, xs_t: tuple[Any, Any]) -> tuple[Carry, Any]:
            zeros_t, inputs_t = xs_t
            operands: dict[str, jax.Array] = {}

            def multiply(name: str, a_BF: jax.Array) -> jax.Array:
                assert name not in operands, f"two products called {name} in one step"
                operands[name] = a_BF.astype(compute.dtype)
                return plain_product(kernels[name], a_BF, compute.dtype) + zeros_t[name]

            carry = step(multiply, carry, inputs_t)
            return carry, (carry[0], operands)

        xs = zeros, inputs
        carry, (h_TBH, operands) = scan_over_time(body, carry, xs, unroll=steps_per_iteration())
        return (h_TBH, carry), operands

    with compute.context():
        out, pullback, operands = jax.vjp(run, zeros, carry, inputs, has_aux=True)
    return out, (pullback, operands, kernels)


def _backward(step: Step, compute: Compute, saved: Any, grads: tuple[jax.Array, Carry]) -> Any:
    pullback, operands, kernels = saved
    dy, dcarry, dinputs = pullback(grads)

    def gradient(name: str) -> jax.Array:
        if name not in operands:  # the step does not use this matrix
            return jnp.zeros_like(kernels[name])
        a_NF = operands[name].reshape(-1, operands[name].shape[-1])
        dy_NO = dy[name].reshape(-1, dy[name].shape[-1]).astype(compute.dtype)
        with compute.context():
            return transposed_product(a_NF, dy_NO)

    return {name: gradient(name) for name in kernels}, dcarry, dinputs


_run.defvjp(_forward, _backward)
