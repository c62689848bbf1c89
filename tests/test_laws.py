"""Laws that every neural model in MODELS obeys, in every variant of its wiring.

A new model or cell is covered as soon as it is registered. It is complete when it passes these laws
and test_questions.py.
"""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import (
    NEURAL,
    VARIANTS,
    B,
    T,
    V,
    assert_trees_close,
    build,
    cases,
    hidden,
    logits,
    tokens,
    tolerance,
)
from numpy.testing import assert_allclose, assert_array_equal

import jaxlm
from jaxlm.data.batching import Block
from jaxlm.models import CELLS, MODELS, describe_model, make_model
from jaxlm.models.heads import HEADS
from jaxlm.models.neural import param_shapes
from jaxlm.ops import machine
from jaxlm.ops.machine import compiling_for
from jaxlm.training.optimizers import Horizon, OptimizerConfig, make_optimizer
from jaxlm.training.state import TrainState
from jaxlm.training.step import make_train_block

OPTIMIZER = make_optimizer(OptimizerConfig(lr=0.05), Horizon(10, 10))


@functools.partial(jax.jit, static_argnames="model")
def loss_and_gradient(model, params):
    return jax.value_and_grad(loss)(params, model)


def loss(params, model):
    nll_BT, _ = model.apply({"params": params}, tokens(), tokens(seed=1), method="nll")
    assert nll_BT.dtype == jnp.float32 and nll_BT.shape == (B, T)
    return nll_BT.mean()


every_variant_in_time = pytest.mark.parametrize(
    ("name", "options"), list(cases(("gradient",), outputs=False))
)
exact_variant_in_time = pytest.mark.parametrize(
    ("name", "options"), list(cases(("gradient",), exact=True, outputs=False))
)
every_variant = pytest.mark.parametrize(("name", "options"), list(cases(("gradient",))))
# For laws that need a tolerance smaller than the rounding errors of bfloat16.
exact_variant = pytest.mark.parametrize(("name", "options"), list(cases(("gradient",), exact=True)))


@exact_variant_in_time
def test_outputs_depend_only_on_earlier_tokens_in_reach(name, options):
    model, params = build(name, {key: options[key] for key in options if key != "tied"})
    # Tokens are distinct, so each row of the embedding belongs to a single position.
    tokens_BT = jnp.arange(T)[None, :]

    def output(params, t):
        return jnp.sum(logits(model, params, tokens_BT)[0][0, t].astype(jnp.float32) ** 2)

    gradients = jax.jit(jax.vmap(jax.grad(output), (None, 0)))(params, jnp.arange(T))
    for t, rows_VD in enumerate(gradients["embedding"]["embedding"]):
        rows_V = np.abs(rows_VD).sum(-1)
        first = 0 if model.context_size is None else max(0, t - model.context_size)
        assert (rows_V[t + 1 : T] == 0).all(), "a later token changed an earlier output"
        # The start token also precedes the text, so its row may have a gradient anywhere.
        assert (np.delete(rows_V[: t + 1], np.s_[:first]) > 0).all(), "a token in reach is ignored"


@every_variant_in_time
def test_chunks_with_the_carry_equal_one_run(name, options):
    model, params = build(name, options)
    tokens_BT = tokens()
    whole_BTV, end = logits(model, params, tokens_BT)
    parts, carry = [], model.initial_carry(B)
    # Two chunks of three tokens, shorter than some windows, and a chunk of a single token.
    for start, stop in ((0, 3), (3, 6), (6, T)):
        part_BTV, carry = logits(model, params, tokens_BT[:, start:stop], carry)
        parts.append(part_BTV)
    parts_BTV = jnp.concatenate(parts, axis=1)
    assert_allclose(*map(np.float32, (parts_BTV, whole_BTV)), **tolerance(options))
    assert_trees_close(carry, end, **tolerance(options))


@every_variant_in_time
def test_reading_stops_after_length_tokens(name, options):
    model, params = build(name, options)
    short_BTV, end = logits(model, params, tokens()[:, :5])
    whole_BTV, stopped = logits(model, params, tokens(), None, jnp.int32(5))
    assert_allclose(*map(np.float32, (whole_BTV[:, :5], short_BTV)), **tolerance(options))
    assert_trees_close(stopped, end, **tolerance(options))


@exact_variant_in_time
def test_positions_last_equals_the_last_of_positions_all(name, options):
    model, params = build(name, options)
    all_BTF, carry = hidden(model, params, tokens())
    last_B1F, end = hidden(model, params, tokens(), positions="last")
    assert_trees_close((last_B1F, end), (all_BTF[:, -1:], carry), **tolerance(options))


@pytest.mark.quick_for("lstm", "nplm", "transformer", "rnn")
@exact_variant_in_time
def test_jit_equals_eager(name, options):
    model, params = build(name, options)
    compiled, _ = loss_and_gradient(model, params)
    with jax.disable_jit():
        eager = loss(params, model)
    assert_allclose(compiled, eager, **tolerance(options))


def objective_and_gradient(model, params):
    """Return the training objective and its gradient.

    Each call compiles anew, because a test may have changed the settings of the platform.
    """
    shares_BT = jnp.full((B, T), 1 / (B * T))

    def objective(params):
        found = model.apply(
            {"params": params}, tokens(), tokens(seed=1), shares_BT, method="objective"
        )
        return found[0]

    return jax.jit(jax.value_and_grad(objective))(params)


@exact_variant
def test_the_objective_equals_the_weighted_sum_of_the_nll(name, options):
    model, params = build(name, options)
    found = objective_and_gradient(model, params)
    assert_trees_close(found, loss_and_gradient(model, params), **tolerance(options))


@pytest.mark.quick_for("lstm", "rnn", "paralstm", "transformer")
@pytest.mark.parametrize("name", NEURAL)
def test_unrolling_and_alignment_do_not_change_values(name, monkeypatch):
    model, params = build(name, {})
    expected = objective_and_gradient(model, params)
    # An iteration has three of the seven time steps, and no size of the model is a multiple of 8.
    monkeypatch.setitem(machine.STEPS_PER_ITERATION, jax.default_backend(), 3)
    monkeypatch.setitem(machine.ALIGNMENT, jax.default_backend(), 8)
    assert_trees_close(objective_and_gradient(model, params), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.quick_for("lstm", "rnn", "paralstm", "mingru")
@pytest.mark.parametrize("name", [*CELLS, "mogrifier"])
def test_every_time_loop_gives_the_same_values_and_gradients(name):
    results = []
    variants = [{"time_loop": "scan"}, {"time_loop": "fused"}]
    if name in CELLS and CELLS[name].recurrent:
        # Of the seven time steps, two segments have three, and the last segment has a single step.
        variants.append({"remat": 3})
    for options in variants:
        model, params = build(name, {}, **options)
        results.append((params, logits(model, params, tokens()), loss_and_gradient(model, params)))
    for found in results[1:]:
        assert_trees_close(found, results[0], atol=1e-5, rtol=1e-5)


@every_variant
def test_gradients_are_finite_and_reach_every_parameter(name, options):
    model, params = build(name, options)
    for path, leaf in jax.tree_util.tree_leaves_with_path(loss_and_gradient(model, params)[1]):
        assert leaf.dtype == jnp.float32, path
        assert np.isfinite(leaf).all(), path
        assert np.any(leaf != 0), path


@exact_variant
def test_description_and_summary_are_complete(name, options):
    model, params = build(name, options)
    again, network = describe_model(model)
    made = make_model(again, json.loads(json.dumps(network)), V, model.start_id)
    # The description names the dtype, also if it is the platform's default.
    assert made == model.clone(dtype=model.compute_dtype)
    hash(made)
    names = model.summary().columns[0]._cells
    groups = {jax.tree_util.keystr(path[:1]).strip("[']") for path, _ in paths_of(params)}
    assert {cell.split("/")[0] for cell in names} == groups
    # Every parameter is in exactly one row.
    sizes = [int(cell.replace(",", "")) for cell in model.summary().columns[2]._cells]
    assert sum(sizes) == sum(leaf.size for _, leaf in paths_of(params)) and all(sizes)
    approximate = options.get("softmax") == "sampled"
    assert [note for note in model.notes() if "approximate" in note] or not approximate


def paths_of(params):
    return jax.tree_util.tree_leaves_with_path(params)


@exact_variant_in_time
def test_a_row_does_not_depend_on_its_batch(name, options):
    model, params = build(name, options)
    tokens_BT = tokens()
    batch_BTV, _ = logits(model, params, tokens_BT)
    for row in (0, B - 1):
        row_1TV, _ = logits(model, params, tokens_BT[row : row + 1])
        assert_allclose(*map(np.float32, (row_1TV[0], batch_BTV[row])), **tolerance(options))


@functools.cache
def train_block(model):
    return make_train_block(model, OPTIMIZER, jax.random.key(1), "all")


def first_state(model, params):
    """Return the state before step 0 with the given parameters.

    `init_state` would draw other parameters, and takes long to compile.
    """
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=OPTIMIZER.init(params),
        carry=model.initial_carry(B + 2),
        lr_scale=jnp.ones((), jnp.float32),
    )


def take_steps(model, state, block, count):
    # The step reuses the memory of the state, so every call needs a copy.
    state = jax.tree.map(lambda array: jnp.array(array, copy=True), state)
    return train_block(model)(state, block, count)


def padded_block(garbage):
    """Return two batches [B, T] inside larger batches whose padding holds `garbage`."""
    shape = 2, B + 2, T + 3
    block = Block(
        np.full(shape, garbage, np.int32),
        np.full(shape, garbage + 1, np.int32),
        np.zeros(shape, np.float32),
        np.full(2, B * T, np.float32),
        np.ones((2, B + 2), bool),
        np.full(2, T, np.int32),
        np.ones(2, np.float32),
    )
    for step in range(2):
        block.inputs_KBT[step, :B, :T] = tokens(seed=step)
        block.targets_KBT[step, :B, :T] = tokens(seed=step + 9)
    block.weights_KBT[:, :B, :T] = 1
    return block


@pytest.mark.quick_for("lstm", "nplm", "transformer", "rnn")
@exact_variant
def test_padding_does_not_change_training(name, options):
    model, params = build(name, options)
    start = first_state(model, params)
    first, metrics = take_steps(model, start, padded_block(3), 2)
    second, _ = take_steps(model, start, padded_block(7), 2)
    assert_trees_close(second.params, first.params, atol=1e-6)
    log_probs_BTV = jax.nn.log_softmax(logits(model, start.params, tokens(seed=0))[0])
    nll_BT1 = -np.take_along_axis(np.asarray(log_probs_BTV), tokens(seed=9)[..., None], axis=-1)
    assert_array_equal(metrics.count_K, [B * T, B * T])
    # The training loss under dropout, or of a sampled softmax, is an estimate.
    estimate = options.get("softmax") == "sampled" or "dropout" in options
    rtol = 0.3 if estimate else 1e-5
    assert_allclose(metrics.nll_K[0], nll_BT1.sum(), rtol=rtol)


@exact_variant_in_time
def test_steps_per_dispatch_do_not_change_training_and_compile_once(name, options):
    model, params = build(name, options)
    block = padded_block(3)
    start = first_state(model, params)
    two_steps, _ = take_steps(model, start, block, 2)
    first, _ = take_steps(model, start, block, 1)
    rest = Block(*(np.roll(array, -1, axis=0) for array in block))
    second, _ = take_steps(model, first, rest, 1)
    jax.tree.map(assert_array_equal, second, two_steps)
    assert train_block(model)._cache_size() == 1


def test_every_output_layer_has_a_variant():
    assert HEADS.keys() == {options.get("softmax", "full") for options in VARIANTS.values()}


@pytest.mark.quick_for("lstm", "nplm", "transformer")
@pytest.mark.parametrize("name", NEURAL)
def test_wrong_shapes_are_errors(name):
    model, params = build(name, {})
    with pytest.raises(AssertionError):
        model.apply({"params": params}, tokens()[0])
    with pytest.raises(AssertionError):
        model.apply({"params": params}, tokens(), tokens()[:, :-1], method="nll")
    with pytest.raises(AssertionError):
        model.apply({"params": params}, tokens(), model.initial_carry(B + 1))


@pytest.mark.parametrize("name", list(MODELS))
def test_settings_have_the_module_s_defaults_and_help_texts(name):
    # Some defaults depend on the platform. On a CPU they are the defaults of the module.
    with compiling_for("cpu"):
        model = make_model(name, {}, V)
    for setting in MODELS[name].settings.values():
        assert setting.default == getattr(model, setting.name), setting.name
        assert setting.help, f"{setting.name} has no help text"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_averages_of_a_long_text_are_those_of_its_parts(dtype, monkeypatch):
    """The modern NPLM computes the averages of distant words in blocks of positions."""
    model, params = build("modern-nplm", {"dtype": dtype})
    ids = tokens(2, 50)
    whole, _ = model.apply({"params": params}, ids, model.initial_carry(2))
    monkeypatch.setattr("jaxlm.models.modern_nplm.BLOCK", 8)
    blocks, _ = model.apply({"params": params}, ids, model.initial_carry(2))
    assert_allclose(np.float32(blocks), np.float32(whole), atol=1e-5)


def test_memory_of_the_averages_grows_with_the_text_and_not_with_its_square():
    model = jaxlm.ModernNPLM(13, embedding_size=2, hidden_size=2, inner_size=2)
    length = 40_000
    shape = jax.ShapeDtypeStruct((1, length), jnp.int32)

    def run(params, ids):
        return model.apply({"params": params}, ids, model.initial_carry(1))[0]

    program = jax.jit(run).lower(param_shapes(model), shape).compile()
    assert program.memory_analysis().temp_size_in_bytes < 1000 * length


def test_a_short_text_needs_no_iterations_of_newton_s_method():
    """Generation reads one token at a time."""
    model = jaxlm.GRU(13, embedding_size=3, hidden_size=4, time_loop="newton")
    params = model.init(jax.random.key(0), tokens(2, 4))["params"]

    def run(ids):
        return model.apply({"params": params}, ids, model.initial_carry(2))

    assert "while" not in str(jax.make_jaxpr(run)(tokens(2, 4)))
    assert "while" in str(jax.make_jaxpr(run)(tokens(2, 9)))


@pytest.mark.parametrize("name", [*CELLS, "mogrifier"])
def test_gates_are_recorded_for_every_layer_and_step(name):
    model, params = build(name, {}, num_layers=2)
    apply = jax.jit(lambda params: model.apply({"params": params}, tokens(), mutable="gates"))
    _, recorded = apply(params)
    for layer in ("layers_0", "layers_1"):
        gates = recorded["gates"][layer]["recurrent"]
        assert set(gates) == set(model.cell.gates)
        assert all(value[0].shape == (B, T, 5) for value in gates.values())


def test_a_learned_start_is_the_state_of_rows_that_have_not_begun():
    model, params = build("lstm", {"learned_start": True})
    learned = params["start"]
    given = ((*(jnp.tile(learned[f"0_{name}"], (B, 1)) for name in "hc"),),)
    expected, end = logits(model, params, tokens(), given)
    found, after = logits(model, params, tokens())
    assert_trees_close((found, after), (expected, end), atol=1e-6)
    # Two rows go on, and one row begins.
    begins = np.arange(B)[:, None] == 1
    mixed = jax.tree.map(lambda old, new: jnp.where(begins, new, old), end, model.initial_carry(B))
    mixed_BTV, _ = logits(model, params, tokens(), mixed)
    assert_allclose(mixed_BTV[1], found[1], atol=1e-6)
    later_BTV, _ = logits(model, params, tokens(), end)
    assert_allclose(mixed_BTV[0], later_BTV[0], atol=1e-6)

    def total(params, carry):
        return logits(model, params, tokens(), carry)[0].sum()

    none = jax.grad(total)(params, end)["start"]
    some = jax.grad(total)(params, mixed)["start"]
    assert not any(np.any(leaf) for leaf in none.values())
    assert all(np.any(leaf) for leaf in some.values())
