"""Training on a mesh equals training on one device; impossible meshes raise errors."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from cases import NEURAL
from jax.sharding import AbstractMesh
from texts import write_many_words

import jaxlm
from jaxlm.errors import UserError
from jaxlm.parallel.mesh import check_divides, is_axes, make_mesh, parse_mesh
from jaxlm.parallel.shard_map import ShardedAxes, on_each_device
from jaxlm.runs.log import read_records
from jaxlm.training.state import init_state, state_axes

HERE = Path(__file__).parent
MESHES = ("data=2", "model=4", "data=8", "data=4,model=2")
# Variants of models that use other code than the plain models.
WIRED = [
    ("lstm", "regularised"),
    ("lstm", "tied two layers"),
    ("gru", "stack"),
    ("nplm", "adaptive"),
    ("nplm", "sampled"),
    ("nplm", "mixture"),
    ("gru", "adaptive input, tied"),
    ("gru", "newton"),
    ("paralstm", "newton"),
]
# Models with every use of the embedding table. A GPU computes the gradient of a lookup by another
# function than a CPU.
READ = [("modern-nplm", "plain"), ("nplm", "sampled"), ("gru", "adaptive input, tied")]


def start(*command, devices=1):
    return subprocess.run(
        [sys.executable, *map(str, command)],
        env=os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)},
        capture_output=True,
        text=True,
        check=False,
    )


def run(*command, devices=1):
    found = start(*command, devices=devices)
    assert found.returncode == 0, found.stderr[-2000:]


CASES = {
    "quick": [("cpu", "lstm", "plain", ("data=4,model=2",))],
    # Two processes: each worker of the tests runs a process.
    "full, 1": [
        *(("cpu", name, "plain", MESHES[-1:]) for name in NEURAL if name not in ("nplm", "lstm")),
        ("cpu", "nplm", "plain", MESHES),
    ],
    "full, 2": [
        *(("cpu", *wired, MESHES[-1:]) for wired in WIRED),
        *(("gpu", *read, MESHES[-1:]) for read in READ),
        ("cpu", "lstm", "plain", MESHES[:-1]),
    ],
}


@functools.cache
def measured(group):
    """Return the errors of each finished case of a group, and the end of standard error."""
    found = start(HERE / "on_devices.py", json.dumps(CASES[group]))
    lines = [json.loads(line) for line in found.stdout.splitlines() if line.startswith("[")]
    return {tuple(case): errors for case, errors in lines}, found.stderr[-2000:]


def cases_of(group):
    marks = [pytest.mark.xdist_group(group)]
    marks += [] if group == "quick" else [pytest.mark.full]
    for machine, name, variant, meshes in CASES[group]:
        for mesh in meshes:
            case = machine, name, variant, mesh
            yield pytest.param(group, case, id="-".join(case), marks=marks)


@pytest.mark.parametrize(("group", "case"), [case for group in CASES for case in cases_of(group)])
def test_training_on_a_mesh_equals_training_on_one_device(group, case):
    errors, stderr = measured(group)
    assert case in errors, stderr
    losses, parameters = errors[case]
    assert losses < 2e-6
    # Momentum and parameters, relative to the largest element of each array.
    assert parameters < 2e-5


@pytest.mark.full
def test_a_run_resumes_on_a_different_number_of_devices(tmp_path):
    text = write_many_words(tmp_path / "text.txt")
    train = ["-m", "jaxlm.train", "--model", "lstm", "--corpus", text, "--batch-size", "4"]
    train += ["--bptt", "5", "--hidden-size", "8", "--log-every", "1", "--checkpoint-every", "10"]
    # The default settings for a text of one's own follow from the number of train steps.
    train += ["--embedding-size", "8", "--schedule", "constant", "--warmup-steps", "0"]
    train += ["--lr", "8e-3"]
    run(*train, "--steps", "20", "--out", tmp_path / "whole")
    mesh = ["--mesh", "data=2,model=2"]
    vocabulary = len(json.loads((tmp_path / "whole/tokenizer.json").read_text())["tokens"])
    assert vocabulary % 2 == 0, "two devices must be able to shard it"
    run(*train, "--steps", "10", "--out", tmp_path / "parts", *mesh, devices=4)
    run(*train, "--steps", "20", "--out", tmp_path / "parts", "--resume")
    whole, parts = (
        [
            record["loss"]
            for record in read_records(tmp_path / name / "metrics.jsonl")
            if "loss" in record
        ]
        for name in ("whole", "parts")
    )
    assert len(whole) == 20
    np.testing.assert_allclose(parts, whole, rtol=1e-5)


def test_impossible_meshes_raise_errors():
    assert parse_mesh("data=4, model=2") == {"data": 4, "model": 2}
    with pytest.raises(UserError, match=r"did you mean 'data'.*choose one of data, model"):
        parse_mesh("datum=4")
    for text in ("data", "data=0", "data=-1", "data=two"):
        with pytest.raises(UserError, match=f"`mesh` {text}: give each axis a size"):
            parse_mesh(text)
    with pytest.raises(UserError, match="`mesh` data=2,data=4: gives the axis data twice"):
        parse_mesh("data=2,data=4")
    with pytest.raises(UserError, match="needs 64 devices: this machine has"):
        make_mesh({"data": 64})
    assert make_mesh({"data": 1}) is None
    mesh = AbstractMesh((8, 4), ("data", "model"))
    check_divides(mesh, 16, 10_000)
    check_divides(None, 20, 33_278)
    with pytest.raises(UserError, match=r"`batch_size` 20: .*use 16 or 24, or `mesh` data=5"):
        check_divides(mesh, 20, 10_000)
    with pytest.raises(UserError, match=r"`mesh` model=4: 33278 words .*use 1, 2, 7, 14"):
        check_divides(mesh, 16, 33_278)


def test_arrays_of_another_shape_than_their_parameter_are_replicated():
    """Adafactor keeps the sums of rows and columns under the name of the matrix."""
    model = jaxlm.RNN(vocab_size=16, embedding_size=4, hidden_size=4)
    optimizer = optax.adafactor(0.1, min_dim_size_to_factor=2)
    state = init_state(model, optimizer, jax.random.key(0), batch_size=2)
    axes = state_axes(model, state)
    assert axes.params["embedding"]["embedding"] == ("vocabulary", None)
    pairs = zip(jax.tree.leaves(state), jax.tree.leaves(axes, is_leaf=is_axes), strict=True)
    assert all(len(names) <= array.ndim for array, names in pairs)


def test_without_a_mesh_a_function_gets_whole_arrays():
    def function(sharded, x):
        assert sharded == ShardedAxes()
        assert sharded.first_word(5) == 0
        return sharded.sum_over_batch(x) + sharded.sum_over_vocabulary(x) + sharded.first_word(3)

    assert on_each_device(function, [("batch",)], ("batch",))(3) == 6
