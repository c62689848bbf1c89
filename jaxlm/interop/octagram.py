"""n-grams of Chinese characters as the .gram file of librime-octagram, an input method's grammar.

Rime converts pinyin to words, and octagram scores how well a word follows the characters before it.
For each suffix of these characters and each prefix of the word, it looks the joined text up:

    score(context, word)  =  max( log count(text) ) - penalty

It is the largest value of all texts that the file lists, and the score of a text that is not
listed is that of the count 1. A text that ends with $ is the end of a sentence.

The file lists counts, which an n-gram's tables do not have. So the counts are those of the text
that the run was trained on, which must still be where it was. Texts that occur once would score as
texts that are not listed, and are left out.

The file, all numbers little-endian:

    0     "Rime::Grammar/1.0", with zeros up to 32 bytes
    32    0, uint32
    36    number of units, uint32
    40    4, int32: the distance from here to the units
    44    units of a double-array trie (`jaxlm.interop.double_array`), uint32 each

A value of the trie is 10,000 · log(count), rounded down. A character from U+4000 to U+9FFF is two
bytes in a key: its high byte plus 0x40 and its low byte, or 0xE1 and the high byte plus 0x40 if the
low byte is 0. librime-octagram maps several characters outside this range to the same bytes, so
n-grams with such characters are left out.

Source: librime-octagram, which reads and writes these files.
"""

import math
import struct
from collections import Counter
from pathlib import Path

import numpy as np

from jaxlm.data.digests import split_digest
from jaxlm.data.vocabulary import EOS
from jaxlm.errors import UserError
from jaxlm.evaluation.perplexity import open_split
from jaxlm.interop.double_array import double_array
from jaxlm.interop.files import create
from jaxlm.models.ngram import NGram
from jaxlm.ngrams.counts import Sequences, count_ngrams, longest_line
from jaxlm.runs.run import Run
from jaxlm.runs.same_run import TEXT_DIGESTS

FORMAT = b"Rime::Grammar/1.0"
HEADER = struct.Struct("<32sIIi")
# Values are 10,000 times natural logarithms.
SCALE = 10_000
FIRST, LAST = "\u4000", "\u9fff"
END = "$"
# The longest text that octagram looks up: at most 8 characters before a word, and 8 of the word.
LONGEST = 16


def export_gram(run: Run, path: str | Path) -> None:
    """Write the n-grams of a run's training text as a .gram file.

    Raises:
      UserError: for a run of another model; if the training text is missing or was changed, or no
        n-gram of Chinese characters occurs more than once; and if the file cannot be written.
    """
    path = Path(path)
    if path.suffix == ".gz":
        raise UserError(f"{path}: Rime reads .gram files that are not compressed: leave out .gz")
    encoded = sorted((encode(text), count) for text, count in gram_counts(run).items())
    values = [int(math.log(count) * SCALE) for _, count in encoded]
    units = double_array([key for key, _ in encoded], values)
    with create(path) as file:
        file.write(HEADER.pack(FORMAT, 0, len(units), 4))
        file.write(units.astype("<u4").tobytes())


def export_gram_counts(run: Run, path: str | Path) -> None:
    """Write the n-grams of a run's training text as text, which `build_grammar` reads.

    A line is an n-gram, a tab and its count. `build_grammar` is octagram's own tool that makes a
    .gram file of them. Raises UserError as `export_gram` does.
    """
    counts = gram_counts(run)
    with create(Path(path)) as file:
        file.writelines(f"{text}\t{count}\n".encode() for text, count in counts.items())


def encode(text: str) -> bytes:
    """Return a text of characters from U+4000 to U+9FFF, and of ASCII, as a key of a .gram file.

    Example:
      >>> encode("我们$").hex(), encode("一").hex()
      ('a2118eec24', 'e18e')
    """
    parts = []
    for character in text:
        high, low = divmod(ord(character), 256)
        if character < "\x80":
            parts.append(bytes([low]))
        else:
            parts.append(bytes([high + 0x40, low] if low else [0xE1, high + 0x40]))
    return b"".join(parts)


def gram_counts(run: Run) -> dict[str, int]:
    """Return the texts of a .gram file, of two characters or more, and their counts, 2 or more.

    Raises:
      UserError: as `export_gram` does.
    """
    if not isinstance(run.model, NGram):
        kind = type(run.model).__name__
        raise UserError(
            f"{run.name} has the model {kind}: only n-grams can be written as .gram files"
        )
    if not run.settings.get("text", {}).get("corpus"):
        raise UserError(
            f"{run.name} does not say which text it was trained on, and a .gram file has the "
            f"counts of that text: convert a run that was trained on a file"
        )
    split = open_split(run, split="train")
    saved = run.settings.get(TEXT_DIGESTS, {}).get("train")
    if saved is not None and saved != split_digest(split):
        raise UserError(f"{split.name} is not the text of the training: it was changed since")
    vocabulary, V = run.vocabulary, run.model.vocab_size
    lines = Sequences.of_split(split, V)
    # A run that was counted over line ends may have an order above the longest line.
    order = min(run.model.order, longest_line(lines, V))
    counted = count_ngrams(lines, order, V)
    ends = {index for index, token in enumerate(vocabulary.tokens) if token in (EOS, "\n")}
    # V, the start of a line, cannot be typed.
    texts = np.full(V + 1, "", object)
    for index in range(V):
        text = run.tokenizer.token_text(index)
        if index in ends:
            texts[index] = END
        elif text and all(FIRST <= character <= LAST for character in text):
            texts[index] = text
    is_text_V = texts != ""
    is_typed_V = is_text_V & (texts != END)
    found: Counter[str] = Counter()
    words_NL = np.arange(V + 1)[:, None]
    for place, own in enumerate(counted.orders):
        if place:
            words_NL = np.column_stack([words_NL[own.keys // (V + 1)], own.keys % (V + 1)])
        is_kept = (own.counts > 1) & is_text_V[words_NL[:, -1]]
        is_kept &= is_typed_V[words_NL[:, :-1]].all(axis=1) & is_typed_V[words_NL[:, 0]]
        for row, count in zip(texts[words_NL[is_kept]], own.counts[is_kept].tolist(), strict=True):
            text = "".join(row)
            if 2 <= len(text) <= LONGEST:
                # A text may be cut into words in several ways.
                found[text] += count
    if not found:
        raise UserError(
            f"{split.name} has no n-gram of Chinese characters that occurs more than once: train "
            f"an n-gram of order 2 or more on Chinese text, with `tokens` chars"
        )
    return dict(found)
