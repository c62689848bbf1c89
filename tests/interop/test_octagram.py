"""The .gram files of librime-octagram, read by an independent look-up."""

import math
import struct
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxlm
from jaxlm.errors import UserError
from jaxlm.interop.double_array import double_array, look_up
from jaxlm.interop.formats import write_run
from jaxlm.interop.octagram import encode, gram_counts

LINES = ["孙悟空打妖怪。\n", "孙悟空见师父\n", "师父见妖怪，一笑\n", "a师父 打妖怪\n", "一笑一笑\n"]


def traverse(units, key, node=0):
    """Return the unit that a key leads to from a unit, as Darts-clone walks; None if none."""
    for byte in key:
        unit = units[node]
        node ^= ((unit >> 10) << ((unit & 0x200) >> 6)) ^ byte
        if units[node] & 0x800000FF != byte:
            return None
    return node


def prefixes(units, word, node):
    """Return the length and the value of each prefix of `word` that ends a key, from a unit."""
    found = []
    for length in range(1, len(word) + 1):
        end = traverse(units, word[:length], node)
        if end is not None and units[end] >> 8 & 1:
            unit = units[end]
            value = units[end ^ ((unit >> 10) << ((unit & 0x200) >> 6))]
            assert value >> 31
            found.append((length, value & 0x7FFFFFFF))
    return found


def read_gram(path):
    """Return the units of a .gram file."""
    data = path.read_bytes()
    name, zero, size, distance = struct.unpack_from("<32sIIi", data)
    assert name.rstrip(b"\0") == b"Rime::Grammar/1.0" and zero == 0
    assert 40 + distance + 4 * size == len(data) and size % 256 == 0
    return np.frombuffer(data, "<u4", size, 40 + distance).tolist()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chinese")
    (folder / "text.txt").write_text("".join(LINES * 3), encoding="utf-8")
    text = jaxlm.read_corpus(folder / "text.txt", tokens="chars", fractions=(1.0,))
    model = jaxlm.NGram(len(text.vocabulary), text.vocabulary.start_id, order=4)
    return jaxlm.fit(model, text, folder=folder / "run", quiet=True)


def expected_counts():
    """Return the count of every text of 2 to 4 Chinese characters, and of those that end a line."""
    counts = Counter()
    for line in LINES * 3:
        line = line.replace("\n", "$")
        for size in (2, 3, 4):
            counts.update(line[place : place + size] for place in range(len(line) - size + 1))
    others = set("。，a \n")
    return {text: count for text, count in counts.items() if not others & set(text) and count > 1}


def test_counts_are_those_of_the_training_text(run):
    assert gram_counts(run) == expected_counts()


def test_a_file_gives_the_counts_of_its_texts(run, tmp_path):
    write_run(run, tmp_path / "x.gram")
    units = read_gram(tmp_path / "x.gram")
    counts = expected_counts()
    for text, count in counts.items():
        for place in range(1, len(text)):
            context, word = encode(text[:place]), encode(text[place:])
            node = traverse(units, context)
            value = int(math.log(count) * 10_000)
            assert (len(word), value) in prefixes(units, word, node)
    for text in ("孙师", "怪妖", "空打师", "笑孙"):
        assert look_up(np.array(units), encode(text)) is None


def test_the_text_for_build_grammar_lists_the_counts(run, tmp_path):
    write_run(run, tmp_path / "counts.txt", "gram-counts")
    lines = (tmp_path / "counts.txt").read_text("utf-8").splitlines()
    assert dict(line.split("\t") for line in lines) == {
        text: str(count) for text, count in expected_counts().items()
    }


def test_keys_are_octagram_s():
    # By octagram's own `encode`.
    assert encode("孙悟空").hex() == "9b59a09fba7a"
    assert encode("一丂$").hex() == "e18e8e0224"


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(
        st.binary(min_size=1, max_size=6).map(lambda b: b.replace(b"\0", b"\1")),
        st.integers(0, 2**31 - 1),
        max_size=60,
    ),
    st.lists(st.binary(min_size=1, max_size=6), max_size=20),
)
def test_a_double_array_has_its_keys_and_no_others(mapping, others):
    units = double_array(sorted(mapping), [mapping[key] for key in sorted(mapping)])
    for key, value in mapping.items():
        assert look_up(units, key) == value
    for key in others:
        if b"\0" not in key:
            assert look_up(units, key) == mapping.get(key)


@pytest.mark.full
def test_a_large_double_array_has_its_keys_and_no_others():
    rng = np.random.default_rng(0)
    keys = sorted({bytes(key) for key in rng.integers(1, 256, (60_000, 4), np.uint8)})
    units = double_array(keys, range(len(keys)))
    assert [look_up(units, key) for key in keys] == list(range(len(keys)))
    others = {bytes(key) for key in rng.integers(1, 256, (20_000, 4), np.uint8)} - set(keys)
    assert not [key for key in others if look_up(units, key) is not None]


def test_bad_keys_are_errors():
    for keys in ([b"b", b"a"], [b"a", b"a"], [b""], [b"a\0b"]):
        with pytest.raises(ValueError, match="keys must be sorted"):
            double_array(keys, [1] * len(keys))


def test_runs_that_have_no_counts_are_errors(run, tmp_path):
    neural = jaxlm.GRU(4, 0, embedding_size=2, hidden_size=2)
    other = jaxlm.Run(neural, {}, run.tokenizer)
    with pytest.raises(UserError, match="the model GRU: only n-grams"):
        write_run(other, tmp_path / "x.gram")
    # An ARPA file does not say which text was counted.
    with pytest.raises(UserError, match="does not say which text it was trained on"):
        write_run(replace(run, settings={}), tmp_path / "x.gram")
    with pytest.raises(UserError, match=r"leave out \.gz"):
        write_run(run, tmp_path / "x.gram.gz")
    english = jaxlm.read_corpus("toy", tokens="words", eos=False)
    sentences = jaxlm.fit(jaxlm.NGram(len(english.vocabulary), order=1), english, quiet=True)
    with pytest.raises(UserError, match="more than once"):
        write_run(sentences, tmp_path / "x.gram")
    assert not list(tmp_path.iterdir())


def test_a_text_that_was_changed_is_an_error(run, tmp_path):
    path = run.folder.parent / "text.txt"
    before = path.read_text("utf-8")
    try:
        path.write_text(before + "孙悟空\n", encoding="utf-8")
        with pytest.raises(UserError, match="was changed since"):
            write_run(run, tmp_path / "x.gram")
    finally:
        path.write_text(before, encoding="utf-8")
    assert not (tmp_path / "x.gram").exists()


@pytest.mark.full
def test_the_same_run_is_an_arpa_that_kenlm_reads(run, tmp_path):
    kenlm = pytest.importorskip("kenlm")
    write_run(run, tmp_path / "x.arpa")
    model = kenlm.Model(str(tmp_path / "x.arpa"))
    line = "孙悟空打妖怪。"
    scores = [score for score, _, _ in model.full_scores(" ".join(line))]
    ids = run.tokenizer.encode([line + "\n"])
    carry = run.model.initial_carry(1)
    inputs = np.concatenate([[run.vocabulary.start_id], ids[:-1]])[None]
    (log_prob_1T,), _ = run.model.token_scores(run.params, inputs, ids[None], carry)
    np.testing.assert_allclose(np.array(scores) * math.log(10), log_prob_1T[0], atol=1e-5)


def test_a_run_over_line_ends_has_an_order_above_its_lines(tmp_path):
    (tmp_path / "text.txt").write_text("".join(LINES * 3), encoding="utf-8")
    text = jaxlm.read_corpus(tmp_path / "text.txt", tokens="chars", fractions=(1.0,))
    made = []
    for order, stream in ((15, True), (9, False)):
        model = jaxlm.NGram(len(text.vocabulary), text.vocabulary.start_id, order, stream=stream)
        made.append(jaxlm.fit(model, text, folder=tmp_path / f"{order}", quiet=True))
    assert gram_counts(made[0]) == gram_counts(made[1])
