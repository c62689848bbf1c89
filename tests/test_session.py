"""A session that reads token by token answers like a run that reads the whole text."""

import math
import threading

import numpy as np
import pytest
from cases import build, cases

import jaxlm
from jaxlm.data.tokenizers import Words
from jaxlm.data.vocabulary import EOS, Vocabulary
from jaxlm.errors import UserError
from jaxlm.models import neural

PLAIN = [case for case in cases() if case.id.endswith("-plain")]


def run_of(name, options):
    """Return a run of a case of the laws, over the words w0 ... w11 and <eos>."""
    model, params = build(name, options)
    words = tuple(f"w{index}" for index in range(model.vocab_size - 1))
    return jaxlm.Run(model, params, Words(Vocabulary((*words, EOS), start=EOS)))


@pytest.mark.parametrize(("name", "options"), PLAIN)
def test_a_session_answers_like_a_run_that_reads_the_whole_text(name, options):
    run = run_of(name, options)
    session = jaxlm.Session(run)
    for words in ("w3", "w3 w0", "w3 w0 w7 w7", "w3 w0 w7 w7 w11 w2 w1 w5 w4 w3"):
        new = words[len(session.text) :]
        before = dict(session.next_words(99))
        bits = session.push(new)
        assert len(bits) == len(new.split())
        first = new.split()[0]
        assert bits[0] == pytest.approx(-math.log2(before[first]), rel=1e-5)
        assert session.text.split() == words.split() and len(session) == len(words.split())
        found, expected = dict(session.next_words(99)), dict(jaxlm.next_words(run, words, 99))
        assert found.keys() == expected.keys()
        for word, probability in expected.items():
            assert found[word] == pytest.approx(probability, rel=1e-4, abs=1e-6)
    session.reset()
    assert session.text == "" and dict(session.next_words(99)).keys() == expected.keys()


def test_half_a_character_is_refused_and_nothing_is_read():
    text = jaxlm.read_corpus(["the cat\n"] * 9, tokens="bytes")
    model = jaxlm.NGram(len(text.vocabulary), text.vocabulary.start_id, order=2)
    session = jaxlm.Session(jaxlm.fit(model, text, quiet=True))
    with pytest.raises(UserError, match="not valid UTF-8"):
        session.push("\ud800")
    assert len(session) == 0


def test_contexts_of_similar_lengths_share_a_compiled_program():
    run = run_of("gru", {})
    neural._next_log_probs.clear_cache()
    for length in range(1, 32):
        jaxlm.next_words(run, " ".join(["w1"] * length))
    # With the start token there are 2 to 32 tokens, and programs for 8, 16 and 32 tokens.
    assert neural._next_log_probs._cache_size() == 3
    neural._next_log_probs.clear_cache()
    session = jaxlm.Session(run)
    session.push(" ".join(["w1"] * 20))
    assert neural._next_log_probs._cache_size() == 1


@pytest.mark.full
def test_the_draws_do_not_depend_on_the_compiled_length():
    run = run_of("lstm", {})
    long = jaxlm.sample(run, "w1 w2", length=30, seed=5)[0]
    for length in (1, 8, 9, 17):
        assert long.startswith(jaxlm.sample(run, "w1 w2", length=length, seed=5)[0].rstrip())


def test_an_unknown_word_does_not_change_the_session():
    session = jaxlm.Session(run_of("rnn", {}))
    session.push("w1")
    before = session.next_words(3)
    with pytest.raises(jaxlm.UserError, match="'never'"):
        session.push("w2 never w3")
    assert (session.text, session.next_words(3)) == ("w1", before)
    with pytest.raises(jaxlm.UserError, match="`count`"):
        session.next_words(0)


def test_a_session_without_a_start_token_predicts_nothing_at_first():
    text = jaxlm.read_corpus("toy", eos=False)
    model = jaxlm.LSTM(len(text.vocabulary), None, embedding_size=2, hidden_size=2)
    options = {"batching": "rows", "batch_size": 3, "steps": 1, "quiet": True}
    session = jaxlm.Session(jaxlm.fit(model, text, **options))
    assert session.next_words() == []
    first, second = session.push("我 爱")
    assert math.isnan(first) and second > 0
    assert len(session.next_words(3)) == 3


def test_threads_may_share_a_session():
    run = run_of("gru", {})
    session, alone = jaxlm.Session(run), jaxlm.Session(run)
    threads = [threading.Thread(target=session.push, args=("w1 w1",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone.push(" ".join(["w1"] * 16))
    assert len(session) == 16 and session.next_words(5) == alone.next_words(5)
    assert np.isfinite([p for _, p in session.next_words(5)]).all()
