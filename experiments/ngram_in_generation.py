"""Time generation by an LSTM alone and mixed with an n-gram, and all next words of many contexts.

Command    taskset -c 0 python experiments/ngram_in_generation.py [folder of corpora] [--rounds 13]
           --cpu-time
Hardware   one CPU core
Minutes    4
Expected   a mixture takes 1.06 times the time of the LSTM alone by words and 1.09 by characters
           (batch 1), 1.05 and 1.02 (batch 16), on one core (AVX2)

The LSTMs have two layers of 256 units, and are trained for one step: speed does not depend on
quality. Both programs of a row are timed in turns, in one process. The table has the median of the
times, and the median of the ratios of neighbours. --cpu-time counts the time of the processor, also
on a machine that other programs use; it needs a single core (`taskset -c 0`). Without --cpu-time
the script counts seconds, on any number of cores.

The second table is the time of the distribution of all next words of PTB's test contexts, by the
loop over contexts that `Tables.distribution` is, by `Tables.distributions` in NumPy, and by
`jaxlm.ops.device_tables` in a compiled program. All three look the contexts up within the
clock, and run once before they are timed. The compiled program has the words of the contexts on its
device.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from commands import find_corpus
from rich.console import Console
from rich.table import Table

import jaxlm
from jaxlm.ops.device_tables import next_log_probs, on_device
from jaxlm.ops.sampling import Sampler

TOKENS = 200
CORPORA = {"words": ("ptb", {}), "chars": ("tinyshakespeare", {"tokens": "chars"})}
BATCHES = (1, 16)
CONTEXTS = 4096


def read_text(corpus: str, folder: Path | None, **options: Any) -> jaxlm.Text:
    """Return a corpus, from the folder of corpora if there is one, else by its name."""
    return jaxlm.read_corpus(find_corpus(corpus, folder) if folder else corpus, **options)


def make_runs(folder: Path | None, kind: str) -> list[jaxlm.Run]:
    """Return an LSTM and a 5-gram of one corpus."""
    corpus, options = CORPORA[kind]
    text = read_text(corpus, folder, **options)
    size, start = len(text.vocabulary), text.vocabulary.start_id
    lstm = jaxlm.LSTM(size, start, embedding_size=256, hidden_size=256, num_layers=2)
    ngram = jaxlm.NGram(size, start, order=5)
    return [
        jaxlm.fit(lstm, text, steps=1, quiet=True, sample_every=0),
        jaxlm.fit(ngram, text, quiet=True, sample_every=0),
    ]


def generator(run: jaxlm.Run, batch: int, clock: Callable[[], float]) -> Callable[[], float]:
    """Return a function that generates, and returns the seconds per token of the whole batch."""
    draw, key = Sampler(1.0, None, None), jax.random.key(0)
    prompt_BT = np.zeros((batch, 1), np.int32)

    def seconds() -> float:
        began = clock()
        np.asarray(run.model.generate(run.params, prompt_BT, key, draw, TOKENS))
        return (clock() - began) / TOKENS

    seconds()
    return seconds


def generation(args: argparse.Namespace, console: Console) -> None:
    """Print the table of generation."""
    clock = time.process_time if args.cpu_time else time.perf_counter
    table = Table("tokens", "batch", "alone, µs", "mixed, µs", "alone, tokens/s", "mixed", "ratio")
    for kind in CORPORA:
        lstm, ngram = make_runs(args.folder, kind)
        mixed = jaxlm.interpolate([lstm, ngram], (0.7, 0.3))
        for batch in BATCHES:
            timers = [generator(run, batch, clock) for run in (lstm, mixed)]
            pairs = [[timer() for timer in timers] for _ in range(args.rounds)]
            alone, together = (statistics.median(column) for column in zip(*pairs, strict=True))
            ratio = statistics.median(second / first for first, second in pairs)
            speeds = [f"{batch / seconds:,.0f}" for seconds in (alone, together)]
            times = [f"{seconds * 1e6:.0f}" for seconds in (alone, together)]
            table.add_row(kind, str(batch), *times, *speeds, f"{ratio:.3f}")
    console.print(table)


def distributions(args: argparse.Namespace, console: Console) -> None:
    """Print the table of all next words of PTB's test contexts."""
    text = read_text("ptb", args.folder)
    size, start = len(text.vocabulary), text.vocabulary.start_id
    run = jaxlm.fit(jaxlm.NGram(size, start, order=5), text, quiet=True)
    model, tables = run.model, run.params
    seen = model.seen(np.asarray(text.test.ids[:CONTEXTS])[None], model.initial_carry(1))[0]
    contexts_BN = np.lib.stride_tricks.sliding_window_view(seen, 4)[:CONTEXTS]
    arrays, compiled = on_device(tables), jax.jit(next_log_probs)

    def ids_of(part_BN: np.ndarray) -> list[np.ndarray]:
        return [ids_BT[:, -1] for ids_BT in tables.contexts(part_BN)]

    def by_loop(part_BN: np.ndarray) -> None:
        ids = ids_of(part_BN)
        for row in range(len(part_BN)):
            tables.distribution([int(id_[row]) for id_ in ids])

    def by_numpy(part_BN: np.ndarray) -> np.ndarray:
        return tables.distributions(ids_of(part_BN))[0]

    def by_program(part_BN: jax.Array) -> jax.Array:
        return compiled(arrays, part_BN).block_until_ready()

    ways: list[Callable[[Any], Any]] = [by_loop, by_numpy, by_program]
    table = Table("contexts at once", "loop, µs", "NumPy, µs", "compiled, µs", "largest difference")
    for batch in (1, 16, 256):
        parts = np.split(contexts_BN[: max(batch, 512)], max(batch, 512) // batch)
        seconds: list[list[float]] = [[], [], []]
        worst = 0.0
        # Each way runs once before it is timed.
        for part_BN in (parts[0], *parts):
            found = []
            words = [part_BN, part_BN, jnp.asarray(part_BN, jnp.int32)]
            for way, words_BN, times in zip(ways, words, seconds, strict=True):
                began = time.perf_counter()
                found.append(way(words_BN))
                times.append(time.perf_counter() - began)
            p_BV, log_p_BV = found[1], np.asarray(found[2])
            worst = max(worst, float(np.abs(log_p_BV - np.log(p_BV)).max()))
        medians = [f"{statistics.median(times[1:]) / batch * 1e6:.0f}" for times in seconds]
        table.add_row(str(batch), *medians, f"{worst:.2g}")
    console.print("microseconds a context", table)


def main() -> int:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, help="folder of corpora")
    parser.add_argument("--rounds", type=int, default=13)
    parser.add_argument("--cpu-time", action="store_true", help="time of the processor")
    args, console = parser.parse_args(), Console()
    generation(args, console)
    distributions(args, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
