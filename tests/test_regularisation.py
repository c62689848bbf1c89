"""Dropout and penalties: off in evaluation, the mean unchanged, equal in every time loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import (
    NEURAL,
    OTHER_CELLS,
    VARIANTS,
    B,
    T,
    assert_trees_close,
    build,
    hidden,
    logits,
    tokens,
)
from numpy.testing import assert_allclose, assert_array_equal

from jaxlm.models import CELLS
from jaxlm.models.layers import RATES
from jaxlm.training.state import init_params


def objective(model, params):
    """Return the training objective, the mean over all tokens."""
    found = model.apply(
        {"params": params},
        tokens(),
        tokens(seed=1),
        jnp.full((B, T), 1 / (B * T)),
        deterministic=False,
        length=jnp.int32(T - 1),
        rngs={"dropout": jax.random.key(0)},
        method="objective",
    )
    return found[0]


RECURRENT = [name for name, cell in CELLS.items() if cell.recurrent]


@pytest.mark.quick_for("lstm")
@pytest.mark.parametrize("name", [*RECURRENT, "mogrifier"])
def test_every_time_loop_has_the_same_dropout(name):
    results = []
    for options in ({"time_loop": "scan"}, {"time_loop": "fused"}, {"remat": 3}):
        if name == "mogrifier" and "remat" in options:
            continue
        model, params = build(name, VARIANTS["regularised"], **options)
        results.append(jax.jit(jax.value_and_grad(functools.partial(objective, model)))(params))
    for found in results[1:]:
        assert_trees_close(found, results[0], atol=1e-5, rtol=1e-5)


@pytest.mark.quick_for("nplm-dropout")
@pytest.mark.parametrize(
    ("name", "rate"),
    [(name, "dropout") for name in NEURAL if name not in OTHER_CELLS]
    + [("rnn", "dropout")]
    + [("rnn", name) for name in RATES if name != "dropout"]
    + [("lstm", "weight_drop"), ("gru", "dropout_state")],
)
def test_dropout_is_off_in_evaluation_and_keeps_the_mean(name, rate):
    more = {"num_layers": 2} if rate == "dropout_between" else {}
    # The forget bias, multiplied by 16 below, would close an input gate of at most 1 - f.
    more |= {"forget_bias": 0.0} if name in ("mogrifier", "paralstm") else {}
    model, _ = build(name, more, **{rate: 0.5}, init_scale=0.01)
    plain, _ = build(name, more, init_scale=0.01)
    # Parameters are so large that the output depends on the state.
    params = jax.tree.map(lambda array: 16 * array, init_params(plain, jax.random.key(3)))
    assert_array_equal(logits(model, params, tokens())[0], logits(plain, params, tokens())[0])

    tokens_BT = tokens(1, 3)

    @jax.jit
    @jax.vmap
    def noisy(key):
        hidden_BTF, _ = model.apply(
            {"params": params}, tokens_BT, deterministic=False, rngs={"dropout": key}
        )
        return hidden_BTF

    hidden_KBTF = noisy(jax.random.split(jax.random.key(0), 4000))
    # The state before the first step is zero, so dropout of the state does not change it.
    first = 1 if rate in ("dropout_state", "weight_drop") else 0
    varied_BTF = np.std(hidden_KBTF, axis=0)
    assert varied_BTF[:, first:].min() > 0 and (varied_BTF[:, :first] < 1e-6).all()
    if name in ("modern-nplm", "transformer"):
        # A normalised network is not linear, not even with small parameters, so its mean changes.
        # tests/ops/test_dropout.py tests the mean of dropout itself.
        return
    # Parameters are small, so the network is nearly linear and keeps the mean.
    expected_BTF, _ = hidden(model, params, tokens_BT)
    scale = float(np.abs(expected_BTF).max())
    assert_allclose(hidden_KBTF.mean(0), expected_BTF, atol=0.1 * scale)


def test_penalties_are_added_only_in_training():
    model, params = build("gru", {}, activation_penalty=2.0, temporal_penalty=3.0)
    plain, _ = build("gru", {})
    hidden_BTF, _ = hidden(plain, params, tokens())
    # The length is six of seven steps, so the last hidden state repeats the state before it.
    hidden_BTF = np.array(hidden_BTF)
    hidden_BTF[:, -1] = hidden_BTF[:, -2]
    expected = 2.0 * np.mean(hidden_BTF**2)
    # The mean is over T steps, and the first step has no change.
    expected += 3.0 * np.mean(np.diff(hidden_BTF, axis=1) ** 2) * (T - 1) / T
    found = objective(model, params) - objective(plain, params)
    assert_allclose(found, expected, rtol=1e-4)
    assert_array_equal(logits(model, params, tokens())[0], logits(plain, params, tokens())[0])


@pytest.mark.parametrize("variational", [False, True])
def test_a_variational_mask_is_constant_over_time(variational):
    model, params = build("rnn", {}, dropout_output=0.5, variational=variational)
    hidden_BTF, _ = model.apply(
        {"params": params}, tokens(), deterministic=False, rngs={"dropout": jax.random.key(0)}
    )
    zeros_BTF = np.asarray(hidden_BTF) == 0
    assert zeros_BTF.any() and (zeros_BTF == zeros_BTF[:, :1]).all() == variational
    assert (zeros_BTF[0] != zeros_BTF[1]).any()


def test_layers_have_the_sizes_in_layer_sizes():
    _, params = build("lstm", {}, layer_sizes=(5, 7, 6), tied=True)
    shapes = [params[f"layers_{index}"]["recurrent"]["kernel"].shape for index in range(3)]
    assert shapes == [(5, 20), (7, 28), (6, 24)] and set(params["output"]) == {"bias"}
    assert params["layers_2"]["input"]["kernel"].shape == (7, 24)
