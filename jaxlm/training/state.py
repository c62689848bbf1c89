"""The training state: everything that training changes, as one pytree."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.models.neural import NeuralModel
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

    iterate: the parameters that the optimizer moves, where `params` is their average; None if
    `params` are these parameters. averaged: float32, number of parameters in the average; 0 before
    the average starts.
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
    """Return the initial parameters; `model.init` would also return what cells record.

    On a mesh, each device makes its own shard.
    """

    def init(key: jax.Array) -> Any:
        return model.init(key, np.zeros((1, 2), np.int32))["params"]

    if mesh is None:
        return jax.jit(init, compiler_options=INIT_OPTIONS)(key)
    axes = params_axes(model, jax.eval_shape(init, key))
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
      averaged: `Average.start` of the running average; None for no average.
      mesh: the devices, or None. On a mesh, each device makes its own shard; no device holds the
        whole state.
    """
    init = _start(model, optimizer, batch_size, averaged)
    if mesh is None:
        return jax.jit(init, compiler_options=INIT_OPTIONS)(key)
    sharding = shardings(mesh, state_axes(model, jax.eval_shape(init, key)))
    return jax.jit(init, out_shardings=sharding, compiler_options=INIT_OPTIONS)(key)


def state_shapes(
    model: NeuralModel, optimizer: Transform, batch_size: int, mesh: Mesh
) -> TrainState:
    """Return the shapes of what `init_state` returns, for devices that need not be present.

    Args:
      model: the model.
      optimizer: makes the optimizer's state.
      batch_size: number of streams in the carry.
      mesh: the devices.
    """
    key = jax.random.key(0)
    state = jax.eval_shape(_start(model, optimizer, batch_size, None), key)
    return shapes_on_mesh(mesh, state, state_axes(model, state))


def _start(
    model: NeuralModel, optimizer: Transform, batch_size: int, averaged: float | None
) -> Callable[[jax.Array], TrainState]:
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

    A parameter, and what the optimizer keeps for it, has the axes of `model.axes()`. The first axis
    of the carry is the batch.
    """
    axes: TrainState = params_axes(model, dataclasses.replace(state, carry=None))
    return dataclasses.replace(axes, carry=jax.tree.map(lambda array: ("batch",), state.carry))


def params_axes(model: NeuralModel, tree: Any) -> Any:
    """Return the names of the axes of every array in parameters, or in a tree that holds some."""
    known = model.axes()

    def named(path: tuple[Any, ...], array: Any) -> Axes:
        # Only parameters, and trees with their structure, are dicts.
        keys = [str(part.key) for part in path if isinstance(part, jax.tree_util.DictKey)]
        return known.get("/".join(keys), ())

    return jax.tree_util.tree_map_with_path(named, tree)
