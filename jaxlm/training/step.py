"""The train step: gradient, clipped update and carry, many steps in one dispatch."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxlm.data.batching import Block
from jaxlm.models.neural import NeuralModel
from jaxlm.ops.machine import deterministic_options
from jaxlm.parallel.mesh import Mesh, put_on_mesh, shardings, use_mesh
from jaxlm.training.averaging import Share, averaged
from jaxlm.training.optimizers import Transform
from jaxlm.training.state import TrainState, state_axes, steps_key


class StepMetrics(NamedTuple):
    """What each of K steps measured, float32 [K]: summed nll in nats, targets counted, gradient
    norm before clipping.
    """

    nll_K: jax.Array
    count_K: jax.Array
    grad_norm_K: jax.Array


# One per array of a Block: those of a step, its streams, and its tokens.
BLOCK_AXES = Block(*[(None, "batch")] * 3, *[(None,)] * 4)  # type: ignore[arg-type]
TrainBlock = Callable[[TrainState, Block, Any], tuple[TrainState, StepMetrics]]


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
    """`block_function`, compiled. The state is donated. On a mesh the state stays as it lies, and
    each device takes its streams of a block (of several processes, each has its own).
    """
    function = block_function(model, optimizer, key, positions, varied=varied, share=share)
    if mesh is None:
        return jax.jit(function, donate_argnums=0, compiler_options=deterministic_options())
    there = on_the_mesh(function, model, mesh)
    compiled = jax.jit(there, donate_argnums=0, compiler_options=deterministic_options())

    def train_block(state: TrainState, block: Block, count: Any) -> tuple[TrainState, StepMetrics]:
        with use_mesh(mesh):
            return compiled(state, *put_on_mesh(mesh, (block, np.int32(count)), (BLOCK_AXES, ())))

    return train_block


def on_the_mesh(function: TrainBlock, model: NeuralModel, mesh: Mesh) -> TrainBlock:
    """`function`, whose state lies after it as it did before."""

    def step(state: TrainState, block: Block, count: Any) -> tuple[TrainState, StepMetrics]:
        lying = shardings(mesh, state_axes(model, state))
        state, metrics = function(state, block, count)
        return jax.lax.with_sharding_constraint(state, lying), metrics

    return step


def block_function(
    model: NeuralModel,
    optimizer: Transform,
    key: jax.Array,
    positions: str,
    *,
    varied: bool = False,
    share: Share | None = None,
) -> TrainBlock:
    """A function that takes `count` steps over a block of batches.

    `count` is dynamic and at most the block's capacity, so a run compiles once however its steps
    are grouped, and the grouping changes no number. Step s draws its randomness from
    fold_in(steps_key(key), s). varied: whether a batch's `length_K` is less than
    its T. share: of the newest parameters in the average that the state keeps, if it keeps one.
    """

    def one_step(state: TrainState, batch: Block, draws: jax.Array) -> tuple[TrainState, jax.Array]:
        fresh = model.initial_carry(batch.inputs_KBT.shape[0])
        carry = jax.tree.map(
            lambda new, old: jnp.where(batch.reset_K, new, old), fresh, state.carry
        )
        # Truncated back-propagation through time: the gradient stops between two chunks.
        carry = jax.lax.stop_gradient(carry)
        draw = jax.random.fold_in(draws, state.step)
        rngs = {"dropout": draw, "sampling": jax.random.fold_in(draw, 1)}

        # The mean is taken by the weights, so that the loss needs no scaling, nor its gradients.
        shares_BT = batch.weights_KBT / batch.denominator_K

        def loss(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
            found: Any = model.apply(
                {"params": params},
                batch.inputs_KBT,
                batch.targets_KBT,
                shares_BT,
                carry,
                positions=positions,
                deterministic=False,
                length=batch.length_K if varied else None,
                rngs=rngs,
                method="objective",
            )
            mean, nll_BT, after = found
            return mean, (jnp.sum(nll_BT * batch.weights_KBT), after)

        trained = state.params if state.iterate is None else state.iterate
        gradient, (nll, carry) = jax.grad(loss, has_aux=True)(trained)
        updates, opt_state = optimizer.update(gradient, state.opt_state, trained)
        scale = state.lr_scale * batch.rate_K if varied else state.lr_scale
        updates = jax.tree.map(lambda update: update * scale, updates)
        measured = jnp.stack([nll, batch.weights_KBT.sum(), optax.tree.norm(gradient)])
        trained = optax.apply_updates(trained, updates)
        state = dataclasses.replace(state, step=state.step + 1, opt_state=opt_state, carry=carry)
        if share is None:
            return dataclasses.replace(state, params=trained), measured
        return averaged(state, trained, share), measured

    def train_block(
        state: TrainState, block: Block, count: jax.Array
    ) -> tuple[TrainState, StepMetrics]:
        draws = steps_key(key)

        def body(
            index: jax.Array, loop: tuple[TrainState, jax.Array]
        ) -> tuple[TrainState, jax.Array]:
            state, measured_KM = loop
            batch = Block(*(array[index] for array in block))
            state, measured_M = one_step(state, batch, draws)
            return state, measured_KM.at[index].set(measured_M)

        measured_KM = jnp.zeros((block.reset_K.shape[0], 3), jnp.float32)
        state, measured_KM = jax.lax.fori_loop(0, count, body, (state, measured_KM))
        return state, StepMetrics(*measured_KM.T)

    return train_block
