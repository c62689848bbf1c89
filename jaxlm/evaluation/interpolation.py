"""Linear interpolation of several models' probabilities, and the weights that suit a text."""

from collections.abc import Sequence

import numpy as np


def interpolated(log_probs_MT: np.ndarray, weights: Sequence[float] | np.ndarray) -> np.ndarray:
    """log Σ_m λ_m exp(log_probs_m), float64 [T]."""
    with np.errstate(divide="ignore"):
        return np.logaddexp.reduce(log_probs_MT + np.log(np.asarray(weights))[:, None], axis=0)


def em_weights(log_probs_MT: np.ndarray, tolerance: float = 1e-7) -> np.ndarray:
    """The weights λ [M] under which the tokens are likeliest, by expectation-maximisation.

        λ_m ← 1/T Σ_t λ_m p_m(t) / Σ_k λ_k p_k(t)

    The likelihood is concave in λ, so from equal weights it climbs to the one maximum; it stops
    when no weight moves by more than `tolerance`.

    Source: Dempster, Laird & Rubin 1977; Jelinek & Mercer 1980.
    """
    with np.errstate(invalid="ignore"):
        p_MT = np.exp(log_probs_MT - log_probs_MT.max(axis=0))
    # A token that every component rules out says nothing about the weights.
    p_MT = p_MT[:, ~np.isnan(p_MT).any(axis=0)]
    weights = np.full(len(p_MT), 1 / len(p_MT))
    for _ in range(10_000):
        before, total_T = weights, weights @ p_MT
        weights = weights * (p_MT / total_T).mean(axis=1)
        weights /= weights.sum()
        if np.abs(weights - before).max() <= tolerance:
            break
    return weights
