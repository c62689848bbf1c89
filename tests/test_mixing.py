"""Mixtures and the unigram cache against direct computations."""

import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxlm
from jaxlm.errors import UserError
from jaxlm.evaluation.interpolation import em_weights, interpolated
from jaxlm.evaluation.mixing import unigram_cache_log_probs
from jaxlm.evaluation.perplexity import open_split, score_split
from jaxlm.runs.protocol import Protocol

TEXT = "the cat sat on the mat\nthe dog sat on the log\n\nthe cat saw the dog\n"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    for split, times in (("train", 5), ("valid", 2), ("test", 1)):
        (folder / f"{split}.txt").write_text(TEXT * times + "the dog sat on the mat\n")
    text = jaxlm.read_corpus(str(folder))
    sizes = {"vocab_size": len(text.vocabulary)}
    return [
        jaxlm.fit(jaxlm.NGram(**sizes, order=order, smoothing=smoothing), text)
        for order, smoothing in ((1, "witten-bell"), (3, "kneser-ney"))
    ]


def test_the_mixture_equals_the_weighted_sum(runs):
    mixed = jaxlm.mixture(runs, weights=(0.25, 0.75))
    alone = [score_split(run, open_split(run)) for run in runs]
    expected = np.log(0.25 * np.exp(alone[0].log_prob) + 0.75 * np.exp(alone[1].log_prob))
    assert mixed.together.nll == pytest.approx(-expected.sum())
    assert mixed.together.tokens == len(expected)
    for run, item in zip(runs, mixed.alone, strict=True):
        assert float(item) == pytest.approx(float(jaxlm.perplexity(run)))
    best = min(item.bits for item in mixed.alone)
    assert mixed.gain == pytest.approx((best - mixed.together.bits) / len(expected))


def test_tuned_weights_are_the_best_on_the_validation_split(runs):
    mixed = jaxlm.mixture(runs, split="valid")
    assert sum(mixed.weights) == pytest.approx(1)
    assert mixed.together.nll <= min(item.nll for item in mixed.alone) + 1e-6
    first = mixed.weights[0]
    for weight in (0.9 * first, 0.9 * first + 0.1):
        worse = jaxlm.mixture(runs, split="valid", weights=(weight, 1 - weight))
        assert worse.together.nll >= mixed.together.nll - 1e-6


def test_em_finds_the_weights_that_generated_the_text():
    rng = np.random.default_rng(0)
    p_MV = rng.dirichlet(np.full(20, 0.3), 3)
    truth = np.array([0.2, 0.5, 0.3])
    drawn = rng.choice(20, 50_000, p=truth @ p_MV)
    np.testing.assert_allclose(em_weights(np.log(p_MV)[:, drawn]), truth, atol=0.03)


def test_a_component_may_give_a_token_probability_zero():
    log_probs_MT = np.log([[0.5, 0.5, 0.5], [1.0, 1e-300, 1.0]])
    log_probs_MT[1, 1] = -np.inf
    weights = em_weights(log_probs_MT)
    assert 0 < weights[0] < 1
    assert np.isfinite(interpolated(log_probs_MT, weights)).all()
    assert interpolated(log_probs_MT, [1.0, 0.0]) == pytest.approx(np.log([0.5, 0.5, 0.5]))


@given(ids=st.lists(st.integers(0, 4), min_size=1, max_size=40), half_life=st.integers(1, 12))
def test_the_cache_equals_decaying_relative_frequencies(ids, half_life):
    found = np.exp(unigram_cache_log_probs(np.array(ids), half_life, 5))
    expected = [1 / 5]
    for position in range(1, len(ids)):
        weights = 0.5 ** (np.arange(position, 0, -1) / half_life)
        expected.append(weights[np.array(ids[:position]) == ids[position]].sum() / weights.sum())
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_the_cache_is_exact_for_long_texts():
    ids = np.random.default_rng(0).integers(0, 5000, 200_000)
    found = unigram_cache_log_probs(ids, 80, 5000)
    for position in (199_999, 150_000, 77_777):
        weights = 0.5 ** (np.arange(3000, 0, -1) / 80)
        recent = ids[position - 3000 : position]
        share = weights[recent == ids[position]].sum() / weights.sum()
        assert np.exp(found[position]) == pytest.approx(share, rel=1e-6, abs=1e-11)


def test_the_unigram_cache_is_a_component(runs):
    mixed = jaxlm.mixture(runs[1:], unigram_cache=5)
    assert [item.run for item in mixed.alone][1] == "unigram cache"
    assert len(mixed.weights) == 2


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"weights": (0.5, 0.6)}, "sum must be 1"),
        ({"weights": (1.0,)}, "1 weights for 2 components"),
        ({"weights": (1.5, -0.5)}, "at least 0"),
        ({"unigram_cache": 0}, "`unigram_cache` 0: must be at least 1"),
        ({"split": "nowhere"}, "'nowhere'"),
    ],
)
def test_mistakes_are_errors(runs, options, fragment):
    with pytest.raises(UserError, match=fragment):
        jaxlm.mixture(runs, **options)


def test_runs_that_cannot_be_mixed_are_errors(runs, tmp_path):
    with pytest.raises(UserError, match="needs two components"):
        jaxlm.mixture(runs[:1])
    (tmp_path / "other.txt").write_text("a dog\n" * 30)
    text = jaxlm.read_corpus(str(tmp_path / "other.txt"))
    other = jaxlm.fit(jaxlm.NGram(vocab_size=len(text.vocabulary), order=2), text)
    with pytest.raises(UserError, match=r"different vocabularies .*'the' is in NGram and not in"):
        jaxlm.mixture([runs[0], other])


def test_an_adaptation_that_no_run_can_have_is_an_error(runs):
    ngrams = [run for run in runs if run.model.trained_by == "counting"]
    with pytest.raises(UserError) as alone:
        jaxlm.adapted(ngrams[0], jaxlm.Adaptation(cache=10))
    with pytest.raises(UserError, match=re.escape(str(alone.value))):
        jaxlm.mixture([ngrams[0], ngrams[0]], adaptation=jaxlm.Adaptation(cache=10))


def test_tokens_that_no_component_can_predict_have_equal_weights():
    assert em_weights(np.full((2, 3), -np.inf)).tolist() == [0.5, 0.5]


def test_a_split_or_a_corpus_given_with_a_text_is_checked(runs, tmp_path):
    (tmp_path / "new.txt").write_text("the cat\n")
    text = {"text": tmp_path / "new.txt"}
    with pytest.raises(UserError, match="`split` valid: has no effect with a `text`"):
        jaxlm.mixture(runs, split="valid", **text)
    with pytest.raises(UserError, match="`corpus` none: has no effect with a `text`"):
        jaxlm.mixture(runs, corpus="none", weights=(0.5, 0.5), **text)
    # Without weights, the weights are tuned on the corpus.
    corpus = runs[0].settings["text"]["corpus"]
    assert jaxlm.mixture(runs, corpus=corpus, **text).together.tokens == 3


def test_runs_that_predict_different_tokens_are_an_error(runs):
    """The error does not say that the validation split cannot be read."""
    rows = dataclasses.replace(runs[1], protocol=Protocol(rows=True))
    with pytest.raises(UserError, match=r"^NGram and NGram do not predict the same tokens"):
        jaxlm.mixture([runs[0], rows])
