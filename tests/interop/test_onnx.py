"""ONNX files: onnxruntime computes what JAX computes, and the file holds what a reader needs."""

import importlib.util
import json

import jax.numpy as jnp
import numpy as np
import pytest
from cases import B, V, build, cases, logits
from numpy.testing import assert_allclose

import jaxlm
from jaxlm.data.tokenizers import Characters, from_json, to_json
from jaxlm.data.vocabulary import Vocabulary
from jaxlm.errors import UserError
from jaxlm.interop.formats import read_run, write_run
from jaxlm.models.cells import CELLS
from jaxlm.models.recurrent.model import Recurrent
from jaxlm.runs.protocol import Protocol
from jaxlm.runs.run import Run
from jaxlm.runs.starts import WARM_START

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

WRITTEN = {"rnn": "RNN", "gru": "GRU", "lstm": "LSTM", "nplm": None}
TOKENIZER = Characters(Vocabulary(tuple("abcdefghijk中\n"), start="\n"))
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def run_of(name, options, **more):
    model, params = build(name, options, **more)
    return Run(model, params, TOKENIZER, Protocol(rows=True), {WARM_START: [3, 1, 12]})


def written_cases():
    """Yield the cases of models that ONNX files hold, each with float32 products."""
    for case in cases(("gradient",), exact=True):
        name, options = case.values
        # A file holds the operator of the cell, whatever ran it over time.
        same = "time_loop" in options
        if name in WRITTEN and options.get("softmax") in (None, "sampled") and not same:
            yield case


def session_of(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def metadata_of(session):
    texts = session.get_modelmeta().custom_metadata_map
    return {name: json.loads(text) for name, text in texts.items()}


def initial_state(states, batch):
    """Return the state before a text, as a reader makes it from the metadata alone."""
    return {
        state["input"]: np.array(
            np.broadcast_to(np.array(state["initial"], state["dtype"]), (batch, *state["shape"]))
        )
        for state in states
    }


def read(session, chunks_BT):
    """Return the logits of all chunks, with the state carried from chunk to chunk."""
    states = metadata_of(session)["state"]
    feed, found = initial_state(states, len(chunks_BT[0])), []
    names = ["logits", *(state["output"] for state in states)]
    for tokens_BT in chunks_BT:
        first, *new = session.run(names, feed | {"tokens": np.int64(tokens_BT)})
        found.append(first)
        feed = {state["input"]: array for state, array in zip(states, new, strict=True)}
    return np.concatenate(found, axis=1)


def some_tokens(time, batch=B):
    return np.random.default_rng(5).integers(0, V, (batch, time)).astype(np.int32)


@pytest.mark.quick_for("lstm-plain", "nplm-plain")
@pytest.mark.parametrize(("name", "options"), list(written_cases()))
def test_onnxruntime_equals_jax_over_carried_chunks(name, options, tmp_path):
    run = run_of(name, options)
    write_run(run, tmp_path / "x.onnx")
    session = session_of(tmp_path / "x.onnx")
    tokens_BT = some_tokens(12)
    expected, _ = logits(run.model, run.params, tokens_BT)
    assert np.abs(expected).max() > 0.5
    # Each chunk has another T; a step of one token is a chunk too.
    found = read(session, np.split(tokens_BT, [3, 4, 10], axis=1))
    assert_allclose(found, expected, **CLOSE)
    steps = read(session, np.split(tokens_BT, 12, axis=1))
    assert_allclose(steps, read(session, [tokens_BT]), **CLOSE)
    alone = read(session, [tokens_BT[1:2]])
    assert_allclose(alone, read(session, [tokens_BT])[1:2], **CLOSE)


@pytest.mark.full
@pytest.mark.parametrize("options", [{"n_step": 1}, {"n_step": 1, "direct": True}, {"n_step": 5}])
def test_an_nplm_of_any_window(options, tmp_path):
    run = run_of("nplm", options)
    write_run(run, tmp_path / "x.onnx")
    tokens_BT = some_tokens(9)
    expected, _ = logits(run.model, run.params, tokens_BT)
    found = read(session_of(tmp_path / "x.onnx"), np.split(tokens_BT, [1, 2, 6], axis=1))
    assert_allclose(found, expected, **CLOSE)


def test_the_graph_has_one_native_operator_for_each_layer_and_no_loop(tmp_path):
    run = run_of("lstm", {"layer_sizes": (5, 4, 4), "residual": True, "tied": True})
    write_run(run, tmp_path / "x.onnx")
    model = onnx.load(tmp_path / "x.onnx")
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("LSTM") == 3
    assert not {"Loop", "Scan", "If"} & set(kinds)
    assert [opset.version for opset in model.opset_import] == [17]
    assert [value.name for value in model.graph.input] == [
        "tokens",
        *("h_0", "c_0", "h_1", "c_1", "h_2", "c_2"),
    ]
    # A tied output layer has the numbers of the embedding only once.
    sizes = [np.prod(array.dims) for array in model.graph.initializer]
    assert sizes.count(V * 6) == 1


def test_the_metadata_has_what_a_reader_needs(tmp_path):
    run = run_of("lstm", {})
    write_run(run, tmp_path / "x.onnx")
    found = metadata_of(session_of(tmp_path / "x.onnx"))
    assert found["format"] == 1
    assert found["model"] == "lstm"
    assert found["settings"]["hidden_size"] == 5
    assert found["vocab_size"] == V
    assert found["start_id"] == run.vocabulary.start_id == 12
    assert found["warm_start"] == [3, 1, 12]
    assert found["protocol"] == {"rows": True, "last_only": False}
    assert found["output"] == "logits"
    # The tokenizer is the content of tokenizer.json.
    assert to_json(from_json(json.dumps(found["tokenizer"]))) == to_json(TOKENIZER)
    assert found["tokenizer"]["tokens"][11] == "中"
    assert found["state"][1] == {
        "input": "c_0",
        "output": "c_0_out",
        "shape": [5],
        "dtype": "float32",
        "initial": 0.0,
    }


@pytest.mark.full
def test_a_window_begins_with_the_start_token(tmp_path):
    run = run_of("nplm", {})
    write_run(run, tmp_path / "x.onnx")
    (state,) = metadata_of(session_of(tmp_path / "x.onnx"))["state"]
    assert (state["input"], state["shape"], state["initial"]) == ("window", [2], V - 1)


@pytest.mark.full
def test_a_run_in_bfloat16_is_written_in_float32(tmp_path):
    run = run_of("lstm", {"dtype": "bfloat16"})
    write_run(run, tmp_path / "x.onnx")
    tokens_BT = some_tokens(5)
    exact = run.model.clone(dtype="float32")
    expected, _ = logits(exact, run.params, tokens_BT)
    assert_allclose(read(session_of(tmp_path / "x.onnx"), [tokens_BT]), expected, **CLOSE)


@pytest.mark.full
def test_a_learned_start_is_the_initial_state(tmp_path):
    run = run_of("gru", {"learned_start": True, "num_layers": 2})
    write_run(run, tmp_path / "x.onnx")
    tokens_BT = some_tokens(5)
    expected, _ = logits(run.model, run.params, tokens_BT)
    found = read(session_of(tmp_path / "x.onnx"), np.split(tokens_BT, [2], axis=1))
    assert_allclose(found, expected, **CLOSE)


@pytest.mark.full
@pytest.mark.parametrize("name", sorted(set(jaxlm.MODELS) - set(WRITTEN)))
def test_other_models_are_refused_with_the_reason(name, tmp_path):
    model, params = build(name, {})
    with pytest.raises(
        UserError, match=r"ONNX has no operator for (the model|them).*(stablehlo|x\.arpa)"
    ):
        write_run(Run(model, params, TOKENIZER), tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.full
@pytest.mark.parametrize("softmax", ["adaptive", "mixture"])
def test_other_output_layers_are_refused_with_the_reason(softmax, tmp_path):
    options = {"softmax": softmax} | ({"cutoffs": (4, 9)} if softmax == "adaptive" else {})
    with pytest.raises(UserError, match=rf"the output layer {softmax}; ONNX files hold lstm, gru"):
        write_run(run_of("rnn", options), tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.full
def test_a_subclass_may_compute_something_else_and_is_refused(tmp_path):
    class Doubled(jaxlm.LSTM):
        def logits(self, hidden_BTF):
            return 2 * super().logits(hidden_BTF)

    class OtherCell(type(CELLS["gru"])):
        pass

    _, params = build("lstm", {})
    sizes = {"embedding_size": 6, "hidden_size": 5}
    for model in (Doubled(V, **sizes), Recurrent(V, cell=OtherCell(), **sizes)):
        with pytest.raises(UserError, match="ONNX has no operator for the model"):
            write_run(Run(model, params, TOKENIZER), tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.full
def test_recurrent_with_a_known_cell_is_written(tmp_path):
    _, params = build("gru", {})
    model = Recurrent(V, V - 1, cell=CELLS["gru"], embedding_size=6, hidden_size=5)
    write_run(Run(model, params, TOKENIZER), tmp_path / "x.onnx")
    tokens_BT = some_tokens(4)
    expected, _ = logits(model, params, tokens_BT)
    assert_allclose(read(session_of(tmp_path / "x.onnx"), [tokens_BT]), expected, **CLOSE)


@pytest.mark.full
def test_parameters_above_the_limit_of_a_file_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxlm.interop.onnx_graph.LARGEST_FILE", 1000)
    with pytest.raises(UserError, match=r"GB of parameters, and an ONNX file holds at most 2 GB"):
        write_run(run_of("lstm", {}), tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.full
def test_errors_are_one_line_and_leave_no_file(tmp_path, monkeypatch):
    run = run_of("lstm", {})
    with pytest.raises(UserError, match="no engine reads a compressed ONNX file"):
        write_run(run, tmp_path / "x.onnx.gz")
    with pytest.raises(UserError, match=r"cannot write .*none/x\.onnx: No such file"):
        write_run(run, tmp_path / "none" / "x.onnx")
    write_run(run, tmp_path / "x.onnx")
    with pytest.raises(UserError, match=r"x\.onnx: ONNX files can be written, but not read"):
        read_run(tmp_path / "x.onnx")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnx" else find(name)
    )
    with pytest.raises(UserError, match="pip install onnx"):
        write_run(run, tmp_path / "y.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["x.onnx"]


@pytest.mark.full
def test_a_reader_scores_as_a_session_of_jaxlm_does(tmp_path):
    run = run_of("gru", {})
    write_run(run, tmp_path / "x.onnx")
    session = session_of(tmp_path / "x.onnx")
    data = metadata_of(session)
    index = {token: place for place, token in enumerate(data["tokenizer"]["tokens"])}
    ids = [index[token] for token in "abc中a"]
    expected = jaxlm.Session(run, start="fresh").push("abc中a")
    found_1TV = read(session, [np.array([[data["start_id"], *ids[:-1]]])])
    log_probs_TV = np.asarray(jnp.log(jnp.exp(found_1TV[0]).T / jnp.exp(found_1TV[0]).sum(-1)).T)
    bits = -log_probs_TV[np.arange(len(ids)), ids] / np.log(2)
    assert_allclose(bits, expected, rtol=1e-5)
