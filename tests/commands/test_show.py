"""`show`: the page it writes, in one file without network, and its one-line errors."""

import base64
import functools
import hashlib
import html.parser
import json
import os
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlm
from jaxlm.errors import SettingError
from jaxlm.inspection.pages.building import CHARACTERS, page
from jaxlm.inspection.pages.html import as_json, document, packed
from jaxlm.inspection.pages.numbers import write_numbers
from jaxlm.inspection.pages.texts import default_text
from jaxlm.inspection.pages.views import VIEWS, Options
from jaxlm.inspection.traces import trace
from jaxlm.inspection.units import FEATURES, find_units
from jaxlm.runs.run import Run

LINES = ["the cat sat on the mat\n", "a dog said, hello\n", 'she said "no" to the dog\n']
STRANGE = (
    "the <script>alert(1)</script> cat\u0000 \u202eשלום مرحبا 👩\u200d👩\u200d👧 e\u0301\u2028x "
    "</script><!--\n"
)


# The other views have tests of their own.
core = functools.partial(page, views=("surprise", "next", "gates", "about"))


def untrained(text, kind=jaxlm.LSTM, **options):
    """Return a run with parameters as training would begin with them."""
    vocabulary = text.vocabulary
    options = {"embedding_size": 4, "hidden_size": 6, "num_layers": 2} | options
    model = kind(len(vocabulary), start_id=vocabulary.start_id, init_scale=1.0, **options)
    params = model.init(jax.random.key(1), jnp.zeros((1, 2), jnp.int32))["params"]
    return Run(model, params, text.tokenizer)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """An LSTM by characters, which is not saved, and a trigram by words and a bigram, which are."""
    folder = tmp_path_factory.mktemp("show")
    characters = jaxlm.read_corpus(LINES * 3, tokens="chars", unk="always", fractions=(1.0,))
    words = jaxlm.read_corpus(LINES, tokens="words", unk="always", fractions=(1.0,))
    made = {"lstm": replace(untrained(characters), folder=folder / "lstm")}
    for name, text, order in (("trigram", words, 3), ("bigram", characters, 2)):
        model = jaxlm.NGram(len(text.vocabulary), text.vocabulary.start_id, order=order)
        made[name] = jaxlm.fit(model, text, folder=folder / name, quiet=True)
    return made


class Reader(html.parser.HTMLParser):
    """Collects the elements of a page, and the content of scripts."""

    def __init__(self):
        super().__init__()
        self.elements, self.scripts, self.inside = [], [], False

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        self.inside = tag == "script"

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            attributes, text = self.scripts[-1]
            self.scripts[-1] = attributes, text + data


def read(page):
    reader = Reader()
    reader.feed(page)
    (data,) = [text for attributes, text in reader.scripts if attributes.get("id") == "data"]
    return reader, json.loads(data)


def unpacked(array):
    """Return what `tools.array` of page.js returns."""
    values = np.frombuffer(base64.b64decode(array["data"]), np.dtype(array["dtype"]))
    values = values.reshape(array["shape"])
    if "step" in array:
        values = np.array(array["low"]) + np.array(array["step"]) * values
    return values


@pytest.mark.parametrize("dtype", ["float32", "float16", "int32", "uint16", "uint8"])
def test_a_packed_array_is_unpacked(dtype):
    values = np.array([[-3, 0, 250], [7, 0, -250]])
    found = unpacked(packed(values, dtype, by_column=dtype.startswith("uint")))
    assert found.shape == (2, 3)
    np.testing.assert_allclose(found, values, atol=1e-9)


def test_packing_keeps_what_the_number_of_bits_allows():
    values = np.random.default_rng(3).normal(size=(50, 4)) * [1, 10, 1000, 0]
    spread = np.ptp(values, axis=0)
    for dtype, levels in (("uint8", 255), ("uint16", 65535)):
        error = np.abs(unpacked(packed(values, dtype, by_column=True)) - values).max(axis=0)
        assert (error <= spread / levels / 2 + 1e-12).all()


def test_json_in_a_page_ends_no_script_and_keeps_each_digit():
    data = {"a": STRANGE, "b": [0.1 + 0.2, np.float64(1e-300), np.int64(3), float("inf")]}
    text = as_json(data)
    assert "<" not in text
    assert json.loads(text) == {"a": STRANGE, "b": [0.1 + 0.2, 1e-300, 3, None]}
    assert as_json("\udc80").encode("utf-8") == rb'"\udc80"'


def test_a_document_allows_its_own_scripts_alone():
    reader = Reader()
    reader.feed(document("t", "en", ["p{}"], ["f()", "g('é')"], {"x": 1}))
    (policy,) = [
        attributes["content"]
        for tag, attributes in reader.elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert directives["default-src"] == "'none'"
    assert "unsafe" not in directives["script-src"]
    for script in ("f()", "g('é')"):
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in directives["script-src"]


def test_a_page_has_one_file_and_no_address(runs):
    content = page([runs["bigram"], runs["trigram"]], "the cat sat on the mat")
    reader, data = read(content)
    assert data["order"] == list(VIEWS)
    for tag, attributes in reader.elements:
        assert not {"src", "srcset", "action", "poster", "background"} & attributes.keys(), tag
        assert attributes.get("href", "data:,") == "data:,"
    # The name of a language of elements, which nothing fetches.
    assert set(re.findall(r"https?://[^\s\"'`]+", content)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|import)\s*\(", content)
    assert not re.search(r"\.(inner|outer)HTML|insertAdjacentHTML|document\.write|eval\(", content)


def test_a_strange_text_is_shown_and_not_run(runs):
    text = STRANGE + "said \"<b>\" &amp; 'x'\tend"
    content = core([runs["lstm"], runs["trigram"]], text)
    reader, data = read(content)
    assert data["text"] == text
    assert "alert(1)" not in "".join(
        script for attributes, script in reader.scripts if "id" not in attributes
    )
    assert {tag for tag, _ in reader.elements} == {
        "html", "head", "meta", "link", "title", "style", "body", "div", "script",
    }  # fmt: skip
    frame = data["runs"][0]
    spans = unpacked(frame["spans"])
    assert "".join(text[a:b] for a, b in spans) == text
    assert {text[a:b] for a, b in spans[frame["unknown"]]} >= {"<", "\u0000", "ש", "👩"}


def test_the_numbers_are_those_of_python(runs):
    text = 'the cat said, "hello" to the dog\n' * 3
    names = ["lstm", "trigram", "bigram"]
    given = [runs[name] for name in names]
    _, data = read(core(given, text))
    assert [run["label"] for run in data["runs"]] == names
    for index, run in enumerate(given):
        traced = trace(run, text)
        surprise = data["views"]["surprise"]["runs"][index]
        np.testing.assert_allclose(unpacked(surprise["surprisal"]), traced.surprisal, rtol=1e-6)
        np.testing.assert_array_equal(unpacked(surprise["rank"]), traced.rank)
        known = np.isfinite(traced.surprisal)
        assert surprise["bits"] == pytest.approx(traced.surprisal[known].sum())
        following = data["views"]["next"]["runs"][index]
        words = unpacked(following["numbers"])
        assert [
            [following["words"][number] for number in row if number >= 0] for row in words
        ] == traced.next_words
        np.testing.assert_allclose(
            unpacked(following["probabilities"]), traced.next_probabilities, rtol=1e-6
        )


def test_gates_and_their_correlations_are_those_of_python(runs):
    text = 'the cat said, "hello" to the dog\n' * 3
    run = runs["lstm"]
    _, data = read(core([runs["trigram"], run], text))
    view, traced = data["views"]["gates"], trace(run, text)
    assert (
        "trigram" in view["runs"][0]["missing"]["en"] and "lstm" in view["runs"][0]["missing"]["zh"]
    )
    layers = view["runs"][1]["layers"]
    assert [layer["name"] for layer in layers] == traced.layers
    for layer in layers:
        assert layer["units"] == list(range(6)) and layer["of"] == 6
        names = [array["name"] for array in layer["arrays"]]
        assert names == [*traced.gates(layer["name"]), *traced.states(layer["name"])]
        for array in layer["arrays"]:
            expected = traced[f"{layer['name']}/{array['name']}"]
            np.testing.assert_allclose(unpacked(array["values"]), expected, atol=1e-4)
    assert {item["feature"] for item in view["runs"][1]["found"]} <= FEATURES.keys()
    for item in view["runs"][1]["found"]:
        best = find_units(run, text, item["feature"], top=1)[0]
        first = item["units"][0]
        assert (f"{first['layer']}/{first['array']}", first["unit"]) == (best.name, best.unit)
        assert first["r"] == pytest.approx(best.correlation)


@pytest.mark.full
def test_the_gate_of_an_elman_network_is_shown_once_as_its_state():
    text = jaxlm.read_corpus(LINES, tokens="chars", fractions=(1.0,))
    run = untrained(text, kind=jaxlm.RNN)
    _, data = read(core([run], "the cat sat"))
    layers = data["views"]["gates"]["runs"][0]["layers"]
    assert [[array["name"] for array in layer["arrays"]] for layer in layers] == [["h"], ["h"]]


def test_a_page_without_gates_says_which_models_have_them(runs):
    _, data = read(core([runs["trigram"]], "the cat"))
    missing = data["views"]["gates"]["missing"]
    assert "trigram is an n-gram" in missing["en"] and "lstm" in missing["en"]
    assert "trigram" in missing["zh"] and "lstm" in missing["zh"]


def test_a_short_text_names_no_units(runs):
    _, data = read(core([runs["lstm"]], "the cat"))
    assert data["views"]["gates"]["runs"][0]["found"] == []


def test_every_text_of_the_page_is_in_both_languages(runs):
    _, data = read(page([runs["bigram"]], "the cat"))
    for key, entry in data["texts"].items():
        assert entry.keys() == {"en", "zh"} and all(entry.values()), key
        holes = [set(re.findall(r"\{\w+\}", text)) for text in entry.values()]
        assert holes[0] == holes[1], key


def test_a_long_text_is_cut_and_the_page_says_so(runs):
    text = "the cat sat on the mat\n" * 200
    _, data = read(core([runs["bigram"]], text))
    assert data["text"] == text[:CHARACTERS]
    assert "4,600" in data["notes"][0]["en"] and "2,000" in data["notes"][0]["zh"]


def test_a_view_gets_the_trace_that_another_has_computed(runs):
    options = Options()
    assert options.trace(runs["bigram"], "the") is options.trace(runs["bigram"], "the")


def test_the_same_command_writes_the_same_page(runs, shell, tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    out = tmp_path / "page.html"
    words = (runs["trigram"].folder, runs["bigram"].folder, "the cat", "--out", out)
    code, printed, _ = shell("show", *words)
    assert (code, printed) == (0, f"page: {out} (open it in a browser)\n")
    first = out.read_bytes()
    assert shell("show", *words)[0] == 0
    assert out.read_bytes() == first
    foot = read(first.decode())[1]["foot"]
    assert foot["date"] == "1970-01-02" and "python -m jaxlm.show" in foot["command"]


@pytest.mark.full
def test_a_run_with_its_checkpoints_elsewhere_is_shown(shell, tmp_path):
    place = tmp_path / "elsewhere"
    flags = ("--model", "rnn", "--steps", "2", "--checkpoint-folder", place)
    assert shell("train", *flags, "--out", tmp_path / "run")[0] == 0
    words = ("show", tmp_path / "run", "我 讨厌", "--out", tmp_path / "page.html")
    code, _, err = shell(*words)
    assert code == 2 and f"give --checkpoint-folder {place}" in err
    code, _, err = shell(*words, "--checkpoint-folder", place)
    assert code == 0 and (tmp_path / "page.html").exists()
    figure = ("--figure", "map", "--out", tmp_path / "f.pdf", "--checkpoint-folder", place)
    for more, why in {
        (*figure, "--date", "2000-01-01"): "--date 2000-01-01: has no effect with --figure",
        (*figure, "--lang", "zh"): "--lang zh: has no effect with --figure",
        figure: "--figure map: needs no text",
    }.items():
        code, _, err = shell(*words[:3], *more)
        assert code == 2 and why in err and err.count("\n") == 1


def test_bytes_that_are_no_text_are_shown(tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 au lait\n" * 40)
    text = jaxlm.read_corpus(tmp_path / "latin.txt", tokens="bytes")
    run = jaxlm.fit(jaxlm.NGram(256, text.vocabulary.start_id, order=3), text, quiet=True)
    shown, _ = default_text(run)
    assert shown.startswith("caf\ufffd au lait")
    assert "caf" in page([run], shown, Options(labels=("n",)))


def test_a_text_comes_from_a_file_with_its_numbers(runs, shell, tmp_path):
    text = "the bird sat, on the mat\n" * 120
    (tmp_path / "my.txt").write_text(text)
    flags = ("--text", tmp_path / "my.txt", "--out", tmp_path / "p.html", "--lang", "zh")
    folders = (runs["trigram"].folder, runs["bigram"].folder)
    code, _, err = shell("show", *folders, *flags, "--data", tmp_path / "n.npz")
    assert code == 0
    assert "bird and sat, are not in the vocabulary" in err and "3,000 characters" in err
    assert read((tmp_path / "p.html").read_text("utf-8"))[1]["lang"] == "zh"
    with np.load(tmp_path / "n.npz") as numbers:
        expected = trace(runs["trigram"], text)
        np.testing.assert_array_equal(numbers["trigram/surprisal"], expected.surprisal)
        assert numbers["bigram/tokens"].tolist() == trace(runs["bigram"], text).tokens
        assert numbers["trigram/next_words"].tolist() == expected.next_words
        about = str(numbers["about"])
        assert "in bits" in about and "row T comes after the last token" in about
        assert set(numbers) - {"text", "about"} == {
            line.split(":")[0].replace("run", name, 1)
            for line in about.splitlines()
            if line.startswith("run/")
            for name in ("trigram", "bigram")
        }
    assert shell("show", *folders, *flags, "--data", tmp_path / "n.json")[0] == 0
    numbers = json.loads((tmp_path / "n.json").read_text("utf-8"))
    assert numbers["text"] == text
    assert numbers["trigram"]["surprisal"] == expected.surprisal.tolist()
    assert numbers["trigram"]["next_words"] == expected.next_words
    assert set(numbers["about"]["arrays"]) == set(numbers["trigram"])
    assert "in bits" in numbers["about"]["unit"]


def test_a_run_that_is_called_text_keeps_its_numbers(runs, tmp_path):
    path = tmp_path / "n.npz"
    write_numbers(path, [runs["bigram"]], "the cat", Options(labels=("text",)))
    with np.load(path) as numbers:
        assert numbers["text"] == "the cat"
        assert len(numbers["text/surprisal"]) == len("the cat")


def test_tokens_too_long_for_numpy_are_refused(runs, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxlm.inspection.pages.numbers.MOST_TEXT_BYTES", 20)
    with pytest.raises(SettingError, match=r"`data` .*n\.npz: would need .* write a \.json file"):
        write_numbers(tmp_path / "n.npz", [runs["bigram"]], "the cat", Options(labels=("b",)))
    assert not (tmp_path / "n.npz").exists()


def test_a_file_may_have_another_encoding(runs, shell, tmp_path):
    (tmp_path / "my.txt").write_bytes("the 猫 cat\n".encode("gb18030"))
    flags = ("--text", tmp_path / "my.txt", "--encoding", "gb18030", "--out", tmp_path / "p.html")
    assert shell("show", runs["trigram"].folder, *flags)[0] == 0
    assert read((tmp_path / "p.html").read_text("utf-8"))[1]["text"] == "the 猫 cat\n"


def test_without_a_text_the_corpus_of_the_run_is_read(shell, tmp_path):
    text = jaxlm.read_corpus("toy", eos=False)
    jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=3), text, folder=tmp_path / "r", quiet=True)
    code, _, err = shell("show", tmp_path / "r", "--out", tmp_path / "p.html")
    assert code == 0 and "No text was given: this is the beginning of the train text of toy" in err
    _, data = read((tmp_path / "p.html").read_text("utf-8"))
    assert data["text"] == "我 喜欢 玩具\n我 爱 爸爸\n我 讨厌 挨打"
    assert "没有给出文本" in data["notes"][0]["zh"]


MISTAKES = {
    "no run": ([], "give the folder of a run"),
    "standard output": (["{run}", "a", "--out", "-"], "- is not the name of a file"),
    "no such folder": (["{folder}/lstn", "the cat"], "lstn' does not exist"),
    "a folder that is no run": (["{folder}", "the cat"], "holds no run"),
    "a file for a run": (["{run}/config.json", "the cat"], "is a file; --text reads it"),
    "two texts": (["{run}", "a", "b"], "'a' does not exist"),
    "text and file": (["{run}", "a", "--text", "x"], "--text x: has no effect with a text"),
    "no such file": (["{run}", "--text", "x.txt"], "--text x.txt: does not exist"),
    "text is a folder": (["{run}", "--text", "{folder}"], "is a folder"),
    "encoding": (["{run}", "--text", __file__, "--encoding", "utf-99"], "utf-99"),
    "encoding without a file": (
        ["{run}", "a", "--encoding", "gb18030"],
        "--encoding gb18030: has no effect without --text",
    ),
    "empty": (["{run}", "  "], "the text is empty"),
    "language": (["{run}", "a", "--lang", "de"], "unknown lang 'de'"),
    "start": (["{run}", "a", "--start", "warm"], "--start warm"),
    "ending": (["{run}", "a", "--data", "{out}/x.csv"], "must end in .npz or .json"),
    "out in no folder": (["{run}", "a", "--out", "{out}/no/p.html"], "no folder"),
    "out is a folder": (["{run}", "a", "--out", "{out}"], "is a folder, and no file"),
    "unknown words, no <unk>": (
        ["{run}", "xyzzy"],
        "can read nothing of the text 'xyzzy': it knows 3",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(name, shell, tmp_path_factory, tmp_path):
    folder = tmp_path_factory.getbasetemp() / "show-mistakes"
    run = folder / "run"
    if not run.is_dir():
        text = jaxlm.read_corpus(["a b c", "a c"], eos=False, fractions=(1.0,))
        jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=2), text, folder=run, quiet=True)
    words, expected = MISTAKES[name]
    words = [word.format(folder=folder, run=run, out=tmp_path) for word in words]
    if "--out" not in words:
        words += ["--out", str(tmp_path / "p.html")]
    code, out, err = shell("show", *words)
    assert (code, out) == (2, "")
    assert expected in err and len(err.splitlines()) == 1 and err.startswith("error: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.full
@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_page_in_a_folder_of_another_is_refused(runs, shell, tmp_path):
    tmp_path.chmod(0o500)
    code, _, err = shell("show", runs["bigram"].folder, "the", "--out", tmp_path / "p.html")
    tmp_path.chmod(0o700)
    assert code == 2 and "cannot be written" in err


@pytest.mark.full
def test_a_page_of_a_thousand_characters_and_512_units_is_small():
    text = jaxlm.read_corpus(LINES * 3, tokens="chars", unk="always", fractions=(1.0,))
    run = untrained(text, embedding_size=64, hidden_size=256)
    content = page([run], ("".join(LINES) * 20)[:1000])
    assert len(content.encode("utf-8")) < 2_000_000
    layers = read(content)[1]["views"]["gates"]["runs"][0]["layers"]
    assert all(64 <= len(layer["units"]) < layer["of"] == 256 for layer in layers)
