"""The output layer and its cross-entropy in one function, with a hand-written gradient."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp

from jaxlm.ops.machine import aligned, constants
from jaxlm.ops.products import (
    Compute,
    pad_operands,
    product,
    product_by_transposed,
    transposed_product_and_sum,
)
from jaxlm.parallel.mesh import Axes
from jaxlm.parallel.shard_map import ShardedAxes, on_each_device

# Tokens in a chunk if only the first tokens are valid (`num_valid`). The last computed chunk may
# consist mostly of invalid tokens, so these chunks are small.
CHUNK_TOKENS_MASKED = 64

# Axes of hidden, kernel, bias, targets and weights, for sharding over devices.
INPUT_AXES: tuple[Axes, ...] = (
    ("batch", None),
    (None, "vocabulary"),
    ("vocabulary",),
    ("batch",),
    ("batch",),
)
# Axes of the sum, and of the nll of each token.
OUTPUT_AXES: tuple[Axes, ...] = ((), ("batch",))
# Axes of the gradients with respect to hidden, kernel and bias.
GRADIENT_AXES = INPUT_AXES[:3]


def output_cross_entropy(
    hidden_NF: jax.Array,
    kernel_FV: jax.Array,
    bias_V: jax.Array,
    targets_N: jax.Array,
    weights_N: jax.Array,
    dtype: Any = jnp.float32,
    num_valid: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Return Σ_n weight_n · nll_n and every nll_n, without storing all logits.

        y = h U + b      nll = log Σ_v exp(y_v) - y_target
        dy = weight · (softmax(y) - onehot(target))      dh = dy Uᵀ      dU = hᵀ dy      db = Σ dy

    Tokens are processed in chunks (`Constants.chunk_tokens`). The gradients of a chunk are computed
    while its logits exist. So there are three products, nothing is computed twice, and the memory
    for logits does not grow with the number of tokens. Only the sum can be differentiated, with
    respect to `hidden_NF`, `kernel_FV` and `bias_V`.

    On a mesh, each device computes the logits of its own tokens and its own vocabulary slice.
    Devices reduce max_v, Σ_v, y_target and dh over the vocabulary, and dU and db over the tokens.

    Example:
      >>> import jax.numpy as jnp
      >>> hidden_NF, kernel_FV, bias_V = jnp.ones((2, 3)), jnp.zeros((3, 4)), jnp.zeros(4)
      >>> targets_N, weights_N = jnp.asarray([0, 3]), jnp.asarray([1.0, 0.5])
      >>> total, nll_N = output_cross_entropy(hidden_NF, kernel_FV, bias_V, targets_N, weights_N)
      >>> bool(jnp.allclose(nll_N, jnp.log(4))), bool(jnp.allclose(total, 1.5 * jnp.log(4)))
      (True, True)

    Args:
      hidden_NF: features of N tokens, any float dtype.
      kernel_FV: output matrix U, float32.
      bias_V: output bias b, float32.
      targets_N: id of the word that each token has to predict, integers.
      weights_N: weight of each token in the sum, float32.
      dtype: dtype of the operands of the products.
      num_valid: number of valid tokens, int32 scalar; None if all are valid. Valid tokens come
        first. Chunks after them are skipped. The weights of invalid tokens must be 0, and their nll
        has no meaning (0 in a skipped chunk).
    Returns:
      The weighted sum, a float32 scalar, and the nll of each token, float32 [N].
    """
    hidden_NF, kernel_FV = pad_operands(hidden_NF, kernel_FV)
    return _output_cross_entropy(
        Compute.now(dtype), hidden_NF, kernel_FV, bias_V, targets_N, weights_N, num_valid
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _output_cross_entropy(
    compute: Compute,
    hidden_NF: jax.Array,
    kernel_FV: jax.Array,
    bias_V: jax.Array,
    targets_N: jax.Array,
    weights_N: jax.Array,
    num_valid: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    function = functools.partial(_values, compute.dtype, num_valid)
    run: Any = on_each_device(function, INPUT_AXES, OUTPUT_AXES)
    total, nll_N = run(hidden_NF, kernel_FV, bias_V, targets_N, weights_N)
    return total, nll_N


Statistics = tuple[jax.Array, jax.Array, jax.Array]
"""max, Σ exp(y - max) and y_target of each token over a vocabulary slice: [C] for the C tokens of a
chunk, or [K, C] for all K chunks. y_target is 0 if the slice does not contain the target."""


def _values(
    dtype: Any,
    num_valid: jax.Array | None,
    sharded: ShardedAxes,
    hidden_NF: jax.Array,
    kernel_FV: jax.Array,
    bias_V: jax.Array,
    targets_N: jax.Array,
    weights_N: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Return Σ weight · nll and every nll, where no gradient is needed.

    A loop over vocabulary slices combines the statistics of slices a and b by

        Σ_{v in a, b} exp(y_v - max) = Σ_a exp(max_a - max) + Σ_b exp(max_b - max)

    where Σ_a is the sum of exp(y_v - max_a) over slice a.
    """
    chosen = constants()
    length = CHUNK_TOKENS_MASKED if num_valid is not None else chosen.chunk_tokens_without_gradient
    chunks = _chunks(length, hidden_NF.astype(dtype), targets_N)
    first_word, vocab_size = sharded.first_word(len(bias_V)), len(bias_V)
    # The slices of the loop have equal width, a multiple of 16. A narrower last slice comes before
    # the loop.
    slices = -(-vocab_size // chosen.words_without_gradient)
    width = min(vocab_size, -(-vocab_size // slices // 16) * 16)

    def slice_statistics(start: Any, size: int) -> Statistics:
        """Return the statistics of all chunks over words `start` to `start + size`."""
        # XLA copies a slice of the matrix before a product. Here it is copied once for all chunks.
        kernel_FW = jax.lax.dynamic_slice_in_dim(kernel_FV, start, size, axis=1).astype(dtype)
        bias_W = jax.lax.dynamic_slice_in_dim(bias_V, start, size)

        def body(chunk: tuple[jax.Array, ...]) -> tuple[tuple[()], Statistics]:
            hidden_CF, targets_C = chunk
            y_CW = product(hidden_CF, kernel_FW) + bias_W
            max_C = jnp.max(y_CW, axis=-1)
            sum_C = jnp.sum(jnp.exp(y_CW - max_C[:, None]), axis=-1)
            return (), (max_C, sum_C, _take_or_zero(y_CW, targets_C - first_word - start))

        _, statistics = _sum_and_stack(body, chunks, num_valid)
        return statistics

    def add_slice(index: jax.Array, statistics: Statistics) -> Statistics:
        max_KC, sum_KC, target_KC = statistics
        slice_max_KC, slice_sum_KC, slice_target_KC = slice_statistics(index * width, width)
        new_max_KC = jnp.maximum(max_KC, slice_max_KC)
        sum_KC = sum_KC * jnp.exp(max_KC - new_max_KC)
        sum_KC = sum_KC + slice_sum_KC * jnp.exp(slice_max_KC - new_max_KC)
        return new_max_KC, sum_KC, target_KC + slice_target_KC

    count, rest = divmod(vocab_size, width)
    zeros_KC = jnp.zeros(chunks[1].shape, jnp.float32)
    if rest:
        statistics = slice_statistics(count * width, rest)
    else:
        statistics = zeros_KC - jnp.inf, zeros_KC, zeros_KC
    local_max_KC, sum_KC, target_KC = jax.lax.fori_loop(0, count, add_slice, statistics)
    max_KC = sharded.max_over_vocabulary(local_max_KC)
    sum_KC = sum_KC * jnp.exp(local_max_KC - max_KC)
    sum_KC, target_KC = sharded.sum_over_vocabulary((sum_KC, target_KC))
    # The maximum is subtracted in both terms, so it cancels. If it stayed in both, large logits
    # would lose digits in the difference.
    nll_KC = jnp.log(sum_KC) - (target_KC - max_KC)
    if num_valid is not None:
        # In a skipped chunk every sum is 0.
        nll_KC = jnp.where(sum_KC == 0, 0.0, nll_KC)
    nll_N = nll_KC.reshape(-1)[: len(targets_N)]
    return sharded.sum_over_batch(jnp.sum(nll_N * weights_N)), nll_N


def _take_or_zero(y_CW: jax.Array, column_C: jax.Array) -> jax.Array:
    """Return y at a column of each row; 0 where the column is outside of the row."""
    inside_C = (column_C >= 0) & (column_C < y_CW.shape[-1])
    value_C = jnp.take_along_axis(y_CW, column_C[:, None], axis=-1, mode="clip")[:, 0]
    return jnp.where(inside_C, value_C, 0.0)


VocabularySlices = list[tuple[Any, jax.Array, jax.Array]]
"""(id of the first word, U [F, W], b [W]) of consecutive slices of W words. Together they contain
all words of a device."""


def _vocabulary_slices(
    kernel_FV: jax.Array, bias_V: jax.Array, sharded: ShardedAxes
) -> VocabularySlices:
    """Return the output layer in slices of about equal width.

    The slices may differ in width, and none is padded, so each word occurs once.
    """
    first_word = sharded.first_word(len(bias_V))
    vocab_size = bias_V.shape[0]
    count = -(-vocab_size // constants().words_with_gradient)
    width = aligned(-(-vocab_size // count))
    edges = [min(width * index, vocab_size) for index in range(count + 1)]
    return [
        (first_word + start, kernel_FV[:, start:end], bias_V[start:end])
        for start, end in itertools.pairwise(edges)
    ]


def _chunks(length: int, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Return the arrays [N, ...] in K chunks of about `length` tokens, [K, C, ...].

    The last chunk is padded with zeros.
    """
    tokens = len(arrays[0])
    chunks = max(1, round(tokens / length))
    length = -(-tokens // chunks)
    padding = chunks * length - tokens
    return tuple(
        jnp.pad(array, [(0, padding)] + [(0, 0)] * (array.ndim - 1)).reshape(
            chunks, length, *array.shape[1:]
        )
        for array in arrays
    )


def _sum_and_stack(body: Any, chunks: tuple[jax.Array, ...], num_valid: jax.Array | None) -> Any:
    """Run body(chunk) -> (terms, outputs); return the sums of the terms, and the stacked outputs.

    Chunks after the first `num_valid` tokens are skipped, and their outputs are zeros.
    """
    first_chunk = jax.tree.map(lambda array: array[0], chunks)
    count = chunks[0].shape[0]
    if count == 1 and num_valid is None:
        # A single chunk needs no sum. This saves a pass over the matrix's gradient.
        sums, outputs = body(first_chunk)
        return sums, jax.tree.map(lambda array: array[None], outputs)
    term_shapes, output_shapes = jax.eval_shape(body, first_chunk)
    zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), term_shapes)

    def add(sums: Any, chunk: tuple[jax.Array, ...]) -> tuple[Any, Any]:
        terms, outputs = body(chunk)
        return jax.tree.map(jnp.add, sums, terms), outputs

    if num_valid is None:
        return jax.lax.scan(add, zeros, chunks)
    stacked = jax.tree.map(
        lambda shape: jnp.zeros((count, *shape.shape), shape.dtype), output_shapes
    )

    def step(index: jax.Array, state: tuple[Any, Any]) -> tuple[Any, Any]:
        sums, stacked = state
        sums, outputs = add(sums, jax.tree.map(lambda array: array[index], chunks))
        return sums, jax.tree.map(lambda stack, new: stack.at[index].set(new), stacked, outputs)

    valid_chunks = -(-num_valid // chunks[0].shape[1])
    return jax.lax.fori_loop(0, valid_chunks, step, (zeros, stacked))


def _softmax(
    hidden_CF: jax.Array, slices: VocabularySlices, targets_C: jax.Array, sharded: ShardedAxes
) -> tuple[jax.Array, list[jax.Array], jax.Array]:
    """Return nll [C], exp(y - max) [C, W] of each slice, and Σ exp(y - max) over all words [C]."""
    slice_logits = [product(hidden_CF, kernel_FW) + bias_W for _, kernel_FW, bias_W in slices]
    # The maximum is subtracted in both terms of nll, so it cancels. If it stayed in both, large
    # logits would lose digits in the difference.
    max_C1 = functools.reduce(
        jnp.maximum, [jnp.max(y_CW, axis=-1, keepdims=True) for y_CW in slice_logits]
    )
    max_C1 = sharded.max_over_vocabulary(max_C1)
    slice_logits = [y_CW - max_C1 for y_CW in slice_logits]
    slice_exps = [jnp.exp(y_CW) for y_CW in slice_logits]
    sum_C = functools.reduce(jnp.add, [jnp.sum(exp_CW, axis=-1) for exp_CW in slice_exps])
    target_C = jnp.zeros_like(sum_C)
    for (first_word, _, _), y_CW in zip(slices, slice_logits, strict=True):
        target_C += _take_or_zero(y_CW, targets_C - first_word)
    sum_C, target_C = sharded.sum_over_vocabulary((sum_C, target_C))
    return jnp.log(sum_C) - target_C, slice_exps, sum_C


def _output_forward(
    compute: Compute,
    hidden_NF: jax.Array,
    kernel_FV: jax.Array,
    bias_V: jax.Array,
    targets_N: jax.Array,
    weights_N: jax.Array,
    num_valid: jax.Array | None,
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, ...]]:
    function = functools.partial(_values_and_gradients, compute.dtype, num_valid)
    run: Any = on_each_device(function, INPUT_AXES, (OUTPUT_AXES, GRADIENT_AXES))
    with compute.context():
        values, gradients = run(hidden_NF, kernel_FV, bias_V, targets_N, weights_N)
    return values, gradients


def _values_and_gradients(
    dtype: Any,
    num_valid: jax.Array | None,
    sharded: ShardedAxes,
    hidden_NF: jax.Array,
    kernel_FV: jax.Array,
    bias_V: jax.Array,
    targets_N: jax.Array,
    weights_N: jax.Array,
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, ...]]:
    """Return (Σ weight · nll, every nll), and the gradients of the sum.

    The gradients are with respect to hidden, kernel and bias.
    """
    slices = _vocabulary_slices(kernel_FV.astype(dtype), bias_V, sharded)
    Gradients = list[tuple[jax.Array, jax.Array]]

    def body(chunk: tuple[jax.Array, ...]) -> tuple[Gradients, tuple[jax.Array, jax.Array]]:
        hidden_CF, targets_C, weights_C = chunk
        nll_C, slice_exps, sum_C = _softmax(hidden_CF, slices, targets_C, sharded)
        scale_C1 = (weights_C / sum_C)[:, None]
        dhidden_CF = jnp.zeros(hidden_CF.shape, jnp.float32)
        gradients = []
        for (first_word, kernel_FW, _), exp_CW in zip(slices, slice_exps, strict=True):
            words_CW = first_word + jax.lax.broadcasted_iota(targets_C.dtype, exp_CW.shape, 1)
            onehot_CW = jnp.where(words_CW == targets_C[:, None], weights_C[:, None], 0.0)
            dy_CW = exp_CW * scale_C1 - onehot_CW
            dhidden_CF += product_by_transposed(dy_CW.astype(dtype), kernel_FW)
            gradients.append(transposed_product_and_sum(hidden_CF, dy_CW, dtype))
        return gradients, (nll_C, dhidden_CF)

    length = CHUNK_TOKENS_MASKED
    if num_valid is None:
        length = max(constants().chunk_tokens, hidden_NF.shape[1])
    chunks = _chunks(length, hidden_NF.astype(dtype), targets_N, weights_N)
    slice_gradients, (nll_KC, dhidden_KCF) = _sum_and_stack(body, chunks, num_valid)
    dkernel_FV = jnp.concatenate([dkernel_FW for dkernel_FW, _ in slice_gradients], axis=1)
    dbias_V = jnp.concatenate([dbias_W for _, dbias_W in slice_gradients])
    tokens = len(targets_N)
    nll_N = nll_KC.reshape(-1)[:tokens]
    dhidden_NF = dhidden_KCF.reshape(-1, dhidden_KCF.shape[-1])[:tokens]
    dhidden_NF = sharded.sum_over_vocabulary(dhidden_NF).astype(hidden_NF.dtype)
    dkernel_FV, dbias_V = sharded.sum_over_batch((dkernel_FV, dbias_V))
    total = sharded.sum_over_batch(jnp.sum(nll_N * weights_N))
    return (total, nll_N), (dhidden_NF, dkernel_FV, dbias_V)


def _output_backward(
    compute: Compute, saved: tuple[jax.Array, ...], grads: tuple[jax.Array, jax.Array]
) -> tuple[Any, ...]:
    scale, _ = grads
    return *(array * scale.astype(array.dtype) for array in saved), None, None, None


_output_cross_entropy.defvjp(_output_forward, _output_backward)
