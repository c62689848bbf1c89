"""StableHLO programs: a process without jaxlm computes what the model computes."""

import json
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from cases import NEURAL, B, V, build, cases, logits
from jax import export
from numpy.testing import assert_allclose
from safetensors.numpy import load_file, save_file

import jaxlm
from jaxlm.data.tokenizers import Characters, from_json, to_json
from jaxlm.data.vocabulary import Vocabulary
from jaxlm.errors import UserError
from jaxlm.interop.formats import read_run, write_run
from jaxlm.runs.protocol import Protocol
from jaxlm.runs.run import Run

TOKENIZER = Characters(Vocabulary(tuple("abcdefghijk中\n"), start="\n"))
CLOSE = {"atol": 1e-6, "rtol": 1e-5}
# A reader, which has JAX, NumPy and safetensors, but not jaxlm.
READER = """
import json, pathlib, sys
import jax, numpy as np
from jax import export
from safetensors.numpy import load_file, save_file

for name in sys.argv[1:]:
    folder = pathlib.Path(name)
    about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    params = load_file(folder / "params.safetensors")
    step, chunk = (
        export.deserialize(bytearray((folder / about["programs"][name]).read_bytes()))
        for name in ("step", "chunk")
    )
    tokens = load_file(folder / "tokens")["tokens"]

    def initial_state(batch):
        return {
            state["input"]: np.array(
                np.broadcast_to(
                    np.array(state["initial"], jax.numpy.dtype(state["dtype"])),
                    (batch, *state["shape"]),
                )
            )
            for state in about["state"]
        }

    state, found = initial_state(len(tokens)), []
    for length in (4, 1, 4):
        part, tokens_left = tokens[:, :length], tokens[:, length:]
        call = step.call if length == 1 else chunk.call
        logits, state = call(params, part, state)
        found.append(np.asarray(logits))
        tokens = tokens_left
    save_file({"logits": np.concatenate(found, axis=1)}, folder / "logits")
assert not [module for module in sys.modules if module.startswith(("jaxlm", "flax"))]
"""


def run_of(name, options):
    model, params = build(name, options)
    return Run(model, params, TOKENIZER, Protocol(rows=True))


def some_tokens(time, batch=B):
    return np.random.default_rng(5).integers(0, V, (batch, time)).astype(np.int32)


def read_in_a_fresh_process(*folders):
    # No path leads to jaxlm.
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", READER, *map(str, folders)],
        env=variables | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [load_file(folder / "logits")["logits"] for folder in folders]


def write(run, folder, tokens_BT):
    write_run(run, folder)
    save_file({"tokens": tokens_BT}, folder / "tokens")


def programs(folder):
    return [
        export.deserialize(bytearray((folder / name).read_bytes()))
        for name in ("step.stablehlo", "chunk.stablehlo")
    ]


def check_programs(folder):
    """Assert that the programs run everywhere, and name no file of this machine."""
    for program in programs(folder):
        assert program.platforms == ("cpu", "cuda", "tpu")
        text = program.mlir_module()
        calls = set(re.findall(r"custom_call @(\w+)", text))
        assert calls <= {"shape_assertion"}, "a call of a library of one platform"
    for path in folder.iterdir():
        content = path.read_bytes()
        assert b".py" not in content
        # Pickle would name modules.
        assert b"jaxlm.models" not in content


def test_a_fresh_process_without_jaxlm_computes_the_same(tmp_path):
    run, tokens_BT = run_of("lstm", {}), some_tokens(9)
    write(run, tmp_path / "x.stablehlo", tokens_BT)
    expected, _ = logits(run.model, run.params, tokens_BT)
    assert np.abs(expected).max() > 0.5
    (found,) = read_in_a_fresh_process(tmp_path / "x.stablehlo")
    assert_allclose(found, expected, **CLOSE)
    check_programs(tmp_path / "x.stablehlo")


# The programs of these variants are those of a plain model, and of two layers.
SAME_PROGRAMS = ("sampled", "regularised", "newton")


@pytest.mark.full
@pytest.mark.parametrize("models", [NEURAL[::2], NEURAL[1::2]], ids=["some", "others"])
def test_every_neural_model_in_each_variant(models, tmp_path):
    expected, folders = [], []
    for case in cases(("gradient",)):
        name, options = case.values
        if name not in models or case.id.endswith(SAME_PROGRAMS):
            continue
        run, tokens_BT = run_of(name, options), some_tokens(9)
        folder = tmp_path / f"{len(folders)}.stablehlo"
        write(run, folder, tokens_BT)
        check_programs(folder)
        logits_BTV, _ = logits(run.model, run.params, tokens_BT)
        expected.append((case.id, options, np.float32(logits_BTV)))
        folders.append(folder)
    assert folders
    found = read_in_a_fresh_process(*folders)
    for (case, options, expected_BTV), found_BTV in zip(expected, found, strict=True):
        # In bfloat16, the order of a sum changes the last of eight bits.
        limits = {"atol": 0.1, "rtol": 0.05} if options.get("dtype") else CLOSE
        assert_allclose(found_BTV, expected_BTV, err_msg=case, **limits)


@pytest.mark.full
def test_rows_of_a_batch_do_not_change_each_other(tmp_path):
    run, tokens_BT = run_of("gru", {}), some_tokens(9)
    write_run(run, tmp_path / "x.stablehlo")
    _, chunk = programs(tmp_path / "x.stablehlo")
    params = load_file(tmp_path / "x.stablehlo" / "params.safetensors")
    found = [
        chunk.call(params, rows_BT, {"h_0": np.zeros((len(rows_BT), 5), np.float32)})[0]
        for rows_BT in (tokens_BT, tokens_BT[1:2])
    ]
    assert_allclose(found[0][1:2], found[1], **CLOSE)


@pytest.mark.full
@pytest.mark.parametrize("time_loop", ["scan", "cudnn"])
def test_products_are_exact_on_each_platform_and_no_loop_is_of_one_platform(time_loop, tmp_path):
    # A GPU would multiply in TF32, and a TPU in bfloat16, if a program did not say otherwise.
    run = run_of("lstm", {"time_loop": time_loop, "remat": 0})
    write_run(run, tmp_path / "x.stablehlo")
    check_programs(tmp_path / "x.stablehlo")
    for program in programs(tmp_path / "x.stablehlo"):
        lines = [line for line in program.mlir_module().splitlines() if " stablehlo.dot" in line]
        assert len(lines) >= 3
        assert all("precision = [HIGHEST, HIGHEST]" in line for line in lines)


@pytest.mark.full
def test_remat_and_the_settings_of_the_process_change_nothing(tmp_path):
    # The tests run with a limit of 0; users have 10 frames.
    before = jax.config.jax_traceback_in_locations_limit
    jax.config.update("jax_traceback_in_locations_limit", 10)
    try:
        run, tokens_BT = run_of("lstm", {"remat": 4}), some_tokens(9)
        write(run, tmp_path / "x.stablehlo", tokens_BT)
        assert jax.config.jax_traceback_in_locations_limit == 10
    finally:
        jax.config.update("jax_traceback_in_locations_limit", before)
    check_programs(tmp_path / "x.stablehlo")
    expected, _ = logits(run.model, run.params, tokens_BT)
    assert_allclose(read_in_a_fresh_process(tmp_path / "x.stablehlo")[0], expected, **CLOSE)


@pytest.mark.full
def test_the_folder_has_what_a_reader_needs(tmp_path):
    run = run_of("mogrifier", {"softmax": "adaptive", "cutoffs": (4, 9)})
    write_run(run, tmp_path / "x", "stablehlo")
    about = json.loads((tmp_path / "x" / "model.json").read_text(encoding="utf-8"))
    assert (about["format"], about["model"], about["vocab_size"]) == (1, "mogrifier", V)
    assert about["output"] == "log-probabilities"
    assert to_json(from_json(json.dumps(about["tokenizer"]))) == to_json(TOKENIZER)
    assert about["start_id"] == 12
    assert [state["input"] for state in about["state"]] == ["h_0", "c_0"]
    assert about["state"][0]["output"] == "h_0"
    params = load_file(tmp_path / "x" / "params.safetensors")
    np.testing.assert_array_equal(
        params["layers_0.input.kernel"], run.params["layers_0"]["input"]["kernel"]
    )
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == [
        "chunk.stablehlo",
        "model.json",
        "params.safetensors",
        "step.stablehlo",
    ]


@pytest.mark.full
def test_errors_are_one_line_and_leave_nothing(tmp_path, monkeypatch):
    model, params = build("ngram", {})
    with pytest.raises(UserError, match=r"no program for JAX; write it as an ARPA file"):
        write_run(Run(model, params, TOKENIZER), tmp_path / "x.stablehlo")
    run = run_of("rnn", {})
    with pytest.raises(UserError, match=r"cannot write .*none/x\.stablehlo: No such file"):
        write_run(run, tmp_path / "none" / "x.stablehlo")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("safetensors.numpy.save", full)
        with pytest.raises(UserError, match=r"cannot write .*: No space left on device"):
            write_run(run, tmp_path / "x.stablehlo")
    assert not list(tmp_path.iterdir())
    write_run(run, tmp_path / "x.stablehlo")
    with pytest.raises(UserError, match=r"x\.stablehlo exists already: name a new folder"):
        write_run(run, tmp_path / "x.stablehlo")
    with pytest.raises(UserError, match="StableHLO programs can be written, but not read"):
        read_run(tmp_path / "x.stablehlo")


@pytest.mark.full
def test_a_model_whose_sizes_must_be_known_is_refused(tmp_path):
    class Known(jaxlm.RNN):
        def encode(self, tokens_BT, carry, last, deterministic, length):
            if tokens_BT.shape[1] > 4:
                pass
            return super().encode(tokens_BT, carry, last, deterministic, length)

    _, params = build("rnn", {})
    run = Run(Known(V, embedding_size=6, hidden_size=5), params, TOKENIZER)
    with pytest.raises(UserError, match="cannot be traced for any batch and time"):
        write_run(run, tmp_path / "x.stablehlo")
    assert not list(tmp_path.iterdir())
