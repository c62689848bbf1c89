"""Linear interpolation of the probabilities of several models, and the best weights for a text."""

from collections.abc import Sequence

import numpy as np


def interpolated(log_probs_MT: np.ndarray, weights: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return log Σ_m λ_m exp(log_probs_m), float64 [T], for the weights λ [M] of M models."""
    with np.errstate(divide="ignore"):
        return np.logaddexp.reduce(log_probs_MT + np.log(np.asarray(weights))[:, None], axis=0)


def em_weights(log_probs_MT: np.ndarray, tolerance: float = 1e-7) -> np.ndarray:
    """Return the weights λ [M] that maximise the likelihood of the tokens.

        λ_m ← 1/T Σ_t λ_m p_m(t) / Σ_k λ_k p_k(t)

    This is expectation-maximisation. It starts from equal weights. The log-likelihood is concave
    in λ, so the weights converge to the global maximum. The iteration stops when no weight changes
    by more than `tolerance`, or after 10,000 rounds. Tokens that have probability 0 in every model
    are left out. If there are no other tokens, the weights are equal.

    Source: Dempster, Laird & Rubin 1977; Jelinek & Mercer 1980.
    """
    with np.errstate(invalid="ignore"):
        p_MT = np.exp(log_probs_MT - log_probs_MT.max(axis=0))
    # A token with probability 0 in every model gives NaN. It says nothing about the weights. N is
    # the number of the other tokens.
    p_MN = p_MT[:, ~np.isnan(p_MT).any(axis=0)]
    weights_M = np.full(len(p_MN), 1 / len(p_MN))
    for _ in range(10_000 if p_MN.size else 0):
        previous_M, total_N = weights_M, weights_M @ p_MN
        weights_M = weights_M * (p_MN / total_N).mean(axis=1)
        weights_M /= weights_M.sum()
        if np.abs(weights_M - previous_M).max() <= tolerance:
            break
    return weights_M
