"""Rows of a table against NumPy's, and their gradient's sums against those in any order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import B, T, build, cases, tokens
from numpy.testing import assert_allclose, assert_array_equal

from jaxlm.models.layers import Embedding
from jaxlm.ops.lookup import look_up, sums_by_id
from jaxlm.ops.machine import compiling_for


@pytest.mark.parametrize("tokens", [1, 2, 7, 64, 1000])
@pytest.mark.parametrize("positions", [(), (3,)])
@pytest.mark.parametrize("count", [1, 5, 2000])
def test_sums_by_id_are_those_of_a_loop(tokens, features, count):
    draw = np.random.default_rng(tokens)
    ids_N = draw.integers(0, count, tokens)
    x_NF = draw.normal(size=(tokens, *features)).astype(np.float32)
    expected = np.zeros((count, *features))
    np.add.at(expected, ids_N, x_NF)
    found = jax.jit(sums_by_id, static_argnums=2)(x_NF, ids_N, count)
    assert found.shape == expected.shape and found.dtype == jnp.float32
    assert_allclose(found, expected, atol=1e-4)
    # A word that is not there has no rounding either.
    absent_C = ~np.isin(np.arange(count), ids_N)
    assert (np.asarray(found)[absent_C] == 0).all()


@pytest.mark.parametrize("shape", [(11, 4), (11,)])
def test_a_gpus_gradient_is_any_machines(shape):
    draw = np.random.default_rng(0)
    table = draw.normal(size=shape).astype(np.float32)
    ids_BT = draw.integers(0, 11, (3, 9))
    weights = draw.normal(size=(3, 9, *shape[1:])).astype(np.float32)

    def total(table):
        return jnp.sum(jnp.sin(look_up(table, ids_BT)) * weights)

    def gradients(tables):
        return jax.jit(jax.vmap(jax.value_and_grad(total)))(tables)

    tables = np.stack([table, 2 * table])
    with compiling_for("cpu"):
        expected = gradients(tables)
    with compiling_for("gpu"):
        found = gradients(tables)
    assert_array_equal(found[0], expected[0])
    assert_allclose(found[1], expected[1], atol=1e-6)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_a_word_that_is_not_in_the_table_is_not_another(platform):
    with compiling_for(platform):
        found_B = jax.jit(lambda table, ids: look_up(table, ids))(jnp.arange(3.0), np.array([2, 3]))
    assert_array_equal(found_B, [2, np.nan])


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_a_frequent_words_gradient_is_summed_in_float32(platform):
    # Four thousand times the same small number: in bfloat16 a sum stops growing at 256 of them.
    model = Embedding(3, 2, None, jnp.bfloat16)
    tokens_BT = np.ones((8, 500), np.int32)

    def total(params):
        return jnp.sum(model.apply(params, tokens_BT).astype(jnp.float32)) * 2**-10

    with compiling_for(platform):
        params = model.init(jax.random.key(0), tokens_BT)
        (gradient_VD,) = jax.tree.leaves(jax.jit(jax.grad(total))(params))
    assert_allclose(gradient_VD, np.outer([0, 1, 0], [1, 1]) * 4000 * 2**-10, rtol=1e-3)


@pytest.mark.parametrize(("name", "options"), list(cases(("gradient",))))
def test_a_gpu_writes_no_row_twice(name, options):
    # Of every model: a GPU adds to a row in no fixed order; what is written once needs none.
    model, params = build(name, options)
    rngs = {"dropout": jax.random.key(0), "sampling": jax.random.key(1)}

    def objective(params):
        shares_BT = jnp.ones((B, T))
        batch = tokens(), tokens(seed=1), shares_BT
        how = {"deterministic": False, "rngs": rngs, "method": "objective"}
        return model.apply({"params": params}, *batch, **how)[0]

    with compiling_for("gpu"):
        program = jax.jit(jax.grad(objective)).lower(params).as_text()
    # Each scatter says so of itself, in its attributes, before its two regions.
    scatters = program.split('"stablehlo.scatter"')[1:]
    assert scatters and all("unique_indices = true" in one.split("({")[0] for one in scatters)
