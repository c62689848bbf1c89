"""Prepare a gigabyte of synthetic text as shards of byte-pair tokens; measure speed and memory.

Command    python experiments/prepare_gigabyte.py [megabytes]
Hardware   two CPU cores
Minutes    4 (AMD EPYC, Zen 4)
Expected   all processes together within 1.5 GB of memory (1071 and 1101 MB in two runs), in 208 and
           211 s, 4.8 and 4.7 MB/s

The words are drawn by Zipf's law from 200,000 words of random syllables, with a fixed seed.
"""

import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

WORDS, PER_BLOCK = 200_000, 200_000


def write_text(path: Path, size: int) -> None:
    """Write at least `size` bytes of text."""
    random = np.random.default_rng(0)
    syllables = [a + b for a in "bcdfghklmnprstvz" for b in "aeiou"]
    words = np.array(
        ["".join(random.choice(syllables, random.integers(1, 5))) for _ in range(WORDS)]
    )
    # Zipf's law by inversion: P(rank) ≈ 1 / rank.
    with open(path, "w", encoding="utf-8") as file:
        while file.tell() < size:
            ranks = np.exp(random.random(PER_BLOCK) * np.log(WORDS)).astype(int) - 1
            lines = np.split(words[ranks], np.arange(17, PER_BLOCK, 17))
            file.write("\n".join(" ".join(line) for line in lines) + "\n")


def resident(pid: int) -> int:
    """Return the resident memory of a process and its descendants, in bytes.

    A page that several processes share is counted once for each.
    """
    total, waiting = 0, [pid]
    while waiting:
        pid = waiting.pop()
        try:
            status = Path(f"/proc/{pid}/status").read_text()
            waiting += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        except OSError:
            continue
        found = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")]
        total += 1024 * int(found[0]) if found else 0
    return total


def main() -> None:
    """Write the text, prepare it, and measure time and memory.

    If `prepare` fails, the program ends with its exit code.
    """
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as folder:
        text, out = Path(folder) / "text.txt", Path(folder) / "prepared"
        write_text(text, megabytes * 10**6)
        print(f"{text.stat().st_size / 1e6:.0f} MB of text", flush=True)
        command = [sys.executable, "-m", "jaxlm.prepare", str(text), "--tokens", "bpe"]
        command += ["--vocab-size", "8192", "--fit-megabytes", "64", "--out", str(out)]
        began = time.perf_counter()
        running = subprocess.Popen(command, env=os.environ)
        peak = 0

        def watch() -> None:
            nonlocal peak
            while running.poll() is None:
                peak = max(peak, resident(running.pid))
                time.sleep(0.2)

        watcher = threading.Thread(target=watch)
        watcher.start()
        code = running.wait()
        watcher.join()
        seconds = time.perf_counter() - began
        memory = f"peak memory {peak / 1e6:.0f} MB"
        if code:
            print(f"error: prepare ended with exit code {code} after {seconds:.0f} s, {memory}")
            sys.exit(code if code > 0 else 128 - code)
        rate = text.stat().st_size / 1e6 / seconds
        print(f"{seconds:.0f} s, {rate:.1f} MB/s, {memory}")


if __name__ == "__main__":
    main()
