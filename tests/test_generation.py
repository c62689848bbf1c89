"""Sampling and next words against direct computations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlm
from jaxlm.data.tokenizers import Characters
from jaxlm.data.vocabulary import Vocabulary
from jaxlm.errors import SettingError, UserError
from jaxlm.models import make_model
from jaxlm.ops.sampling import filter_logits
from jaxlm.training.state import init_params

LOGITS = np.log(np.array([[0.5, 0.25, 0.125, 0.125], [0.1, 0.2, 0.3, 0.4]], np.float32))


@pytest.fixture(scope="module", params=["nplm", "lstm"])
def run(request):
    tokenizer = Characters(Vocabulary(("\n", "a", "b", "c"), start="\n"))
    sizes = {"embedding_size": 4, "hidden_size": 4}
    model = make_model(request.param, sizes, 4)
    params = jax.tree.map(lambda a: 3 * a, init_params(model, jax.random.key(1)))
    return jaxlm.Run(model, params, tokenizer)


def test_samples_that_the_memory_cannot_hold_are_refused(run, monkeypatch):
    """Their logits alone take more than 1 MB, though they are of one token each."""
    monkeypatch.setattr("jaxlm.ops.machine.host_memory", lambda: 10**6)
    with pytest.raises(UserError, match="`samples` 10,000 take"):
        jaxlm.sample(run, "a", samples=10_000, length=1)
    assert len(jaxlm.sample(run, "a", samples=10, length=1)) == 10


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "kept"),
    [
        (1.0, None, None, [[0, 1, 2, 3], [0, 1, 2, 3]]),
        (1.0, 2, None, [[0, 1], [2, 3]]),
        (1.0, 9, None, [[0, 1, 2, 3], [0, 1, 2, 3]]),
        (1.0, None, 0.7, [[0, 1], [2, 3]]),
        (1.0, None, 1e-6, [[0], [3]]),
        (1.0, None, 1.0, [[0, 1, 2, 3], [0, 1, 2, 3]]),
        (0.5, 3, 0.8, [[0, 1], [2, 3]]),
    ],
)
def test_filters_keep_the_most_probable_tokens(temperature, top_k, top_p, kept):
    found_BV = np.asarray(filter_logits(jnp.array(LOGITS), temperature, top_k, top_p))
    for row, expected in enumerate(kept):
        assert np.flatnonzero(np.isfinite(found_BV[row])).tolist() == expected
        logits_V = LOGITS[row] - LOGITS[row].max()
        np.testing.assert_allclose(
            found_BV[row, expected], logits_V[expected] / temperature, rtol=1e-6
        )


def test_filters_keep_the_first_of_equal_tokens():
    equal_BV = jnp.zeros((2, 10))
    for options, count in (((1.0, 3, None), 3), ((1.0, None, 0.7), 7), ((1.0, 5, 0.5), 3)):
        found_BV = np.asarray(filter_logits(equal_BV, *options))
        for found_V in found_BV:
            assert np.flatnonzero(np.isfinite(found_V)).tolist() == list(range(count)), options
    # The first token alone has 0.4. With the first of three equal tokens the sum is 0.6.
    logits_BV = jnp.log(jnp.array([[0.2, 0.4, 0.2, 0.2]]))
    for top_p, kept in ((0.4, [1]), (0.5, [0, 1]), (0.6, [0, 1]), (0.61, [0, 1, 2])):
        found_V = np.asarray(filter_logits(logits_BV, 1.0, None, top_p))[0]
        assert np.flatnonzero(np.isfinite(found_V)).tolist() == kept, top_p


@pytest.mark.quick_for("nplm-1e-38")
@pytest.mark.parametrize("temperature", [1e-50, 1e-38, 1e-12, 1e-3])
def test_a_very_low_temperature_equals_zero(run, temperature):
    text = jaxlm.sample(run, "ab", length=6, temperature=0)
    assert jaxlm.sample(run, "ab", length=6, temperature=temperature, samples=3) == text * 3


def test_an_ngram_at_a_very_low_temperature_draws_only_possible_words():
    text = jaxlm.read_corpus("toy", eos=False)
    model = jaxlm.NGram(len(text.vocabulary), order=2, smoothing="maximum-likelihood")
    counted = jaxlm.fit(model, text, quiet=True)
    for options in ({"temperature": 1e-12}, {"temperature": 1e30}, {"temperature": 0}):
        assert jaxlm.sample(counted, "我 爱", length=1, seed=3, **options) == ["我 爱 爸爸"]


def test_an_infinite_temperature_is_an_error(run):
    for value in (float("inf"), float("nan"), -1.0):
        with pytest.raises(jaxlm.UserError, match="`temperature`"):
            jaxlm.sample(run, "ab", temperature=value)


def log_probs_after(run, text):
    ids = [0, *run.vocabulary.ids(text)]
    hidden_BTF, _ = run.model.apply({"params": run.params}, jnp.array([ids]))
    logits_BTV = run.model.apply({"params": run.params}, hidden_BTF, method="logits")
    return np.asarray(jax.nn.log_softmax(logits_BTV[0, -1]))


def test_next_words_equal_the_model_s_distribution(run):
    words = jaxlm.next_words(run, "abcab", 4)
    expected_V = np.exp(log_probs_after(run, "abcab"))
    assert sum(probability for _, probability in words) == pytest.approx(1, abs=1e-5)
    assert [p for _, p in words] == sorted((p for _, p in words), reverse=True)
    for word, probability in words:
        assert probability == pytest.approx(expected_V[run.vocabulary.ids([word])[0]], abs=1e-5)


@pytest.mark.full
def test_temperature_zero_takes_the_most_probable_token_at_each_step(run):
    (text,) = jaxlm.sample(run, "ab", length=6, temperature=0)
    assert text.startswith("ab") and len(text) == 8
    ids = [0, *run.vocabulary.ids(text)]
    hidden_BTF, _ = run.model.apply({"params": run.params}, jnp.array([ids]))
    logits_BTV = run.model.apply({"params": run.params}, hidden_BTF, method="logits")
    assert np.argmax(logits_BTV[0, 2:-1], axis=-1).tolist() == ids[3:]
    assert jaxlm.sample(run, "ab", length=6, top_k=1) == [text]
    assert jaxlm.sample(run, "ab", length=6, top_p=1e-6) == [text]


def test_samples_follow_the_distribution(run):
    texts = jaxlm.sample(run, "abca", length=1, samples=4000, seed=3)
    counts = np.array([sum(text == f"abca{token}" for text in texts) for token in "\nabc"])
    expected = 4000 * np.exp(log_probs_after(run, "abca"))
    # Pearson's chi-squared with 3 degrees of freedom: 21.1 has probability 1e-4.
    assert np.sum((counts - expected) ** 2 / expected) < 21.1


def test_a_continuation_ends_before_the_first_stop_text(run):
    settings = {"length": 40, "samples": 3, "seed": 4}
    whole = jaxlm.sample(run, "ab", **settings)
    for stop in (("ab",), ("\n",), ("c", "ba"), ("never",)):
        for text, found in zip(whole, jaxlm.sample(run, "ab", stop=stop, **settings), strict=True):
            # The prompt has a stop text too.
            ends = [at for word in stop if (at := text.find(word, 2)) >= 0]
            assert found == (text[: min(ends)] if ends else text)
    for stop, why in (("ab", "must be a list"), (("",), "an empty text"), ((1,), "must be a list")):
        with pytest.raises(SettingError, match=f"`stop` .*{why}"):
            jaxlm.sample(run, "ab", stop=stop)


def test_the_seed_fixes_the_samples_of_a_batch(run):
    first = jaxlm.sample(run, "a", length=12, samples=4, seed=1)
    assert first == jaxlm.sample(run, "a", length=12, samples=4, seed=1)
    assert first != jaxlm.sample(run, "a", length=12, samples=4, seed=2)
    assert len(set(first)) > 1
    assert all(len(text) == 13 for text in first)
