"""Runs the commands of an experiment as a person would type them."""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def run(*commands: str) -> None:
    """Runs each `python -m jaxlm...` line; training that was cut off is resumed.

    A first argument on the command line is the folder that holds the corpora (default: they are
    fetched by name).
    """
    for command in commands:
        words = shlex.split(command)
        if "--corpus" in words:
            place = words.index("--corpus") + 1
            words[place] = find_corpus(words[place])
        if "--out" in words and Path(words[words.index("--out") + 1], "config.json").exists():
            words.append("--resume")
        print("$", shlex.join(words), flush=True)
        call(words[1:])


def find_corpus(name: str, folder: Path | None = None) -> str:
    """The corpus of that name in `folder` (default: the first argument on the command line), or
    just the name, which is fetched, where no folder is given or the corpus is not in it. Ends the
    program, with exit code 2, for a folder that is not there.
    """
    if folder is None and len(sys.argv) > 1:
        folder = Path(sys.argv[1])
    if folder is None:
        return name
    if not folder.is_dir():
        print(f"error: {folder} is no folder: give one that holds {name}/", file=sys.stderr)
        sys.exit(2)
    return str(folder / name) if (folder / name).exists() else name


def call(words: Sequence[str]) -> None:
    """Runs `python words...`; if it fails it has said why, and this program ends as it did."""
    code = subprocess.run([sys.executable, *words], check=False).returncode
    if code:
        sys.exit(code if code > 0 else 128 - code)
