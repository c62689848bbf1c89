"""Texts that several tests train on."""

import numpy as np


def write_many_words(path):
    """Write a text with a vocabulary of 10,000, <eos> included.

    With this vocabulary the scorer reads a validation text in several calls.
    """
    random = np.random.default_rng(0)
    words = np.concatenate([random.permutation(9999) for _ in range(6)]).reshape(-1, 9)
    path.write_text("\n".join(" ".join(f"w{word}" for word in line) for line in words))
    return path
