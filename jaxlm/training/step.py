"""The train step: gradient, clipped update and carry, many steps in one dispatch."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxlm.data.batching import Block
from jaxlm.models.layers import MEASURED
from jaxlm.models.neural import NeuralModel
from jaxlm.ops.machine import step_options
from jaxlm.parallel.mesh import Mesh, put_on_mesh, shardings, use_mesh
from jaxlm.training.averaging import Share, averaged
from jaxlm.training.metrics import METRICS, StepValues
from jaxlm.training.optimizers import Transform
from jaxlm.training.state import TrainState, state_axes, steps_key


class StepMetrics(NamedTuple):
    """Measurements of K steps, float32 [K] each.

    nll_K: summed negative log-likelihood in nats. count_K: number of targets. logged: the values of
    METRICS, and of the scalars that the model's layers record (`NeuralModel.measured`), by name.
    """

    nll_K: jax.Array
    count_K: jax.Array
    logged: dict[str, jax.Array]


class Batch(NamedTuple):
    """One batch of a Block (`jaxlm.data.batching`): the same fields without the step axis K."""

    inputs_BT: jax.Array
    targets_BT: jax.Array
    weights_BT: jax.Array
    denominator: jax.Array
    reset_B: jax.Array
    length: jax.Array
    rate: jax.Array


TrainBlock = Callable[[TrainState, Block, Any], tuple[TrainState, StepMetrics]]
"""train_block(state, block, count) -> (state, metrics): `count` train steps over a block."""

# The axes of each array of a Block: steps, batch and time, or steps alone.
BLOCK_AXES = Block._make([*[(None, "batch")] * 3, (None,), (None, "batch"), (None,), (None,)])


class StepRunner(NamedTuple):
    """Runs the train step of one run, or of several runs stacked on a leading axis.

    run_block: a TrainBlock over stacked states and blocks. stack: makes one tree from a list of
    trees, one for each run. unstack: undoes `stack`.
    """

    run_block: Callable[..., tuple[Any, Any]]
    stack: Callable[[Sequence[Any]], Any]
    unstack: Callable[[Any], list[Any]]

    @classmethod
    def single(cls, train_block: TrainBlock) -> "StepRunner":
        """Return the runner of one run, whose trees are not stacked."""
        return cls(train_block, lambda trees: trees[0], lambda tree: [tree])


def make_train_block(
    model: NeuralModel,
    optimizer: Transform,
    key: jax.Array,
    positions: str,
    *,
    varied: bool = False,
    share: Share | None = None,
    mesh: Mesh | None = None,
) -> TrainBlock:
    """Return `block_function`, compiled. It donates the state: the old state cannot be read.

    Args:
      model: the model.
      optimizer: computes updates from gradients.
      key: the key of the run.
      positions: "all", or "last" to predict the last position alone.
      varied: whether batches differ in length.
      share: weight of the newest parameters in the running average, if the state keeps an average.
      mesh: the devices, or None. On a mesh the state keeps its sharding, and each device gets its
        rows of a block; the block of a process has the rows of its own devices.
    """
    function = block_function(model, optimizer, key, positions, varied=varied, share=share)
    options = step_options(model.compute_dtype)
    if mesh is None:
        return jax.jit(function, donate_argnums=0, compiler_options=options)
    sharded = keep_sharding(function, model, mesh)
    compiled = jax.jit(sharded, donate_argnums=0, compiler_options=options)

    def train_block(state: TrainState, block: Block, count: Any) -> tuple[TrainState, StepMetrics]:
        with use_mesh(mesh):
            return compiled(state, *put_on_mesh(mesh, (block, np.int32(count)), (BLOCK_AXES, ())))

    return train_block


def keep_sharding(function: TrainBlock, model: NeuralModel, mesh: Mesh) -> TrainBlock:
    """Return `function` with the constraint that it does not change the sharding of the state."""

    def step(state: TrainState, block: Block, count: Any) -> tuple[TrainState, StepMetrics]:
        sharding = shardings(mesh, state_axes(model, state))
        state, metrics = function(state, block, count)
        return jax.lax.with_sharding_constraint(state, sharding), metrics

    return step


def where_reset(reset_B: jax.Array, fresh: Any, carry: Any) -> Any:
    """Return `carry` with the rows that are reset replaced by the rows of `fresh`."""

    def rows(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(reset_B.reshape(-1, *[1] * (old.ndim - 1)), new, old)

    return jax.tree.map(rows, fresh, carry)


def largest_of(recorded: Any, names: Sequence[str]) -> list[jax.Array]:
    """Return the largest value of each name in a collection of scalars, over all layers."""
    found: dict[str, list[jax.Array]] = {name: [] for name in names}
    for path, value in jax.tree_util.tree_leaves_with_path(recorded):
        for key in path:
            if getattr(key, "key", None) in found:
                found[key.key].append(value)
    # A model of the user's own may record nothing under a name.
    return [jnp.max(jnp.stack(values or [jnp.float32(0)])) for values in found.values()]


def block_function(
    model: NeuralModel,
    optimizer: Transform,
    key: jax.Array,
    positions: str,
    *,
    varied: bool = False,
    share: Share | None = None,
) -> TrainBlock:
    """Return a function that takes `count` train steps over a block of batches.

    `count` is traced and at most the block's capacity. So a run compiles once, however its steps
    are grouped into blocks, and the grouping changes no number. Step s draws its randomness from
    fold_in(steps_key(key), s).

    Args:
      model: the model.
      optimizer: computes updates from gradients.
      key: the key of the run.
      positions: "all", or "last" to predict the last position alone.
      varied: whether the `length` of a batch may be less than its T.
      share: weight of the newest parameters in the running average, if the state keeps an average.
    """

    def one_step(state: TrainState, batch: Batch, draws: jax.Array) -> tuple[TrainState, jax.Array]:
        fresh = model.initial_carry(batch.inputs_BT.shape[0])
        carry = where_reset(batch.reset_B, fresh, state.carry)
        # Truncated back-propagation through time: the gradient stops between two chunks.
        carry = jax.lax.stop_gradient(carry)
        draw = jax.random.fold_in(draws, state.step)
        rngs = {"dropout": draw, "sampling": jax.random.fold_in(draw, 1)}

        # The weights include the division of the mean, so neither loss nor gradient is scaled.
        shares_BT = batch.weights_BT / batch.denominator

        def loss(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any, list[jax.Array]]]:
            outputs, recorded = model.apply(
                {"params": params},
                batch.inputs_BT,
                batch.targets_BT,
                shares_BT,
                carry,
                positions=positions,
                deterministic=False,
                length=batch.length if varied else None,
                rngs=rngs,
                method="objective",
                mutable=[MEASURED],
            )
            mean, nll_BT, carry_after = outputs
            scalars = largest_of(recorded.get(MEASURED, {}), model.measured)
            return mean, (jnp.sum(nll_BT * batch.weights_BT), carry_after, scalars)

        trained = state.params if state.iterate is None else state.iterate
        gradient, (nll, carry, scalars) = jax.grad(loss, has_aux=True)(trained)
        updates, opt_state = optimizer.update(gradient, state.opt_state, trained)
        scale = state.lr_scale * batch.rate if varied else state.lr_scale
        updates = jax.tree.map(lambda update: update * scale, updates)
        values = StepValues(gradient, updates, trained)
        logged = [metric(values) for metric in METRICS.values()]
        measured_M = jnp.stack([nll, batch.weights_BT.sum(), *logged, *scalars])
        trained = optax.apply_updates(trained, updates)
        state = dataclasses.replace(state, step=state.step + 1, opt_state=opt_state, carry=carry)
        if share is None:
            return dataclasses.replace(state, params=trained), measured_M
        return averaged(state, trained, share), measured_M

    def train_block(
        state: TrainState, block: Block, count: jax.Array
    ) -> tuple[TrainState, StepMetrics]:
        draws = steps_key(key)

        def body(
            index: jax.Array, loop: tuple[TrainState, jax.Array]
        ) -> tuple[TrainState, jax.Array]:
            state, measured_KM = loop
            batch = Batch(*(array[index] for array in block))
            state, measured_M = one_step(state, batch, draws)
            return state, measured_KM.at[index].set(measured_M)

        names = [*METRICS, *model.measured]
        measured_KM = jnp.zeros((block.denominator_K.shape[0], 2 + len(names)), jnp.float32)
        state, measured_KM = jax.lax.fori_loop(0, count, body, (state, measured_KM))
        nll_K, count_K, *logged = measured_KM.T
        return state, StepMetrics(nll_K, count_K, dict(zip(names, logged, strict=True)))

    return train_block
