"""Functions that run on each device of a mesh, over its part of the arrays (`jax.shard_map`)."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import AxisType, PartitionSpec

from jaxlm.parallel.mesh import RULES, Axes, is_axes


class Spread(NamedTuple):
    """Over which axes of the mesh the tokens and the words of a function are spread, in which each
    device sees its part; None: it has all of them.
    """

    batch: str | None = None
    vocabulary: str | None = None

    def sum_over_batch(self, part: Any) -> Any:
        """Of all devices' tokens."""
        return jax.lax.psum(part, self.batch) if self.batch else part

    def sum_over_vocabulary(self, part: Any) -> Any:
        """Of all devices' words."""
        return jax.lax.psum(part, self.vocabulary) if self.vocabulary else part

    def max_over_vocabulary(self, part: Any) -> Any:
        """Of all devices' words."""
        return jax.lax.pmax(part, self.vocabulary) if self.vocabulary else part

    def first_word(self, words: int) -> Any:
        """The id of this device's first word, if each has so many."""
        return jax.lax.axis_index(self.vocabulary) * words if self.vocabulary else 0


def by_device(
    function: Callable[..., Any], inputs: Sequence[Axes], outputs: Any
) -> Callable[..., Any]:
    """`function(spread, *arrays)` on each device, of its part of the arrays.

    inputs: the Axes of each array (or of every array in a tree); outputs: those of what comes out,
    in its structure. An axis whose size is no multiple of the mesh's is on every device in full.
    Where there is no mesh, or inside of another `by_device`: the function itself.
    """

    def call(*arrays: Any) -> Any:
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty or any(kind != AxisType.Auto for kind in mesh.axis_types):
            return function(Spread(), *arrays)
        found: dict[str, str | None] = {}
        for array, axes in zip(arrays, inputs, strict=True):
            for name, size in zip(axes, getattr(array, "shape", ()), strict=False):
                if name in RULES:
                    axis = RULES[name]
                    found[name] = axis if size % mesh.shape[axis] == 0 else None
        spread = Spread(**found)

        def spec(axes: Axes) -> PartitionSpec:
            return PartitionSpec(*(found.get(name) if name else None for name in axes))

        return jax.shard_map(
            lambda *parts: function(spread, *parts),
            in_specs=tuple(spec(axes) for axes in inputs),
            out_specs=jax.tree.map(spec, outputs, is_leaf=is_axes),
            # Of an axis that is not named here nothing is to be summed up.
            axis_names={RULES[name] for name in found},
            check_vma=False,
        )(*arrays)

    return call
