"""How the benchmark and the processes it times talk: a JSON object a line.

Each peer is one process, and only one of them is asked to work at a time, so that they alternate
without sharing the cores.
"""

import contextlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

TOO_LONG = 20.0
"""Seconds of one, above which it is timed that once."""
Work = Callable[[int], None]
"""work(n) does the timed thing n times, and is over when its result is there."""


def serve(prepare: Callable[[dict[str, Any]], Work], about: dict[str, Any]) -> None:
    """Answers requests until standard input ends.

    {"prepare": {...}, "name": n} makes the work called n and does it a few times; {"seconds": s,
    "name": n} repeats it for about so long and answers with the seconds of one; {"forget": true}
    lets go of all works; {"peak": true} answers with the most memory held so far, in bytes.
    """
    # What libraries print must not get between the answers.
    answers = sys.stdout
    sys.stdout = sys.stderr
    works: dict[str, Work] = {}
    estimates: dict[str, float] = {}
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any] = {}
        name = request.get("name", "")
        if "about" in request:
            answer = about
        elif "prepare" in request:
            try:
                work = works[name] = prepare(request["prepare"])
                for _ in range(3):  # The first compiles, the second warms up.
                    began = time.perf_counter()
                    work(1)
                    estimates[name] = time.perf_counter() - began
                    if estimates[name] > TOO_LONG:
                        break
                answer = {"estimate": estimates[name]}
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {str(error)[:200]}"}
        elif "seconds" in request:
            count = max(1, round(request["seconds"] / estimates[name]))
            began = time.perf_counter()
            works[name](count)
            estimates[name] = (time.perf_counter() - began) / count
            answer = {"one": estimates[name]}
        elif "forget" in request:
            works.clear()
            work = None
        elif "peak" in request:
            answer = {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
        print(json.dumps(answer), file=answers, flush=True)


class Peer:
    """The other end of `serve`."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """One request, one answer."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args} ended with {self.process.wait()}")
        return json.loads(line)


@contextlib.contextmanager
def started(command: list[str], environment: dict[str, str]) -> Iterator[Peer]:
    """A peer that ends with the block."""
    peer = Peer(command, environment)
    try:
        yield peer
    finally:
        assert peer.process.stdin
        peer.process.stdin.close()
        peer.process.wait()
