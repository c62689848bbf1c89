"""A run folder from a stranger: it is bounded and checked before anything is built."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_runs

import jaxlm
from jaxlm.data.file_digests import check_file
from jaxlm.data.json_files import MOST_BYTES, parse_json
from jaxlm.data.tokenizers import TOKENIZERS, VocabularyConfig, from_json, to_json
from jaxlm.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("stranger")
    text = jaxlm.read_corpus(tiny_runs.write_text(place / "a.txt", 40, 9))
    model = tiny_runs.make(jaxlm.RNN, text)
    tiny_runs.fit(model, text, place / "run", steps=1, batch_size=4, bptt=5)
    return place / "run"


def changed(section, **values):
    return lambda config: config | {section: config[section] | values}


CONFIGS = {
    "a list": (lambda config: [1, 2], "holds a list, not an object"),
    "a number": (lambda config: 3, "holds a int"),
    "no model": (lambda config: {}, "has no model and no network"),
    "a model of another type": (lambda config: config | {"model": [1]}, "`model` is not a text"),
    "an unknown model": (lambda config: config | {"model": "nobody"}, "not registered"),
    "an unknown setting": (changed("network", nothing=1), "unknown setting of rnn 'nothing'"),
    "a text for a size": (
        changed("network", hidden_size="8"),
        "its network: hidden_size '8': must be",
    ),
    "a size below 1": (changed("network", hidden_size=0), "hidden_size 0: must be at least 1"),
    "a rate of NaN": (changed("network", dropout=float("nan")), "dropout nan: must be at least"),
    "a network of another size": (changed("network", hidden_size=9), "no whole checkpoint"),
    "too large a network": (changed("network", hidden_size=10**9), "more than the .* memory"),
    "a section of another type": (lambda config: config | {"training": 5}, "'training' is not an"),
    "a place of another type": (changed("training", checkpoint_folder=5), "is not a text"),
    "a place elsewhere": (
        changed("training", checkpoint_folder="gs://stranger/runs"),
        "`checkpoint_folder` none: .* in gs://stranger/runs: to read that place",
    ),
    "a protocol of another type": (lambda config: config | {"protocol": 5}, "cannot be loaded"),
    "a protocol of texts": (changed("protocol", rows="yes"), "`rows` 'yes': must be true or false"),
    "a deep list": (
        changed("network", layer_sizes=[[[[[1]]]]]),
        "layer_sizes .*: must be a list",
    ),
}


@pytest.mark.parametrize(("change", "why"), list(CONFIGS.values()), ids=list(CONFIGS))
def test_a_damaged_config_is_one_line(change, why, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "run")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(change(config)))
    with pytest.raises(UserError, match=why) as error:
        jaxlm.load(copy, lambda line: None)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
@pytest.mark.parametrize("content", ["[" * 100_000, "[" * 30 + "]" * 30, "{", "", "\ud800", "5"])
def test_a_file_that_is_no_json_is_one_line(name, content, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "run")
    (copy / name).write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match="is a damaged run: ") as error:
        jaxlm.load(copy)
    assert "\n" not in str(error.value)


def test_a_huge_config_is_not_read(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "run")
    with open(copy / "config.json", "r+b") as file:
        file.truncate(MOST_BYTES["config.json"] + 1)
    with pytest.raises(UserError, match=r"config\.json has 4,194,305 bytes, more than 4,194,304"):
        jaxlm.load(copy)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs a file that never ends")
def test_a_file_that_never_ends_is_not_read_whole(folder, tmp_path, monkeypatch):
    """Its size is 0."""
    copy = shutil.copytree(folder, tmp_path / "run")
    endless = copy / "tokenizer.json"
    endless.unlink()
    endless.symlink_to("/dev/zero")
    monkeypatch.setitem(MOST_BYTES, "tokenizer.json", 1000)
    with pytest.raises(UserError, match="more than 1,000 bytes"):
        jaxlm.load(copy)
    with pytest.raises(ValueError, match="is no file of bytes"):
        check_file(endless, 0, "")


def test_depth():
    assert parse_json('{"a": [[1]]}', "x") == {"a": [[1]]}
    with pytest.raises(ValueError, match="x is nested more than 20 levels deep"):
        parse_json("[" * 21 + "]" * 21, "x")
    assert parse_json("[" * 20 + "]" * 20, "x")


def saved_bpe():
    lines = ["the cat sat on the mat\n"] * 9
    config = VocabularyConfig(vocab_size=262)
    return json.loads(to_json(TOKENIZERS["bpe"].fit(lines, config, False)))


def with_model(saved, change):
    model = json.loads(saved["state"]["model"])
    change(model)
    return saved | {"state": {"model": json.dumps(model)}}


BPE = {
    "a merge of absent tokens": lambda model: model["model"]["merges"].append(["zz", "yy"]),
    "no vocabulary": lambda model: model["model"].pop("vocab"),
    "an id twice": lambda model: model["model"]["vocab"].update({"!": 5}),
    "an id far away": lambda model: model["model"]["vocab"].update({"!": 10**9}),
    "another model": lambda model: model.update(model={"type": "WordPiece"}),
    "no bytes": lambda model: model["model"].update(vocab={"a": 0}, merges=[]),
    "a pattern that is none": lambda model: model["pre_tokenizer"]["pretokenizers"][0].update(
        pattern={"Regex": "(("}
    ),
}


@pytest.mark.parametrize("change", list(BPE.values()), ids=list(BPE))
def test_a_damaged_bpe_model_is_one_line(change):
    saved = saved_bpe()
    assert to_json(from_json(json.dumps(saved))) == to_json(from_json(json.dumps(saved)))
    with pytest.raises(UserError) as error:
        from_json(json.dumps(with_model(saved, change)))
    assert "\n" not in str(error.value)


def test_a_pattern_that_takes_too_many_attempts_is_one_line():
    def change(model):
        model["pre_tokenizer"]["pretokenizers"][0].update(pattern={"Regex": "(a|a|aa)+$"})

    tokenizer = from_json(json.dumps(with_model(saved_bpe(), change)))
    for read in (lambda text: tokenizer.encode([text]), tokenizer.spans):
        with pytest.raises(UserError, match="the BPE model cannot cut the text") as error:
            read("a" * 40 + "b")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": ["a", 1]},
        {"tokens": ["a", "a"]},
        {"tokens": "abc"},
        {"tokens": [["a"]]},
        {"tokens": ["\ud800", "<eos>"]},
        {"unk": 5},
        {"unk": "absent"},
        {"start": ["a"]},
        {"state": []},
        {"state": {"eos": "yes"}},
        {"state": {"unknown": 1}},
        {"tokenizer": "letters"},
        {"tokenizer": ["words"]},
        {"tokenizer": "bpe"},
        {"tokenizer": "bytes", "state": {}},
    ],
    ids=str,
)
def test_a_damaged_tokenizer_is_one_line(change):
    saved = {"tokenizer": "words", "tokens": ["a", "<eos>"], "unk": None, "start": "<eos>"}
    saved |= {"state": {"eos": True}}
    assert from_json(json.dumps(saved)).vocabulary.tokens == ("a", "<eos>")
    with pytest.raises(UserError) as error:
        from_json(json.dumps(saved | change))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["x" * 300, "x" * 5000, "x/" * 3000], ids=len)
def test_a_path_that_is_too_long_is_one_line(name, folder, tmp_path):
    run = jaxlm.load(folder)
    with pytest.raises(UserError, match="is not a run"):
        jaxlm.load(tmp_path / name)
    with pytest.raises(UserError, match=r"cannot write to .*: File name too long"):
        run.save(tmp_path / name)


@pytest.mark.parametrize("content", [b"[" * 100_000, b"5", b"\xff"])
def test_damaged_metadata_of_a_checkpoint_is_one_line(content, folder, tmp_path):
    jaxlm.load(folder).save(tmp_path / "run")
    (metadata,) = (tmp_path / "run").rglob("_CHECKPOINT_METADATA")
    metadata.write_bytes(content)
    warnings = []
    try:
        jaxlm.load(tmp_path / "run", warnings.append)
    except UserError as error:
        assert "no whole checkpoint" in str(error) and "is damaged" in warnings[0]


@pytest.mark.full
def test_damaged_inputs_of_every_kind_are_refused_or_right():
    driver = Path(__file__).parents[2] / "experiments" / "bad_inputs.py"
    argv = [sys.executable, driver, "--inputs", "60", "--seed", "1", "--seconds", "60"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 findings" in done.stdout
