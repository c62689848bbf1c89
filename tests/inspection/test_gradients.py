"""Gradients by lag against finite differences, and recurrent matrices of chosen spectral radii."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from case_runs import run_of
from cases import NEURAL, OTHER_CELLS, build
from numpy.testing import assert_allclose, assert_array_equal

import jaxlm
from jaxlm.inspection import gradient_by_lag, gradient_through_time, gradients
from jaxlm.models.registry import make_model
from jaxlm.runs.starts import WARM_START
from jaxlm.training.state import init_params

V = 7
IDS = np.random.default_rng(5).integers(0, V, 40)


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def elman(carry, x, u):
    return (np.tanh(x + u),)


def gru(carry, x, u):
    (x_r, x_z, x_n), (u_r, u_z, u_n) = np.split(x, 3), np.split(u, 3)
    z = sigmoid(x_z + u_z)
    return ((1 - z) * np.tanh(x_n + sigmoid(x_r + u_r) * u_n) + z * carry[0],)


def lstm(carry, x, u):
    i, f, g, o = np.split(x + u, 4)
    c = sigmoid(f) * carry[1] + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def min_gru(carry, x, u):
    s_z, s_n = np.split(x, 2)
    n = np.where(s_n >= 0, s_n + 0.5, sigmoid(s_n))
    return ((1 - sigmoid(s_z)) * carry[0] + sigmoid(s_z) * n,)


CELLS = {"rnn": elman, "gru": gru, "lstm": lstm, "mingru": min_gru}


def loss(name, params, words_TD, target):
    """Return -log P(target) after the word features, by the equations of a layer in float64."""
    layer, output = params["layers_0"], params["output"]
    recurrent = layer.get("recurrent", {})
    size = output["kernel"].shape[0]
    carry = (np.zeros(size), np.zeros(size))
    for word_D in words_TD:
        x = word_D @ layer["input"]["kernel"] + layer["input"]["bias"]
        u = carry[0] @ recurrent["kernel"] if "kernel" in recurrent else 0.0
        carry = CELLS[name](carry, x, u + recurrent.get("bias", 0.0))
    logits = carry[0] @ output["kernel"] + output["bias"]
    return np.log(np.sum(np.exp(logits))) - logits[target]


def differences(name, params, ids, position, lag, distance=1e-5):
    """Return d loss / d embedding of the token `lag` before `position`, by central differences."""
    words_TD = params["embedding"]["embedding"][ids[: position + 1]]
    gradient = []
    for feature in range(words_TD.shape[1]):
        ends = []
        for sign in (1, -1):
            shifted = words_TD.copy()
            shifted[position - lag, feature] += sign * distance
            ends.append(loss(name, params, shifted, ids[position + 1]))
        gradient.append((ends[0] - ends[1]) / (2 * distance))
    return np.array(gradient)


def check_differences(name, model, params):
    """Compare every position and lag of a short text with finite differences in float64."""
    ids, largest = IDS[:16], 8
    found = gradient_by_lag(model, ids, largest, params=params)
    exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    positions = range(largest, len(ids) - 1)
    expected = [
        np.mean([np.linalg.norm(differences(name, exact, ids, t, lag)) for t in positions])
        for lag in range(largest + 1)
    ]
    assert found.positions == len(positions)
    assert_allclose(found.norms, expected, rtol=2e-5, atol=1e-9)


def small(name, **more):
    return make_model(name, {"embedding_size": 3, "hidden_size": 4} | more, V, None)


@pytest.mark.quick_for("gru")
@pytest.mark.parametrize("name", CELLS)
def test_gradients_of_a_new_model_equal_finite_differences(name):
    model = small(name)
    check_differences(name, model, init_params(model, jax.random.key(1)))


@pytest.mark.full
@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_gradients_of_a_trained_model_equal_finite_differences(name):
    text = jaxlm.read_corpus(["abcabdabefab"] * 20, tokens="chars")
    assert len(text.vocabulary) == V
    model = small(name)
    run = jaxlm.fit(model, text, steps=30, batch_size=2, bptt=8, lr=0.05, quiet=True)
    untrained = gradient_by_lag(run, IDS, 3, key=jax.random.key(0)).norms
    assert not np.allclose(gradient_by_lag(run, IDS, 3).norms, untrained, rtol=0.1)
    check_differences(name, model, run.params)


@pytest.mark.quick_for("lstm")
@pytest.mark.parametrize("name", [name for name in NEURAL if name not in OTHER_CELLS])
def test_the_gradient_is_that_of_the_row_of_a_word_that_occurs_once(name):
    model, params = build(name, {})
    ids = np.random.default_rng(1).permutation(model.vocab_size - 1)[:8]
    found = gradient_by_lag(model, ids, 6, params=params)
    assert found.positions == 1
    model = model.clone(dtype="float32")

    def loss(table_VD):
        moved = params | {"embedding": {"embedding": table_VD}}
        inputs_BT, targets_BT = ids[None, :-1], ids[None, 1:]
        return model.apply({"params": moved}, inputs_BT, targets_BT, method="nll")[0][0, -1]

    rows_VD = jax.jit(jax.grad(loss))(params["embedding"]["embedding"])
    expected = np.linalg.norm(np.asarray(rows_VD)[ids[:-1][::-1]], axis=-1)
    assert_allclose(found.norms, expected, rtol=1e-4, atol=1e-7)
    assert expected[0] > 1e-3


def test_the_gradient_of_an_nplm_ends_with_its_window():
    model, params = build("nplm", {})
    found = gradient_by_lag(model, IDS, 6, params=params)
    assert np.all(found.norms[: model.n_step] > 0)
    assert np.all(found.norms[model.n_step :] == 0)
    assert found.below_one_percent == model.n_step
    assert found.fitted == (1, model.n_step - 1)


def test_norms_do_not_depend_on_the_batch_of_positions(monkeypatch):
    model, params = build("rnn", {})
    whole = gradient_by_lag(model, IDS, 5, params=params, positions=7)
    assert whole.positions == 7
    monkeypatch.setattr(gradients, "TOKENS_IN_BATCH", 18)
    in_batches = gradient_by_lag(model, IDS, 5, params=params, positions=7)
    assert_allclose(in_batches.norms, whole.norms, rtol=1e-6)
    chosen = gradient_by_lag(model, IDS, [5, 2], params=params, positions=7)
    assert_allclose(chosen.norms, in_batches.norms[[5, 2]])


@pytest.mark.full
def test_a_run_reads_its_text_from_its_start():
    run = run_of("rnn", **{WARM_START: [3, 5, 1, 0]})
    warm = gradient_by_lag(run, "w1 w2 w3", 1)
    assert (warm.positions, warm.tokens) == (2, 4)
    fresh = gradient_by_lag(run, "w1 w2 w3", 1, start="fresh")
    assert not np.allclose(warm.norms, fresh.norms, rtol=1e-3)
    # The sum over the positions of the longer text has those of its first tokens too.
    longer, first = (gradient_by_lag(run, [3, 5, 1, 0, 1, 2, 3][:n], 1) for n in (7, 5))
    assert (longer.positions, first.positions) == (5, 3)
    assert_allclose(5 * longer.norms - 3 * first.norms, 2 * warm.norms, rtol=1e-5)


def linear_network(radius, is_orthogonal, size=6):
    """Return an Elman network with small inputs, so that tanh is linear, and its parameters.

    U is `radius` times an orthogonal matrix, or a random matrix of positive numbers. The largest
    eigenvalue of such a matrix is real, and so the norms do not oscillate.
    """
    model = small("rnn", embedding_size=size, hidden_size=size)
    params = init_params(model, jax.random.key(2))
    # So small that the state of an exploding network stays small over the text.
    params["embedding"]["embedding"] *= 1e-9
    params["layers_0"]["input"]["kernel"] = jnp.eye(size)
    matrix = np.random.default_rng(3).uniform(size=(size, size))
    if is_orthogonal:
        matrix = np.linalg.qr(matrix)[0] * radius
    params["layers_0"]["recurrent"]["kernel"] = jnp.float32(matrix)
    return model, params


@pytest.mark.full
def test_the_fit_finds_the_time_constant_of_an_exponential():
    model, params = linear_network(0.5, is_orthogonal=True)
    found = gradient_by_lag(model, IDS, 30, params=params)
    assert_allclose(found.norms[1:] / found.norms[:-1], 0.5, rtol=1e-4)
    assert found.time_constant == pytest.approx(-1 / math.log(0.5), rel=1e-4)
    # 0.5^6 is above 1%, and 0.5^7 is below.
    assert found.below_one_percent == 8
    # 0.5^19 is above 1e-6, and 0.5^20 is below.
    assert found.fitted == (1, 20)
    _, kept = linear_network(1.0, is_orthogonal=True)
    found = gradient_by_lag(model, IDS, 30, params=kept)
    assert found.below_one_percent is None and found.time_constant > 1e3


def test_the_norm_of_a_linear_network_changes_by_the_radius():
    model, params = linear_network(1.0, is_orthogonal=False)
    radii = (0.5, 0.9, 1.0, 1.1)
    found = gradient_through_time(model, IDS, radii, 30, params=params)
    for row, radius in enumerate(radii):
        for norms in (found.norms[row], found.linear[row]):
            assert_allclose(norms[11:] / norms[10:-1], radius, rtol=1e-3)
    assert_allclose(found.factors, radii, rtol=0.02)
    assert_allclose(found.linear[:, 0], 1)


def test_gradients_vanish_are_kept_and_explode():
    model = small("rnn", embedding_size=6, hidden_size=6)
    found = gradient_through_time(model, IDS, steps=30, key=jax.random.key(0))
    vanishing, fading, kept, exploding = found.linear[:, 30] / found.linear[:, 10]
    assert vanishing < 1e-5 < 0.1 < fading < 0.2 < 0.8 < kept < 1.25 < 5 < exploding
    # tanh makes the gradient of the real network smaller.
    real = found.norms[:, 30] / found.norms[:, 0]
    assert real[0] < 1e-7 and real[3] < found.linear[3, 30]
    assert np.all(np.diff(found.factors[:3]) > 0)
    assert found.factors[0] == pytest.approx(0.5, rel=0.1)


def test_each_block_of_a_gated_cell_is_scaled_to_the_radius():
    _, params = build("gru", {})
    kernels = gradients.recurrent_kernels(params, "gru")
    assert list(kernels) == ["layers_0/recurrent/kernel"]
    own = {path: gradients.block_radii(kernel) for path, kernel in kernels.items()}
    scaled = gradients.scaled_to_radius(params, own, 0.7)
    before, after = (tree["layers_0"]["recurrent"]["kernel"] for tree in (params, scaled))
    for block, old in zip(np.split(after, 3, axis=1), np.split(before, 3, axis=1), strict=True):
        assert np.abs(np.linalg.eigvals(block)).max() == pytest.approx(0.7, rel=1e-5)
        assert_allclose(block / old, np.full((5, 5), block[0, 0] / old[0, 0]), rtol=1e-5)
    for layer, part in (("embedding", "embedding"), ("output", "kernel")):
        assert_array_equal(scaled[layer][part], params[layer][part])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((run_of("ngram"), "w1 w2 w3"), "trained by counting"),
        ((small("rnn"), IDS), "give `params` or `key`"),
        ((run_of("rnn"), ""), "1 tokens"),
        ((run_of("rnn"), "w1 w2 w3", 3), "`lags` 3: 4 tokens of the text are read"),
        ((run_of("rnn"), "w1 w2 w3", [-1]), "whole numbers from 0"),
        ((run_of("rnn"), "w1 w2 w3", []), "at least one"),
        ((run_of("rnn"), "w1 w2 w3", 1.5), "`lags` 1.5"),
        ((run_of("rnn"), [1, 2, 99]), "ids from 0 to 12"),
        ((run_of("rnn"), "w1 w2 w99"), "w99"),
    ],
)
def test_bad_input_is_one_line(arguments, said):
    with pytest.raises(jaxlm.UserError, match=r"^[^\n]*$") as error:
        gradient_by_lag(*arguments)
    assert said in str(error.value)


def test_bad_options_are_one_line():
    model, params = build("rnn", {})
    key = jax.random.key(0)
    for options, said in (
        ({"params": params, "key": key}, "exclude each other"),
        ({"params": params, "positions": 0}, "`positions` 0"),
        ({"params": params, "start": "fresh"}, "`start` fresh"),
        ({"params": {}}, "`params` are not those of RNN"),
        ({"params": build("lstm", {})[1]}, "`params` are not those of RNN"),
        ({"params": params | {"more": jnp.ones(3)}}, r"more is of shape \(3,\), and the model has"),
        ({"key": 0}, "`key` is an int: give a key"),
    ):
        with pytest.raises(jaxlm.UserError, match=said):
            gradient_by_lag(model, IDS, 3, **options)
    with pytest.raises(jaxlm.UserError, match="without a tokenizer"):
        gradient_by_lag(model, "w1 w2 w3", params=params)


@pytest.mark.full
def test_bad_radii_and_networks_without_a_matrix_are_one_line():
    run = run_of("rnn")
    for radii in ((), (0.0,), (-1.0,), (math.inf,), (math.nan,), 1.0, "x"):
        with pytest.raises(jaxlm.SettingError, match="`radii`"):
            gradient_through_time(run, "w1 w2 w3", radii)
    with pytest.raises(jaxlm.SettingError, match="`steps` 9"):
        gradient_through_time(run, "w1 w2 w3", steps=9)
    for name in ("mingru", "nplm", "transformer"):
        with pytest.raises(jaxlm.UserError, match="no recurrent matrix"):
            gradient_through_time(run_of(name), "w1 w2 w3")
    silent = jax.tree.map(jnp.zeros_like, run.params)
    with pytest.raises(jaxlm.UserError, match="spectral radius is 0"):
        gradient_through_time(dataclasses.replace(run, params=silent), "w1 w2 w3")
    diverged = jax.tree.map(lambda leaf: leaf * np.nan, run.params)
    with pytest.raises(jaxlm.UserError, match="has NaN or infinite values"):
        gradient_through_time(dataclasses.replace(run, params=diverged), "w1 w2 w3")
