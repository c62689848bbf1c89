"""Device meshes: how arrays are sharded over devices.

A mesh has two axes:

- `data`: each device has some rows of the batch, and their recurrent state.
- `model`: each device has a slice of the vocabulary, in the embedding and the output layer.

Results on a mesh equal the results on one device, up to the order of summation. JAX's compiler
(GSPMD: Xu et al. 2021) inserts the communication between devices. In three places it would insert
too much: in the output layer, in the adaptive softmax, and in the time loop of a recurrent layer.
These use `on_each_device` (`parallel.shard_map`).
"""

import contextlib
from collections.abc import Mapping
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxlm.errors import SettingError, choose

DATA, MODEL = "data", "model"
# The mesh axis over which each named axis of an array is sharded.
RULES = {"batch": DATA, "vocabulary": MODEL}
Axes = tuple[str | None, ...]
"""The names of an array's axes. An axis is replicated if its name is None or not in RULES."""


def parse_mesh(text: str) -> dict[str, int]:
    """Return the size of each mesh axis that a text such as "data=4,model=2" names.

    Example:
      >>> parse_mesh("data=4,model=2")
      {'data': 4, 'model': 2}

    Raises:
      UserError: if an axis is unknown, is given twice or has no positive size.
    """
    sizes: dict[str, int] = {}
    for part in text.split(","):
        name, _, size = (word.strip() for word in part.partition("="))
        _check_axis(name, int(size) if size.isdecimal() else size, text)
        if name in sizes:
            raise SettingError("mesh", text, f"gives the axis {name} twice")
        sizes[name] = int(size)
    return sizes


def _check_axis(name: str, size: Any, shown: str) -> None:
    """Raise UserError unless `name` is an axis of a mesh and `size` a positive integer.

    Args:
      name: name of the axis.
      size: number of devices on the axis.
      shown: the mesh, for the error.
    """
    choose(dict.fromkeys((DATA, MODEL)), name, "axis of `mesh`")
    if not isinstance(size, Integral) or isinstance(size, bool) or size < 1:
        raise SettingError("mesh", shown, "give each axis a size, such as data=4,model=2")


def make_mesh(sizes: Mapping[str, int] | None = None, batch_size: int = 0) -> Mesh | None:
    """Return a mesh with the given axis sizes, or None if it would have a single device.

    The mesh uses the first devices that JAX lists. Without `sizes`, all devices are on the axis
    `data`; in one process, as many of them as divide `batch_size` evenly.

    Raises:
      UserError: if `sizes` names an unknown axis.
      SettingError: if a size is no positive integer, if there are too few devices, or if there
        are several processes and the mesh would leave some of their devices out.
    """
    devices = jax.devices()
    if sizes is None:
        count = len(devices)
        if jax.process_count() == 1:
            count = max(n for n in range(1, count + 1) if batch_size % n == 0)
        sizes = {DATA: count}
    for name, size in sizes.items():
        _check_axis(name, size, f"{name}={size}")
    data, model = sizes.get(DATA, 1), sizes.get(MODEL, 1)
    text = f"data={data},model={model}"
    if data * model > len(devices):
        why = f"needs {data * model} devices: this machine has {len(devices)} ({devices[0]})"
        raise SettingError("mesh", text, why)
    if jax.process_count() > 1 and data * model < len(devices):
        why = f"with several processes, use all {len(devices)} of their devices"
        raise SettingError("mesh", text, why)
    if data * model == 1:
        return None
    # JAX 0.9 and later make Explicit axes by default, with which Flax's Embed does not work.
    kinds = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh(
        (data, model), (DATA, MODEL), axis_types=kinds, devices=devices[: data * model]
    )


def devices_of(mesh: Mesh | None) -> dict[str, Any]:
    """Return device kinds, axis sizes and number of processes of a mesh, as values for JSON."""
    devices = jax.devices()[:1] if mesh is None else list(mesh.devices.flat)
    kinds = sorted({f"{device.platform}: {device.device_kind}" for device in devices})
    sizes = {DATA: 1, MODEL: 1} if mesh is None else dict(mesh.shape)
    return {"kinds": kinds, "mesh": sizes, "processes": jax.process_count()}


def check_divides(mesh: Mesh | None, batch_size: int, vocab_size: int) -> None:
    """Raise SettingError unless batch and vocabulary split evenly over the devices of `mesh`."""
    if mesh is None:
        return
    data, model = mesh.shape[DATA], mesh.shape[MODEL]
    if batch_size % data:
        lower = batch_size // data * data
        choices = f"{lower} or {lower + data}" if lower else str(data)
        if jax.process_count() == 1:
            # With several processes, a smaller mesh would leave devices out.
            divisor = max(n for n in range(1, data) if batch_size % n == 0)
            choices += f", or `mesh` data={divisor}"
        why = f"does not split evenly over {data} devices: use {choices}"
        raise SettingError("batch_size", batch_size, why)
    if vocab_size % model:
        sizes = [str(size) for size in range(1, 65) if vocab_size % size == 0]
        why = f"{vocab_size} words do not split evenly over {model} devices: use "
        raise SettingError("mesh", f"model={model}", why + ", ".join(sizes))


def local_rows(mesh: Mesh | None, batch_size: int) -> np.ndarray:
    """Return the indices of the batch rows on this process's devices, in ascending order."""
    if mesh is None:
        return np.arange(batch_size)
    sharding = NamedSharding(mesh, PartitionSpec(DATA))
    is_local_B = np.zeros(batch_size, bool)
    for rows in sharding.addressable_devices_indices_map((batch_size,)).values():
        is_local_B[rows] = True
    return np.flatnonzero(is_local_B)


def use_mesh(mesh: Mesh | None) -> Any:
    """Return a context in which JAX compiles programs for `mesh`; None changes nothing."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def shardings(mesh: Mesh, axes: Any) -> Any:
    """Return the sharding on `mesh` of each Axes in a tree, in the structure of the tree."""
    return jax.tree.map(lambda leaf: NamedSharding(mesh, _spec(leaf)), axes, is_leaf=is_axes)


def _spec(axes: Axes) -> PartitionSpec:
    return PartitionSpec(*(RULES.get(name) if name else None for name in axes))


def put_on_mesh(mesh: Mesh | None, tree: Any, axes: Any) -> Any:
    """Return the arrays of `tree` on the mesh; without a mesh, return `tree`.

    `axes` has the structure of `tree`, with Axes as leaves. If an array is sharded over several
    processes, the array in `tree` holds this process's shard.
    """
    if mesh is None:
        return tree

    def put(array: Any, sharding: NamedSharding) -> jax.Array:
        if isinstance(array, jax.Array) and array.sharding == sharding:
            return array
        return jax.make_array_from_process_local_data(sharding, np.asarray(array))

    return jax.tree.map(put, tree, shardings(mesh, axes))


def shapes_on_mesh(mesh: Mesh, tree: Any, axes: Any) -> Any:
    """Return the shape, dtype and sharding of each array that `put_on_mesh` would return."""

    def shape(array: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

    return jax.tree.map(shape, tree, shardings(mesh, axes))


def to_host(array: Any) -> np.ndarray:
    """Return the unsharded array as a NumPy array, in each process if there are several."""
    if not isinstance(array, jax.Array) or array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def gather(tree: Any) -> Any:
    """Return the arrays of `tree`, each unsharded on one device of this process."""

    def gather_array(array: jax.Array) -> jax.Array:
        on_one_device = array.is_fully_addressable and len(array.sharding.device_set) == 1
        return array if on_one_device else jnp.asarray(to_host(array))

    return jax.tree.map(gather_array, tree)


def replicate(tree: Any) -> Any:
    """Return the arrays, constrained to be replicated on each device of the current mesh.

    Call it inside a compiled function. Without a mesh, return `tree`.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return tree
    return jax.lax.with_sharding_constraint(tree, PartitionSpec())


def put_like(tree: Any, template: Any) -> Any:
    """Return arrays that are unsharded on the host, with the shardings of `template`.

    An example is the arrays of a checkpoint.

    The arrays are copies in memory that JAX owns, so that a train step may donate them.
    """

    def put(host_array: Any, like: jax.Array) -> jax.Array:
        if len(like.sharding.device_set) == 1:
            return jnp.array(host_array, copy=True)
        whole = np.asarray(host_array)
        return jax.make_array_from_callback(
            whole.shape, like.sharding, lambda index: whole[index].copy()
        )

    return jax.tree.map(put, tree, template)


def is_axes(value: Any) -> bool:
    """Return whether a value is an Axes tuple, and so a leaf of a tree of Axes."""
    # A named tuple is a node of a tree, even if it is empty.
    return type(value) is tuple and all(name is None or isinstance(name, str) for name in value)
