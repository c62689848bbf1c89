"""Reports of perplexity: counts, units and the protocol."""

import dataclasses
import math

import jax
import numpy as np
import pytest

import jaxlm
from jaxlm.data.encoding import Split
from jaxlm.data.sources import EmbeddedText
from jaxlm.data.tokenizers import Words
from jaxlm.data.vocabulary import EOS, Vocabulary
from jaxlm.evaluation.perplexity import Report, open_split, report, score_split, write_per_token
from jaxlm.evaluation.scoring import TokenScores
from jaxlm.runs.protocol import Protocol
from jaxlm.training.state import init_params

TEXT = "the cat <unk> on\n\nthe mat\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    for split in ("train", "valid", "test"):
        (folder / f"{split}.txt").write_text(TEXT * (3 if split == "train" else 1))
    return folder


def untrained(folder, **options):
    text = jaxlm.read_corpus(str(folder), **options)
    model = jaxlm.GRU(vocab_size=len(text.vocabulary), embedding_size=4, hidden_size=4)
    params = init_params(model, jax.random.key(0))
    return jaxlm.Run(model, params, text.tokenizer, settings={"text": {"corpus": str(folder)}})


def test_a_report_has_exact_sums_and_counts(folder):
    run = untrained(folder)
    split = open_split(run)
    assert split.name.endswith("test")
    scores = score_split(run, split)
    found = report(run, split, scores)
    assert found.tokens == len(scores.log_prob) == 9  # 6 words and 3 line ends
    assert found.unknown == 1
    assert found.nll == pytest.approx(-np.float64(scores.log_prob).sum())
    assert found.perplexity == pytest.approx(math.exp(found.nll / 9))
    assert float(jaxlm.perplexity(run)) == found.perplexity
    assert found.bits == pytest.approx(found.nll / math.log(2))
    assert (found.size.words, found.size.lines) == (6, 3)
    assert found.size.characters == found.size.bytes == len(TEXT)


def test_bits_per_character_are_computed_from_bits_per_token(folder):
    """A uniform model over V tokens has log2 V bits per token, for every unit of tokens."""
    for tokens, count in (("chars", len(TEXT)), ("bytes", len(TEXT.encode()))):
        run = untrained(folder, tokens=tokens)
        zero = jax.tree.map(np.zeros_like, run.params)
        found = jaxlm.perplexity(dataclasses.replace(run, params=zero))
        assert found.tokens == count
        assert found.bits / found.size.characters == pytest.approx(
            math.log2(len(run.vocabulary)) * count / len(TEXT), rel=1e-5
        )


def test_a_report_prints_its_protocol(folder):
    printed = str(jaxlm.perplexity(untrained(folder)))
    for part in (
        "9 tokens, each once, the first included",
        "one stream",
        "<eos> counted",
        "1 <unk>",
    ):
        assert part in printed


@pytest.mark.quick_for("all")
@pytest.mark.parametrize("positions", ["all", "last"])
def test_rows_are_scored_independently(folder, positions):
    run = untrained(folder)
    run = dataclasses.replace(run, protocol=Protocol(rows=True, last_only=positions == "last"))
    found = jaxlm.perplexity(run)
    by_hand = []
    for line in ("the cat <unk> on <eos>", "the mat <eos>"):
        ids = run.vocabulary.ids(line.split())
        inputs = np.concatenate([[run.vocabulary.start_id], ids[:-1]])[None]
        variables = {"params": run.params}
        nll_1T, _ = run.model.apply(variables, inputs, ids[None], method="nll")
        by_hand.extend(np.asarray(nll_1T)[0, -1 if positions == "last" else 0 :])
    assert found.tokens == len(by_hand)
    assert found.nll == pytest.approx(sum(by_hand), rel=1e-5)
    assert "state reset at each line" in found.protocol


def test_mistakes_are_errors(folder, tmp_path):
    run = untrained(folder)
    with pytest.raises(jaxlm.UserError, match="does not exist"):
        jaxlm.perplexity(run, text=tmp_path / "none.txt")
    with pytest.raises(jaxlm.UserError, match=r"dev.*train, valid, test"):
        jaxlm.perplexity(run, "dev")
    (tmp_path / "new.txt").write_text("a dog\n")
    with pytest.raises(jaxlm.UserError, match="say what it was trained on"):
        jaxlm.perplexity(jaxlm.Run(run.model, run.params, run.tokenizer))


def test_arguments_without_effect_are_errors(folder, tmp_path):
    run = untrained(folder)
    path = tmp_path / "new.txt"
    path.write_text("the cat\n")
    for split, where, message in (
        ("nonexistent", {"text": path}, "`split` nonexistent: has no effect with a `text`"),
        (None, {"text": path, "corpus": "nonexistent"}, "`corpus` nonexistent: .* with a `text`"),
        (open_split(run), {"corpus": "nonexistent"}, "`corpus` nonexistent: .* with a Split"),
        (open_split(run), {"text": path}, "`text` .*new.txt: has no effect with a Split"),
    ):
        with pytest.raises(jaxlm.SettingError, match=message):
            jaxlm.perplexity(run, split, **where)
    config = jaxlm.SamplingConfig(length=1)
    with pytest.raises(jaxlm.SettingError, match="`samples` 3: has no effect with a Sampling"):
        jaxlm.sample(run, "the", config, samples=3)


def rows_run(sentences, **options):
    text = jaxlm.read_corpus(sentences, fractions=(1.0,), **options)
    model = jaxlm.NGram(len(text.vocabulary), order=2)
    return jaxlm.fit(model, text, quiet=True), text.train


def test_the_size_counts_only_the_scored_part():
    """Without a start token the first token of a line is neither scored nor counted."""
    run, split = rows_run(["我 喜欢 玩具", " a \tbc ", "", "alone", "d  e"], eos=False)
    found = jaxlm.perplexity(run, split)
    scored = [" 喜欢 玩具", " \tbc", "  e"]
    assert found.tokens == found.size.words == 4
    assert found.size.characters == sum(map(len, scored))
    assert found.size.bytes == sum(len(part.encode()) for part in scored)
    assert found.size.lines == 3
    assert f"{found.bits / 4:.4f} per word" in str(found)


def test_the_size_of_rows_with_a_start_token_counts_lines_that_are_not_blank():
    run, split = rows_run(["a b", "", "  ", "c"])
    run = dataclasses.replace(run, protocol=Protocol(rows=True))
    found = jaxlm.perplexity(run, split)
    assert (found.tokens, found.size.words, found.size.characters) == (5, 3, 6)
    last = dataclasses.replace(run, protocol=Protocol(rows=True, last_only=True))
    assert jaxlm.perplexity(last, split).size is None


def test_the_size_is_unknown_if_the_text_of_the_first_token_is_unknown(monkeypatch):
    run, split = rows_run(["a b c"], eos=False)
    monkeypatch.delattr(type(split.tokenizer), "after_first_token")
    assert jaxlm.perplexity(run, split).size is None


def table_of(tmp_path, tokens, log_probs=None, text="", ids=None, unk=None):
    """Write the table of tokens of a text, and return its path."""
    tokenizer = Words(Vocabulary((*tokens, EOS), unk=unk, start=EOS))
    ids = np.arange(len(tokens), dtype=np.int32) if ids is None else ids
    split = Split("test", ids, EmbeddedText(text), tokenizer)
    run = jaxlm.Run(jaxlm.GRU(vocab_size=len(tokens) + 1), None, tokenizer)
    log_probs = np.full(len(ids), -1.0) if log_probs is None else np.array(log_probs)
    scores = TokenScores(log_probs, np.ones(len(ids), int), np.zeros(len(ids)))
    write_per_token(run, split, scores, tmp_path / "table.tsv")
    return tmp_path / "table.tsv"


def test_every_token_is_one_line_of_the_table(tmp_path):
    tokens = ("a\nb", "a\tb", "\u2028", "c\\d", "é我 x", '"', "NA")
    lines = table_of(tmp_path, tokens).read_text(encoding="utf-8").splitlines()
    shown = [line.split("\t")[0] for line in lines[1:]]
    assert shown == [r"a\nb", r"a\tb", r"\u2028", r"c\\d", "é我 x", r"\x22", r"\x4eA"]
    assert {line.count("\t") for line in lines} == {5}


STRANGE = ["the", '"', '""', "'", '"a', 'a"b', "\t", "\0", "\n", "\r", "\\", "\\n", "", " ", " a"]
STRANGE += ["NA", "nan", "NaN", "None", "null", "NULL", "N/A", "#N/A", "<NA>", "-nan", "n/a"]
STRANGE += [
    "1",
    "01",
    "1.0",
    "1e3",
    "True",
    "inf",
    "#",
    "我",
    "\u2028",
    "\ufeff",
    "\ud800",
    "1,000",
]


@pytest.mark.parametrize(
    "tokens",
    [
        STRANGE,
        ["1", "01", "1.0", "+1", "1e0"],
        ["True", "TRUE", "1"],
        ["nan", "NaN"],
        ["inf", "Infinity"],
        ["", "NA"],
        [" ", "  "],
        ["12345678901234567890", "12345678901234567891"],
    ],
)
def test_pandas_reads_the_table_with_its_defaults(tmp_path, tokens):
    pandas = pytest.importorskip("pandas")
    log_probs = -np.arange(len(tokens)) / 7
    table = pandas.read_csv(table_of(tmp_path, tokens, log_probs), sep="\t")
    assert len(table) == len(tokens)
    for column in ("token", "text"):
        assert not table[column].isna().any()
        assert table[column].map(str).nunique() == len(tokens)
        decoded = [
            str(field).encode("latin-1", "backslashreplace").decode("unicode_escape")
            for field in table[column]
            if field != r"\e"
        ]
        assert decoded == [token for token in tokens if token]
    assert table.surprisal_bits.sum() == pytest.approx(-log_probs.sum() / math.log(2), abs=1e-4)


def test_the_table_has_the_word_itself_beside_unk(tmp_path):
    ids = np.array([0, 1, 2, 1, 1, 2])
    path = table_of(tmp_path, ("a", "<unk>"), text="a zebra\n<unk> yak\n", ids=ids, unk="<unk>")
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    assert [row[0] for row in rows[1:]] == ["a", "<unk>", "<eos>", "<unk>", "<unk>", "<eos>"]
    assert [row[-1] for row in rows] == ["text", "a", "zebra", "<eos>", "<unk>", "yak", "<eos>"]


@pytest.mark.parametrize(
    ("options", "protocol", "expected"),
    [
        ({}, Protocol(rows=True), ["a", "b", "<eos>", "z", "<eos>"]),
        ({"eos": False}, Protocol(rows=True), ["b"]),
        ({}, Protocol(rows=True, last_only=True), ["<eos>", "<eos>"]),
        ({"tokens": "chars"}, Protocol(), [*"a b", r"\n", r"\n", "z", r"\n"]),
    ],
)
def test_the_words_of_the_table_are_those_that_are_scored(tmp_path, options, protocol, expected):
    text = jaxlm.read_corpus(["a b", "a b"], fractions=(1.0,), unk="always", **options)
    model = jaxlm.NGram(len(text.vocabulary), order=2)
    run = dataclasses.replace(jaxlm.fit(model, text, quiet=True), protocol=protocol)
    (tmp_path / "new.txt").write_text("a b\n\nz\n")
    split = open_split(run, text=tmp_path / "new.txt")
    write_per_token(run, split, score_split(run, split, detail=True), tmp_path / "table.tsv")
    lines = (tmp_path / "table.tsv").read_text(encoding="utf-8").splitlines()
    assert [line.split("\t")[-1] for line in lines[1:]] == expected


def test_certain_tokens_cost_no_negative_zero(tmp_path):
    path = table_of(tmp_path, ("a", "b"), log_probs=[0.0, -1e-9])
    assert "-0.0" not in path.read_text().replace("-0.000000001", "")
    assert str(TokenScores(np.zeros(3)).nll) == "0.0"
    report = Report("run", "text", -1e-9, 3, 0, None, "")
    assert "(0.0000 nats per token; bits: 0.0000 per token)" in str(report)


UNKNOWN = "the cat sat on the mat\nthe dog sat on the log\na bird sat in the tree\n"
UNKNOWN += "the <unk> sat on a log\n"


def unknown_run():
    text = jaxlm.read_corpus((UNKNOWN * 8).splitlines(), fractions=(1.0,), unk="always")
    return jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=3), text, quiet=True)


def test_a_report_has_the_perplexity_without_unknown_words(tmp_path):
    """KenLM gives 2.7132 with unknown words and 2.0906 without them."""
    (tmp_path / "new.txt").write_text("the cat sat on the zebra\nthe yak sat on the mat\n")
    run = unknown_run()
    found = jaxlm.perplexity(run, text=tmp_path / "new.txt")
    assert found.unknown == 2
    assert found.perplexity == pytest.approx(2.7132, abs=5e-5)
    assert found.perplexity_without_unknown == pytest.approx(2.0906, abs=5e-5)
    assert str(found).endswith("perplexity 2.0906 without the 2 <unk>, 2.7132 with them")
    split = open_split(run, text=tmp_path / "new.txt")
    log_prob = score_split(run, split).log_prob
    mixed = jaxlm.mixture([run, run], weights=[0.5, 0.5], text=tmp_path / "new.txt").together
    assert mixed.perplexity_without_unknown == pytest.approx(found.perplexity_without_unknown)
    # An unknown word of probability 0 leaves the other words as they are.
    impossible = np.where(split.ids == run.vocabulary.unk_id, -np.inf, log_prob)
    found = report(run, split, TokenScores(impossible))
    assert math.isinf(found.perplexity)
    assert found.perplexity_without_unknown == pytest.approx(2.0906, abs=5e-5)
    only = report(run, dataclasses.replace(split, ids=split.ids[5:6]), TokenScores(log_prob[5:6]))
    assert math.isnan(only.perplexity_without_unknown)


def test_without_unknown_words_there_is_one_perplexity(folder):
    found = jaxlm.perplexity(untrained(folder, tokens="bytes"))
    assert found.perplexity_without_unknown == found.perplexity
    assert found.without_unknown == "" and "\n" not in str(found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("我喜欢玩具和书。\n他也是！\n“好。”\n", False),
        ("　　床前明月光，\n　　疑是地上霜。\n", False),
        ("ฉันชอบของเล่น\n", False),
        ("我 喜欢 玩具\n", True),
        ("나는 장난감을 좋아한다\n", True),
        ("the cat 我\n", True),
        ("", True),
    ],
)
def test_spaces_divide_a_text_into_words_or_not(text, expected):
    split = Split("test", np.zeros(0, np.int32), EmbeddedText(text), Words(Vocabulary(("a",))))
    assert split.has_words() == expected


def test_a_text_without_blanks_has_no_bits_per_word():
    text = jaxlm.read_corpus(["我喜欢玩具。", "他也是。"], fractions=(1.0,), tokens="chars")
    run = jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=1), text, quiet=True)
    found = jaxlm.perplexity(run, text.train)
    assert found.size.words == 0 and found.size.characters == 12
    assert "per character" in str(found) and "per word" not in str(found)


def test_a_report_says_that_the_first_word_of_a_line_is_context():
    run, split = rows_run(["我 喜欢 玩具", "a bc"], eos=False)
    printed = jaxlm.perplexity(run, split).protocol
    assert "3 tokens of 5 words; the first of each line is context and is not scored" in printed
