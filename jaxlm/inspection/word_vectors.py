"""The static word vectors of a neural model: neighbours, a map in two dimensions, and an export."""

import contextlib
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxlm.data.files import replacing
from jaxlm.errors import SettingError, UserError, nearest, reason
from jaxlm.inspection.arguments import as_folder, check_run, check_text, described
from jaxlm.models.neural import NeuralModel
from jaxlm.ranges import Size, checked
from jaxlm.runs.run import Run

VECTORS, METADATA = "vectors.tsv", "metadata.tsv"
"""The files of `write_projector`, by the names that the embedding projector suggests."""


def vectors(run: Run) -> tuple[list[str], np.ndarray]:
    """Return the tokens of a neural model by id, and the vector of each token.

    The vectors are those that the model reads: the rows of C (Bengio et al. 2003). A rare word of
    an adaptive embedding has its projected vector, so that all vectors have the same size.

    Example:
      >>> import jaxlm
      >>> text = jaxlm.read_corpus("toy", eos=False)
      >>> model = jaxlm.LSTM(len(text.vocabulary), None, embedding_size=2, hidden_size=2)
      >>> run = jaxlm.fit(model, text, batching="rows", batch_size=3, steps=1, quiet=True)
      >>> words, vectors_VD = vectors(run)
      >>> words[:3], vectors_VD.shape
      (['我', '喜欢', '玩具'], (7, 2))

    Args:
      run: the run of a neural model.
    Returns:
      The tokens, as people read them, and float32 [V, D].
    Raises:
      UserError: for a run of another model, such as an n-gram, which has no word vectors.
    """
    check_run(run)
    model = run.model
    if not isinstance(model, NeuralModel):
        raise UserError(
            f"{run.name} has the model {type(model).__name__}: it has no word vectors; neural "
            f"models, such as nplm and lstm, have them"
        )

    def embed(module: Any, tokens_BT: Any) -> Any:
        if getattr(module, "embedding", None) is None:
            raise UserError(f"{run.name} has no module `embedding`, and so no word vectors")
        with module.precision:
            return module.embedding(tokens_BT)

    tokens_1V = jnp.arange(model.vocab_size, dtype=jnp.int32)[None]
    found: Any = model.apply({"params": run.params}, tokens_1V, method=embed)
    words = [run.tokenizer.token_text(index) for index in range(model.vocab_size)]
    return words, np.asarray(found[0], np.float32)


def neighbours(run: Run, word: str, k: int = 10) -> list[tuple[str, float]]:
    """Return the `k` words whose vectors have the largest cosine with the vector of `word`.

    The word itself is left out. The cosine with a vector of length 0 is 0.

    Example:
      >>> import jaxlm
      >>> text = jaxlm.read_corpus("toy", eos=False)
      >>> model = jaxlm.LSTM(len(text.vocabulary), None, embedding_size=2, hidden_size=2)
      >>> run = jaxlm.fit(model, text, batching="rows", batch_size=3, steps=1, quiet=True)
      >>> [len(neighbours(run, "爱", k)) for k in (3, 100)]
      [3, 6]

    Args:
      run: the run of a neural model.
      word: a token of its vocabulary.
      k: number of neighbours.
    Returns:
      Pairs of a word and its cosine, the nearest first.
    Raises:
      UserError: for a run without word vectors, and a word that is no token of the run.
      SettingError: for a `k` below 1.
    """
    k = checked("k", k, Size)
    check_text(word, "word")
    words, vectors_VD = vectors(run)
    if word not in words:
        close = nearest(word, words) or words[:5]
        raise UserError(
            f"{word!r} is not among the {len(words)} tokens of {run.name} "
            f"(nearest: {' '.join(map(repr, close))})"
        )
    index = words.index(word)
    cosines_V = cosines(vectors_VD[index : index + 1], vectors_VD)[0]
    cosines_V[index] = -np.inf
    best = np.argsort(-cosines_V, kind="stable")[: min(k, len(words) - 1)]
    return [(words[other], float(cosines_V[other])) for other in best]


def cosines(a_ND: np.ndarray, b_MD: np.ndarray) -> np.ndarray:
    """Return the cosine of each row of `a` with each row of `b`, float64 [N, M].

    Example:
      >>> cosines(np.array([[1.0, 0.0]]), np.array([[2.0, 0.0], [0.0, 3.0], [0.0, 0.0]])).tolist()
      [[1.0, 0.0, 0.0]]
    """
    return _unit(a_ND) @ _unit(b_MD).T


def _unit(rows_ND: np.ndarray) -> np.ndarray:
    """Return each row divided by its length, float64; a row of zeros stays."""
    rows_ND = np.asarray(rows_ND, np.float64)
    lengths_N1 = np.linalg.norm(rows_ND, axis=1, keepdims=True)
    return rows_ND / np.where(lengths_N1 > 0, lengths_N1, 1)


def map2d(vectors: np.ndarray) -> np.ndarray:
    """Return a point in the plane for each vector: its first two principal components.

    The vectors are centred, and projected to the two directions of their largest variance (a
    singular value decomposition). The sign of a direction is chosen so that its coefficient of the
    largest absolute value is positive. Vectors of two numbers, as in the lecture, are returned as
    they are, neither centred nor rotated: the map is their true plane. Vectors of one number get
    the second coordinate 0.

    Example:
      >>> map2d(np.array([[0.0, 0, -1], [0, 0, 1], [0.2, 0, 0], [-0.2, 0, 0]])).round(3).tolist()
      [[-1.0, 0.0], [1.0, 0.0], [0.0, 0.2], [0.0, -0.2]]

    Args:
      vectors: numbers [V, D].
    Returns:
      float64 [V, 2].
    Raises:
      SettingError: for an array of another shape, or with values that are not finite.

    Source: Pearson 1901; Hotelling 1933.
    """
    try:
        vectors_VD = np.asarray(vectors, np.float64)
    except (TypeError, ValueError):
        why = "must be an array of numbers, such as the second result of jaxlm.inspection.vectors"
        raise SettingError("vectors", described(vectors), why) from None
    if vectors_VD.ndim != 2 or 0 in vectors_VD.shape:
        why = "must have the shape [number of vectors, size of a vector]"
        raise SettingError("vectors", f"of shape {vectors_VD.shape}", why)
    if not np.isfinite(vectors_VD).all():
        raise SettingError("vectors", "with infinity or NaN", "must be finite")
    count, size = vectors_VD.shape
    if size == 2:
        return vectors_VD.copy()
    if size == 1:
        return np.hstack([vectors_VD, np.zeros((count, 1))])
    centred_VD = vectors_VD - vectors_VD.mean(axis=0)
    # The covariance has the same directions, and is small if there are many vectors.
    matrix = centred_VD.T @ centred_VD if count > size else centred_VD
    directions_KD = np.linalg.svd(matrix, full_matrices=False)[2][:2]
    largest_K = np.abs(directions_KD).argmax(axis=1)
    signs_K = np.sign(directions_KD[np.arange(len(directions_KD)), largest_K])
    points_VK = centred_VD @ (directions_KD * signs_K[:, None]).T
    # A single vector has one direction.
    return np.pad(points_VK, ((0, 0), (0, 2 - points_VK.shape[1]))) + 0.0


def write_projector(run: Run, folder: str | Path) -> tuple[Path, Path]:
    """Write the word vectors as TensorFlow's embedding projector reads them.

    `vectors.tsv` has a line of D numbers for each token, separated by tabs. `metadata.tsv` has a
    token in each line, without a header, as the projector demands for one column. The projector
    drops blanks around a token and empty lines, so a blank is written as ␣. Tabs, line breaks and
    other characters that cannot be printed are written as escapes such as \\t, and a backslash as
    two. Files of these names are replaced.

    Args:
      run: the run of a neural model.
      folder: the folder of the files; it is made if it does not exist.
    Returns:
      The paths of the two files.
    Raises:
      UserError: for a run without word vectors, and if the files cannot be written. Then neither
        file is there, or both are as they were.

    Source: https://projector.tensorflow.org
    """
    words, vectors_VD = vectors(run)
    folder = as_folder(folder)
    paths = folder / VECTORS, folder / METADATA
    is_new = False
    try:
        is_new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(paths[0]) as numbers, replacing(paths[1]) as names:
            np.savetxt(numbers, vectors_VD, fmt="%.8g", delimiter="\t", encoding="utf-8")
            names.write_text("".join(f"{escaped(word)}\n" for word in words), encoding="utf-8")
    except OSError as error:
        if is_new:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise UserError(f"cannot write the vectors to {folder}: {reason(error)}") from None
    return paths


def escaped(word: str) -> str:
    r"""Return a token as one cell of a TSV file that no reader trims.

    Example:
      >>> print(escaped("\n"), escaped(" the"), escaped("a\tb"), escaped("苹果"))
      \n ␣the a\tb 苹果
    """
    shown = {" ": "␣", "\\": "\\\\"}
    return "".join(
        shown.get(letter, letter if letter.isprintable() else repr(letter)[1:-1]) for letter in word
    )
