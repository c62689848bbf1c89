"""python -m jaxlm.generate: continue a prompt by sampling."""

if __name__ == "__main__":
    # Before the other imports, which take a second.
    from jaxlm.commands.interrupt import end_quietly

    end_quietly()

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from jaxlm.commands import cli
from jaxlm.commands.plugins import load_plugin
from jaxlm.commands.starts import say_start
from jaxlm.evaluation.generation import (
    SamplingConfig,
    UnknownWords,
    generation_note,
    sample,
)
from jaxlm.runs.run import load

ABOUT = """Continue a prompt by sampling from the model.

Examples:
  python -m jaxlm.generate runs/lstm-ptb --prompt "the company" --length 50
  python -m jaxlm.generate runs/lstm-shakespeare --temperature 0.8 --top-p 0.95 --samples 3 --seed 1
"""


@dataclass(frozen=True)
class Command(SamplingConfig):
    """Settings of `python -m jaxlm.generate`."""

    run: tyro.conf.Positional[Path] = tyro.MISSING
    """Folder of the run."""
    prompt: str = ""
    """Text to continue (default: the start of a line)."""
    plugin: Path | None = None
    """Run this Python file first; it registers models or cells of your own."""
    checkpoint_folder: str | None = None
    """Where the checkpoints are, if they were trained with --checkpoint-folder (none: in the run's
    folder)."""


def main(argv: Sequence[str]) -> int:
    """Print the continuations, separated by lines of dashes."""
    command = cli.parse(Command, argv, prog="python -m jaxlm.generate", about=ABOUT)
    load_plugin(command.plugin)
    run = load(command.run, checkpoint_folder=command.checkpoint_folder)
    say_start(run, command.start)
    texts = sample(run, command.prompt, command)
    for note in (generation_note(run), UnknownWords(run).note(command.prompt)):
        if note:
            # Not on standard output, which has the texts alone.
            print(f"note: {cli.with_flags(note)}", file=sys.stderr, flush=True)
    print("\n----\n".join(texts))
    return 0


if __name__ == "__main__":
    cli.run(main)
