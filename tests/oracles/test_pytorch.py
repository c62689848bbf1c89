"""jaxlm against PyTorch: the same weights give the same logits, loss, gradients and carry.

The fixtures come from make_fixtures.py, which describes them; these tests need no torch. Carrying
weights over is what a user who loads a PyTorch model has to do:

- PyTorch's matrices are [out, in], jaxlm's kernels [in, out]: a transpose. The fused gates are in
  the same order (i, f, g, o and r, z, n).
- nn.RNN and nn.LSTM have an input and a recurrent bias that only ever appear as their sum, jaxlm's
  one input bias; nn.GRU's two are apart in both, for the reset gate scales the recurrent one alone.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.models import GRU, LSTM, NPLM, RNN

RECURRENT = {"vocab_size": 23, "embedding_size": 5, "hidden_size": 7, "num_layers": 2}
CASES = {
    "lecture_nplm": NPLM(vocab_size=7, n_step=2, embedding_size=2, hidden_size=2),
    "lecture_lstm": LSTM(vocab_size=7, embedding_size=2, hidden_size=2),
    "direct_nplm": NPLM(vocab_size=23, n_step=3, embedding_size=4, hidden_size=5, direct=True),
    "rnn": RNN(**RECURRENT),
    "gru": GRU(**RECURRENT),
    "lstm": LSTM(**RECURRENT),
    "tied_lstm": LSTM(vocab_size=23, embedding_size=6, hidden_size=6, num_layers=2, tied=True),
}


def each(names):
    """A test for each name, a model's tests in one process of xdist: they share its answers."""
    return pytest.mark.parametrize(
        "name",
        [pytest.param(name, marks=pytest.mark.xdist_group(f"pytorch {name}")) for name in names],
    )


def nplm_params(tensors):
    return {
        "embedding": {"embedding": tensors["C.weight"]},
        "hidden": {"kernel": tensors["linear1.weight"].T, "bias": tensors["linear1.bias"]},
        "output": {"kernel": tensors["linear2.weight"].T, "bias": tensors["linear2.bias"]},
    }


def direct_nplm_params(tensors):
    # The features are tanh(...) and then x, so the one output kernel is U over W.
    kernel_FV = np.concatenate([tensors["U"].T, tensors["W"].T])
    return {
        "embedding": {"embedding": tensors["C.weight"]},
        "hidden": {"kernel": tensors["H"].T, "bias": tensors["d"]},
        "output": {"kernel": kernel_FV, "bias": tensors["b"]},
    }


def recurrent_params(tensors, merge_biases, embedding, rnn, tied=False):
    """`embedding`, `rnn`: what the PyTorch module calls them. merge_biases(b_ih, b_hh), None for a
    GRU.
    """
    params = {
        "embedding": {"embedding": tensors[f"{embedding}.weight"]},
        "output": {"bias": tensors["linear.bias"]},
    }
    if not tied:
        params["output"]["kernel"] = tensors["linear.weight"].T
    layers = sum(1 for key in tensors if key.startswith(f"{rnn}.weight_ih_l"))
    for layer in range(layers):
        b_ih, b_hh = tensors[f"{rnn}.bias_ih_l{layer}"], tensors[f"{rnn}.bias_hh_l{layer}"]
        params[f"layers_{layer}"] = {
            "input": {
                "kernel": tensors[f"{rnn}.weight_ih_l{layer}"].T,
                "bias": merge_biases(b_ih, b_hh) if merge_biases else b_ih,
            },
            "recurrent": {"kernel": tensors[f"{rnn}.weight_hh_l{layer}"].T}
            | ({} if merge_biases else {"bias": b_hh}),
        }
    return params


def params_of(name, tensors, merge_biases):
    """PyTorch's tensors, weights or gradients, in the places where jaxlm has them."""
    if name == "lecture_nplm":
        return nplm_params(tensors)
    if name == "direct_nplm":
        return direct_nplm_params(tensors)
    if name == "lecture_lstm":
        return recurrent_params(tensors, merge_biases, "C", "lstm")
    merge_biases = None if name == "gru" else merge_biases
    return recurrent_params(tensors, merge_biases, "embedding", "rnn", name == "tied_lstm")


def only_gradient(b_ih, b_hh):
    """The gradient of a sum is that of each of its terms."""
    np.testing.assert_allclose(b_ih, b_hh, rtol=1e-12)
    return b_ih


def part(fixture, prefix):
    return {key.split("/", 1)[1]: fixture[key] for key in fixture if key.startswith(f"{prefix}/")}


def carry_of(name, arrays):
    """A carry as jaxlm nests it, or None where the fixture has none."""
    if not arrays:
        return None
    if name == "direct_nplm":
        return arrays["tokens"]
    layers = range(arrays["h"].shape[0])
    return tuple(tuple(array_LBH[layer] for array_LBH in arrays.values()) for layer in layers)


@functools.cache
def fixture_of(name):
    with np.load(Path(__file__).parent / f"{name}.npz") as file:
        return dict(file)


@functools.cache
def answers(name):
    """What jaxlm says: loss, logits, final carry, and gradients with respect to parameters and
    initial carry (None where it is not a number, or not given).
    """
    model, fixture = CASES[name], fixture_of(name)
    positions = "last" if name.startswith("lecture") else "all"
    targets_BT = jnp.asarray(fixture["targets"])
    params = params_of(name, part(fixture, "weight"), np.add)
    carry = carry_of(name, part(fixture, "carry_in"))

    def loss(params, carry):
        arguments = {"params": params}, jnp.asarray(fixture["inputs"])
        nll_BT, after = model.apply(
            *arguments, targets_BT, carry, positions=positions, method="nll"
        )
        hidden_BTF, _ = model.apply(*arguments, carry, positions=positions)
        logits_BTV = model.apply({"params": params}, hidden_BTF, method="logits")
        return jnp.sum(nll_BT), (logits_BTV, after)

    differentiable = carry is not None and model.context_size is None
    if differentiable:
        carry = jax.tree.map(lambda array: jnp.asarray(array, jnp.float32), carry)
    params = jax.tree.map(jnp.asarray, params)
    argnums = (0, 1) if differentiable else (0,)
    # TPU and GPU would otherwise multiply in bfloat16 and TF32.
    with jax.default_matmul_precision("highest"):
        (nll, (logits_BTV, after)), gradients = jax.jit(
            jax.value_and_grad(loss, argnums, has_aux=True)
        )(params, carry)
    return nll, logits_BTV, after, gradients[0], gradients[1] if differentiable else None


def assert_close(actual, oracle):
    """Leaf by leaf, naming the leaf that differs."""
    assert jax.tree.structure(actual) == jax.tree.structure(oracle)
    for (path, leaf), expected in zip(
        jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(oracle), strict=True
    ):
        assert leaf.dtype == (jnp.int32 if expected.dtype == np.int32 else jnp.float32)
        np.testing.assert_allclose(
            leaf, expected, rtol=1e-5, atol=1e-6, err_msg=jax.tree_util.keystr(path)
        )


def test_the_fixtures_are_those_of_the_models():
    written = {path.stem for path in Path(__file__).parent.glob("*.npz")}
    assert written == CASES.keys()


@each(CASES)
def test_parameters_have_jaxlm_shapes(name):
    model = CASES[name]
    tokens_BT = jnp.zeros((1, 2), jnp.int32)
    own = jax.eval_shape(model.init, jax.random.key(0), tokens_BT)["params"]
    theirs = params_of(name, part(fixture_of(name), "weight"), np.add)
    assert jax.tree.map(lambda array: array.shape, own) == jax.tree.map(
        lambda array: array.shape, theirs
    )


@each(CASES)
def test_logits(name):
    assert_close(answers(name)[1], fixture_of(name)["logits"])


@each(CASES)
def test_loss(name):
    assert_close(answers(name)[0], fixture_of(name)["loss"])


@each(CASES)
def test_gradients(name):
    oracle = params_of(name, part(fixture_of(name), "grad"), only_gradient)
    assert_close(answers(name)[3], oracle)


@each(["rnn", "gru", "lstm", "tied_lstm"])
def test_gradient_of_the_initial_carry(name):
    oracle = carry_of(name, part(fixture_of(name), "carry_grad"))
    assert_close(answers(name)[4], oracle)


@each([name for name in CASES if name != "lecture_nplm"])
def test_final_carry(name):
    oracle = carry_of(name, part(fixture_of(name), "carry_out"))
    assert_close(answers(name)[2], oracle)
