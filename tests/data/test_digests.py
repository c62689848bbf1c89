"""Digests of a text are equal for equal ids and lines, in memory and in files."""

from dataclasses import replace

import numpy as np
import pytest

import jaxlm
from jaxlm.data import digests
from jaxlm.data.digests import split_digest, text_digests
from jaxlm.data.shards import ShardedIds


@pytest.fixture
def split(tmp_path):
    (tmp_path / "text.txt").write_text("abcdefgh\n" * 40)
    return jaxlm.read_corpus(str(tmp_path / "text.txt"), tokens="bytes").train


@pytest.mark.parametrize("block", [1 << 16, 16])
@pytest.mark.parametrize("whole", [1 << 27, 64])
def test_digests_do_not_depend_on_dtype_and_storage(block, whole, split, tmp_path, monkeypatch):
    monkeypatch.setattr(digests, "BLOCK_IDS", block)
    ids, expected = split.ids, split_digest(split, whole)
    (tmp_path / "ids").write_bytes(ids.astype("<u2").tobytes())
    mapped = np.memmap(tmp_path / "ids", "<u2", "r")
    for same in (ids.astype("<u4"), mapped, ShardedIds([mapped[:7], mapped[7:]])):
        assert split_digest(replace(split, ids=same), whole) == expected
    for index in (0, len(ids) // 2, -1):
        other = ids.copy()
        other[index] += 1
        sampled = block < len(ids) and whole < len(ids)
        changed = split_digest(replace(split, ids=other), whole) != expected
        # The first and the last block are always in the sample.
        assert changed or (sampled and index not in (0, -1))
    assert split_digest(replace(split, ids=ids[:-1]), whole) != expected


def test_digests_depend_on_the_lines(tmp_path):
    found = []
    for content in ("a b\nc d e\n", "a b c\nd e\n"):
        (tmp_path / "train.txt").write_text(content)
        found.append(text_digests(jaxlm.read_corpus(str(tmp_path), eos=False)))
    assert found[0].keys() == {"train"} and found[0] != found[1]
