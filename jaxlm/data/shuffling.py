"""A permutation of any size, of which any part can be had."""

import math

import numpy as np


def shuffled(ranks: np.ndarray, size: int, seed: int, epoch: int) -> np.ndarray:
    """Where each rank goes under a pseudo-random permutation of range(size) chosen by (seed,
    epoch).

    A four-round Feistel network on the bits of the rank (Luby & Rackoff 1988), walked until the
    value falls inside the range (Black & Rogaway 2002): any part of the permutation can be had
    without storing it, so a text of any size can be shuffled.
    """
    half = max(1, math.ceil(math.log2(max(size, 2)) / 2))
    mask = np.uint64((1 << half) - 1)
    round_keys = np.random.SeedSequence([seed, epoch]).generate_state(4, np.uint64)

    def permute(value: np.ndarray) -> np.ndarray:
        left, right = value >> np.uint64(half), value & mask
        for round_key in round_keys:
            # SplitMix64's mixing, as the round function.
            mixed = (right ^ round_key) * np.uint64(0x9E3779B97F4A7C15)
            mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
            left, right = right, left ^ ((mixed ^ (mixed >> np.uint64(32))) & mask)
        return (left << np.uint64(half)) | right

    result = permute(ranks.astype(np.uint64))
    while (outside := result >= size).any():
        result[outside] = permute(result[outside])
    return result.astype(np.int64)
