"""`read_corpus`: sentences and paths, arguments that have no effect, and extended vocabularies."""

import json
from pathlib import Path

import pytest

import jaxlm
from jaxlm.data.corpora import SENTENCES
from jaxlm.data.text import TextConfig, read_corpus
from jaxlm.errors import SettingError, UserError


def words(split):
    return [split.tokenizer.vocabulary.tokens[index] for index in split.ids]


# Sentences


class Column:
    """An iterable that is not a list, like pandas.Series."""

    def __init__(self, *values):
        self.values = values

    def __iter__(self):
        return iter(self.values)


@pytest.mark.parametrize(
    "sentences",
    [
        ["a b", "c d"],
        [["a", "b"], ("c", "d")],
        ("a b\n", "c d\r\n"),
        iter(["a b", "c d"]),
        Column("a b", "c d"),
        dict.fromkeys(["a b", "c d"]),
    ],
)
def test_each_sentence_is_a_line(sentences):
    text = read_corpus(sentences)
    assert words(text.train) == ["a", "b", "<eos>", "c", "d", "<eos>"]
    assert text.name == SENTENCES and list(text.splits) == ["train"]


@pytest.mark.parametrize("tokens", ["words", "chars"])
def test_sentences_are_split_by_fractions_between_sentences(tokens, tmp_path):
    sentences = ["我 爱", "b b", "c", "d"]
    text = read_corpus(sentences, fractions=(0.75, 0.125, 0.125), tokens=tokens)
    lines = {name: list(split.source.lines()) for name, split in text.splits.items()}
    assert lines == {"train": ["我 爱\n", "b b\n"], "valid": ["c\n"], "test": ["d\n"]}
    # A file of the same lines has the same splits.
    path = tmp_path / "text.txt"
    path.write_text("\n".join(sentences) + "\n", encoding="utf-8", newline="")
    of_file = read_corpus(path, fractions=(0.75, 0.125, 0.125))
    assert [list(split.source.lines()) for split in of_file.splits.values()] == [*lines.values()]


@pytest.mark.parametrize(
    ("sentences", "message"),
    [
        (["a", 3], "sentence 2 is 3: each sentence must be a string, or a list of words"),
        (["a", float("nan")], "sentence 2 is nan: each"),
        ([["a", "b c"]], "sentence 1 has 'b c': each word of a list must be a string without"),
        ([["a", 3]], "sentence 1 has 3: each word"),
        (["a b\nc"], "sentence 1 has a line break within"),
        (["a", "\ud800"], "sentence 2 is not Unicode text"),
        ([], "<sentences> is empty"),
        ([" ", ""], "<sentences> is empty"),
        (3, "`corpus` 3: must be a name, a path, or sentences"),
        (b"a b", "`corpus` b'a b': must be a name, a path, or sentences"),
    ],
)
def test_a_corpus_without_sentences_is_an_error(sentences, message):
    with pytest.raises(UserError, match=message):
        read_corpus(sentences)


def ngram(text, **options):
    model = jaxlm.NGram(len(text.vocabulary), order=2)
    return jaxlm.fit(model, text, quiet=True, **options)


def test_a_run_of_sentences_is_saved_loaded_and_used(tmp_path):
    sentences = ["a b", "a c", "b c"]
    trained = ngram(read_corpus(sentences), folder=tmp_path / "run")
    assert json.loads((tmp_path / "run/config.json").read_text())["text"]["corpus"] == SENTENCES
    run = jaxlm.load(tmp_path / "run")
    assert jaxlm.next_words(run, "a", 2) == jaxlm.next_words(trained, "a", 2)
    with pytest.raises(UserError, match="was trained on sentences, and keeps no text: give a c"):
        jaxlm.perplexity(run)
    (tmp_path / "new.txt").write_text("a b\n")
    assert jaxlm.perplexity(run, text=tmp_path / "new.txt").tokens == 3
    resumed = ngram(read_corpus(sentences), folder=tmp_path / "run", resume=True)
    assert jaxlm.next_words(resumed, "a", 2) == jaxlm.next_words(trained, "a", 2)
    with pytest.raises(UserError, match="list of sentences, which no run keeps"):
        read_corpus(run.settings["text"]["corpus"])


@pytest.mark.full
def test_a_neural_run_of_sentences_is_resumed(tmp_path):
    text = read_corpus(["a b", "a c", "b c", "c c"], fractions=(0.75, 0.25))
    options = {"batch_size": 2, "bptt": 3, "quiet": True, "folder": tmp_path / "run"}

    def fit(steps, **more):
        model = jaxlm.RNN(len(text.vocabulary), start_id=text.vocabulary.start_id, hidden_size=3)
        return jaxlm.fit(model, text, steps=steps, **options, **more)

    fit(2)
    assert fit(4, resume=True).step == 4
    split = text.valid
    again = read_corpus(["c c"], tokenizer=jaxlm.load(tmp_path / "run").tokenizer)
    assert again.train.ids.tolist() == split.ids.tolist()


# Paths


def test_a_path_may_begin_with_the_home_folder(tmp_path, monkeypatch):
    (tmp_path / "my.txt").write_text("a b\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    in_config = TextConfig(corpus="~/my.txt")
    for corpus in (tmp_path / "my.txt", "~/my.txt", Path("~/my.txt"), in_config):
        text = read_corpus(corpus)
        assert words(text.train) == ["a", "b", "<eos>"]
        assert text.config.corpus == str(tmp_path / "my.txt")
    run = ngram(text)
    assert jaxlm.perplexity(run, text="~/my.txt").tokens == 3
    assert jaxlm.perplexity(run, corpus=tmp_path / "my.txt").tokens == 3


def test_a_path_is_never_the_name_of_a_corpus(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"unknown corpus '\./toy'"):
        read_corpus(Path("toy"))
    (tmp_path / "toy").write_text("a b\n")
    assert words(read_corpus(Path("toy")).train) == ["a", "b", "<eos>"]


@pytest.mark.parametrize("corpus", ["the cat sat " * 1000, "the cat\nthe dog\n"])
def test_a_text_in_place_of_a_path_is_a_one_line_error(corpus):
    with pytest.raises(UserError, match=r"is neither a file nor a folder: .*splitlines") as caught:
        read_corpus(corpus)
    assert len(str(caught.value)) < 250 and "\n" not in str(caught.value)
    run = ngram(read_corpus("toy"))
    with pytest.raises(SettingError, match="does not exist: give the path") as caught:
        jaxlm.perplexity(run, text=corpus)
    assert len(str(caught.value)) < 250 and "\n" not in str(caught.value)


# Arguments that have no effect


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"tokens": "chars"}, "tokens"),
        ({"eos": False}, "eos"),
        ({"unk": "never"}, "unk"),
        ({"vocab_size": 9}, "vocab_size"),
        ({"min_count": 2}, "min_count"),
        ({"tokens": "chars", "extend": True}, "tokens"),
    ],
)
def test_options_that_a_fitted_tokenizer_fixes_are_errors(options, field):
    tokenizer = read_corpus("toy").tokenizer
    with pytest.raises(SettingError, match=f"`{field}` .*has no effect with a fitted tokenizer"):
        read_corpus("toy", tokenizer=tokenizer, **options)


def test_the_config_describes_the_tokenizer():
    tokenizer = read_corpus("toy", eos=False).tokenizer
    config = read_corpus("toy", tokenizer=tokenizer).config
    assert (config.tokens, config.eos) == ("words", False)
    assert read_corpus("toy", tokenizer=tokenizer, tokens="words", eos=False).config == config
    characters = read_corpus("toy", tokens="chars").tokenizer
    assert read_corpus("toy", tokenizer=characters).config.tokens == "chars"


@pytest.mark.parametrize(
    ("corpus", "options", "message"),
    [
        (TextConfig(), {"tokens": "chars"}, "`tokens` chars: has no effect with a TextConfig"),
        ("toy", {"extend": True}, "`extend` True: has no effect without a `tokenizer`"),
        ("toy", {"fractions": (0.6, 0.4)}, "`fractions` 0.6 0.4: toy has its own train; leave"),
        ("ptb", {"fractions": (0.6, 0.4)}, "ptb has its own train, valid, test; leave"),
        ("wikitext-2", {"fractions": (0.6, 0.4)}, "wikitext-2 has its own train, valid, test"),
        ("toy", {"tokens": "bytes", "vocab_size": 9}, "`vocab_size` 9: .* with `tokens` bytes"),
        ("toy", {"tokens": "bytes", "min_count": 2}, "`min_count` 2: .* with `tokens` bytes"),
        ("toy", {"tokens": "bytes", "unk": "always"}, "`unk` always: .* with `tokens` bytes"),
        ("toy", {"tokens": "bpe", "unk": "never"}, "`unk` never: .* with `tokens` bpe"),
    ],
)
def test_arguments_without_effect_are_errors(corpus, options, message):
    with pytest.raises(SettingError, match=message):
        read_corpus(corpus, **options)


def test_old_runs_with_fractions_that_have_no_effect_are_read():
    run = ngram(read_corpus("toy"))
    run.settings["text"]["fractions"] = (0.6, 0.4)
    assert jaxlm.perplexity(run).tokens == 12


@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_folder_with_input_txt_and_a_split_is_an_error(split, tmp_path):
    (tmp_path / "input.txt").write_text("a b\n")
    (tmp_path / f"{split}.txt").write_text("a b\n")
    with pytest.raises(UserError, match=rf"has input.txt, .* and its own {split}: rename input"):
        read_corpus(tmp_path)


# Extended vocabularies


@pytest.mark.parametrize("eos", [True, False])
def test_an_extended_vocabulary_keeps_the_end_of_lines(eos):
    tokenizer = read_corpus("toy", eos=eos).tokenizer
    wide = read_corpus(["a a", "b"], tokenizer=tokenizer, extend=True)
    assert wide.vocabulary.tokens == (*tokenizer.vocabulary.tokens, "a", "b")
    assert wide.vocabulary.start == tokenizer.vocabulary.start
    assert wide.vocabulary.unk is None


@pytest.mark.parametrize(
    ("options", "added", "unknown"),
    [
        ({"min_count": 2}, ("a", "b", "<unk>"), 2),
        ({"vocab_size": 3}, ("a", "<unk>"), 4),  # and <eos>, which is known
        ({"unk": "always"}, ("a", "b", "c", "d", "<unk>"), 0),
        ({"unk": "never"}, ("a", "b", "c", "d"), 0),
    ],
)
def test_an_extended_vocabulary_with_unknown_words(options, added, unknown):
    tokenizer = read_corpus("toy").tokenizer
    options |= {"fractions": (1.0,)}
    text = read_corpus(["a a a", "b b", "c d"], tokenizer=tokenizer, extend=True, **options)
    assert text.vocabulary.tokens == (*tokenizer.vocabulary.tokens, *added)
    assert text.vocabulary.unk == ("<unk>" if "<unk>" in added else None)
    assert words(text.train).count("<unk>") == unknown


def test_an_extended_vocabulary_has_unk_if_another_split_needs_it():
    tokenizer = read_corpus("toy").tokenizer
    known = read_corpus(["a", "我"], tokenizer=tokenizer, extend=True, fractions=(0.5, 0.5))
    assert known.vocabulary.unk is None
    text = read_corpus(["aaaa", "b"], tokenizer=tokenizer, extend=True, fractions=(0.5, 0.5))
    assert text.vocabulary.tokens[-2:] == ("aaaa", "<unk>")
    assert words(text.valid) == ["<unk>", "<eos>"]
    with pytest.raises(UserError, match="'b' is not among"):
        read_corpus(
            ["aaaa", "b"], tokenizer=tokenizer, extend=True, fractions=(0.5, 0.5), unk="never"
        )
