"""Digests of the splits of a text, by which a resumed run recognises the text it was trained on.

A digest depends on the token ids alone. It is the same wherever the text lies, and whether its ids
are in memory or in a prepared folder.
"""

import hashlib

import numpy as np

from jaxlm.data.encoding import Split
from jaxlm.data.text import Text

# A split of more ids is represented by its length and by BLOCKS blocks, spread over its ids: the
# ids are then not read from end to end.
WHOLE_IDS = 1 << 27
BLOCK_IDS = 1 << 16
BLOCKS = 1 << 10


def text_digests(text: Text) -> dict[str, str]:
    """Return the digests of the splits that training reads, train and valid, by name.

    Example:
      >>> from jaxlm.data.text import read_corpus
      >>> list(text_digests(read_corpus("toy", eos=False)))
      ['train']
    """
    splits = {"train": text.train, "valid": text.valid}
    return {name: split_digest(split) for name, split in splits.items() if split is not None}


def split_digest(split: Split, whole_ids: int = WHOLE_IDS) -> str:
    """Return the sha256 of the token ids of a split, and of its lines if the ids do not show them.

    Args:
      split: the split.
      whole_ids: number of ids above which only a sample of the ids is read.
    """
    ids, size = split.ids, len(split.ids)
    result = hashlib.sha256(f"{size} ids".encode())
    starts = np.arange(0, size, BLOCK_IDS)
    if size > max(whole_ids, BLOCK_IDS):
        starts = np.linspace(0, size - BLOCK_IDS, BLOCKS).astype(np.int64)
    for start in starts:
        result.update(np.asarray(ids[start : start + BLOCK_IDS]).astype("<u4").tobytes())
    if split.tokenizer.vocabulary.start_id is None:
        # No token ends a line, so that the same ids could be other lines.
        lengths = [len(row) for row in split.rows()]
        result.update(np.asarray(lengths, "<u4").tobytes())
    return result.hexdigest()
