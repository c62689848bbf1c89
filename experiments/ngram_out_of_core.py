"""Count a 5-gram of 200 MB of synthetic text by DuckDB, and smooth it, within 1 GB of memory.

Command    python experiments/ngram_out_of_core.py
Hardware   two CPU cores (AMD EPYC with AVX-512)
Minutes    2 (3 on busy cores): 45 s counting, 30 s reading into tables, 30 s smoothing
Expected   at most 884 MB in memory, 716 MB of it anonymous; 50,001 / 10,460,010 / 24,934,244 /
           34,156,133 / 37,443,376 n-grams of orders 1 to 5
Published  none

The text is the same in each run. Its words follow Zipf's law, and most words depend on the previous
word or the two previous words. So the number of n-grams grows with the order as in natural text.
The run needs 5 GB of disk.

The memory limit is measured, not enforced, because RLIMIT_DATA counts reserved addresses, far more
than the memory in use. A thread reads the resident memory 20 times a second: all of it, and the
anonymous part, which the system cannot write back to a file. The last number is the peak that the
system recorded.
"""

import argparse
import resource
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxlm.data.encoding import Split
from jaxlm.data.sources import TextFile
from jaxlm.data.tokenizers import VocabularyConfig, Words
from jaxlm.ngrams.counts import Sequences
from jaxlm.ngrams.engines import run_duckdb
from jaxlm.ngrams.external import (
    available,
    bytes_needed,
    count_windows,
    in_folders,
    parse_memory,
    write_windows,
)
from jaxlm.ngrams.smoothing import SMOOTHINGS
from jaxlm.ngrams.tables import Tables

WORDS = 50_000
SYLLABLES = [a + b for a in "bcdfghjklmnpqrstvwxz" for b in "aeiou"]


def spelled(rank: int) -> str:
    """Return the word of a frequency rank. Frequent words are shorter."""
    rest, last = divmod(rank, len(SYLLABLES))
    return (spelled(rest - 1) if rest else "") + SYLLABLES[last]


def uniform(*numbers: np.ndarray) -> np.ndarray:
    """Return hashes of `numbers` in [0, 1), by the mixing function of SplitMix64."""
    mixed = np.zeros(len(numbers[0]), np.uint64)
    for number in numbers:
        mixed += number.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (mixed >> np.uint64(11)) / 2.0**53


def synthetic_lines(lines_at_a_time: int = 20_000) -> Iterator[str]:
    """Yield lines of 5 to 36 words, without end.

    Each word is drawn by Zipf's law. Of ten words, three do not depend on the previous words. The
    others depend on the previous word or on the two previous words, whose followers are again drawn
    by Zipf's law.
    """
    rng = np.random.default_rng(0)
    share = np.cumsum(1 / (np.arange(WORDS) + 2.7))
    share /= share[-1]
    names = np.array([spelled(rank) for rank in range(WORDS)], object)
    while True:
        lengths = rng.integers(5, 37, lines_at_a_time)
        rows = np.zeros((lines_at_a_time, lengths.max()), np.int64)
        before = before_that = np.full(lines_at_a_time, WORDS)
        for place in range(rows.shape[1]):
            kind, place_in_law = rng.random((2, lines_at_a_time))
            follower = np.minimum(1 / (1 - rng.random(lines_at_a_time)) ** 1.2, 5000).astype(int)
            from_two = uniform(follower, before, before_that)
            from_one = uniform(follower, before)
            place_in_law = np.where(kind < 0.3, place_in_law, from_one)
            place_in_law = np.where(kind > 0.65, from_two, place_in_law)
            rows[:, place] = np.searchsorted(share, place_in_law)
            before, before_that = rows[:, place], before
        for row, length in zip(rows, lengths, strict=True):
            yield " ".join(names[row[:length]]) + "\n"


def write_corpus(path: Path, size: int) -> None:
    """Write about `size` bytes of text."""
    with open(path, "w", encoding="utf-8") as file:
        for line in synthetic_lines():
            size -= file.write(line)
            if size <= 0:
                return


class Watch(threading.Thread):
    """A thread that measures the peak memory of this process, in bytes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.total = self.anonymous = 0

    def run(self) -> None:
        """Read the memory 20 times a second, without end."""
        while True:
            lines = Path("/proc/self/status").read_text().splitlines()
            kilobytes = {line.split()[0]: line.split()[1] for line in lines if "kB" in line}
            self.total = max(self.total, int(kilobytes["VmRSS:"]) * 1024)
            self.anonymous = max(self.anonymous, int(kilobytes["RssAnon:"]) * 1024)
            time.sleep(0.05)

    def so_far(self) -> str:
        """Return both peaks since the last call as text, and reset them."""
        text = f"peak {self.total / 1e6:5.0f} MB, {self.anonymous / 1e6:5.0f} MB of it anonymous"
        self.total = self.anonymous = 0
        return text


def main() -> None:
    """Write the text, count, smooth, and print sums of probabilities, which must be 1."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=float, default=200)
    parser.add_argument("--order", type=int, default=5)
    parser.add_argument("--memory", default="1GB")
    parser.add_argument("--folder", help="for temporary files (default: the system's)")
    options = parser.parse_args()
    memory = parse_memory(options.memory)
    watch = Watch()
    watch.start()
    began = time.perf_counter()

    def report(stage: str) -> None:
        nonlocal began
        print(f"{stage:52} {time.perf_counter() - began:6.1f} s  {watch.so_far()}", flush=True)
        began = time.perf_counter()

    def engine(query: str, windows: Path, result: Path, share: int) -> None:
        if result.name != "counted-1":
            report("  read into tables")
        run_duckdb(query, windows, result, share)
        report(f"{result.name}: grouped and sorted")

    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        path, results, scratch = folder / "corpus.txt", folder / "tables", folder / "scratch"
        write_corpus(path, int(options.megabytes * 1e6))
        report(f"corpus of {path.stat().st_size / 1e6:.1f} MB written")
        source = TextFile(path)
        tokenizer = Words.fit(source.lines(), VocabularyConfig(), add_unk=False)
        ids = Split.encode("train", source, tokenizer, lambda: folder / "encoded").ids
        V, end_id = len(tokenizer.vocabulary), tokenizer.vocabulary.start_id
        report(f"{len(ids):,} tokens read, {V:,} words in the vocabulary")
        needed = bytes_needed(len(ids), options.order, V)
        print(f"counting in memory would take up to {needed / 1e9:.2f} GB", flush=True)
        assert needed > available(memory), "this fits in memory; increase --megabytes"

        text = Sequences.lines(ids, end_id, V)
        windows = scratch / "windows"
        write_windows(text, options.order, V, windows / "part-00000.parquet")
        report("windows written")
        allocate = in_folders(results, scratch)
        counts = count_windows(windows, options.order, V, memory, scratch, allocate, engine)
        report("  read into tables")
        SMOOTHINGS["modified-kneser-ney"](counts, allocate, 1.0).tables.save(results)
        report("smoothed")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(f"peak memory until here: {peak / 1e6:.0f} MB of {memory / 1e6:.0f} MB")

        tables = Tables.load(results)
        for order, size in enumerate(tables.sizes, start=1):
            print(f"order {order}: {size:,} n-grams")
        seen_BT = np.concatenate([[V], ids[len(ids) // 2 :][:200]])[None].astype(np.int64)
        seen_BT[seen_BT == end_id] = V
        contexts = tables.contexts(seen_BT)
        sums = [
            tables.distribution([int(ids_BT[0, place]) for ids_BT in contexts])[0].sum()
            for place in range(seen_BT.shape[1])
        ]
        print(f"sums of P(w | h) for {len(sums)} contexts: {min(sums):.12f} to {max(sums):.12f}")


if __name__ == "__main__":
    main()
