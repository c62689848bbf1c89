"""Everything that training changes, as one pytree."""

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

# Random initialisers are much to compile and little to run: full optimisation doubles the time.
INIT_OPTIONS = {"xla_backend_optimization_level": 1}


@flax.struct.dataclass
class TrainState:
    """step: int32, steps taken; params: what is evaluated and kept; opt_state; carry: the model's,
    as the last chunk left it; lr_scale: float32, what the schedule's rate is multiplied by (decay
    on plateau).

    iterate: where `params` are an average, the parameters that the optimizer moves; None: they are
    the same. averaged: float32, how many of them are in the average; 0 as long as it has not begun.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    carry: Any
    lr_scale: jax.Array
    iterate: Any = None
    averaged: Any = None


def init_key(key: jax.Array) -> jax.Array:
    """What the parameters are drawn from, in a run with this key."""
    return jax.random.split(key)[0]


def steps_key(key: jax.Array) -> jax.Array:
    """What the steps draw from, in a run with this key: step s from fold_in(steps_key, s)."""
    return jax.random.split(key)[1]


def init_params(model: NeuralModel, key: jax.Array) -> Any:
    """The model's parameters alone; `model.init` also returns what cells record."""
    tokens_BT = np.zeros((1, 2), np.int32)
    init = jax.jit(lambda key: model.init(key, tokens_BT)["params"], compiler_options=INIT_OPTIONS)
    return init(key)


def init_state(
    model: NeuralModel,
    optimizer: Transform,
    key: jax.Array,
    batch_size: int,
    averaged: float | None = None,
    mesh: Mesh | None = None,
) -> TrainState:
    """The state before step 0, in one compiled call; parameters are drawn from `init_key(key)`.
    averaged: what it begins with, None if nothing is averaged. On a mesh each device makes its own
    part: the whole is nowhere.
    """
    init = _start(model, optimizer, batch_size, averaged)
    if mesh is None:
        return jax.jit(init, compiler_options=INIT_OPTIONS)(key)
    lying = shardings(mesh, state_axes(model, jax.eval_shape(init, key)))
    return jax.jit(init, out_shardings=lying, compiler_options=INIT_OPTIONS)(key)


def state_shapes(
    model: NeuralModel, optimizer: Transform, batch_size: int, mesh: Mesh
) -> TrainState:
    """What `init_state` returns, in shapes alone: for devices that need not be here."""
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
    """The names of the axes of every array in a state: a parameter's, and those of what an
    optimizer keeps for each parameter, by `model.axes()`; the batch's in the carry.
    """
    known = model.axes()

    def named(path: tuple[Any, ...], array: Any) -> Axes:
        # Dicts are in parameters, and what has their structure, alone.
        keys = [str(part.key) for part in path if isinstance(part, jax.tree_util.DictKey)]
        return known.get("/".join(keys), ())

    axes: TrainState = jax.tree_util.tree_map_with_path(
        named, dataclasses.replace(state, carry=None)
    )
    return dataclasses.replace(axes, carry=jax.tree.map(lambda array: ("batch",), state.carry))
