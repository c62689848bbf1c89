"""The contributions of all steps sum to jax.grad; truncation; the printed table."""

import dataclasses
import functools
import re

import jax
import numpy as np
import pytest
from case_runs import run_of
from numpy.testing import assert_allclose
from rich.cells import cell_len

import jaxlm
from jaxlm.data.tokenizers import Words
from jaxlm.data.vocabulary import EOS, Vocabulary
from jaxlm.inspection import bptt, unrolled
from jaxlm.runs.starts import WARM_START

ROW = "w1 w4 w4 w2 w9 w0 w7"
IDS = np.array([12, 1, 4, 4, 2, 9, 0, 7])
CASES = {
    "rnn": {},
    "gru": {},
    "lstm": {"tied": True, "hidden_size": 6, "num_layers": 2},
    "mogrifier": {},
}


def kernels(params):
    return {
        name: np.asarray(layer["recurrent"]["kernel"], np.float64)
        for name, layer in params.items()
        if name.startswith("layers_")
    }


@functools.partial(jax.jit, static_argnames=("model", "last"))
def _gradient(params, ids, carry, model, last):
    def loss(params):
        nll_BT, _ = model.apply(
            {"params": params}, ids[None, :-1], ids[None, 1:], carry, method="nll"
        )
        return nll_BT[0, -1] if last else nll_BT.sum()

    return jax.grad(loss)(params)


def gradient(run, ids, carry=None, last=False):
    """Return dL/dU of each layer by jax.grad; L is the sum of the losses, or the last loss."""
    carry = run.model.initial_carry(1) if carry is None else carry
    return kernels(_gradient(run.params, ids, carry, run.model, last))


@functools.partial(jax.jit, static_argnames="model")
def _carry(params, ids, model):
    return model.apply({"params": params}, ids[None])[1]


def carry_after(run, ids):
    """Return the carry after `ids`, which may be empty."""
    return _carry(run.params, ids, run.model) if len(ids) else run.model.initial_carry(1)


def assert_same(found, expected, tolerance=1e-6):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert np.linalg.norm(found[name] - value) <= tolerance * np.linalg.norm(value)


@pytest.mark.full
@pytest.mark.quick_for("lstm")
@pytest.mark.parametrize("name", CASES)
def test_the_contributions_sum_to_the_gradient(name):
    run = run_of(name, CASES[name])
    found = bptt(run, ROW)
    assert found.inputs == ["<eos>", *ROW.split()[:-1]] and found.targets == ROW.split()
    expected = gradient(run, IDS)
    assert_same(found.gradient, expected)
    assert_same({layer: value.sum(0) for layer, value in found.by_lag.items()}, expected)
    for pairs_TT in found.pairs.values():
        assert np.all(pairs_TT[np.triu_indices(7, 1)] == 0)
        # The first step multiplies a state of zeros by U.
        assert np.all(pairs_TT[:, 0] == 0)
        assert np.all(np.diag(pairs_TT)[1:] > 0)
    nll_BT, _ = run.model.apply({"params": run.params}, IDS[None, :-1], IDS[None, 1:], method="nll")
    assert_allclose(found.losses, nll_BT[0], rtol=1e-5)
    assert found.total == pytest.approx(float(nll_BT.sum()), rel=1e-6)


def test_the_states_are_those_of_the_model():
    run = run_of("lstm", CASES["lstm"])
    found, carry = bptt(run, ROW), carry_after(run, IDS[:-1])
    names = ["layers_0/h", "layers_0/c", "layers_1/h", "layers_1/c"]
    assert list(found.states) == names
    for name, (array_1H,) in zip(names, jax.tree.leaves(carry), strict=True):
        assert found.states[name].shape == (7, 6)
        assert_allclose(found.states[name][-1], array_1H, atol=1e-5)


@pytest.mark.full
def test_truncation_leaves_out_what_lies_further_back():
    run = run_of("rnn")
    found, whole = bptt(run, ROW, truncate=3), gradient(run, IDS)["layers_0"]
    near = np.zeros_like(whole)
    for end in range(1, len(IDS)):
        # Loss `end` - 1 with a constant state before its last three steps.
        begin = max(0, end - 3)
        carry = carry_after(run, IDS[:begin])
        near += gradient(run, IDS[begin : end + 1], carry, last=True)["layers_0"]
    left_out = found.left_out()["layers_0"]
    assert_allclose(left_out, whole - near, atol=1e-6 * np.linalg.norm(whole))
    share = np.linalg.norm(left_out) / np.linalg.norm(whole)
    assert share > 0.01
    assert found.left_out_share()["layers_0"] == pytest.approx(share)
    assert found.left_out_share(7) == {"layers_0": 0.0}
    # A loss of one step does not reach the steps before it.
    diagonal = np.diag(found.pairs["layers_0"])
    one_step = [gradient_of_step(run, t) for t in range(7)]
    assert_allclose(diagonal, one_step, rtol=1e-4, atol=1e-7)


def gradient_of_step(run, step):
    """Return the norm of dloss_t/dU of a step that starts from a constant state."""
    carry = carry_after(run, IDS[:step])
    return np.linalg.norm(gradient(run, IDS[step : step + 2], carry)["layers_0"])


@pytest.mark.full
def test_a_warm_start_is_the_state_before_the_row():
    run = run_of("rnn", **{WARM_START: [3, 5, 1, 0]})
    carry = carry_after(run, np.array([3, 5, 1]))
    ids = np.array([0, 1, 4, 2])
    assert_same(bptt(run, "w1 w4 w2").gradient, gradient(run, ids, carry))
    assert_same(bptt(run, "w1 w4 w2", start="fresh").gradient, gradient(run, IDS[[0, 1, 2, 4]]))


@pytest.mark.full
def test_the_table_shows_each_step_and_the_sum_in_80_columns():
    run, words = (
        run_of("rnn"),
        ["我", "讨厌", "挨打", "爱", "爸爸", "a", "b", "c", "d", "e", "f", "g"],
    )
    run = dataclasses.replace(run, tokenizer=Words(Vocabulary((*words, EOS), start=EOS)))
    found = bptt(run, " ".join(words[:7]), truncate=3)
    lines = str(found).splitlines()
    assert all(cell_len(line) <= 80 for line in lines)
    steps = [line for line in lines if re.match(r" *([0-6]|sum) ", line)]
    assert [line.split()[1] for line in steps[:7]] == [EOS, *words[:6]]
    for loss, line in zip([*found.losses, found.total], steps, strict=True):
        assert f"{loss:.4f}" in line
    # Columns are aligned although Chinese characters are two columns wide.
    ends = [[cell_len(line[: end.start()]) for end in re.finditer(r"\.", line)] for line in steps]
    assert all(points == ends[0] for points in ends[:7]) and ends[7] == ends[0][-2:]
    assert "truncated to 3:" in lines[-1]
    many = str(bptt(run_of("lstm", CASES["lstm"]), ROW))
    assert all(cell_len(line) <= 80 for line in many.splitlines())
    assert "…" not in many


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((run_of("ngram"), ROW), "trained by counting"),
        ((run_of("mingru"), ROW), "no recurrent matrix"),
        ((run_of("paralstm"), ROW), "no recurrent matrix"),
        ((run_of("nplm"), ROW), "no recurrent matrix"),
        ((run_of("rnn"), ""), "1 tokens"),
        ((run_of("rnn"), "w1 w99"), "w99"),
    ],
)
def test_bad_input_is_one_line(arguments, said):
    with pytest.raises(jaxlm.UserError, match=r"^[^\n]*$") as error:
        bptt(*arguments)
    assert said in str(error.value)


def test_long_rows_and_bad_truncation_are_errors(monkeypatch):
    run = run_of("rnn")
    # A text has the start token before it, which is a step too.
    with pytest.raises(jaxlm.UserError, match="at most 1,000 tokens"):
        bptt(run, "w1 " * 2000)
    with pytest.raises(jaxlm.UserError, match="at most 1,001 tokens"):
        bptt(run, [1] * 2000)
    with pytest.raises(jaxlm.SettingError, match="`truncate` 0"):
        bptt(run, ROW, truncate=0)
    with pytest.raises(jaxlm.SettingError, match="`truncate` None"):
        bptt(run, ROW).left_out()
    monkeypatch.setattr(unrolled, "MOST_NUMBERS", 4 * 25)
    with pytest.raises(jaxlm.UserError, match="at most 4 tokens"):
        bptt(run, ROW)
