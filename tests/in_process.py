"""Run a command of jaxlm in this process, as `python -m` runs it."""

import contextlib
import runpy
import sys


def run_module(name, argv):
    """Run `python -m NAME ARGV` in this process, and return its exit code; 0 if it has none.

    `sys.argv` and the imported modules are the same afterwards.
    """
    # A new process would import the command again. `python -m jaxlm predict` runs two modules.
    names = [name, *(f"jaxlm.{word}" for word in argv[:1] if name == "jaxlm.__main__")]
    with contextlib.ExitStack() as stack:
        stack.callback(setattr, sys, "argv", sys.argv)
        for module in names:
            if module in sys.modules:
                stack.callback(sys.modules.__setitem__, module, sys.modules.pop(module))
        sys.argv = [name.removeprefix("jaxlm."), *map(str, argv)]
        try:
            runpy.run_module(name, run_name="__main__")
        except SystemExit as exit_:
            return exit_.code or 0
    return 0
