"""The view "vectors": a map of the word vectors of each neural run, and the nearest words."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxlm.inspection.pages.choosing import Both, both, each, or_missing
from jaxlm.inspection.pages.html import packed
from jaxlm.inspection.word_vectors import cosines, map2d, vectors
from jaxlm.runs.run import Run

FREQUENT = 300
"""The map shows the first words of the vocabulary, its most frequent, up to this number."""
OF_TEXT = 250
"""It also shows the words of the text, up to this number."""
NEIGHBOURS = 8
PLANE = 2
"""Vectors of this size are a plane already."""


def collect(runs: Sequence[Run], text: str, options: Any) -> dict[str, Any]:
    """Return the map of each neural run, with the nearest words of each word on it."""

    def of_run(run: Run) -> dict[str, Any]:
        return map_of(run, options.trace(run, text).ids)

    shown, without = each(runs, options.labels, of_run, reason)
    return or_missing(shown, without)


def reason(run: Run) -> Both | None:
    """Return why a run has no word vectors, or None if it has."""
    if run.model.trained_by == "gradient":
        return None
    return both(
        "this run counts n-grams: to it, words are numbers without neighbours. Add a neural run to "
        "see word vectors.",
        "这个模型只数 n-gram：在它看来，词只是编号，没有远近。请加上一个神经网络模型再看词向量。",
    )


def map_of(run: Run, text_ids: np.ndarray) -> dict[str, Any]:
    """Return the map of a run's word vectors.

    Args:
      run: the run of a neural model.
      text_ids: ids of the tokens of the text.
    """
    words, vectors_VD = vectors(run)
    of_text = list(dict.fromkeys(text_ids.tolist()))[:OF_TEXT]
    shown = sorted({*range(min(FREQUENT, len(words))), *of_text})
    points_N2 = map2d(vectors_VD[shown])
    ids, near = nearest_words(vectors_VD, np.array(shown), NEIGHBOURS)
    # Neighbours that are not on the map have numbers after the words of the map.
    place = {index: number for number, index in enumerate(shown)}
    others = [index for index in dict.fromkeys(ids.reshape(-1).tolist()) if index not in place]
    place |= {index: number for number, index in enumerate(others, start=len(shown))}
    numbered = np.array([place[index] for index in ids.reshape(-1).tolist()], np.int32)
    on_text = set(of_text)
    return {
        "words": [words[index] for index in shown],
        "others": [words[index] for index in others],
        "in_text": [int(index in on_text) for index in shown],
        "first": place[_first(run, [index for index in text_ids.tolist() if index in on_text])],
        "xy": packed(points_N2, "float32"),
        "neighbours": packed(numbered.reshape(ids.shape), "int32"),
        "cosines": packed(near, "float32"),
        "plane": vectors_VD.shape[1] == PLANE,
        "size": vectors_VD.shape[1],
        "share": _share(vectors_VD[shown], points_N2),
        "vocabulary": len(words),
        "frequent": min(FREQUENT, len(words)),
    }


def nearest_words(
    vectors_VD: np.ndarray, chosen: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest words of some words: the numbers of `jaxlm.inspection.neighbours`.

    Args:
      vectors_VD: the vector of each word.
      chosen: ids of the words, int [N].
      k: number of neighbours.
    Returns:
      Their ids, int64 [N, k], the nearest first, and the cosines, float64 [N, k]. There are fewer
      than k if the vocabulary has no more.
    """
    near_NV = cosines(vectors_VD[chosen], vectors_VD)
    near_NV[np.arange(len(chosen)), chosen] = -np.inf
    k = min(k, len(vectors_VD) - 1)
    ids = np.empty((len(chosen), k), np.int64)
    for row, near_V in enumerate(near_NV):
        least = np.partition(near_V, len(near_V) - k)[len(near_V) - k] if k else np.inf
        among = np.flatnonzero(near_V >= least)
        ids[row] = among[np.argsort(-near_V[among], kind="stable")[:k]]
    return ids, np.take_along_axis(near_NV, ids, axis=1)


def _first(run: Run, text_ids: Sequence[int]) -> int:
    """Return the word that is selected at first: the most frequent word of letters in the text.

    Args:
      run: the run.
      text_ids: ids of the words of the text that are on the map, each as often as it occurs.
    """
    special = {run.vocabulary.unk_id, run.vocabulary.start_id}
    often = Counter(index for index in text_ids if index not in special)
    named = [index for index in often if run.tokenizer.token_text(index).isalpha()]
    return max(named or often, key=often.__getitem__, default=0)


def _share(vectors_ND: np.ndarray, points_N2: np.ndarray) -> float:
    """Return the share of the vectors' variance that the map keeps."""
    whole = vectors_ND.astype(np.float64).var(axis=0).sum()
    return float(points_N2.var(axis=0).sum() / whole) if whole > 0 else 1.0
