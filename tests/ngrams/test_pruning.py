"""Pruning by count and by entropy: sums, definitions, prefixes, runs and files."""

import itertools

import numpy as np
import pytest

import jaxlm
from jaxlm import convert
from jaxlm.interop.arpa_runs import export_arpa, import_arpa
from jaxlm.ngrams.counts import Sequences, count_ngrams
from jaxlm.ngrams.external import available, bytes_needed, parse_memory
from jaxlm.ngrams.pruning import (
    count_histories,
    mark_rare,
    prune_by_entropy,
    renormalised,
    thresholds_of,
    without,
)
from jaxlm.ngrams.smoothing import SMOOTHINGS
from jaxlm.ngrams.tables import Tables, in_folder

V, END = 7, 6
DRAW = np.random.default_rng(3)
LINES = [[*(6 * DRAW.random(DRAW.integers(1, 7)) ** 2).astype(int), END] for _ in range(60)]
TEXT = Sequences.lines(np.concatenate(LINES), END, V)


def tables_of(order, smoothing="modified-kneser-ney"):
    return SMOOTHINGS[smoothing](count_ngrams(TEXT, order, V)).tables


def all_contexts(order):
    for length in range(order):
        for words in itertools.product(range(V + 1), repeat=length):
            if V not in words[1:]:
                yield words


def distribution(tables, words):
    """Return P(w | words) of every word."""
    if not words:
        return tables.distribution([])[0]
    contexts = tables.contexts(np.array([words]))[: len(words)]
    return tables.distribution([int(ids[0, -1]) for ids in contexts])[0]


def ngrams(tables):
    return {
        tuple(words)
        for order in range(2, tables.order + 1)
        for words in tables.words(order).tolist()
    }


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("threshold", [1e-4, 1e-3, 2e-2])
def test_a_pruned_model_sums_to_1_after_every_context(smoothing, threshold):
    tables = tables_of(3, smoothing)
    pruned = prune_by_entropy(tables, threshold, END)
    assert sum(pruned.sizes) < sum(tables.sizes)
    for words in all_contexts(3):
        np.testing.assert_allclose(distribution(pruned, words).sum(), 1, atol=1e-12)


@pytest.mark.parametrize("threshold", [1e-4, 1e-3, 1e-2])
def test_no_prefix_of_an_ngram_that_stays_is_removed(threshold):
    pruned = ngrams(prune_by_entropy(tables_of(4), threshold, END))
    assert {words[:-1] for words in pruned if len(words) > 2} <= pruned


def relative_change(tables, words, history):
    """Return exp(D) - 1 for the loss of one n-gram, from whole distributions.

    The back-off weight of its context is found by bisection, so that the model sums to 1.
    """
    order, context = len(words), words[:-1]
    before = distribution(tables, context)
    listed = {row[-1] for row in tables.words(order).tolist() if tuple(row[:-1]) == context}
    lower = distribution(tables, context[1:])
    stays = np.array([word in listed - {words[-1]} for word in range(V)])
    low, high = 0.0, 1e9
    for _ in range(200):
        weight = (low + high) / 2
        after = np.where(stays, before, weight * lower)
        low, high = (weight, high) if after.sum() < 1 else (low, weight)
    return np.expm1(history * np.sum(before * (np.log(before) - np.log(after))))


def test_what_is_removed_is_what_the_definition_says():
    """Brute force: an own implementation, over whole distributions and in another order."""
    tables = tables_of(3, "witten-bell")
    threshold = 2e-3
    kept, dropped = set(), 0
    for words in sorted(ngrams(tables), key=len, reverse=True):
        start, *rest = words[:-1]
        history = distribution(tables, ())[END if start == V else start]
        for place, word in enumerate(rest, start=1):
            history *= distribution(tables, words[:place])[word]
        is_prefix = any(longer[:-1] == words for longer in kept)
        if is_prefix or relative_change(tables, words, history) >= threshold:
            kept.add(words)
        else:
            dropped += 1
    assert dropped > 20
    assert len(kept) > 10
    pruned = prune_by_entropy(tables, threshold, END)
    assert ngrams(pruned) == kept
    # The probabilities of the n-grams that stay do not change.
    for words in kept:
        p = distribution(pruned, words[:-1])[words[-1]]
        assert p == pytest.approx(distribution(tables, words[:-1])[words[-1]], rel=1e-12)


def test_counted_contexts_are_relative_frequencies():
    counts = count_ngrams(TEXT, 3, V)
    of_words, of_pairs = count_histories(counts)
    assert of_words.sum() == pytest.approx(1)
    assert of_words[V] == pytest.approx(len(LINES) / len(TEXT.words))
    pair = list(divmod(int(counts.orders[1].keys[4]), V + 1))
    # The pair is the context of a word if it does not end its line.
    found = sum([V, *line][n : n + 2] == pair for line in LINES for n in range(len(line) - 1))
    assert of_pairs[4] == pytest.approx(found / len(TEXT.words))


def test_weights_of_a_whole_model_stay_when_they_are_computed_anew():
    tables = tables_of(4)
    for old, new in zip(tables.backoffs, renormalised(tables).backoffs, strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-9)


def test_a_model_that_is_no_distribution_is_refused():
    words = np.array([0.5, 0.5, 0.0])
    tables = Tables(2, (np.array([0, 1]),), (words, np.array([0.8, 0.7])), (np.ones(3),))
    with pytest.raises(jaxlm.UserError, match=r"sum to 1.5, not to at most 1"):
        prune_by_entropy(tables, 1e-6)


def test_files_of_arrays_give_the_same_tables_as_memory(tmp_path):
    tables, counts = tables_of(4), count_ngrams(TEXT, 4, V)
    marks = mark_rare(counts, (0, 0, 1, 1))
    files = without(tables, marks, in_folder(tmp_path / "a"))
    pruned = prune_by_entropy(files, 1e-3, END, in_folder(tmp_path / "b"))
    wanted = prune_by_entropy(without(tables, marks), 1e-3, END)
    for name, array in wanted.arrays().items():
        np.testing.assert_array_equal(pruned.arrays()[name], array)


@pytest.mark.parametrize(
    ("prune", "order", "why"),
    [
        ((), 3, "has no threshold"),
        ((1, 1), 3, "the first threshold must be 0"),
        ((0, 2, 1), 3, "must not decrease"),
        ((0, 0, 1), 2, "3 thresholds, but `order` is 2"),
    ],
)
def test_bad_thresholds_are_refused(prune, order, why):
    with pytest.raises(jaxlm.SettingError, match=why):
        thresholds_of(prune, order)


SENTENCES = ["the cat sat", "the dog sat on the mat", "the cat ran", "a dog ran"] * 3 + ["a cat"]


@pytest.fixture(scope="module")
def text():
    return jaxlm.read_corpus(SENTENCES, fractions=(1.0,), unk="always")


def fit(text, folder=None, smoothing="modified-kneser-ney", **options):
    model = jaxlm.NGram(len(text.vocabulary), order=3, smoothing=smoothing)
    return jaxlm.fit(model, text, folder=folder, quiet=True, **options)


def bits_of(run, sentences):
    """Return the surprisal of each sentence, its end included."""
    return jaxlm.score(run, sentences, by="sentence")["surprisal"]


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_every_smoothing_prunes_by_count(text, smoothing):
    run = fit(text, smoothing=smoothing, prune=(0, 1))
    assert sum(run.params.sizes) < sum(fit(text, smoothing=smoothing).params.sizes)
    for context in ("", "the", "a cat", "the dog", "on the"):
        total = sum(p for _, p in jaxlm.next_words(run, context, 20))
        assert total == pytest.approx(1, abs=1e-12)


def test_a_pruned_run_is_kept_resumed_explained_and_exported(text, tmp_path):
    options = {"prune": (0, 0, 1), "prune_entropy": 1e-3}
    run = fit(text, tmp_path / "run", **options)
    again = jaxlm.load(tmp_path / "run")
    assert again.settings["counting"]["prune"] == [0, 0, 1]
    with pytest.raises(jaxlm.UserError, match=r"counted with `prune` 0 0 1, not 0 1 1"):
        fit(text, tmp_path / "run", resume=True, **options | {"prune": (0, 1, 1)})
    assert jaxlm.sample(again, "the", length=3)
    export_arpa(run, tmp_path / "small.arpa")
    read = import_arpa(tmp_path / "small.arpa")
    sentences = ["the mat sat", "a dog", "the zebra ran"]
    assert bits_of(read, sentences) == pytest.approx(bits_of(again, sentences), abs=1e-6)
    ladder = jaxlm.inspection.backoff(run, "the", "dog", text=text)
    assert ladder.probability == pytest.approx(dict(jaxlm.next_words(run, "the", 20))["dog"])
    assert "pruned" in ladder.note


def test_the_ladder_of_a_model_pruned_by_count_has_counts(text):
    run = fit(text, smoothing="witten-bell", prune=(0, 0, 6))
    ladder = jaxlm.inspection.backoff(run, "the cat", "sat", text=text)
    assert [(rung.context_count, rung.pair_count) for rung in ladder.rungs] == [
        (6, 0),
        (7, 3),
        (60, 6),
        (None, None),
    ]
    assert ladder.probability == pytest.approx(dict(jaxlm.next_words(run, "the cat", 20))["sat"])


def test_a_run_is_pruned_later_and_twice(text, tmp_path):
    run = fit(text)
    pruned = jaxlm.prune(run, 1e-3).save(tmp_path / "pruned")
    assert sum(pruned.params.sizes) < sum(run.params.sizes)
    assert pruned.settings["counting"]["prune_entropy"] == 1e-3
    # Some suffixes of its n-grams are gone, so that P(w | h') needs back-off.
    twice = jaxlm.prune(pruned, 1e-2)
    assert sum(twice.params.sizes) < sum(pruned.params.sizes)
    for context in ("", "the", "a cat"):
        assert sum(p for _, p in jaxlm.next_words(twice, context, 20)) == pytest.approx(1)
    with pytest.raises(jaxlm.SettingError, match="prune_entropy"):
        jaxlm.prune(run, 2)


@pytest.mark.full
def test_counting_on_disk_prunes_to_the_same_tables(tmp_path):
    pytest.importorskip("duckdb")
    draw = np.random.default_rng(0)
    words = [f"w{int(40 * x**3)}" for x in draw.random(400_000)]
    lines = [" ".join(words[place : place + 8]) for place in range(0, len(words), 8)]
    text = jaxlm.read_corpus(lines, fractions=(1.0,))
    needed = bytes_needed(len(text.train), 3, len(text.vocabulary))
    assert needed > available(parse_memory("40MB"))
    for options in (
        {"prune": (0, 0, 1), "prune_entropy": 1e-5},
        {"prune": (0, 1), "smoothing": "add-k"},
    ):
        wanted = fit(text, **options)
        found = fit(text, tmp_path / "_".join(options), memory="40MB", **options)
        for name, array in wanted.params.arrays().items():
            np.testing.assert_allclose(found.params.arrays()[name], array, rtol=1e-12)


def test_kenlm_reads_a_pruned_file(text, tmp_path):
    kenlm = pytest.importorskip("kenlm")
    run = fit(text, prune=(0, 1), prune_entropy=1e-3)
    export_arpa(run, tmp_path / "small.arpa")
    model = kenlm.Model(str(tmp_path / "small.arpa"))
    for sentence in ("the mat sat", "a dog", "the zebra ran", "on the zebra"):
        bits = -sum(p for p, *_ in model.full_scores(sentence)) / np.log10(2)
        assert bits_of(run, [sentence]) == pytest.approx([bits], abs=1e-5)


def test_convert_prunes_a_run_or_a_file(text, tmp_path, capsys):
    folder, arpa, smaller = tmp_path / "run", tmp_path / "small.arpa", tmp_path / "smaller.arpa.gz"
    run = fit(text, folder)
    for source, target, threshold in ((folder, arpa, "1e-3"), (arpa, smaller, "1e-2")):
        assert convert.main([str(source), str(target), "--prune-entropy", threshold]) == 0
    assert "n-grams before: " in capsys.readouterr().out
    assert convert.main([str(folder), str(tmp_path / "other"), "--prune-entropy", "1e-3"]) == 0
    sizes = [sum(import_arpa(path).params.sizes) for path in (arpa, smaller)]
    saved = jaxlm.load(tmp_path / "other")
    assert sum(run.params.sizes) > sizes[0] > sizes[1]
    assert sum(saved.params.sizes) == sizes[0]
    with pytest.raises(jaxlm.UserError, match="already holds a run"):
        convert.main([str(arpa), str(folder), "--prune-entropy", "1e-3"])
