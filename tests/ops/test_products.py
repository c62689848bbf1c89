"""Products in every layout, of odd sizes and in both dtypes, and their gradients against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxlm.ops import machine, products

DTYPES = (jnp.float32, jnp.bfloat16)


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(0, 1, shape), jnp.float32)


def rounded(array, dtype):
    """Return the float64 values of an array rounded to `dtype`."""
    return np.asarray(array.astype(dtype).astype(jnp.float32), np.float64)


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_of_every_layout_equal_numpy(dtype):
    a_NF, b_FO, c_NO = draw(5, 3), draw(3, 7, seed=1), draw(5, 7, seed=2)
    low = [array.astype(dtype) for array in (a_NF, b_FO, c_NO)]
    a, b, c = (rounded(array, dtype) for array in (a_NF, b_FO, c_NO))
    found = {
        "a b": products.product(low[0], low[1]),
        "c bT": products.product_by_transposed(low[2], low[1]),
        "aT c": products.transposed_product(low[0], low[2]),
    }
    found["aT c, too"], found["sum"] = products.transposed_product_and_sum(a_NF, c_NO, dtype)
    layouts = {"a b": a @ b, "c bT": c @ b.T, "aT c": a.T @ c}
    # In bfloat16 on a CPU the sum has rounded terms; otherwise it has the float32 terms.
    sums_rounded = dtype == jnp.bfloat16 and jax.default_backend() == "cpu"
    summed = c if sums_rounded else np.asarray(c_NO, np.float64)
    layouts |= {"aT c, too": a.T @ c, "sum": summed.sum(0)}
    for name, expected in layouts.items():
        assert found[name].dtype == jnp.float32, name
        assert_allclose(found[name], expected, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("aligned", [1, 8])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_projection_and_its_gradients_equal_numpy(dtype, aligned, monkeypatch):
    monkeypatch.setitem(machine.ALIGNMENT, jax.default_backend(), aligned)
    x_NF, kernel_FO, weights_NO = draw(5, 3), draw(3, 7, seed=1), draw(5, 7, seed=2)

    def number(x_NF, kernel_FO):
        y_NO = products.project(x_NF, kernel_FO, dtype)
        return jnp.sum(y_NO * weights_NO), y_NO

    run = jax.jit(jax.grad(number, argnums=(0, 1), has_aux=True))
    (dx_NF, dkernel_FO), y_NO = run(x_NF, kernel_FO)
    x, kernel, dy = (rounded(array, dtype) for array in (x_NF, kernel_FO, weights_NO))
    assert {array.dtype for array in (y_NO, dx_NF, dkernel_FO)} == {jnp.dtype("float32")}
    assert_allclose(y_NO, x @ kernel, rtol=1e-5, atol=1e-5)
    assert_allclose(dx_NF, dy @ kernel.T, rtol=1e-5, atol=1e-5)
    assert_allclose(dkernel_FO, x.T @ dy, rtol=1e-5, atol=1e-5)


def test_a_gradient_has_the_dtype_of_its_array():
    run = jax.grad(lambda x, w: products.project(x, w, jnp.bfloat16).sum(), argnums=(0, 1))
    dx_NF, dkernel_FO = run(draw(5, 3).astype(jnp.bfloat16), draw(3, 7))
    assert (dx_NF.dtype, dkernel_FO.dtype) == (jnp.bfloat16, jnp.float32)


def test_padding_is_added_to_every_block(monkeypatch):
    monkeypatch.setitem(machine.ALIGNMENT, jax.default_backend(), 5)
    array = jnp.asarray([[1, 2, 3, 4, 5, 6]])
    expected = [[1, 2, 3, 0, 0, 4, 5, 6, 0, 0]]
    assert_array_equal(products.pad_units(array, 3), expected)
    rows = products.pad_units(jnp.tile(array, (3, 1)), 3, rows=True)
    assert_array_equal(rows, expected * 3 + [[0] * 10] * 2)
