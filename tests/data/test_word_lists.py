"""Vocabulary files: what they may hold, and what training makes of them."""

import gzip

import numpy as np
import pytest

import jaxlm
from jaxlm import train
from jaxlm.data.word_lists import read_word_list
from jaxlm.interop.arpa_runs import export_arpa

SENTENCES = ["the cat sat", "the dog sat on the mat", "the cat ran", "a dog ran"] * 2


def listing(tmp_path, content, name="words.txt"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def test_other_programs_marks_and_empty_lines_are_skipped(tmp_path):
    content = "\ufeff<s>\r\n</s>\r\n<unk>\r\n\r\n the \r\ncat\r\n"
    assert read_word_list(listing(tmp_path, content), "words") == ("<unk>", "the", "cat")
    packed = listing(tmp_path, gzip.compress(content.encode()), "words.txt.gz")
    assert read_word_list(packed, "words") == ("<unk>", "the", "cat")
    assert read_word_list(listing(tmp_path, "a\n \n我\n"), "characters") == ("a", " ", "我")


@pytest.mark.parametrize(
    ("content", "unit", "why"),
    [
        ("", "words", "lists no words: write one a line"),
        ("<unk>\n<s>\n", "words", "lists no words"),
        ("a\nb\na\n", "words", "line 3: 'a' is on line 1 already"),
        ("a\nthe cat\n", "words", "line 2: 'the cat' has a blank"),
        ("a\nthe\u3000cat\n", "words", "line 2: .* has a blank"),
        (b"a\nb\n\xe9t\xe9\n", "words", "line 3: not UTF-8: save the list as UTF-8$"),
        # The flag --encoding is for the text, not for the list.
        ("a\nb\n".encode("utf-16"), "words", "line 1: not UTF-8: save the list as UTF-8$"),
        ("a\0\n", "words", "line 1: a NUL character"),
        ("a\nbc\n", "characters", "line 2: 'bc' is not one character"),
        (b"\x1f\x8b\x08garbage", "words", "cannot read"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(content, unit, why, tmp_path):
    with pytest.raises(jaxlm.UserError, match=why) as error:
        read_word_list(listing(tmp_path, content), unit)
    assert len(str(error.value).splitlines()) == 1


def test_words_outside_of_the_file_are_unknown(tmp_path):
    path = listing(tmp_path, "zebra\nsat\nthe\n")
    text = jaxlm.read_corpus(SENTENCES, vocabulary_file=path, fractions=(1.0,))
    assert text.vocabulary.tokens == ("the", "<eos>", "sat", "zebra", "<unk>")
    tokens = [text.vocabulary.tokens[index] for index in text.train.ids[:4]]
    assert tokens == ["the", "<unk>", "sat", "<eos>"]
    chars = listing(tmp_path, "t\nh\ne\n")
    text = jaxlm.read_corpus(["the", "cat"], tokens="chars", vocabulary_file=chars)
    assert set(text.vocabulary.tokens) == {"t", "h", "e", "\n", "<unk>"}


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"min_count": 2}, "`min_count` 2: has no effect with `vocabulary_file`"),
        ({"vocab_size": 9}, "`vocab_size` 9: has no effect with `vocabulary_file`"),
        ({"unk": "never"}, "`unk` never:? leaves nothing"),
        ({"tokens": "bytes"}, "has no effect with `tokens` bytes"),
    ],
)
def test_settings_that_exclude_a_file_are_refused(options, why, tmp_path):
    with pytest.raises(jaxlm.SettingError, match=why):
        jaxlm.read_corpus(SENTENCES, vocabulary_file=listing(tmp_path, "the\n"), **options)


def test_a_file_of_another_language_and_a_missing_file_are_refused(tmp_path):
    with pytest.raises(jaxlm.UserError, match="no listed word occurs in the training text"):
        jaxlm.read_corpus(SENTENCES, vocabulary_file=listing(tmp_path, "chat\nchien\n"))
    with pytest.raises(jaxlm.SettingError, match=r"`vocabulary_file` .* does not exist"):
        jaxlm.read_corpus(SENTENCES, vocabulary_file=str(tmp_path / "none.txt"))


@pytest.mark.full
def test_a_neural_model_is_trained_on_the_vocabulary_of_a_file(tmp_path):
    path = listing(tmp_path, "zebra\nsat\nthe\n")
    text = jaxlm.read_corpus(SENTENCES, vocabulary_file=path, fractions=(0.5, 0.5))
    model = jaxlm.RNN(len(text.vocabulary), embedding_size=2, hidden_size=2)
    run = jaxlm.fit(model, text, quiet=True, steps=2, batch_size=2, bptt=3)
    assert len(jaxlm.next_words(run, "the okapi", 9)) == 5


@pytest.mark.parametrize("listed", ["the\ncat\nsat\n", None])
def test_unknown_words_score_as_in_kenlm(listed, tmp_path):
    kenlm = pytest.importorskip("kenlm")
    path = listed and listing(tmp_path, listed)
    text = jaxlm.read_corpus(SENTENCES, vocabulary_file=path, unk="always", fractions=(1.0,))
    run = jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=3), text, quiet=True)
    export_arpa(run, tmp_path / "model.arpa")
    model = kenlm.Model(str(tmp_path / "model.arpa"))
    sentences = ["the okapi sat", "okapi okapi the", "the cat sat on the okapi"]
    by_kenlm = [[-p for p, *_ in model.full_scores(sentence)] for sentence in sentences]
    bits = np.concatenate(by_kenlm) / np.log10(2)
    np.testing.assert_allclose(jaxlm.score(run, sentences)["surprisal"], bits, atol=1e-5)


def test_the_command_takes_the_file_by_either_flag(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = listing(tmp_path, "我\n讨厌\n")
    argv = ["--model", "ngram", "--order", "2", "--no-report", "--out"]
    for flag in ("--vocabulary", "--vocabulary-file"):
        folder = tmp_path / flag.strip("-")
        assert train.main([*argv, str(folder), flag, path]) == 0
        run = jaxlm.load(folder)
        assert set(run.vocabulary.tokens) == {"我", "讨厌", "<unk>"}
        assert run.settings["text"]["vocabulary_file"] == path
    for wrong, why in (
        (["--vocabulary", "kepe"], "neither a file of words, nor extend or keep"),
        (["--vocabulary", path, "--vocabulary-file", path], "name two files"),
    ):
        with pytest.raises(jaxlm.UserError, match=why):
            train.main([*argv, "other", *wrong])
