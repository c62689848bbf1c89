"""Choices of time loops and compiler options; cuDNN's LSTM against JAX's reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import rnn
from numpy.testing import assert_allclose, assert_array_equal

from jaxlm.models import make_model
from jaxlm.models.cells import CELLS
from jaxlm.ops import cudnn, machine
from jaxlm.ops.cpus import SUMS_BY_YNNPACK
from jaxlm.ops.machine import (
    choose_time_loop,
    compiling_for,
    deterministic_options,
    fallback_note,
    supported_options,
)
from jaxlm.ops.recurrence import recurrence


def test_auto_unrolls_a_few_steps_and_fuses_many():
    assert choose_time_loop("auto", 2, True, "float32") == "scan"
    assert choose_time_loop("auto", 35, False, "bfloat16") == "fused"
    assert choose_time_loop("auto", 35, False, "float32", recurrent=False) == "parallel"
    for time_loop in ("scan", "fused"):
        assert choose_time_loop(time_loop, 2, True, "float32") == time_loop


@pytest.mark.parametrize(
    ("lstm", "dtype", "here", "reason"),
    [
        (True, "float32", False, "no cuDNN on this machine"),
        (False, "float32", True, "LSTM alone"),
        (True, "bfloat16", True, "not in bfloat16"),
        (True, "float32", True, ""),
    ],
)
def test_cudnn_falls_back_with_a_reason(lstm, dtype, here, reason, monkeypatch):
    monkeypatch.setattr(machine, "cudnn_is_here", lambda: here)
    note = fallback_note("cudnn", lstm, dtype)
    assert reason in note and bool(note) == bool(reason)
    expected = "fused" if reason else "cudnn"
    assert choose_time_loop("cudnn", 35, lstm, dtype) == expected


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="about machines without a GPU")
def test_there_is_no_cudnn_on_a_cpu():
    assert not machine.cudnn_is_here()


def example(batch=2, time=5, inputs=3, size=4):
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(rng.normal(0, 1, shape), jnp.float32)

    weights = draw(inputs, 4 * size), draw(4 * size), draw(size, 4 * size)
    return draw(batch, time, inputs), (draw(batch, size), draw(batch, size)), weights


def test_parameters_are_packed_as_cudnn_reads_them():
    x_BTD, (h_BH, c_BH), weights = example()
    packed = cudnn.pack(*weights)
    assert packed.shape == (rnn.get_num_params_in_lstm(3, 4, 1, False),)
    unpacked = rnn.unpack_lstm_weights(packed, 3, 4, 1, False)
    lengths_B = jnp.full((2,), 5, jnp.int32)
    found = rnn.lstm_ref(x_BTD, h_BH[None], c_BH[None], *unpacked, lengths_B, 3, 4, 1, 0.0, False)
    kernel_DG, bias_G, recurrent_HG = weights
    x_TBG = (x_BTD @ kernel_DG + bias_G).swapaxes(0, 1)
    h_TBH, last = recurrence(CELLS["lstm"].step, (h_BH, c_BH), x_TBG, recurrent_HG)
    expected = h_TBH.swapaxes(0, 1), last[0][None], last[1][None]
    for found_array, expected_array in zip(found, expected, strict=True):
        assert_allclose(found_array, expected_array, atol=1e-5)


def test_cudnn_is_told_the_precision_for_its_gradient_too(monkeypatch):
    x_BTD, carry, weights = example()
    given = []

    def lstm(x_BTD, h_1BH, c_1BH, *rest, precision=None):
        given.append(precision)
        return x_BTD, h_1BH, c_1BH

    monkeypatch.setattr(rnn, "lstm", lstm)
    for name in ("float32", "tensorfloat32"):
        with jax.default_matmul_precision(name):
            cudnn.lstm(x_BTD, carry, *weights)
    assert given == ["float32", "tensorfloat32"]
    assert [rnn._lstm_cudnn_allow_tf32(name) for name in given] == [False, True]


def test_the_memory_of_all_devices_is_estimated_from_those_of_this_process(monkeypatch):
    class Device:
        def memory_stats(self):
            return {"bytes_limit": 5}

    monkeypatch.setattr(machine, "platform", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [Device(), Device()])
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    assert machine.devices_memory() == 40
    monkeypatch.setattr(Device, "memory_stats", lambda self: None)
    assert machine.devices_memory() is None


@pytest.mark.skipif(not machine.cudnn_is_here(), reason="needs an NVIDIA GPU with cuDNN")
def test_cudnn_agrees_with_the_fused_time_loop():
    x_BTD, carry, weights = example()
    kernel_DG, bias_G, recurrent_HG = weights

    def by_cudnn(x_BTD, carry, weights):
        return cudnn.lstm(x_BTD, carry, *weights)

    def fused(x_BTD, carry, weights):
        x_TBG = (x_BTD @ kernel_DG + bias_G).swapaxes(0, 1)
        h_TBH, last = recurrence(CELLS["lstm"].step, carry, x_TBG, recurrent_HG)
        return h_TBH.swapaxes(0, 1), last

    def with_gradient(run, *inputs):
        # The gradient is traced after the context of the precision.
        with jax.default_matmul_precision("float32"):
            outputs, pull = jax.vjp(run, *inputs)
        return outputs, pull(jax.tree.map(jnp.ones_like, outputs))

    found, expected = (
        jax.jit(with_gradient, static_argnums=0)(run, x_BTD, carry, weights)
        for run in (by_cudnn, fused)
    )
    jax.tree.map(lambda a, b: assert_allclose(a, b, atol=1e-5), found, expected)


def test_unsupported_compiler_options_are_left_out():
    assert supported_options({"xla_no_such_option": "1"}) == {}
    options = supported_options(SUMS_BY_YNNPACK)
    assert options.items() <= SUMS_BY_YNNPACK.items()
    doubled = jax.jit(lambda x: x @ x, compiler_options=options)(2 * jnp.eye(3))
    assert_array_equal(doubled, 4 * np.eye(3))


def test_a_gpu_needs_options_for_deterministic_sums():
    with compiling_for("cpu"):
        assert deterministic_options() == {}
    with compiling_for("gpu"):
        options = deterministic_options()
    # XLA has a single list of options for all platforms, so a CPU can test that XLA knows them.
    assert options and jax.jit(lambda: 7, compiler_options=options)() == 7


@pytest.mark.parametrize(("platform", "dtype"), [("tpu", "bfloat16"), ("gpu", "float32")])
def test_the_default_dtype_depends_on_the_platform(platform, dtype):
    with compiling_for(platform):
        assert make_model("lstm", {}, 10).compute_dtype == dtype
        assert make_model("lstm", {"dtype": "auto"}, 10).compute_dtype == dtype
        assert make_model("lstm", {"dtype": "float32"}, 10).compute_dtype == "float32"
    assert make_model("lstm", {}, 10).compute_dtype == "float32"
