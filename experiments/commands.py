"""Runs the commands of an experiment as a person would type them."""

import shlex
import subprocess
import sys
from pathlib import Path


def run(*commands: str) -> None:
    """Runs each `python -m jaxlm...` line; training that was cut off is resumed.

    A first argument on the command line is the folder that holds the corpora (default: they are
    fetched by name).
    """
    data = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    for command in commands:
        words = shlex.split(command)
        if data and "--corpus" in words:
            place = words.index("--corpus") + 1
            local = data / words[place]
            words[place] = str(local) if local.exists() else words[place]
        if "--out" in words and Path(words[words.index("--out") + 1], "config.json").exists():
            words.append("--resume")
        print("$", shlex.join(words), flush=True)
        subprocess.run([sys.executable, *words[1:]], check=True)
