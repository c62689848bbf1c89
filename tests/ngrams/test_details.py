"""Ranks and entropies of whole texts against the whole distribution of every token."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxlm.evaluation import scoring
from jaxlm.evaluation.scoring import Scorer
from jaxlm.interop.arpa import read_arpa
from jaxlm.models.ngram import NGram
from jaxlm.ngrams import details
from jaxlm.ngrams.counts import Sequences, count_ngrams
from jaxlm.ngrams.details import rank_and_entropy
from jaxlm.ngrams.smoothing import SMOOTHINGS
from jaxlm.ngrams.tables import NOTHING, Tables

V = 12
END = V - 1


def words(seed, length):
    """Draw a text in which some words are frequent, and many are equally rare."""
    shares = np.array([0.3, 0.2, 0.1, *[0.3 / (V - 4)] * (V - 4), 0.1])
    return np.random.default_rng(seed).choice(V, length, p=shares)


def counted(ids, smoothing, order, stream, add_k=0.5):
    text = Sequences.stream(ids, END) if stream else Sequences.lines(ids, END, V)
    return SMOOTHINGS[smoothing](count_ngrams(text, order, V), add_k=add_k).tables


def contexts_of(tables, ids, stream=False):
    """Return the contexts before each token of a text, as the model computes them."""
    model = NGram(tables.vocab_size, END, order=tables.order, stream=stream)
    inputs = np.concatenate([[END], ids[:-1]])[None]
    contexts, _ = model.contexts(tables, inputs, model.initial_carry(1))
    return [context_BP[:, 1:] for context_BP in contexts]


def by_distribution(tables, contexts, targets):
    """Return ranks and entropies from all probabilities of each position."""
    rank, entropy = np.empty(targets.shape, np.int64), np.empty(targets.shape)
    for index in np.ndindex(*targets.shape):
        p_V, _ = tables.distribution([int(ids[index]) for ids in contexts])
        rank[index] = 1 + np.count_nonzero(p_V > p_V[targets[index]])
        entropy[index] = -p_V @ np.log(np.where(p_V > 0, p_V, 1))
    return rank, entropy


def assert_exact(tables, contexts, targets):
    rank, entropy = rank_and_entropy(tables, contexts, targets)
    expected_rank, expected_entropy = by_distribution(tables, contexts, targets)
    assert rank.shape == entropy.shape == targets.shape and rank.dtype == np.int64
    np.testing.assert_array_equal(rank, expected_rank)
    np.testing.assert_allclose(entropy, expected_entropy, rtol=0, atol=1e-9)
    return rank, entropy


@pytest.mark.parametrize("stream", [False, True], ids=["lines", "stream"])
@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_a_text_equals_the_distributions_of_its_tokens(smoothing, order, stream):
    ids = words(1, 300)
    tables = counted(ids, smoothing, order, stream)
    # The text repeats words of the training text, so that all lengths of contexts are listed.
    text = np.concatenate([words(2, 150), ids[40:190]])
    assert_exact(tables, contexts_of(tables, text, stream), text[None])


@settings(max_examples=30, deadline=None)
@given(
    ids=st.lists(st.integers(0, V - 1), min_size=6, max_size=40),
    text=st.lists(st.integers(0, V - 1), min_size=1, max_size=15),
    smoothing=st.sampled_from(list(SMOOTHINGS)),
    order=st.integers(1, 5),
)
def test_short_texts_have_exact_ranks(ids, text, smoothing, order):
    tables = counted(np.array([*ids, END]), smoothing, order, stream=True)
    text = np.array([*text, *ids])
    assert_exact(tables, contexts_of(tables, text, stream=True), text[None])


def test_words_of_probability_0_share_the_last_rank():
    ids = np.array([0, 1, 0, 1, 0, 2, END])
    tables = counted(ids, "maximum-likelihood", 3, stream=False)
    text = np.array([0, 1, 5, 5, 0, 2, 7, END])
    contexts = contexts_of(tables, text)
    probability, _ = tables.score(contexts, text[None])
    assert (probability == 0).sum() >= 2
    rank, entropy = assert_exact(tables, contexts, text[None])
    # After "0 1" came 0 alone, so that every other word has the rank 2.
    assert rank[0, 2] == 2 and entropy[0, 2] == 0


def test_add_k_without_k_and_with_a_large_k():
    for k in (0.0, 1e6):
        ids = words(3, 200)
        tables = counted(ids, "add-k", 3, stream=False, add_k=k)
        assert_exact(tables, contexts_of(tables, ids), ids[None])


ARPA = r"""
\data\
ngram 1=5
ngram 2=4
ngram 3=2

\1-grams:
-0.5	<unk>	0.4
-0.7	a	-0.2
-0.7	b	0.3
-99	<s>	-1.5
-0.9	</s>

\2-grams:
-0.1	<s> a	0.25
-0.3	a b	-2.0
-0.3	a a	-99
-1.2	b a

\3-grams:
-0.6	<s> a b
-0.05	a b a

\end\
"""


def test_a_model_of_an_arpa_file_whose_weights_do_not_sum_to_1(tmp_path):
    path = tmp_path / "model.arpa"
    path.write_text(ARPA.lstrip())
    model = read_arpa(path)
    tables, size = model.tables, model.tables.vocab_size
    text = np.random.default_rng(0).integers(0, size, (3, 60))
    # The word before a line is the start of a line. Three rows are read at once.
    seen = np.concatenate([np.full((3, 1), size), text[:, :-1]], axis=1)
    contexts = tables.contexts(seen)
    sums = [
        tables.distribution([int(ids[0, place]) for ids in contexts])[0].sum()
        for place in range(60)
    ]
    assert np.ptp(sums) > 0.1
    assert_exact(tables, contexts, text)


def test_orders_without_ngrams_change_nothing():
    ids = words(4, 120)
    full = counted(ids, "witten-bell", 2, stream=False)
    no_keys = np.empty(0, np.int64)
    tables = Tables(
        V,
        (full.keys[0], no_keys, no_keys),
        (*full.probabilities, np.empty(0), np.empty(0)),
        (full.backoffs[0], np.full(len(full.keys[0]), 0.5), np.empty(0)),
    )
    contexts = contexts_of(tables, ids)
    assert_exact(tables, contexts, ids[None])


def test_the_blocks_of_a_long_text_change_nothing(monkeypatch):
    ids = words(5, 400)
    tables = counted(ids, "modified-kneser-ney", 4, stream=False)
    contexts = contexts_of(tables, ids)
    whole = rank_and_entropy(tables, contexts, ids[None])
    monkeypatch.setattr(details, "TOKENS", 70)
    monkeypatch.setattr(details, "NGRAMS", 5)
    for found, expected in zip(assert_exact(tables, contexts, ids[None]), whole, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_no_tokens_and_no_contexts():
    tables = counted(words(6, 60), "kneser-ney", 3, stream=False)
    nothing = np.empty((1, 0), np.int64)
    assert [a.shape for a in rank_and_entropy(tables, [nothing] * 2, nothing)] == [(1, 0)] * 2
    # At the start of a text that has no start token, no context is listed.
    targets = np.arange(V)
    assert_exact(tables, [np.full(V, NOTHING)] * 2, targets)


@pytest.mark.parametrize("tokens", [1, 30, 10_000])
def test_rows_in_batches_of_any_size_have_the_same_scores(tokens, monkeypatch):
    ids = words(7, 300)
    tables = counted(ids, "modified-kneser-ney", 3, stream=False)
    model = NGram(V, END, order=3)
    targets = [words(seed, length) for seed, length in enumerate((5, 0, 60, 1, 9, 9, 31, 2))]
    inputs = [np.concatenate([[END], row[:-1]])[: len(row)] for row in targets]
    one_by_one = Scorer(model, detail=True).rows(tables, inputs, targets, False, batch_size=1)
    monkeypatch.setattr(scoring, "COUNTED_TOKENS", tokens)
    found = Scorer(model, detail=True).rows(tables, inputs, targets, last_only=False)
    assert len(found.log_prob) == sum(map(len, targets))
    for part, expected in zip(found, one_by_one, strict=True):
        np.testing.assert_allclose(part, expected, rtol=0, atol=1e-12)


def test_more_contexts_than_numbers_of_16_bits():
    size = (1 << 16) + 10
    # After each word come the next word and word 0, with probabilities in both orders.
    heads = np.repeat(np.arange(1, size - 1), 2)
    keys = heads * (size + 1) + np.where(np.arange(len(heads)) % 2, heads + 1, 0)
    generator = np.random.default_rng(0)
    unigrams = np.append(generator.choice([0.5, 1.0, 2.0], size) / size, 0)
    backoffs = np.append(generator.choice([0.5, 1.0], size), 1)
    tables = Tables(
        size, (keys,), (unigrams, generator.choice([0.1, 0.2, 0.3], len(keys))), (backoffs,)
    )
    context = np.arange(size)
    targets = np.minimum(context + 1, size - 1)
    rank, entropy = rank_and_entropy(tables, [context], targets)
    places = np.array([0, 1, 2, size // 2, size - 5, size - 2, size - 1])
    expected = by_distribution(tables, [context[places]], targets[places])
    np.testing.assert_array_equal(rank[places], expected[0])
    np.testing.assert_allclose(entropy[places], expected[1], rtol=0, atol=1e-9)
