"""Chunks of random length for truncated back-propagation through time."""

import math

import numpy as np


def longest_chunk(bptt: int) -> int:
    """Return the largest length of a chunk: two standard deviations above the mean `bptt`."""
    return bptt + 10


def chunk_edges(length: int, bptt: int, seed: int, epoch: int) -> np.ndarray:
    """Return the first position of each chunk of a stream, and the end of the stream, int64.

    The length of a chunk is drawn from N(bptt, 5) with probability 0.95, else from N(bptt / 2, 5),
    and clipped to 1 ... `longest_chunk`. Then all lengths are scaled slightly, so that the chunks
    fill the stream. The result depends only on the arguments, and every epoch has the same number
    of chunks.

    Args:
      length: number of tokens in the stream.
      bptt: mean length of a chunk.
      seed: seed of the random lengths.
      epoch: number of the epoch; each epoch has its own lengths.

    Example:
      >>> edges = chunk_edges(length=100, bptt=30, seed=0, epoch=0)
      >>> len(edges) - 1, int(edges[0]), int(edges[-1])
      (4, 0, 100)

    Source: Merity, Keskar & Socher, "Regularizing and optimizing LSTM language models", 2018,
    section 4.1.
    """
    longest = min(longest_chunk(bptt), length)
    # The mean of a drawn length is 0.975 bptt.
    count = min(length, max(math.ceil(length / (0.975 * bptt)), math.ceil(length / longest)))
    random = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch, bptt])))
    means = np.where(random.random(count) < 0.95, bptt, bptt / 2)
    drawn = np.clip(random.normal(means, 5.0), 1, longest)
    edges = np.rint(np.append(0, np.cumsum(drawn)) * (length / drawn.sum())).astype(np.int64)
    widths = np.clip(np.diff(edges), 1, longest)
    # Clipping and rounding may change the total. Other chunks get longer or shorter to restore it.
    while surplus := int(widths.sum()) - length:
        room = widths > 1 if surplus > 0 else widths < longest
        widths[np.flatnonzero(room)[: abs(surplus)]] -= np.sign(surplus)
    return np.append(0, np.cumsum(widths))
