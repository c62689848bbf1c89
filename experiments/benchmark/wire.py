"""How the benchmark and the processes it times talk: a JSON object a line.

Each peer is one process, and only one of them is asked to work at a time, so that they alternate
without sharing the cores.
"""

import contextlib
import json
import resource
import select
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
                reason = str(error).split(". ")[0][:200]
                answer = {"error": f"{type(error).__name__}: {reason}"}
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
    """The other end of `serve`. One that does not answer within `patience` seconds is ended, and
    started afresh when it is asked again.
    """

    def __init__(self, command: list[str], environment: dict[str, str], patience: float) -> None:
        self.command, self.environment, self.patience = command, environment, patience
        self.process: subprocess.Popen[str] | None = None

    def ask(self, **request: Any) -> dict[str, Any]:
        """One request, one answer: {"error": ...} if it took too long."""
        if self.process is None:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=self.environment,
            )
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        # Nothing is left in the reader between two answers, so waiting on its file is enough.
        if not select.select([self.process.stdout], [], [], self.patience)[0]:
            self.process.kill()
            self.end()
            return {"error": f"over {self.patience:.0f} s"}
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.command} ended with {self.process.wait()}")
        return json.loads(line)

    def end(self) -> None:
        """Ends the process."""
        if self.process is not None:
            assert self.process.stdin and self.process.stdout
            self.process.stdin.close()
            self.process.stdout.close()
            self.process.wait()
            self.process = None


@contextlib.contextmanager
def started(command: list[str], environment: dict[str, str], patience: float) -> Iterator[Peer]:
    """A peer that ends with the block."""
    peer = Peer(command, environment, patience)
    try:
        yield peer
    finally:
        peer.end()
