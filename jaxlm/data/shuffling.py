"""A pseudo-random permutation of any size, computed element by element."""

import math

import numpy as np


def shuffled(ranks: np.ndarray, size: int, seed: int, epoch: int) -> np.ndarray:
    """Return the images of `ranks` under a pseudo-random permutation of range(size).

    The permutation is a four-round Feistel network on the bits of the rank (Luby & Rackoff 1988).
    The network is applied again until the value falls inside the range (Black & Rogaway 2002). Any
    part of the permutation is computed without storing the rest, so a text of any size can be
    shuffled.

    Args:
      ranks: integers from 0 to size - 1, an array of any shape.
      size: number of elements.
      seed: selects the permutation, together with `epoch`.
      epoch: number of the epoch.
    Returns:
      int64 array of the shape of `ranks`.

    Example:
      >>> sorted(shuffled(np.arange(5), size=5, seed=0, epoch=0).tolist())
      [0, 1, 2, 3, 4]
    """
    half = max(1, math.ceil(math.log2(max(size, 2)) / 2))
    mask = np.uint64((1 << half) - 1)
    round_keys = np.random.SeedSequence([seed, epoch]).generate_state(4, np.uint64)

    def permute(value: np.ndarray) -> np.ndarray:
        left, right = value >> np.uint64(half), value & mask
        for round_key in round_keys:
            # The round function is the mixing function of SplitMix64.
            mixed = (right ^ round_key) * np.uint64(0x9E3779B97F4A7C15)
            mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
            left, right = right, left ^ ((mixed ^ (mixed >> np.uint64(32))) & mask)
        return (left << np.uint64(half)) | right

    result = permute(ranks.astype(np.uint64))
    while (outside := result >= size).any():
        result[outside] = permute(result[outside])
    return result.astype(np.int64)
