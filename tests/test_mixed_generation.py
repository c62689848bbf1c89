"""Mixtures of runs that predict and generate, against the sum of their parts."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import jaxlm
from jaxlm import generate, predict
from jaxlm.data.tokenizers import Words
from jaxlm.errors import SettingError, UserError
from jaxlm.evaluation.generation import encode_context
from jaxlm.evaluation.scoring import repeated
from jaxlm.ops.device_tables import host_states
from jaxlm.ops.sampling import Sampler
from jaxlm.serving.engines import engine_of

LINES = ["the cat sat on the mat", "a dog saw the cat", "the mat sat on a log"] * 6
WEIGHTS = (0.4, 0.6)


def make_runs(tokens, folder):
    folder.mkdir(exist_ok=True)
    (folder / "text.txt").write_text("\n".join(LINES) + "\n")
    text = jaxlm.read_corpus(folder / "text.txt", tokens=tokens, fractions=(0.7, 0.3))
    size, start = len(text.vocabulary), text.vocabulary.start_id
    neural = jaxlm.GRU(size, start, embedding_size=3, hidden_size=4)
    short = {"steps": 3, "batch_size": 2, "bptt": 5}
    ngram = jaxlm.NGram(size, start, order=4)
    return [
        jaxlm.fit(neural, text, quiet=True, folder=folder / "gru", **short),
        jaxlm.fit(ngram, text, quiet=True, folder=folder / "ngram"),
    ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return make_runs("words", tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module", params=["words", pytest.param("chars", marks=pytest.mark.full)])
def runs_by_tokens(request, tmp_path_factory):
    """Return runs over words, and in the full tier also runs over characters."""
    if request.param == "words":
        return request.getfixturevalue("runs")
    return make_runs(request.param, tmp_path_factory.mktemp(request.param))


def log_probs_of(run, text, start=None):
    context = encode_context(run, text, start)
    log_probs_1V, _ = run.model.next_log_probs(run.params, context.ids, context.start.carry)
    return np.asarray(log_probs_1V, np.float64)[0]


def summed(runs, weights, text, start=None):
    """Return Σ λ P of the parts, each asked by itself. Only the first has a warm start."""
    starts = [start if run.settings.get("warm_start") else None for run in runs]
    parts = zip(weights, runs, starts, strict=True)
    return sum(weight * np.exp(log_probs_of(run, text, start)) for weight, run, start in parts)


@pytest.mark.quick_for("warm")
@pytest.mark.parametrize("start", ["fresh", "warm"])
@pytest.mark.parametrize("context", ["", "the cat sat on the mat"])
def test_next_words_equal_the_weighted_sum(runs_by_tokens, context, start):
    runs = runs_by_tokens
    mixed = jaxlm.interpolate(runs, WEIGHTS)
    expected_V = summed(runs, WEIGHTS, context, start)
    assert_allclose(np.exp(log_probs_of(mixed, context, start)), expected_V, rtol=1e-5)
    assert expected_V.sum() == pytest.approx(1, abs=1e-4)
    best = jaxlm.next_words(mixed, context, 1, start=start)[0]
    assert best[1] == pytest.approx(expected_V.max(), rel=1e-5)


def test_the_compiled_step_equals_the_weighted_sum(runs_by_tokens):
    """After any tokens, the program draws from Σ λ P of the parts."""
    runs = runs_by_tokens
    mixed = jaxlm.interpolate(runs, WEIGHTS)
    model, arrays = mixed.model, mixed.params.on_device
    ids = encode_context(mixed, "the cat sat", "fresh").ids

    @jax.jit
    def read(tokens_BT, carry):
        outputs, carry = model.last_logits(arrays, tokens_BT, None, carry)
        return model.probabilities(arrays, outputs), carry

    neural, ngram = model.initial_carry(1)
    carry = neural, host_states(runs[1].params, ngram)
    for place in range(ids.shape[1]):
        p_1V, carry = read(ids[:, place : place + 1], carry)
        expected = [
            np.exp(np.asarray(run.model.next_log_probs(run.params, ids[:, : place + 1])[0][0]))
            for run in runs
        ]
        assert_allclose(p_1V[0], np.dot(WEIGHTS, expected), rtol=1e-5)


@pytest.mark.full
def test_greedy_tokens_are_the_most_probable_of_the_weighted_sum(runs):
    mixed = jaxlm.interpolate(runs, WEIGHTS)
    context = encode_context(mixed, "the cat")
    carry = context.start.carry
    ids = mixed.model.generate(
        mixed.params, context.ids, jax.random.key(0), Sampler(0.0, None, None), 6, carry
    )
    tokens_1T = context.ids
    for token in np.asarray(ids)[0]:
        log_probs_1V, _ = mixed.model.next_log_probs(mixed.params, tokens_1T, carry)
        assert log_probs_1V[0, token] == pytest.approx(log_probs_1V.max(), abs=1e-5)
        tokens_1T = np.concatenate([tokens_1T, [[token]]], axis=1)


def test_the_same_seed_gives_the_same_text(runs):
    mixed = jaxlm.interpolate(runs, WEIGHTS)
    options = {"length": 12, "samples": 3}
    first = jaxlm.sample(mixed, "the", seed=1, **options)
    assert first == jaxlm.sample(mixed, "the", seed=1, **options)
    assert first != jaxlm.sample(mixed, "the", seed=2, **options)
    assert first[:2] == jaxlm.sample(mixed, "the", seed=1, **options)[:2]


@pytest.mark.full
def test_samples_follow_the_weighted_sum(runs):
    mixed = jaxlm.interpolate(runs, WEIGHTS)
    context = encode_context(mixed, "the")
    count = 4000
    draw = Sampler(1.0, None, None)
    carry = repeated(context.start.carry, count)
    tokens_B1 = mixed.model.generate(
        mixed.params, np.repeat(context.ids, count, axis=0), jax.random.key(3), draw, 1, carry
    )
    p_V = summed(runs, WEIGHTS, "the")
    found_V = np.bincount(np.asarray(tokens_B1)[:, 0], minlength=len(p_V)) / count
    assert_allclose(found_V, p_V, atol=4 * np.sqrt(0.25 / count))


def test_runs_of_equal_models_are_mixed_though_one_alone_keeps_a_text(runs):
    """Runs of equal models differ by their arrays, which have no truth value."""
    warm, start = runs[0], "warm_start"
    settings = {name: value for name, value in warm.settings.items() if name != start}
    params = jax.tree.map(lambda array: array + 1, warm.params)
    mixed = jaxlm.interpolate([replace(warm, settings=settings, params=params), warm], WEIGHTS)
    assert mixed.settings[start] == warm.settings[start]


@pytest.mark.full
@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0)])
def test_a_weight_of_one_is_the_run_alone(runs, weights):
    mixed = jaxlm.interpolate(runs, weights)
    alone = runs[weights.index(1.0)]
    found_V = log_probs_of(mixed, "the cat")
    assert_allclose(found_V, log_probs_of(alone, "the cat"), rtol=1e-5, atol=1e-6)
    (text,) = jaxlm.sample(mixed, "the", length=8, temperature=0)
    assert (text,) == tuple(jaxlm.sample(alone, "the", length=8, temperature=0))


@pytest.mark.full
def test_perplexity_equals_that_of_mixture(runs):
    mixed = jaxlm.interpolate(runs, WEIGHTS)
    together = jaxlm.mixture(runs, weights=WEIGHTS, split="valid").together
    found = jaxlm.perplexity(mixed, split="valid")
    assert float(found) == pytest.approx(float(together), rel=1e-6)
    assert found.tokens == together.tokens


@pytest.mark.full
def test_ranks_and_entropies_are_those_of_the_weighted_sum(runs):
    mixed = jaxlm.interpolate(runs, WEIGHTS)
    ids = encode_context(mixed, "the cat sat", "fresh").ids
    inputs, targets = ids[:, :-1], ids[:, 1:]
    carry = mixed.model.initial_carry(1)
    (log_prob, rank, entropy), _ = mixed.model.token_scores(
        mixed.params, inputs, targets, carry, detail=True
    )
    (plain,), _ = mixed.model.token_scores(mixed.params, inputs, targets, carry)
    assert_allclose(log_prob, plain, rtol=1e-5)
    for place in range(inputs.shape[1]):
        all_1V, _ = mixed.model.next_log_probs(mixed.params, inputs[:, : place + 1])
        assert rank[0, place] == 1 + (all_1V[0] > all_1V[0, targets[0, place]]).sum()
        assert entropy[0, place] == pytest.approx(-(np.exp(all_1V) * all_1V).sum(), rel=1e-5)


@pytest.mark.full
def test_a_session_reads_a_mixture(runs):
    mixed = jaxlm.interpolate(runs, WEIGHTS)
    session = jaxlm.Session(mixed)
    session.push("the cat")
    (expected,) = jaxlm.next_words(mixed, "the cat", 1)
    assert session.next_words(1)[0] == pytest.approx(expected)


@pytest.mark.full
def test_vocabularies_in_another_order_are_mixed_by_token(tmp_path):
    gru, ngram = make_runs("words", tmp_path)
    size = len(gru.vocabulary)
    order = np.random.default_rng(0).permutation(size)
    tokens = tuple(gru.vocabulary.tokens[index] for index in order)
    vocabulary = replace(gru.vocabulary, tokens=tokens)
    params = jax.tree.map(np.asarray, gru.params)
    params["embedding"]["embedding"] = params["embedding"]["embedding"][order]
    params["output"]["kernel"] = params["output"]["kernel"][:, order]
    params["output"]["bias"] = params["output"]["bias"][order]
    other = replace(
        gru,
        model=gru.model.clone(start_id=vocabulary.start_id),
        params=params,
        tokenizer=Words(vocabulary),
        settings={},
    )
    plain = jaxlm.interpolate([replace(gru, settings={}), ngram], WEIGHTS)
    for pair, weights in (([other, ngram], WEIGHTS), ([ngram, other], WEIGHTS[::-1])):
        mixed = jaxlm.interpolate(pair, weights)
        found = dict(jaxlm.next_words(mixed, "the cat", size))
        expected = dict(jaxlm.next_words(plain, "the cat", size))
        assert found == pytest.approx(expected, rel=1e-5)
        options = {"length": 8, "temperature": 0}
        assert jaxlm.sample(mixed, "the", **options) == jaxlm.sample(plain, "the", **options)


@pytest.mark.full
def test_two_ngrams_start_from_nothing():
    text = jaxlm.read_corpus("toy", eos=False)
    size = len(text.vocabulary)
    parts = [jaxlm.fit(jaxlm.NGram(size, order=order), text, quiet=True) for order in (1, 3)]
    mixed = jaxlm.interpolate(parts, (0.5, 0.5))
    assert len(jaxlm.sample(mixed, "", length=3)[0].split()) == 3


def test_mistakes_are_errors(runs, tmp_path):
    with pytest.raises(UserError, match="needs two components"):
        jaxlm.interpolate(runs[:1])
    with pytest.raises(SettingError, match="sum must be 1"):
        jaxlm.interpolate(runs, (0.5, 0.6))
    mixed = jaxlm.interpolate(runs, WEIGHTS)
    with pytest.raises(UserError, match="a mixture cannot be saved"):
        mixed.save(tmp_path / "new")
    with pytest.raises(UserError, match="a part is a mixture itself"):
        jaxlm.interpolate([mixed, runs[0]], WEIGHTS)
    with pytest.raises(UserError, match="is a mixture, which has no inside"):
        jaxlm.inspection.trace(mixed, "the cat")
    with pytest.raises(UserError, match="is a mixture, which is not served"):
        engine_of(mixed, rows=1)


def test_only_the_parts_that_pad_need_a_whole_context():
    """A trigram backs off, and an LSTM reads any context; an NPLM of two words needs two."""
    text = jaxlm.read_corpus("toy", eos=False)
    rows = {"batching": "rows", "batch_size": 3, "steps": 2, "quiet": True}
    sizes = {"embedding_size": 2, "hidden_size": 2}
    nplm = jaxlm.fit(jaxlm.NPLM(7, n_step=2, **sizes), text, **rows)
    others = [
        jaxlm.fit(jaxlm.NGram(7, order=4), text, quiet=True),
        jaxlm.fit(jaxlm.LSTM(7, **sizes), text, **rows),
    ]
    for other in others:
        mixed = jaxlm.interpolate([nplm, other], (0.5, 0.5))
        assert len(jaxlm.next_words(mixed, "我 讨厌", 3)) == 3
        with pytest.raises(UserError, match="has 1 token, and this model needs 2"):
            jaxlm.next_words(mixed, "我", 1)


@pytest.mark.full
def test_commands_mix(tmp_path, capsys):
    make_runs("words", tmp_path)
    folders = [str(tmp_path / name) for name in ("gru", "ngram")]
    arguments = [*folders, "--mix", "--weights", ".4,.6", "--length", "4", "--seed", "1"]
    assert generate.main(arguments) == 0
    first = capsys.readouterr()
    assert "0.4000" in first.err
    assert generate.main(arguments) == 0
    assert capsys.readouterr().out == first.out
    (expected,) = jaxlm.sample(
        jaxlm.interpolate([jaxlm.load(folder) for folder in folders], WEIGHTS), length=4, seed=1
    )
    assert first.out == f"{expected}\n"
    words = ["the cat", "--mix-with", folders[1], "--weights", ".4,.6"]
    assert predict.main([folders[0], *words]) == 0
    assert "the cat ->" in capsys.readouterr().out


@pytest.mark.full
@pytest.mark.parametrize(
    ("main", "arguments", "fragment"),
    [
        (generate.main, [], "name a run"),
        (generate.main, ["a", "b"], "add --mix"),
        (generate.main, ["a", "--mix"], "--mix needs two runs"),
        (generate.main, ["a", "--weights", "1"], "--weights needs --mix"),
        (generate.main, ["a", "b", "--mix", "--weights", "x"], "one number per component"),
        (predict.main, ["a", "the", "--weights", "1"], "--weights needs --mix-with"),
    ],
)
def test_flags_that_do_not_fit_are_errors(main, arguments, fragment):
    with pytest.raises(UserError, match=fragment):
        main(arguments)


@pytest.mark.full
def test_another_draw_gets_logits(runs):
    """A draw of one's own is given logarithms, as by any other model."""
    mixed = jaxlm.interpolate(runs, WEIGHTS)
    context = encode_context(mixed, "the")
    carry = context.start.carry
    greedy = mixed.model.generate(
        mixed.params, context.ids, jax.random.key(0), Sampler(0.0, None, None), 4, carry
    )
    own = mixed.model.generate(
        mixed.params, context.ids, jax.random.key(0), most_probable, 4, carry
    )
    assert_array_equal(own, greedy)


def most_probable(logits_BV, uniform_2B):
    """Return the most probable word, if all logits are logarithms of probabilities."""
    is_log = jnp.all(logits_BV <= 1e-6)
    return jnp.where(is_log, jnp.argmax(logits_BV, axis=-1), 0).astype(jnp.int32)
