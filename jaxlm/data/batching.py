"""Token ids to batches, three ways: contiguous streams, shuffled windows, and sentence rows.

A batching is a pure function of the step number: `block(first, count, capacity)` gives the batches
of `count` consecutive steps, so the step is the whole data state and resuming needs nothing else.
In all three, every token of the split is a target exactly once an epoch (in rows without a start
token, every token but a row's first; with positions "last", a row's last alone).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from jaxlm.data.chunks import chunk_edges, longest_chunk
from jaxlm.data.encoding import Split
from jaxlm.data.shuffling import shuffled
from jaxlm.errors import UserError, choose


@dataclass(frozen=True)
class BatchingConfig:
    """How the text is cut into batches."""

    batching: str = "streams"
    """streams (one long text, the state carried), windows (n_step words before one), rows."""
    batch_size: int = 20
    """Streams, windows or rows in a batch."""
    bptt: int = 35
    """Streams only: steps that the gradient goes back (truncated back-propagation through time)."""
    vary_bptt: bool = False
    """Streams only: chunks of varied length about --bptt, the rate in proportion (AWD-LSTM)."""
    positions: str = "all"
    """Rows only: predict at every step, or the last word alone (the lecture)."""


class Block(NamedTuple):
    """K batches. Past `count` the rest, up to the capacity, is zeros.

    inputs_KBT, targets_KBT: int32; weights_KBT: float32, 1 where the target counts, 0 at padding;
    denominator_K: float32, what the summed loss of a step is divided by; reset_K: bool, true where
    the carry starts afresh; length_K: int32, how many of the T inputs are read; rate_K: float32,
    what the learning rate is multiplied by. With positions "last", targets and weights have T = 1.
    """

    inputs_KBT: np.ndarray
    targets_KBT: np.ndarray
    weights_KBT: np.ndarray
    denominator_K: np.ndarray
    reset_K: np.ndarray
    length_K: np.ndarray
    rate_K: np.ndarray


POSITIONS = ("all", "last")


class Batches(Protocol):
    """Batches of one split; of each, a block has the rows that were asked for (`make_batches`)."""

    batch_size: int
    """Of the whole batch."""
    length: int
    positions: str
    varied: bool
    """Whether batches differ in `length_K` and `rate_K`."""
    steps_per_epoch: int

    def block(self, first: int, count: int, capacity: int) -> Block:
        """The batches of steps first .. first + count - 1, zero-padded to `capacity` steps."""


def _empty_block(capacity: int, batch: int, length: int, targets: int) -> Block:
    return Block(
        np.zeros((capacity, batch, length), np.int32),
        np.zeros((capacity, batch, targets), np.int32),
        np.zeros((capacity, batch, targets), np.float32),
        np.ones(capacity, np.float32),
        np.zeros(capacity, bool),
        np.full(capacity, length, np.int32),
        np.ones(capacity, np.float32),
    )


class Streams:
    """`batch_size` contiguous streams, read side by side in chunks of `bptt` (or varied about it:
    see `chunk_edges`); the carry flows from chunk to chunk.
    """

    positions = "all"

    def __init__(
        self, split: Split, config: BatchingConfig, n_step: int, seed: int, rows_B: np.ndarray
    ) -> None:
        start_id = split.tokenizer.vocabulary.start_id
        if start_id is None:
            raise UserError(
                "--batching streams needs a token before the first word: use --eos, or "
                "--batching rows"
            )
        _check_batch(config.batch_size, len(split), "tokens")
        self.ids, self.start_id = split.ids, start_id
        self.batch_size = config.batch_size
        self.rows_B = rows_B
        self.stream_length = math.ceil(len(split) / config.batch_size)
        self.bptt = min(config.bptt, self.stream_length)
        self.varied, self.seed = config.vary_bptt, seed
        self.length = self.bptt
        if self.varied:
            self.length = min(longest_chunk(config.bptt), self.stream_length)
        self.steps_per_epoch = len(self._edges(0)) - 1

    def _edges(self, epoch: int) -> np.ndarray:
        """Where the chunks of an epoch begin, and the end."""
        if self.varied:
            return chunk_edges(self.stream_length, self.bptt, self.seed, epoch)
        return np.append(np.arange(0, self.stream_length, self.bptt), self.stream_length)

    def block(self, first: int, count: int, capacity: int) -> Block:
        block = _empty_block(capacity, len(self.rows_B), self.length, self.length)
        # A token's weight is the same in every chunk, the short last one too.
        block.denominator_K[:] = self.batch_size * self.bptt
        stream_starts_B1 = self.rows_B[:, None] * self.stream_length
        edges, edges_of = np.array([]), -1
        for index in range(count):
            epoch, chunk = divmod(first + index, self.steps_per_epoch)
            if epoch != edges_of:
                edges, edges_of = self._edges(epoch), epoch
            offsets = np.arange(edges[chunk], edges[chunk + 1])
            positions_BT = stream_starts_B1 + offsets
            inside_BT = positions_BT < len(self.ids)
            width = len(offsets)
            targets_BT = self.ids[np.minimum(positions_BT, len(self.ids) - 1)]
            inputs_BT = self.ids[np.clip(positions_BT - 1, 0, len(self.ids) - 1)]
            block.inputs_KBT[index, :, :width] = np.where(
                positions_BT == 0, self.start_id, inputs_BT
            )
            block.targets_KBT[index, :, :width] = targets_BT
            block.weights_KBT[index, :, :width] = inside_BT
            block.reset_K[index] = chunk == 0
            block.length_K[index] = width
            if self.varied:
                block.denominator_K[index] = self.batch_size * width
                block.rate_K[index] = width / self.bptt
        return block


class Windows:
    """Every token once an epoch in shuffled order, each with the `n_step` tokens before it (Bengio
    et al. 2003).
    """

    positions, varied = "last", False

    def __init__(
        self, split: Split, config: BatchingConfig, n_step: int, seed: int, rows_B: np.ndarray
    ) -> None:
        start_id = split.tokenizer.vocabulary.start_id
        if start_id is None:
            raise UserError(
                "--batching windows needs a token before the first word: use --eos, or "
                "--batching rows"
            )
        _check_batch(config.batch_size, len(split), "tokens")
        self.ids, self.start_id, self.seed = split.ids, start_id, seed
        self.batch_size, self.length = config.batch_size, n_step
        self.rows_B = rows_B
        self.steps_per_epoch = math.ceil(len(split) / config.batch_size)

    def block(self, first: int, count: int, capacity: int) -> Block:
        block = _empty_block(capacity, len(self.rows_B), self.length, 1)
        block.denominator_K[:] = self.batch_size
        block.reset_K[:] = True
        for index in range(count):
            epoch, batch = divmod(first + index, self.steps_per_epoch)
            ranks = batch * self.batch_size + self.rows_B
            positions = shuffled(ranks[ranks < len(self.ids)], len(self.ids), self.seed, epoch)
            context_BN = positions[:, None] + np.arange(-self.length, 0)
            rows = len(positions)
            block.inputs_KBT[index, :rows] = np.where(
                context_BN < 0, self.start_id, self.ids[np.maximum(context_BN, 0)]
            )
            block.targets_KBT[index, :rows, 0] = self.ids[positions]
            block.weights_KBT[index, :rows] = 1
        return block


class Rows:
    """Each line on its own, padded at its end; the state starts afresh in each (the lecture's three
    sentences).
    """

    varied = False

    def __init__(
        self, split: Split, config: BatchingConfig, n_step: int, seed: int, rows_B: np.ndarray
    ) -> None:
        self.seed, self.rows_B = seed, rows_B
        self.batch_size = config.batch_size
        inputs, targets = rows_of(split)
        _check_batch(config.batch_size, len(inputs), "lines")
        lengths = np.array([len(row) for row in inputs])
        self.length = int(lengths.max())
        self.inputs_RT = np.zeros((len(inputs), self.length), np.int32)
        self.targets_RT = np.zeros_like(self.inputs_RT)
        for index, row in enumerate(inputs):
            self.inputs_RT[index, : len(row)] = row
            self.targets_RT[index, : len(row)] = targets[index]
        steps_T = np.arange(self.length)
        last = config.positions == "last"
        self.weights_RT = (
            steps_T == lengths[:, None] - 1 if last else steps_T < lengths[:, None]
        ).astype(np.float32)
        # Rows of one length let the model compute the last step's features alone.
        self.positions = "last" if last and lengths.min() == self.length else "all"
        if self.positions == "last":
            self.targets_RT, self.weights_RT = self.targets_RT[:, -1:], self.weights_RT[:, -1:]
        self.steps_per_epoch = math.ceil(len(inputs) / config.batch_size)

    def block(self, first: int, count: int, capacity: int) -> Block:
        rows = len(self.inputs_RT)
        epochs, batches = np.divmod(first + np.arange(count), self.steps_per_epoch)
        ranks_KB = batches[:, None] * self.batch_size + np.arange(self.batch_size)
        picked_KB = np.minimum(ranks_KB, rows - 1)
        if self.steps_per_epoch > 1:
            for epoch in np.unique(epochs):
                picked_KB[epochs == epoch] = shuffled(
                    picked_KB[epochs == epoch], rows, self.seed, int(epoch)
                )
        weights_KBT = self.weights_RT[picked_KB] * (ranks_KB < rows)[:, :, None]
        own_KB = picked_KB[:, self.rows_B]
        targets = self.targets_RT.shape[1]
        block = _empty_block(capacity, len(self.rows_B), self.length, targets)
        block.inputs_KBT[:count] = self.inputs_RT[own_KB]
        block.targets_KBT[:count] = self.targets_RT[own_KB]
        block.weights_KBT[:count] = weights_KBT[:, self.rows_B]
        block.denominator_K[:count] = weights_KBT.sum((1, 2))
        block.reset_K[:] = True
        return block


BATCHINGS: dict[str, type[Batches]] = {"streams": Streams, "windows": Windows, "rows": Rows}


def make_batches(
    split: Split,
    config: BatchingConfig,
    n_step: int = 1,
    seed: int = 0,
    rows_B: np.ndarray | None = None,
) -> Batches:
    """The batches that `config` names; `n_step` is the width of a window. rows_B: which rows of a
    batch are read, where other processes read the others (none: all).

    Raises UserError for an unknown name, a size below 1, and a batch larger than the text.
    """
    kind = choose(BATCHINGS, config.batching, "batching")
    choose(dict.fromkeys(POSITIONS), config.positions, "positions")
    sizes = {"--batch-size": config.batch_size, "--bptt": config.bptt, "--n-step": n_step}
    for flag, value in sizes.items():
        if value < 1:
            raise UserError(f"{flag} {value}: must be at least 1")
    if config.vary_bptt and kind is not Streams:
        raise UserError(f"--vary-bptt needs --batching streams, not {config.batching}")
    rows_B = np.arange(config.batch_size) if rows_B is None else rows_B
    return kind(split, config, n_step, seed, rows_B)  # type: ignore[call-arg]


def _check_batch(size: int, available: int, unit: str) -> None:
    if size > available:
        raise UserError(
            f"--batch-size {size} is larger than the text, which has {available} {unit}: "
            f"use --batch-size {available} or less"
        )


def rows_of(split: Split) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Inputs and targets of each line: the start token goes before it if there is one, else its
    first word is only read.
    """
    start_id = split.tokenizer.vocabulary.start_id
    before = np.array([] if start_id is None else [start_id], np.int32)
    rows = [np.concatenate([before, row]) for row in split.rows()]
    rows = [row for row in rows if len(row) > 1]
    if not rows:
        raise UserError("no line of the text has two words or more: there is nothing to predict")
    return [row[:-1] for row in rows], [row[1:] for row in rows]
