""".safetensors files: runs come back exactly, foreign weights are read, bad files are refused."""

import json
import struct

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import jaxlm
from jaxlm import convert
from jaxlm.data.tokenizers import BPE, VocabularyConfig
from jaxlm.errors import UserError
from jaxlm.interop.formats import read_run, write_run
from jaxlm.interop.torch_layouts import Stored, recognise
from jaxlm.interop.vocabulary_files import make_tokenizer, read_vocabulary
from jaxlm.models.torch_names import tensor_shapes
from jaxlm.runs.protocol import Protocol
from jaxlm.runs.run import Run

WORDS = ["the", "cat", "sat", "<unk>", "<eos>"]
V = len(WORDS)
SMALL = {"vocab_size": V, "start_id": V - 1, "embedding_size": 3}
MODELS = {
    "rnn": jaxlm.RNN(**SMALL, hidden_size=4),
    "gru": jaxlm.GRU(**SMALL, hidden_size=3, tied=True, num_layers=2),
    "lstm": jaxlm.LSTM(**SMALL, hidden_size=4, tied=True, softmax="sampled", sampled_words=2),
    "sizes": jaxlm.LSTM(
        **SMALL, layer_sizes=(4, 3), residual=True, layer_norm=True, learned_start=True
    ),
    "nplm": jaxlm.NPLM(**SMALL, hidden_size=4, num_layers=2, layer_norm=True, direct=True),
}


def run_of(model):
    """Return a run with random parameters; biases are not 0, and one number is -0."""
    generator = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 2), np.int32))["params"]
    params = jax.tree.map(lambda a: generator.normal(0, 0.5, a.shape).astype(np.float32), shapes)
    params["output"]["bias"][0] = -0.0
    tokenizer, _protocol, _ = make_tokenizer(WORDS, "words")
    return Run(model, params, tokenizer, Protocol(rows=True), {"about": "é"}, None, 7)


def read_back(run, folder):
    write_run(run, folder / "x.safetensors")
    return read_run(folder / "x.safetensors", folder / "back")


def assert_same_run(found, expected):
    assert type(found.model) is type(expected.model)
    # The dtype of the platform is written out.
    assert found.model == expected.model.clone(dtype=expected.model.compute_dtype)
    leaves = [jax.tree.leaves(run.params) for run in (found, expected)]
    assert jax.tree.structure(found.params) == jax.tree.structure(expected.params)
    for one, other in zip(*leaves, strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
    assert found.vocabulary == expected.vocabulary
    assert found.tokenizer.state() == expected.tokenizer.state()
    assert (found.protocol, found.step) == (expected.protocol, expected.step)


def test_a_run_comes_back_exactly(tmp_path):
    run = run_of(MODELS["gru"])
    back = read_back(run, tmp_path)
    assert_same_run(back, run)
    assert back.settings["about"] == "é" and back.folder == tmp_path / "back"
    with safe_open(tmp_path / "x.safetensors", framework="numpy") as file:
        assert file.metadata()["format"] == "pt" and "decoder.weight" not in file.keys()  # noqa: SIM118


@pytest.mark.full
@pytest.mark.parametrize("name", [name for name in MODELS if name != "gru"])
def test_a_run_of_each_model_comes_back_exactly(name, tmp_path):
    run = run_of(MODELS[name])
    assert_same_run(read_back(run, tmp_path), run)


@pytest.mark.full
def test_a_run_of_byte_pairs_comes_back_exactly(tmp_path):
    tokenizer = BPE.fit(["the cat\n"] * 9, VocabularyConfig(vocab_size=259), False)
    size = len(tokenizer.vocabulary)
    model = jaxlm.GRU(size, tokenizer.vocabulary.start_id, embedding_size=2, hidden_size=3)
    params = model.init(jax.random.key(0), np.zeros((1, 1), np.int32))["params"]
    run = Run(model, params, tokenizer)
    assert_same_run(read_back(run, tmp_path), run)


def test_models_that_pytorch_lacks_are_refused(tmp_path):
    text = jaxlm.read_corpus("toy", eos=False)
    ngram = jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=2), text, quiet=True)
    with pytest.raises(UserError, match=r"is an n-gram.*write an ARPA file"):
        write_run(ngram, tmp_path / "x.safetensors")
    model = jaxlm.LSTM(**SMALL, softmax="adaptive", cutoffs=(2,))
    with pytest.raises(UserError, match="`softmax` adaptive cannot be written as PyTorch"):
        write_run(Run(model, None, ngram.tokenizer), tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_learned_start_is_written_only_for_readers_that_know_it():
    model = jaxlm.LSTM(**SMALL, hidden_size=4, learned_start=True)
    with pytest.raises(UserError, match="no place for a learned state before a text"):
        tensor_shapes(model)
    assert tensor_shapes(model, with_start=True)["start.0.c"] == (4,)


def test_a_file_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"cannot write .*no/x\.safetensors"):
        write_run(run_of(MODELS["rnn"]), tmp_path / "no" / "x.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.full
def test_the_command_converts_both_ways_and_reads_foreign_weights(tmp_path, capsys):
    text = jaxlm.read_corpus("toy")
    model = jaxlm.GRU(len(text.vocabulary), text.vocabulary.start_id, hidden_size=3)
    run = jaxlm.fit(model, text, folder=tmp_path / "run", quiet=True, steps=3, batch_size=2)
    assert convert.main([f"{tmp_path}/run", f"{tmp_path}/x.safetensors"]) == 0
    assert convert.main([f"{tmp_path}/x.safetensors", f"{tmp_path}/back"]) == 0
    back = jaxlm.load(tmp_path / "back")
    assert jaxlm.perplexity(back).nll == jaxlm.perplexity(run).nll
    foreign, vocabulary = tmp_path / "foreign.safetensors", tmp_path / "vocab.txt"
    save_file(lstm_tensors(), foreign)
    vocabulary.write_text("\n".join(WORDS))
    given = "--vocabulary", str(vocabulary), "--tokens", "word"
    assert convert.main([str(foreign), f"{tmp_path}/theirs", *given]) == 0
    out = capsys.readouterr().out
    assert "emb.weight [5, 3]" in out and "saved in" in out
    with pytest.raises(UserError, match="a run has its own vocabulary"):
        convert.main([f"{tmp_path}/run", f"{tmp_path}/y.safetensors", *given])


# Weights of other programs.


def lstm_tensors(D=3, H=4, layers=1, prefix=""):
    """Return the tensors of an nn.Embedding, an nn.LSTM and an nn.Linear."""
    generator = np.random.default_rng(0)
    shapes = {"emb.weight": (V, D), "out.weight": (V, H), "out.bias": (V,)}
    for layer in range(layers):
        inputs = D if layer == 0 else H
        shapes |= {
            f"rnn.weight_ih_l{layer}": (4 * H, inputs),
            f"rnn.weight_hh_l{layer}": (4 * H, H),
            f"rnn.bias_ih_l{layer}": (4 * H,),
            f"rnn.bias_hh_l{layer}": (4 * H,),
        }
    return {
        prefix + name: generator.normal(0, 1, shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def read_foreign(tensors, folder, words=WORDS, tokens=None):
    """Read tensors with a vocabulary; return the run and the lines that were told."""
    vocabulary, told = folder / "vocab.json", []
    vocabulary.write_text(json.dumps(words))
    save_file(tensors, folder / "x.safetensors")
    run = read_run(
        folder / "x.safetensors",
        folder / "run",
        vocabulary=vocabulary,
        tokens=tokens,
        tell=told.append,
    )
    return run, told


def refused(tensors, folder, **options):
    """Return the line that refuses tensors; nothing is left on the disk."""
    with pytest.raises(UserError) as caught:
        read_foreign(tensors, folder, **options)
    assert "\n" not in str(caught.value) and not (folder / "run").exists()
    return str(caught.value)


def test_weights_of_another_program_become_a_run(tmp_path):
    tensors = lstm_tensors(layers=2, prefix="module.lm.")
    run, told = read_foreign(tensors, tmp_path)
    assert (run.model.sizes, run.model.tied) == ((4, 4), False)
    biases = [tensors[f"module.lm.rnn.bias_{kind}_l1"] for kind in ("ih", "hh")]
    np.testing.assert_array_equal(run.params["layers_1"]["input"]["bias"], sum(biases))
    assert told[0] == "layout: nn.Embedding, nn.LSTM and nn.Linear; read as lstm"
    assert run.protocol == Protocol() and run.tokenizer.eos
    assert jaxlm.next_words(jaxlm.load(tmp_path / "run"), "the dog", 2)


def test_a_vocabulary_is_needed_and_must_fit(tmp_path):
    save_file(lstm_tensors(), tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="`vocabulary` none: the file has weights of 5 tokens"):
        read_run(tmp_path / "x.safetensors", tmp_path / "run")
    assert "lists 4 tokens, and the embedding has 5 rows" in refused(
        lstm_tensors(), tmp_path, words=WORDS[1:]
    )
    assert "lists 'the' more than once" in refused(
        lstm_tensors(), tmp_path, words=["the", *WORDS[:-1]]
    )
    assert "unknown tokens 'bytes'" in refused(lstm_tensors(), tmp_path, tokens="bytes")


def test_a_file_of_jaxlm_takes_no_vocabulary(tmp_path):
    write_run(run_of(MODELS["gru"]), tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="`tokens` words: has no effect"):
        read_run(tmp_path / "x.safetensors", tokens="words")
    with pytest.raises(UserError, match=r"`vocabulary` x: has no effect on x\.arpa"):
        read_run("x.arpa", vocabulary="x")


def changed(tensors, drop=(), **new):
    names = {name: name.replace("__", ".") for name in new}
    kept = {name: array for name, array in tensors.items() if name not in drop}
    return kept | {names[name]: np.float32(array) for name, array in new.items()}


ones = np.ones
WRONG = {
    "no layer": (changed({}, emb__weight=ones((V, 3))), "no recurrent layer"),
    "a lost tensor": (
        changed(lstm_tensors(), ["rnn.weight_hh_l0"]),
        "the tensor rnn.weight_hh_l0 is missing",
    ),
    "a lost bias": (
        changed(lstm_tensors(), ["rnn.bias_hh_l0"]),
        "the tensor rnn.bias_hh_l0 is missing: expected both or none",
    ),
    "a lost layer": (
        changed(
            lstm_tensors(layers=3),
            [f"rnn.{kind}_l1" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")],
        ),
        "the tensor rnn.weight_ih_l1 is missing",
    ),
    "gates": (
        changed(lstm_tensors(), rnn__weight_hh_l0=ones((20, 4))),
        "rnn.weight_hh_l0 [20, 4] has 5 gates of 4 units",
    ),
    "rows": (
        changed(lstm_tensors(), rnn__weight_ih_l0=ones((12, 3))),
        "rnn.weight_ih_l0 [12, 3] does not fit rnn.weight_hh_l0 [16, 4]",
    ),
    "a matrix in the place of a bias": (
        changed(lstm_tensors(), rnn__bias_ih_l0=ones((16, 1))),
        "rnn.bias_ih_l0 [16, 1] is no vector",
    ),
    "a second direction": (
        changed(lstm_tensors(), rnn__weight_ih_l0_reverse=ones((16, 3))),
        "bidirectional",
    ),
    "proj_size": (changed(lstm_tensors(), rnn__weight_hr_l0=ones((2, 4))), "`proj_size`"),
    "layers that do not meet": (
        changed(lstm_tensors(layers=2), rnn__weight_ih_l1=ones((16, 8))),
        "reads 8 numbers, and the layer rnn.l0 before it has 4 units, twice as many: a bidir",
    ),
    "two cells": (
        changed(
            lstm_tensors(layers=2),
            ["rnn.bias_ih_l1", "rnn.bias_hh_l1"],
            rnn__weight_ih_l1=ones((12, 4)),
            rnn__weight_hh_l1=ones((12, 4)),
        ),
        "the layers are of different cells: rnn.l0 is of a lstm, rnn.l1 is of a gru",
    ),
    "no embedding": (changed(lstm_tensors(), ["emb.weight"]), "no tensor is the embedding"),
    "no output": (changed(lstm_tensors(), ["out.weight"]), "the output layer is missing"),
    "another tensor": (
        changed(lstm_tensors(), attention__weight=ones((9, 9))),
        "these tensors have no place in an embedding, recurrent layers and an output layer: "
        "attention.weight [9, 9]",
    ),
    "two output layers": (
        changed(lstm_tensors(), other__weight=ones((V, 4))),
        "expected an embedding [V, 3], an output matrix [V, 4]",
    ),
    "two ways": (
        changed(
            {name: array for name, array in lstm_tensors(3, 3).items() if "rnn" in name},
            a__weight=np.eye(V, 3),
            b__weight=ones((V, 3)),
        ),
        "the tensors fit in several ways: (embedding a.weight, output b.weight) or (embedding b",
    ),
    "not a number": (changed(lstm_tensors(), out__bias=[1, 2, np.nan, 4, 5]), "(NaN)"),
    "infinite": (changed(lstm_tensors(), emb__weight=np.full((V, 3), np.inf)), "emb.weight has a"),
    "an empty tensor": (changed(lstm_tensors(), x=ones((0, 3))), "the tensor x [0, 3] is empty"),
    "a name with a line break": (
        lstm_tensors() | {"a\nb": np.zeros(3, np.float32)},
        "the name of a tensor is no plain text of a line: 'a\\nb'",
    ),
    "integers": (lstm_tensors() | {"n": np.zeros(3, np.int64)}, "the tensor n has the dtype I64"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_tensors_are_named(name, tmp_path):
    tensors, expected = WRONG[name]
    assert expected in refused(tensors, tmp_path)


def test_numbers_beyond_float32_are_refused_and_others_told(tmp_path):
    doubles = {name: array.astype(np.float64) for name, array in lstm_tensors().items()}
    _, told = read_foreign(doubles, tmp_path)
    assert "note: float64 became float32" in told
    doubles["emb.weight"][0, 0] = 1e300
    (tmp_path / "other").mkdir()
    assert "emb.weight has a number that is infinite" in refused(doubles, tmp_path / "other")


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    write_run(run_of(MODELS["gru"]), path)
    whole = path.read_bytes()

    def line(data):
        path.write_bytes(data)
        with pytest.raises(UserError) as caught:
            read_run(path, tmp_path / "run")
        assert not (tmp_path / "run").exists() and "\n" not in str(caught.value)
        return str(caught.value)

    for data in (b"", whole[:9], whole[:-1], whole + b"x", b"\xff" * 99):
        assert "is a damaged .safetensors file" in line(data)
    header = {"a": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}}
    text = json.dumps(header).encode()
    assert "is a damaged .safetensors" in line(struct.pack("<Q", len(text)) + text + b"\0" * 64)
    path.unlink()
    with pytest.raises(UserError, match=r"cannot read .*x\.safetensors"):
        read_run(path)
    for name in ("x.safetensors.gz", "x.pt.gz"):
        with pytest.raises(UserError, match=r"weights are not compressed: leave out \.gz"):
            read_run(tmp_path / name)


@pytest.mark.full
def test_a_file_of_jaxlm_whose_tensors_do_not_fit_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    write_run(run_of(MODELS["gru"]), path)
    with safe_open(path, framework="numpy") as file:
        about, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    def line(tensors=tensors, **entries):
        save_file(tensors, path, metadata=about | entries)
        with pytest.raises(UserError) as caught:
            read_run(path, tmp_path / "run")
        assert not (tmp_path / "run").exists() and "\n" not in str(caught.value)
        return str(caught.value)

    lost = {name: array for name, array in tensors.items() if name != "rnn.weight_hh_l1"}
    assert "the tensor rnn.weight_hh_l1 [9, 3] is missing" in line(lost)
    assert "the tensor x [1] is not of this model" in line(tensors | {"x": np.ones(1, np.float32)})
    wide = tensors | {"encoder.weight": np.ones((5, 4), np.float32)}
    assert "encoder.weight has the shape [5, 4], not [5, 3]" in line(wide)
    config = json.loads(about["jaxlm_config"])
    huge = config | {"network": config["network"] | {"hidden_size": 10**8}}
    assert "memory" in line(jaxlm_config=json.dumps(huge))
    assert "is a damaged run" in line(jaxlm_config="[" * 10**5)
    assert "is a damaged run" in line(jaxlm_tokenizer="{}")
    assert "the entry jaxlm_step" in line(jaxlm_step="x")
    odd = config | {"model": "ngram", "network": {}}
    assert "cannot be written as PyTorch" in line(jaxlm_config=json.dumps(odd))


# Vocabularies.


def test_vocabularies_are_read_in_every_form(tmp_path):
    def read(name, content, tokens="words"):
        (tmp_path / name).write_bytes(content.encode())
        return read_vocabulary(tmp_path / name, tokens)

    assert read("a.txt", "the\r\ncat\r\n") == ["the", "cat"]
    assert read("a.txt", "the\ncat") == ["the", "cat"]
    assert read("a.json", '["the", "cat"]') == ["the", "cat"]
    assert read("a.json", '{"cat": 1, "the": 0}') == ["the", "cat"]
    assert read("a.txt", "a\n \n\\n\n", "char") == ["a", " ", "\n"]
    for name, content, why in (
        ("a.txt", "the\n\ncat\n", "line 2: empty"),
        ("a.json", '{"cat": 1, "the": 1}', "must map each token to its id"),
        ("a.json", "[1]", "expected a JSON list of tokens"),
        ("a.json", "[", "is no JSON list"),
    ):
        with pytest.raises(UserError, match=why):
            read(name, content)
    (tmp_path / "a.txt").write_bytes(b"a\n\xff\n")
    with pytest.raises(UserError, match=r"is not in UTF-8 \(byte 2\)"):
        read_vocabulary(tmp_path / "a.txt", "words")
    with pytest.raises(UserError, match="cannot read"):
        read_vocabulary(tmp_path / "none.txt", "words")


@pytest.mark.parametrize(
    ("listed", "tokens", "start", "unk", "rows"),
    [
        (["a", "<unk>", "<eos>"], "words", "<eos>", "<unk>", False),
        (["a", "<UNK>", "</s>"], "word", "<eos>", "<UNK>", False),
        (["xxunk", "xxpad", "xxbos", "a"], "words", "xxbos", "xxunk", True),
        (["a", "b"], "words", None, None, True),
        (["a", "\n"], "char", "\n", None, False),
        (["a", "b", "<UNK>"], "chars", None, "<UNK>", True),
    ],
)
def test_a_vocabulary_decides_how_text_is_read(listed, tokens, start, unk, rows):
    tokenizer, protocol, _ = make_tokenizer(listed, tokens)
    vocabulary = tokenizer.vocabulary
    assert (vocabulary.start, vocabulary.unk, protocol.rows) == (start, unk, rows)
    assert tokenizer.encode(["a\n"]).tolist()[:1] == [listed.index("a")]


def test_characters_without_a_line_break_are_scored_line_by_line():
    """The vocabulary of another program may lack the line break; lines are then read without it."""
    for unknown in ([], ["<UNK>"]):
        tokenizer, protocol, _ = make_tokenizer(["a", "b", *unknown], "chars")
        model = jaxlm.LSTM(len(tokenizer.vocabulary), None, embedding_size=2, hidden_size=2)
        params = model.init(jax.random.key(0), np.zeros((1, 1), np.int32))["params"]
        run = Run(model, params, tokenizer, protocol)
        found = jaxlm.score(run, ["ab", "bba"], by="sentence")
        assert list(found["tokens"]) == [1, 2]
        if unknown:
            assert list(found["oov"]) == [0, 0]
        assert tokenizer.spans("ab\n").tolist() == [[0, 1], [1, 2]]
        assert tokenizer.encode(["ab\n", "b\n"]).tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    "names",
    [
        ("lstm", "lstm2"),
        ("rnn_low", "rnn_high"),
        ("b.rnn", "b.rnn1"),
        ("a.rnn", "a\u00b2.\u00b2.rnn"),
    ],
)
def test_layers_are_in_the_order_of_numbers_or_of_the_file(names):
    def stored(*shape):
        return Stored(shape, "float32", lambda: np.zeros(shape, np.float32))

    def order(tensors):
        found = recognise(tensors).sources.items()
        return [source.name for name, source in found if "weight_hh" in name]

    tensors = {"words.weight": stored(7, 4), "out.weight": stored(7, 4), "out.bias": stored(7)}
    for name in names:
        for kind in ("ih", "hh"):
            tensors[f"{name}.weight_{kind}_l0"] = stored(16, 4)
            tensors[f"{name}.bias_{kind}_l0"] = stored(16)
    expected = [f"{name}.weight_hh_l0" for name in names]
    assert order(tensors) == expected
    # Where the shapes fit one order alone, the order of the file does not matter.
    tensors |= {"words.weight": stored(7, 3), f"{names[0]}.weight_ih_l0": stored(20, 3)}
    tensors |= {
        f"{names[0]}.weight_hh_l0": stored(20, 5),
        f"{names[1]}.weight_ih_l0": stored(16, 5),
    }
    tensors |= {f"{names[0]}.bias_{kind}_l0": stored(20) for kind in ("ih", "hh")}
    assert order(dict(sorted(tensors.items()))) == expected
