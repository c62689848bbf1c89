"""python -m jaxlm.generate: continue a prompt by sampling."""

if __name__ == "__main__":
    # Before the other imports, which take a second.
    from jaxlm.commands.interrupt import end_quietly

    end_quietly()

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from jaxlm.commands import cli
from jaxlm.commands.mixing import describe_weights, load_mixed
from jaxlm.commands.plugins import load_plugin
from jaxlm.commands.starts import say_start
from jaxlm.errors import UserError
from jaxlm.evaluation.generation import (
    SamplingConfig,
    UnknownWords,
    generation_note,
    sample,
)

ABOUT = """Continue a prompt by sampling from the model.

Examples:
  python -m jaxlm.generate runs/lstm-ptb --prompt "the company" --length 50
  python -m jaxlm.generate runs/lstm-shakespeare --temperature 0.8 --top-p 0.95 --samples 3 --seed 1
  python -m jaxlm.generate runs/lstm-ptb runs/ngram-ptb --mix --weights .7,.3
"""


@dataclass(frozen=True)
class Command(SamplingConfig):
    """Settings of `python -m jaxlm.generate`."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Folder of the run, or with --mix the folders of several runs."""
    mix: bool = False
    """Draw from the interpolated probabilities of several runs."""
    weights: str | None = None
    """With --mix: weights, such as .7,.3 (none: the best on the validation split, by EM)."""
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
    check_flags(command)
    load_plugin(command.plugin)
    run = load_mixed(command.runs, command.weights, command.checkpoint_folder)
    # A shell passes the backslash on.
    stop = tuple(text.replace("\\n", "\n") for text in command.stop)
    texts = sample(run, command.prompt, replace(command, stop=stop))
    say_start(run, command.start)
    notes = describe_weights(run), generation_note(run), UnknownWords(run).note(command.prompt)
    for note in notes:
        cli.say(note)
    print("\n----\n".join(texts))
    return 0


def check_flags(command: Command) -> None:
    """Raise UserError for flags that cannot be used together."""
    if not command.runs:
        raise UserError("name a run: python -m jaxlm.generate runs/lstm-ptb")
    if command.mix and len(command.runs) < 2:
        raise UserError("--mix needs two runs or more: name another run, or leave --mix out")
    if len(command.runs) > 1 and not command.mix:
        raise UserError(
            f"{len(command.runs)} runs: add --mix to draw from their interpolated probabilities"
        )
    if command.weights is not None and not command.mix:
        raise UserError("--weights needs --mix: add it, or leave --weights out")


if __name__ == "__main__":
    cli.run(main)
