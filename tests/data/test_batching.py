"""Batches: each token is a target once per epoch, and a batch depends only on the step number."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_batches import POEM, batches_of, epoch, numbered, split_of

from jaxlm.data.batching import BATCHINGS, BatchingConfig, make_batches
from jaxlm.data.tokenizers import TOKENIZERS


def assert_same(block, other):
    for name, array in block._asdict().items():
        np.testing.assert_array_equal(array, getattr(other, name), err_msg=name)


# Streams and windows of a text whose tokens are their positions


@settings(deadline=None)
@given(
    size=st.integers(1, 60),
    batch=st.integers(1, 12),
    bptt=st.integers(1, 70),
    drop_state=st.sampled_from([0.0, 0.5]),
    dtype=st.sampled_from([np.int32, np.uint16]),
)
def test_streams_read_every_token_once_in_order(size, batch, bptt, drop_state, dtype):
    batch = min(batch, size)
    config = {"batch_size": batch, "bptt": bptt, "drop_state": drop_state}
    batches = batches_of(numbered(size, dtype), "streams", **config)
    stream = math.ceil(size / batch)
    assert batches.length == min(bptt, stream)
    for number in (0, 1):
        inputs, targets, weights, denominator, reset, length, rate = epoch(batches, number)
        assert (rate == 1).all() and (length <= batches.length).all()
        assert inputs.shape == targets.shape == weights.shape
        assert inputs.shape == (batches.steps_per_epoch, batch, batches.length)
        counted = weights == 1
        assert np.all(counted | (weights == 0))
        # Every token is a target once, and its input is the token before it, also at the edges of
        # chunks and streams.
        assert sorted(targets[counted]) == list(range(size))
        before = np.where(targets == 0, size, targets - 1)
        np.testing.assert_array_equal(inputs[counted], before[counted])
        # The chunks of row b, one after another, are stream b.
        for row in range(batch):
            read = targets[:, row][counted[:, row]]
            assert read.tolist() == list(range(size))[row * stream : (row + 1) * stream]
        # Every row at the start of an epoch; with `drop_state`, any row at a later chunk too.
        assert reset[0].all()
        assert drop_state or not reset[1:].any()
        assert np.all(denominator == batch * batches.length)


def test_streams_drop_their_states_at_random():
    config = {"batch_size": 50, "bptt": 5, "drop_state": 0.02}
    batches = batches_of(numbered(50_000), "streams", seed=3, **config)
    reset_KB = batches.block(0, 200, 200).reset_KB
    assert reset_KB[0].all()
    # 9,950 draws: four standard deviations of the share are 0.0056.
    assert abs(reset_KB[1:].mean() - 0.02) < 0.0056
    # Rows drop their states independently.
    assert 0 < reset_KB[1:].sum(1).max() < 50
    # The draws depend on the seed and the step, not on the grouping of steps into blocks.
    np.testing.assert_array_equal(batches.block(70, 9, 9).reset_KB, reset_KB[70:79])
    other = batches_of(numbered(50_000), "streams", seed=4, **config).block(0, 200, 200).reset_KB
    assert (other != reset_KB).any()
    # A process that reads some rows drops the states of the same rows.
    rows_B = np.array([4, 9])
    some = make_batches(numbered(50_000), BatchingConfig(**config), seed=3, rows_B=rows_B)
    np.testing.assert_array_equal(some.block(0, 200, 200).reset_KB, reset_KB[:, rows_B])


@settings(deadline=None)
@given(
    size=st.integers(1, 60),
    batch=st.integers(1, 12),
    n_step=st.integers(1, 8),
    dtype=st.sampled_from([np.int32, np.uint16]),
)
def test_windows_predict_every_token_once_from_its_context(size, batch, n_step, dtype):
    batch = min(batch, size)
    batches = batches_of(numbered(size, dtype), "windows", n_step, batch_size=batch)
    assert batches.length == n_step
    inputs, targets, weights, denominator, reset, *_ = epoch(batches)
    assert inputs.shape == (batches.steps_per_epoch, batch, n_step)
    assert targets.shape == weights.shape == (batches.steps_per_epoch, batch, 1)
    counted = weights[..., 0] == 1
    assert sorted(targets[counted][:, 0]) == list(range(size))
    context = targets[counted] + np.arange(-n_step, 0)
    np.testing.assert_array_equal(inputs[counted], np.where(context < 0, size, context))
    assert not inputs[~counted].any()
    assert weights.sum() == size
    # Only the last batch of an epoch may be short.
    assert weights[:-1].all()
    assert reset.all()
    assert np.all(denominator == batch)


def test_the_order_of_windows_depends_on_epoch_and_seed():
    def order(seed, number):
        batches = batches_of(numbered(200), "windows", seed=seed, batch_size=20)
        return epoch(batches, number).targets_KBT.ravel().tolist()

    orders = [order(seed, number) for seed in (0, 1) for number in (0, 1, 2)]
    assert all(sorted(found) == list(range(200)) for found in orders)
    assert len({tuple(found) for found in [*orders, list(range(200))]}) == len(orders) + 1
    assert order(0, 1) == orders[1]


# Rows


def read_rows(block):
    """Return (inputs, targets of weight 1) of each row of the batches; leave out padding rows."""
    rows, arrays = [], (array.reshape(-1, array.shape[-1]) for array in block[:3])
    for inputs, targets, weights in zip(*arrays, strict=True):
        if weights.any():
            rows.append((inputs.tolist(), targets[weights == 1].tolist()))
    return rows


def expected_rows(split, length, last):
    """Return the sorted result of `read_rows`, computed from the lines of the split."""
    start_id = split.tokenizer.vocabulary.start_id
    rows = []
    for line in split.rows():
        ids = [*([] if start_id is None else [start_id]), *line.tolist()]
        if len(ids) > 1:
            padding = [0] * (length - len(ids) + 1)
            rows.append((ids[:-1] + padding, ids[-1:] if last else ids[1:]))
    return sorted(rows)


@pytest.mark.parametrize("positions", ["all", "last"])
@pytest.mark.parametrize("batch_size", [1, 2, 4])
@pytest.mark.parametrize(
    ("text", "name", "config"),
    [
        (POEM, "words", {}),
        (POEM, "words", {"eos": False}),  # a line of a single word has no target
        ("a b\n\n\nc d\ne f\n \ng h\ni j", "words", {}),  # blank lines are not rows
        (POEM, "chars", {}),
        ("我 喜欢\n玩具\na\nb\nc", "bytes", {}),
    ],
)
def test_rows_are_the_lines_of_the_text(text, name, config, batch_size, positions):
    split = split_of(text, name, **config)
    batches = batches_of(split, "rows", batch_size=batch_size, positions=positions)
    last = positions == "last"
    orders = []
    for number in range(4):
        block = epoch(batches, number)
        rows = read_rows(block)
        assert sorted(rows) == expected_rows(split, batches.length, last)
        np.testing.assert_array_equal(block.denominator_K, block.weights_KBT.sum((1, 2)))
        assert block.denominator_K.min() >= 1
        assert block.reset_KB.all()
        orders.append(rows)
    if batches.steps_per_epoch > 1:
        assert any(order != orders[0] for order in orders)
    else:
        assert all(order == orders[0] for order in orders)


def test_rows_count_every_token_once():
    split = split_of(POEM)
    for batch_size in (1, 2, 3, 5):
        block = epoch(batches_of(split, "rows", batch_size=batch_size))
        assert sorted(block.targets_KBT[block.weights_KBT == 1]) == sorted(split.ids)


def test_rows_of_the_lecture():
    """The batch has three sentences of three words: two words are inputs, the last is a target."""
    split = split_of("我 喜欢 玩具\n我 爱 爸爸\n我 讨厌 挨打\n", eos=False)
    batches = batches_of(split, "rows", batch_size=3, positions="last")
    assert (batches.positions, batches.length, batches.steps_per_epoch) == ("last", 2, 1)
    inputs, targets, weights, denominator, *_ = batches.block(7, 1, 1)
    assert inputs.tolist() == [[[0, 1], [0, 3], [0, 5]]]
    assert targets.tolist() == [[[2], [4], [6]]]
    assert weights.tolist() == [[[1], [1], [1]]]
    assert denominator.tolist() == [3]


@pytest.mark.parametrize(
    ("text", "positions", "expected", "width"),
    [
        ("a b\nc d\n", "last", "last", 1),
        ("a b\nc d\n", "all", "all", 3),
        ("a b\nc\n", "last", "all", 3),  # rows of unequal length end at different steps
    ],
)
def test_targets_are_the_last_tokens_only_if_rows_have_equal_length(
    text, positions, expected, width
):
    batches = batches_of(split_of(text), "rows", batch_size=2, positions=positions)
    assert batches.positions == expected
    block = batches.block(0, 1, 1)
    assert block.targets_KBT.shape == block.weights_KBT.shape == (1, 2, width)
    assert block.inputs_KBT.shape == (1, 2, 3)


# Streams, windows and rows


@pytest.mark.parametrize("batching", BATCHINGS)
@settings(deadline=None, max_examples=50)
@given(
    first=st.integers(0, 40),
    count=st.integers(0, 20),
    spare=st.integers(0, 5),
    cut=st.integers(0, 20),
)
def test_a_block_depends_only_on_the_step_number(batching, first, count, spare, cut):
    split = split_of(POEM)
    batches = batches_of(split, batching, n_step=3, seed=5, batch_size=2, bptt=4)
    capacity = max(1, count + spare)
    block = batches.block(first, count, capacity)
    types = [array.dtype.str[1:] for array in block]
    assert types == ["i4", "i4", "f4", "f4", "b1", "i4", "f4"]
    assert all(len(array) == capacity for array in block)
    # The same steps in two blocks, and in blocks of a single step from new batches.
    cut = min(cut, count)
    parts = [batches.block(first, cut, count), batches.block(first + cut, count - cut, count)]
    again = batches_of(split, batching, n_step=3, seed=5, batch_size=2, bptt=4)
    for index in range(count):
        single = again.block(first + index, 1, 1)
        part = parts[index >= cut]
        for in_whole, in_part, expected in zip(block, part, single, strict=True):
            np.testing.assert_array_equal(in_whole[index], expected[0])
            np.testing.assert_array_equal(in_part[index - cut * (index >= cut)], expected[0])
    for array in (block.inputs_KBT, block.targets_KBT, block.weights_KBT):
        assert not array[count:].any()
    # The denominator of an empty step is not 0.
    assert np.all(block.denominator_K > 0)


@pytest.mark.parametrize("batching", BATCHINGS)
def test_memory_map_gives_the_same_batches(batching, tmp_path):
    splits = [split_of(POEM * 9), split_of(POEM * 9, folder=tmp_path)]
    assert isinstance(splits[1].ids, np.memmap)
    assert splits[1].ids.dtype == np.uint16
    in_memory, on_disk = (
        batches_of(split, batching, n_step=4, batch_size=7, bptt=5).block(3, 40, 41)
        for split in splits
    )
    assert_same(in_memory, on_disk)


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("batching", BATCHINGS)
def test_the_first_token_is_predicted_from_the_start_token(batching, name):
    split = split_of("xyz w\n" * 3, name, vocab_size=300)
    block = epoch(batches_of(split, batching, n_step=2, batch_size=1, bptt=4))
    start_id = split.tokenizer.vocabulary.start_id
    first = split.ids[0]
    if batching == "windows":
        rows = np.flatnonzero((block.inputs_KBT[:, 0] == start_id).all(-1))
        assert first in block.targets_KBT[rows, 0, 0]
    else:
        assert block.inputs_KBT[0, 0, 0] == start_id
        assert block.targets_KBT[0, 0, 0] == first
