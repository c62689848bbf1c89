"""ARPA files that jaxlm writes are read back unchanged, and KenLM gives the same probabilities."""

import gzip
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxlm.errors import UserError
from jaxlm.interop import arpa, arpa_text
from jaxlm.interop.arpa import escape, read_arpa, unescape, write_arpa
from jaxlm.ngrams.counts import Sequences, count_ngrams
from jaxlm.ngrams.smoothing import FALLBACK, SMOOTHINGS, modified_kneser_ney

FIXTURES = Path(__file__).parent / "fixtures"
# Tokens of every kind that needs an escape, words that only look like escapes, and a line end.
TOKENS = ["a", " ", "\n", "\\", "", "<s>", "</s>", r"\x20", "<unk>", "<UNK>", r"1\/2", "我", "\x85"]
END = TOKENS.index("\n")
V = len(TOKENS)
WORDS = st.integers(0, V - 1).filter(lambda word: word != END)
ROWS = st.lists(st.lists(WORDS, min_size=4, max_size=9), min_size=1, max_size=6)
# Kinds of sequences, with (end, across_lines) of their files.
KINDS = {"lines": ("\n", False), "rows": (None, False), "stream": ("\n", True)}


def sequences(kind, rows):
    if kind == "rows":
        return Sequences.rows([np.array(row, np.int32) for row in rows], V)
    ids = np.array([word for row in rows for word in [*row, END]], np.int32)
    return Sequences.lines(ids, END, V) if kind == "lines" else Sequences.stream(ids, END)


def estimate(kind, rows, smoothing="modified-kneser-ney", order=3):
    return SMOOTHINGS[smoothing](count_ngrams(sequences(kind, rows), order, V)).tables


def write(path, kind, tables):
    end, across_lines = KINDS[kind]
    write_arpa(path, tables, TOKENS, end=end, across_lines=across_lines)


def assert_same(found, expected, rtol=1e-7):
    assert found.sizes == expected.sizes
    for name, array in expected.arrays().items():
        np.testing.assert_allclose(found.arrays()[name], array, rtol, err_msg=name)


def random_rows(seed=0, count=40):
    generator = np.random.default_rng(seed)
    words = [word for word in range(V) if word != END]
    chances = np.arange(len(words), 0, -1) ** 2.0
    return [
        generator.choice(words, size, p=chances / chances.sum()).tolist()
        for size in generator.integers(4, 12, count)
    ]


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10)
@given(rows=ROWS, order=st.integers(1, 4))
def test_round_trip_keeps_tables_and_tokens(tmp_path_factory, smoothing, kind, rows, order):
    tables = estimate(kind, rows, smoothing, order)
    path = tmp_path_factory.mktemp("round") / "model.arpa"
    write(path, kind, tables)
    model = read_arpa(path)
    assert_same(model.tables, tables)
    assert model.tokens == tuple("<eos>" if kind == "lines" and t == "\n" else t for t in TOKENS)
    if order > 1:  # A model of order 1 has no contexts, so the file does not show `across_lines`.
        assert model.across_lines == (kind == "stream")
    assert [file.name for file in path.parent.iterdir()] == ["model.arpa"]


@pytest.mark.parametrize("block", [1, 7])
def test_the_size_of_blocks_does_not_change_the_file(tmp_path, monkeypatch, block):
    tables = estimate("lines", random_rows())
    write(tmp_path / "whole.arpa", "lines", tables)
    monkeypatch.setattr(arpa, "BLOCK", block)
    monkeypatch.setattr(arpa_text, "BLOCK", block)
    write(tmp_path / "blocks.arpa", "lines", tables)
    assert (tmp_path / "whole.arpa").read_bytes() == (tmp_path / "blocks.arpa").read_bytes()
    assert_same(read_arpa(tmp_path / "blocks.arpa").tables, tables)


def test_gzip_is_recognised_by_its_bytes(tmp_path):
    tables = estimate("lines", random_rows())
    write(tmp_path / "model.arpa.gz", "lines", tables)
    write(tmp_path / "model.arpa", "lines", tables)
    packed = (tmp_path / "model.arpa.gz").read_bytes()
    assert gzip.decompress(packed) == (tmp_path / "model.arpa").read_bytes()
    (tmp_path / "renamed").write_bytes(packed)
    assert_same(read_arpa(tmp_path / "renamed").tables, tables)
    write(tmp_path / "model.arpa.gz", "lines", tables)
    assert (tmp_path / "model.arpa.gz").read_bytes() == packed


@given(st.lists(st.text(max_size=5) | st.text("\\xu0e2 <s>/", max_size=8), unique=True))
def test_escapes_are_unique_and_reversible(tokens):
    reserved = {"<s>", "</s>"}
    words = [escape(token, reserved) for token in tokens]
    assert [unescape(word) for word in words] == tokens
    assert len(set(words)) == len(words)
    for word in words:
        assert re.split(r"[ \t\r\n]+", word) == [word]
        assert word not in reserved
        word.encode("utf-8")


@pytest.mark.parametrize(
    ("token", "word"),
    [
        (" ", r"\x20"),
        # Only ASCII blanks divide words in KenLM and SRILM.
        ("a\u2003b", "a\u2003b"),
        ("10\xa0000", "10\xa0000"),
        ("", r"\e"),
        ("<s>", r"\x3cs>"),
        (r"1\/2", r"1\/2"),  # PTB writes fractions with \/, and KenLM must find them in its text
        ("\\", "\\"),
        (r"\x20", r"\\x20"),
        (r"\/ ", r"\\/\x20"),
    ],
)
def test_escapes_of_special_tokens(token, word):
    assert escape(token, {"<s>", "</s>"}) == word


def kenlm_log_probs(model, kind, words, state_type):
    """Return KenLM's log₁₀ probability of each word; contexts end where `kind` ends them."""
    state, following, found = state_type(), state_type(), []
    model.NullContextWrite(state) if kind == "stream" else model.BeginSentenceWrite(state)
    if kind == "stream":
        model.BaseScore(state, r"\x0a", following)
        state, following = following, state
    for word in words:
        if word is None:
            model.BeginSentenceWrite(state)
            continue
        found.append(model.BaseScore(state, word, following))
        state, following = following, state
        if word == "</s>":
            model.BeginSentenceWrite(state)
    return np.array(found)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_kenlm_gives_the_same_probabilities(tmp_path, kind, smoothing):
    kenlm = pytest.importorskip("kenlm")
    tables = estimate(kind, random_rows(0), smoothing)
    write(tmp_path / "model.arpa", kind, tables)
    names = [escape(token, {"<s>", "</s>", "<UNK>"}) for token in TOKENS]
    if kind == "lines":
        names[END] = "</s>"
    rows = random_rows(1)
    text = sequences(kind, rows)
    probabilities, _ = tables.score(tables.contexts(text.previous[None]), text.words[None])
    if kind == "rows":  # None: a line begins
        words = [word for row in rows for word in [None, *(names[word] for word in row)]]
    else:
        words = [names[word] for word in text.words]
    found = kenlm_log_probs(kenlm.Model(str(tmp_path / "model.arpa")), kind, words, kenlm.State)
    possible = probabilities[0] > 0
    assert possible.sum() > 100
    np.testing.assert_allclose(
        found[possible], np.log10(probabilities[0][possible]), rtol=0, atol=1e-4
    )
    assert (found[~possible] <= -99).all()


@pytest.mark.parametrize("name", ["farm", "lecture"])
def test_estimates_equal_those_of_lmplz(name):
    """Compare modified Kneser-Ney with KenLM's lmplz on all n-grams.

    lmplz of KenLM 0.3.0 made the ARPA files: `lmplz -o 3 < farm.txt` and
    `lmplz -o 3 --discount_fallback < lecture.txt`, each compressed by `gzip -9n`. A small random
    grammar generated farm.txt, which has enough n-grams to estimate all discounts. lecture.txt is
    too small for that. KenLM always lists <unk>, which has a share of the uniform distribution
    below the 1-grams. The vocabulary of our model lists <unk> too.
    """
    model = read_arpa(FIXTURES / f"{name}.arpa.gz")
    assert model.tokens[:2] == ("<unk>", "<eos>")
    assert not model.across_lines
    ids = {token: index for index, token in enumerate(model.tokens)}
    lines = (FIXTURES / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    text = np.array([ids[word] for line in lines for word in [*line.split(), "<eos>"]], np.int32)
    size = len(ids)
    found = modified_kneser_ney(count_ngrams(Sequences.lines(text, ids["<eos>"], size), 3, size))
    # A single note names all orders with fallback discounts.
    assert found.discounts.count(FALLBACK) == (3 if name == "lecture" else 0)
    assert len(found.notes) == (name == "lecture")
    # An error of 1e-5 in log₁₀.
    assert_same(model.tables, found.tables, rtol=2.3e-5)


@pytest.mark.parametrize("name", ["none/model.arpa", "file/model.arpa", "folder"])
def test_an_unwritable_path_is_an_error_and_leaves_no_file(tmp_path, name):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=f"cannot write .*{name}: "):
        write(tmp_path / name, "lines", estimate("lines", random_rows()))
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["file", "folder"]


def test_tokens_must_fit_the_tables(tmp_path):
    tables = estimate("lines", random_rows())
    with pytest.raises(ValueError, match="13 in the tables"):
        write_arpa(tmp_path / "x.arpa", tables, TOKENS[1:], end="\n", across_lines=False)
    with pytest.raises(ValueError, match="end '<eos>'"):
        write_arpa(tmp_path / "x.arpa", tables, TOKENS, end="<eos>", across_lines=False)
