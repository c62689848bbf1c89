"""Where arrays live: the one module that knows of meshes and devices.

A mesh has two axes. `data`: each device has some of the streams of a batch, and what their state
is. `model`: each device has some of the words of the vocabulary, in the embedding and the output
layer. What a number is, is not for the mesh to say: a computation over the mesh is that of one
device, up to the order in which things are added up, and JAX's compiler (GSPMD: Xu et al. 2021)
finds what devices must tell each other. Where it would find too much, `by_device` says so: in the
output layer, the adaptive softmax, and a layer's loop over time.
"""

import contextlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxlm.errors import UserError, choose

DATA, MODEL = "data", "model"
# What an axis of an array is called, and which axis of the mesh it is spread over.
RULES = {"batch": DATA, "vocabulary": MODEL}
Axes = tuple[str | None, ...]
"""The names of an array's axes; None, or one not in RULES: all of it on every device."""


def parse_mesh(text: str) -> dict[str, int]:
    """Sizes of a mesh, of a text like data=4,model=2. Raises UserError."""
    sizes = {}
    for part in text.split(","):
        name, _, size = part.partition("=")
        choose(dict.fromkeys((DATA, MODEL)), name.strip(), "axis in --mesh")
        if not size.strip().isdecimal() or int(size) < 1:
            raise UserError(f"--mesh {text}: give each axis a size, such as data=4,model=2")
        sizes[name.strip()] = int(size)
    return sizes


def make_mesh(sizes: Mapping[str, int] | None = None) -> Mesh | None:
    """A mesh of the devices there are, all on `data` if no sizes are given, or else the first ones
    that fill it. None if that is one device, which needs none. Raises UserError if there are fewer.
    """
    devices = jax.devices()
    sizes = {DATA: len(devices)} if sizes is None else sizes
    data, model = sizes.get(DATA, 1), sizes.get(MODEL, 1)
    asked = f"--mesh data={data},model={model}"
    if data * model > len(devices):
        raise UserError(
            f"{asked} is {data * model} devices: this machine has {len(devices)} ({devices[0]})"
        )
    if jax.process_count() > 1 and data * model < len(devices):
        raise UserError(f"{asked}: with several processes, use all {len(devices)} of their devices")
    if data * model == 1:
        return None
    # Every axis is Auto: Explicit ones, make_mesh's default since 0.9, Flax's Embed cannot be in.
    kinds = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh(
        (data, model), (DATA, MODEL), axis_types=kinds, devices=devices[: data * model]
    )


def devices_of(mesh: Mesh | None) -> dict[str, Any]:
    """What a mesh is of, for a record."""
    devices = jax.devices()[:1] if mesh is None else list(mesh.devices.flat)
    kinds = sorted({f"{device.platform}: {device.device_kind}" for device in devices})
    sizes = {DATA: 1, MODEL: 1} if mesh is None else dict(mesh.shape)
    return {"kinds": kinds, "mesh": sizes, "processes": jax.process_count()}


def check_divides(mesh: Mesh | None, batch_size: int, vocab_size: int) -> None:
    """Raises UserError unless batch and vocabulary can be spread over `mesh` in equal parts."""
    if mesh is None:
        return
    data, model = mesh.shape[DATA], mesh.shape[MODEL]
    if batch_size % data:
        down = batch_size // data * data
        near = f"{down} or {down + data}" if down else str(data)
        if jax.process_count() == 1:
            # Of several processes each has devices that must be in the mesh.
            near += f", or --mesh data={max(n for n in range(1, data) if batch_size % n == 0)}"
        raise UserError(
            f"--batch-size {batch_size} cannot be spread over {data} devices in equal parts: use "
            f"{near}"
        )
    if vocab_size % model:
        parts = [str(size) for size in range(1, 65) if vocab_size % size == 0]
        raise UserError(
            f"--mesh model={model}: the vocabulary's {vocab_size} words cannot be spread over "
            f"{model} devices in equal parts; it can be over {', '.join(parts)}"
        )


def rows_here(mesh: Mesh | None, batch_size: int) -> np.ndarray:
    """Which rows of a batch lie on this process's devices, in order."""
    if mesh is None:
        return np.arange(batch_size)
    lying = NamedSharding(mesh, PartitionSpec(DATA))
    parts = lying.addressable_devices_indices_map((batch_size,)).values()
    here = np.zeros(batch_size, bool)
    for part in parts:
        here[part] = True
    return np.flatnonzero(here)


def use_mesh(mesh: Mesh | None) -> Any:
    """A context in which what is compiled is for `mesh`."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def shardings(mesh: Mesh, axes: Any) -> Any:
    """How arrays with axes of these names lie on `mesh`: a sharding for each Axes in a tree."""
    return jax.tree.map(lambda one: NamedSharding(mesh, _spec(one)), axes, is_leaf=is_axes)


def _spec(axes: Axes) -> PartitionSpec:
    return PartitionSpec(*(RULES.get(name) if name else None for name in axes))


def put_on_mesh(mesh: Mesh | None, tree: Any, axes: Any) -> Any:
    """`tree` on the mesh, each array by its Axes in `axes`, of the same structure; without a mesh,
    as it is. Of what is spread over processes, an array has this process's part.
    """
    if mesh is None:
        return tree

    def put(array: Any, lying: NamedSharding) -> jax.Array:
        if isinstance(array, jax.Array) and array.sharding == lying:
            return array
        return jax.make_array_from_process_local_data(lying, np.asarray(array))

    return jax.tree.map(put, tree, shardings(mesh, axes))


def shapes_on_mesh(mesh: Mesh, tree: Any, axes: Any) -> Any:
    """Shapes of arrays that lie on the mesh, by their Axes, as `placed` would put them there."""

    def shape(array: Any, lying: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=lying)

    return jax.tree.map(shape, tree, shardings(mesh, axes))


def to_host(array: Any) -> np.ndarray:
    """All of an array, on the host; of several processes, on each of them."""
    if not isinstance(array, jax.Array) or array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def gather(tree: Any) -> Any:
    """Arrays that may be spread over a mesh, each whole and on one device of this process."""

    def whole(array: jax.Array) -> jax.Array:
        alone = array.is_fully_addressable and len(array.sharding.device_set) == 1
        return array if alone else jnp.asarray(to_host(array))

    return jax.tree.map(whole, tree)


def replicate(tree: Any) -> Any:
    """Inside of a compiled function on a mesh: the arrays, all of each on every device."""
    if jax.sharding.get_abstract_mesh().empty:
        return tree
    return jax.lax.with_sharding_constraint(tree, PartitionSpec())


def put_like(tree: Any, template: Any) -> Any:
    """Whole arrays on the host, such as a checkpoint's, as the arrays of `template` lie; memory of
    JAX's own, which a donated step may take over.
    """

    def put(whole: Any, like: jax.Array) -> jax.Array:
        if len(like.sharding.device_set) == 1:
            return jnp.array(whole, copy=True)
        whole = np.asarray(whole)
        return jax.make_array_from_callback(whole.shape, like.sharding, lambda at: whole[at].copy())

    return jax.tree.map(put, tree, template)


def block_if_needed(mesh: Mesh | None, arrays: Any) -> None:
    """Waits until these are computed, where a program that is started meanwhile could wait for this
    one, and this one for it: of several processes, which ask each other in between; and on the
    devices that a CPU is taken for, which share its threads.
    """
    if mesh is not None and (jax.process_count() > 1 or jax.default_backend() == "cpu"):
        jax.block_until_ready(arrays)


def is_axes(value: Any) -> bool:
    """Whether a value is an Axes tuple and not a part of a tree."""
    # A named tuple is a part of a tree, an empty one too.
    return type(value) is tuple and all(one is None or isinstance(one, str) for one in value)
