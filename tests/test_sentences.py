"""Scores of the words of sentences: sums, words of every tokenizer, tables."""

import io
import math
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxlm
from jaxlm.errors import SettingError, UserError
from jaxlm.evaluation.sentences import CARRIED, score_sentences
from jaxlm.interop.vocabulary_files import make_tokenizer

LINES = ["the cat sat on the mat", "the dog sat on the log", "a cat saw the dog"]
CHINESE = ["今天天气很好，我们去公园玩。", "我爱苹果。"]
# Tokenizers, and the tokens that a sentence's end has.
TOKENS = {"words": 1, "chars": 1, "bytes": 1, "bpe": 1}


def counted(lines, order=3, **options):
    """Return an n-gram of lines, which it knows as sentences or as a stream."""
    stream = options.pop("stream", False)
    text = jaxlm.read_corpus([f"{line}\n" for line in lines * 3], **options)
    model = jaxlm.NGram(len(text.vocabulary), order=order, stream=stream)
    return jaxlm.fit(model, text, quiet=True)


def replaced(run, name):
    return replace(run, folder=Path(name))


@pytest.fixture(scope="module")
def runs():
    return {
        tokens: counted(LINES, tokens=tokens, unk="always" if tokens == "words" else "auto")
        for tokens in TOKENS
    }


def perplexity_bits(run, lines, path):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return jaxlm.perplexity(run, text=path).bits


@pytest.mark.parametrize("tokens", TOKENS)
def test_words_sum_to_the_sentence_and_sentences_to_the_perplexity(tokens, runs, tmp_path):
    run, lines = runs[tokens], ["the dog  sat", "", " a mat"]
    words = jaxlm.score(run, lines)
    sentences = jaxlm.score(run, lines, by="sentence")
    for number, bits in zip(sentences["sentence_id"], sentences["surprisal"], strict=True):
        own = [
            b for s, b in zip(words["sentence_id"], words["surprisal"], strict=True) if s == number
        ]
        assert np.nansum(own) == pytest.approx(bits, rel=1e-9)
    expected = perplexity_bits(jaxlm.by_lines(run), lines, tmp_path / "lines.txt")
    assert sum(sentences["surprisal"]) == pytest.approx(expected, rel=1e-6)
    assert words["word"] == ["the", "dog", "sat", "<eos>", "<eos>", "a", "mat", "<eos>"]
    assert words["word_id"] == [1, 2, 3, 4, 1, 1, 2, 3]
    assert sum(sentences["tokens"]) == sum(words["tokens"]) - (
        1 if math.isnan(words["surprisal"][4]) else 0
    )


@pytest.mark.parametrize("stream", [False, True])
def test_a_state_that_is_carried_is_that_of_a_stream(stream, tmp_path):
    run = counted(LINES, stream=stream)
    lines = LINES[::-1]
    table = jaxlm.score(run, lines, start=CARRIED)
    stream_run = jaxlm.Run(run.model, run.params, run.tokenizer)
    expected = perplexity_bits(stream_run, lines, tmp_path / "lines.txt")
    assert sum(table["surprisal"]) == pytest.approx(expected, rel=1e-6)


def test_a_stream_of_sentences_needs_a_start_token():
    text = jaxlm.read_corpus(LINES, eos=False, fractions=(1.0,))
    run = jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=2), text, quiet=True)
    with pytest.raises(SettingError, match="`start` carried: needs a token before the first"):
        jaxlm.score(run, LINES, start=CARRIED)


def test_each_word_has_the_probability_of_next_words():
    run = counted(LINES)
    table = jaxlm.score(run, [LINES[0]])
    words = LINES[0].split()
    for index, (word, bits) in enumerate(zip([*words, "<eos>"], table["surprisal"], strict=True)):
        expected = jaxlm.next_words(run, " ".join(words[:index]), 99)
        probability = dict(expected)[word]
        assert bits == pytest.approx(-math.log2(probability), rel=1e-5)
        entropy = -sum(p * math.log2(p) for _, p in expected if p)
        assert table["entropy"][index] == pytest.approx(entropy, rel=1e-5)
        assert table["rank"][index] == 1 + sum(p > probability * (1 + 1e-9) for _, p in expected)


def test_a_word_of_several_tokens_has_the_first_entropy_and_the_largest_rank(runs):
    run = runs["chars"]
    found = score_sentences(run, ["the dog"])
    table = found.by_word()
    assert table["tokens"] == [3, 4, 1], "the blank belongs to the word after it"
    rank, entropy = found.scores.rank, found.scores.entropy / math.log(2)
    assert table["rank"] == [rank[:3].max(), rank[3:7].max(), rank[7]]
    assert table["entropy"] == pytest.approx([entropy[0], entropy[3], entropy[7]])


def test_the_first_word_and_the_end_can_be_left_out(runs):
    whole = jaxlm.score(runs["chars"], ["the dog sat"])
    part = jaxlm.score(runs["chars"], ["the dog sat"], first=False, end=False)
    assert np.isnan(part["surprisal"][0]) and np.isnan(part["surprisal"][-1])
    assert part["rank"][0] is None and part["rank"][1] == whole["rank"][1]
    assert part["surprisal"][1:-1] == whole["surprisal"][1:-1]
    left = jaxlm.score(runs["chars"], ["the dog sat"], by="sentence", first=False, end=False)
    assert left["surprisal"] == pytest.approx([np.nansum(part["surprisal"])])


def test_a_run_without_end_and_start_leaves_their_rows_empty():
    run = counted(LINES, eos=False)
    alone = jaxlm.score(run, ["the cat sat"])
    assert alone["word"] == ["the", "cat", "sat"] and math.isnan(alone["surprisal"][0])
    both = jaxlm.score([run, replaced(counted(LINES), "with-end")], ["the cat", "a dog"])
    name = next(column for column in both if column.startswith("surprisal"))
    assert both["word"] == ["the", "cat", "<eos>", "a", "dog", "<eos>"]
    assert np.isnan(both[name]).tolist() == [True, False, True] * 2


def test_words_of_a_text_without_spaces_are_characters():
    run = counted(CHINESE, tokens="chars")
    table = jaxlm.score(run, CHINESE[1:])
    assert table["word"] == [*"我爱苹果。", "<eos>"]
    assert jaxlm.score(run, CHINESE[1:], words="spaces")["word"] == ["我爱苹果。", "<eos>"]


def test_unknown_words_are_marked(runs):
    table = jaxlm.score(runs["words"], ["the zebra sat"])
    assert table["oov"] == [False, True, False, False]
    assert table["word"][1] == "zebra"
    assert jaxlm.score(runs["words"], ["the zebra sat"], by="sentence")["oov"] == [1]


def test_runs_stand_side_by_side_or_in_rows(runs):
    pair = [replaced(runs["words"], "a/w"), replaced(runs["chars"], "a/c")]
    wide = jaxlm.score(pair, LINES)
    long = jaxlm.score(pair, LINES, format="long")
    rows = len(wide["word"])
    assert long["word"] == wide["word"] * 2 and long["run"] == ["w"] * rows + ["c"] * rows
    assert long["surprisal"] == wide["surprisal_w"] + wide["surprisal_c"]
    with pytest.raises(UserError, match="two runs have the name a/w"):
        jaxlm.score([pair[0], pair[0]], LINES)


def test_without_detail_ranks_and_entropies_are_not_computed(runs):
    table = jaxlm.score(runs["words"], LINES, detail=False)
    assert list(table)[-1] == "surprisal"
    assert table["surprisal"] == pytest.approx(jaxlm.score(runs["words"], LINES)["surprisal"])


def test_lm_zoo_has_a_row_for_each_token(runs):
    table = jaxlm.score(runs["chars"], ["the dog"], format="lm-zoo")
    assert list(table) == ["sentence_id", "token_id", "token", "surprisal"]
    assert table["token"] == list("the dog\n") and table["token_id"] == list(range(1, 9))
    assert sum(table["surprisal"]) == pytest.approx(
        jaxlm.score(runs["chars"], ["the dog"], by="sentence")["surprisal"][0]
    )
    with pytest.raises(SettingError, match="holds one run, not 2"):
        jaxlm.score(list(runs.values())[:2], LINES, format="lm-zoo")


def test_bad_sentences_and_settings_are_errors(runs):
    run = runs["words"]
    for sentences, words in (
        ("the cat", "is one text: give a list of sentences"),
        ([], "there is no sentence to score"),
        (["", "  "], "there is no sentence to score"),
        (["the", 3], "sentence 2 is 3, not a text"),
        (["the\ncat"], "sentence 1 has a line break"),
    ):
        with pytest.raises(UserError, match=words):
            jaxlm.score(run, sentences)
    for setting, value in (("by", "line"), ("format", "csv"), ("words", "x"), ("start", "cold")):
        with pytest.raises(UserError, match=f"{setting}.*{value}"):
            jaxlm.score(run, LINES, **{setting: value})
    with pytest.raises(UserError, match="give at least one"):
        jaxlm.score([], LINES)


def test_a_damaged_run_has_no_scores(tmp_path):
    text = jaxlm.read_corpus([f"{line}\n" for line in LINES])
    model = jaxlm.GRU(len(text.vocabulary), embedding_size=2, hidden_size=2)
    run = jaxlm.fit(model, text, steps=1, batch_size=2, quiet=True)
    damaged = replace(run, params=jax.tree.map(lambda array: array * np.nan, run.params))
    with pytest.raises(UserError, match="its parameters are damaged"):
        jaxlm.score(damaged, LINES, by="sentence")
    with pytest.raises(UserError, match="its parameters are damaged"):
        perplexity_bits(damaged, LINES, tmp_path / "lines.txt")


def test_only_some_lines_end_in_a_blank_that_the_run_reads():
    # A vocabulary of another program with a blank and without a line break.
    tokenizer, protocol, _ = make_tokenizer(list("abc "), "chars")
    model = jaxlm.GRU(4, embedding_size=2, hidden_size=2)
    params = model.init(jax.random.key(0), np.zeros((1, 2), np.int32))["params"]
    table = jaxlm.score(jaxlm.Run(model, params, tokenizer, protocol), ["ab c ", "b a"])
    assert table["word"] == ["ab", "c", "<eos>", "b", "a", "<eos>"]
    assert len({len(column) for column in table.values()}) == 1


def test_pandas_reads_the_table_with_its_defaults(runs, tmp_path):
    pandas = pytest.importorskip("pandas")
    from jaxlm.evaluation.tables import tab_separated

    sentences = ['the "cat" NA', "nan\\n sat"]
    table = jaxlm.score(runs["words"], sentences)
    read = pandas.read_csv(io.StringIO("\n".join(tab_separated(table))), sep="\t")
    assert list(read) == list(pandas.DataFrame(table))
    assert read["surprisal"].tolist() == pytest.approx(table["surprisal"], abs=1e-6)
    texts = [
        field.encode("latin-1", "backslashreplace").decode("unicode_escape")
        for field in read["word"]
    ]
    assert texts == table["word"]


def test_the_full_scores_of_kenlm(tmp_path):
    kenlm = pytest.importorskip("kenlm")
    from jaxlm.interop.formats import write_run

    run = counted(LINES, unk="always")
    write_run(run, tmp_path / "model.arpa")
    model = kenlm.Model(str(tmp_path / "model.arpa"))
    for sentence in [*LINES, "the zebra sat"]:
        table = jaxlm.score(run, [sentence])
        theirs = list(model.full_scores(sentence))
        assert table["surprisal"] == pytest.approx(
            [-s[0] / math.log10(2) for s in theirs], abs=1e-5
        )
        assert table["oov"][:-1] == [s[2] for s in theirs][:-1]
