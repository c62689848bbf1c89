"""The table of CPUs: which row a CPU gets, and that no constant changes what is computed."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxlm.models import make_model
from jaxlm.ops import cpus, machine
from jaxlm.ops.cpus import LEVELS, TASKS, Constants, Row, kind_of, nearest_row, row_from_json
from jaxlm.training.state import init_params


@pytest.mark.parametrize(
    ("vendor", "flags", "expected"),
    [
        ("GenuineIntel", "avx2 avx512f avx512_bf16 amx_bf16 amx_tile", ("intel", "amx")),
        ("AuthenticAMD", "avx2 avx512f avx512_bf16", ("amd", "avx512-bfloat16")),
        ("GenuineIntel", "avx2 avx512f", ("intel", "avx512")),
        # A hypervisor can hide the registers of AMX that a program needs.
        ("GenuineIntel", "avx2 avx512f avx512_bf16 amx_bf16", ("intel", "avx512-bfloat16")),
        ("AuthenticAMD", "avx2 fma", ("amd", "avx2")),
        ("HygonGenuine", "sse2", ("other", "plain")),
    ],
)
def test_the_flags_of_a_cpu_decide_its_level(vendor, flags, expected):
    text = f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: {flags}\n\nvendor_id\t: Other\n"
    assert kind_of(text, "x86_64") == expected


def test_arm_and_unknown_systems_have_a_level_too():
    assert kind_of("Features : fp asimd", "aarch64") == ("other", "neon")
    assert kind_of("", "AMD64") == ("other", "plain")


@pytest.mark.parametrize("level", LEVELS)
def test_every_cpu_gets_a_row_and_its_own_if_there_is_one(level):
    rows = [Row("amd", "avx2"), Row("intel", "avx512"), Row("amd", "avx512-bfloat16")]
    assert nearest_row(rows, "intel", level) in rows
    own = [*rows, Row("intel", level, cpu="own")]
    assert nearest_row(own, "intel", level).level == level


def test_the_table_that_comes_with_jaxlm_is_complete():
    rows = cpus.read_table()
    kinds = [(row.vendor, row.level) for row in rows]
    assert len(set(kinds)) == len(kinds)
    for row in rows:
        assert row.level in LEVELS and row.cpu and row.date and row.jaxlib
        assert row.gflops["float32"] > 1 and row.cores >= 1 and row.bfloat16_step > 0
        assert set(row.constants.options) <= set(TASKS)
        assert row_from_json(json.loads(json.dumps(row.as_json()))) == row


def test_accelerators_do_not_depend_on_the_cpu():
    with machine.using_constants(Constants(chunk_tokens=3)):
        assert machine.constants().chunk_tokens == 3
        with machine.compiling_for("tpu"):
            assert machine.constants().chunk_tokens == 320
            assert not machine.must_materialise_transpose(jnp.bfloat16)


def test_a_note_names_bfloat16_only_where_it_was_measured_faster(monkeypatch):
    row = Row("amd", "avx512-bfloat16", bfloat16_step=1.54)
    monkeypatch.setattr(machine, "row_of_this_cpu", lambda: row)
    monkeypatch.setattr(machine, "this_cpu", lambda: ("amd", "avx512-bfloat16"))
    assert "about 1.5 times" in machine.bfloat16_note(None) == machine.bfloat16_note("auto")
    assert machine.bfloat16_note("float32") == machine.bfloat16_note("bfloat16") == ""
    with machine.compiling_for("gpu"):
        assert machine.bfloat16_note(None) == ""
    monkeypatch.setattr(machine, "row_of_this_cpu", lambda: replace(row, bfloat16_step=1.0))
    assert machine.bfloat16_note(None) == ""
    monkeypatch.undo()
    monkeypatch.setattr(machine, "this_cpu", lambda: ("amd", "avx2"))
    assert machine.bfloat16_note(None) == ""


OTHER = Constants(
    chunk_tokens=8,
    chunk_tokens_without_gradient=5,
    words_with_gradient=16,
    words_without_gradient=16,
    largest_transposed={"float32": 0, "bfloat16": 1 << 21},
    materialises_transposes={"float32": True, "bfloat16": False},
    options={"step": {"float32": {"xla_cpu_prefer_vector_width": 128}}},
)
"""Constants that no row has."""


@pytest.mark.quick_for("lstm-float32", "nplm-bfloat16")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model_name", ["lstm", "gru", "nplm"])
def test_constants_change_no_number_but_by_rounding(model_name, dtype):
    model = make_model(model_name, {"hidden_size": 6, "embedding_size": 5, "dtype": dtype}, 41)
    params = init_params(model, jax.random.key(0))
    rng = np.random.default_rng(0)
    time = 1 if model_name == "nplm" else 7
    inputs_BT = rng.integers(0, 41, (9, model.n_step if time == 1 else time), dtype=np.int32)
    targets_BT = rng.integers(0, 41, (9, time), dtype=np.int32)
    weights_BT = np.ones((9, time), np.float32)

    def loss(params):
        total, _, _ = model.apply(
            {"params": params},
            inputs_BT,
            targets_BT,
            weights_BT,
            model.initial_carry(9),
            positions="last" if time == 1 else "all",
            method="objective",
        )
        return total

    found = []
    for chosen in (Constants(), OTHER):
        with machine.using_constants(chosen):
            options = machine.task_options("step", dtype)
            # A new function is compiled anew.
            step = jax.jit(jax.value_and_grad(lambda p: loss(p)), compiler_options=options)
            found.append(step(params))
    tolerance = 1e-5 if dtype == "float32" else 2e-2
    jax.tree.map(lambda a, b: assert_allclose(a, b, atol=tolerance, rtol=tolerance), *found)
