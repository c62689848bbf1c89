"""Measure whether training waits for its data: tokens per second with the reader and without.

Command    python experiments/data_wait.py
Hardware   any; nothing else should run on its cores
Minutes    3
Expected   0.988 to 0.997 on two cores (AMD EPYC with AVX-512, 2026-11-30); 0.935 to 0.957 for
           windows of 2,000 small shards that are too large together to be read into one array
Published  none

A text of 2,000 small files is prepared as memory-mapped shards. A small model is trained on it, as
it is and as if it were too large to be read into one array, and on the same text in memory, in
three kinds of batches. The same compiled train steps also run on one
batch that never changes. Both are timed in turns; the ratio is the median over the rounds. As in a
training run, the reader makes the batches of the next steps while the device computes.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxlm
from jaxlm.data import shards
from jaxlm.data.batching import BatchingConfig, make_batches
from jaxlm.models import make_model
from jaxlm.training.optimizers import Horizon, OptimizerConfig, make_optimizer
from jaxlm.training.state import init_state
from jaxlm.training.step import make_train_block

FILES, LINES, WORDS = 2_000, 100, 2_000
STEPS = 8
KINDS = {
    "streams": ("gru", BatchingConfig(batching="streams", batch_size=16, bptt=32)),
    "windows": ("nplm", BatchingConfig(batching="windows", batch_size=512)),
    "rows": ("gru", BatchingConfig(batching="rows", batch_size=32)),
}


def write_files(folder: Path) -> list[Path]:
    """Write small files of random words, by Zipf's law, and return their paths."""
    random = np.random.default_rng(0)
    paths = []
    for index in range(FILES):
        ranks = np.exp(random.random((LINES, 12)) * np.log(WORDS)).astype(int)
        path = folder / f"{index:05d}.txt"
        path.write_text("".join(" ".join(f"w{rank}" for rank in line) + "\n" for line in ranks))
        paths.append(path)
    return paths


def trained(text: Any, kind: str) -> Callable[[bool, float], float]:
    """Return a function that trains for some seconds and returns the tokens per second.

    Its first argument says whether the batches are read; otherwise one batch is repeated.
    """
    name, config = KINDS[kind]
    vocabulary = text.vocabulary
    model = make_model(name, {}, len(vocabulary), vocabulary.start_id)
    batches = make_batches(text.train, config, getattr(model, "n_step", 1))
    key = jax.random.key(0)
    optimizer = make_optimizer(OptimizerConfig(), Horizon(1000, 1000))
    block = make_train_block(model, optimizer, key, batches.positions, varied=batches.varied)
    state = init_state(model, optimizer, key, batches.batch_size)
    # A training run dispatches as many steps as take a fraction of a second.
    capacity = STEPS
    constant = batches.block(0, capacity, capacity)
    done = 0

    def train(reads: bool, seconds: float) -> float:
        nonlocal state, done
        tokens, pending, began = 0.0, None, time.perf_counter()
        while time.perf_counter() - began < seconds:
            now = batches.block(done, capacity, capacity) if reads else constant
            state, metrics = block(state, now, capacity)
            if pending is not None:
                tokens += float(np.asarray(pending.count_K).sum())
            pending, done = metrics, done + capacity
        tokens += float(np.asarray(pending.count_K).sum())
        return tokens / (time.perf_counter() - began)

    train(True, 1.0)
    train(False, 1.0)
    return train


def main() -> None:
    """Time each kind of batches on both texts, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write_files(folder)
        whole = folder / "whole.txt"
        whole.write_text("".join(path.read_text() for path in paths))
        command = [sys.executable, "-m", "jaxlm.prepare", *map(str, paths), "--tokens", "words"]
        subprocess.run([*command, "--out", str(folder / "shards")], check=True)
        texts = {
            "2,000 files, prepared": (
                jaxlm.read_corpus(folder / "shards"),
                shards.IN_MEMORY_IF_SMALL,
            ),
            "2,000 files, prepared, as if larger": (jaxlm.read_corpus(folder / "shards"), 0),
            "one file, in memory": (jaxlm.read_corpus(whole), 0),
        }
        print("| text | batches | tokens/s read | tokens/s of one batch | ratio |")
        print("|---|---|---|---|---|")
        for title, (text, shards.IN_MEMORY_IF_SMALL) in texts.items():
            for kind in KINDS:
                if kind == "rows" and "prepared" in title:
                    # A prepared text has no lines.
                    continue
                train = trained(text, kind)
                rounds = [
                    (train(True, options.seconds), train(False, options.seconds))
                    for _ in range(options.rounds)
                ]
                read, repeated = (statistics.median(side) for side in zip(*rounds, strict=True))
                ratio = statistics.median(a / b for a, b in rounds)
                print(f"| {title} | {kind} | {read:,.0f} | {repeated:,.0f} | {ratio:.3f} |")


if __name__ == "__main__":
    main()
