"""Minimal pairs: ties, sums, files of pairs, and sentences that are split into words."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxlm
from jaxlm import pairs as command
from jaxlm.data import splitting
from jaxlm.data.splitting import split_words
from jaxlm.errors import SettingError, UserError
from jaxlm.evaluation import scoring
from jaxlm.evaluation.pairs import Fields, Pair, read_pairs

LINES = ["the cat sat on the mat", "the dog sat on the log", "a cat saw the dog"]
PAIRS = [
    ("the cat sat on the log", "the cat sat the on log"),
    ("a dog saw the cat", "dog a saw the cat"),
    ("the mat", "mat the sat on a log"),
    ("the zebra sat", "the gnu sat"),
]


def counted(order=3, stream=False, **options):
    text = jaxlm.read_corpus([f"{line}\n" for line in LINES * 3], **options)
    model = jaxlm.NGram(len(text.vocabulary), order=order, stream=stream)
    return jaxlm.fit(model, text, quiet=True)


@pytest.fixture(scope="module")
def run():
    return counted(unk="always")


def lstm(draw):
    """Return an LSTM whose parameters are drawn by `draw`, of a shape."""
    tokenizer = jaxlm.read_corpus(LINES, fractions=(1.0,), unk="always").tokenizer
    model = jaxlm.LSTM(len(tokenizer.vocabulary), hidden_size=2, embedding_size=2)
    tokens = np.zeros((1, 2), np.int32)
    shapes = jax.eval_shape(lambda key: model.init(key, tokens), jax.random.key(0))["params"]
    params = jax.tree.map(lambda leaf: np.float32(draw(leaf.shape)), shapes)
    return jaxlm.Run(model, params, tokenizer, jaxlm.Protocol(rows=True))


def constant():
    """Return an LSTM that gives each token the same probability."""
    return lstm(np.zeros)


def write_blimp(folder, paradigms):
    """Write {paradigm: (phenomenon, pairs)} as BLiMP's files."""
    folder.mkdir(exist_ok=True)
    for name, (phenomenon, pairs) in paradigms.items():
        records = [
            {"sentence_good": a, "sentence_bad": b, "UID": name, "linguistics_term": phenomenon}
            for a, b in pairs
        ]
        text = "".join(f"{json.dumps(record)}\n" for record in records)
        (folder / f"{name}.jsonl").write_text(text)
    (folder / "README.md").write_text("no pairs\n")
    return folder


def test_a_constant_model_scores_exactly_50_with_ties():
    run = constant()
    same_length = [("the cat sat", "cat the sat"), ("a dog", "dog a"), ("the cat", "mat on")]
    found = jaxlm.pairs(run, same_length)
    assert found.accuracy == {"LSTM": 50.0} and found.ties == {"LSTM": 3}
    # Under the mean the length of a sentence does not count.
    lengths = [(" ".join(["the"] * n), " ".join(["a"] * m)) for n in range(1, 9) for m in (1, 5, 7)]
    assert jaxlm.pairs(run, lengths, measure="mean").accuracy == {"LSTM": 50.0}
    # Under the sum it does: the shorter sentence wins.
    assert jaxlm.pairs(run, [("the cat", "the cat sat")]).accuracy == {"LSTM": 100.0}


def test_the_order_of_the_words_is_a_tie_under_a_unigram():
    run = counted(order=1, unk="always")
    pairs = [("the cat sat on a log", "log a on the sat cat"), ("a dog saw", "saw a dog")]
    found = jaxlm.pairs(run, pairs)
    assert found.ties == {"NGram": 2} and found.accuracy == {"NGram": 50.0}


@pytest.mark.parametrize("tokens", ["words", "chars", "bpe"])
@pytest.mark.parametrize("start", ["fresh", "warm"])
def test_scores_are_the_sums_of_perplexity(tokens, start, tmp_path):
    run = counted(tokens=tokens, unk="auto", stream=True)
    pairs = [pair for pair in PAIRS if "zebra" not in pair[0]]
    by_line = jaxlm.by_lines(run, start)
    sums, counts = {}, {}
    for text in {text for pair in pairs for text in pair}:
        (tmp_path / "line.txt").write_text(f"{text}\n")
        report = jaxlm.perplexity(by_line, text=tmp_path / "line.txt")
        sums[text], counts[text] = -report.nll, report.tokens
    measures = {
        ("sum", None): lambda text: sums[text],
        ("mean", None): lambda text: sums[text] / counts[text],
        ("length", 0.5): lambda text: sums[text] / counts[text] ** 0.5,
        ("length", None): lambda text: sums[text] / counts[text] ** 0.8,
    }
    for (measure, alpha), score in measures.items():
        found = jaxlm.pairs(run, pairs, start=start, measure=measure, alpha=alpha)
        columns = found.columns
        for index, (good, bad) in enumerate(pairs):
            assert columns["score_good"][index] == pytest.approx(score(good), rel=1e-6)
            assert columns["score_bad"][index] == pytest.approx(score(bad), rel=1e-6)
            point = 1.0 if score(good) > score(bad) else 0.0
            assert columns["point"][index] == point


def test_scores_do_not_depend_on_the_batches(monkeypatch):
    generator = np.random.default_rng(0)
    run = lstm(lambda shape: generator.normal(0, 0.5, shape))
    whole = jaxlm.pairs(run, PAIRS)
    monkeypatch.setattr(scoring, "BUCKET", 1)
    monkeypatch.setattr(scoring, "MOST_ROWS", 2)
    parts = jaxlm.pairs(run, PAIRS)
    np.testing.assert_allclose(parts.good, whole.good, rtol=1e-5)
    np.testing.assert_allclose(parts.bad, whole.bad, rtol=1e-5)
    # The words zebra and gnu are both unknown.
    assert parts.points[0, 3] == whole.points[0, 3] == 0.5


def test_means_are_over_paradigms_and_unknown_words_are_counted(run, tmp_path):
    blimp = write_blimp(
        tmp_path / "blimp",
        {
            "order_1": ("order", PAIRS[:1] * 3),
            "order_2": ("order", [tuple(reversed(PAIRS[0]))]),
            "words": ("other", [PAIRS[3], PAIRS[0]]),
        },
    )
    found = jaxlm.pairs([run, replace(run, folder=Path("b"))], blimp)
    assert found.names == ["NGram", "b"] and len(found.pairs) == 6
    table = found.by_paradigm()
    assert table["paradigm"] == ["order_1", "order_2", "words"] and table["pairs"] == [3, 1, 2]
    assert table["accuracy_NGram"] == table["accuracy_b"] == [100.0, 0.0, 75.0]
    assert table["ties_b"] == [0, 0, 1]
    assert table["unknown_b"] == pytest.approx([0, 0, 100 * 2 / 18])
    phenomena = found.by_phenomenon()
    assert phenomena["phenomenon"] == ["order", "other"] and phenomena["paradigms"] == [2, 1]
    assert phenomena["accuracy_NGram"] == [50.0, 75.0] and phenomena["pairs"] == [4, 2]
    assert found.accuracy == pytest.approx({"NGram": 175 / 3, "b": 175 / 3})


def test_a_table_with_other_names_is_read(tmp_path):
    path = tmp_path / "my.tsv"
    path.write_text('\ufeffkind\tright\twrong\na\tthe cat\tcat the\nb\t"a ""dog"""\tdog a\n')
    pairs = read_pairs(path, Fields("right", "wrong", group="kind"))
    assert pairs == [Pair("the cat", "cat the", "a"), Pair('a "dog"', "dog a", "b")]
    path = tmp_path / "my.csv"
    path.write_text('right;wrong\r\n"the, cat";cat the\r\n')
    assert read_pairs(path, Fields("right", "wrong")) == [Pair("the, cat", "cat the", "my")]
    path = tmp_path / "a.jsonl"
    path.write_text('{"sentence_good": "a", "sentence_bad": "b", "UID": null}\n')
    assert read_pairs(path) == [Pair("a", "b", "a")]


GOOD = b'{"sentence_good": "a", "sentence_bad": "b"}\n'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"sentence_good": "a"}\n', "line 2, has no field sentence_bad"),
        ("a.jsonl", b'{"sentence_good": "a"\n', "line 2, is no JSON object"),
        ("a.jsonl", b"[1]\n", "line 2, is no JSON object"),
        ("a.jsonl", b"[" * 100000 + b"\n", "line 2, is no JSON object"),
        ("a.jsonl", b'{"sentence_good": "\xff", "sentence_bad": "b"}', "line 2, is not UTF-8"),
        ("a.jsonl", b'{"sentence_good": 3, "sentence_bad": "b"}', "is 3, not a text"),
        ("a.jsonl", b'{"sentence_good": null, "sentence_bad": "b"}', "is None, not a text"),
        ("a.jsonl", b'{"sentence_good": "a", "sentence_bad": " "}', "sentence_bad is empty"),
        ("a.jsonl", b'{"sentence_good": "a\\nb", "sentence_bad": "b"}', "has a line break"),
        ("a.jsonl", b'{"sentence_good": "\\ud800", "sentence_bad": "b"}', "is no Unicode text"),
        ("a.tsv", b"sentence_good\tsentence_bad\na\tb\tc\n", "line 2, has 3 cells"),
        ("a.tsv", b'sentence_good\tsentence_bad\na\t"b\n', "is no CSV"),
        ("a.tsv", b"good\tbad\na\tb\n", "has no field sentence_good, but good, bad"),
        ("a.tsv", b"go\x0bod\tbad\na\tb\n", "but go\\x0bod, bad"),
        ("a.tsv", b"", "has no pairs"),
    ],
)
def test_a_bad_line_is_one_error_with_its_number(name, content, message, tmp_path):
    path = tmp_path / name
    path.write_bytes((GOOD if name.endswith("jsonl") else b"") + content)
    with pytest.raises(UserError) as caught:
        read_pairs(path)
    assert message in str(caught.value) and str(path) in str(caught.value)
    assert len(str(caught.value)) < 500 and len(str(caught.value).splitlines()) == 1


def test_bad_settings_and_pairs_are_errors(run, tmp_path):
    (tmp_path / "empty").mkdir()
    for bad, message in [
        ([], "no pair"),
        ("nowhere.jsonl", "does not exist"),
        (tmp_path / "empty", "has no file of pairs"),
        (["the cat"], "not (good, bad)"),
        ([("a", "b", "c")], "has 3 parts"),
        ([("a", 2)], "pair 1: bad is 2, not a text"),
    ]:
        with pytest.raises(UserError) as caught:
            jaxlm.pairs(run, bad)
        assert message in str(caught.value)
    for options, message in [
        ({"measure": "max"}, "unknown measure"),
        ({"alpha": 0.5}, "has no effect"),
        ({"measure": "length", "alpha": 2}, "between 0"),
        ({"split": "moses"}, "unknown split"),
        ({"start": "carried"}, "unknown start"),
    ]:
        with pytest.raises(UserError) as caught:
            jaxlm.pairs(run, PAIRS, **options)
        assert message in str(caught.value)
    with pytest.raises(SettingError, match="needs a stretch"):
        jaxlm.pairs(constant(), PAIRS, start="warm")
    with pytest.raises(UserError, match=r"zebra.*is not among"):
        jaxlm.pairs(counted(), PAIRS)
    damaged = lstm(lambda shape: np.full(shape, math.nan))
    with pytest.raises(UserError, match="gives no number"):
        jaxlm.pairs(damaged, PAIRS)


@pytest.mark.parametrize(
    ("split", "text", "expected"),
    [
        ("treebank", "The dog's tail didn't wag.", "The dog 's tail did n't wag ."),
        ("wikitext", "The dog's tail didn't wag.", "The dog 's tail didn 't wag ."),
        ("treebank", "We can't and cannot, OK?", "We ca n't and can not , OK ?"),
        ("wikitext", "We can't and cannot, OK?", "We can 't and cannot , OK ?"),
        ("treebank", '"I\'m (not)  here," he said', '" I \'m ( not )  here , " he said'),
        ("none", "It's so.", "It's so."),
        ("treebank", "", ""),
    ],
)
def test_words_are_split_as_in_the_training_text(split, text, expected):
    assert split_words(text, split)[0] == expected


@settings(max_examples=60, deadline=None, database=None)
@given(
    st.text(st.sampled_from("aN n'\"`.,()t-s$!“”’ \u00a0"), max_size=24),
    st.sampled_from(["treebank", "wikitext"]),
)
def test_each_part_of_a_split_text_is_found_as_written(text, split):
    cut, offsets = split_words(text, split)
    assert len(offsets) == len(cut) + 1 and offsets[-1] == len(text)
    for index, character in enumerate(cut):
        first, last = offsets[index : index + 2]
        assert text[first:last] == character or (first == last and character == " ")
    words = splitting._tokenizer().tokenize(text)
    aligned = list(splitting._aligned(text, words))
    assert len(aligned) == len(words) and "".join(text.split()) == "".join(
        text[first:last] for first, last in aligned
    )


def test_score_has_rows_of_the_words_as_written(tmp_path):
    lines = ["the dog 's tail did n't wag .", "it is a dog ."]
    text = jaxlm.read_corpus(lines * 3, unk="always", fractions=(1.0,))
    run = jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=3), text, quiet=True)
    written = ["the dog's tail didn't wag."]
    table = jaxlm.score(run, written, split="treebank")
    assert table["word"] == ["the", "dog's", "tail", "didn't", "wag.", "<eos>"]
    assert table["tokens"] == [1, 2, 1, 2, 2, 1] and not any(table["oov"])
    assert jaxlm.score(run, written)["oov"][1]
    by_hand = jaxlm.score(run, lines[:1])["surprisal"]
    groups = [by_hand[0:1], by_hand[1:3], by_hand[3:4], by_hand[4:6], by_hand[6:8], by_hand[8:]]
    assert table["surprisal"] == pytest.approx([sum(group) for group in groups], rel=1e-6)
    found = jaxlm.pairs(run, [(written[0], lines[0])], split="treebank")
    assert found.ties == {"NGram": 1}


def test_a_missing_nltk_is_one_line(run, monkeypatch):
    splitting._tokenizer.cache_clear()
    monkeypatch.setitem(sys.modules, "nltk.tokenize.destructive", None)
    for ask in (jaxlm.pairs, lambda *args, **more: jaxlm.score(args[0], ["a"], **more)):
        with pytest.raises(UserError, match="pip install nltk"):
            ask(run, PAIRS, split="treebank")


def test_the_module_of_the_command_is_the_function_too(run):
    assert command(run, PAIRS[:1]).accuracy == jaxlm.pairs(run, PAIRS[:1]).accuracy
