"""Run the commands of an experiment, as typed in a shell."""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PLAIN = Path(__file__).with_name("plain.json")
"""Settings that change nothing, `{}`. Without --recipe and --config, a text by path is trained with
the recipe `own-text`, and a corpus with a name with the library's defaults. With `--config PLAIN`,
both have the library's defaults."""


def run(*commands: str) -> None:
    """Run each `python -m jaxlm...` command, and resume interrupted training.

    The first argument on the command line is the folder that holds the corpora. Without it, corpora
    are fetched by name. The settings are the same (PLAIN).
    """
    for command in commands:
        words = shlex.split(command)
        if "--corpus" in words:
            place = words.index("--corpus") + 1
            words[place] = find_corpus(words[place])
            if "jaxlm.train" in words and not {"--recipe", "--config"} & set(words):
                words += ["--config", str(PLAIN)]
        if "--out" in words and Path(words[words.index("--out") + 1], "config.json").exists():
            words.append("--resume")
        print("$", shlex.join(words), flush=True)
        call(words[1:])


def find_corpus(name: str, folder: Path | None = None) -> str:
    """Return the path of a corpus in `folder`, or its name if the folder does not have the corpus.

    A corpus is fetched by its name. The default of `folder` is the first argument on the command
    line, unless it is a flag; without either, the function returns the name. If the folder does not
    exist, the program ends with exit code 2.
    """
    if folder is None and len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        folder = Path(sys.argv[1])
    if folder is None:
        return name
    if not folder.is_dir():
        print(
            f"error: {folder} is not a folder; give the folder that holds {name}/", file=sys.stderr
        )
        sys.exit(2)
    return str(folder / name) if (folder / name).exists() else name


def call(words: Sequence[str]) -> None:
    """Run `python words...`. If it fails, end this program with the same exit code."""
    code = subprocess.run([sys.executable, *words], check=False).returncode
    if code:
        sys.exit(code if code > 0 else 128 - code)
