"""The senses of a word: the state of a model right after each occurrence of the word.

A static word vector is one point, whatever the sentence. The hidden features of a recurrent model
after the word depend on the words before it, so that two senses of a word can be two groups.
"""

import functools
import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from jaxlm.errors import UserError
from jaxlm.evaluation.generation import UnknownWords, encode_context
from jaxlm.evaluation.scoring import repeated
from jaxlm.inspection.arguments import check_text, check_texts
from jaxlm.inspection.word_vectors import cosines, vectors
from jaxlm.runs.run import Run
from jaxlm.runs.starts import start_of

if TYPE_CHECKING:
    from rich.table import Table

# Occurrences that are read as one batch, and the tokens of such a batch with its padding.
_BATCH, _TOKENS = 128, 1 << 16
# Letters of these categories form words that blanks separate. Chinese letters have another one.
_SPACED = ("Lu", "Ll", "Lt", "Lm", "Nd")


class Occurrence(NamedTuple):
    """An occurrence of a word.

    Attributes:
      sentence: index of the sentence.
      position: index of the word's last token among the tokens of the sentence.
    """

    sentence: int
    position: int


@dataclass(frozen=True)
class Senses:
    """The vectors of a word in its sentences; see `senses`. N is the number of occurrences.

    Attributes:
      word: the word.
      sentences: the sentences.
      occurrences: where the word is.
      vectors: float32 [N, H], the hidden features after each occurrence, as the output layer reads
        them.
      similarities: float64 [N, N], the cosine of each pair of them.
      static: float32 [D], the word's vector in the table of the model, the same in every sentence.
        For a word of several tokens it is the mean of their vectors.
      labels: the sense of each occurrence; empty if none were given.
    """

    word: str
    sentences: tuple[str, ...]
    occurrences: tuple[Occurrence, ...]
    vectors: np.ndarray
    similarities: np.ndarray
    static: np.ndarray
    labels: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Return the word, the number of its occurrences, and the shapes of the arrays."""
        arrays = ", ".join(
            f"{name} {list(getattr(self, name).shape)}"
            for name in ("vectors", "similarities", "static")
        )
        counts = ", ".join(f"{label} {n}" for label, n in Counter(self.labels).items())
        lines = [
            f"Senses of {self.word!r}: {len(self.occurrences)} occurrences in "
            f"{len(self.sentences)} sentences",
            f"arrays: {arrays}",
            *([f"labels: {counts}"] if counts else []),
        ]
        return "\n  ".join(lines)

    def centroids(self) -> dict[str, np.ndarray]:
        """Return the mean vector of each label, float32 [H].

        Raises:
          UserError: without labels.
        """
        self._check_labels()
        labels = np.array(self.labels)
        return {
            label: self.vectors[labels == label].mean(axis=0)
            for label in dict.fromkeys(self.labels)
        }

    def nearest(self, other: "Senses") -> tuple[str, ...]:
        """Return the label whose centroid here is nearest to each vector of `other`.

        The distance is the Euclidean one.

        Raises:
          UserError: without labels, and for vectors of another size.
        """
        if other.vectors.shape[1:] != self.vectors.shape[1:]:
            raise UserError(
                f"the vectors have {self.vectors.shape[1]} numbers here and "
                f"{other.vectors.shape[1]} there: compare senses of one run"
            )
        names, points_CH = zip(*self.centroids().items(), strict=True)
        distances_NC = np.linalg.norm(other.vectors[:, None] - np.stack(points_CH)[None], axis=2)
        return tuple(names[index] for index in distances_NC.argmin(axis=1))

    def accuracy(self, held_out: "Senses | None" = None) -> float:
        """Return the share of occurrences whose label is the label of the nearest centroid.

        Args:
          held_out: labelled occurrences that the centroids have not seen. None: each occurrence
            here is compared with the centroids of all other occurrences.
        Raises:
          UserError: without labels, or, for None, if a label has one occurrence.
        """
        if held_out is not None:
            held_out._check_labels()
            pairs = zip(self.nearest(held_out), held_out.labels, strict=True)
            return float(np.mean([found == label for found, label in pairs]))
        self._check_labels()
        if any(self.labels.count(label) == 1 for label in set(self.labels)):
            raise UserError(
                f"a sense of {self.word!r} has one occurrence: give two or more, or `held_out`"
            )
        right = [
            self._without(index).nearest(self._only(index))[0] == label
            for index, label in enumerate(self.labels)
        ]
        return float(np.mean(right))

    def mean_similarities(self) -> dict[tuple[str, str], float]:
        """Return the mean cosine of two different occurrences, for each pair of labels.

        Raises:
          UserError: without labels.
        """
        self._check_labels()
        labels, found = np.array(self.labels), {}
        for pair in itertools.combinations_with_replacement(dict.fromkeys(self.labels), 2):
            chosen = np.outer(labels == pair[0], labels == pair[1])
            np.fill_diagonal(chosen, False)
            if chosen.any():
                found[pair] = float(self.similarities[chosen].mean())
        return found

    def table(self) -> "Table":
        """Return the mean cosines within and between the senses as a table."""
        from rich.table import Table

        table = Table(
            title=f"{self.word}: {len(self.occurrences)} occurrences", title_justify="left"
        )
        for header in ("sense", "and sense"):
            table.add_column(header)
        table.add_column("mean cosine in context", justify="right")
        table.add_column("of the static vector", justify="right")
        for (first, second), mean in self.mean_similarities().items():
            table.add_row(first, second, f"{mean:z.3f}", "1.000")
        return table

    def _check_labels(self) -> None:
        """Raise UserError without labels."""
        if not self.labels:
            raise UserError(
                f"the senses of {self.word!r} have no names: give a label for each sentence, "
                f"`labels`"
            )

    def _only(self, index: int) -> "Senses":
        """Return the occurrence `index` alone."""
        return self._chosen(np.array([index]))

    def _without(self, index: int) -> "Senses":
        """Return all occurrences but `index`."""
        return self._chosen(np.delete(np.arange(len(self.occurrences)), index))

    def _chosen(self, indices: np.ndarray) -> "Senses":
        """Return the occurrences `indices`, which have labels."""
        return Senses(
            self.word,
            self.sentences,
            tuple(self.occurrences[index] for index in indices),
            self.vectors[indices],
            self.similarities[np.ix_(indices, indices)],
            self.static,
            tuple(self.labels[index] for index in indices),
        )


def senses(
    run: Run,
    word: str,
    sentences: Iterable[str],
    labels: Iterable[str] | None = None,
    *,
    start: str | None = None,
) -> Senses:
    """Return the vectors that a model has after each occurrence of a word, and the static vector.

    A vector in context is the hidden features right after the word. They depend on the words before
    it alone. A model with a window, such as an NPLM, has the same vector wherever the window has
    the same words. Sentences without the word are left out.

    Example:
      >>> import jaxlm
      >>> text = jaxlm.read_corpus(["a red apple", "apple phones"], fractions=(1.0,))
      >>> model = jaxlm.LSTM(len(text.vocabulary), text.vocabulary.start_id, hidden_size=3)
      >>> run = jaxlm.fit(model, text, batching="rows", batch_size=2, steps=1, quiet=True)
      >>> found = senses(run, "apple", ["a red apple", "apple phones"], ["fruit", "company"])
      >>> [place.position for place in found.occurrences], found.vectors.shape, found.labels
      ([2, 0], (2, 3), ('fruit', 'company'))
      >>> print(found)
      Senses of 'apple': 2 occurrences in 2 sentences
        arrays: vectors [2, 3], similarities [2, 2], static [200]
        labels: fruit 1, company 1

    Args:
      run: the run of a neural model.
      word: the word. A run by characters or pieces of words may read it as several tokens.
      sentences: texts, each read from the start.
      labels: the sense of the word in each sentence; None if they have no names.
      start: the state from which the model reads each sentence; see `jaxlm.next_words`.
    Raises:
      UserError: for a run without word vectors (an n-gram), a word that the run does not know, a
        word that is in no sentence, and another number of labels than sentences.
    """
    vectors_VD = vectors(run)[1]
    check_text(word, "word")
    sentences = check_texts(sentences, "sentences")
    given = None if labels is None else check_texts(labels, "labels")
    if given is not None and len(given) != len(sentences):
        raise UserError(
            f"there are {len(given)} labels and {len(sentences)} sentences: give one for each"
        )
    if not word.strip():
        raise UserError("the word is empty: give a word that is in the sentences")
    if UnknownWords(run).words(word):
        raise UserError(
            f"{word!r} is not in the vocabulary of {run.name}, which reads {run.vocabulary.unk}"
        )
    places = [
        (number, end)
        for number, sentence in enumerate(sentences)
        for end in ends_of(word, sentence, run.tokenizer.splits_at_lines)
    ]
    if not places:
        raise UserError(f"no sentence has the word {word!r}")
    begins = [encode_context(run, sentences[number][:end], start) for number, end in places]
    found = _features_after(run, [begin.ids[0] for begin in begins], start)
    own = run.tokenizer.encode_context(word)
    return Senses(
        word,
        sentences,
        tuple(
            Occurrence(number, len(begin.text_ids) - 1)
            for (number, _), begin in zip(places, begins, strict=True)
        ),
        found,
        cosines(found, found),
        vectors_VD[own].mean(axis=0),
        () if given is None else tuple(given[number] for number, _ in places),
    )


def ends_of(word: str, sentence: str, by_words: bool) -> list[int]:
    """Return where the occurrences of a word end in a sentence, as offsets in characters.

    Args:
      word: the word.
      sentence: the sentence.
      by_words: whether white space alone divides words. Else a letter beside the word is part of a
        longer word, unless its script has no spaces between words.
    """
    ends = []
    for found in re.finditer(re.escape(word), sentence):
        begin, end = found.span()
        sides = ((sentence[:begin][-1:], word[0]), (word[-1], sentence[end:][:1]))
        if not any(left and right and _joined(left, right, by_words) for left, right in sides):
            ends.append(end)
    return ends


def _joined(left: str, right: str, by_words: bool) -> bool:
    """Return whether two neighbouring characters belong to one word; see `ends_of`."""
    if by_words:
        return not (left.isspace() or right.isspace())
    return all(unicodedata.category(letter) in _SPACED for letter in (left, right))


def _features_after(run: Run, contexts: Sequence[np.ndarray], start: str | None) -> np.ndarray:
    """Return the hidden features after the last token of each context, float32 [N, H].

    Contexts are read in batches and padded at their ends: no position depends on later tokens.
    """
    carry = start_of(run, start).carry
    width = 8
    while width < max(map(len, contexts)):
        width *= 2
    found = []
    size = max(1, min(_BATCH, _TOKENS // width))
    for first in range(0, len(contexts), size):
        batch = contexts[first : first + size]
        tokens_BT = np.zeros((len(batch), width), np.int32)
        for row, ids in enumerate(batch):
            tokens_BT[row, : len(ids)] = ids
        hidden_BTH = _features(run.params, tokens_BT, repeated(carry, len(batch)), run.model)
        last = [len(ids) - 1 for ids in batch]
        found.append(np.asarray(hidden_BTH, np.float32)[np.arange(len(batch)), last])
    return np.concatenate(found)


@functools.partial(jax.jit, static_argnames="model")
def _features(params: Any, tokens_BT: Any, carry: Any, model: Any) -> Any:
    hidden_BTH, _ = model.apply({"params": params}, tokens_BT, carry)
    return hidden_BTH
