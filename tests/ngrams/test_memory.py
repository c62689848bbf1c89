"""Amounts of memory: parsing, the estimate of what counting needs, and dropping of cached files."""

import tracemalloc

import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.ngrams import chunked
from jaxlm.ngrams.counts import Sequences, count_ngrams
from jaxlm.ngrams.external import available, bytes_needed, in_folders, parse_memory
from jaxlm.ngrams.smoothing import SMOOTHINGS


def test_amounts_of_memory_are_parsed():
    assert parse_memory("2GB") == 2_000_000_000
    assert parse_memory(" 500 mb ") == 500_000_000
    assert parse_memory("1.5GiB") == 3 << 29
    assert parse_memory("64KiB") == 1 << 16
    assert parse_memory("2000000") == parse_memory("2000000B") == 2_000_000


@pytest.mark.parametrize("text", ["", "GB", "2 G B", "2XB", "-1GB", "0GB", "1,5GB", "two"])
def test_bad_amounts_of_memory_are_errors(text):
    with pytest.raises(UserError, match=r"write 2GB, 500MB or 1[.]5GiB"):
        parse_memory(text)


@pytest.mark.parametrize("order", [1, 2, 5])
@pytest.mark.parametrize("size", [3, 20_000])
def test_the_estimate_of_memory_is_an_upper_bound(size, order):
    ids = np.random.default_rng(0).integers(0, size, 50_000).astype(np.uint16)
    text = Sequences.stream(ids, 0)
    tracemalloc.start()
    try:
        estimate = SMOOTHINGS["modified-kneser-ney"](count_ngrams(text, order, size))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert estimate.tables.order == order
    # The arrays of a chunk take at most 30 MB, for every text.
    assert peak < bytes_needed(len(ids), order, size) + 30_000_000


def test_available_memory_leaves_room_for_python():
    assert available(1_000_000_000) == 750_000_000
    assert available(100_000_000) == 50_000_000


def test_results_of_every_order_are_in_their_folder(tmp_path):
    allocate = in_folders(tmp_path / "results", tmp_path / "others")
    for name in ("keys-2", "probabilities-12", "backoffs-20", "old-backoffs-3", "counts-12"):
        allocate(name, 4, np.int64)
    results = sorted(path.name for path in (tmp_path / "results").iterdir())
    assert [name.split(".")[0] for name in results] == ["backoffs-20", "keys-2", "probabilities-12"]


def test_arrays_dropped_from_memory_are_read_again_from_their_files(tmp_path):
    array = in_folders(tmp_path / "a", tmp_path / "b")("counts-2", 100_000, np.int64)
    array[:] = np.arange(100_000)
    chunked.drop_from_memory(array[10:], np.arange(3))
    np.testing.assert_array_equal(np.asarray(array), np.arange(100_000))
    private = np.load(tmp_path / "b/counts-2.npy", mmap_mode="c")
    private[0] = 7
    chunked.drop_from_memory(private)
    assert private[0] == 7
