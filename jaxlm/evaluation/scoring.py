"""The log-probability of every token of a text: exactly once each, whatever the batch size and
chunk length.

A text is one stream, the carry handed from chunk to chunk. Where the last `context_size` tokens fix
a model's carry (n-gram, NPLM), the stream is cut into segments scored side by side, each started
from the tokens that really precede it. Where all earlier tokens matter (recurrent models) there is
one segment, whatever batch size is asked for: cutting would change the number.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxlm.data.batching import rows_of
from jaxlm.data.encoding import Split
from jaxlm.models.base import Carry, LanguageModel
from jaxlm.parallel.mesh import Mesh, block_if_needed, put_on_mesh

SEGMENTS = 32


class TokenScores(NamedTuple):
    """Per token: natural log-probability; and with detail, its rank among all tokens (1: the
    likeliest) and the entropy of the whole distribution in nats. NumPy [number of tokens].
    """

    log_prob: np.ndarray
    rank: np.ndarray | None = None
    entropy: np.ndarray | None = None

    @property
    def nll(self) -> float:
        """Summed negative log-likelihood in nats, in float64."""
        return -float(np.sum(self.log_prob, dtype=np.float64))


@dataclass(frozen=True)
class Scorer:
    """Scores texts with one model; with `detail`, ranks and entropies too. mesh: what the
    parameters lie on, if they do.
    """

    model: LanguageModel
    detail: bool = False
    mesh: Mesh | None = None

    def stream(
        self, params: Any, ids: np.ndarray, *, batch_size: int = SEGMENTS, chunk: int | None = None
    ) -> TokenScores:
        """Scores every id of one stream; before the first stands the model's start token."""
        context = self.model.context_size
        segments = 1 if context is None else max(1, min(batch_size, len(ids)))
        length = math.ceil(len(ids) / segments)
        width = min(length, chunk or max(16, self.model.tokens_in_chunk(self.detail) // segments))
        carry = self._carry_before(params, ids, segments, length)
        before = np.arange(segments)[:, None] * length
        chunks = []
        for start in range(0, length, width):
            positions_BT = before + np.arange(start, start + width)
            targets_BT = ids[np.minimum(positions_BT, len(ids) - 1)].astype(np.int32)
            inputs_BT = ids[np.clip(positions_BT - 1, 0, len(ids) - 1)].astype(np.int32)
            inputs_BT = np.where(positions_BT == 0, self.model.filler_id, inputs_BT)
            scores, carry = self._scores(params, inputs_BT, targets_BT, carry)
            chunks.append(scores)
        # Only now does the host wait: every chunk was dispatched before the first was read.
        return TokenScores(
            *(
                np.concatenate([np.asarray(part) for part in parts], axis=1)[:, :length].reshape(
                    -1
                )[: len(ids)]
                for parts in zip(*chunks, strict=True)
            )
        )

    def _scores(
        self, params: Any, inputs_BT: np.ndarray, targets_BT: np.ndarray, carry: Carry
    ) -> tuple[tuple[Any, ...], Carry]:
        # On a mesh all of it is everywhere; JAX would have the processes compare what they read.
        given = inputs_BT, targets_BT, carry
        inputs, targets, carry = put_on_mesh(self.mesh, given, jax.tree.map(lambda _: (), given))
        found = self.model.token_scores(params, inputs, targets, carry, self.detail)
        block_if_needed(self.mesh, found)
        return found

    def _carry_before(self, params: Any, ids: np.ndarray, segments: int, length: int) -> Carry:
        """The carry with which each segment starts: the initial one, or that of the tokens just
        before it.
        """
        carry = self.model.initial_carry(segments)
        context = self.model.context_size
        if not context or segments == 1:
            return carry
        first_input_B1 = np.arange(segments)[:, None] * length - 1
        positions_BN = first_input_B1 - np.arange(context, 0, -1)
        tokens_BN = ids[np.clip(positions_BN, 0, len(ids) - 1)].astype(np.int32)
        tokens_BN[positions_BN < 0] = self.model.filler_id
        # The start token stands at -1; before it there is nothing.
        tokens_BN[positions_BN < -1] = self.model.nothing_id
        return self._scores(params, tokens_BN, np.zeros_like(tokens_BN), carry)[1]

    def rows(
        self,
        params: Any,
        inputs: Sequence[np.ndarray],
        targets: Sequence[np.ndarray],
        last: bool,
        *,
        batch_size: int = SEGMENTS,
    ) -> TokenScores:
        """Scores the targets of each row (with `last`, its last one alone), the state afresh in
        each row.
        """
        width = max(map(len, inputs))
        found = []
        for start in range(0, len(inputs), batch_size):
            rows = range(start, min(start + batch_size, len(inputs)))
            inputs_BT = np.zeros((min(batch_size, len(inputs)), width), np.int32)
            targets_BT = np.zeros_like(inputs_BT)
            for place, row in enumerate(rows):
                inputs_BT[place, : len(inputs[row])] = inputs[row]
                targets_BT[place, : len(inputs[row])] = targets[row]
            carry = self.model.initial_carry(len(inputs_BT))
            scores, _ = self._scores(params, inputs_BT, targets_BT, carry)
            for place, row in enumerate(rows):
                end = len(inputs[row])
                found.append(
                    [np.asarray(part)[place, end - 1 if last else 0 : end] for part in scores]
                )
        return TokenScores(*(np.concatenate(parts) for parts in zip(*found, strict=True)))

    def split(
        self, params: Any, split: Split, rows: bool = False, last: bool = False
    ) -> TokenScores:
        """Scores a split as one stream, or row by row."""
        if not rows:
            return self.stream(params, split.ids)
        return self.rows(params, *rows_of(split), last)
