"""Load on `python -m jaxlm.serve`: 1,000 requests of mixed kinds over 32 connections.

Command    python experiments/serve_load.py [folder of corpora] [--requests 1000] [--connections 32]
Hardware   two CPU cores (AMD EPYC with AVX2), shared with the client
Minutes    3
Expected   no request lost; p95 of a 5-gram 0.66 s without batches and 0.20 s with, of the LSTM
           0.69 s and 0.81 s (docs/serve.md has the tables)
Published  none

Each server serves one run on loopback. Of ten requests four ask for next words, four for scores of
three sentences, and two for a continuation of 32 tokens. `--rows 1` of the server means that no
request shares a call of the model with another request.
"""

import argparse
import http.client
import json
import math
import os
import queue
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from commands import run

CORPUS = "--corpus tinyshakespeare --tokens chars --sample-every 0"
RUNS = {"5-gram": "runs/load/ngram", "LSTM 2x256": "runs/load/lstm"}
COMMANDS = (
    f"python -m jaxlm.train --model ngram {CORPUS} --order 5 --stream --out {RUNS['5-gram']}",
    f"python -m jaxlm.train --model lstm {CORPUS} --embedding-size 64 --hidden-size 256 "
    f"--num-layers 2 --batch-size 32 --bptt 64 --lr 4e-3 --steps 200 --out {RUNS['LSTM 2x256']}",
)
LINES = (
    "But soft, what light through yonder window breaks?",
    "Now is the winter of our discontent",
    "All the world is a stage, and all the men and women merely players.",
    "Friends, Romans, countrymen, lend me your ears;",
    "The lady doth protest too much, methinks.",
)


def body_of(number: int, draw: random.Random) -> tuple[str, dict[str, Any]]:
    """Return the path and the body of a request."""
    line = draw.choice(LINES)
    if number % 10 < 4:
        return "/next", {"text": line[: draw.randrange(5, len(line))], "top": 5}
    if number % 10 < 8:
        return "/score", {"sentences": draw.sample(LINES, 3)}
    return "/generate", {"prompt": line[:20], "length": 32, "seed": number, "temperature": 0.8}


def ask(url: str, requests: int, connections: int) -> tuple[list[tuple[str, float]], int, float]:
    """Send requests; return path and seconds of each answer, the number lost, and all seconds."""
    draw = random.Random(0)
    todo: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
    for number in range(requests):
        path, body = body_of(number, draw)
        todo.put((path, json.dumps(body).encode()))
    answers: list[tuple[str, float]] = []
    lost: list[str] = []
    place = urlsplit(url)

    def work() -> None:
        connection = http.client.HTTPConnection(place.hostname, place.port, timeout=120)
        while True:
            try:
                path, body = todo.get_nowait()
            except queue.Empty:
                return
            began = time.perf_counter()
            try:
                connection.request("POST", path, body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                content = json.load(answer)
                if answer.status != 200 or "error" in content:
                    lost.append(str(content))
            except (OSError, http.client.HTTPException, ValueError) as error:
                lost.append(repr(error))
                connection.close()
            answers.append((path, time.perf_counter() - began))

    threads = [threading.Thread(target=work) for _ in range(connections)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for line in sorted(set(lost))[:5]:
        print(f"lost: {line}", file=sys.stderr)
    return answers, len(lost), time.perf_counter() - began


def measure(folder: str, rows: int, requests: int, connections: int) -> str:
    """Start a server, ask it, end it, and return a row of the table without its first cell."""
    command = [sys.executable, "-m", "jaxlm.serve", folder, "--port", "0", "--no-page"]
    server = subprocess.Popen([*command, "--rows", str(rows)], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = server.stdout.readline().split()[1]
        ask(url, min(requests, 2 * connections), connections)
        before = cpu_seconds(server.pid)
        answers, lost, seconds = ask(url, requests, connections)
        busy = cpu_seconds(server.pid) - before
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)
    cells = [str(rows), f"{requests:,}", str(lost), f"{requests / seconds:.0f}", f"{busy:.1f}"]
    cells += quantiles([time_ for _, time_ in answers])
    for path in ("/next", "/score", "/generate"):
        cells += quantiles([time_ for asked, time_ in answers if asked == path])[1:]
    return " | ".join(cells)


def cpu_seconds(process: int) -> float:
    """Return the CPU time of a process on Linux; NaN on other systems."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return math.nan
    # The name of the process, in brackets, may have blanks.
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def quantiles(seconds: Sequence[float]) -> list[str]:
    """Return the median and the 95th percentile in milliseconds."""
    parts = statistics.quantiles(seconds, n=20, method="inclusive")
    return [f"{1000 * parts[9]:.0f}", f"{1000 * parts[18]:.0f}"]


def main() -> int:
    """Train, measure and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("corpora", nargs="?")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--only", choices=RUNS, help="measure this run alone")
    asked = parser.parse_args()
    sys.argv[1:] = [asked.corpora] if asked.corpora else []
    run(*COMMANDS)
    columns = [
        "run",
        "rows",
        "requests",
        "lost",
        "requests/s",
        "CPU s",
        "p50 ms",
        "p95 ms",
    ]
    columns += [f"p95 {kind}" for kind in ("next", "score", "generate")]
    print(f"| {' | '.join(columns)} |")
    print("|---" * len(columns) + "|")
    for name, folder in RUNS.items():
        if asked.only not in (None, name):
            continue
        for rows in asked.rows:
            print(f"| {name} | {measure(folder, rows, asked.requests, asked.connections)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
