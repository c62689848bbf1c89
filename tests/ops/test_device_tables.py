"""All next words at once: batches in NumPy and on the device against one context at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import jaxlm
from jaxlm.errors import UserError
from jaxlm.models.ngram import NGram
from jaxlm.ngrams.counts import Sequences, count_ngrams
from jaxlm.ngrams.smoothing import SMOOTHINGS
from jaxlm.ngrams.tables import NOTHING, Tables
from jaxlm.ops import device_tables
from jaxlm.ops.device_tables import (
    advance,
    host_states,
    interpolated,
    next_log_probs,
    next_probabilities,
    no_states,
    on_device,
    states_of,
    word_log_probs,
)

V = 12
END = V - 1
log_probs = jax.jit(next_log_probs)
probabilities = jax.jit(next_probabilities)
scores = jax.jit(word_log_probs)
states = jax.jit(states_of)
read = jax.jit(advance)
mixed = jax.jit(interpolated)


def words(seed, length):
    """Draw a text in which some words are frequent, and many are equally rare."""
    shares = np.array([0.3, 0.2, 0.1, *[0.3 / (V - 4)] * (V - 4), 0.1])
    return np.random.default_rng(seed).choice(V, length, p=shares)


def counted(ids, smoothing, order, stream):
    text = Sequences.stream(ids, END) if stream else Sequences.lines(ids, END, V)
    return SMOOTHINGS[smoothing](count_ngrams(text, order, V), add_k=0.5).tables


def contexts(order, stream, count=60):
    """Return contexts that are seen, unseen, cut by the start of a line, and empty, [B, n-1]."""
    rng = np.random.default_rng(3)
    seen = words(1, 300)
    starts = rng.integers(0, 300 - order, count)
    contexts_BN = np.stack([seen[start : start + order - 1] for start in starts])
    contexts_BN[: count // 3] = rng.integers(0, V, (count // 3, order - 1))
    if not stream:
        contexts_BN[contexts_BN == END] = V
    for row in range(count - order, count):
        contexts_BN[row, : order - 1 - (count - row - 1)] = NOTHING if stream else V
    return contexts_BN


def one_by_one(tables, contexts_BN):
    """Return the probabilities and the orders of each context by a look-up of every word."""
    p_BV = np.empty((len(contexts_BN), tables.vocab_size))
    order_BV = np.empty(p_BV.shape, np.int64)
    for row, context_N in enumerate(contexts_BN):
        ids = [ids_1T[:, -1:] for ids_1T in tables.contexts(context_N[None])]
        for word in range(tables.vocab_size):
            (p,), (order,) = tables.score([id_[0] for id_ in ids], np.array([word]))
            p_BV[row, word], order_BV[row, word] = p, order
    return p_BV, order_BV


def assert_equal_on_device(tables, contexts_BN, p_BV, **options):
    arrays = on_device(tables, **options)
    found_BV = np.asarray(log_probs(arrays, jnp.asarray(contexts_BN, jnp.int32)))
    assert found_BV.dtype == np.float32
    with np.errstate(divide="ignore"):
        expected_BV = np.log(p_BV)
    assert_array_equal(np.isinf(found_BV), np.isinf(expected_BV))
    # log P differs by 1e-6 at most, or by a part in 10⁶, which is the spacing of float32 at -17. P
    # itself differs by a part in 10⁶ at most.
    assert_allclose(found_BV, expected_BV, rtol=1e-6, atol=1e-6)
    states_BN = states(arrays, jnp.asarray(contexts_BN, jnp.int32))
    assert_allclose(probabilities(arrays, states_BN), p_BV, rtol=1e-6)
    return arrays, states_BN


def check(smoothing, order, stream, dense=(1 << 20, 4 * V * 20, 0)):
    tables = counted(words(1, 300), smoothing, order, stream)
    contexts_BN = contexts(order, stream)
    p_BV, order_BV = one_by_one(tables, contexts_BN)
    last = [ids_BT[:, -1] for ids_BT in tables.contexts(contexts_BN)]
    found_BV, found_orders_BV = tables.distributions(last, orders=True)
    assert_allclose(found_BV, p_BV, rtol=1e-12)
    assert_array_equal(found_orders_BV, order_BV)
    # Rows for all contexts, for some contexts, and for the empty context alone.
    for dense_bytes in dense:
        arrays, states_BN = assert_equal_on_device(
            tables, contexts_BN, p_BV, dense_bytes=dense_bytes
        )
        assert_array_equal(host_states(tables, contexts_BN), states_BN)
        word_B = jnp.asarray(words(5, len(contexts_BN)), jnp.int32)
        found_B = scores(arrays, jnp.asarray(contexts_BN, jnp.int32), word_B)
        with np.errstate(divide="ignore"):
            expected_B = np.log(p_BV[np.arange(len(word_B)), word_B])
        assert_allclose(found_B, expected_B, rtol=1e-6, atol=1e-6)


def test_a_trigram_equals_the_look_up_of_every_word():
    check("modified-kneser-ney", 3, stream=False, dense=(4 * V * 20,))


@pytest.mark.full
@pytest.mark.parametrize(
    ("smoothing", "order", "stream"),
    [
        *((smoothing, 3, False) for smoothing in SMOOTHINGS),
        *((smoothing, 4, True) for smoothing in SMOOTHINGS),
        ("modified-kneser-ney", 2, True),
        ("witten-bell", 5, False),
        ("add-k", 5, True),
    ],
)
def test_every_smoothing_and_order_equals_the_look_up_of_every_word(smoothing, order, stream):
    some = (4 * V * 20,)
    check(smoothing, order, stream, dense=(1 << 20, *some, 0) if order == 4 else some)


def test_unigrams_have_no_contexts():
    tables = counted(words(1, 300), "witten-bell", 1, True)
    p_BV, order_BV = tables.distributions([], orders=True, batch=2)
    assert (order_BV == 1).all()
    assert_equal_on_device(tables, np.zeros((2, 0), np.int64), p_BV)


@pytest.mark.full
def test_long_lists_of_followers_take_several_windows(monkeypatch):
    monkeypatch.setattr(device_tables, "WINDOW", 3)
    tables = counted(words(1, 300), "kneser-ney", 4, True)
    contexts_BN = contexts(4, True)
    p_BV, _ = one_by_one(tables, contexts_BN)
    # A new function, because compiled functions keep the old WINDOW.
    arrays = on_device(tables, dense_bytes=0)
    assert arrays.longest > 3
    states_BN = states(arrays, jnp.asarray(contexts_BN, jnp.int32))
    found_BV = jax.jit(lambda *arguments: next_probabilities(*arguments))(arrays, states_BN)
    assert_allclose(found_BV, p_BV, rtol=1e-6)


@pytest.mark.full
def test_long_rows_are_added_one_by_one(monkeypatch):
    monkeypatch.setattr(device_tables, "LONG_ROW", 1)
    tables = counted(words(1, 300), "kneser-ney", 4, False)
    contexts_BN = contexts(4, False)
    p_BV, _ = one_by_one(tables, contexts_BN)
    arrays = on_device(tables)
    states_BN = states(arrays, jnp.asarray(contexts_BN, jnp.int32))
    assert_allclose(next_probabilities(arrays, states_BN), p_BV, rtol=1e-6)


def test_reading_word_by_word_equals_reading_whole_contexts():
    tables = counted(words(1, 300), "witten-bell", 4, False)
    arrays = on_device(tables)
    text = np.where(words(2, 40) == END, V, words(2, 40)).astype(np.int32)
    states_BN = no_states(arrays, 1)
    for place, word in enumerate(text):
        before = text[max(0, place - 3) : place]
        states_BN, p_B = read(arrays, states_BN, jnp.array([word]))
        if len(before) == 3 and word != V:
            ids = [ids_1T[:, -1:] for ids_1T in tables.contexts(before[None])]
            (expected,), _ = tables.score([id_[0] for id_ in ids], np.array([word]))
            assert_allclose(p_B, [expected], rtol=1e-6)
    assert_array_equal(states_BN, host_states(tables, text[None]))


def test_interpolation_adds_to_another_distribution():
    tables = counted(words(1, 300), "witten-bell", 3, True)
    contexts_BN = jnp.asarray(contexts(3, True), jnp.int32)
    arrays = on_device(tables, dense_bytes=0)
    states_BN = states(arrays, contexts_BN)
    other_BV = jnp.asarray(np.random.default_rng(0).random((len(contexts_BN), V)), jnp.float32)
    expected_BV = 0.3 * probabilities(arrays, states_BN) + other_BV
    assert_allclose(mixed(arrays, states_BN, 0.3, other_BV), expected_BV, rtol=1e-6)


def test_too_many_ngrams_are_an_error():
    class Many(np.ndarray):
        def __len__(self):
            return 1 << 31

    keys = np.zeros(1, np.int64).view(Many)
    tables = Tables(2, (keys,), (np.ones(3) / 2, np.ones(1)), (np.ones(3),))
    with pytest.raises(UserError, match="too many for a device"):
        on_device(tables)


def test_the_model_asks_all_rows_of_a_batch_at_once():
    ids = words(1, 300)
    tables = counted(ids, "modified-kneser-ney", 4, True)
    model = NGram(V, END, order=4, stream=True)
    tokens_BT = np.stack([ids[:9], ids[20:29], words(7, 9)])
    whole_BV, carry = model.next_log_probs(tables, tokens_BT)
    for row in range(3):
        row_1V, _ = model.next_log_probs(tables, tokens_BT[row : row + 1])
        assert_array_equal(whole_BV[row], row_1V[0])
    assert_array_equal(carry, tokens_BT[:, -3:])


@pytest.mark.full
@pytest.mark.parametrize("tokens", ["words", "chars"])
def test_a_text_equals_the_scores_of_its_tokens(tokens, tmp_path):
    lines = ["the cat sat on the mat", "a dog saw the cat", "the mat sat on a log"] * 9
    (tmp_path / "text.txt").write_text("\n".join(lines) + "\n")
    text = jaxlm.read_corpus(tmp_path / "text.txt", tokens=tokens, fractions=(0.8, 0.2))
    size, start = len(text.vocabulary), text.vocabulary.start_id
    run = jaxlm.fit(jaxlm.NGram(size, start, order=5), text, quiet=True)
    ids = np.asarray(text.valid.ids)[:100]
    carry = run.model.initial_carry(1)
    inputs_1T = np.concatenate([[run.model.filler_id], ids[:-1]])[None]
    (expected_1T,), _ = run.model.token_scores(run.params, inputs_1T, ids[None], carry)
    seen = run.model.seen(inputs_1T, carry)[0]
    contexts_BN = np.stack([seen[place + 1 : place + 5] for place in range(len(ids))])
    found_BV = log_probs(on_device(run.params), jnp.asarray(contexts_BN, jnp.int32))
    found_B = np.asarray(found_BV)[np.arange(len(ids)), ids]
    assert_allclose(found_B, expected_1T[0], rtol=1e-6, atol=1e-6)
