"""The training state: everything that training changes, as one pytree."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import DictKey, tree_leaves_with_path, tree_map_with_path

from jaxlm.models.neural import NeuralModel, param_shapes, tree_bytes
from jaxlm.parallel.mesh import Axes, Mesh, shapes_on_mesh, shardings
from jaxlm.training.optimizers import Transform

# Random initialisers take long to compile and little time to run: full optimisation would double
# the time.
INIT_OPTIONS = {"xla_backend_optimization_level": 1}


@flax.struct.dataclass
class TrainState:
    """The state between two train steps.

    step: int32, number of steps taken. params: the parameters that are evaluated and kept.
    opt_state: the optimizer's state. carry: the model's carry after the last chunk. lr_scale:
    float32, factor of the scheduled learning rate (decay on a plateau).

    iterate: the parameters that the optimizer moves, if `params` is their average over the steps;
    None without averaging, where the optimizer moves `params`. averaged: float32, number of steps
    in the average, 0 before the average starts; None without averaging.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    carry: Any
    lr_scale: jax.Array
    iterate: Any = None
    averaged: Any = None


def init_key(key: jax.Array) -> jax.Array:
    """Return the key from which a run with this key draws its parameters."""
    return jax.random.split(key)[0]


def steps_key(key: jax.Array) -> jax.Array:
    """Return the key of a run's steps; step s draws from fold_in(steps_key(key), s)."""
    return jax.random.split(key)[1]


def init_params(model: NeuralModel, key: jax.Array, mesh: Mesh | None = None) -> Any:
    """Return the initial parameters, without the other collections that `model.init` returns.

    Args:
      model: the model.
      key: the key that the parameters are drawn from.
      mesh: the devices, or None. On a mesh, each device makes its own shard.
    """

    def init(key: jax.Array) -> Any:
        return model.init(key, np.zeros((1, 2), np.int32))["params"]

    if mesh is None:
        return jax.jit(init, compiler_options=INIT_OPTIONS)(key)
    axes = params_axes(model, param_shapes(model))
    sharding = shardings(mesh, axes)
    return jax.jit(init, out_shardings=sharding, compiler_options=INIT_OPTIONS)(key)


def init_state(
    model: NeuralModel,
    optimizer: Transform,
    key: jax.Array,
    batch_size: int,
    averaged: float | None = None,
    mesh: Mesh | None = None,
) -> TrainState:
    """Return the state before step 0, from one compiled call.

    Args:
      model: the model.
      optimizer: makes the optimizer's state.
      key: the key of the run; the parameters are drawn from `init_key(key)`.
      batch_size: number of streams in the carry.
      averaged: `Average.start` of the running average; None without averaging.
      mesh: the devices, or None. On a mesh, each device makes its own shard; no device holds the
        whole state.
    """
    init = _initializer(model, optimizer, batch_size, averaged)
    if mesh is None:
        return jax.jit(init, compiler_options=INIT_OPTIONS)(key)
    sharding = shardings(mesh, state_axes(model, jax.eval_shape(init, key)))
    return jax.jit(init, out_shardings=sharding, compiler_options=INIT_OPTIONS)(key)


def trace_start(model: NeuralModel, optimizer: Transform, batch_size: int) -> None:
    """Trace the initial carry, and the first update of the optimizer, without computing anything.

    Whatever a model, an optimizer or a schedule raises when JAX traces it is raised here.

    Args:
      model: the model.
      optimizer: the optimizer.
      batch_size: number of streams in the carry.
    """

    def start(params: Any) -> Any:
        return optimizer.update(params, optimizer.init(params), params)

    jax.eval_shape(start, param_shapes(model))
    jax.eval_shape(lambda: model.initial_carry(batch_size))


def state_bytes(model: NeuralModel, optimizer: Transform, batch_size: int) -> tuple[int, int]:
    """Return the bytes of the parameters, and of the optimizer's state and the carry.

    Nothing is computed.

    Args:
      model: the model.
      optimizer: makes the optimizer's state.
      batch_size: number of streams in the carry.
    """
    params = param_shapes(model)
    rest = jax.eval_shape(lambda p: (optimizer.init(p), model.initial_carry(batch_size)), params)
    return tree_bytes(params), tree_bytes(rest)


def largest_param(model: NeuralModel) -> str:
    """Return the path and the shape of the largest parameter."""
    leaves = tree_leaves_with_path(param_shapes(model))
    path, leaf = max(leaves, key=lambda item: math.prod(item[1].shape))
    return f"{_keys(path)}, {' x '.join(f'{size:,}' for size in leaf.shape)}"


def state_shapes(
    model: NeuralModel, optimizer: Transform, batch_size: int, mesh: Mesh
) -> TrainState:
    """Return the shapes and shardings of the state that `init_state` returns, without arrays.

    The devices of the mesh need not exist on this machine: a program for them can be compiled.

    Args:
      model: the model.
      optimizer: makes the optimizer's state.
      batch_size: number of streams in the carry.
      mesh: the devices.
    """
    key = jax.random.key(0)
    state = jax.eval_shape(_initializer(model, optimizer, batch_size, None), key)
    return shapes_on_mesh(mesh, state, state_axes(model, state))


def _initializer(
    model: NeuralModel, optimizer: Transform, batch_size: int, averaged: float | None
) -> Callable[[jax.Array], TrainState]:
    """Return the function from the key of a run to its state before step 0."""

    def init(key: jax.Array) -> TrainState:
        params = model.init(init_key(key), np.zeros((1, 2), np.int32))["params"]
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=optimizer.init(params),
            carry=model.initial_carry(batch_size),
            lr_scale=jnp.ones((), jnp.float32),
            iterate=None if averaged is None else params,
            averaged=None if averaged is None else jnp.float32(averaged),
        )

    return init


def state_axes(model: NeuralModel, state: TrainState) -> TrainState:
    """Return the names of the axes of every array in a state.

    A parameter has the axes of `model.axes()`, and so has an array of the same shape that the
    optimizer keeps for the parameter. The first axis of the carry is the batch.
    """
    without_carry = dataclasses.replace(state, carry=None)
    axes: TrainState = _axes_by_path(model, without_carry, state.params)
    return dataclasses.replace(axes, carry=jax.tree.map(lambda array: ("batch",), state.carry))


def params_axes(model: NeuralModel, params: Any) -> Any:
    """Return the names of the axes of every parameter."""
    return _axes_by_path(model, params, params)


def _axes_by_path(model: NeuralModel, tree: Any, params: Any) -> Any:
    """Return the axes of every array in `tree`: parameters, or a state.

    An optimizer may keep arrays of another shape for a parameter, such as the row and column sums
    of Adafactor. They are replicated.
    """
    known = model.axes()
    shapes = {_keys(path): array.shape for path, array in tree_leaves_with_path(params)}

    def axes(path: tuple[Any, ...], array: Any) -> Axes:
        name = _keys(path)
        return known.get(name, ()) if array.shape == shapes.get(name) else ()

    return tree_map_with_path(axes, tree)


def _keys(path: tuple[Any, ...]) -> str:
    """Return the keys of the dicts on a path; only parameters and trees like them are dicts."""
    return "/".join(str(part.key) for part in path if isinstance(part, DictKey))
