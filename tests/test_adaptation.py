"""Runs measured with a temperature and a cache, against the definitions in NumPy."""

import random

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

import jaxlm
from jaxlm import adaptation
from jaxlm.adaptation import Adaptation, adapted
from jaxlm.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A corpus in which words come in bursts, so that a cache is of use."""
    folder = tmp_path_factory.mktemp("bursts")
    draw = random.Random(1)
    for split, lines in {"train": 60, "valid": 30, "test": 30}.items():
        text = ""
        for _ in range(lines // 5):
            topic = draw.sample("abcdefghijklmnop", 3)
            text += "".join(" ".join(draw.choices(topic, k=6)) + "\n" for _ in range(5))
        (folder / f"{split}.txt").write_text(text)
    return folder


@pytest.fixture(scope="module")
def run(folder):
    text = jaxlm.read_corpus(str(folder))
    size = len(text.vocabulary)
    model = jaxlm.GRU(
        vocab_size=size, start_id=text.vocabulary.start_id, embedding_size=6, hidden_size=6
    )
    return jaxlm.fit(model, text, epochs=3, batch_size=4, bptt=8, lr=0.02)


def model_log_probs(run, split, temperature):
    """log softmax(y / τ) of every token, and the states, by one run over the whole text."""
    ids = jaxlm.evaluation.open_split(run, split=split).ids
    inputs = np.concatenate([[run.model.start_id], ids[:-1]])[None].astype(np.int32)
    hidden, _ = run.model.apply({"params": run.params}, inputs)
    logits = run.model.apply({"params": run.params}, hidden, method="logits")[0]
    log_probs = jax.nn.log_softmax(np.float32(logits) / temperature)
    return np.float64(log_probs[np.arange(len(ids)), ids]), np.float64(hidden[0]), ids


def test_nothing_adapted_is_the_perplexity(run):
    assert_allclose(adapted(run, Adaptation()).nll, jaxlm.perplexity(run).nll, rtol=1e-6)


@pytest.mark.parametrize("chunk", [7, 256])
def test_temperature_and_cache_as_defined(run, monkeypatch, chunk):
    monkeypatch.setattr(adaptation, "CHUNK", chunk)
    log_probs, hidden, ids = model_log_probs(run, "test", 0.8)
    expected = np.exp(log_probs)
    for t in range(1, len(ids)):
        first = max(0, t - 9)
        weights = np.exp(0.7 * (hidden[first:t] @ hidden[t]))
        cached = weights[ids[first:t] == ids[t]].sum() / weights.sum()
        expected[t] = 0.75 * expected[t] + 0.25 * cached
    found = adapted(run, Adaptation(0.8, 9, 0.7, 0.25))
    assert_allclose(found.nll, -np.log(expected).sum(), rtol=1e-5)
    assert found.tokens == len(ids)
    assert "temperature 0.8; cache of the last 9 states, flatness 0.7, share 0.25" in found.protocol


def test_validation_chooses(run):
    static = jaxlm.perplexity(run, "valid").nll
    cooled = adapted(run, Adaptation(temperature=None), split="valid")
    both = adapted(run, Adaptation(temperature=None, cache=40), split="valid")
    assert both.nll < cooled.nll <= static
    assert "by" in both.protocol and "valid" in both.protocol
    # The test split is measured with what was chosen, not chosen for.
    test = adapted(run, Adaptation(temperature=None, cache=40))
    said = test.protocol.split("Adapted: ")[1]
    assert said == both.protocol.split("Adapted: ")[1]
    # In a text of bursts a cache is worth much.
    assert test.perplexity < 0.9 * jaxlm.perplexity(run).perplexity


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "--temperature 0.0: must be above 0"),
        ({"cache": -1}, "--cache -1"),
        ({"cache": 5, "flatness": -0.1}, "--cache-flatness -0.1"),
        ({"cache": 5, "share": 1.0}, "--cache-share 1.0"),
    ],
)
def test_settings_that_cannot_be(run, settings, message):
    with pytest.raises(UserError, match=message):
        adapted(run, Adaptation(**settings))


def test_what_cannot_be_adapted(folder, tmp_path):
    text = jaxlm.read_corpus(str(folder))
    counted = jaxlm.fit(jaxlm.NGram(vocab_size=len(text.vocabulary), order=2), text)
    with pytest.raises(UserError, match="neural models that read one stream"):
        adapted(counted, Adaptation(cache=5))
    (tmp_path / "alone.txt").write_text("a b c d e f g h\n" * 9)
    alone = jaxlm.read_corpus(str(tmp_path / "alone.txt"))
    vocabulary = alone.vocabulary
    model = jaxlm.RNN(vocab_size=len(vocabulary), start_id=vocabulary.start_id, hidden_size=4)
    run = jaxlm.fit(model, alone, steps=2, batch_size=2)
    with pytest.raises(UserError, match="chosen on the validation split, which cannot be had"):
        adapted(run, Adaptation(temperature=None))
