"""Laws of the three methods that every model has: scores, next tokens and generation.

Neural models are tested here in their plain variant. test_laws.py tests the same laws for all
variants, on the Flax modules, where one compiled program serves all laws.
"""

from typing import ClassVar

import jax
import numpy as np
import pytest
from cases import START, B, T, V, build, cases, tokens
from numpy.testing import assert_allclose, assert_array_equal

from jaxlm.evaluation.scoring import Scorer
from jaxlm.ops.sampling import Sampler

# The other recurrent models differ from the LSTM only by their cells, which test_laws.py tests.
pytestmark = pytest.mark.quick_for("ngram", "nplm", "transformer", "lstm")

CASES = [case for case in cases() if case.values[0] == "ngram" or "plain" in case.id]
CLOSE = {"atol": 2e-5, "rtol": 2e-5}
every_model = pytest.mark.parametrize(("name", "options"), CASES)


def scores(model, params, inputs_BT, targets_BT, carry=None, detail=False):
    carry = model.initial_carry(len(inputs_BT)) if carry is None else carry
    found, carry = model.token_scores(params, inputs_BT, targets_BT, carry, detail)
    return [np.asarray(part) for part in found], carry


def shifted(ids_BT):
    """Return the inputs for targets `ids_BT`: the start token, then all ids but the last."""
    return np.concatenate([np.full((len(ids_BT), 1), START), ids_BT[:, :-1]], 1).astype(np.int32)


@every_model
def test_a_distribution_sums_to_one(name, options):
    model, params = build(name, options)
    log_probs_BV, _ = model.next_log_probs(params, tokens())
    sums_B = np.exp(np.asarray(log_probs_BV, np.float64)).sum(1)
    assert_allclose(sums_B, 1, atol=1e-9 if model.trained_by == "counting" else 1e-5)


@every_model
def test_scores_agree_with_the_distributions(name, options):
    model, params = build(name, options)
    ids_BT = tokens(seed=1)
    (log_prob_BT,), carry = scores(model, params, shifted(ids_BT), ids_BT)
    log_probs_BV, step_carry = model.next_log_probs(params, shifted(ids_BT)[:, :1])
    for t in range(T):
        expected_B = np.asarray(log_probs_BV)[np.arange(B), ids_BT[:, t]]
        assert_allclose(log_prob_BT[:, t], expected_B, **CLOSE)
        if t < T - 1:
            log_probs_BV, step_carry = model.next_log_probs(
                params, ids_BT[:, t : t + 1], step_carry
            )
    jax.tree.map(
        lambda a, b: assert_allclose(*map(np.float32, (a, b)), **CLOSE),
        step_carry,
        carry,
    )


@every_model
def test_a_later_token_does_not_change_earlier_scores(name, options):
    model, params = build(name, options)
    ids_BT = tokens(seed=1)
    (before_BT,), _ = scores(model, params, shifted(ids_BT), ids_BT)
    for t in range(1, T):
        changed_BT = ids_BT.copy()
        changed_BT[:, t] = (changed_BT[:, t] + 1) % V
        (after_BT,), _ = scores(model, params, shifted(changed_BT), changed_BT)
        assert_array_equal(after_BT[:, :t], before_BT[:, :t])


@every_model
def test_scores_of_chunks_with_the_carry_equal_one_run(name, options):
    model, params = build(name, options)
    ids_BT = tokens(seed=2)
    inputs_BT = shifted(ids_BT)
    (whole_BT,), carry = scores(model, params, inputs_BT, ids_BT)
    (first_BT,), middle = scores(model, params, inputs_BT[:, :3], ids_BT[:, :3])
    (second_BT,), end = scores(model, params, inputs_BT[:, 3:], ids_BT[:, 3:], middle)
    assert_allclose(np.hstack([first_BT, second_BT]), whole_BT, **CLOSE)
    jax.tree.map(lambda a, b: assert_allclose(*map(np.float32, (a, b)), **CLOSE), end, carry)


@every_model
def test_scores_do_not_depend_on_batch_size_or_chunk(name, options):
    model, params = build(name, options)
    ids = tokens(1, 41, seed=4)[0]
    scorer = Scorer(model)
    reference = scorer.stream(params, ids, batch_size=1, chunk=41)
    (direct_1T,), _ = scores(model, params, shifted(ids[None]), ids[None])
    assert_allclose(reference.log_prob, direct_1T[0], **CLOSE)
    for batch_size, chunk in ((1, 5), (3, 4), (41, None)):
        found = scorer.stream(params, ids, batch_size=batch_size, chunk=chunk)
        assert len(found.log_prob) == len(ids)
        assert_allclose(found.log_prob, reference.log_prob, **CLOSE)


class RecordingScorer(Scorer):
    """A Scorer that records the shapes of the tokens in all calls of the model."""

    shapes: ClassVar[list[tuple[int, int]]] = []

    def _scores(self, params, inputs_BT, targets_BT, carry):
        self.shapes.append(inputs_BT.shape)
        return super()._scores(params, inputs_BT, targets_BT, carry)


@every_model
def test_the_context_of_segments_is_read_in_chunks_that_fit_in_memory(name, options, monkeypatch):
    model, params = build(name, options)
    if not model.context_size:
        return
    ids = tokens(1, 60, seed=5)[0]
    segments = min(4, 60 // model.context_size)
    expected = Scorer(model).stream(params, ids, batch_size=segments)
    monkeypatch.setattr(RecordingScorer, "shapes", [])
    most = 2 * segments * max(V, getattr(model, "widest", V))
    monkeypatch.setattr("jaxlm.models.neural.LOGITS_IN_CHUNK", most)
    found = RecordingScorer(model).stream(params, ids, batch_size=segments)
    assert_allclose(found.log_prob, expected.log_prob, **CLOSE)
    if segments > 1 and model.trained_by == "gradient":
        context = [width for rows, width in RecordingScorer.shapes if rows == segments - 1]
        assert sum(context) >= model.context_size and max(context) <= 4


@every_model
def test_rows_do_not_depend_on_their_neighbours(name, options):
    model, params = build(name, options)
    rows = [tokens(1, length, seed=length)[0] for length in (2, 5, 3)]
    inputs, targets = [shifted(row[None])[0] for row in rows], rows
    batch = Scorer(model).rows(params, inputs, targets, last_only=False)
    alone = [
        Scorer(model).rows(params, [a], [b], last_only=False).log_prob
        for a, b in zip(inputs, targets, strict=True)
    ]
    assert_allclose(batch.log_prob, np.concatenate(alone), **CLOSE)
    lasts = Scorer(model).rows(params, inputs, targets, last_only=True)
    assert_allclose(lasts.log_prob, [part[-1] for part in alone], **CLOSE)


@every_model
def test_rows_are_scored_in_chunks_that_fit_in_memory(name, options, monkeypatch):
    monkeypatch.setattr(RecordingScorer, "shapes", [])
    model, params = build(name, options)
    most = 4 * 16 * max(V, getattr(model, "widest", V))
    monkeypatch.setattr("jaxlm.models.neural.LOGITS_IN_CHUNK", most)
    rows = [tokens(1, length, seed=length)[0] for length in (100, 3, 9, 1, 20, 5, 17, 2, 4)]
    inputs = [shifted(row[None])[0] for row in rows]
    scorer = RecordingScorer(model, detail=True)
    found = scorer.rows(params, inputs, rows, last_only=False, batch_size=4)
    padded_inputs_BT, padded_BT = (
        np.array([np.pad(row, (0, 100 - len(row))) for row in ids]) for ids in (inputs, rows)
    )
    expected, _ = scores(model, params, padded_inputs_BT, padded_BT, detail=True)
    for part, part_BT in zip(found, expected, strict=True):
        whole = [part_BT[index, : len(row)] for index, row in enumerate(rows)]
        assert_allclose(part, np.concatenate(whole), **CLOSE)
    # There are two batches of short rows, and a batch with the row of 100 tokens, which is read in
    # chunks. The logits of 16 tokens fit, so the 20 tokens of the second batch are two chunks of
    # 10, not of 16. An n-gram stores no logits, and its chunks are 20 tokens wide.
    expected_shapes = {"gradient": [(4, 10)] * (1 + 2 + 10), "counting": [(4, 20)] * (1 + 1 + 5)}
    assert scorer.shapes == expected_shapes[model.trained_by]
    lasts = scorer.rows(params, inputs, rows, last_only=True, batch_size=4)
    ends = [len(row) - 1 for row in rows]
    assert_allclose(lasts.log_prob, expected[0][np.arange(len(rows)), ends], **CLOSE)


@every_model
def test_detailed_scores_agree_with_plain_ones(name, options):
    model, params = build(name, options)
    ids = tokens(1, 23, seed=5)[0]
    plain = Scorer(model).stream(params, ids)
    detail = Scorer(model, detail=True).stream(params, ids)
    assert_allclose(plain.log_prob, detail.log_prob, **CLOSE)
    assert detail.rank.min() >= 1 and detail.rank.max() <= V
    assert (detail.entropy >= 0).all() and (detail.entropy <= np.log(V) + 1e-3).all()


@every_model
def test_temperature_zero_generates_the_most_probable_tokens(name, options):
    model, params = build(name, options)
    prompt_BT = tokens(2, 3, seed=6)
    found_BL = model.generate(params, prompt_BT, jax.random.key(0), Sampler(0.0, None, None), 4)
    log_probs_BV, carry = model.next_log_probs(params, prompt_BT)
    for step in range(4):
        best_B = np.asarray(log_probs_BV).argmax(1)
        assert_array_equal(np.asarray(found_BL)[:, step], best_B)
        log_probs_BV, carry = model.next_log_probs(params, best_B[:, None].astype(np.int32), carry)


@every_model
def test_samples_follow_the_distribution(name, options):
    model, params = build(name, options)
    prompt_BT = np.repeat(tokens(1, 3, seed=7), 4000, axis=0)
    draw = Sampler(1.0, None, None)
    drawn_B = np.asarray(model.generate(params, prompt_BT, jax.random.key(1), draw, 1))[:, 0]
    expected_V = np.exp(np.asarray(model.next_log_probs(params, prompt_BT[:1])[0])[0])
    found_V = np.bincount(drawn_B, minlength=V) / len(drawn_B)
    assert_allclose(found_V, expected_V, atol=5 * np.sqrt(0.25 / len(drawn_B)))
