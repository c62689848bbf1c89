"""Vocabularies: order, limits, special tokens, and the error for an unknown token."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxlm.data.vocabulary import EOS, UNK, Vocabulary
from jaxlm.errors import UserError

FROM_COUNTS = {
    "most frequent first": ("b a b c a b", {}, "b a c"),
    "ties by first appearance": ("z y x y z x w", {}, "z y x w"),
    "min_count drops the rare": ("b a b c a b", {"min_count": 2}, "b a <unk>"),
    "min_count that drops none adds no <unk>": ("a b a b", {"min_count": 2}, "a b"),
    "min_count that drops all": ("a b", {"min_count": 9}, "<unk>"),
    "max_size counts <unk>": ("b a b c a b", {"max_size": 2}, "b <unk>"),
    "max_size that fits drops none": ("b a b c a b", {"max_size": 3}, "b a c"),
    "<unk> on request": ("b a b", {"add_unk": True}, "b a <unk>"),
    "<unk> on request inside max_size": ("b a b", {"add_unk": True, "max_size": 2}, "b <unk>"),
    "<unk> of the text is a word": ("<unk> a <unk> a b <unk>", {"add_unk": True}, "<unk> a b"),
    "a rare <unk> of the text stays": ("a a <unk> b", {"min_count": 2}, "a <unk>"),
    "<unk> of the text stays in max_size": ("a a b <unk>", {"max_size": 2}, "a <unk>"),
    "ties with <unk> under max_size": ("<unk> a b", {"max_size": 2}, "<unk> a"),
    "start of the text is a word": ("a <eos> b <eos>", {"start": EOS}, "<eos> a b"),
    "start joins a text without it": ("a b", {"start": EOS}, "a b <eos>"),
    "start before <unk>": ("a b", {"start": EOS, "add_unk": True}, "a b <eos> <unk>"),
    "max_size counts both specials": (
        "a <eos> c c c a b <eos>",
        {"start": EOS, "max_size": 3},
        "c <eos> <unk>",
    ),
    "min_count keeps start": ("a a <eos>", {"start": EOS, "min_count": 2}, "a <eos>"),
    "a text of nothing": ("", {"start": EOS}, "<eos>"),
}


@pytest.mark.parametrize(("words", "options", "expected"), FROM_COUNTS.values(), ids=FROM_COUNTS)
def test_from_counts_orders_and_limits_tokens(words, options, expected):
    vocabulary = Vocabulary.from_counts(Counter(words.split()), **options)
    assert " ".join(vocabulary.tokens) == expected
    assert vocabulary.unk == (UNK if UNK in expected else None)
    assert vocabulary.start == options.get("start")
    for special, index in (
        (vocabulary.unk, vocabulary.unk_id),
        (vocabulary.start, vocabulary.start_id),
    ):
        assert index == (None if special is None else vocabulary.tokens.index(special))


def test_from_counts_does_not_change_the_counts():
    counts = Counter(["a", "b"])
    Vocabulary.from_counts(counts, start=EOS, add_unk=True)
    assert counts == {"a": 1, "b": 1}
    assert EOS not in counts


@settings(deadline=None)
@given(
    words=st.lists(st.sampled_from([*"abcdefgh", UNK, EOS])),
    min_count=st.integers(1, 3),
    max_size=st.none() | st.integers(3, 11),
    start=st.sampled_from([None, EOS]),
    add_unk=st.booleans(),
)
def test_from_counts_keeps_the_most_frequent_tokens(words, min_count, max_size, start, add_unk):
    counts = Counter(words)
    vocabulary = Vocabulary.from_counts(
        counts, min_count=min_count, max_size=max_size, start=start, add_unk=add_unk
    )
    assert len(vocabulary) <= (max_size or 99)
    order = [counts[token] for token in vocabulary.tokens]
    assert order == sorted(order, reverse=True)
    specials = {vocabulary.unk, start}
    kept = [token for token in vocabulary.tokens if token not in specials]
    assert all(counts[token] >= min_count for token in kept)
    # No dropped token is more frequent than a kept token.
    dropped = set(words) - set(vocabulary.tokens)
    assert not dropped or vocabulary.unk == UNK
    assert max((counts[token] for token in dropped), default=0) <= max(
        min_count - 1, min((counts[token] for token in kept), default=99)
    )
    ids = vocabulary.ids(words)
    assert ids.dtype == np.int32
    back = [vocabulary.tokens[index] for index in ids]
    assert back == [word if word in vocabulary else UNK for word in words]


def test_a_vocabulary_without_room_for_words_is_an_error():
    with pytest.raises(UserError, match=r"`vocab_size` 2: leaves no room.*<eos>.*<unk>"):
        Vocabulary.from_counts(Counter(["a", "b", "c"]), max_size=2, start=EOS)


def test_unknown_tokens_have_the_id_of_unk():
    vocabulary = Vocabulary(("a", UNK, "b"), unk=UNK)
    assert vocabulary.ids(["b", "x", UNK, "a"]).tolist() == [2, 1, 1, 0]
    assert vocabulary.ids([]).shape == (0,)
    assert "x" not in vocabulary
    assert "a" in vocabulary


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("playng", ["playing", "play", "player"]),  # the nearest first
        ("爸", ["爸爸"]),
        (
            "qqq",
            ["the", "play", "playing", "player", "爸爸"],
        ),  # no token is near: the most frequent first
    ],
)
def test_the_error_for_an_unknown_word_lists_the_nearest(word, near):
    vocabulary = Vocabulary(("the", "play", "playing", "player", "爸爸", "banana"))
    with pytest.raises(UserError) as caught:
        vocabulary.ids(["the", word])
    message = str(caught.value)
    assert message.startswith(f"{word!r} is not among the 6 tokens")
    assert f"(nearest: {' '.join(map(repr, near))})" in message
    assert "`unk` always" in message


@pytest.mark.parametrize(
    ("tokens", "options", "message"),
    [
        (("a", "b", "c", "b"), {}, "'b' more than once"),
        (("a", "b"), {"unk": UNK}, "'<unk>' is not one of the vocabulary's 2 tokens"),
        (("a", "b"), {"start": EOS}, "'<eos>' is not one of the vocabulary's 2 tokens"),
    ],
)
def test_inconsistent_vocabularies_are_errors(tokens, options, message):
    with pytest.raises(UserError, match=message):
        Vocabulary(tokens, **options)


def test_vocabularies_are_equal_by_value():
    assert Vocabulary(("a", "b"), start="a") == Vocabulary(("a", "b"), start="a")
    assert Vocabulary(("a", "b")) != Vocabulary(("b", "a"))
