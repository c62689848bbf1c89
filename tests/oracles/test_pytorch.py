"""jaxlm against PyTorch: the same weights give the same logits, loss, gradients and carry.

make_fixtures.py makes and describes the fixtures; these tests do not need torch. A user who loads a
PyTorch model converts its weights in the same way:

- PyTorch's matrices are [out, in], and jaxlm's kernels are their transposes, [in, out]. The gates
  have the same order (i, f, g, o and r, z, n).
- nn.RNN and nn.LSTM use their two biases only as a sum, which is jaxlm's input bias. nn.GRU and
  jaxlm's GRU have both biases, because the reset gate scales only the recurrent bias.
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
    """Run a test for each model, in the same worker for all tests of a model."""
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
    # The features are tanh(...) and then x, so the output kernel is U above W.
    kernel_FV = np.concatenate([tensors["U"].T, tensors["W"].T])
    return {
        "embedding": {"embedding": tensors["C.weight"]},
        "hidden": {"kernel": tensors["H"].T, "bias": tensors["d"]},
        "output": {"kernel": kernel_FV, "bias": tensors["b"]},
    }


def recurrent_params(tensors, merge_biases, embedding, rnn, tied=False):
    """Return PyTorch's tensors of a recurrent model, arranged as jaxlm's parameters.

    Args:
      tensors: weights or gradients, by PyTorch's names.
      merge_biases: merge_biases(b_ih, b_hh) -> bias; None for a GRU.
      embedding: PyTorch's name of the embedding.
      rnn: PyTorch's name of the recurrent layers.
      tied: whether the output layer is the embedding.
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
    """Return PyTorch's tensors, weights or gradients, arranged as jaxlm's parameters."""
    if name == "lecture_nplm":
        return nplm_params(tensors)
    if name == "direct_nplm":
        return direct_nplm_params(tensors)
    if name == "lecture_lstm":
        return recurrent_params(tensors, merge_biases, "C", "lstm")
    merge_biases = None if name == "gru" else merge_biases
    return recurrent_params(tensors, merge_biases, "embedding", "rnn", name == "tied_lstm")


def only_gradient(b_ih, b_hh):
    """Return the gradient of a merged bias, which equals the gradient of each bias."""
    np.testing.assert_allclose(b_ih, b_hh, rtol=1e-12)
    return b_ih


def part(fixture, prefix):
    return {key.split("/", 1)[1]: fixture[key] for key in fixture if key.startswith(f"{prefix}/")}


def carry_of(name, arrays):
    """Return a carry arranged as jaxlm's, or None if the fixture has no carry."""
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
    """Return jaxlm's loss, logits, final carry, and gradients by parameters and by initial carry.

    The last gradient is None if there is no initial carry, or if it consists of tokens.
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
    # The defaults of a TPU and a GPU are bfloat16 and TF32.
    with jax.default_matmul_precision("highest"):
        (nll, (logits_BTV, after)), gradients = jax.jit(
            jax.value_and_grad(loss, argnums, has_aux=True)
        )(params, carry)
    return nll, logits_BTV, after, gradients[0], gradients[1] if differentiable else None


def assert_close(actual, oracle):
    """Compare two trees leaf by leaf, and name the leaf that differs."""
    assert jax.tree.structure(actual) == jax.tree.structure(oracle)
    for (path, leaf), expected in zip(
        jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(oracle), strict=True
    ):
        assert leaf.dtype == (jnp.int32 if expected.dtype == np.int32 else jnp.float32)
        np.testing.assert_allclose(
            leaf, expected, rtol=1e-5, atol=1e-6, err_msg=jax.tree_util.keystr(path)
        )


def test_every_model_has_a_fixture():
    written = {path.stem for path in Path(__file__).parent.glob("*.npz")}
    # test_optimizer_steps.py reads the fixture of the optimizers.
    assert written - {"optimizers"} == CASES.keys()


@each(CASES)
def test_converted_parameters_have_jaxlm_shapes(name):
    model = CASES[name]
    tokens_BT = jnp.zeros((1, 2), jnp.int32)
    expected = jax.eval_shape(model.init, jax.random.key(0), tokens_BT)["params"]
    converted = params_of(name, part(fixture_of(name), "weight"), np.add)
    assert jax.tree.map(lambda array: array.shape, expected) == jax.tree.map(
        lambda array: array.shape, converted
    )


@pytest.mark.quick_for("lecture_nplm", "gru", "lstm")
@each(CASES)
def test_logits_equal_pytorch(name):
    assert_close(answers(name)[1], fixture_of(name)["logits"])


@each(CASES)
def test_the_loss_equals_pytorch(name):
    assert_close(answers(name)[0], fixture_of(name)["loss"])


@each(CASES)
def test_gradients_equal_pytorch(name):
    oracle = params_of(name, part(fixture_of(name), "grad"), only_gradient)
    assert_close(answers(name)[3], oracle)


@each(["rnn", "gru", "lstm", "tied_lstm"])
def test_the_gradient_of_the_initial_carry_equals_pytorch(name):
    oracle = carry_of(name, part(fixture_of(name), "carry_grad"))
    assert_close(answers(name)[4], oracle)


@each([name for name in CASES if name != "lecture_nplm"])
def test_the_final_carry_equals_pytorch(name):
    oracle = carry_of(name, part(fixture_of(name), "carry_out"))
    assert_close(answers(name)[2], oracle)
