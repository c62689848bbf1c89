"""Where the chunks of a stream begin when their length is varied."""

import math

import numpy as np


def longest_chunk(bptt: int) -> int:
    """Steps in a chunk of varied length, at most: two standard deviations above the mean."""
    return bptt + 10


def chunk_edges(length: int, bptt: int, seed: int, epoch: int) -> np.ndarray:
    """A stream of `length` tokens in chunks of varied length, by (seed, epoch): where each begins,
    and the end. A pure function, of as many chunks in every epoch.

    A chunk's length is drawn from N(bptt, 5), or once in twenty from N(bptt / 2, 5), and held
    between 1 and `longest_chunk`; then all are scaled by little, so that they fill the stream.

    Source: Merity, Keskar & Socher, "Regularizing and optimizing LSTM language models", 2018,
    section 4.1.
    """
    longest = min(longest_chunk(bptt), length)
    # The mean of such draws is 0.975 bptt.
    count = min(length, max(math.ceil(length / (0.975 * bptt)), math.ceil(length / longest)))
    random = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch, bptt])))
    means = np.where(random.random(count) < 0.95, bptt, bptt / 2)
    drawn = np.clip(random.normal(means, 5.0), 1, longest)
    edges = np.rint(np.append(0, np.cumsum(drawn)) * (length / drawn.sum())).astype(np.int64)
    widths = np.clip(np.diff(edges), 1, longest)
    # Rounding and scaling may have left some too long or too short: the others make up for it.
    while surplus := int(widths.sum()) - length:
        room = widths > 1 if surplus > 0 else widths < longest
        widths[np.flatnonzero(room)[: abs(surplus)]] -= np.sign(surplus)
    return np.append(0, np.cumsum(widths))
