"""A back-off n-gram model on the device: all next words at once, inside compiled functions.

`jaxlm.ngrams.tables.Tables` looks an n-gram up by a key of 64 bits. JAX has no 64-bit integers
unless a global flag is set, so the arrays here have no keys. They are in compressed sparse rows: a
context has a range of followers, which are sorted by word, and all numbers fit into 32 bits.

States. Every context has a number, its state:

    0 ... V             a context of one word; V is the start of a line
    V + 1 + g           the context of two or more words that is n-gram g
    S                   a context that is not listed: no followers, and the back-off weight 1

g counts the n-grams of order 2, then those of order 3, and so on; they are sorted by their context,
so the followers of state s are the n-grams first[s] ... first[s + 1] - 1. What the model knows
about a text is the state of the last 1, 2, ..., n - 1 words, int32 [B, n-1]. A new word w extends
each context by a binary search for w among its followers. The n - 1 searches of a row do not depend
on one another, so that all searches of a batch are done together.

All next words. A context of a frequent word has thousands of followers, and most contexts have one.
A bound for all of them would be paid in every step. So the contexts with the most followers keep
their whole distribution as a dense row, within a limit of memory. The distribution of a batch is:

1. The row of the longest context that has a row, times the back-off weights of
   the longer contexts.
2. For each longer context, from the shortest to the longest: a scatter of its followers, WINDOW
   followers at a time. The number of windows is a loop bound that is known at run time only.

The cost is B · V for the rows, plus the longest list of followers of the batch for each order. A
list has at most `longest` followers, those of the largest context without a row. If all contexts
fit into the limit, as for small vocabularies, step 2 is left out.

Probabilities are float32 products of at most n factors, so that each relative error is below 1e-6.
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.errors import UserError
from jaxlm.ngrams.tables import NOTHING, Tables

WINDOW = 32
"""Followers that are scattered at a time."""
DENSE_BYTES = 32 << 20
"""Memory for dense rows."""
# Probabilities of dense rows that are computed together.
DENSE_AT_A_TIME = 1 << 22
# Rows of at least this many words are added one by one. A gather of whole rows reads each element
# on its own, and takes twice as long on a CPU.
LONG_ROW = 1024


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("rows_KV", "row_S", "backoff_S", "first_S", "word_N", "probability_N"),
    meta_fields=("vocab_size", "order", "most_followers", "longest"),
)
@dataclass(frozen=True)
class DeviceTables:
    """A back-off model as arrays of 32 bits, a pytree that compiled functions take.

    S is the number of states and one for contexts that are not listed, N the number of n-grams of
    the orders 2 ... n, and K the number of dense rows.

    Attributes:
      rows_KV: P(w | h) of every word, for the contexts that have a dense row; row 0 is P(w).
      row_S: the dense row of each state; NOTHING if it has none.
      backoff_S: the back-off weight of each state; 1 for the last.
      first_S: the first follower of each state, int32 [S + 1].
      word_N: the last word of each n-gram.
      probability_N: the probability of each n-gram.
      vocab_size: V.
      order: n.
      most_followers: the largest number of followers of a state.
      longest: the largest number of followers of a state without a dense row.

    Example:
      >>> from jaxlm.ngrams.counts import Sequences, count_ngrams
      >>> from jaxlm.ngrams.smoothing import witten_bell
      >>> text = Sequences.lines(np.array([0, 1, 2, 0, 0, 2]), end_id=2, vocab_size=3)
      >>> tables = on_device(witten_bell(count_ngrams(text, 2, vocab_size=3)).tables)
      >>> contexts_BN = jnp.array([[1], [NOTHING]])  # after word 1, and after nothing
      >>> jnp.exp(jax.jit(next_log_probs)(tables, contexts_BN)).round(3).tolist()
      [[0.222..., 0.111..., 0.667...], [0.444..., 0.222..., 0.333...]]
    """

    rows_KV: jax.Array
    row_S: jax.Array
    backoff_S: jax.Array
    first_S: jax.Array
    word_N: jax.Array
    probability_N: jax.Array
    vocab_size: int
    order: int
    most_followers: int
    longest: int


def on_device(tables: Tables, dense_bytes: int = DENSE_BYTES) -> DeviceTables:
    """Return the tables as arrays on the default device.

    Args:
      tables: the back-off model.
      dense_bytes: memory for dense rows. The row of P(w) is always kept.
    Raises:
      UserError: for 2³¹ n-grams or more.
    """
    V, base = tables.vocab_size, tables.vocab_size + 1
    ngrams = sum(map(len, tables.keys))
    states = base + ngrams - len(tables.keys[-1]) if tables.keys else 0
    if ngrams >= 2**31:
        raise UserError(f"{ngrams:,} n-grams are too many for a device: at most {2**31 - 1:,}")
    followers, words, probabilities = [], [], []
    for order, keys in enumerate(map(np.asarray, tables.keys), start=2):
        contexts = base if order == 2 else len(tables.keys[order - 3])
        followers.append(np.bincount(keys // base, minlength=contexts))
        words.append((keys % base).astype(np.int32))
        probabilities.append(np.asarray(tables.probabilities[order - 1], np.float32))
    size_S = np.concatenate([*followers, np.zeros(1, np.int64)]).astype(np.int64)
    dense = _most_followed(size_S[:-1], dense_bytes // (4 * V) - 1)
    row_S = np.full(states + 1, NOTHING, np.int32)
    row_S[dense] = np.arange(1, len(dense) + 1)
    is_sparse_S = row_S == NOTHING
    return DeviceTables(
        rows_KV=jnp.asarray(_dense_rows(tables, dense)),
        row_S=jnp.asarray(row_S),
        backoff_S=jnp.asarray(_joined([*tables.backoffs, np.ones(1)], np.float32)),
        first_S=jnp.asarray(np.append(0, np.cumsum(size_S)).astype(np.int32)),
        word_N=jnp.asarray(_joined(words, np.int32)),
        probability_N=jnp.asarray(_joined(probabilities, np.float32)),
        vocab_size=V,
        order=tables.order,
        most_followers=int(size_S.max()),
        longest=int(size_S[is_sparse_S].max()),
    )


def _joined(arrays: list[np.ndarray], dtype: Any) -> np.ndarray:
    """Return the arrays as one, with a last entry that no state uses if there is nothing else."""
    return np.concatenate([np.asarray(array, dtype) for array in arrays] or [np.zeros(1, dtype)])


def _most_followed(size_S: np.ndarray, count: int) -> np.ndarray:
    """Return the `count` states with the most followers, ascending; none without a follower."""
    followed = np.flatnonzero(size_S)
    if len(followed) > max(0, count):
        by_size = np.argsort(-size_S[followed], kind="stable")
        followed = followed[by_size[: max(0, count)]]
    return np.sort(followed)


def _dense_rows(tables: Tables, states: np.ndarray) -> np.ndarray:
    """Return P(w), and P(w | h) for the contexts of `states`, float32 [K, V]."""
    V = tables.vocab_size
    rows_KV = np.empty((len(states) + 1, V), np.float32)
    rows_KV[0] = tables.probabilities[0][:V]
    starts = np.cumsum([0, V + 1, *map(len, tables.keys)])
    for length in range(1, tables.order):
        first, last = np.searchsorted(states, starts[[length - 1, length]])
        at_a_time = max(1, DENSE_AT_A_TIME // V)
        for start in range(int(first), int(last), at_a_time):
            part = slice(start, min(start + at_a_time, int(last)))
            ids = states[part] - starts[length - 1]
            contexts = tables.contexts(tables.words(length, ids))
            # Column `length` - 1 has the contexts that end with the last word.
            last_words = [context_BT[:, length - 1] for context_BT in contexts[:length]]
            rows_KV[part.start + 1 : part.stop + 1] = tables.distributions(last_words)[0]
    return rows_KV


def host_states(tables: Tables, words_BT: np.ndarray) -> np.ndarray:
    """Return the states after words, int32 [B, n-1], as `states_of` does, by NumPy.

    `words_BT` are word ids, V for the start of a line, and NOTHING before the text.
    """
    if tables.order == 1:
        return np.zeros((len(words_BT), 0), np.int32)
    starts = np.cumsum([0, tables.vocab_size + 1, *map(len, tables.keys[:-1])])
    ids_BN = np.stack([ids_BT[:, -1] for ids_BT in tables.contexts(words_BT)], axis=1)
    return np.where(ids_BN >= 0, ids_BN + starts[:-1], starts[-1]).astype(np.int32)


# The functions below are for compiled functions. states_BN are the states of the last 1 ... n - 1
# words; N is n - 1 in the names of arrays.


def no_states(tables: DeviceTables, batch: int) -> jax.Array:
    """Return the states before a text, int32 [B, n-1]: the state of a context without n-grams."""
    nothing = tables.backoff_S.shape[0] - 1
    return jnp.full((batch, tables.order - 1), nothing, jnp.int32)


def states_of(tables: DeviceTables, words_BT: jax.Array) -> jax.Array:
    """Return the states after words, int32 [B, n-1].

    Args:
      tables: the tables.
      words_BT: word ids, of which the last n - 1 count; V for the start of a line, and NOTHING
        before the text.
    """
    states_BN = no_states(tables, len(words_BT))
    for word_B in words_BT.T[-max(1, tables.order - 1) :] if tables.order > 1 else ():
        states_BN, _ = advance(tables, states_BN, word_B)
    return states_BN


def advance(
    tables: DeviceTables, states_BN: jax.Array, word_B: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return the states after one more word, and P(word | the words before it), float32 [B].

    Args:
      tables: the tables.
      states_BN: the states before the word.
      word_B: word ids, V for the start of a line, which has probability 0, and NOTHING for no word.
    """
    V, contexts = tables.vocab_size, states_BN.shape[1]
    word_B = word_B.astype(jnp.int32)
    is_word_B = (word_B >= 0) & (word_B < V)
    probability_B = jnp.where(is_word_B, tables.rows_KV[0, jnp.clip(word_B, 0, V - 1)], 0)
    if not contexts:
        return states_BN, probability_B
    nothing = tables.backoff_S.shape[0] - 1
    found_BN = _find(tables, states_BN, word_B)
    listed_BN = found_BN >= 0
    given_BN = tables.probability_N[jnp.maximum(found_BN, 0)]
    backoff_BN = tables.backoff_S[states_BN]
    for place in range(contexts):
        backed_off_B = probability_B * backoff_BN[:, place]
        probability_B = jnp.where(listed_BN[:, place], given_BN[:, place], backed_off_B)
    longer_BN = jnp.where(listed_BN & is_word_B[:, None], V + 1 + found_BN, nothing)
    single_B1 = jnp.where(word_B >= 0, word_B, nothing)[:, None]
    return jnp.concatenate([single_B1, longer_BN[:, :-1]], axis=1), probability_B


def _find(tables: DeviceTables, states_BN: jax.Array, word_B: jax.Array) -> jax.Array:
    """Return the n-gram of each context and the word, int32 [B, n-1]; NOTHING if not listed."""
    first_BN, word_B1 = tables.first_S[states_BN], word_B[:, None]
    size_BN = tables.first_S[states_BN + 1] - first_BN
    bits = tables.most_followers.bit_length()

    def step(index: jax.Array, below_BN: jax.Array) -> jax.Array:
        wider_BN = below_BN + jnp.left_shift(1, bits - 1 - index)
        at_BN = first_BN + jnp.minimum(wider_BN, size_BN) - 1
        is_below_BN = (wider_BN <= size_BN) & (tables.word_N[jnp.maximum(at_BN, 0)] < word_B1)
        return jnp.where(is_below_BN, wider_BN, below_BN)

    # The number of followers that are known to be below the word. Unrolled, the steps would be
    # slower on a CPU, and longer to compile.
    below_BN = jax.lax.fori_loop(0, bits, step, jnp.zeros_like(first_BN))
    at_BN = jnp.minimum(first_BN + below_BN, tables.word_N.shape[0] - 1)
    is_listed_BN = (below_BN < size_BN) & (tables.word_N[at_BN] == word_B1)
    return jnp.where(is_listed_BN, at_BN, NOTHING)


def next_probabilities(tables: DeviceTables, states_BN: jax.Array) -> jax.Array:
    """Return P(w | the words before) of every word w, float32 [B, V]."""
    return interpolated(tables, states_BN, 1.0, jnp.zeros((), jnp.float32))


def interpolated(
    tables: DeviceTables, states_BN: jax.Array, share: Any, other_BV: jax.Array
) -> jax.Array:
    """Return share · P(w | the words before) + other(w) of every word w, float32 [B, V].

    At large vocabularies and batches, most of the time goes to reading and writing arrays [B, V].
    This function writes such an array once, and changes the followers of the contexts in it.

    Args:
      tables: the tables.
      states_BN: the states of the last 1 ... n - 1 words.
      share: the weight of the n-gram, a scalar.
      other_BV: float32 [B, V], or a scalar.
    """
    batch, contexts = states_BN.shape
    if not contexts:
        return share * tables.rows_KV[:1] + jnp.broadcast_to(other_BV, (batch, tables.vocab_size))
    row_BN, backoff_BN = tables.row_S[states_BN], tables.backoff_S[states_BN]
    places_N = jnp.arange(contexts)
    # The place of the longest context with a row; -1 if there is none.
    dense_B1 = jnp.max(jnp.where(row_BN >= 0, places_N, -1), axis=1, keepdims=True)
    row_B = jnp.max(jnp.where(places_N == dense_B1, row_BN, 0), axis=1)
    is_longer_BN = places_N > dense_B1
    # weights[i] is `share` times the back-off weights of the contexts from place i on.
    factor_BN = jnp.where(is_longer_BN, backoff_BN, 1)
    weights = [jnp.full(batch, share, jnp.float32)]
    for place in reversed(range(contexts)):
        weights.insert(0, weights[0] * factor_BN[:, place])
    other_BV = jnp.broadcast_to(other_BV, (batch, tables.vocab_size))
    mixed_BV = _add_rows(other_BV, tables.rows_KV, row_B, weights[0])
    if not tables.longest:
        return mixed_BV
    weight_BN = jnp.stack(weights[1:], axis=1)
    first_BN = tables.first_S[states_BN]
    size_BN = jnp.where(is_longer_BN, tables.first_S[states_BN + 1] - first_BN, 0)
    width = min(WINDOW, tables.longest)
    windows_N = -(-jnp.max(size_BN, axis=0) // width)
    end_N = jnp.cumsum(windows_N)
    rows_B1, offset_W = jnp.arange(batch)[:, None], jnp.arange(width)

    def write(index: jax.Array, mixed_BV: jax.Array) -> jax.Array:
        """Write a window of followers of the contexts of one length, the shortest first."""
        place = jnp.sum(index >= end_N)
        within_W = (index - end_N[place] + windows_N[place]) * width + offset_W
        at_BW = first_BN[:, place, None] + within_W
        is_follower_BW = within_W < size_BN[:, place, None]
        at_BW = jnp.where(is_follower_BW, at_BW, 0)
        word_BW = jnp.where(is_follower_BW, tables.word_N[at_BW], tables.vocab_size)
        value_BW = tables.probability_N[at_BW] * weight_BN[:, place, None]
        value_BW += other_BV[rows_B1, jnp.minimum(word_BW, tables.vocab_size - 1)]
        return mixed_BV.at[rows_B1, word_BW].set(value_BW, mode="drop")

    return jax.lax.fori_loop(0, end_N[-1], write, mixed_BV)


def _add_rows(
    other_BV: jax.Array, rows_KV: jax.Array, row_B: jax.Array, weight_B: jax.Array
) -> jax.Array:
    """Return other_BV + weight_B · rows_KV[row_B], float32 [B, V]."""
    if other_BV.shape[1] < LONG_ROW:
        return other_BV + rows_KV[row_B] * weight_B[:, None]

    def add(place: jax.Array, sum_BV: jax.Array) -> jax.Array:
        row_1V = jax.lax.dynamic_slice_in_dim(rows_KV, row_B[place], 1) * weight_B[place]
        row_1V += jax.lax.dynamic_slice_in_dim(sum_BV, place, 1)
        return jax.lax.dynamic_update_slice_in_dim(sum_BV, row_1V, place, 0)

    return jax.lax.fori_loop(0, len(row_B), add, other_BV)


def next_log_probs(tables: DeviceTables, contexts_BN: jax.Array) -> jax.Array:
    """Return log P(w | context) of every word w, float32 [B, V]; -inf for probability 0.

    Args:
      tables: the tables.
      contexts_BN: the last n - 1 words, or fewer; V for the start of a line, and NOTHING before the
        text.
    """
    return jnp.log(next_probabilities(tables, states_of(tables, contexts_BN)))


def word_log_probs(tables: DeviceTables, contexts_BN: jax.Array, word_B: jax.Array) -> jax.Array:
    """Return log P(word | context) of one word a row, float32 [B]. See `next_log_probs`."""
    return jnp.log(advance(tables, states_of(tables, contexts_BN), word_B)[1])
