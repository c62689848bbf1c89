"""Three ways to cut token ids into batches: contiguous streams, shuffled windows, and rows.

The batches are a pure function of the step number: `block(first, count, capacity)` returns the
batches of `count` consecutive steps. So the step number is the whole state of the data, and
resuming needs nothing else.

Every token of the split is a target exactly once per epoch, with two exceptions. In rows without a
start token, the first token of a row is no target. With positions "last", only the last token of a
row is a target.

The axes of a batch are K steps, B rows and T time steps. A row of a batch is a stream, a window or
a line of the text.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from jaxlm.data.chunks import chunk_edges, longest_chunk
from jaxlm.data.encoding import Split
from jaxlm.data.shuffling import shuffled
from jaxlm.errors import SettingError, UserError, check_at_least, choose
from jaxlm.ranges import Rate, Size, check_settings


@dataclass(frozen=True)
class BatchingConfig:
    """Settings that cut the text into batches."""

    batching: str = "streams"
    """streams (one long text), windows (n_step words, then the target) or rows (single lines)."""
    batch_size: Size = 20
    """Number of streams, windows or rows in a batch."""
    bptt: Size = 35
    """Streams only: time steps of truncated back-propagation through time."""
    vary_bptt: bool = False
    """Streams only: chunks of random length around bptt, learning rate in proportion (AWD-LSTM)."""
    drop_state: Rate = 0.01
    """Streams only: probability that a stream starts a chunk from the initial state (Melis et al.
    2020), so that the model learns to start anywhere; 0: the state is always carried on."""
    positions: str = "all"
    """Rows only: all (predict at every step) or last (predict only the last word: the lecture)."""


class Block(NamedTuple):
    """The batches of K consecutive steps. Steps from `count` to the capacity K are padding.

    Attributes:
      inputs_KBT: token ids, int32.
      targets_KBT: token ids, int32; T = 1 with positions "last".
      weights_KBT: float32, 1 where the target counts, 0 at padding; T = 1 with positions "last".
      denominator_K: float32, divides the loss that is summed over a step's batch, all processes
        included. In rows it is the number of targets. In windows it is `batch_size`. In streams it
        is `batch_size` · bptt, also for the short last chunk (`vary_bptt`: `batch_size` · length).
      reset_KB: bool, true where a row starts from the initial carry, not from the carry of the
        step before.
      length_K: int32, the number of time steps to read, at most T. The rest is padding.
      rate_K: float32, a factor of the learning rate: length / bptt with `vary_bptt`, else 1.
    """

    inputs_KBT: np.ndarray
    targets_KBT: np.ndarray
    weights_KBT: np.ndarray
    denominator_K: np.ndarray
    reset_KB: np.ndarray
    length_K: np.ndarray
    rate_K: np.ndarray


POSITIONS = ("all", "last")
WINDOWS_AT_A_TIME = 1 << 12
"""Windows that are shuffled and read together; their numbers stay in a CPU's cache."""


class Batches(Protocol):
    """The batches of one split. A block holds only the rows that this process reads."""

    batch_size: int
    """Rows in the whole batch, over all processes."""
    length: int
    """T of the inputs."""
    positions: str
    """all: targets as long as the inputs; last: one target (T = 1) for the last input of a row."""
    varied: bool
    """Whether `length_K` and `rate_K` vary from step to step."""
    steps_per_epoch: int

    def block(self, first: int, count: int, capacity: int) -> Block:
        """Return the batches of steps first ... first + count - 1, padded to `capacity` steps."""


def _empty_block(capacity: int, batch: int, length: int, targets: int) -> Block:
    """Return a block of padding with K = capacity and B = batch.

    The inputs have T = length, the targets T = targets.
    """
    return Block(
        np.zeros((capacity, batch, length), np.int32),
        np.zeros((capacity, batch, targets), np.int32),
        np.zeros((capacity, batch, targets), np.float32),
        np.ones(capacity, np.float32),
        np.zeros((capacity, batch), bool),
        np.full(capacity, length, np.int32),
        np.ones(capacity, np.float32),
    )


class Streams:
    """The text as `batch_size` contiguous streams, read in parallel in chunks of `bptt` tokens.

    The carry flows from chunk to chunk. With probability `drop_state`, independently for each
    stream and chunk, a stream starts from the initial carry instead. A model that always gets a
    carry has hardly met the initial carry, from which users ask it. With `vary_bptt` chunks have a
    random length around `bptt` (`chunk_edges`).

    Source: the training code of Melis, Kočiský & Blunsom, "Mogrifier LSTM", 2020, where the setting
    is called drop_state_probability and is 0.01.
    """

    positions = "all"

    def __init__(
        self, split: Split, config: BatchingConfig, n_step: int, seed: int, rows_B: np.ndarray
    ) -> None:
        start_id = split.tokenizer.vocabulary.start_id
        if start_id is None:
            raise no_start_error("streams")
        _check_batch(config.batch_size, len(split), "tokens")
        self.ids, self.start_id = split.ids, start_id
        self.batch_size = config.batch_size
        self.rows_B = rows_B
        self.stream_length = math.ceil(len(split) / config.batch_size)
        self.bptt = min(config.bptt, self.stream_length)
        self.varied, self.seed = config.vary_bptt, seed
        self.drop_state = config.drop_state
        self.length = self.bptt
        if self.varied:
            self.length = min(longest_chunk(config.bptt), self.stream_length)
        self.steps_per_epoch = len(self._edges(0)) - 1

    def _edges(self, epoch: int) -> np.ndarray:
        """Return the first position of each chunk of an epoch, and the end of the stream."""
        if self.varied:
            return chunk_edges(self.stream_length, self.bptt, self.seed, epoch)
        return np.append(np.arange(0, self.stream_length, self.bptt), self.stream_length)

    def _dropped(self, step: int) -> np.ndarray:
        """Return whether each row that this process reads drops its state before a step, bool [B].

        The result depends on the seed, the step and the row, not on the number of processes.
        """
        if not self.drop_state:
            return np.zeros(len(self.rows_B), bool)
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, step])))
        return (random.random(self.batch_size) < self.drop_state)[self.rows_B]

    def block(self, first: int, count: int, capacity: int) -> Block:
        block = _empty_block(capacity, len(self.rows_B), self.length, self.length)
        # Every token has the same weight in the loss, also in the short last chunk.
        block.denominator_K[:] = self.batch_size * self.bptt
        stream_starts_B1 = self.rows_B[:, None] * self.stream_length
        edges, edges_epoch = np.array([]), -1
        for index in range(count):
            epoch, chunk = divmod(first + index, self.steps_per_epoch)
            if epoch != edges_epoch:
                edges, edges_epoch = self._edges(epoch), epoch
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
            block.reset_KB[index] = chunk == 0 or self._dropped(first + index)
            block.length_K[index] = width
            if self.varied:
                block.denominator_K[index] = self.batch_size * width
                block.rate_K[index] = width / self.bptt
        return block


class Windows:
    """Every token once per epoch in shuffled order, with the `n_step` tokens before it as input.

    Source: Bengio et al. 2003.
    """

    positions, varied = "last", False

    def __init__(
        self, split: Split, config: BatchingConfig, n_step: int, seed: int, rows_B: np.ndarray
    ) -> None:
        start_id = split.tokenizer.vocabulary.start_id
        if start_id is None:
            raise no_start_error("windows")
        _check_batch(config.batch_size, len(split), "tokens")
        self.ids, self.start_id, self.seed = split.ids, start_id, seed
        self.batch_size, self.length = config.batch_size, n_step
        self.rows_B = rows_B
        self.steps_per_epoch = math.ceil(len(split) / config.batch_size)

    def block(self, first: int, count: int, capacity: int) -> Block:
        block = _empty_block(capacity, len(self.rows_B), self.length, 1)
        block.denominator_K[:] = self.batch_size
        block.reset_KB[:] = True
        # Several steps of one epoch at a time, because NumPy's calls take time.
        group = max(1, WINDOWS_AT_A_TIME // max(1, len(self.rows_B)))
        index = 0
        while index < count:
            epoch, batch = divmod(first + index, self.steps_per_epoch)
            steps = min(group, count - index, self.steps_per_epoch - batch)
            batches_S1 = np.arange(batch, batch + steps)[:, None]
            ranks_SB = batches_S1 * self.batch_size + self.rows_B
            inside_SB = ranks_SB < len(self.ids)
            positions = shuffled(ranks_SB[inside_SB], len(self.ids), self.seed, epoch)
            # The inputs, and the target at the end.
            places = positions[:, None] + np.arange(-self.length, 1)
            tokens = np.where(places < 0, self.start_id, self.ids[np.maximum(places, 0)])
            now = slice(index, index + steps)
            block.inputs_KBT[now][inside_SB] = tokens[:, :-1]
            block.targets_KBT[now][inside_SB] = tokens[:, -1:]
            block.weights_KBT[now][inside_SB] = 1
            index += steps
        return block


MOST_PADDED = 2**30
"""Largest number of tokens of all rows, each padded to the longest; each needs 12 bytes."""


class Rows:
    """Each line as a row of its own, padded at its end and read from the initial carry."""

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
        if len(inputs) * self.length > MOST_PADDED:
            why = (
                f"pads {len(inputs):,} lines to the longest line, which has {self.length:,} "
                "tokens, and does not fit into memory: use `batching` streams or windows, or "
                "divide the long lines"
            )
            raise SettingError("batching", "rows", why)
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
        # If all rows have the same length, the model computes outputs only for the last time step.
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
        block.reset_KB[:] = True
        return block


BATCHINGS: dict[str, type[Batches]] = {"streams": Streams, "windows": Windows, "rows": Rows}
BELONGS: dict[str, tuple[str, ...]] = {"bptt": ("streams", "windows"), "drop_state": ("streams",)}
"""Settings that have an effect with some values of `batching`: these values."""


def make_batches(
    split: Split,
    config: BatchingConfig,
    n_step: int = 1,
    seed: int = 0,
    rows_B: np.ndarray | None = None,
) -> Batches:
    """Return the batches of a split.

    Args:
      split: the token ids.
      config: the way to cut them into batches.
      n_step: number of inputs in a window.
      seed: seed of the order of windows and rows, and of the lengths of varied chunks.
      rows_B: indices of the rows of each batch that this process reads, int (None: all rows).
    Raises:
      SettingError: for a size below 1, a batch larger than the text, and streams or windows of a
        vocabulary without a start token.
      UserError: for an unknown `batching` or `positions`, `vary_bptt` without streams, and rows of
        a text in which no line has a target.

    Example:
      >>> from jaxlm.data.text import read_corpus
      >>> split = read_corpus("toy", eos=False).train
      >>> batches = make_batches(split, BatchingConfig(batching="rows", batch_size=3))
      >>> block = batches.block(first=0, count=1, capacity=1)
      >>> block.inputs_KBT.shape, block.targets_KBT.tolist()
      ((1, 3, 2), [[[1, 2], [3, 4], [5, 6]]])
    """
    kind = choose(BATCHINGS, config.batching, "batching")
    choose(dict.fromkeys(POSITIONS), config.positions, "positions")
    check_settings(config)
    check_at_least("n_step", n_step, 1)
    if config.vary_bptt and kind is not Streams:
        raise UserError(f"`vary_bptt` needs `batching` streams, not {config.batching}")
    rows_B = np.arange(config.batch_size) if rows_B is None else rows_B
    return kind(split, config, n_step, seed, rows_B)  # type: ignore[call-arg]


def _check_batch(size: int, available: int, unit: str) -> None:
    """Raise SettingError if the text has fewer than `size` units."""
    if size > available:
        raise SettingError(
            "batch_size",
            size,
            f"is larger than the text, which has {available} {unit}: use `batch_size` {available} "
            f"or less",
        )


def no_start_error(batching: str) -> SettingError:
    """Return the error for a vocabulary without a start token."""
    return SettingError(
        "batching",
        batching,
        "needs a token before the first word: use `eos`, or `batching` rows",
    )


def rows_of(split: Split) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the inputs of each line, and the targets of each line, as lists of int32 arrays.

    The inputs and the targets of a line have the same length. The start token precedes each line.
    Without a start token, the first word of a line is no target, and lines of one word are left
    out.

    Raises:
      UserError: if no line has a target.
    """
    start_id = split.tokenizer.vocabulary.start_id
    before = np.array([] if start_id is None else [start_id], np.int32)
    rows = [np.concatenate([before, row]) for row in split.rows()]
    rows = [row for row in rows if len(row) > 1]
    if not rows:
        raise UserError("no line of the text has two words or more, so there is nothing to predict")
    return [row[:-1] for row in rows], [row[1:] for row in rows]
