"""The names of `to_torch` are PyTorch's: its fixtures' weights give its logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_pytorch import CASES, carry_of, fixture_of, part

import jaxlm
from jaxlm.errors import UserError
from jaxlm.models.neural import param_shapes
from jaxlm.models.torch_names import from_torch, tensor_shapes, to_torch

# The fixtures' names of the modules, and jaxlm's.
NAMES = {
    "rnn": {"embedding": "encoder", "rnn": "rnn", "linear": "decoder"},
    "gru": {"embedding": "encoder", "rnn": "rnn", "linear": "decoder"},
    "lstm": {"embedding": "encoder", "rnn": "rnn", "linear": "decoder"},
    "tied_lstm": {"embedding": "encoder", "rnn": "rnn", "linear": "decoder"},
    "lecture_nplm": {"C": "encoder", "linear1": "hidden.0", "linear2": "decoder"},
    "direct_nplm": {
        "C.weight": "encoder.weight",
        "H": "hidden.0.weight",
        "d": "hidden.0.bias",
        "U": "decoder.weight",
        "W": "direct.weight",
        "b": "decoder.bias",
    },
}
MODELS = {
    "projected": jaxlm.LSTM(9, embedding_size=4, hidden_size=6, num_layers=2, tied=True),
    "sizes": jaxlm.GRU(9, embedding_size=4, layer_sizes=(5, 3), residual=True, layer_norm=True),
    "deep": jaxlm.NPLM(9, n_step=3, embedding_size=4, hidden_size=5, num_layers=2, layer_norm=True),
    "only direct": jaxlm.NPLM(9, n_step=3, embedding_size=4, hidden_size=0, direct=True),
    "tied NPLM": jaxlm.NPLM(9, n_step=2, embedding_size=4, hidden_size=5, tied=True),
}


def renamed(name, tensors):
    """Return the fixture's tensors by jaxlm's names."""
    found = {}
    for key, tensor in tensors.items():
        module, dot, rest = key.partition(".")
        new = NAMES[name].get(key) or NAMES[name][module] + dot + rest
        if not (CASES[name].tied and new == "decoder.weight"):
            found[new] = tensor
    return found


def random_params(model):
    draw = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: draw.normal(size=leaf.shape).astype(np.float32), param_shapes(model)
    )


@pytest.mark.quick_for("lstm", "direct_nplm")
@pytest.mark.parametrize("name", NAMES)
def test_tensors_of_pytorch_give_its_logits(name):
    model, fixture = CASES[name], fixture_of(name)
    params = from_torch(model, renamed(name, part(fixture, "weight")))
    carry = carry_of(name, part(fixture, "carry_in"))
    positions = "last" if name.startswith("lecture") else "all"
    variables = {"params": params}
    hidden_BTF, _ = model.apply(
        variables, jnp.asarray(fixture["inputs"]), carry, positions=positions
    )
    logits_BTV = model.apply(variables, hidden_BTF, method="logits")
    np.testing.assert_allclose(
        logits_BTV, fixture["logits"].reshape(logits_BTV.shape), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("name", MODELS)
def test_back_and_forth_every_bit_is_kept(name):
    model = MODELS[name]
    params = random_params(model)
    tensors = to_torch(model, params)
    assert {key: array.shape for key, array in tensors.items()} == tensor_shapes(model)
    jax.tree.map(np.testing.assert_array_equal, from_torch(model, tensors), params)


def test_a_sum_of_two_biases_is_read():
    model = jaxlm.RNN(5, embedding_size=2, hidden_size=3)
    tensors = to_torch(model, random_params(model))
    tensors["rnn.bias_hh_l0"] = np.full(3, 2.0, np.float64)
    bias_G = from_torch(model, tensors)["layers_0"]["input"]["bias"]
    np.testing.assert_array_equal(bias_G, tensors["rnn.bias_ih_l0"] + 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("decoder.bias"), r"the tensor decoder.bias \[5\] is missing"),
        (lambda t: t.update({"rnn.weight_ih_l1": t["decoder.bias"]}), "unknown tensor"),
        (lambda t: t.update({"rnn.weight_hh_l0": np.zeros((12, 3))}), r"shape \[12, 3\], not \[9,"),
        (lambda t: t.update({"decoder.bias": np.arange(5)}), "dtype int64"),
        (lambda t: t["rnn.bias_hh_l0"].__setitem__(0, np.nan), "rnn.bias_hh_l0 has a number"),
    ],
    ids=["missing", "unknown", "shape", "dtype", "NaN"],
)
def test_wrong_tensors_are_refused(change, message):
    model = jaxlm.GRU(5, embedding_size=2, hidden_size=3)
    tensors = {name: np.zeros(shape, np.float32) for name, shape in tensor_shapes(model).items()}
    change(tensors)
    with pytest.raises(UserError, match=message):
        from_torch(model, tensors)


@pytest.mark.parametrize(
    "model",
    [
        jaxlm.LSTM(50, softmax="adaptive"),
        jaxlm.NPLM(50, softmax="mixture"),
        jaxlm.models.registry.make_model("mogrifier", {}, 5, 0),
        jaxlm.models.registry.make_model("mingru", {}, 5, 0),
        jaxlm.NGram(5),
    ],
    ids=["adaptive", "mixture", "mogrifier", "mingru", "ngram"],
)
def test_models_without_a_layout_are_refused(model):
    with pytest.raises(UserError, match="layouts exist for rnn, gru, lstm and nplm"):
        tensor_shapes(model) if model.trained_by == "gradient" else to_torch(model, None)
