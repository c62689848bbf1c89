"""`python -m jaxlm` and the console script `jaxlm`: lists the commands, or runs one."""

import runpy
import sys

from jaxlm.commands.cli import fail
from jaxlm.errors import UserError, choose

COMMANDS = {
    "train": "train a model on a corpus, and keep it",
    "evaluate": "exact perplexity of one run or several",
    "predict": "the next words after a context",
    "generate": "continue a prompt",
    "prepare": "any amount of text to memory-mapped token ids",
    "convert": "an n-gram to an ARPA file, or an ARPA file to a run",
}


def main() -> None:
    """Runs the command named first, as `python -m jaxlm.<command>` would."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print("jaxlm: the ladder of classic language models, in JAX\n\ncommands:")
        for name, about in COMMANDS.items():
            print(f"  python -m jaxlm.{name:9} {about}")
        print(
            "\nstart with:  python -m jaxlm.train --model nplm\nhelp:        python -m "
            "jaxlm.train --help"
        )
        return
    name = sys.argv[1]
    try:
        choose(COMMANDS, name, "command")
    except UserError as error:
        sys.exit(fail(str(error)))
    # Not imported: a command is a module that runs as __main__, whoever starts it.
    sys.argv = [f"jaxlm {name}", *sys.argv[2:]]
    runpy.run_module(f"jaxlm.{name}", run_name="__main__")


if __name__ == "__main__":
    main()
