"""The time loop with several products per step against `jax.lax.scan`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import assert_trees_close

from jaxlm.ops.products_in_time import plain_product, products_in_time


def step(multiply, carry, inputs_t):
    """Two consecutive products, a gate, and a carry of two arrays."""
    h, c = carry
    x, valid = inputs_t
    inner = jnp.tanh(multiply("inner", h) + x)
    c = c + jax.nn.sigmoid(multiply("outer", inner * h[:, :3])) * h
    new = jnp.tanh(c), c
    return jax.tree.map(lambda new, old: jnp.where(valid, new, old), new, carry)


def by_scan(kernels, carry, inputs):
    def body(carry, inputs_t):
        carry = step(lambda name, a: plain_product(kernels[name], a, jnp.float32), carry, inputs_t)
        return carry, carry[0]

    carry, h_TBH = jax.lax.scan(body, carry, inputs)
    return h_TBH, carry


@pytest.mark.parametrize("time", [1, 9])
def test_values_and_gradients_equal_those_of_a_scan(time):
    draw = np.random.default_rng(time)
    kernels = {"inner": draw.normal(size=(5, 3)), "outer": draw.normal(size=(3, 5))}
    carry = draw.normal(size=(2, 5)), draw.normal(size=(2, 5))
    inputs = draw.normal(size=(time, 2, 3)), np.arange(time) % 4 != 2
    kernels, carry, x = jax.tree.map(np.float32, (kernels, carry, inputs[0]))

    def total(run):
        def number(kernels, carry, x):
            h_TBH, (h, c) = run(step, kernels, carry, (x, inputs[1]))
            return jnp.sum(h_TBH**2) + jnp.sum(jnp.sin(c)) + jnp.sum(h), (h_TBH, h, c)

        return jax.jit(jax.value_and_grad(number, argnums=(0, 1, 2), has_aux=True))

    found = total(products_in_time)(kernels, carry, x)
    expected = total(lambda step, *rest: by_scan(*rest))(kernels, carry, x)
    assert_trees_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_name_is_used_once_per_step():
    kernels = {"same": jnp.eye(2)}

    def twice(multiply, carry, inputs_t):
        return (multiply("same", multiply("same", carry[0])),)

    with pytest.raises(AssertionError, match="two products called same"):
        jax.grad(
            lambda kernels: jnp.sum(
                products_in_time(twice, kernels, (jnp.ones((1, 2)),), jnp.zeros(3))[0]
            )
        )(kernels)
