"""Counts and estimates out of core equal counts and estimates in memory, to the last bit."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxlm.data.text import read_corpus
from jaxlm.errors import UserError
from jaxlm.ngrams import chunked
from jaxlm.ngrams.counts import Sequences, count_ngrams
from jaxlm.ngrams.engines import run_duckdb, run_spark
from jaxlm.ngrams.external import (
    count_query,
    count_windows,
    count_within,
    in_folders,
    parse_memory,
    write_windows,
)
from jaxlm.ngrams.smoothing import SMOOTHINGS
from jaxlm.ngrams.tables import Tables, in_memory

PTB = Path(__file__).parents[2].parent / "shared" / "data" / "ptb"
V, END = 6, 5
MEMORY = parse_memory("400MB")


def ids_of(size=300, dtype=np.uint16):
    # Lines of many lengths, 0 and 1 included.
    return np.random.default_rng(1).integers(0, V, size).astype(dtype)


def texts():
    ids = ids_of()
    rows = [row for row in np.split(ids, np.flatnonzero(ids == END)) if len(row)]
    return {
        "lines": Sequences.lines(ids, END, V),
        "stream": Sequences.stream(ids, END),
        "rows": Sequences.rows(rows, V),
    }


def count_outside(text, order, folder, vocab_size=V, engine=run_duckdb, block=None):
    """Count by files in `folder`, also if the text fits in memory."""
    windows, results, scratch = folder / "windows", folder / "results", folder / "scratch"
    write_windows(text, order, vocab_size, windows / "part-00000.parquet", block or 1 << 20)
    allocate = in_folders(results, scratch)
    counts = count_windows(
        windows, order, vocab_size, MEMORY, scratch, allocate, engine, block=block
    )
    return counts, allocate


def assert_same_array(array, other, name):
    assert array.dtype == other.dtype, name
    np.testing.assert_array_equal(array, other, err_msg=name)


def assert_same_counts(counts, other):
    assert counts.vocab_size == other.vocab_size
    pairs = zip(counts.orders, other.orders, strict=True)
    for order, (found, expected) in enumerate(pairs, start=1):
        assert found.at_line_start == expected.at_line_start
        for name in ("keys", "counts", "suffixes"):
            assert_same_array(getattr(found, name), getattr(expected, name), f"{name}-{order}")


def assert_same_estimate(estimate, other):
    assert estimate.discounts == other.discounts
    assert estimate.notes == other.notes
    expected = other.tables.arrays()
    assert expected.keys() == estimate.tables.arrays().keys()
    for name, array in estimate.tables.arrays().items():
        assert_same_array(array, expected[name], name)


# Texts in blocks


@pytest.mark.parametrize("kind", ["lines", "stream", "rows"])
def test_blocks_of_previous_words_join_to_the_whole(kind):
    text = texts()[kind]
    blocks = [text.previous_in(start, start + 50) for start in range(0, len(text.words), 50)]
    assert_same_array(np.concatenate(blocks), text.previous, kind)


def test_the_line_start_may_exceed_the_dtype_of_ids():
    ids = np.array([7, 65535, 7], np.uint16)
    assert Sequences.lines(ids, 65535, 1 << 16).previous.tolist() == [1 << 16, 7, 1 << 16]


def test_windows_do_not_cross_lines(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    ids = np.array([1, 2, 3, END, 4, END])
    write_windows(Sequences.lines(ids, END, V), 4, V, tmp_path / "windows.parquet", block=2)
    table = parquet.read_table(tmp_path / "windows.parquet").to_pydict()
    rows = list(zip(*(table[name] for name in ("c3", "c2", "c1", "w")), strict=True))
    assert rows == [
        (-1, -1, V, 1),
        (-1, V, 1, 2),
        (V, 1, 2, 3),
        (1, 2, 3, END),
        (-1, -1, V, 4),
        (-1, V, 4, END),
    ]


# DuckDB


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("kind", ["lines", "stream", "rows"])
def test_counts_of_duckdb_equal_counts_in_memory(kind, order, tmp_path):
    pytest.importorskip("duckdb")
    text = texts()[kind]
    counts, _ = count_outside(text, order, tmp_path, block=7)
    assert_same_counts(counts, count_ngrams(text, order, V))


def test_several_files_are_counted_together(tmp_path):
    pytest.importorskip("duckdb")
    ids = np.append(ids_of(100), END)
    for number in range(2):
        path = tmp_path / f"windows/part-{number}.parquet"
        write_windows(Sequences.lines(ids, END, V), 3, V, path)
    allocate = in_folders(tmp_path / "results", tmp_path / "scratch")
    counts = count_windows(tmp_path / "windows", 3, V, MEMORY, tmp_path / "scratch", allocate)
    joined = Sequences.lines(np.tile(ids, 2), END, V)
    assert_same_counts(counts, count_ngrams(joined, 3, V))


def test_a_folder_s_name_may_have_special_characters(tmp_path):
    pytest.importorskip("duckdb")
    text = texts()["lines"]
    counts, _ = count_outside(text, 2, tmp_path / "it's [1] *of* these?")
    assert_same_counts(counts, count_ngrams(text, 2, V))


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_estimates_in_files_equal_estimates_in_memory(smoothing, tmp_path, monkeypatch):
    pytest.importorskip("duckdb")
    # The folder is relative to the working directory, and small chunks make many chunks.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(chunked, "CHUNK", 7)
    text, results = texts()["lines"], Path("results")
    counts, allocate = count_outside(text, 4, Path())
    expected = SMOOTHINGS[smoothing](count_ngrams(text, 4, V), in_memory, 0.5)
    estimate = SMOOTHINGS[smoothing](counts, allocate, 0.5)
    assert_same_estimate(estimate, expected)
    estimate.tables.save(results)
    shutil.rmtree("scratch")
    loaded = Tables.load(results)
    assert {path.stem for path in results.glob("*.npy")} == set(loaded.arrays())
    for name, array in expected.tables.arrays().items():
        assert_same_array(loaded.arrays()[name], array, name)


@pytest.mark.full
@pytest.mark.skipif(not PTB.is_dir(), reason="PTB is not on this machine")
def test_estimates_of_ptb_equal_to_the_last_bit(tmp_path):
    pytest.importorskip("duckdb")
    text = read_corpus(str(PTB))
    size, end_id = len(text.vocabulary), text.vocabulary.start_id
    sequences = Sequences.lines(text.train.ids, end_id, size)
    memory = parse_memory("300MB")
    counts, allocate = count_within(
        sequences, 5, size, memory, tmp_path / "results", tmp_path / "scratch"
    )
    assert allocate is not in_memory
    expected = count_ngrams(sequences, 5, size)
    assert_same_counts(counts, expected)
    smooth = SMOOTHINGS["modified-kneser-ney"]
    assert_same_estimate(smooth(counts, allocate, 1.0), smooth(expected, in_memory, 1.0))


# Spark


@pytest.fixture
def spark():
    pytest.importorskip("pyspark")
    if not (shutil.which("java") or os.environ.get("JAVA_HOME")):
        pytest.skip("Spark needs Java")
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
    session = builder.config("spark.sql.shuffle.partitions", "3").getOrCreate()
    yield session
    session.stop()


# Spark's launcher forks. JAX warns of forks if an earlier test has loaded JAX.
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
def test_spark_runs_the_same_query(spark, tmp_path):
    text = texts()["lines"]
    counts, _ = count_outside(text, 3, tmp_path, engine=run_spark, block=50)
    assert_same_counts(counts, count_ngrams(text, 3, V))


def test_a_text_that_fits_is_counted_in_memory(tmp_path):
    text = texts()["lines"]
    for memory in (None, MEMORY):
        counts, allocate = count_within(text, 3, V, memory, tmp_path / "a", tmp_path / "b")
        assert allocate is in_memory
        assert_same_counts(counts, count_ngrams(text, 3, V))
    assert not list(tmp_path.iterdir())


# Mistakes


def test_an_order_larger_than_any_line_is_an_error(tmp_path):
    pytest.importorskip("duckdb")
    text = Sequences.lines(np.array([1, END, 2, END]), END, V)
    with pytest.raises(UserError, match="`order` 5: is larger than any line: the longest has 3"):
        count_outside(text, 5, tmp_path)


def test_too_little_memory_for_the_engine_is_an_error(tmp_path):
    pytest.importorskip("duckdb")
    text = Sequences.stream(ids_of(20_000), 0)
    with pytest.raises(UserError, match=r"DuckDB cannot count .* its share of `memory`"):
        count_within(text, 5, V, 1_000_000, tmp_path / "results", tmp_path / "scratch")


@pytest.mark.xdist_group("disk")
@pytest.mark.parametrize("megabytes", [1, 2])
def test_a_full_disk_is_an_error(megabytes, tmp_path):
    pytest.importorskip("duckdb")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(tmp_path)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(mount).returncode:
        pytest.skip("only root can mount a small file system")
    ids = np.random.default_rng(1).integers(0, 500, 40_000).astype(np.uint16)
    try:
        with pytest.raises(OSError, match="No space left"):
            count_outside(Sequences.lines(ids, 0, 500), 5, tmp_path, vocab_size=500)
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_an_unknown_engine_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"unknown engine 'duck'.* choose one of duckdb, spark"):
        count_within(texts()["lines"], 2, V, 1, tmp_path, tmp_path, "duck")


@pytest.mark.parametrize(
    ("package", "engine"), [("duckdb", run_duckdb), ("pyspark.sql", run_spark), ("pyarrow", None)]
)
def test_the_error_for_a_missing_package_names_it(package, engine, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=r"pip install (duckdb|pyspark) pyarrow") as caught:
        if engine:
            engine(count_query(2), tmp_path, tmp_path / "result", MEMORY)
        else:
            write_windows(texts()["lines"], 2, V, tmp_path / "windows.parquet")
    assert "\n" not in str(caught.value)


def test_unsorted_results_of_an_engine_are_an_error(tmp_path):
    pytest.importorskip("duckdb")

    def unsorted(query, *rest):
        run_duckdb(query + " DESC", *rest)

    with pytest.raises(RuntimeError, match="not in the order"):
        count_outside(texts()["lines"], 2, tmp_path, engine=unsorted)
