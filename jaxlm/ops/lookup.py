"""Table lookup by id, with a gradient whose order of summation can be fixed."""

import jax
import jax.numpy as jnp

from jaxlm.ops.machine import scatter_add_is_ordered
from jaxlm.parallel.mesh import Axes
from jaxlm.parallel.shard_map import ShardedAxes, on_each_device


def look_up(table_VF: jax.Array, ids: jax.Array) -> jax.Array:
    """Return the rows of a table at `ids`, [..., F] for ids [...].

    The table may also be a vector [V]; the result is then [...].

        dtable[v] = Σ_{i: id_i = v} dy_i

    Ids are from 0 to V - 1. An id of V or more gives NaN. A GPU adds to rows of memory in no fixed
    order, so two runs with the same seed would end with different parameters. On a GPU, the
    gradient therefore uses `ordered_segment_sum`.

    Example:
      >>> import jax.numpy as jnp
      >>> table_VF = jnp.asarray([[0.0, 1.0], [2.0, 3.0]])
      >>> look_up(table_VF, [1, 0, 1]).tolist()
      [[2.0, 3.0], [0.0, 1.0], [2.0, 3.0]]
    """
    ids = jnp.asarray(ids)
    return jnp.take(table_VF, ids, axis=0) if scatter_add_is_ordered() else _look_up(table_VF, ids)


@jax.custom_vjp
def _look_up(table_VF: jax.Array, ids: jax.Array) -> jax.Array:
    return jnp.take(table_VF, ids, axis=0)


def _forward(table_VF: jax.Array, ids: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    # Only the shape of the table is used in the gradient.
    return _look_up(table_VF, ids), (table_VF, ids)


def _backward(saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, None]:
    table_VF, ids = saved
    feature_axes: Axes = (None,) * (table_VF.ndim - 1)
    ids_axes: Axes = ("batch", *[None] * (ids.ndim - 1))
    table_axes: Axes = ("vocabulary", *feature_axes)
    inputs = table_axes, ids_axes, (*ids_axes, *feature_axes)
    gradient = on_each_device(_table_gradient, inputs, table_axes)
    return gradient(table_VF, ids, dy), None


def _table_gradient(
    sharded: ShardedAxes, table_VF: jax.Array, ids: jax.Array, dy: jax.Array
) -> jax.Array:
    """Return the gradient of this device's rows, summed over the tokens of all devices."""
    dy_NF = dy.reshape(ids.size, *table_VF.shape[1:])
    words = len(table_VF)
    local_ids_N = ids.ravel() - sharded.first_word(words)
    dtable_VF: jax.Array = sharded.sum_over_batch(ordered_segment_sum(dy_NF, local_ids_N, words))
    return dtable_VF


_look_up.defvjp(_forward, _backward)


def ordered_segment_sum(x_NF: jax.Array, ids_N: jax.Array, count: int) -> jax.Array:
    """Return Σ_{i: id_i = v} x_i for v = 0 ... count - 1, with a fixed order of summation.

    The result is [count, F]; for x [N] it is [count]. Ids outside of this range are ignored.

    The x are sorted by id, so the x of one id form a segment. A segmented prefix sum doubles its
    distance in each round: 1, 2, 4, ... (Hillis & Steele, "Data parallel algorithms", 1986). The
    last element of each segment then has the sum of the segment. Only this element is written to
    the result.

    Example:
      >>> import jax.numpy as jnp
      >>> ordered_segment_sum(jnp.asarray([1.0, 2.0, 4.0]), jnp.asarray([2, 0, 2]), 3).tolist()
      [2.0, 0.0, 5.0]
    """
    tokens = len(ids_N)
    order_N = jnp.argsort(ids_N, stable=True)
    ids_N, sum_NF = ids_N[order_N], x_NF[order_N]
    index_N = jnp.arange(tokens, dtype=ids_N.dtype)
    distance = 1
    while distance < tokens:
        same_id_N = (index_N >= distance) & (ids_N == jnp.roll(ids_N, distance))
        # [N] if x is [N].
        same_id_N1 = same_id_N.reshape(-1, *[1] * (x_NF.ndim - 1))
        sum_NF = sum_NF + jnp.where(same_id_N1, jnp.roll(sum_NF, distance, axis=0), 0)
        distance *= 2
    is_last_N = jnp.append(ids_N[1:] != ids_N[:-1], True)
    is_written_N = is_last_N & (ids_N >= 0) & (ids_N < count)
    # The other elements get distinct rows beyond the end, which are dropped. Each row is written at
    # most once, so the order of the writes does not matter.
    rows_N = jnp.where(is_written_N, ids_N, count + index_N)
    zeros_VF = jnp.zeros((count, *x_NF.shape[1:]), x_NF.dtype)
    return zeros_VF.at[rows_N].set(sum_NF, mode="drop", unique_indices=True)
