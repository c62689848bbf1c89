"""Tiny texts, models, runs and commands that the tests of training share."""

import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from in_process import run_module
from rich.console import Console

import jaxlm
from jaxlm.runs.checkpoints import Checkpoints
from jaxlm.runs.folder import CHECKPOINTS
from jaxlm.training.averaging import make_average
from jaxlm.training.optimizers import Horizon, OptimizerConfig, make_optimizer
from jaxlm.training.state import TrainState


def write_text(path: Path, lines: int = 300, words: int = 40, seed: int = 0) -> Path:
    """Write lines of unequal length, in which each word depends on the previous word.

    Args:
      path: the file.
      lines: number of lines.
      words: size of the vocabulary.
      seed: seed of the random words.
    """
    draw = random.Random(seed)
    rows = []
    for _ in range(lines):
        row = [draw.randrange(words)]
        for _ in range(draw.randint(1, 8)):
            row.append((row[-1] * 7 + draw.randrange(4)) % words)
        rows.append(" ".join(f"w{word}" for word in row))
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def make(kind: type, text: jaxlm.Text, **sizes: object) -> jaxlm.LanguageModel:
    sizes = {"embedding_size": 8, "hidden_size": 8} | sizes
    return kind(len(text.vocabulary), text.vocabulary.start_id, **sizes)


def fit(model, text, folder=None, *, console=None, **options):
    """Run `jaxlm.fit` without output on the terminal.

    Args:
      model: the model.
      text: the text.
      folder: folder of the run; None to keep the run in memory.
      console: console for the output; None to discard the output.
      options: options of `jaxlm.fit`.
    """
    return jaxlm.fit(model, text, folder=folder, console=console or quiet(), **options)


def whole_state(folder: Path) -> tuple[dict[str, np.ndarray], dict]:
    """Return all arrays of the last checkpoint (parameters, optimizer, carry, ...) and its meta."""
    run = jaxlm.load(folder)
    config = OptimizerConfig(**run.settings["optimizer"])
    optimizer = make_optimizer(config, Horizon(1, 1))
    average = make_average(config)
    template = TrainState(
        step=jnp.int32(0),
        params=run.params,
        opt_state=optimizer.init(run.params),
        carry=run.model.initial_carry(run.settings["batching"]["batch_size"]),
        lr_scale=jnp.float32(1),
        iterate=run.params if average else None,
        averaged=jnp.float32(0) if average else None,
    )
    warnings: list[str] = []
    checkpoints = Checkpoints(folder / CHECKPOINTS, warnings.append)
    restored = checkpoints.restore(template)
    checkpoints.close()
    assert restored and not warnings, warnings
    return named_arrays(restored[0]), restored[1]


def named_arrays(tree: object) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def assert_same_arrays(tree: object, other: object) -> None:
    """Assert that two trees have the same names and equal arrays, to the last bit."""
    first, second = named_arrays(tree), named_arrays(other)
    assert first.keys() == second.keys()
    different = [name for name in first if first[name].tobytes() != second[name].tobytes()]
    assert not different, f"not the same bytes: {different}"


def assert_same_run(folder: Path, other: Path) -> None:
    """Assert equal bytes in metrics.jsonl, in the last state, and in the best parameters."""
    assert (folder / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    (state, meta), (other_state, other_meta) = whole_state(folder), whole_state(other)
    assert_same_arrays(state, other_state)
    assert meta == other_meta
    best, other_best = jaxlm.load(folder), jaxlm.load(other)
    assert best.step == other_best.step
    assert_same_arrays(best.params, other_best.params)


def records(folder: Path, split: str | None = None) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    return [record for record in found if split in (None, record["split"])]


def without_report(argv: list) -> list[str]:
    """Return the arguments with --no-report, unless they have --report: a report takes a second."""
    return list(map(str, argv if "--report" in argv else ["--no-report", *argv]))


def run_here(argv: list) -> int:
    """Run `python -m jaxlm.train ARGV` in this process, and return its exit code.

    The run has no report, unless ARGV has --report.
    """
    return run_module("jaxlm.train", without_report(argv))


LIMITED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.argv[1:2] = []
runpy.run_module("jaxlm.train", run_name="__main__")
"""


def start(argv: list, output: Path, cached: bool = True, file_size: int | None = None):
    """Start `python -m jaxlm.train ARGV` in a new process.

    The run has no report, unless ARGV has --report.

    Args:
      argv: arguments of the command.
      output: file for standard output; standard error goes to a file with the suffix .err.
      cached: whether the process may read programs that other tests compiled.
      file_size: limit of the size of each file that the process writes, in bytes; None for none.
    """
    command = ["-m", "jaxlm.train"] if file_size is None else ["-c", LIMITED, file_size]
    environment = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
    if not cached:
        del environment["JAX_COMPILATION_CACHE_DIR"]
    with open(output, "wb") as out, open(f"{output}.err", "wb") as err:
        return subprocess.Popen(
            [sys.executable, "-u", *map(str, command), *without_report(argv)],
            stdout=out,
            stderr=err,
            env=environment,
        )


def finish(argv: list, output: Path, **options) -> tuple[int, str, str]:
    """Run the command to its end; return exit code, standard output and standard error."""
    process = start(argv, output, **options)
    try:
        code = process.wait(timeout=90)
    finally:
        process.kill()
        process.wait()
    return code, output.read_text(encoding="utf-8"), error_output(output)


def error_output(output: Path) -> str:
    return Path(f"{output}.err").read_text(encoding="utf-8")


def assert_user_error(code: int, err: str) -> None:
    """Assert exit code 2 and a single line that begins with `error:`."""
    assert code == 2, err[-500:]
    assert err.startswith("error: ") and err.count("\n") == 1, err[:500]


class ActingConsole(Console):
    """A console that calls `action` when the run prints a line with `words`."""

    def __init__(self, words, action):
        super().__init__(file=io.StringIO(), width=200)
        self.words, self.action, self.lines = words, action, []

    def print(self, *things, **options):
        self.lines.append(str(things[0]))
        if self.words in self.lines[-1]:
            self.action()


def terminate():
    assert threading.current_thread() is threading.main_thread()
    signal.raise_signal(signal.SIGTERM)
