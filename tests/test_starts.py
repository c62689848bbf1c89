"""A run reads a text from a fresh or a warm state, and scores lines on their own."""

import json
import math

import numpy as np
import pytest
from cases import OTHER_CELLS, build, cases

import jaxlm
from jaxlm.data.tokenizers import Characters, Words
from jaxlm.data.vocabulary import EOS, Vocabulary
from jaxlm.evaluation.perplexity import score_split
from jaxlm.runs.starts import LENGTH, WARM_START, start_of, warm_stretch

PLAIN = [
    case for case in cases() if case.id.endswith("-plain") and case.values[0] not in OTHER_CELLS
]
STRETCH = [3, 5, 12, 1, 0, 7, 12]


def run_of(name, options, stretch=STRETCH):
    """Return a run of a case of the laws, over the words w0 ... w11 and <eos>, id 12."""
    model, params = build(name, options)
    words = tuple(f"w{index}" for index in range(model.vocab_size - 1))
    tokenizer = Words(Vocabulary((*words, EOS), start=EOS))
    return jaxlm.Run(model, params, tokenizer, settings={WARM_START: stretch})


def direct(run, ids, before):
    """Return log P of each of `ids` after the tokens `before`, which start from nothing."""
    found = []
    for index, id_ in enumerate(ids):
        tokens_1T = np.array([[*before, *ids[:index]]], np.int32)
        found.append(float(np.asarray(run.model.next_log_probs(run.params, tokens_1T)[0])[0, id_]))
    return found


@pytest.mark.quick_for("ngram", "nplm", "transformer", "lstm")
@pytest.mark.parametrize(("name", "options"), PLAIN)
def test_a_warm_start_reads_the_stretch_before_the_text(name, options):
    run = run_of(name, options)
    expected = direct(run, [4, 9, 2], STRETCH)
    for index, words in enumerate(("", "w4", "w4 w9")):
        found = dict(jaxlm.next_words(run, words, 99))
        word = run.vocabulary.tokens[[4, 9, 2][index]]
        assert math.log(found[word]) == pytest.approx(expected[index], rel=1e-4, abs=1e-5)
    bits = jaxlm.Session(run).push("w4 w9 w2")
    assert [-b * math.log(2) for b in bits] == pytest.approx(expected, rel=1e-4, abs=1e-5)
    fresh = direct(run, [4, 9, 2], [12])
    bits = jaxlm.Session(run, start="fresh").push("w4 w9 w2")
    assert [-b * math.log(2) for b in bits] == pytest.approx(fresh, rel=1e-4, abs=1e-5)
    texts = jaxlm.sample(run, "w4", length=5, samples=2, seed=3)
    assert all(text.startswith("w4 ") for text in texts)
    greedy = jaxlm.sample(run, "w4", length=3, temperature=0)[0].split()
    read = [*STRETCH, 4]
    for word in greedy[1:]:
        log_probs_V = np.asarray(run.model.next_log_probs(run.params, np.array([read]))[0])[0]
        read.append(run.vocabulary.tokens.index(word))
        assert log_probs_V[read[-1]] == pytest.approx(log_probs_V.max(), abs=1e-5)


@pytest.mark.parametrize("start", ["fresh", "warm"])
@pytest.mark.quick_for("ngram", "nplm", "transformer", "lstm")
@pytest.mark.parametrize(("name", "options"), PLAIN)
def test_lines_are_scored_each_from_the_same_state(name, options, start, tmp_path):
    run = run_of(name, options)
    lines = ["w1 w2 w3", "w0", "w1 w2 w3", "w7 w7 w2 w4 w1 w8 w9 w3 w1"]
    path = tmp_path / "text.txt"
    path.write_text("\n".join(lines) + "\n")
    alone = jaxlm.by_lines(run, start)
    split = jaxlm.evaluation.perplexity.open_split(alone, text=path)
    before = STRETCH if start == "warm" and run.model.across_lines else [12]
    expected = [
        log_prob
        for line in lines
        for log_prob in direct(run, [*(int(word[1:]) for word in line.split()), 12], before)
    ]
    assert score_split(alone, split).log_prob == pytest.approx(expected, rel=1e-4, abs=1e-5)
    report = jaxlm.perplexity(alone, text=path)
    assert report.tokens == 20
    warm = start == "warm" and run.model.across_lines
    assert ("from the warm state" if warm else "state reset at each line") in report.protocol


def test_lines_without_a_start_token_start_warm(tmp_path):
    model, params = build("lstm", {})
    tokens = tuple("abcdefghijkl\n")
    run = jaxlm.Run(model, params, Characters(Vocabulary(tokens)), settings={WARM_START: STRETCH})
    path = tmp_path / "text.txt"
    path.write_text("abc\n")
    alone = jaxlm.by_lines(run)
    split = jaxlm.evaluation.perplexity.open_split(alone, text=path)
    expected = direct(run, [0, 1, 2, 12], STRETCH)
    assert score_split(alone, split).log_prob == pytest.approx(expected[1:], rel=1e-4, abs=1e-5)
    assert jaxlm.sample(run, "ab", length=3, seed=1)[0].startswith("ab")


def test_the_stretch_lies_in_the_middle_and_ends_a_line():
    ids = np.arange(4000) % 7
    stretch = warm_stretch(ids, 0)
    assert stretch[-1] == 0 and LENGTH - 7 < len(stretch) <= LENGTH
    assert stretch == ids[2000 - LENGTH : 1996].tolist()
    assert warm_stretch(ids + 1, 0)[-2:] == [int(ids[1999] + 1), 0]
    assert warm_stretch(ids, None) == ids[2000 - LENGTH : 2000].tolist()
    assert warm_stretch(np.array([3]), 0) == [3, 0]
    assert warm_stretch(np.array([3]), None) == []
    assert warm_stretch(np.array([], int), 0) == []


@pytest.mark.full
def test_only_runs_that_read_a_stream_keep_a_stretch(tmp_path):
    text = jaxlm.read_corpus(["a b c d", "b c d a", "c d a b"] * 9, tokens="words")
    sizes = {"embedding_size": 2, "hidden_size": 2}
    lstm = jaxlm.LSTM(len(text.vocabulary), **sizes)
    options = {"steps": 2, "batch_size": 2, "quiet": True}
    stream = jaxlm.fit(lstm, text, folder=tmp_path / "stream", **options)
    rows = jaxlm.fit(lstm, text, batching="rows", **options)
    ngram = jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=2), text, quiet=True)
    assert [start_of(run).name for run in (stream, rows, ngram)] == ["warm", "fresh", "fresh"]
    loaded = jaxlm.load(tmp_path / "stream")
    assert jaxlm.next_words(loaded, "a") == jaxlm.next_words(stream, "a")
    assert jaxlm.next_words(loaded, "a", start="fresh") != jaxlm.next_words(stream, "a")
    for run in (rows, ngram):
        with pytest.raises(jaxlm.SettingError, match="`start` warm: needs a stretch"):
            jaxlm.next_words(run, "a", start="warm")
    with pytest.raises(jaxlm.UserError, match="start 'cold': choose one of fresh, warm"):
        jaxlm.next_words(stream, "a", start="cold")
    assert jaxlm.by_lines(ngram, "warm").protocol == jaxlm.Protocol(rows=True)
    # A run of an earlier version keeps no stretch, and starts fresh.
    config = tmp_path / "stream" / "config.json"
    saved = json.loads(config.read_text())
    saved.pop(WARM_START)
    config.write_text(json.dumps(saved))
    assert start_of(jaxlm.load(tmp_path / "stream")).name == "fresh"
    for damaged in ([1], [1, 99], [0, "a"], "text", [True, 1], {"a": 1}):
        config.write_text(json.dumps(saved | {WARM_START: damaged}))
        with pytest.raises(jaxlm.UserError, match=r"config\.json of .* is damaged"):
            jaxlm.next_words(jaxlm.load(tmp_path / "stream"), "a")


@pytest.mark.full
def test_an_ngram_and_an_lstm_are_mixed_by_lines(tmp_path):
    lines = ["a b c d", "b c d a", "", "c d a b"] * 9
    text = jaxlm.read_corpus(lines, tokens="words")
    lstm = jaxlm.LSTM(len(text.vocabulary), embedding_size=2, hidden_size=2)
    neural = jaxlm.fit(lstm, text, steps=2, batch_size=2, quiet=True)
    counted = jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=2), text, quiet=True)
    path = tmp_path / "text.txt"
    path.write_text("a b\n\nc d\n")
    runs = [jaxlm.by_lines(counted), neural]
    with pytest.raises(jaxlm.UserError, match="score each line on its own in all runs"):
        jaxlm.mixture(runs, weights=[0.5, 0.5], text=path)
    mixed = jaxlm.mixture([jaxlm.by_lines(run) for run in runs], weights=[0.5, 0.5], text=path)
    assert mixed.together.tokens == 6
    # The way in which each component reads the lines is stated.
    assert "state reset at each line" in mixed.together.protocol
    assert "from the warm state" in mixed.together.protocol
