"""Run a function on each device of a mesh, over the device's shards (`jax.shard_map`)."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import AxisType, PartitionSpec

from jaxlm.parallel.mesh import RULES, Axes, is_axes


class ShardedAxes(NamedTuple):
    """The mesh axes over which the batch and the vocabulary of a function's arrays are sharded.

    None means that the array axis is not sharded: each device has all of it.
    """

    batch: str | None = None
    vocabulary: str | None = None

    def sum_over_batch(self, tree: Any) -> Any:
        """Return the sum of the arrays of all devices that hold shards of the batch."""
        return jax.lax.psum(tree, self.batch) if self.batch else tree

    def max_over_batch(self, tree: Any) -> Any:
        """Return the maximum of the arrays of all devices that hold shards of the batch."""
        return jax.lax.pmax(tree, self.batch) if self.batch else tree

    def sum_over_vocabulary(self, tree: Any) -> Any:
        """Return the sum of the arrays of all devices that hold slices of the vocabulary."""
        return jax.lax.psum(tree, self.vocabulary) if self.vocabulary else tree

    def max_over_vocabulary(self, tree: Any) -> Any:
        """Return the maximum of the arrays of all devices that hold slices of the vocabulary."""
        return jax.lax.pmax(tree, self.vocabulary) if self.vocabulary else tree

    def first_word(self, words: int) -> Any:
        """Return the id of the first word of this device's slice; each slice has `words` words."""
        return jax.lax.axis_index(self.vocabulary) * words if self.vocabulary else 0


def on_each_device(
    function: Callable[..., Any], inputs: Sequence[Axes], outputs: Any
) -> Callable[..., Any]:
    """Return a function that runs `function(sharded, *shards)` on each device of the current mesh.

    An axis is replicated if its length is not a multiple of the size of its mesh axis. Without a
    mesh, and inside of another `on_each_device`, the returned function calls `function` with the
    arrays that it gets, and with an empty `ShardedAxes`.

    Example:
      >>> import jax.numpy as jnp
      >>> def total(sharded, x_B):
      ...     return sharded.sum_over_batch(jnp.sum(x_B))
      >>> on_each_device(total, [("batch",)], ())(jnp.arange(4.0)).item()
      6.0

    Args:
      function: gets the `ShardedAxes`, and this device's shard of each array.
      inputs: the Axes of each array. An argument may be a tree whose arrays share one Axes.
      outputs: the Axes of the results, in the structure of the results.
    """

    def call(*arrays: Any) -> Any:
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty or any(kind != AxisType.Auto for kind in mesh.axis_types):
            return function(ShardedAxes(), *arrays)
        mesh_axes: dict[str, str | None] = {}
        for array, axes in zip(arrays, inputs, strict=True):
            for name, size in zip(axes, getattr(array, "shape", ()), strict=False):
                if name in RULES:
                    mesh_axis = RULES[name]
                    mesh_axes[name] = mesh_axis if size % mesh.shape[mesh_axis] == 0 else None
        sharded = ShardedAxes(**mesh_axes)

        def spec(axes: Axes) -> PartitionSpec:
            return PartitionSpec(*(mesh_axes.get(name) if name else None for name in axes))

        return jax.shard_map(
            lambda *shards: function(sharded, *shards),
            in_specs=tuple(spec(axes) for axes in inputs),
            out_specs=jax.tree.map(spec, outputs, is_leaf=is_axes),
            # JAX sums gradients over the axes named here. Other axes must not be summed over.
            axis_names={RULES[name] for name in mesh_axes},
            check_vma=False,
        )(*arrays)

    return call
