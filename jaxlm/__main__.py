"""List the commands, or run one: `python -m jaxlm` and the console script `jaxlm`."""

import contextlib
import runpy
import sys

import jaxlm
from jaxlm.commands.terminal import OutputClosedError, any_terminal, exit_code
from jaxlm.errors import UserError, choose

COMMANDS = {
    "train": "train a model on a corpus, and keep it",
    "evaluate": "exact perplexity of one run or several",
    "score": "the surprisal of each word of sentences",
    "pairs": "minimal pairs, such as BLiMP: how often the good sentence wins",
    "compare": "two runs on a text, line by line: is one better?",
    "predict": "the next words after a context",
    "generate": "continue a prompt",
    "show": "a page that shows what a model does inside",
    "prepare": "any amount of text to memory-mapped token ids",
    "convert": "a run to a file of another program, or a file to a run",
    "serve": "next words, scores and continuations over HTTP",
    "lecture": "the lecture on these models, step by step",
}


def _show(*lines: str) -> int:
    """Print lines to any terminal, also to a pipe that is closed early; return the exit code."""
    with any_terminal(goes_on=False) as output:
        with contextlib.suppress(OutputClosedError):
            print("\n".join(lines), flush=True)
        return exit_code(0, output.error)


def main() -> int:
    """Run the command that the first argument names, like `python -m jaxlm.<command>`.

    Returns:
      The exit code of the list of commands. A command itself ends the process.
    """
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        lines = [f"  python -m jaxlm.{command:9} {about}" for command, about in COMMANDS.items()]
        return _show(
            "jaxlm: the ladder of classic language models, in JAX\n\ncommands:",
            *lines,
            "\nstart with:  python -m jaxlm.train --model nplm",
            "help:        python -m jaxlm.train --help",
        )
    if name == "--version":
        return _show(f"jaxlm {jaxlm.__version__}")
    try:
        choose(COMMANDS, name, "command")
    except UserError as error:
        from jaxlm.commands.cli import fail

        return fail(str(error))
    # A command is a module that runs as __main__, whoever starts it.
    sys.argv = [f"jaxlm {name}", *sys.argv[2:]]
    runpy.run_module(f"jaxlm.{name}", run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main())
