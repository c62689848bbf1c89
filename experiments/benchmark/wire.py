"""The protocol between the benchmark and the processes that it times: one JSON object per line.

Each peer is a process. Only one peer works at a time, so peers do not share the cores.
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
"""Work whose single repetition takes longer than this many seconds is timed once."""
Work = Callable[[int], None]
"""work(n) repeats the timed work n times, and returns when the result is computed."""


def serve(prepare: Callable[[dict[str, Any]], Work], about: dict[str, Any]) -> None:
    """Answer requests until standard input ends.

    - {"about": true}: answer with `about`.
    - {"prepare": {...}, "name": n}: prepare the work named n, run it a few times, and answer with
      the seconds of one repetition.
    - {"seconds": s, "name": n}: repeat the work for about s seconds, and answer with the seconds
      of one repetition.
    - {"forget": true}: free all works.
    - {"peak": true}: answer with the peak memory of this process, in bytes.
    """
    # Libraries may print to standard output; only answers belong there.
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
                for _ in range(3):  # The first run compiles, the second warms up.
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
            answer = {"seconds": estimates[name]}
        elif "forget" in request:
            works.clear()
            work = None
        elif "peak" in request:
            answer = {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
        print(json.dumps(answer), file=answers, flush=True)


class Peer:
    """The client of `serve`.

    A process that does not answer within `patience` seconds is killed. The next request starts a
    new process.
    """

    def __init__(self, command: list[str], environment: dict[str, str], patience: float) -> None:
        self.command, self.environment, self.patience = command, environment, patience
        self.process: subprocess.Popen[str] | None = None

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and return the answer, or {"error": ...} after `patience` seconds."""
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
        # The reader's buffer is empty between two answers, so waiting for the file is enough.
        if not select.select([self.process.stdout], [], [], self.patience)[0]:
            self.process.kill()
            self.end()
            return {"error": f"over {self.patience:.0f} s"}
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.command} ended with {self.process.wait()}")
        return json.loads(line)

    def end(self) -> None:
        """End the process."""
        if self.process is not None:
            assert self.process.stdin and self.process.stdout
            self.process.stdin.close()
            self.process.stdout.close()
            self.process.wait()
            self.process = None


@contextlib.contextmanager
def started(command: list[str], environment: dict[str, str], patience: float) -> Iterator[Peer]:
    """Yield a peer, and end its process when the block ends."""
    peer = Peer(command, environment, patience)
    try:
        yield peer
    finally:
        peer.end()
