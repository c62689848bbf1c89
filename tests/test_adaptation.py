"""Adapted runs (temperature, cache, dynamic evaluation, dropout masks) against the definitions."""

import random

import jax
import numpy as np
import pytest
from cases import assert_trees_close, build, cases, tokens
from numpy.testing import assert_allclose

import jaxlm
from jaxlm.errors import SettingError, UserError
from jaxlm.evaluation.adaptation import Adaptation, adapted, dynamic, reading, tuning
from jaxlm.evaluation.perplexity import open_split

NEURAL = [case for case in cases() if "plain" in case.id and case.values[0] != "ngram"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A corpus in which words occur in bursts, so that a cache lowers the perplexity."""
    folder = tmp_path_factory.mktemp("bursts")
    draw = random.Random(1)
    for split, lines in {"train": 60, "valid": 30, "test": 30}.items():
        text = ""
        for _ in range(lines // 5):
            topic = draw.sample("abcdefghijklmnop", 3)
            text += "".join(" ".join(draw.choices(topic, k=6)) + "\n" for _ in range(5))
        (folder / f"{split}.txt").write_text(text)
    return folder


def train(folder, **options):
    text = jaxlm.read_corpus(str(folder))
    sizes = {"embedding_size": 6, "hidden_size": 6, "vocab_size": len(text.vocabulary)}
    model = jaxlm.GRU(start_id=text.vocabulary.start_id, **sizes, **options)
    return jaxlm.fit(model, text, epochs=3, batch_size=4, bptt=8, lr=0.02)


@pytest.fixture(scope="module")
def run(folder):
    return train(folder)


@pytest.fixture(scope="module")
def dropout_run(folder):
    return train(folder, dropout=0.3)


def log_probs_by_definition(run, split, temperature):
    """Return log softmax(y / τ) of every token, the states and the ids of a split."""
    ids = open_split(run, split=split).ids
    inputs = np.concatenate([[run.model.start_id], ids[:-1]])[None].astype(np.int32)
    hidden, _ = run.model.apply({"params": run.params}, inputs)
    logits = run.model.apply({"params": run.params}, hidden, method="logits")[0]
    log_probs = jax.nn.log_softmax(np.float32(logits) / temperature)
    return np.float64(log_probs[np.arange(len(ids)), ids]), np.float64(hidden[0]), ids


@pytest.mark.full
def test_the_default_adaptation_gives_the_plain_perplexity(run):
    found = adapted(run, Adaptation())
    assert_allclose(found.nll, jaxlm.perplexity(run).nll, rtol=1e-6)
    # The protocol lists a temperature of 1 too: it can be the result of tuning.
    assert "Adapted: temperature 1" in found.protocol


@pytest.mark.quick_for("7")
@pytest.mark.parametrize("chunk", [7, 256])
def test_temperature_and_cache_equal_the_definition(run, monkeypatch, chunk):
    monkeypatch.setattr(reading, "CHUNK", chunk)
    monkeypatch.setattr(tuning, "CHUNK", chunk)
    log_probs, hidden, ids = log_probs_by_definition(run, "test", 0.8)
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


@pytest.mark.full
def test_the_rule_sgd_equals_the_definition(run):
    """A segment is scored; then the parameters take a step and decay to the trained parameters."""
    ids = open_split(run, split="test").ids.astype(np.int32)
    inputs = np.concatenate([[run.model.start_id], ids[:-1]]).astype(np.int32)
    params, carry, nlls = run.params, None, []

    @jax.jit
    def nll(params, inputs, targets, carry):
        nll_1T, carry = run.model.apply(
            {"params": params}, inputs[None], targets[None], carry, method="nll"
        )
        return nll_1T.mean(), (nll_1T[0], carry)

    for first in range(0, len(ids), 6):
        part = inputs[first : first + 6], ids[first : first + 6]
        gradient, (nll_T, carry) = jax.grad(nll, has_aux=True)(params, *part, carry)
        nlls.append(nll_T)
        params = jax.tree.map(
            lambda theta, trained, g: theta - 0.3 * g + 0.01 * (trained - theta),
            params,
            run.params,
            gradient,
        )
    settings = {"dynamic": "sgd", "dynamic_lr": 0.3, "dynamic_decay": 0.01, "dynamic_steps": 6}
    found = adapted(run, Adaptation(**settings))
    assert_allclose(found.nll, np.concatenate(nlls).sum(), rtol=1e-5)
    assert "dynamic evaluation (sgd), a step every 6 tokens, rate 0.3" in found.protocol


@pytest.mark.full
@pytest.mark.parametrize(("name", "options"), NEURAL)
def test_every_model_takes_the_steps_of_the_definition(name, options):
    model, trained = build(name, options)
    ids = tokens(1, 15, seed=6)[0]
    inputs = np.concatenate([[model.filler_id], ids[:-1]]).astype(np.int32)

    @jax.jit
    def nll(params, inputs, targets, carry):
        nll_1T, carry = model.apply(
            {"params": params}, inputs[None], targets[None], carry, method="nll"
        )
        return nll_1T.mean(), (nll_1T[0], carry)

    params, carry, expected = trained, model.initial_carry(1), []
    for first in range(0, 15, 5):
        part = inputs[first : first + 5], ids[first : first + 5]
        gradient, (nll_T, carry) = jax.grad(nll, has_aux=True)(params, *part, carry)
        expected.append(-nll_T)
        params = jax.tree.map(
            lambda theta, start, g: theta - 0.3 * g + 0.01 * (start - theta),
            params,
            trained,
            gradient,
        )
    arguments = dynamic.RuleArguments(*dynamic.unused_rms(trained), 0.3, 0.01)
    options = reading.ReadingOptions(0, 0, "sgd")
    found = reading.read(
        model, trained, ids, options, (1.0,), (0.0,), segment_length=5, rule_arguments=arguments
    )
    assert_allclose(found.model_KT[0], np.concatenate(expected), atol=2e-5, rtol=2e-5)
    moved = [
        np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (params, trained)), strict=True)
    ]
    assert max(moved) > 1e-3


@pytest.mark.full
def test_the_root_mean_square_of_training_gradients_equals_the_definition(run):
    """The root mean square over a single segment is the absolute value of its gradient."""
    ids = open_split(run, split="train").ids[:8].astype(np.int32)

    def nll(params):
        texts = ids[None, :6], ids[None, 1:7]
        return run.model.apply({"params": params}, *texts, method="nll")[0].mean()

    gradient = jax.grad(nll)(run.params)
    rms, mean = dynamic.training_rms(run.model, run.params, ids, 6)
    assert_trees_close(rms, jax.tree.map(np.abs, gradient), rtol=1e-4, atol=1e-7)
    means = [np.abs(array).mean() for array in jax.tree.leaves(gradient)]
    assert_allclose(mean, np.mean(means), rtol=1e-4)


def test_a_long_training_text_is_read_in_parts(run, monkeypatch):
    ids = open_split(run, split="train").ids
    ids = np.tile(ids, 1 + 200 * 2 * 6 * dynamic.ROWS // len(ids))[: 3 * 200 * 4 * 5]
    monkeypatch.setattr(dynamic, "ROWS", 5)
    monkeypatch.setattr(dynamic, "BATCHES", 20)
    whole, mean = dynamic.training_rms(run.model, run.params, ids, 4)
    read = []

    def carry_after(params, tokens_BT, carry, model, original=dynamic._carry_after):
        read.append(tokens_BT.shape[1])
        return original(params, tokens_BT, carry, model)

    monkeypatch.setattr(dynamic, "_carry_after", carry_after)
    monkeypatch.setattr(dynamic, "MOST_NUMBERS", 7 * 5 * run.model.widest)
    parts, same = dynamic.training_rms(run.model, run.params, ids, 4)
    assert max(read) <= 7 and len(set(read)) > 1
    assert_trees_close(parts, whole, rtol=1e-4, atol=1e-7)
    assert_allclose(same, mean, rtol=1e-4)


def test_a_training_text_without_a_whole_segment_is_an_error(run):
    """Without a whole segment there is no gradient, and the step would be 0 / 0."""
    steps = len(open_split(run, split="train"))
    settings = {"dynamic": "rms", "dynamic_lr": 1e-3, "dynamic_decay": 0.02}
    with pytest.raises(SettingError, match=rf"`dynamic_steps` {steps}: rms needs a training text"):
        adapted(run, Adaptation(**settings, dynamic_steps=steps))


@pytest.mark.full
@pytest.mark.parametrize("rule", ["sgd", "rms"])
def test_dynamic_evaluation_lowers_the_perplexity_also_with_a_cache(run, rule):
    static = jaxlm.perplexity(run, "valid").nll
    dynamic_only = adapted(run, Adaptation(dynamic=rule, dynamic_steps=4), split="valid")
    both = adapted(
        run, Adaptation(cache=40, temperature=None, dynamic=rule, dynamic_steps=4), split="valid"
    )
    assert dynamic_only.nll < static
    assert both.nll < dynamic_only.nll
    assert "rate and decay on its first" in dynamic_only.protocol


@pytest.mark.full
def test_the_training_gradients_are_computed_once(run, monkeypatch):
    calls = []

    def counted(*args):
        calls.append(args)
        return dynamic.training_rms(*args)

    monkeypatch.setattr(tuning, "training_rms", counted)
    settings = {"dynamic": "rms", "dynamic_steps": 8, "dynamic_decay": 0.02}
    jaxlm.mixture([run], adaptation=Adaptation(**settings), unigram_cache=20)
    assert len(calls) == 1


@pytest.mark.full
def test_probabilities_are_averaged_over_dropout_masks(dropout_run):
    """The segment is the whole text, so each of the two networks has a single mask."""
    ids = open_split(dropout_run, split="test").ids[:50].astype(np.int32)
    inputs = np.concatenate([[dropout_run.model.start_id], ids[:-1]]).astype(np.int32)
    hidden, _ = dropout_run.model.apply(
        {"params": dropout_run.params},
        np.stack([inputs, inputs]),
        deterministic=False,
        rngs={"dropout": jax.random.key(3)},
    )
    logits = dropout_run.model.apply({"params": dropout_run.params}, hidden, method="logits")
    p_2T = jax.nn.softmax(logits)[:, np.arange(50), ids]
    assert not np.allclose(p_2T[0], p_2T[1])
    options = reading.ReadingOptions(cache=0, samples=2, rule="none")
    found = reading.read(
        dropout_run.model,
        dropout_run.params,
        ids,
        options,
        [1.0],
        [0.0],
        seed=3,
        segment_length=50,
    )
    assert_allclose(found.model_KT[0], np.log(p_2T.mean(0)), rtol=1e-4, atol=1e-5)


@pytest.mark.full
def test_dropout_masks_depend_only_on_the_seed(dropout_run):
    first, again, other = (
        adapted(dropout_run, Adaptation(samples=3, seed=seed)).nll for seed in (1, 1, 2)
    )
    assert first == again != other


@pytest.mark.full
def test_mixtures_adapt_their_neural_runs(run, dropout_run, folder):
    text = jaxlm.read_corpus(str(folder))
    bigram = jaxlm.fit(jaxlm.NGram(vocab_size=len(text.vocabulary), order=2), text)
    adaptation = Adaptation(cache=40, temperature=None)
    mixed = jaxlm.mixture([bigram, run, dropout_run], adaptation=adaptation)
    assert [part.run.endswith(", adapted") for part in mixed.alone] == [False, True, True]
    alone = adapted(run, adaptation)
    assert mixed.alone[1].nll == pytest.approx(alone.nll)
    assert mixed.alone[1].protocol == alone.protocol
    assert mixed.together.nll < min(part.nll for part in mixed.alone)


@pytest.mark.full
def test_settings_are_tuned_on_the_validation_split(run):
    static = jaxlm.perplexity(run, "valid").nll
    with_temperature = adapted(run, Adaptation(temperature=None), split="valid")
    both = adapted(run, Adaptation(temperature=None, cache=40), split="valid")
    assert both.nll < with_temperature.nll <= static
    assert "tuned on" in both.protocol and "valid" in both.protocol
    # The settings are tuned on the validation split, whichever split is evaluated.
    test = adapted(run, Adaptation(temperature=None, cache=40))
    settings = [report.protocol.split("Adapted: ")[1] for report in (test, both)]
    assert settings[0] == settings[1]
    # The words occur in bursts, so a cache is worth much.
    assert test.perplexity < 0.9 * jaxlm.perplexity(run).perplexity


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "`temperature` 0.0: must be above 0"),
        ({"cache": -1}, "`cache` -1"),
        ({"cache": 5, "flatness": -0.1}, "`flatness` -0.1"),
        ({"cache": 5, "share": 1.0}, "`share` 1.0"),
        ({"dynamic": "rmsprop"}, "did you mean 'rms'"),
        ({"dynamic": "sgd", "dynamic_lr": 0.0}, "`dynamic_lr` 0.0"),
        ({"dynamic": "sgd", "dynamic_decay": 1.5}, "`dynamic_decay` 1.5"),
        ({"dynamic": "sgd", "dynamic_steps": 0}, "`dynamic_steps` 0"),
        ({"samples": -1}, "`samples` -1"),
        ({"samples": 3}, "`samples` 3: .* without dropout"),
        ({"flatness": 3.0}, "`flatness` 3.0: has no effect without `cache`"),
        ({"share": 0.5}, "`share` 0.5: has no effect without `cache`"),
        ({"dynamic_lr": 9.0}, "`dynamic_lr` 9.0: has no effect without `dynamic`"),
        ({"dynamic_decay": 0.5}, "`dynamic_decay` 0.5: has no effect without `dynamic`"),
        ({"dynamic_steps": 5}, "`dynamic_steps` 5: has no effect without `dynamic`"),
        ({"seed": 1}, "`seed` 1: has no effect without `samples`"),
    ],
)
def test_bad_settings_are_errors(run, settings, message):
    with pytest.raises(UserError, match=message):
        adapted(run, Adaptation(**settings))


def test_a_corpus_given_with_a_text_is_used_for_tuning(run, folder):
    text, fixed = folder / "test.txt", Adaptation(0.9)
    with pytest.raises(UserError, match="`corpus` none: has no effect with a `text`"):
        adapted(run, fixed, corpus="none", text=text)
    with pytest.raises(UserError, match="`split` valid: has no effect with a `text`"):
        adapted(run, fixed, split="valid", text=text)
    with pytest.raises(UserError, match=r"cannot be read .unknown corpus 'none'"):
        adapted(run, Adaptation(None), corpus="none", text=text)


def test_only_settings_that_are_not_given_are_tuned(run, monkeypatch):
    """Rate and decay are tuned on a part of the split. The rest is read only for other settings."""
    seen = []

    def read(*arguments, **options):
        seen.append(len(arguments[2]))
        return reading.LogProbs(np.zeros((1, 1)), np.zeros((1, 1)))

    monkeypatch.setattr(tuning, "TUNING_TOKENS", 20)
    monkeypatch.setattr(tuning, "read", read)
    given = Adaptation(cache=5, flatness=0.5, share=0.1, dynamic="sgd", dynamic_steps=4)
    tuned = tuning.AdaptiveEvaluator(run).tune(given)
    assert set(seen) == {20} and (tuned.flatness, tuned.share) == (0.5, 0.1)
    assert tuned.dynamic_lr is not None and tuned.dynamic_decay is not None


@pytest.mark.full
def test_runs_that_cannot_adapt_are_errors(folder, tmp_path):
    text = jaxlm.read_corpus(str(folder))
    bigram = jaxlm.fit(jaxlm.NGram(vocab_size=len(text.vocabulary), order=2), text)
    with pytest.raises(UserError, match="neural models that read one stream"):
        adapted(bigram, Adaptation(cache=5))
    (tmp_path / "alone.txt").write_text("a b c d e f g h\n" * 9)
    alone = jaxlm.read_corpus(str(tmp_path / "alone.txt"))
    vocabulary = alone.vocabulary
    model = jaxlm.RNN(vocab_size=len(vocabulary), start_id=vocabulary.start_id, hidden_size=4)
    run = jaxlm.fit(model, alone, steps=2, batch_size=2)
    with pytest.raises(UserError, match="tuned on the validation split, which cannot be read"):
        adapted(run, Adaptation(temperature=None))
