"""Counts and smoothings against their definitions in plain Python dictionaries."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxlm.errors import UserError
from jaxlm.ngrams.counts import Sequences, check_order, count_ngrams
from jaxlm.ngrams.smoothing import FALLBACK, SMOOTHINGS, adjusted_counts
from jaxlm.ngrams.tables import NOTHING, Tables

V = 6
END = V - 1


def lines_of(ids):
    """Return the lines of a text. Each begins with the start of a line, V."""
    lines, line = [], [V]
    for word in ids:
        line.append(word)
        if word == END:
            lines.append(line)
            line = [V]
    return lines + [line] * (len(line) > 1)


def ngrams_of(ids, order):
    """Return the count of every n-gram of `order`. The start of a line is not a 1-gram."""
    found = Counter()
    for line in lines_of(ids):
        for last in range(max(1, order - 1), len(line)):
            found[tuple(line[last - order + 1 : last + 1])] += 1
    return found


def probability(ids, smoothing, context, word, top, k=0.5):
    """Return P(word | context) by the recursive definitions."""
    order = len(context) + 1
    counts = {n: ngrams_of(ids, n) for n in range(1, top + 2)}

    def a(ngram):
        if not smoothing.endswith("kneser-ney") or len(ngram) == top or ngram[0] == V:
            return counts[len(ngram)][ngram]
        return len({longer[0] for longer in counts[len(ngram) + 1] if longer[1:] == ngram})

    if smoothing in ("add-k", "maximum-likelihood"):
        k = k if smoothing == "add-k" else 0.0
        total = sum(counts[order][(*context, w)] for w in range(V))
        whole = order == top or (context and context[0] == V)
        if not whole or total == 0:
            return 1 / V
        return (counts[order][(*context, word)] + k) / (total + k * V)
    below = 1 / V if order == 1 else probability(ids, smoothing, context[1:], word, top, k)
    adjusted = [a((*context, w)) for w in range(V)]
    total, types = sum(adjusted), sum(count > 0 for count in adjusted)
    if total == 0:
        return below
    if smoothing == "witten-bell":
        return (adjusted[word] + types * below) / (total + types)
    everything = [a(ngram) for ngram in counts[order]]
    t = [everything.count(i) for i in range(5)]
    if smoothing == "kneser-ney":
        discounts = (t[1] / (t[1] + 2 * t[2]),) if t[1] and t[2] else FALLBACK[:1]
    elif t[1] and t[2] and t[3]:
        y = t[1] / (t[1] + 2 * t[2])
        discounts = tuple(i - (i + 1) * y * t[i + 1] / t[i] for i in (1, 2, 3))
        if not all(0 <= d <= i for i, d in enumerate(discounts, start=1)):
            discounts = FALLBACK
    else:
        discounts = FALLBACK
    table = (0.0, *discounts)

    def discount(count):
        return table[min(count, len(discounts))]

    left = sum(map(discount, adjusted))
    return (adjusted[word] - discount(adjusted[word])) / total + left / total * below


texts = st.lists(st.integers(0, V - 1), min_size=4, max_size=60).map(lambda ids: [*ids, END])


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@settings(max_examples=15)
@given(ids=texts, context=st.lists(st.integers(0, V - 2), max_size=2), at_start=st.booleans())
def test_every_smoothing_equals_its_definition(smoothing, ids, context, at_start):
    top = 3
    if max(map(len, lines_of(ids))) < top:
        return
    counts = count_ngrams(Sequences.lines(np.array(ids), END, V), top, V)
    tables = SMOOTHINGS[smoothing](counts, add_k=0.5).tables
    # The model sees two words. If the start of the line precedes two words, it sees only the words.
    seen = [V, *context][-2:] if at_start else context
    contexts = tables.contexts(np.array([[NOTHING, NOTHING, *seen]]))
    found_V, _ = tables.distribution([int(ids_BT[0, -1]) for ids_BT in contexts])
    # If the context never occurred, its longest suffix that occurred is the context.
    known = tuple(seen)
    counted = {n: ngrams_of(ids, n) for n in (1, 2, 3)}
    while known and not any((*known, w) in counted[len(known) + 1] for w in range(V)):
        known = known[1:]
    if smoothing not in ("add-k", "maximum-likelihood"):
        expected_V = [probability(ids, smoothing, known, w, top) for w in range(V)]
        np.testing.assert_allclose(found_V, expected_V, rtol=1e-9)
    elif len(seen) == top - 1 or (seen and seen[0] == V):
        expected_V = [probability(ids, smoothing, tuple(seen), w, top) for w in range(V)]
        np.testing.assert_allclose(found_V, expected_V, rtol=1e-9)
    assert found_V.sum() == pytest.approx(1, abs=1e-9)


@settings(max_examples=15)
@given(ids=texts, order=st.integers(1, 4))
def test_counts_equal_counts_in_a_dictionary(ids, order):
    if max(map(len, lines_of(ids))) < order:
        for refuse in (count_ngrams, check_order):
            with pytest.raises(UserError, match=f"`order` {order}"):
                refuse(Sequences.lines(np.array(ids), END, V), order, V)
        return
    check_order(Sequences.lines(np.array(ids), END, V), order, V)
    counts = count_ngrams(Sequences.lines(np.array(ids), END, V), order, V)
    tables = SMOOTHINGS["witten-bell"](counts).tables
    for n, of_order in enumerate(counts.orders, start=1):
        words = map(tuple, tables.words(n).tolist())
        found = dict(zip(words, of_order.counts.tolist(), strict=True))
        assert {ngram: count for ngram, count in found.items() if count} == ngrams_of(ids, n)


def test_saved_tables_are_read_as_memory_maps(tmp_path):
    ids = np.random.default_rng(0).integers(0, V, 300)
    counts = count_ngrams(Sequences.lines(ids, END, V), 3, V)
    tables = SMOOTHINGS["modified-kneser-ney"](counts).tables
    tables.save(tmp_path)
    mapped = Tables.load(tmp_path)
    assert mapped.order == 3 and mapped.vocab_size == V
    for name, array in tables.arrays().items():
        assert isinstance(mapped.arrays()[name], np.memmap)
        np.testing.assert_array_equal(mapped.arrays()[name], array)


def test_mapped_tables_can_be_saved_into_their_folder(tmp_path, monkeypatch):
    ids = np.random.default_rng(0).integers(0, V, 300)
    counts = count_ngrams(Sequences.lines(ids, END, V), 3, V)
    tables = SMOOTHINGS["modified-kneser-ney"](counts).tables
    tables.save(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "run")
    for folder in (tmp_path / "run", Path("run"), Path("link")):
        mapped = Tables.load(folder)
        mapped.save(folder)
        for found in (mapped, Tables.load(folder)):
            for name, array in tables.arrays().items():
                np.testing.assert_array_equal(found.arrays()[name], array)
    # A part of a mapped file replaces the file, and the map stays readable.
    mapped = Tables.load(tmp_path / "run")
    part = Tables(V, mapped.keys, (mapped.probabilities[0][:3], *mapped.probabilities[1:]), ())
    part.save(tmp_path / "run")
    whole = tables.probabilities[0]
    np.testing.assert_array_equal(mapped.probabilities[0], whole)
    np.testing.assert_array_equal(Tables.load(tmp_path / "run").probabilities[0], whole[:3])


@pytest.mark.parametrize("top", [1, 3])
def test_the_start_of_a_line_has_no_count_as_a_1_gram(top):
    """The start of a line is never predicted, so the discounts do not depend on it."""
    ids = np.random.default_rng(0).integers(0, V, 300)
    for text in (Sequences.lines(ids, END, V), Sequences.stream(ids, END)):
        assert adjusted_counts(count_ngrams(text, top, V), 1)[V] == 0
