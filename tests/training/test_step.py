"""Train steps: dispatches of several steps, metrics, carry, dropout and the rate."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs

import jaxlm
from jaxlm.data.batching import BatchingConfig, make_batches
from jaxlm.training import loop
from jaxlm.training.optimizers import Horizon, OptimizerConfig, make_optimizer
from jaxlm.training.state import init_state
from jaxlm.training.step import make_train_block

KEY = jax.random.key(3)
CAPACITY = 6


class Trainer:
    """A model, its batches, and a train block."""

    def __init__(self, text, kind=jaxlm.LSTM, dropout=0.3, **optimizer):
        self.model = tiny_runs.make(kind, text, dropout=dropout)
        self.batches = make_batches(text.train, BatchingConfig("streams", 5, 7))
        self.optimizer = make_optimizer(OptimizerConfig(**optimizer), Horizon(10, 100))
        self.block = make_train_block(self.model, self.optimizer, KEY, self.batches.positions)

    def state(self):
        return init_state(self.model, self.optimizer, KEY, self.batches.batch_size)

    def steps(self, state, first, *counts):
        """Return the state and the metrics [3, steps] after dispatches of `counts` steps."""
        measured = []
        for count in counts:
            state, metrics = self.block(state, self.batches.block(first, count, CAPACITY), count)
            arrays = metrics.nll_K, metrics.count_K, metrics.logged["grad_norm"]
            measured.append(np.stack(arrays)[:, :count])
            first += count
        return state, np.concatenate(measured, axis=1)


@pytest.fixture(scope="module")
def trainer(text):
    return Trainer(text)


@pytest.fixture(scope="module")
def plain(text):
    return Trainer(text, jaxlm.RNN, dropout=0.0, optimizer="sgd", lr=0.5, clip=0.01)


@pytest.mark.full
def test_steps_per_dispatch_do_not_change_training_and_compile_once(trainer):
    whole, measured = trainer.steps(trainer.state(), 0, 6)
    for counts in ([1] * 6, [4, 2], [1, 5]):
        state, metrics = trainer.steps(trainer.state(), 0, *counts)
        tiny_runs.assert_same_arrays(state, whole)
        np.testing.assert_array_equal(metrics, measured)
    assert trainer.block._cache_size() == 1
    assert whole.step == 6


def test_metrics_are_the_loss_the_tokens_and_the_norm_before_clipping(plain):
    trainer, before = plain, plain.state()
    block = trainer.batches.block(0, 1, CAPACITY)
    _, (nll, count, norm) = trainer.steps(trainer.state(), 0, 1)
    assert count == block.weights_KBT[0].sum()

    def cost(params):
        nll_BT, _ = trainer.model.apply(
            {"params": params},
            block.inputs_KBT[0],
            block.targets_KBT[0],
            before.carry,
            method="nll",
        )
        return jnp.sum(nll_BT * block.weights_KBT[0])

    total, gradient = jax.jit(jax.value_and_grad(cost))(before.params)
    np.testing.assert_allclose(nll, total, rtol=1e-5)
    squares = sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(gradient))
    np.testing.assert_allclose(norm, np.sqrt(squares) / block.denominator_K[0], rtol=1e-4)


@pytest.mark.full
def test_the_carry_passes_between_chunks_and_is_reset_at_each_epoch(trainer):
    last = trainer.batches.steps_per_epoch - 1
    fresh = trainer.state()
    carried, _ = trainer.steps(trainer.state(), 0, 2)
    h_BH = carried.carry[0][0]
    assert np.abs(h_BH).max() > 0
    # The first step of an epoch does not depend on the carry. The step before it does.
    for first, same in ((0, True), (last, False), (last + 1, True)):
        noisy = fresh.replace(carry=jax.tree.map(jnp.ones_like, fresh.carry))
        copies = [jax.tree.map(jnp.copy, state) for state in (fresh, noisy)]
        (_, metrics), (_, other) = (trainer.steps(state, first, 1) for state in copies)
        assert (metrics[0] == other[0]) == same


@pytest.mark.full
def test_dropout_masks_depend_only_on_the_step(trainer, plain):
    for chosen, draws in ((trainer, 3), (plain, 1)):
        block, losses = chosen.batches.block(0, 1, CAPACITY), []
        for step in (0, 1, 2, 0):
            state = chosen.state().replace(step=jnp.int32(step))
            losses.append(float(chosen.block(state, block, 1)[1].nll_K[0]))
        assert len(set(losses)) == draws
        assert losses[0] == losses[3]


def test_lr_scale_multiplies_the_update(plain):
    before = tiny_runs.named_arrays(plain.state().params)
    moved = []
    for scale in (1.0, 0.25):
        state = plain.state().replace(lr_scale=jnp.float32(scale))
        after = tiny_runs.named_arrays(plain.steps(state, 0, 1)[0].params)
        moved.append({name: after[name] - before[name] for name in before})
    for name in before:
        np.testing.assert_allclose(moved[1][name], moved[0][name] / 4, atol=1e-7)
    assert max(np.abs(change).max() for change in moved[1].values()) > 1e-5


@pytest.mark.full
def test_a_run_compiles_its_step_once_per_session(text, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(
        loop,
        "make_train_block",
        lambda *args, **options: made.append(make_train_block(*args, **options)) or made[-1],
    )
    model = tiny_runs.make(jaxlm.RNN, text)
    for steps in (30, 60):
        tiny_runs.fit(model, text, tmp_path / "run", resume=steps > 30, steps=steps, eval_every=13)
    assert [block._cache_size() for block in made] == [1, 1]


def test_a_row_that_is_reset_starts_from_the_initial_carry(text):
    model = tiny_runs.make(jaxlm.LSTM, text)
    optimizer = make_optimizer(OptimizerConfig(), Horizon(10, 100))
    batches = make_batches(text.train, BatchingConfig("streams", 5, 7, drop_state=0.0))
    state = init_state(model, optimizer, KEY, 5)
    carry = jax.tree.map(lambda array: array + 0.5, state.carry)
    block = batches.block(3, 1, 1)
    reset_B = np.array([False, True, False, False, True])
    start = jax.tree.map(lambda array: jnp.where(reset_B[:, None], 0.0, array), carry)
    nll_BT, _ = model.apply(
        {"params": state.params}, block.inputs_KBT[0], block.targets_KBT[0], start, method="nll"
    )
    step = make_train_block(model, optimizer, KEY, "all")
    state = dataclasses.replace(state, carry=carry)
    _, metrics = step(state, block._replace(reset_KB=reset_B[None]), 1)
    np.testing.assert_allclose(metrics.nll_K[0], nll_BT.sum(), rtol=1e-6)
