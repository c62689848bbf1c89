"""Chunks of varied length fill the stream, and their lengths are distributed as published."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_batching import assert_same, batches_of, epoch, numbered

from jaxlm.data.chunks import chunk_edges, longest_chunk
from jaxlm.errors import UserError


@settings(deadline=None)
@given(length=st.integers(1, 500), bptt=st.integers(1, 80), number=st.integers(0, 3))
def test_varied_chunks_fill_the_stream(length, bptt, number):
    edges = chunk_edges(length, bptt, 7, number)
    assert edges[0] == 0 and edges[-1] == length
    widths = np.diff(edges)
    assert widths.min() >= 1 and widths.max() <= longest_chunk(bptt)
    assert len(edges) == len(chunk_edges(length, bptt, 7, number + 1))


def test_lengths_of_chunks_are_distributed_as_published():
    widths = np.concatenate([np.diff(chunk_edges(46_480, 70, 0, n)) for n in range(40)])
    halved = widths < 50
    assert abs(halved.mean() - 0.05) < 0.01
    assert abs(np.median(widths) - 70) <= 1 and abs(widths[halved].mean() - 35) < 1
    # A normal distribution with standard deviation 5, truncated at two deviations above the mean.
    assert abs(np.std(widths[~halved]) - 5) < 0.5


def test_epochs_with_varied_chunks_differ_and_read_every_token_once():
    batches = batches_of(numbered(400), "streams", batch_size=3, bptt=11, vary_bptt=True)
    blocks = [epoch(batches, number) for number in range(2)]
    for block in blocks:
        counted = block.weights_KBT > 0
        assert sorted(block.targets_KBT[counted]) == list(range(400))
        assert (block.length_K <= batches.length).all()
        np.testing.assert_allclose(block.rate_K, block.length_K / 11)
        np.testing.assert_array_equal(block.denominator_K, 3 * block.length_K)
    assert (blocks[0].length_K != blocks[1].length_K).any()
    assert_same(epoch(batches, 1), blocks[1])


def test_only_streams_have_chunks_of_varied_length():
    with pytest.raises(UserError, match="`vary_bptt` needs `batching` streams, not windows"):
        batches_of(numbered(9), "windows", batch_size=2, vary_bptt=True)
