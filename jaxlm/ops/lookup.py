"""Rows of a table by their ids, and the gradient with respect to the table."""

import jax
import jax.numpy as jnp

from jaxlm.ops.compiling import platform


def look_up(table_VF: jax.Array, ids: jax.Array) -> jax.Array:
    """table[id] [..., F] of ids [...] from 0 to V - 1; of a vector [V], [...].

        dtable[v] = Σ_{i: id_i = v} dy_i

    A GPU adds to rows of memory in no fixed order, and two runs of one seed end apart: there the
    sum is taken by `sums_by_id`, which has one.
    """
    ids = jnp.asarray(ids)
    return _look_up(table_VF, ids) if platform() == "gpu" else table_VF[ids]


@jax.custom_vjp
def _look_up(table_VF: jax.Array, ids: jax.Array) -> jax.Array:
    return table_VF[ids]


def _forward(table_VF: jax.Array, ids: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    # The table goes along for its shape alone.
    return table_VF[ids], (table_VF, ids)


def _backward(saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, None]:
    table_VF, ids = saved
    dy_NF = dy.reshape(ids.size, *table_VF.shape[1:])
    return sums_by_id(dy_NF, ids.ravel(), len(table_VF)), None


_look_up.defvjp(_forward, _backward)


def sums_by_id(x_NF: jax.Array, ids_N: jax.Array, count: int) -> jax.Array:
    """Σ_{i: id_i = v} x_i for v = 0 ... count - 1, [count, F] (of x [N], [count]), in one order.

    The x are sorted by id; each takes the sum of the 1, 2, 4, ... up to it that share its id
    (Hillis & Steele, "Data parallel algorithms", 1986), and the last of an id is written, alone.
    """
    tokens = len(ids_N)
    order_N = jnp.argsort(ids_N, stable=True)
    ids_N, sum_NF = ids_N[order_N], x_NF[order_N]
    places_N = jnp.arange(tokens, dtype=ids_N.dtype)
    reach = 1
    while reach < tokens:
        alike_N = (places_N >= reach) & (ids_N == jnp.roll(ids_N, reach))
        alike_NF = alike_N.reshape(-1, *[1] * (x_NF.ndim - 1))
        sum_NF = sum_NF + jnp.where(alike_NF, jnp.roll(sum_NF, reach, axis=0), 0)
        reach *= 2
    is_last_N = jnp.append(ids_N[1:] != ids_N[:-1], True)
    # The others go nowhere, each to a place of its own: a row written once needs no order.
    rows_N = jnp.where(is_last_N, ids_N, count + places_N)
    zeros = jnp.zeros((count, *x_NF.shape[1:]), x_NF.dtype)
    return zeros.at[rows_N].set(sum_NF, mode="drop", unique_indices=True)
