"""Compute the log-probability of every token of a text, each token exactly once.

The numbers do not depend on batch size or chunk length. A text is one stream, cut into chunks; the
carry at the end of a chunk is the initial carry of the next chunk. There are two cases:

- In some models the last `context_size` tokens determine the carry (n-gram, NPLM). Then the stream
  is cut into segments, which are scored as one batch. The first segment starts from the initial
  carry. Before each other segment, the model reads the `context_size` tokens that precede it in the
  text; so a segment has at least this many tokens.
- In recurrent models all earlier tokens matter. Then there is one segment, whatever the batch size:
  to cut the stream would change the numbers.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxlm.data.batching import rows_of
from jaxlm.data.encoding import Split
from jaxlm.models.base import Carry, LanguageModel

if TYPE_CHECKING:
    from jaxlm.parallel.mesh import Mesh

# Segments, or rows, that are scored as one batch.
SEGMENTS = 32

# Tokens, with padding, of a batch of rows for a model that is trained by counting. No program is
# compiled for it, so that batches may differ in their number of rows, and large batches share work.
COUNTED_TOKENS = 1 << 17

# The fewest and the most sentences that are scored as one batch, and the fewest sentences whose
# batches have one width. Sentences are short, so batches of nearly equal lengths are the fastest.
FEWEST_ROWS, MOST_ROWS = 16, 256
BUCKET = 2048
# In a batch with a sentence of more tokens than this, no sentence is longer than twice the others.
LONG = 256


class TokenScores(NamedTuple):
    """Scores of the tokens of a text, as NumPy arrays [number of tokens].

    Attributes:
      log_prob: natural log-probability of each token given the tokens before it.
      rank: rank of the token in the vocabulary by its probability, 1 for the most probable; None
        without `detail`.
      entropy: entropy in nats of the distribution that the token was predicted with; None without
        `detail`.
    """

    log_prob: np.ndarray
    rank: np.ndarray | None = None
    entropy: np.ndarray | None = None

    @property
    def nll(self) -> float:
        """Sum of the negative log-likelihoods in nats, in float64."""
        # Not the negative of the sum, which would be -0.0 for a sum of 0.
        return 0.0 - float(np.sum(self.log_prob, dtype=np.float64))


@dataclass(frozen=True)
class Scorer:
    """Score texts with one model.

    Args:
      model: the language model.
      detail: whether to compute the rank and the entropy of every token too.
      mesh: the device mesh on which the parameters are, or None.
    """

    model: LanguageModel
    detail: bool = False
    mesh: "Mesh | None" = None

    def stream(
        self, params: Any, ids: np.ndarray, *, batch_size: int = SEGMENTS, chunk: int | None = None
    ) -> TokenScores:
        """Return the scores of all tokens of one stream.

        The start token (`filler_id` of the model) precedes the first token.

        Args:
          params: parameters of the model.
          ids: token ids of the stream, integers [number of tokens].
          batch_size: largest number of segments that are scored as one batch.
          chunk: tokens per segment in one call of the model; None for as many as fit in memory.
        """
        context = self.model.context_size
        segments = 1
        if context is not None:
            segments = max(1, min(batch_size, len(ids) // max(1, context)))
        length = math.ceil(len(ids) / segments)
        width = min(length, chunk or max(16, self.model.tokens_in_chunk(self.detail) // segments))
        carry = self._carry_before(params, ids, segments, length)
        segment_start_B1 = np.arange(segments)[:, None] * length
        chunks = []
        for start in range(0, length, width):
            positions_BT = segment_start_B1 + np.arange(start, start + width)
            targets_BT = ids[np.minimum(positions_BT, len(ids) - 1)].astype(np.int32)
            inputs_BT = ids[np.clip(positions_BT - 1, 0, len(ids) - 1)].astype(np.int32)
            inputs_BT = np.where(positions_BT == 0, self.model.filler_id, inputs_BT)
            scores, carry = self._scores(params, inputs_BT, targets_BT, carry)
            chunks.append(scores)
        # The host waits only here: all chunks are dispatched before the first result is read.
        return TokenScores(
            *(
                np.concatenate([np.asarray(score_BT) for score_BT in scores], axis=1)[
                    :, :length
                ].reshape(-1)[: len(ids)]
                for scores in zip(*chunks, strict=True)
            )
        )

    def _scores(
        self, params: Any, inputs_BT: np.ndarray, targets_BT: np.ndarray, carry: Carry
    ) -> tuple[tuple[Any, ...], Carry]:
        """Return `token_scores` of the model, on the mesh if there is a mesh; and the carry."""
        if self.mesh is None:
            return self.model.token_scores(params, inputs_BT, targets_BT, carry, self.detail)
        import jax

        from jaxlm.ops.machine import block_if_needed
        from jaxlm.parallel.mesh import put_on_mesh

        # The inputs are replicated on the mesh here. If the compiled function got NumPy arrays, JAX
        # would compare their values between the processes.
        arrays = inputs_BT, targets_BT, carry
        inputs, targets, carry = put_on_mesh(self.mesh, arrays, jax.tree.map(lambda _: (), arrays))
        scores = self.model.token_scores(params, inputs, targets, carry, self.detail)
        block_if_needed(self.mesh, scores)
        return scores

    def _carry_before(self, params: Any, ids: np.ndarray, segments: int, length: int) -> Carry:
        """Return the carry with which each segment of `length` tokens starts.

        The first segment starts with the initial carry. For the other segments, the model reads the
        `context_size` tokens before the first input of the segment.
        """
        context = self.model.context_size
        if not context or segments == 1:
            return self.model.initial_carry(segments)
        # Chunks of one width that fit into memory. Tokens before the context change nothing.
        fits = max(1, self.model.tokens_in_chunk(self.detail) // (segments - 1))
        chunks = math.ceil(context / fits)
        width = math.ceil(context / chunks)
        first_input_B1 = np.arange(1, segments)[:, None] * length - 1
        positions_BN = first_input_B1 - np.arange(chunks * width, 0, -1)
        tokens_BN = ids[np.clip(positions_BN, 0, len(ids) - 1)].astype(np.int32)
        # The start token is at position -1. The context begins there at the earliest, because
        # length >= context.
        tokens_BN[positions_BN < 0] = self.model.filler_id
        carry = self.model.initial_carry(segments - 1)
        for start in range(0, chunks * width, width):
            tokens_BW = tokens_BN[:, start : start + width]
            carry = self._scores(params, tokens_BW, np.zeros_like(tokens_BW), carry)[1]
        return _joined(self.model.initial_carry(1), carry)

    def rows(
        self,
        params: Any,
        inputs: Sequence[np.ndarray],
        targets: Sequence[np.ndarray],
        last_only: bool,
        *,
        carry: Carry = None,
        batch_size: int | None = None,
    ) -> TokenScores:
        """Return the scores of the targets of all rows, one row after the other.

        Each row starts from the same carry.

        Args:
          params: parameters of the model.
          inputs: input token ids of each row, integers [length of the row].
          targets: target token ids of each row, as long as its inputs.
          last_only: whether to score only the last target of each row.
          carry: the carry of one row, from which each row starts; None for the initial carry.
          batch_size: number of rows that are scored as one batch; None for SEGMENTS rows, or for
            about COUNTED_TOKENS tokens if the model is trained by counting.
        """
        # Rows of similar lengths share a batch, so that little padding is scored. All batches are
        # read in chunks of one width, so that the model is compiled once.
        lengths = np.array([len(row) for row in inputs])
        by_length = np.argsort(lengths, kind="stable")
        if batch_size is None and self.model.trained_by == "counting":
            batches = _batches_of(COUNTED_TOKENS, by_length, lengths[by_length])
            shapes = [(len(batch), lengths[batch[-1]]) for batch in batches]
        else:
            rows = min(batch_size or SEGMENTS, len(inputs))
            batches = [by_length[start : start + rows] for start in range(0, len(inputs), rows)]
            typical = max(16, lengths[batches[len(batches) // 2]].max())
            shapes = [(rows, min(lengths.max(), typical))] * len(batches)
        row_scores: dict[int, list[np.ndarray]] = {}
        for batch, (rows, width) in zip(batches, shapes, strict=True):
            fits = max(16, self.model.tokens_in_chunk(self.detail) // rows)
            # Parts of one width cover the longest row with little padding.
            width = max(1, width)
            width = math.ceil(width / math.ceil(width / fits))
            time = max(1, math.ceil(lengths[batch].max() / width)) * width
            inputs_BT = np.zeros((rows, time), np.int32)
            targets_BT = np.zeros_like(inputs_BT)
            for index, row in enumerate(batch):
                inputs_BT[index, : lengths[row]] = inputs[row]
                targets_BT[index, : lengths[row]] = targets[row]
            scores = self._chunks(params, inputs_BT, targets_BT, width, carry)
            for index, row in enumerate(batch):
                end = lengths[row]
                first = end - 1 if last_only else 0
                row_scores[row] = [score_BT[index, first:end] for score_BT in scores]
        in_order = [row_scores[row] for row in range(len(inputs))]
        return TokenScores(*(np.concatenate(scores) for scores in zip(*in_order, strict=True)))

    def sentences(
        self,
        params: Any,
        sentences: Sequence[np.ndarray],
        last_only: bool = False,
        carry: Carry = None,
    ) -> Iterator[tuple[int, list[float]]]:
        """Yield the index of each sentence, and the log-probabilities of its tokens but the first.

        Sentences of the same length are scored by one compiled program, so equal sentences have
        equal scores.

        Args:
          params: parameters of the model.
          sentences: token ids of each sentence, integers [2 or more tokens].
          last_only: whether to score only the last token of each sentence.
          carry: the carry of one row, from which each sentence starts; None for the initial carry.
        """
        lengths = np.array([len(ids) for ids in sentences])
        order = np.argsort(lengths, kind="stable")
        ascending = lengths[order]
        first = 0
        while first < len(order):
            last = min(first + BUCKET, len(order))
            longest = max(LONG, 2 * ascending[first])
            last = min(last, int(np.searchsorted(ascending, longest, "right")))
            last = int(np.searchsorted(ascending, ascending[last - 1], "right"))
            bucket = order[first:last]
            # On CPUs a batch whose logits stay in the cache is the fastest.
            fits = self.model.tokens_in_chunk(False) // int(ascending[last - 1])
            scores = self.rows(
                params,
                [sentences[row][:-1] for row in bucket],
                [sentences[row][1:] for row in bucket],
                last_only,
                carry=carry,
                batch_size=min(max(FEWEST_ROWS, fits), MOST_ROWS),
            )
            counts = np.ones(len(bucket), int) if last_only else lengths[bucket] - 1
            values = np.asarray(scores.log_prob, np.float64).tolist()
            ends = np.cumsum(counts).tolist()
            for row, count, end in zip(bucket.tolist(), counts.tolist(), ends, strict=True):
                yield row, values[end - count : end]
            first = last

    def _chunks(
        self,
        params: Any,
        inputs_BT: np.ndarray,
        targets_BT: np.ndarray,
        width: int,
        carry: Carry,
    ) -> list[np.ndarray]:
        """Return `token_scores` of rows that are read in chunks of `width` tokens, [B, T] each.

        `carry` is the carry of one row, from which each row starts; None for the initial carry.
        """
        rows = len(inputs_BT)
        carry = self.model.initial_carry(rows) if carry is None else repeated(carry, rows)
        chunks = []
        for start in range(0, inputs_BT.shape[1], width):
            end = start + width
            chunk = inputs_BT[:, start:end], targets_BT[:, start:end]
            scores, carry = self._scores(params, *chunk, carry)
            chunks.append(scores)
        return [
            np.concatenate(list(map(np.asarray, parts)), 1) for parts in zip(*chunks, strict=True)
        ]

    def split(
        self,
        params: Any,
        split: Split,
        rows: bool = False,
        last_only: bool = False,
        carry: Carry = None,
    ) -> TokenScores:
        """Return the scores of a split.

        Args:
          params: parameters of the model.
          split: the text, as token ids and as lines.
          rows: whether each line is a row of its own; if False, the whole text is one stream.
          last_only: with `rows`, whether to score only the last token of each line.
          carry: with `rows`, the carry of one row, from which each line starts; None for the
            initial carry.
        """
        if not rows:
            return self.stream(params, split.ids)
        return self.rows(params, *rows_of(split), last_only, carry=carry)


def _batches_of(tokens: int, rows: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    """Return the rows in batches of at most so many tokens with padding, or of a single row.

    `lengths` are the numbers of tokens of the rows, ascending.

    Example:
      >>> batches = _batches_of(6, np.array([3, 0, 1, 2]), np.array([1, 2, 3, 9]))
      >>> [batch.tolist() for batch in batches]
      [[3, 0], [1], [2]]
    """
    batches, start = [], 0
    for stop in range(1, len(rows) + 1):
        if stop == len(rows) or (stop + 1 - start) * lengths[stop] > tokens:
            batches.append(rows[start:stop])
            start = stop
    return batches


def repeated(carry: Carry, rows: int) -> Carry:
    """Return the carry of one row, repeated for `rows` rows, in NumPy; None for None."""
    if carry is None or isinstance(carry, np.ndarray):
        # An n-gram does not need JAX.
        return None if carry is None else np.repeat(carry, rows, axis=0)
    import jax

    return jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf), rows, axis=0), carry)


def _joined(first: Carry, others: Carry) -> Carry:
    """Return the carry of the first row and the carry of the other rows as one carry, in NumPy."""
    if isinstance(others, np.ndarray):
        # An n-gram does not need JAX.
        return np.concatenate([first, others])
    import jax

    return jax.tree.map(
        lambda *parts: np.concatenate([np.asarray(part) for part in parts]), first, others
    )
