"""The view "senses": a word's one static vector, and its vector after each of its occurrences."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxlm.data.apple import LINES, SENSES
from jaxlm.data.apple import WORDS as TWO_SENSES
from jaxlm.errors import UserError
from jaxlm.inspection.pages import view_vectors
from jaxlm.inspection.pages.choosing import Both, both, each, missing, or_missing
from jaxlm.inspection.pages.html import packed
from jaxlm.inspection.pieces import readable
from jaxlm.inspection.traces import HIDDEN
from jaxlm.inspection.word_senses import ends_of
from jaxlm.inspection.word_vectors import cosines, map2d, vectors
from jaxlm.runs.run import Run

WORDS = 6
"""The view offers the words that occur most often, up to this number."""
OCCURRENCES = 24
FEWEST = 2
BEFORE, AFTER = 48, 32
"""Characters of a sentence that are shown before and after the word."""
STATIC_NUMBERS = 3
"""Numbers of the static vector that the page shows."""
COMMON = 60
"""Words among the first of a vocabulary are too common to have senses, such as "the"."""
SENSE_OF_LINE = {line.text: line.sense for line in LINES}
"""The senses that the lines of the corpus `apple` have."""
WORDS_WITH_SENSES = tuple(TWO_SENSES.values())
# A word of letters that blanks separate; or two Chinese characters.
_SPACED = re.compile(r"[^\W\d_\u3400-\u9fff]{3,}")
_CHINESE = re.compile(r"(?=([\u3400-\u9fff]{2}))")


def collect(runs: Sequence[Run], text: str, options: Any) -> dict[str, Any]:
    """Return the vectors of the words that occur at least twice, for each neural run."""
    if not any(view_vectors.reason(run) is None for run in runs):
        return missing(
            "No run on this page has word vectors: to an n-gram, a word has no senses. Add a "
            "neural run.",
            "本页没有带词向量的模型：n-gram 只数词，不分词义。请加上一个神经网络模型。",
        )

    def of_run(run: Run) -> dict[str, Any]:
        words = [options.word] if options.word else repeated_words(run, text)
        found = [word for word in words if len(places_of(run, text, word, options)) >= FEWEST]
        if not found:
            raise UserError(_too_few(options.word)["en"])
        return {"words": [uses_of(run, text, word, options) for word in found[:WORDS]]}

    def reason(run: Run) -> Both | None:
        if (why := view_vectors.reason(run)) is not None:
            return why
        words = [options.word] if options.word else repeated_words(run, text)
        if any(len(places_of(run, text, word, options)) >= FEWEST for word in words):
            return None
        return _too_few(options.word)

    shown, without = each(runs, options.labels, of_run, reason)
    return or_missing(shown, without)


def _too_few(word: str | None) -> Both:
    if word is None:
        return both(
            "no word of this text occurs twice. Give a longer text, or several lines in which one "
            "word has two senses, such as apple the fruit and apple the company.",
            "这段文本里没有出现两次的词。请给出更长的文本，"
            "或几行含有同一个词、意思不同的句子（如水果苹果和苹果公司）。",
        )
    return both(
        f"the text has {word!r} fewer than twice. Give a text in which it occurs twice.",
        f"这段文本里“{word}”出现不足两次。请给出这个词出现两次以上的文本。",
    )


def repeated_words(run: Run, text: str) -> list[str]:
    """Return the words that occur at least twice, the most frequent first; common words come last.

    In a run by words they are its words; otherwise words of letters and pairs of Chinese
    characters, of which none overlaps one before it.
    """
    if run.tokenizer.unit == "words":
        vocabulary = run.vocabulary
        words = (word for line in text.splitlines() for word in line.split())
        counts = Counter(word for word in words if word in vocabulary and word.isalpha())
        common = set(vocabulary.tokens[: min(COMMON, len(vocabulary) // 20)])
    else:
        counts = Counter(_SPACED.findall(text)) + Counter(_CHINESE.findall(text))
        common = {word for word in counts if word.isascii() and len(word) < 4}
    # The words of the corpus `apple` come first, and single characters last.
    often = [
        (word not in WORDS_WITH_SENSES, word in common or len(word) < 2, -count, word)
        for word, count in counts.items()
        if count >= FEWEST
    ]
    found: list[str] = []
    for *_, word in sorted(often):
        if not (word.isascii() and len(word) < 2) and not any(_overlap(word, w) for w in found):
            found.append(word)
    return found


def _overlap(word: str, other: str) -> bool:
    """Return whether two Chinese words share an end, such as 老魔 and 魔道."""
    return not word.isascii() and len(word) > 1 and (word[0] == other[-1] or word[-1] == other[0])


def places_of(run: Run, text: str, word: str, options: Any) -> list[tuple[int, int, int]]:
    """Return the occurrences of a word: its offsets in the text, and its last token.

    An occurrence that ends inside a token is left out.

    Args:
      run: the run.
      text: the text of the page.
      word: the word.
      options: the options of the page.
    Returns:
      For each occurrence the offsets of its first character and of the character after it, and the
      index of its last token.
    """
    token_ending_at = {int(end): t for t, (_, end) in enumerate(options.trace(run, text).spans)}
    ends = ends_of(word, text, run.tokenizer.splits_at_lines)
    places = [
        (end - len(word), end, token_ending_at[end]) for end in ends if end in token_ending_at
    ]
    return places[:OCCURRENCES]


def uses_of(run: Run, text: str, word: str, options: Any) -> dict[str, Any]:
    """Return the occurrences of a word with their vectors' map and similarities.

    The vectors are those of `jaxlm.inspection.senses` for the text as the run reads it: as one
    sentence, or each line on its own.

    Args:
      run: the run of a neural model.
      text: the text of the page.
      word: a word that occurs in the text.
      options: the options of the page.
    """
    places = places_of(run, text, word, options)
    hidden_NH = options.trace(run, text)[HIDDEN][[token for _, _, token in places]]
    points_N2, similar_NN = map2d(hidden_NH), cosines(hidden_NH, hidden_NH)
    # A word that the run reads in part, such as "naïve", has the vectors of this part.
    table_VD, own = vectors(run)[1], run.tokenizer.encode_context(readable(run, word))
    whole = float(hidden_NH.astype(np.float64).var(axis=0).sum())
    occurrences = [_occurrence(text, start, end) for start, end, _ in places]
    labels = [SENSE_OF_LINE.get(use["line"], "") for use in occurrences]
    labelled = all(labels)
    groups = [list(SENSES).index(label) for label in labels] if labelled else poles(similar_NN)
    return {
        "word": word,
        "static": table_VD[own].mean(axis=0)[:STATIC_NUMBERS],
        "static_size": table_VD.shape[1],
        "size": hidden_NH.shape[1],
        "share": float(points_N2.var(axis=0).sum()) / whole if whole > 0 else 1.0,
        "xy": packed(points_N2, "float32"),
        "similarities": packed(similar_NN, "float32"),
        "labelled": labelled,
        "occurrences": [
            {name: use[name] for name in ("before", "word", "after")}
            | {"group": int(group), "label": label}
            for use, group, label in zip(occurrences, groups, labels, strict=True)
        ],
    }


def poles(similar_NN: np.ndarray) -> np.ndarray:
    """Return 0 or 1 for each occurrence: to which of the two most different ones it is closer.

    Example:
      >>> poles(np.array([[1, 0.9, 0.1], [0.9, 1, 0.2], [0.1, 0.2, 1]])).tolist()
      [0, 0, 1]
    """
    first, second = sorted(np.unravel_index(similar_NN.argmin(), similar_NN.shape))
    return (similar_NN[:, second] > similar_NN[:, first]).astype(np.int64)


def _occurrence(text: str, start: int, end: int) -> dict[str, str]:
    """Return a word and what stands around it in its line."""
    line_start = text.rfind("\n", 0, start) + 1
    line_end = text.find("\n", end)
    line_end = len(text) if line_end < 0 else line_end
    left, right = max(line_start, start - BEFORE), min(line_end, end + AFTER)
    return {
        "line": text[line_start:line_end].strip(),
        "before": "…" + text[left:start] if left > line_start else text[left:start].lstrip(),
        "word": text[start:end],
        "after": text[end:right] + ("…" if right < line_end else ""),
    }
