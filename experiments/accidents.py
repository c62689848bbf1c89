"""Kill commands at random moments, continue them, and compare the end with an undisturbed command.

Command    python experiments/accidents.py --kills 100
Hardware   two CPU cores
Minutes    29, on cores shared with other programs
Expected   nothing is lost beyond the last finished save, and every end has the same bytes
Published  none

Each kind of command runs once undisturbed. Then it runs again, and SIGKILL ends it at a moment that
the seed draws: any moment of the command, or a moment soon after its next save. The same command
with --resume continues (`prepare` is only repeated), until it ends by itself. Then the folders are
compared: the arrays of the best parameters, the digests of every array of the last checkpoint, the
tables of the n-gram, the shards, tokenizer.json, and metrics.jsonl. The exit code is 1 if anything
differs, is lost, or if a command fails.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

SIZES = "--embedding-size 8 --hidden-size 8 --batch-size 4 --bptt 8"
PACE = "--steps {steps} --checkpoint-every 4 --eval-every 50 --log-every 5"


@dataclass(frozen=True)
class Kind:
    """A kind of command.

    words: the command after `python -m jaxlm.`; {text} and {texts} are the files of text. saves:
    names of the finished saves of a folder, whose numbers or times tell whether a save is lost.
    """

    words: str
    saves: Callable[[Path], dict[str, int]]
    resumes: bool = True


@dataclass
class Row:
    """A row of the table: what happened to the commands of a kind.

    kills: number of SIGKILLs. ends: number of commands that came to their end in spite of kills.
    continued: sessions that found finished saves. lost: train steps, tables or shards that were
    saved and then done again. identical: ends with the bytes of the undisturbed command. faults:
    lines that say what went wrong.
    """

    kills: int = 0
    ends: int = 0
    continued: int = 0
    lost: int = 0
    identical: int = 0
    faults: list[str] = field(default_factory=list)


def checkpoints(folder: Path) -> dict[str, int]:
    """Return the newest step with a finished checkpoint of every run in `folder`, as "step"."""
    runs = runs_in(folder)
    steps = [
        {int(path.name) for path in run.glob("checkpoints/last/*") if path.name.isdigit()}
        for run in runs
    ]
    common = set.intersection(*steps) if steps else set()
    return {"step": max(common)} if common else {}


def tables(folder: Path) -> dict[str, int]:
    """Return the times at which the tables of an n-gram were written, by name."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("ngrams/*.npy")}


def shards(folder: Path) -> dict[str, int]:
    """Return the times at which the finished shards of a prepared text were written, by name."""
    # The .json file of a shard says that the shard is finished.
    finished = (path.with_suffix("") for path in folder.glob("*.u16.json"))
    return {path.name: path.stat().st_mtime_ns for path in finished}


KINDS = {
    "lstm": Kind(f"train --model lstm --dropout 0.3 --corpus {{text}} {SIZES} {PACE}", checkpoints),
    "nplm": Kind(
        "train --model nplm --n-step 3 --embedding-size 8 --hidden-size 8 --batch-size 16 "
        f"--corpus {{text}} {PACE}",
        checkpoints,
    ),
    "seeds": Kind(f"train --model rnn --seeds 3 --corpus {{text}} {SIZES} {PACE}", checkpoints),
    "sweep": Kind(
        "train --model gru --dropout 0.2 --sweep lr=0.01,0.003 --average ema --corpus {text} "
        f"{SIZES} {PACE}",
        checkpoints,
    ),
    "ngram": Kind("train --model ngram --order 5 --corpus {long}", tables),
    "prepare": Kind("prepare {texts} --tokens words --workers 2", shards, resumes=False),
}


def main() -> int:
    """Read the flags, let accidents happen, print the table, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="kills of all kinds together")
    parser.add_argument("--steps", type=int, default=120, help="train steps of each run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--folder", type=Path, help="an empty folder (none: a temporary folder)")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = flags.folder or Path(temporary)
        files = write_texts(folder / "texts", flags.seed) | {"steps": str(flags.steps)}
        draw, faults = random.Random(flags.seed), []
        print("| kind | kills | continued | ends | lost | identical |\n|---|---|---|---|---|---|")
        for index, name in enumerate(flags.kinds):
            # The kills are shared out evenly.
            kills = (flags.kills + index) // len(flags.kinds)
            row = accidents(KINDS[name], files, folder / name, kills, draw)
            faults += [f"{name}: {fault}" for fault in row.faults]
            print(
                f"| {name} | {row.kills} | {row.continued} | {row.ends} | {row.lost} | "
                f"{row.identical} of {row.ends} |",
                flush=True,
            )
    for fault in faults:
        print(fault)
    return 1 if faults else 0


def write_texts(folder: Path, seed: int) -> dict[str, str]:
    """Write texts of random words, and return their paths by the names that `Kind.words` uses."""
    folder.mkdir(parents=True)
    draw = random.Random(seed)

    def text(name: str, lines: int) -> str:
        rows = [[draw.randrange(40)] for _ in range(lines)]
        for row in rows:
            for _ in range(draw.randint(1, 8)):
                row.append((row[-1] * 7 + draw.randrange(4)) % 40)
        path = folder / name
        path.write_text("".join(" ".join(f"w{word}" for word in row) + "\n" for row in rows))
        return str(path)

    texts = " ".join(text(f"part-{index}.txt", 3000) for index in range(16))
    return {"text": text("short.txt", 300), "long": text("long.txt", 60_000), "texts": texts}


def accidents(
    kind: Kind, files: dict[str, str], folder: Path, kills: int, draw: random.Random
) -> Row:
    """Run the command undisturbed, then under `kills` kills, and compare.

    Args:
      kind: the command.
      files: the texts, and the number of steps, by name.
      folder: where the folders of this kind are made.
      kills: number of kills.
      draw: random numbers.
    """
    folder.mkdir(parents=True)
    argv = ["-m", *f"jaxlm.{kind.words}".format(**files).split(), "--out"]
    row, whole = Row(), folder / "whole"
    began = time.perf_counter()
    printed = folder / "output.txt"
    code, output = finish(start([*argv, str(whole)], printed), printed)
    seconds = time.perf_counter() - began
    if code:
        return Row(faults=[f"the undisturbed command ended with {code}: {output}"])
    expected, reference = kind.saves(whole), contents(whole)
    assert expected and reference, "the command keeps nothing"
    while row.kills < kills:
        out, saves, ended = folder / f"run-{row.ends}", {}, False
        while not ended:
            resume = ["--resume"] if kind.resumes and runs_in(out) else []
            process = start([*argv, str(out), *resume], printed)
            if row.kills < kills and wait_for_accident(process, kind, out, seconds, draw):
                os.killpg(process.pid, signal.SIGKILL)
                code, output = finish(process, printed)
                row.kills += 1
            else:
                code, output = finish(process, printed)
                ended = True
            if code not in (0, -signal.SIGKILL):
                row.faults.append(f"a command ended with {code}: {output[-500:]}")
            row.continued += bool(saves)
            row.lost += lost_saves(saves, kind.saves(out), output)
            saves |= kind.saves(out)
        row.ends += 1
        differences = compare(reference, contents(out))
        row.identical += not differences
        if differences:
            row.faults.append(f"{out.name} differs in {', '.join(differences)}")
    if row.lost:
        row.faults.append(f"{row.lost} steps, tables or shards were lost")
    return row


def start(argv: list[str], output: Path) -> subprocess.Popen[bytes]:
    """Start Python with these arguments in a process group of its own."""
    with open(output, "wb") as file:
        return subprocess.Popen(
            [sys.executable, "-u", *argv],
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"COLUMNS": "200"},
        )


def wait_for_accident(
    process: subprocess.Popen[bytes], kind: Kind, out: Path, seconds: float, draw: random.Random
) -> bool:
    """Wait until the moment of a kill, and return whether the process still runs.

    Half of the moments are any moment of the command; the other half are 1 to 500 ms after the
    command's next save.

    Args:
      process: the command.
      kind: its kind.
      out: its folder.
      seconds: how long the undisturbed command takes.
      draw: random numbers.
    """
    end, after_save = time.monotonic() + draw.uniform(0, seconds), draw.random() < 0.5
    within = 10 ** draw.uniform(-3, -0.3)
    if after_save:
        before, end = kind.saves(out), time.monotonic() + 120
        while process.poll() is None and kind.saves(out) == before and time.monotonic() < end:
            time.sleep(0.002)
        end = time.monotonic() + within
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.001)
    return process.poll() is None


def finish(process: subprocess.Popen[bytes], printed: Path) -> tuple[int, str]:
    """Wait for the end of the process, and return its exit code and what it printed."""
    return process.wait(timeout=600), printed.read_text(encoding="utf-8", errors="replace")


def lost_saves(before: dict[str, int], now: dict[str, int], output: str) -> int:
    """Return the number of steps, tables or shards that were saved before and done again.

    Args:
      before: the finished saves before the command.
      now: the finished saves after the command.
      output: what the command printed.
    """
    if "step" not in before:
        return sum(now.get(name) != written for name, written in before.items())
    lost = max(0, before["step"] - now.get("step", 0))
    for line in output.splitlines():
        if "resumed at step" in line:
            step = int(line.split("resumed at step")[1].split()[0])
            lost = max(lost, before["step"] - step)
    return lost


def runs_in(folder: Path) -> list[Path]:
    """Return the folders of the runs in `folder`: itself, or its runs of --seeds and --sweep."""
    configs = [folder / "config.json", *sorted(folder.glob("*/config.json"))]
    return [path.parent for path in configs if path.exists()]


def contents(folder: Path) -> dict[str, bytes]:
    """Return what an accident must not change, by name."""
    found = dict(files_of(folder))
    for run in runs_in(folder):
        if not (run / "checkpoints").is_dir():
            continue
        import jaxlm

        name = run.relative_to(folder)
        for kind in ("last", "best"):
            # A command that is killed may leave more old checkpoints than `keep`.
            newest = max(run.glob(f"checkpoints/{kind}/*"), key=lambda path: int(path.name))
            # The digests of every array, and what the loop remembers.
            path = newest / "meta" / "metadata"
            found[f"{path.relative_to(folder)}"] = canonical(path)
        loaded = jaxlm.load(run)
        for index, array in enumerate(leaves(loaded.params)):
            found[f"{name}/parameters-{index}"] = np.asarray(array).tobytes()
    return found


def leaves(params: object) -> list[object]:
    """Return the arrays of a tree of parameters."""
    import jax

    return jax.tree.leaves(params)


def canonical(path: Path) -> bytes:
    """Return a JSON file with its keys in order."""
    return json.dumps(json.loads(path.read_text()), sort_keys=True).encode()


DIFFERENT = ("timing.jsonl", "samples.jsonl", "sessions.jsonl", "config.json", "report.html")


def files_of(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the names and bytes of the files that the seed and the text determine."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        # Times, commands, dates and their folders differ, and samples may be left out to save time.
        differs = path.name in DIFFERENT
        if path.is_file() and "checkpoints" not in name.parts and not differs:
            yield str(name), path.read_bytes()


def compare(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    """Return the names of what differs."""
    return [name for name in one | other if one.get(name) != other.get(name)]


if __name__ == "__main__":
    sys.exit(main())
