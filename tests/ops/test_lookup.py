"""Table lookup and its gradient against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import OTHER_CELLS, B, T, build, cases, tokens
from numpy.testing import assert_allclose, assert_array_equal

from jaxlm.models.layers import Embedding
from jaxlm.ops.lookup import look_up, ordered_segment_sum
from jaxlm.ops.machine import compiling_for


@pytest.mark.full
@pytest.mark.parametrize("tokens", [1, 2, 7, 64, 1000])
@pytest.mark.parametrize("features", [(), (3,)])
@pytest.mark.parametrize("count", [1, 5, 2000])
def test_segment_sums_equal_those_of_numpy(tokens, features, count):
    draw = np.random.default_rng(tokens)
    ids_N = draw.integers(0, count, tokens)
    x_NF = draw.normal(size=(tokens, *features)).astype(np.float32)
    expected = np.zeros((count, *features))
    np.add.at(expected, ids_N, x_NF)
    found = jax.jit(ordered_segment_sum, static_argnums=2)(x_NF, ids_N, count)
    assert found.shape == expected.shape and found.dtype == jnp.float32
    assert_allclose(found, expected, atol=1e-4)
    # The sum of an absent word is exactly 0.
    absent_C = ~np.isin(np.arange(count), ids_N)
    assert (np.asarray(found)[absent_C] == 0).all()


@pytest.mark.parametrize("shape", [(11, 4), (11,)])
def test_the_gradient_of_a_gpu_equals_that_of_a_cpu(shape):
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
def test_an_id_outside_of_the_table_gives_nan(platform):
    with compiling_for(platform):
        found_B = jax.jit(lambda table, ids: look_up(table, ids))(jnp.arange(3.0), np.array([2, 3]))
    assert_array_equal(found_B, [2, np.nan])


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_a_frequent_words_gradient_is_summed_in_float32(platform):
    # The sum has 4000 equal small terms. In bfloat16 it would stop growing after 256 terms.
    model = Embedding(3, 2, None, jnp.bfloat16)
    tokens_BT = np.ones((8, 500), np.int32)

    def total(params):
        return jnp.sum(model.apply(params, tokens_BT).astype(jnp.float32)) * 2**-10

    with compiling_for(platform):
        params = model.init(jax.random.key(0), tokens_BT)
        (gradient_VD,) = jax.tree.leaves(jax.jit(jax.grad(total))(params))
    assert_allclose(gradient_VD, np.outer([0, 1, 0], [1, 1]) * 4000 * 2**-10, rtol=1e-3)


# The tables and the output layers of all models; what stands between them looks nothing up.
LOOKUPS = [
    case
    for case in cases(("gradient",), exact=True)
    if case.values[0] not in OTHER_CELLS or "softmax" in case.values[1]
]


@pytest.mark.parametrize(("name", "options"), LOOKUPS)
def test_a_gpu_writes_no_row_twice(name, options):
    # A GPU adds to a row in no fixed order. A row that is written once needs no order.
    model, params = build(name, options)
    rngs = {"dropout": jax.random.key(0), "sampling": jax.random.key(1)}

    def objective(params):
        shares_BT = jnp.ones((B, T))
        batch = tokens(), tokens(seed=1), shares_BT
        options = {"deterministic": False, "rngs": rngs, "method": "objective"}
        return model.apply({"params": params}, *batch, **options)[0]

    with compiling_for("gpu"):
        program = jax.jit(jax.grad(objective)).lower(params).as_text()
    # The attribute stands before the regions of each scatter.
    scatters = program.split('"stablehlo.scatter"')[1:]
    assert scatters
    assert all("unique_indices = true" in scatter.split("({")[0] for scatter in scatters)
