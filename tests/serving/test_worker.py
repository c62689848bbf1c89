"""The worker: answers do not depend on the batch, and one request cannot harm another."""

import threading

import jax
import numpy as np
import pytest
from cases import OTHER_CELLS, build, cases
from numpy.testing import assert_allclose

import jaxlm
from jaxlm.errors import UserError
from jaxlm.evaluation.generation import SamplingConfig
from jaxlm.models import MODELS
from jaxlm.ops.sampling import uniforms
from jaxlm.serving.engines import Drawing, engine_of, random_numbers, warm_up_random_numbers
from jaxlm.serving.jobs import GenerateJob, NextJob, ScoreJob
from jaxlm.serving.limits import Limits, Refusal
from jaxlm.serving.rows import Reading
from jaxlm.serving.worker import Worker

LIMITS = Limits(max_length=40, max_samples=3)


@pytest.fixture(scope="module")
def run():
    text = jaxlm.read_corpus(["the cat sat on the mat\n", "the dog sat\n"] * 4, unk="always")
    model = jaxlm.NGram(len(text.vocabulary), text.vocabulary.start_id, order=3)
    return jaxlm.fit(model, text, quiet=True)


@pytest.fixture(scope="module")
def neural():
    text = jaxlm.read_corpus(["the cat sat on the mat\n", "the dog sat\n"] * 4, tokens="chars")
    size, start = len(text.vocabulary), text.vocabulary.start_id
    model = jaxlm.LSTM(size, start, embedding_size=3, hidden_size=4)
    return jaxlm.fit(model, text, quiet=True, steps=3, batch_size=2, bptt=4)


def answers(worker, jobs):
    """Return the answers of jobs that are all queued before the first step."""
    for job in jobs:
        worker._begin(job)
    while worker._groups:
        worker._step()
    return [job.future.result(0) for job in jobs]


def job_list():
    return [
        NextJob(LIMITS, "the cat", 4),
        ScoreJob(LIMITS, ["the cat sat", "the dog sat on the mat"]),
        GenerateJob(LIMITS, "the", SamplingConfig(length=20, seed=3)),
        NextJob(LIMITS, "the dog sat", 2, "fresh"),
        GenerateJob(LIMITS, "the d", SamplingConfig(length=5, temperature=0.0)),
        ScoreJob(LIMITS, ["the mat " * 12, "sat"], by="sentence", start="fresh"),
        GenerateJob(LIMITS, "", SamplingConfig(length=9, samples=3, top_p=0.8, top_k=4)),
    ]


def numbers_in(answer):
    words = [item["probability"] for item in answer.get("words", ())]
    return np.array(words + [row["surprisal"] for row in answer.get("rows", ())])


def texts_in(answer):
    items = answer.get("words") or answer.get("rows", ())
    return answer.get("texts") or [item.get("word") for item in items]


def check_batches(run):
    alone = Worker(run, limits=LIMITS)
    single = [answers(alone, [job])[0] for job in job_list()]
    together = answers(Worker(run, limits=LIMITS), job_list())
    unbatched = answers(Worker(run, rows=1, limits=LIMITS), job_list())
    for one, batched, row in zip(single, together, unbatched, strict=True):
        assert texts_in(one) == texts_in(batched) == texts_in(row)
        assert_allclose(numbers_in(batched), numbers_in(one), rtol=0, atol=1e-6)
        assert_allclose(numbers_in(row), numbers_in(one), rtol=0, atol=1e-5)


def check_equals_the_library(run):
    found = answers(Worker(run, limits=LIMITS), job_list())
    words = jaxlm.next_words(run, "the cat", 4)
    assert [item["word"] for item in found[0]["words"]] == [word for word, _ in words]
    assert_allclose(numbers_in(found[0]), [p for _, p in words], atol=1e-6)
    table = jaxlm.score(run, ["the cat sat", "the dog sat on the mat"])
    rows = found[1]["rows"]
    assert list(rows[0]) == list(table)
    for name, column in table.items():
        values = [row[name] for row in rows]
        if isinstance(column[0], float):
            assert_allclose(values, column, atol=1e-4)
        else:
            assert values == column
    by_sentence = jaxlm.score(run, ["the mat " * 12, "sat"], by="sentence", start="fresh")
    assert_allclose(numbers_in(found[5]), by_sentence["surprisal"], rtol=1e-5)
    assert found[2]["texts"] == jaxlm.sample(run, "the", length=20, seed=3)
    assert found[4]["texts"] == jaxlm.sample(run, "the d", length=5, temperature=0.0)
    several = jaxlm.sample(run, "", length=9, samples=3, top_p=0.8, top_k=4)
    assert found[6]["texts"] == several


def test_an_ngram_answers_as_the_library_whatever_the_batch(run):
    # The prompt "the d" has an unknown word, which the n-gram reads as <unk>.
    check_batches(run)
    check_equals_the_library(run)


@pytest.mark.full
def test_a_neural_run_answers_as_the_library_whatever_the_batch(neural):
    check_batches(neural)
    check_equals_the_library(neural)


@pytest.mark.full
def test_a_stream_is_scored_as_the_library_scores_it(run, neural):
    sentences = ["the cat sat", "the dog sat on the mat"]
    for one in (run, neural):
        (found,) = answers(Worker(one), [ScoreJob(Limits(), sentences, start="carried")])
        table = jaxlm.score(one, sentences, start="carried")
        assert_allclose(numbers_in(found), table["surprisal"], atol=1e-4)


# The engine reads and writes rows in the same way for all cells and for all sizes of a layer.
DIFFERENT_ENGINES = [f"{name}-plain" for name in MODELS if name not in OTHER_CELLS]
DIFFERENT_ENGINES += ["lstm-learned start", "lstm-bfloat16", "nplm-adaptive", "nplm-mixture"]
DIFFERENT_ENGINES += ["ngram-stream", "ngram-unigram"]


def test_the_cases_of_the_engine_exist():
    assert set(DIFFERENT_ENGINES) <= {case.id for case in cases()}


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "options"), [case for case in cases() if case.id in DIFFERENT_ENGINES]
)
def test_every_model_reads_rows_of_different_lengths_and_writes(name, options):
    model, params = build(name, options)
    engine = engine_of(jaxlm.Run(model, params, None), rows=3)
    carry, draw = engine.initial_carry(), Drawing(0.0, 1 << 30, np.inf)
    rows = [np.array(ids, np.int32) for ids in ([1, 2, 3], [4], [5, 6, 7, 8, 2, 9])]
    width = engine.width(6)
    together = engine.read(rows, [carry] * 3, width)
    scored = engine.score(rows, rows, [carry] * 3, width, True)
    uniform = np.zeros((engine.slice, 2), np.float32)
    written = engine.write(
        [read.logits_V for read in together],
        [read.carry for read in together],
        [uniform] * 3,
        [draw] * 3,
    )
    for row, ids in enumerate(rows):
        (alone,) = engine.read([ids], [carry], width)
        assert_allclose(alone.log_probs_V, together[row].log_probs_V, atol=1e-6)
        log_probs_1V, _ = model.next_log_probs(params, ids[None], carry)
        # bfloat16 has 8 bits.
        near = 0.1 if getattr(model, "dtype", None) == "bfloat16" else 1e-5
        assert_allclose(together[row].log_probs_V, np.asarray(log_probs_1V)[0], atol=near)
        expected, _ = model.token_scores(params, ids[None], ids[None], carry, True)
        assert_allclose(scored[row][0][0], np.asarray(expected[0])[0], atol=near)
        (single,) = engine.write([alone.logits_V], [alone.carry], [uniform], [draw])
        assert single[0].tolist() == written[row][0].tolist()


def test_random_numbers_are_those_of_the_library():
    for seed, samples, length in ((0, 1, 3), (7, 3, 5), ((1 << 32) - 1, 2, 70)):
        expected_T2B = np.asarray(uniforms(jax.random.key(seed), length, samples))
        found = random_numbers(seed, samples, length, (8, 100))
        assert np.array_equal(found, expected_T2B.transpose(2, 0, 1))


def test_random_numbers_are_drawn_for_the_request_and_not_for_the_limits(monkeypatch):
    drawn = []

    def numbers(seed, length, samples):
        drawn.append((length, samples))
        return np.zeros((length, 2, samples), np.float32)

    monkeypatch.setattr("jaxlm.serving.engines._compiled", lambda name, dtype: numbers)
    most = 1000, 1_000_000
    for samples, length in ((1, 3), (2, 65), (9, 100), (1000, 64)):
        assert random_numbers(0, samples, length, most).shape == (samples, length, 2)
    assert drawn == [(64, 8), (512, 8), (512, 64), (64, 1000)]
    drawn.clear()
    warm_up_random_numbers(most)
    assert len(drawn) == len(set(drawn)) and max(2 * a * b for a, b in drawn) <= 1 << 20


def test_a_failing_request_does_not_fail_its_batch_mates(run, monkeypatch):
    worker = Worker(run)
    read, bad = worker.engine.read, run.vocabulary.ids(["dog"])[0]

    def failing(tokens, carries, width):
        if any(bad in ids for ids in tokens):
            raise FloatingPointError("a failure of the device")
        return read(tokens, carries, width)

    monkeypatch.setattr(worker.engine, "read", failing)
    jobs = [NextJob(LIMITS, text) for text in ("the cat", "the dog", "the mat")]
    for job in jobs:
        worker._begin(job)
    while worker._groups:
        worker._step()
    assert jobs[0].future.result(0)["words"] and jobs[2].future.result(0)["words"]
    with pytest.raises(FloatingPointError):
        jobs[1].future.result(0)


def test_a_cancelled_request_is_dropped_and_the_others_are_answered(run):
    with Worker(run, wait=0.2) as worker:
        gone = worker.submit(GenerateJob(LIMITS, "the", SamplingConfig(length=40)))
        stays = worker.submit(NextJob(LIMITS, "the cat"))
        assert gone.cancel()
        assert stays.result(60)["words"]
        assert worker.is_alive
    assert not worker.is_alive
    with pytest.raises(RuntimeError):
        worker.submit(NextJob(LIMITS, "the"))


def test_many_threads_get_the_answers_to_their_own_questions(run):
    texts = ["the cat", "the dog", "the mat sat on", "", "the"] * 4
    expected = [jaxlm.next_words(run, text, 3) for text in texts]
    found = [None] * len(texts)

    def ask(place):
        answer = worker.submit(NextJob(LIMITS, texts[place], 3)).result(60)
        found[place] = [(item["word"], item["probability"]) for item in answer["words"]]

    with Worker(run) as worker:
        threads = [threading.Thread(target=ask, args=(place,)) for place in range(len(texts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == expected
    # Requests that came while the model was busy shared a call.
    assert worker.calls <= len(texts)


def test_requests_of_one_kind_share_a_call(run):
    worker = Worker(run, rows=8)
    answers(worker, [NextJob(LIMITS, "the cat") for _ in range(20)])
    assert worker.calls == 3


def test_a_request_beyond_a_limit_is_refused_before_it_is_queued():
    limits = Limits(max_characters=10, max_sentences=2, max_top=3, max_length=5, max_samples=2)
    for make in (
        lambda: NextJob(limits, "x" * 11),
        lambda: NextJob(limits, "x", 4),
        lambda: ScoreJob(limits, ["a", "b", "c"]),
        lambda: ScoreJob(limits, ["aaaaaa", "bbbbbb"]),
        lambda: GenerateJob(limits, "", SamplingConfig(length=6)),
        lambda: GenerateJob(limits, "", SamplingConfig(samples=3, length=1)),
    ):
        with pytest.raises(Refusal, match="more than the"):
            make()
    with pytest.raises(UserError, match="max_top"):
        Limits(max_top=0)


def test_tokens_are_limited_too(run):
    limits = Limits(max_tokens=3)
    worker = Worker(run)
    for job in (
        NextJob(limits, "the cat sat on the mat"),
        ScoreJob(limits, ["the cat sat on"]),
        GenerateJob(limits, "the cat sat on the", SamplingConfig(length=1)),
    ):
        worker._begin(job)
        with pytest.raises(Refusal, match="tokens are more than the 3"):
            job.future.result(0)


@pytest.mark.full
def test_a_row_is_read_in_parts_with_its_carry(neural):
    engine = engine_of(neural, rows=2)
    ids = neural.tokenizer.encode_context("the cat sat on the mat the dog sat").astype(np.int32)
    reads = []
    job = NextJob(LIMITS, "")
    job.engine = engine
    row = Reading(job, ids, engine.initial_carry(), lambda read: reads.append(read) or [])
    assert engine.width(len(ids)) < len(ids)
    while not reads:
        (result,) = Reading.step(engine, [row])
        row.take(result)
    expected, _ = neural.model.next_log_probs(neural.params, ids[None], engine.initial_carry())
    assert_allclose(reads[0].log_probs_V, np.asarray(expected)[0], atol=1e-5)
