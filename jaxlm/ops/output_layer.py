"""The output layer and the cross-entropy of its softmax in one, with the gradient written out."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp

from jaxlm.ops.machine import WORDS_WITH_GRADIENT, aligned, words_per_slice
from jaxlm.ops.products import (
    Compute,
    align,
    product,
    product_by_transposed,
    transposed_product_and_sum,
)
from jaxlm.parallel.mesh import Axes
from jaxlm.parallel.shard_map import Spread, by_device

# Tokens whose logits are there at a time, at least; and as many as there are features, since each
# chunk reads the output matrix again and adds to all of its gradient. Measured at 10,000 and 33,278
# words and 200 to 1024 features.
CHUNK = 320
# And where only some of the tokens are live: small, as up to a chunk more of them are gone through.
LIVE_CHUNK = 64


# Where there are no gradients to form, a part's logits are gone through at once and need not be
# kept: few words in a part, so that they are still in a CPU's cache, and many tokens in a chunk. A
# program's memory is new to each call of it, and the first writing of 30 MB costs a CPU 15 ms.
CHUNK_ALONE = 1024

# How what is read and what comes out may be spread over devices: hidden, kernel, bias, targets and
# weights; the sum, and each token's nll; and the gradients by the first three.
READ: tuple[Axes, ...] = (
    ("batch", None),
    (None, "vocabulary"),
    ("vocabulary",),
    ("batch",),
    ("batch",),
)
FOUND: tuple[Axes, ...] = ((), ("batch",))
GRADIENTS = READ[:3]


def output_cross_entropy(
    hidden_NF: jax.Array,
    kernel_FV: jax.Array,
    bias_V: jax.Array,
    targets_N: jax.Array,
    weights_N: jax.Array,
    dtype: Any = jnp.float32,
    live: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The output layer and `cross_entropy` in one: Σ_n weight_n · nll_n, and every nll_n.

        y = h U + b      nll = log Σ_v exp(y_v) - y_target
        dy = weight · (softmax(y) - onehot(target))      dh = dy Uᵀ      dU = hᵀ dy      db = Σ dy

    Tokens are taken `CHUNK` at a time, and a chunk's gradients are formed while its logits are at
    hand: three products in all, nothing computed twice, and memory that does not grow with the
    number of tokens. Only the sum can be differentiated; by hidden_NF, kernel_FV and bias_V.

    On a mesh, each device has its tokens' logits of its words alone. What devices tell each other
    are max_v and Σ_v of a token, y_target and dh, over the words; and dU and db, over the tokens.

    hidden_NF: any dtype; kernel_FV, bias_V: float32; dtype: of the products' operands. live: how
    many tokens, from the first on, are to be gone through, int32: the chunks after them cost
    nothing, and their nll is 0 (their weights must be). Returns a float32 scalar and [N].
    """
    hidden_NF, kernel_FV = align(hidden_NF, kernel_FV)
    return _output_cross_entropy(
        Compute.now(dtype), hidden_NF, kernel_FV, bias_V, targets_N, weights_N, live
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _output_cross_entropy(
    compute: Compute,
    hidden_NF: jax.Array,
    kernel_FV: jax.Array,
    bias_V: jax.Array,
    targets_N: jax.Array,
    weights_N: jax.Array,
    live: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    values = by_device(functools.partial(_values, compute.dtype, live), READ, FOUND)
    found: tuple[jax.Array, jax.Array] = values(hidden_NF, kernel_FV, bias_V, targets_N, weights_N)
    return found


Found = tuple[jax.Array, jax.Array, jax.Array]
"""max, Σ exp(y - max) and y_target of every token, [K, C], of some of the words."""


def _values(
    dtype: Any,
    live: jax.Array | None,
    spread: Spread,
    hidden_NF: jax.Array,
    kernel_FV: jax.Array,
    bias_V: jax.Array,
    targets_N: jax.Array,
    weights_N: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Σ weight · nll and every nll, by the maximum, Σ exp(y - max) and y_target of one part of the
    words after another.

    Σ_{v in a, b} exp(y_v - max) = Σ_a exp(max_a - max) + Σ_b exp(max_b - max)
    """
    length = CHUNK_ALONE if live is None else LIVE_CHUNK
    chunks = _chunks(length, hidden_NF.astype(dtype), targets_N)
    start, vocab_size = spread.first_word(len(bias_V)), len(bias_V)
    most = words_per_slice()
    # Of one width, so that a loop goes through them; the last, narrower, comes before it.
    width = min(vocab_size, -(-vocab_size // -(-vocab_size // most) // 16) * 16)

    def of_part(first: Any, size: int) -> Found:
        # Once for all tokens: a part of the matrix is copied before it is multiplied by.
        kernel_FW = jax.lax.dynamic_slice_in_dim(kernel_FV, first, size, axis=1).astype(dtype)
        bias_W = jax.lax.dynamic_slice_in_dim(bias_V, first, size)

        def body(chunk: tuple[jax.Array, ...]) -> tuple[tuple[()], Found]:
            hidden_CF, targets_C = chunk
            y_CW = product(hidden_CF, kernel_FW) + bias_W
            max_C = jnp.max(y_CW, axis=-1)
            sum_C = jnp.sum(jnp.exp(y_CW - max_C[:, None]), axis=-1)
            return (), (max_C, sum_C, _pick(y_CW, targets_C - start - first))

        found: Found = _over(body, chunks, live)[1]
        return found

    def add(index: jax.Array, before: Found) -> Found:
        max_KC, sum_KC, target_KC = of_part(index * width, width)
        top_KC = jnp.maximum(before[0], max_KC)
        sum_KC = before[1] * jnp.exp(before[0] - top_KC) + sum_KC * jnp.exp(max_KC - top_KC)
        return top_KC, sum_KC, before[2] + target_KC

    count, rest = divmod(vocab_size, width)
    none_KC = jnp.zeros(chunks[1].shape, jnp.float32)
    found = of_part(count * width, rest) if rest else (none_KC - jnp.inf, none_KC, none_KC)
    own_KC, sum_KC, target_KC = jax.lax.fori_loop(0, count, add, found)
    max_KC = spread.max_over_vocabulary(own_KC)
    sum_KC, target_KC = spread.sum_over_vocabulary((sum_KC * jnp.exp(own_KC - max_KC), target_KC))
    # The maximum cancels between the two terms; left in, it would cost large logits their digits.
    nll_KC = jnp.log(sum_KC) - (target_KC - max_KC)
    if live is not None:
        # Of chunks that were not gone through the sum is empty.
        nll_KC = jnp.where(sum_KC == 0, 0.0, nll_KC)
    nll_N = nll_KC.reshape(-1)[: len(targets_N)]
    return spread.sum_over_batch(jnp.sum(nll_N * weights_N)), nll_N


def _pick(y_CW: jax.Array, place_C: jax.Array) -> jax.Array:
    """y at a place of each row; 0 where the row has none there."""
    inside_C = (place_C >= 0) & (place_C < y_CW.shape[-1])
    found_C = jnp.take_along_axis(y_CW, place_C[:, None], axis=-1, mode="clip")[:, 0]
    return jnp.where(inside_C, found_C, 0.0)


Parts = list[tuple[Any, jax.Array, jax.Array]]
"""(the first word, U [F, W], b [W]) of consecutive words, all of a device's together."""


def _parts(kernel_FV: jax.Array, bias_V: jax.Array, spread: Spread) -> Parts:
    """The output layer in parts of about equal width. No part is padded: each has a size of its
    own, so every word is there once.
    """
    start = spread.first_word(len(bias_V))
    vocab_size = bias_V.shape[0]
    count = -(-vocab_size // WORDS_WITH_GRADIENT)
    width = aligned(-(-vocab_size // count))
    edges = [min(width * part, vocab_size) for part in range(count + 1)]
    return [
        (start + first, kernel_FV[:, first:end], bias_V[first:end])
        for first, end in itertools.pairwise(edges)
    ]


def _chunks(length: int, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """The arrays in chunks of equal length, about this one: [K, C, ...], zeros at the end."""
    count = len(arrays[0])
    chunks = max(1, round(count / length))
    length = -(-count // chunks)
    padding = chunks * length - count
    return tuple(
        jnp.pad(array, [(0, padding)] + [(0, 0)] * (array.ndim - 1)).reshape(
            chunks, length, *array.shape[1:]
        )
        for array in arrays
    )


def _over(body: Any, chunks: tuple[jax.Array, ...], live: jax.Array | None) -> Any:
    """body(chunk) -> (to be added up, to be kept): the sums, and what was kept of each chunk; or of
    the first, those with live tokens, and zeros.
    """
    first = jax.tree.map(lambda array: array[0], chunks)
    length = chunks[0].shape[0]
    if length == 1 and live is None:
        # Nothing to add to: a pass over the matrix's gradient less.
        added, one = body(first)
        return added, jax.tree.map(lambda array: array[None], one)
    added, one = jax.eval_shape(body, first)
    zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), added)

    def add(sums: Any, chunk: tuple[jax.Array, ...]) -> tuple[Any, Any]:
        added, one = body(chunk)
        return jax.tree.map(jnp.add, sums, added), one

    if live is None:
        return jax.lax.scan(add, zeros, chunks)
    found = jax.tree.map(lambda shape: jnp.zeros((length, *shape.shape), shape.dtype), one)

    def step(index: jax.Array, loop: tuple[Any, Any]) -> tuple[Any, Any]:
        sums, found = loop
        sums, one = add(sums, jax.tree.map(lambda array: array[index], chunks))
        return sums, jax.tree.map(lambda all_, new: all_.at[index].set(new), found, one)

    used = -(-live // chunks[0].shape[1])
    return jax.lax.fori_loop(0, used, step, (zeros, found))


def _softmax(
    hidden_CF: jax.Array, parts: Parts, targets_C: jax.Array, spread: Spread
) -> tuple[jax.Array, list[jax.Array], jax.Array]:
    """nll [C], exp(y - max) of every part [C, W], and its sum over all words [C]."""
    many_CW = [product(hidden_CF, kernel_FW) + bias_W for _, kernel_FW, bias_W in parts]
    # The maximum cancels between the two terms; left in, it would cost large logits their digits.
    max_C1 = functools.reduce(
        jnp.maximum, [jnp.max(y_CW, axis=-1, keepdims=True) for y_CW in many_CW]
    )
    max_C1 = spread.max_over_vocabulary(max_C1)
    many_CW = [y_CW - max_C1 for y_CW in many_CW]
    exp_CW = [jnp.exp(y_CW) for y_CW in many_CW]
    sum_C = functools.reduce(jnp.add, [jnp.sum(one_CW, axis=-1) for one_CW in exp_CW])
    target_C = jnp.zeros_like(sum_C)
    for (first, _, _), y_CW in zip(parts, many_CW, strict=True):
        target_C += _pick(y_CW, targets_C - first)
    sum_C, target_C = spread.sum_over_vocabulary((sum_C, target_C))
    return jnp.log(sum_C) - target_C, exp_CW, sum_C


def _output_forward(
    compute: Compute,
    hidden_NF: jax.Array,
    kernel_FV: jax.Array,
    bias_V: jax.Array,
    targets_N: jax.Array,
    weights_N: jax.Array,
    live: jax.Array | None,
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, ...]]:
    run = functools.partial(_values_and_gradients, compute.dtype, live)
    with compute.context():
        found: Any = by_device(run, READ, (FOUND, GRADIENTS))(
            hidden_NF, kernel_FV, bias_V, targets_N, weights_N
        )
    return found


def _values_and_gradients(
    dtype: Any,
    live: jax.Array | None,
    spread: Spread,
    hidden_NF: jax.Array,
    kernel_FV: jax.Array,
    bias_V: jax.Array,
    targets_N: jax.Array,
    weights_N: jax.Array,
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, ...]]:
    parts = _parts(kernel_FV.astype(dtype), bias_V, spread)
    Gradients = list[tuple[jax.Array, jax.Array]]

    def body(chunk: tuple[jax.Array, ...]) -> tuple[Gradients, tuple[jax.Array, jax.Array]]:
        hidden_CF, targets_C, weights_C = chunk
        nll_C, exp_CW, sum_C = _softmax(hidden_CF, parts, targets_C, spread)
        share_C1 = (weights_C / sum_C)[:, None]
        dhidden_CF = jnp.zeros(hidden_CF.shape, jnp.float32)
        gradients = []
        for (first, kernel_FW, _), one_CW in zip(parts, exp_CW, strict=True):
            words_CW = first + jax.lax.broadcasted_iota(targets_C.dtype, one_CW.shape, 1)
            hit_CW = jnp.where(words_CW == targets_C[:, None], weights_C[:, None], 0.0)
            dy_CW = one_CW * share_C1 - hit_CW
            dhidden_CF += product_by_transposed(dy_CW.astype(dtype), kernel_FW)
            gradients.append(transposed_product_and_sum(hidden_CF, dy_CW, dtype))
        return gradients, (nll_C, dhidden_CF)

    length = max(CHUNK, hidden_NF.shape[1]) if live is None else LIVE_CHUNK
    chunks = _chunks(length, hidden_NF.astype(dtype), targets_N, weights_N)
    sums, (nll_KC, dhidden_KCF) = _over(body, chunks, live)
    dkernel_FV = jnp.concatenate([dkernel_FW for dkernel_FW, _ in sums], axis=1)
    dbias_V = jnp.concatenate([dbias_W for _, dbias_W in sums])
    count = len(targets_N)
    nll_N = nll_KC.reshape(-1)[:count]
    dhidden_NF = dhidden_KCF.reshape(-1, dhidden_KCF.shape[-1])[:count]
    dhidden_NF = spread.sum_over_vocabulary(dhidden_NF).astype(hidden_NF.dtype)
    dkernel_FV, dbias_V = spread.sum_over_batch((dkernel_FV, dbias_V))
    total = spread.sum_over_batch(jnp.sum(nll_N * weights_N))
    return (total, nll_N), (dhidden_NF, dkernel_FV, dbias_V)


def _output_backward(
    compute: Compute, saved: tuple[jax.Array, ...], grads: tuple[jax.Array, jax.Array]
) -> tuple[Any, ...]:
    scale, _ = grads
    return *(array * scale.astype(array.dtype) for array in saved), None, None, None


_output_cross_entropy.defvjp(_output_forward, _output_backward)
