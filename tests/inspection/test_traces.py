"""A trace has the numbers of the model, of evaluation and of `next_words`, for every model."""

import dataclasses
import math

import jax
import numpy as np
import pytest
from cases import PARAMETERS, V, build, cases, tokens
from numpy.testing import assert_allclose, assert_array_equal

import jaxlm
from jaxlm.data.tokenizers import TOKENIZERS, Characters, VocabularyConfig, Words
from jaxlm.data.vocabulary import EOS, UNK, Vocabulary
from jaxlm.errors import SettingError, UserError
from jaxlm.evaluation.perplexity import open_split, score_split
from jaxlm.evaluation.scoring import Scorer
from jaxlm.inspection import trace
from jaxlm.models import MODELS
from jaxlm.models.cells import Cell
from jaxlm.models.registry import make_model
from jaxlm.runs.protocol import Protocol

EVERY_MODEL = [case for case in cases() if case.id.endswith("-plain")]
RECURRENT = [
    pytest.param(*case.values, id=case.id, marks=case.marks)
    for case in cases(trained_by=("gradient",), exact=True, outputs=False)
    # A trace runs the layers by `nn.scan`, whatever the run's own loop.
    if hasattr(MODELS[case.values[0]].kind, "cell") and "time_loop" not in case.values[1]
]
TEXT = "w3 w0 w7 w7 w11\nw2 w1\n\nw5 w4 w3 w3 w0 w7 w9\nw8"
IDS = np.array([3, 0, 7, 7, 11, 12, 2, 1, 12, 12, 5, 4, 3, 3, 0, 7, 9, 12, 8])


def run_of(name, options, **more):
    """Return a run of a case of the laws, over the words w0 ... w11 and <eos>."""
    return run_with(*build(name, options, **more))


def run_with(model, params):
    words = tuple(f"w{index}" for index in range(model.vocab_size - 1))
    return jaxlm.Run(model, params, Words(Vocabulary((*words, EOS), start=EOS)))


def random_text(count):
    """Return a text of `count` words of the cases."""
    ids = np.random.default_rng(1).integers(0, V - 1, count)
    return " ".join(f"w{index}\n" if index == 2 else f"w{index}" for index in ids)


@pytest.mark.quick_for("lstm-plain")
@pytest.mark.parametrize(("name", "options"), RECURRENT)
def test_states_and_features_are_those_of_the_time_loop_that_scores(name, options):
    run = run_of(name, options)
    # "fused" runs minGRU and minLSTM in parallel over time.
    fused = run_of(name, options, time_loop="fused").model
    inputs = np.concatenate([[V - 1], IDS])[None].astype(np.int32)
    found = trace(run, TEXT)
    assert_array_equal(found.ids, IDS)

    @jax.jit
    def read(length):
        return fused.apply({"params": run.params}, inputs, None, length=length)

    hidden, _ = fused.apply({"params": run.params}, inputs, None)
    assert_allclose(found["hidden"], np.asarray(hidden[0, 1:]), atol=1e-5)
    for last in (0, 6, len(IDS) - 1):
        _, carry = read(np.int32(last + 2))
        for layer, states in enumerate(carry):
            for state, value in zip(fused.cell.carry, states, strict=True):
                row = found[f"layers_{layer}/{state}"][last]
                assert_allclose(row, np.asarray(value[0]), atol=1e-5)


@pytest.mark.quick_for("lstm-plain")
@pytest.mark.parametrize(("name", "options"), RECURRENT)
def test_gates_and_states_satisfy_the_equations_of_the_cell(name, options):
    run = run_of(name, options)
    found = trace(run, TEXT)
    model = run.model
    cell = getattr(model.make_layer(0, 3), "cell", None)
    for layer in found.layers:
        assert found.gates(layer) == list(model.cell.gates)
        assert found.states(layer) == list(model.cell.carry)
        gates = {gate: found[f"{layer}/{gate}"][1:] for gate in model.cell.gates}
        states = [found[f"{layer}/{state}"] for state in model.cell.carry]
        new = cell.update(tuple(state[:-1] for state in states), gates)
        for value, state in zip(new, states, strict=True):
            assert_allclose(np.asarray(value), state[1:], atol=1e-6)


def test_the_cell_state_of_an_lstm_is_what_its_gates_say():
    found = trace(run_of("lstm", {}), TEXT)
    i, f, g, o = (found[f"layers_0/{gate}"] for gate in ("input", "forget", "cell", "output"))
    h, c = found["layers_0/h"], found["layers_0/c"]
    assert_allclose(c[1:], f[1:] * c[:-1] + i[1:] * g[1:], atol=1e-6)
    assert_allclose(h, o * np.tanh(c), atol=1e-6)
    assert_allclose(found["hidden"], h, atol=1e-6)


class LeakyCell(Cell):
    """A user's cell. Its gate has the name of its state."""

    gates = ("leak", "h")
    carry = ("h", "slow")

    def activations(self, carry, x_BG, u_BG):
        leak, new = np.split(np.arange(x_BG.shape[-1]), 2)
        return {"leak": jax.nn.sigmoid((x_BG + u_BG)[:, leak]), "h": jax.numpy.tanh(x_BG[:, new])}

    def update(self, carry, gates):
        h, slow = carry
        return gates["leak"] * h + (1 - gates["leak"]) * gates["h"], 0.9 * slow + 0.1 * h


def test_a_cell_of_ones_own_is_traced_by_its_names():
    jaxlm.register_cell("leaky-traced", LeakyCell())
    try:
        model = make_model("leaky-traced", {"embedding_size": 3, "hidden_size": 4}, V, V - 1)
        found = trace(run_with(model, PARAMETERS["gradient"](model)), TEXT)
        assert found.layers == ["layers_0"]
        assert found.gates("layers_0") == ["leak", "h_gates"]
        assert found.states("layers_0") == ["h", "slow"]
        leak, new, h = (found[f"layers_0/{name}"] for name in ("leak", "h_gates", "h"))
        assert_allclose(h[1:], leak[1:] * h[:-1] + (1 - leak[1:]) * new[1:], atol=1e-6)
        with pytest.raises(UserError, match="leaky-traced"):
            trace(run_of("ngram", {}), TEXT)["layers_0/leak"]
    finally:
        del MODELS["leaky-traced"], jaxlm.CELLS["leaky-traced"]


@pytest.mark.quick_for("lstm-plain", "ngram-plain")
@pytest.mark.parametrize(("name", "options"), EVERY_MODEL)
def test_surprisal_rank_and_entropy_are_those_of_evaluation(name, options, tmp_path):
    run, text = run_of(name, options), random_text(300) + "\n"
    found = trace(run, text, start="fresh")
    path = tmp_path / "text.txt"
    path.write_text(text)
    report = jaxlm.perplexity(run, text=path)
    assert len(found) == report.tokens
    assert found.surprisal.sum() * math.log(2) == pytest.approx(report.nll, rel=1e-5)
    scores = Scorer(run.model, detail=True).stream(run.params, found.ids)
    assert_allclose(found.surprisal, -scores.log_prob / math.log(2), atol=1e-4)
    assert_allclose(found.entropy, scores.entropy / math.log(2), atol=1e-4)
    assert np.mean(found.rank == scores.rank) > 0.99  # a rounding may exchange equal ranks


@pytest.mark.parametrize("name", ["lstm", pytest.param("ngram", marks=pytest.mark.full)])
def test_a_run_that_scores_lines_is_traced_line_by_line(name, tmp_path):
    run = dataclasses.replace(run_of(name, {}), protocol=Protocol(True, False))
    path = tmp_path / "text.txt"
    path.write_text("w3 w0 w7\nw2 w1\nw5 w4 w3 w3\n")
    found = trace(run, path.read_text())
    expected = score_split(run, open_split(run, text=path)).log_prob
    assert_allclose(found.surprisal, -expected / math.log(2), rtol=1e-4)
    assert "each line" in found.note
    # The last row comes after the last line break, and not from the start of a line.
    whole = trace(run, "w5 w4 w3 w3\n")
    assert_allclose(found.next_probabilities[-1], whole.next_probabilities[-1], rtol=1e-5)


@pytest.mark.quick_for("lstm-plain", "ngram-plain")
@pytest.mark.parametrize(("name", "options"), EVERY_MODEL)
def test_next_words_are_those_of_next_words(name, options):
    run = run_of(name, options)
    found = trace(run, TEXT, count=4)
    for row in (0, 1, 7, len(IDS)):
        context = TEXT[: found.spans[row - 1, 1]] if row else ""
        expected = jaxlm.next_words(run, context, 4)
        assert found.next_words[row] == [word for word, _ in expected]
        assert_allclose(
            found.next_probabilities[row], [p for _, p in expected], rtol=1e-4, atol=1e-7
        )
    for row, (bits, rank) in enumerate(zip(found.surprisal, found.rank, strict=True)):
        if rank <= 4:
            # Of equal probabilities, the token with the smaller id comes first.
            assert found.next_probabilities[row, rank - 1] == pytest.approx(2**-bits, rel=1e-4)


@pytest.mark.quick_for("lstm-plain", "ngram-plain")
@pytest.mark.parametrize(("name", "options"), EVERY_MODEL)
def test_chunks_units_and_files_do_not_change_the_numbers(name, options, tmp_path):
    run = run_of(name, options)
    whole = trace(run, TEXT)
    units = {name: [2, 0] for name in whole.arrays}
    assert_allclose(trace(run, "w3 w0", chunk=1).surprisal, whole.surprisal[:2], rtol=1e-4)
    parts = trace(run, TEXT, chunk=7, units=units, folder=tmp_path / "arrays")
    for field in ("surprisal", "entropy", "rank", "next_probabilities"):
        assert_allclose(getattr(parts, field), getattr(whole, field), rtol=1e-4, atol=1e-5)
    assert list(parts.arrays) == list(whole.arrays)
    for key, array in parts.arrays.items():
        assert isinstance(array, np.memmap) and array.dtype == np.float32
        assert_allclose(array, whole[key][:, [2, 0]], atol=1e-5)
        saved = np.load(tmp_path / "arrays" / f"{key}.npy")
        assert_array_equal(saved, array)


def test_an_nplm_shows_its_features_and_its_tanh_layers():
    run = run_of("nplm", {"num_layers": 2})
    found, params = trace(run, TEXT), run.params
    assert list(found.arrays) == ["features", "hidden_0", "hidden_1", "hidden"]
    embedding, n_step = np.asarray(params["embedding"]["embedding"]), run.model.n_step
    last = embedding[IDS[4 - n_step : 4]].reshape(-1)
    assert_allclose(found["features"][3], last, atol=1e-6)
    layer = params["hidden"]
    assert_allclose(
        found["hidden_0"][3], np.tanh(last @ layer["kernel"] + layer["bias"]), atol=1e-5
    )
    assert_array_equal(found["hidden"], found["hidden_1"])
    assert found.layers == []
    with pytest.raises(UserError, match=r"has no gates .* records features, .* rnn, gru"):
        found.gates("layers_0")


def test_the_orders_of_an_ngram_are_its_sources_and_explain_the_probability():
    run = run_of("ngram", {})
    found = trace(run, TEXT)
    tables = run.params
    for token in range(len(IDS)):
        context = np.concatenate([[V - 1], IDS[:token]])[None]
        (source,) = run.model.sources(tables, context, IDS[token : token + 1])
        assert source == f"{found.ngram.order[token]}-gram"
    # P = weight · (probability of the listed n-gram).
    seen = np.where(np.append(V - 1, IDS) == V - 1, V, np.append(V - 1, IDS))[None]
    contexts = [ids[0, :-1] for ids in tables.contexts(seen)]
    for token, order in enumerate(found.ngram.order):
        prefix = np.array([0 if order == 1 else contexts[order - 2][token]])
        (listed,) = tables.find(int(order), prefix, IDS[token : token + 1])
        p = tables.probabilities[order - 1][listed] * found.ngram.backoff_weight[token]
        assert p == pytest.approx(2.0 ** -found.surprisal[token], rel=1e-9)
    assert {1.0} < set(found.ngram.backoff_weight)
    # The tables of this run hold no counts, and no corpus is named.
    assert np.isnan(found.ngram.count).all() and "counts are unknown" in found.note


def test_an_ngram_of_lines_has_its_counts():
    text = jaxlm.read_corpus("toy", eos=False)
    run = jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=3), text, quiet=True)
    found = trace(run, "我 讨厌 挨打\n我 讨厌 我")
    assert found.ngram.order.tolist() == [2, 3, 3, 2, 3, 1]
    assert found.ngram.count.tolist()[:5] == [3, 1, 1, 3, 1]
    assert found.next_words[2][0] == "挨打" and found.rank[2] == 1


def test_a_warm_trace_begins_where_next_words_does():
    run = run_of("lstm", {})
    run = dataclasses.replace(run, settings={"warm_start": [1, 5, 2, 12]})
    found = trace(run, TEXT)
    assert found.start.name == "warm" and "start warm" in found.note
    assert_allclose(
        found.next_probabilities[0], [p for _, p in jaxlm.next_words(run, "")], rtol=1e-4
    )
    fresh = trace(run, TEXT, start="fresh")
    assert not np.allclose(fresh["hidden"][0], found["hidden"][0])


@pytest.mark.parametrize("name", ["ngram", "nplm", "lstm"])
def test_a_distribution_does_not_depend_on_later_tokens(name):
    run = dataclasses.replace(run_of(name, {}), protocol=jaxlm.Protocol(rows=True))
    text = "w1 w2 w3\nw4\n"
    # The prediction after a line break is that of a new line, whether the text goes on or not.
    whole = trace(run, f"{text}w5")
    for end in ("w1 w2 w3", "w1 w2 w3\n", "w1 w2 w3\nw4", text):
        part = trace(run, end)
        assert_allclose(
            part.next_probabilities, whole.next_probabilities[: len(part) + 1], atol=1e-6
        )
    assert_array_equal(whole.next_ids[0], whole.next_ids[6])


def test_a_run_with_nan_has_no_rank():
    run = run_of("rnn", {})
    params = jax.tree.map(lambda leaf: leaf * np.nan, run.params)
    found = trace(dataclasses.replace(run, params=params), TEXT)
    assert np.isnan(found.surprisal).all() and not found.rank.any()


def test_without_a_start_token_the_first_token_has_no_number():
    model, params = build("rnn", {})
    words = tuple(f"w{index}" for index in range(V))
    run = jaxlm.Run(model, params, Words(Vocabulary(words), eos=False))
    found = trace(run, "w1 w2")
    assert np.isnan(found.surprisal[0]) and np.isfinite(found.surprisal[1])
    assert found.rank[0] == 0 and found.next_words[0] == [] and len(found.next_words[2]) == 5
    assert "the first token of the text is not predicted" in found.note


def test_unknown_words_are_marked_and_keep_their_place():
    model, params = build("rnn", {})
    words = (*(f"w{index}" for index in range(V - 2)), UNK, EOS)
    run = jaxlm.Run(model, params, Words(Vocabulary(words, unk=UNK, start=EOS)))
    found = trace(run, "w1 hello\nw2")
    assert found.tokens == ["w1", UNK, EOS, "w2"]
    assert found.unknown.tolist() == [False, True, False, False]
    assert [found.text[a:b] for a, b in found.spans] == ["w1", "hello", "\n", "w2"]
    assert "hello is not in the vocabulary" in found.note


BAD = {
    "": ({}, "has no token to trace"),
    " \t": ({}, "has no token to trace"),
    "hello": ({}, "can read nothing of the text 'hello'"),
    "w1 \udc80": ({}, "not valid UTF-8"),
    "w1": ({"count": 0}, "`count` 0"),
    "w1 w1": ({"chunk": 0}, "`chunk` 0"),
    "w2": ({"start": "hot"}, "start"),
    "w3": ({"start": "warm"}, "`start` warm"),
    "w4": ({"units": {"layers_0/forget": [5]}}, "has the units 0 to 4, not 5"),
    "w5": ({"units": {"layers_1/h": [0]}}, "records no 'layers_1/h'; it records layers_0/input"),
}


@pytest.mark.parametrize("text", BAD)
def test_bad_input_is_one_line(text):
    options, message = BAD[text]
    with pytest.raises(UserError, match=message) as raised:
        trace(run_of("lstm", {}), text, **options)
    assert "\n" not in str(raised.value)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(SettingError, match=r"`folder` .* cannot be written"):
        trace(run_of("lstm", {}), "w1", folder=tmp_path / "file")
    with pytest.raises(UserError, match="has no gates"):
        trace(run_of("ngram", {}), "w1", units={"layers_0/h": [0]})


LINES = ["He said, “naïve”\r\n", "\n", "苹果 🍎!\n", "shalom שלום  x\n"]


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_spans_are_where_the_tokens_stand(kind):
    config = VocabularyConfig(vocab_size=300 if kind == "bpe" else None)
    tokenizer = TOKENIZERS[kind].fit(LINES * 3, config, add_unk=True)
    text = "".join(LINES)
    ids, spans = tokenizer.encode_context(text), tokenizer.spans(text)
    assert spans.shape == (len(ids), 2)
    assert (np.diff(spans[:, 0]) >= 0).all() and (spans[:, 1] > spans[:, 0]).all()
    covered = np.zeros(len(text), bool)
    for index, (begin, end) in zip(ids.tolist(), spans.tolist(), strict=True):
        covered[begin:end] = True
        token, piece = tokenizer.token_text(index), text[begin:end].replace("\r\n", "\n")
        if token == EOS:
            assert piece == "\n"
        elif not token.startswith("<0x"):
            assert token == piece
        else:
            assert bytes([int(token[3:5], 16)]) in piece.encode()
    assert all(
        character.isspace() for character, is_in in zip(text, covered, strict=True) if not is_in
    )


@pytest.mark.full
def test_a_long_text_needs_no_more_memory_for_its_arrays(tmp_path):
    import resource

    text = "to be or not to be\n" * 4000
    tokenizer = Characters.fit([text], VocabularyConfig(), False)
    size = len(tokenizer.vocabulary)
    model = jaxlm.LSTM(size, tokenizer.vocabulary.start_id, hidden_size=128, num_layers=2)
    params = model.init(jax.random.key(0), tokens() % size)["params"]
    run = jaxlm.Run(model, params, tokenizer)
    trace(run, text[:4096])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = trace(run, text, folder=tmp_path)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert grown < sum(array.nbytes for array in found.arrays.values()) / 3


@pytest.mark.full
@pytest.mark.parametrize("kind", [jaxlm.LSTM, jaxlm.NGram])
def test_characters_without_an_unk_are_left_out_and_reported(kind):
    text = jaxlm.read_corpus(["to be or not\n", "be not to\n"], tokens="chars", fractions=(1.0,))
    start = {"start_id": text.vocabulary.start_id}
    sizes = {"order": 3} if kind is jaxlm.NGram else {"embedding_size": 3, "hidden_size": 4}
    model = kind(len(text.vocabulary), **start, **sizes)
    settings = {} if kind is jaxlm.NGram else {"steps": 1, "batch_size": 1, "bptt": 4}
    run = jaxlm.fit(model, text, quiet=True, **settings)
    passage = 'to "be"\r\nor é 🎉 not'
    found, plain = trace(run, passage), trace(run, "to be\nor   not")
    assert [passage[a:b] for a, b in found.skipped.tolist()] == ['"', '"', "é", "🎉"]
    assert [passage[a:b].replace("\r", "") for a, b in found.spans.tolist()] == found.tokens
    assert "".join(found.tokens) == "to be\nor   not"
    assert_array_equal(found.surprisal, plain.surprisal)
    for name, array in found.arrays.items():
        assert_array_equal(array, plain.arrays[name])
    assert '", é and 🎉 are not in the vocabulary' in found.note
    assert "which has no <unk>: the model reads on without them" in found.note
    assert not found.unknown.any() and not len(plain.skipped) and "<unk>" not in plain.note
    with pytest.raises(jaxlm.UserError, match="can read nothing of the text '🎉é'"):
        trace(run, "🎉é")


@pytest.mark.full
def test_words_without_an_unk_are_left_out_line_by_line():
    text = jaxlm.read_corpus("toy", eos=False)
    model = jaxlm.LSTM(len(text.vocabulary), embedding_size=2, hidden_size=3)
    run = jaxlm.fit(model, text, batching="rows", steps=1, batch_size=3, quiet=True)
    found, plain = trace(run, "我 恨 玩具\n恨\n讨厌 我 恨"), trace(run, "我 玩具\n\n讨厌 我")
    assert found.skipped.tolist() == [[2, 3], [7, 8], [14, 15]]
    assert found.tokens == plain.tokens == ["我", "玩具", "讨厌", "我"]
    assert found.spans.tolist() == [[0, 1], [4, 6], [9, 11], [12, 13]]
    assert_array_equal(found.surprisal, plain.surprisal)
