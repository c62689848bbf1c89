"""List the commands, or run one: `python -m jaxlm` and the console script `jaxlm`."""

import runpy
import sys

import jaxlm
from jaxlm.errors import UserError, choose

COMMANDS = {
    "train": "train a model on a corpus, and keep it",
    "evaluate": "exact perplexity of one run or several",
    "predict": "the next words after a context",
    "generate": "continue a prompt",
    "prepare": "any amount of text to memory-mapped token ids",
    "convert": "a run to a file of another program, or a file to a run",
}


def main() -> None:
    """Run the command that the first argument names, like `python -m jaxlm.<command>`."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print("jaxlm: the ladder of classic language models, in JAX\n\ncommands:")
        for command, about in COMMANDS.items():
            print(f"  python -m jaxlm.{command:9} {about}")
        print(
            "\nstart with:  python -m jaxlm.train --model nplm\nhelp:        python -m "
            "jaxlm.train --help"
        )
        return
    if name == "--version":
        print(f"jaxlm {jaxlm.__version__}")
        return
    try:
        choose(COMMANDS, name, "command")
    except UserError as error:
        from jaxlm.commands.cli import fail

        sys.exit(fail(str(error)))
    # A command is a module that runs as __main__, whoever starts it.
    sys.argv = [f"jaxlm {name}", *sys.argv[2:]]
    runpy.run_module(f"jaxlm.{name}", run_name="__main__")


if __name__ == "__main__":
    main()
