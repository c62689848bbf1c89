"""Senses: the state after a word, and the two senses of 苹果 and apple in the corpus `apple`."""

import numpy as np
import pytest
from case_runs import random_run

import jaxlm
from jaxlm.data import apple
from jaxlm.errors import UserError
from jaxlm.inspection import Senses, senses, vectors, word_senses
from jaxlm.models.settings import setting_defaults

NEAR = ("树 上 的 苹果 红 了", "市场 里 的 苹果 很 甜", "公司 说 的 苹果 手机")


@pytest.fixture(scope="module")
def text():
    return jaxlm.read_corpus("apple")


@pytest.fixture(scope="module")
def lstm(text):
    size, start = len(text.vocabulary), text.vocabulary.start_id
    return random_run(jaxlm.LSTM(size, start, embedding_size=5, hidden_size=4), text)


def lines_of(language, *splits):
    """Return the lines of a language in some splits, and their senses."""
    lines = apple.lines(language, *splits)
    return [line.text for line in lines], [line.sense for line in lines]


def test_the_corpus_is_balanced_and_its_held_out_lines_have_known_words(text):
    for language, word in apple.WORDS.items():
        for split in ("train", "valid", "test"):
            lines, labels = lines_of(language, split)
            assert labels.count("fruit") == labels.count("company") > 0
            for line in lines:
                assert line.split().count(word) == 1
                # The word before tells the sense, so the word is never the first.
                assert line.split()[0] != word
    assert len({line.text for line in apple.LINES}) == len(apple.LINES)
    assert text.vocabulary.unk is None
    assert [len(apple.TEXTS[split].splitlines()) for split in apple.TEXTS] == [112, 16, 16]
    for split, content in apple.TEXTS.items():
        assert "".join(text.split(split).source.lines()) == content


def test_vectors_are_the_hidden_features_after_the_word(lstm, text):
    sentences = ["小 猴子 吃 苹果", "苹果 公司 和 苹果 竞争", "树 红 了"]
    found = senses(lstm, "苹果", sentences, ["fruit", "company", "none"])
    assert [tuple(place) for place in found.occurrences] == [(0, 3), (1, 0), (1, 3)]
    assert found.labels == ("fruit", "company", "company")
    ids = [text.vocabulary.start_id, *text.vocabulary.ids(sentences[1].split())]
    hidden, _ = lstm.model.apply({"params": lstm.params}, np.array([ids], np.int32))
    # Position 0 is the start token.
    np.testing.assert_allclose(found.vectors[1:], hidden[0, [1, 4]], atol=1e-6)
    unit = found.vectors / np.linalg.norm(found.vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(found.similarities, unit @ unit.T, atol=1e-6)
    words, table = vectors(lstm)
    np.testing.assert_array_equal(found.static, table[words.index("苹果")])


def test_a_window_gives_one_vector_where_a_recurrent_state_gives_several(lstm, text):
    size, start = len(text.vocabulary), text.vocabulary.start_id
    window = random_run(jaxlm.NPLM(size, start, n_step=2, embedding_size=5, hidden_size=4), text)
    same = senses(window, "苹果", NEAR).vectors
    assert (same == same[0]).all()
    different = senses(lstm, "苹果", NEAR).vectors
    assert len(np.unique(different.round(5), axis=0)) == len(NEAR)
    # A window of the word alone is the static vector: it cannot tell the senses apart.
    alone = random_run(jaxlm.NPLM(size, start, n_step=1, embedding_size=5, hidden_size=4), text)
    train = senses(alone, "苹果", *lines_of("zh", "train"))
    held_out = senses(alone, "苹果", *lines_of("zh", "valid", "test"))
    assert train.accuracy(held_out) == 0.5


def test_a_word_of_several_tokens_and_a_word_within_a_word():
    lines = ["我吃苹果派", "苹果公司", "a pineapple or an apple, apples"]
    text = jaxlm.read_corpus(lines, fractions=(1.0,), tokens="chars")
    size, start = len(text.vocabulary), text.vocabulary.start_id
    run = random_run(jaxlm.GRU(size, start, embedding_size=3, hidden_size=2), text)
    found = senses(run, "苹果", lines)
    assert [tuple(place) for place in found.occurrences] == [(0, 3), (1, 1)]
    words, table = vectors(run)
    mean = (table[words.index("苹")] + table[words.index("果")]) / 2
    np.testing.assert_allclose(found.static, mean, atol=1e-6)
    # Chinese words have no spaces between them; Latin letters beside a word make another word.
    assert [tuple(place) for place in senses(run, "apple", lines).occurrences] == [(2, 22)]


def planted(labels, vectors_NH):
    points = np.array(vectors_NH, np.float32)
    places = tuple((index, 0) for index in range(len(points)))
    return Senses("w", ("w",) * len(points), places, points, points @ points.T, points[0], labels)


def test_the_nearest_centroid_is_found():
    known = planted(("a", "a", "b", "b"), [[0, 1], [0, 3], [5, 0], [7, 0]])
    np.testing.assert_array_equal(known.centroids()["a"], [0, 2])
    other = planted(("a", "b", "b"), [[0, 9], [6, 1], [0, 0]])
    assert known.nearest(other) == ("a", "b", "a")
    assert known.accuracy(other) == 2 / 3
    assert known.accuracy() == 1.0
    assert known.mean_similarities() == {("a", "a"): 3.0, ("a", "b"): 0.0, ("b", "b"): 35.0}


@pytest.mark.full
def test_occurrences_in_long_sentences_are_read_in_smaller_batches(lstm, monkeypatch):
    whole = senses(lstm, "苹果", NEAR)
    monkeypatch.setattr(word_senses, "_TOKENS", 16)
    np.testing.assert_allclose(senses(lstm, "苹果", NEAR).vectors, whole.vectors, atol=1e-6)


def test_senses_of_models_of_different_sizes_are_not_compared():
    small, large = (planted(("a", "b"), [[0] * size, [1] * size]) for size in (2, 3))
    with pytest.raises(UserError, match="2 numbers here and 3 there"):
        small.nearest(large)


def test_wrong_questions_are_answered_in_one_line(lstm, text):
    counted = jaxlm.fit(jaxlm.NGram(len(text.vocabulary), 0, order=2), text, quiet=True)
    for run, word, sentences, labels, message in (
        (counted, "苹果", NEAR, None, "the model NGram: it has no word vectors"),
        (lstm, "梨 子", NEAR, None, "no sentence has the word"),
        (lstm, "橘子", ["吃 橘子"], None, "'橘子' is not among the 291 tokens"),
        (lstm, " ", NEAR, None, "the word is empty"),
        (lstm, "苹果", NEAR, ["fruit"], "1 labels and 3 sentences"),
        (lstm, "苹果", [], None, "no sentence has the word '苹果'"),
    ):
        with pytest.raises(UserError, match=message):
            senses(run, word, sentences, labels)
    with pytest.raises(UserError, match="give a label for each sentence"):
        senses(lstm, "苹果", NEAR).accuracy()
    with pytest.raises(UserError, match="has one occurrence"):
        senses(lstm, "苹果", NEAR, ["a", "a", "b"]).accuracy()


@pytest.mark.full
def test_the_states_of_a_trained_lstm_fall_into_two_groups(text):
    recipe = jaxlm.RECIPES["apple"]["settings"]
    of_model = {name for name in recipe if name in setting_defaults(jaxlm.LSTM)}
    of_text = {"corpus", "eos", "model"}
    model = jaxlm.LSTM(
        len(text.vocabulary),
        text.vocabulary.start_id,
        **{name: recipe[name] for name in of_model},
    )
    options = {name: recipe[name] for name in recipe if name not in of_model | of_text}
    run = jaxlm.fit(model, text, quiet=True, **options)
    right = []
    for language, word in apple.WORDS.items():
        train = senses(run, word, *lines_of(language, "train"))
        held_out = senses(run, word, *lines_of(language, "valid", "test"))
        right.append(train.accuracy(held_out))
        means = train.mean_similarities()
        between = means["fruit", "company"]
        assert between < means["fruit", "fruit"] and between < means["company", "company"]
    # Of 16 held-out lines of each language.
    assert min(right) >= 0.85 and np.mean(right) >= 0.9
