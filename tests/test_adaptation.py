"""Runs measured with a temperature and a cache, against the definitions in NumPy."""

import random

import jax
import numpy as np
import pytest
from cases import assert_trees_close
from numpy.testing import assert_allclose

import jaxlm
from jaxlm.errors import UserError
from jaxlm.evaluation.adaptation import Adaptation, adapted, dynamic, reading, tuning


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


def run_text(folder):
    return jaxlm.read_corpus(str(folder))


def trained(folder, **options):
    text = run_text(folder)
    sizes = {"embedding_size": 6, "hidden_size": 6, "vocab_size": len(text.vocabulary)}
    model = jaxlm.GRU(start_id=text.vocabulary.start_id, **sizes, **options)
    return jaxlm.fit(model, text, epochs=3, batch_size=4, bptt=8, lr=0.02)


@pytest.fixture(scope="module")
def run(folder):
    return trained(folder)


@pytest.fixture(scope="module")
def dropped(folder):
    return trained(folder, dropout=0.3)


def model_log_probs(run, split, temperature):
    """log softmax(y / τ) of every token, and the states, by one run over the whole text."""
    ids = jaxlm.evaluation.perplexity.open_split(run, split=split).ids
    inputs = np.concatenate([[run.model.start_id], ids[:-1]])[None].astype(np.int32)
    hidden, _ = run.model.apply({"params": run.params}, inputs)
    logits = run.model.apply({"params": run.params}, hidden, method="logits")[0]
    log_probs = jax.nn.log_softmax(np.float32(logits) / temperature)
    return np.float64(log_probs[np.arange(len(ids)), ids]), np.float64(hidden[0]), ids


def test_nothing_adapted_is_the_perplexity(run):
    found = adapted(run, Adaptation())
    assert_allclose(found.nll, jaxlm.perplexity(run).nll, rtol=1e-6)
    # A 1 that validation chose is told like any other.
    assert "Adapted: temperature 1" in found.protocol


@pytest.mark.parametrize("chunk", [7, 256])
def test_temperature_and_cache_as_defined(run, monkeypatch, chunk):
    monkeypatch.setattr(reading, "CHUNK", chunk)
    monkeypatch.setattr(tuning, "CHUNK", chunk)
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


def test_a_rule_as_defined(run):
    """Segment by segment: scored first, then a step, and a pull back to the trained parameters."""
    ids = jaxlm.evaluation.perplexity.open_split(run, split="test").ids.astype(np.int32)
    inputs = np.concatenate([[run.model.start_id], ids[:-1]]).astype(np.int32)
    params, carry, found = run.params, None, []

    @jax.jit
    def nll(params, inputs, targets, carry):
        nll_1T, carry = run.model.apply(
            {"params": params}, inputs[None], targets[None], carry, method="nll"
        )
        return nll_1T.mean(), (nll_1T[0], carry)

    for first in range(0, len(ids), 6):
        part = inputs[first : first + 6], ids[first : first + 6]
        gradient, (nll_T, carry) = jax.grad(nll, has_aux=True)(params, *part, carry)
        found.append(nll_T)
        params = jax.tree.map(
            lambda theta, trained, g: theta - 0.3 * g + 0.01 * (trained - theta),
            params,
            run.params,
            gradient,
        )
    settings = {"dynamic": "sgd", "dynamic_lr": 0.3, "dynamic_decay": 0.01, "dynamic_steps": 6}
    adapted_to = adapted(run, Adaptation(**settings))
    assert_allclose(adapted_to.nll, np.concatenate(found).sum(), rtol=1e-5)
    assert "dynamic evaluation (sgd), a step every 6 tokens, rate 0.3" in adapted_to.protocol


def test_the_root_mean_square_of_training_gradients(run):
    """One row and one segment: the gradient's own magnitude."""
    ids = jaxlm.evaluation.perplexity.open_split(run, split="train").ids[:8].astype(np.int32)

    def nll(params):
        texts = ids[None, :6], ids[None, 1:7]
        return run.model.apply({"params": params}, *texts, method="nll")[0].mean()

    gradient = jax.grad(nll)(run.params)
    rms, mean = dynamic.training_rms(run.model, run.params, ids, 6)
    assert_trees_close(rms, jax.tree.map(np.abs, gradient), rtol=1e-4, atol=1e-7)
    means = [np.abs(array).mean() for array in jax.tree.leaves(gradient)]
    assert_allclose(mean, np.mean(means), rtol=1e-4)


@pytest.mark.parametrize("rule", ["sgd", "rms"])
def test_following_the_text_is_of_use_and_adds_to_the_cache(run, rule):
    static = jaxlm.perplexity(run, "valid").nll
    following = adapted(run, Adaptation(dynamic=rule, dynamic_steps=4), split="valid")
    both = adapted(
        run, Adaptation(cache=40, temperature=None, dynamic=rule, dynamic_steps=4), split="valid"
    )
    assert following.nll < static
    assert both.nll < following.nll
    assert "rate and decay by its first" in following.protocol


def test_the_training_text_is_looked_at_once(run, monkeypatch):
    looked = []

    def counted(*args):
        looked.append(args)
        return dynamic.training_rms(*args)

    monkeypatch.setattr(tuning, "training_rms", counted)
    settings = {"dynamic": "rms", "dynamic_steps": 8, "dynamic_decay": 0.02}
    jaxlm.mixture([run], adaptation=Adaptation(**settings), unigram_cache=20)
    assert len(looked) == 1


def test_samples_are_averaged_as_probabilities(dropped):
    """With one mask for the whole text: the mean of what two networks say, in one pass."""
    ids = jaxlm.evaluation.perplexity.open_split(dropped, split="test").ids[:50].astype(np.int32)
    inputs = np.concatenate([[dropped.model.start_id], ids[:-1]]).astype(np.int32)
    hidden, _ = dropped.model.apply(
        {"params": dropped.params},
        np.stack([inputs, inputs]),
        deterministic=False,
        rngs={"dropout": jax.random.key(3)},
    )
    logits = dropped.model.apply({"params": dropped.params}, hidden, method="logits")
    p_2T = jax.nn.softmax(logits)[:, np.arange(50), ids]
    assert not np.allclose(p_2T[0], p_2T[1])
    options = reading.ReadingOptions(cache=0, samples=2, rule="none")
    found = reading.read(
        dropped.model, dropped.params, ids, options, [1.0], [0.0], seed=3, segment_length=50
    )
    assert_allclose(found.model_KT[0], np.log(p_2T.mean(0)), rtol=1e-4, atol=1e-5)


def test_samples_depend_on_the_seed_alone(dropped):
    first, again, other = (
        adapted(dropped, Adaptation(samples=3, seed=seed)).nll for seed in (1, 1, 2)
    )
    assert first == again != other


def test_a_mixture_of_adapted_runs(run, dropped, folder):
    counted = jaxlm.fit(jaxlm.NGram(vocab_size=len(run.vocabulary), order=2), run_text(folder))
    how = Adaptation(cache=40, temperature=None)
    mixed = jaxlm.mixture([counted, run, dropped], adaptation=how)
    assert [part.run.endswith(", adapted") for part in mixed.alone] == [False, True, True]
    alone = adapted(run, how)
    assert mixed.alone[1].nll == pytest.approx(alone.nll)
    assert mixed.alone[1].protocol == alone.protocol
    assert mixed.together.nll < min(part.nll for part in mixed.alone)


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
        ({"dynamic": "rmsprop"}, "did you mean 'rms'"),
        ({"dynamic": "sgd", "dynamic_lr": 0.0}, "--dynamic-lr 0.0"),
        ({"dynamic": "sgd", "dynamic_decay": 1.5}, "--dynamic-decay 1.5"),
        ({"dynamic": "sgd", "dynamic_steps": 0}, "--dynamic-steps 0"),
        ({"samples": -1}, "--mc-samples -1"),
        ({"samples": 3}, "--mc-samples 3: .* without dropout"),
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
