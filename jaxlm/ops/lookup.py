"""Rows of a table by their ids, and the gradient with respect to the table."""

import jax
import jax.numpy as jnp

from jaxlm.ops.machine import scatter_add_is_ordered
from jaxlm.parallel.mesh import Axes
from jaxlm.parallel.shard_map import Spread, by_device


def look_up(table_VF: jax.Array, ids: jax.Array) -> jax.Array:
    """table[id] [..., F] of ids [...] from 0 to V - 1; of a vector [V], [...]. An id of V or more
    gives NaN.

        dtable[v] = Σ_{i: id_i = v} dy_i

    A GPU adds to rows of memory in no fixed order, and two runs of one seed end apart: there the
    sum is taken by `sums_by_id`, which has one.
    """
    ids = jnp.asarray(ids)
    return jnp.take(table_VF, ids, axis=0) if scatter_add_is_ordered() else _look_up(table_VF, ids)


@jax.custom_vjp
def _look_up(table_VF: jax.Array, ids: jax.Array) -> jax.Array:
    return jnp.take(table_VF, ids, axis=0)


def _forward(table_VF: jax.Array, ids: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    # The table goes along for its shape alone.
    return _look_up(table_VF, ids), (table_VF, ids)


def _backward(saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, None]:
    table_VF, ids = saved
    of_a_word = (None,) * (table_VF.ndim - 1)
    of_an_id: Axes = ("batch", *[None] * (ids.ndim - 1))
    table: Axes = ("vocabulary", *of_a_word)
    sums = by_device(_sums, (table, of_an_id, (*of_an_id, *of_a_word)), table)
    return sums(table_VF, ids, dy), None


def _sums(spread: Spread, table_VF: jax.Array, ids: jax.Array, dy: jax.Array) -> jax.Array:
    """The gradient of a device's words: of its own tokens' first, then of all devices'."""
    dy_NF = dy.reshape(ids.size, *table_VF.shape[1:])
    words = len(table_VF)
    own = sums_by_id(dy_NF, ids.ravel() - spread.first_word(words), words)
    found: jax.Array = spread.sum_over_batch(own)
    return found


_look_up.defvjp(_forward, _backward)


def sums_by_id(x_NF: jax.Array, ids_N: jax.Array, count: int) -> jax.Array:
    """Σ_{i: id_i = v} x_i for v = 0 ... count - 1, [count, F] (of x [N], [count]), in one order.
    Other ids are passed over.

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
    is_kept_N = is_last_N & (ids_N >= 0) & (ids_N < count)
    # The others go nowhere, each to a place of its own: a row written once needs no order.
    rows_N = jnp.where(is_kept_N, ids_N, count + places_N)
    zeros = jnp.zeros((count, *x_NF.shape[1:]), x_NF.dtype)
    return zeros.at[rows_N].set(sum_NF, mode="drop", unique_indices=True)
