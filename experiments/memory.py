"""Measure the resident memory of a long training: with few saves, and with many.

Command    python experiments/memory.py
Hardware   two CPU cores
Minutes    26, with other work on the cores
Expected   after 100,000 steps with few saves, the memory of the 30th percent plus 2 MB; some 18 kB
           more for each save
Published  none

Each row is a process of its own, which trains a tiny LSTM. The memory at the beginning is measured
after a tenth of the steps, when everything is compiled and the threads that save have started.
"""

import argparse
import subprocess
import sys
import tempfile
import time

# Steps, and steps between two saves.
ROWS = ((100_000, 10_000), (16_000, 100), (16_000, 10))


def measure(steps: int, saves_every: int) -> None:
    """Train in this process, and print the row of the table."""
    import psutil
    from rich.console import Console

    import jaxlm

    process, seen = psutil.Process(), {}

    def look(record: dict) -> None:
        seen[record["step"]] = process.memory_info().rss / 1e6

    # Without a validation split, whose program would be compiled at the end.
    lines = ["the cat sat on the mat and saw a dog"] * 1000
    text = jaxlm.read_corpus(lines, tokens="chars", fractions=(1.0,))
    start_id = text.vocabulary.start_id
    model = jaxlm.LSTM(len(text.vocabulary), start_id, embedding_size=8, hidden_size=16)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        jaxlm.fit(
            model,
            text,
            folder=f"{folder}/run",
            steps=steps,
            batch_size=4,
            bptt=8,
            log_every=steps // 10,
            checkpoint_every=saves_every,
            callbacks=[look],
            console=Console(quiet=True),
        )
    minutes = (time.perf_counter() - began) / 60
    tenths = [f"{seen[steps * tenth // 10]:.1f}" for tenth in (1, 3, 5, 7, 9, 10)]
    saves = 0.9 * steps / saves_every
    growth = 1000 * (seen[steps] - seen[steps // 10])
    per_save = f"{growth / saves:.0f}"
    row = [f"{steps:,}", f"{saves_every:,}", *tenths, per_save, f"{minutes:.1f}"]
    print(f"| {' | '.join(row)} |", flush=True)


def measure_orbax(saves: int) -> None:
    """Save a small tree with orbax alone, without jaxlm, and print the growth a save."""
    import numpy as np
    import orbax.checkpoint as ocp
    import psutil

    arrays = {f"array{index}": np.zeros((8, 16), np.float32) for index in range(14)}
    process, seen = psutil.Process(), []
    with tempfile.TemporaryDirectory() as folder:
        options = ocp.CheckpointManagerOptions(max_to_keep=2, create=True)
        manager = ocp.CheckpointManager(f"{folder}/checkpoints", options=options)
        for step in range(saves):
            if step in (saves // 4, saves - 1):
                seen.append(process.memory_info().rss / 1e3)
            manager.wait_until_finished()
            save = ocp.args.StandardSave
            args = ocp.args.Composite(params=save(arrays), rest=save(arrays))
            manager.save(step, args=args)
        manager.wait_until_finished()
        manager.close()
    growth = (seen[1] - seen[0]) / (saves - 1 - saves // 4)
    print(f"orbax alone, {saves:,} saves of 28 arrays: {growth:.0f} kB per save")


def main() -> None:
    """Print the table, one process a row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--row", type=int, nargs=2, help="steps, and steps between two saves")
    parser.add_argument("--orbax", type=int, help="number of saves by orbax alone, without jaxlm")
    options = parser.parse_args()
    if options.orbax:
        return measure_orbax(options.orbax)
    if options.row:
        return measure(*options.row)
    shares = " | ".join(f"MB at {share}%" for share in (10, 30, 50, 70, 90, 100))
    print(f"| steps | steps per save | {shares} | kB per save | minutes |")
    print("|---" * 10 + "|", flush=True)
    for row in ROWS:
        command = [sys.executable, __file__, "--row", *map(str, row)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
