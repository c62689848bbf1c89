"""Products of float32 numbers have the precision of the model's dtype on every platform.

JAX's default is TF32 on a GPU, and bfloat16 on a TPU.
"""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import NEURAL, SIZES, VARIANTS, B, T, V, tokens
from cases import build as build_case
from jax.lax import Precision

from jaxlm import LSTM, Adaptation, fit, read_corpus
from jaxlm.data.batching import Block
from jaxlm.evaluation.adaptation import adapted, dynamic, reading
from jaxlm.inspection.hlo_cost import jaxprs_in
from jaxlm.models import MODELS, make_model
from jaxlm.models.generating import generate_loop
from jaxlm.ops.dropout import dropout
from jaxlm.ops.machine import compiling_for
from jaxlm.ops.sampling import Sampler
from jaxlm.training.optimizers import Horizon, OptimizerConfig, make_optimizer
from jaxlm.training.state import TrainState
from jaxlm.training.step import block_function

EXPECTED = {
    ("gpu", "float32"): Precision.HIGHEST,
    ("gpu", "tf32"): Precision.HIGH,
    ("tpu", "float32"): Precision.HIGHEST,
    ("cpu", "float32"): None,
    ("cpu", "tf32"): None,
}


def products(jaxpr):
    """Yield the precision of every product of float32 numbers."""
    for equation in jaxpr.eqns:
        kinds = {variable.aval.dtype.name for variable in equation.invars}
        if equation.primitive.name == "dot_general" and kinds == {"float32"}:
            precision = equation.params["precision"]
            yield precision[0] if isinstance(precision, tuple) else precision
        for inside in jaxprs_in(equation.params):
            yield from products(inside)


def build(name, platform, dtype):
    """Build a model whose functions no other test has traced.

    JAX would reuse a function that was traced for another platform, because its cache does not
    depend on `compiling_for`. So each platform and dtype has its own vocabulary size.
    """
    sizes = {size: value for size, value in SIZES.items() if size in MODELS[name].settings}
    vocab_size = V + 30 + list(EXPECTED).index((platform, dtype))
    return make_model(name, {"dtype": dtype} | sizes, vocab_size, 0)


def first_state(model, optimizer):
    params = model.init(jax.random.key(0), np.zeros((B, T), np.int32))["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        carry=model.initial_carry(B),
        lr_scale=jnp.ones((), jnp.float32),
    )


@pytest.mark.quick_for("lstm", "nplm", "transformer")
@pytest.mark.parametrize("name", NEURAL)
@pytest.mark.parametrize(
    ("platform", "dtype"),
    [
        kind if kind == ("gpu", "float32") else pytest.param(*kind, marks=pytest.mark.full)
        for kind in EXPECTED
    ],
)
def test_every_product_has_the_precision_of_the_dtype(name, platform, dtype):
    model = build(name, platform, dtype)
    optimizer = make_optimizer(OptimizerConfig(), Horizon(10, 10))
    tokens_BT = np.zeros((B, T), np.int32)
    ones = np.ones((1, B, T), np.float32)
    block = Block(
        tokens_BT[None],
        tokens_BT[None],
        ones,
        np.ones(1, np.float32),
        np.zeros((1, B), bool),
        np.full(1, T, np.int32),
        np.ones(1, np.float32),
    )
    key = jax.random.key(0)
    with compiling_for(platform):
        state = jax.eval_shape(functools.partial(first_state, model, optimizer))
        train = block_function(model, optimizer, key, "all")
        params = state.params
        # `generate` cannot be traced inside another jit, because it passes compiler options.
        fixed = {"model": model, "draw": Sampler(1.0, None, None), "capacity": 3}
        generate = functools.partial(generate_loop, **fixed)
        programs = {
            "training": jax.make_jaxpr(train)(state, block, np.int32(1)),
            "scores": jax.make_jaxpr(model.token_scores)(params, tokens_BT, tokens_BT, None),
            "detail": jax.make_jaxpr(functools.partial(model.token_scores, detail=True))(
                params, tokens_BT, tokens_BT, None
            ),
            "next": jax.make_jaxpr(model.next_log_probs)(params, tokens_BT),
            "generation": jax.make_jaxpr(generate)(
                params, tokens_BT, np.int32(2), None, key, length=np.int32(3)
            ),
        }
    for task, program in programs.items():
        assert set(products(program.jaxpr)) == {EXPECTED[platform, dtype]}, task


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("nplm", {}),
        ("nplm", VARIANTS["adaptive"]),
        ("nplm", VARIANTS["mixture"]),
        ("lstm", {"tied": True, "hidden_size": 6}),
    ],
)
def test_scores_in_bfloat16_do_not_depend_on_details(name, options):
    """Logits are sums in float32, and are never rounded to the 8 bits of bfloat16."""
    model, params = build_case(name, options | {"dtype": "bfloat16"})
    # Logits are large, so that the spacing of bfloat16 is 0.06 or more.
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf if "embedding" in str(path) else 6 * leaf, params
    )
    given = params, tokens(), tokens(seed=1), None
    (plain_BT,), _ = model.token_scores(*given, False)
    (detailed_BT, *_), _ = model.token_scores(*given, True)
    np.testing.assert_allclose(detailed_BT, plain_BT, rtol=1e-5, atol=1e-4)


def test_time_loops_agree_in_bfloat16():
    """The input of the gates, W x + b, is float32 in every loop over time."""
    found = []
    for time_loop in ("scan", "fused"):
        model, params = build_case("lstm", {"dtype": "bfloat16", "time_loop": time_loop})
        params["layers_0"]["input"] = jax.tree.map(
            lambda leaf: 8 * leaf, params["layers_0"]["input"]
        )
        found.append(model.apply({"params": params}, tokens())[1][0])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3)


def test_dropout_keeps_the_mean_in_bfloat16():
    """1 / (1 - 0.4) is no number of bfloat16: the mean would be 0.2% too small."""
    kept = dropout(jax.random.key(0), jnp.full(1 << 18, 3.0, jnp.bfloat16), 0.4)
    values = np.unique(np.asarray(kept, np.float32))
    np.testing.assert_allclose(values, [0, 5], rtol=1e-3)


@pytest.mark.full
@pytest.mark.parametrize("dtype", ["float32", "tf32"])
def test_products_of_dynamic_evaluation_have_the_precision_of_the_dtype(
    dtype, tmp_path, monkeypatch
):
    seen = []

    def traced(function, statics):
        def call(*arguments):
            inside = inspect.unwrap(function)
            seen.append(jax.make_jaxpr(inside, static_argnums=statics)(*arguments))
            return function(*arguments)

        return call

    monkeypatch.setattr(reading, "_segments", traced(reading._segments, (7, 8)))
    monkeypatch.setattr(dynamic, "_add_square", traced(dynamic._add_square, 5))
    monkeypatch.setattr(dynamic, "_carry_after", traced(dynamic._carry_after, 3))
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.txt").write_text("we count what we read and read it again\n" * 9)
    text = read_corpus(str(tmp_path))
    sizes = {"embedding_size": 3, "hidden_size": 4, "vocab_size": len(text.vocabulary)}
    settings = {"dynamic": "rms", "dynamic_lr": 0.01, "dynamic_decay": 0.01, "dynamic_steps": 6}
    with compiling_for("gpu"):
        model = LSTM(start_id=text.vocabulary.start_id, dtype=dtype, **sizes)
        run = fit(model, text, steps=1, batch_size=2, bptt=4)
        adapted(run, Adaptation(cache=5, **settings))
    assert len(seen) > 2
    assert all(set(products(program.jaxpr)) == {EXPECTED["gpu", dtype]} for program in seen)


def test_a_note_says_that_a_cpu_has_no_tf32():
    (note,) = build("gru", "cpu", "tf32").notes()
    assert note == "`dtype` tf32: a CPU has no TF32; float32 is used instead"
    with compiling_for("gpu"):
        assert not build("gru", "gpu", "tf32").notes()


@pytest.mark.parametrize("dtype", ["float32", "tf32"])
@pytest.mark.parametrize("name", ["nplm", "lstm", "mogrifier"])
def test_users_need_no_context_for_the_precision(name, dtype):
    """`apply` and its gradient in a jitted function have the precision without any context."""
    model = build(name, "gpu", dtype).clone(vocab_size=V + 50)
    tokens_BT = np.zeros((B, 6), np.int32)

    def loss(params):
        hidden_BTF, _ = model.apply({"params": params}, tokens_BT)
        logits_BTV = model.apply({"params": params}, hidden_BTF, method="logits")
        return jnp.sum(logits_BTV)

    with compiling_for("gpu"):
        params = jax.eval_shape(model.init, jax.random.key(0), tokens_BT)["params"]
        plain = jax.make_jaxpr(loss)(params)
        gradient = jax.make_jaxpr(jax.grad(jax.jit(loss)))(params)
    for program in (plain, gradient):
        assert set(products(program.jaxpr)) == {EXPECTED["gpu", dtype]}
