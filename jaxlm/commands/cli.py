"""Code that every command shares: reading flags, and reporting a user's mistake in one line."""

import contextlib
import errno
import gc
import io
import itertools
import os
import re
import shutil
import sys
import textwrap
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO, TypeVar, get_args

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from jaxlm.commands.flags import check_flags, first_flags, flags_of, with_known_flags
from jaxlm.commands.process import keep_compiled_programs, silence_libraries
from jaxlm.commands.terminal import OutputClosedError, any_terminal, exit_code
from jaxlm.data.files import is_device
from jaxlm.errors import UserError, reason

T = TypeVar("T")
NONE = "none"
_registry = ConstructorRegistry()


@_registry.primitive_rule
def _optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """Return tyro's rule for a type such as `int | None`: the flag takes INT or `none`.

    The help shows INT, and `none` in any case means None. For other types the result is None, which
    leaves them to tyro's own rules.
    """
    kinds = get_args(info.type)
    if len(kinds) != 2 or types.NoneType not in kinds:
        return None
    kind = next(kind for kind in kinds if kind is not types.NoneType)
    spec: Any = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kind, info.markers))
    return replace(
        spec,
        instance_from_str=lambda words: (
            None if [word.lower() for word in words] == [NONE] else spec.instance_from_str(words)
        ),
        is_instance=lambda value: value is None or spec.is_instance(value),
        str_from_instance=lambda value: [NONE] if value is None else spec.str_from_instance(value),
    )


HELP = {"-h", "--help"}
HELP_ALL = {"--help-all"}
# Flags of version 0.1.0 and their present names; values of flags and their present spelling.
OLD_FLAGS = {"--kernel": "--time-loop", "--features": "--positions"}
OLD_VALUES = {("--positions", "every"): "all"}


def with_new_flags(argv: Sequence[str]) -> list[str]:
    """Return the arguments with the flags of version 0.1.0 spelled as they are now."""
    words: list[str] = []
    for word in argv:
        flag, equals, value = word.partition("=")
        flag = OLD_FLAGS.get(flag, flag)
        before = words[-1] if words else ""
        if equals:
            word = f"{flag}={OLD_VALUES.get((flag, value), value)}"
        else:
            word = OLD_VALUES.get((before, flag), flag)
        words.append(word)
    return words


def parse(
    kind: type[T],
    argv: Sequence[str],
    *,
    prog: str,
    about: str,
    default: Any = None,
    first: Mapping[str, Collection[str]] | None = None,
    elsewhere: Mapping[str, str] | None = None,
) -> T:
    """Return the dataclass `kind` with the values of the flags.

    Args:
      kind: a dataclass; each field is a flag, and the text below it is the flag's help.
      argv: the arguments of the command.
      prog: the command, for the help text.
      about: the description, for the help text.
      default: an instance of `kind` with the default values; None for the defaults of its fields.
      first: names of the flags that --help shows, by the title of a box; --help-all shows all
        flags. None: both show all flags.
      elsewhere: for flags that a user may expect here, what to say of them.
    Raises:
      UserError: for a flag that does not exist, and a value that a flag cannot take.
      SystemExit: after the help was printed.
    """
    flags = flags_of(kind, default)
    words = with_known_flags(with_new_flags(argv), flags)
    if not HELP_ALL.isdisjoint(words):
        words = ["--help"]
    elif first is not None and not HELP.isdisjoint(words):
        shown, values = first_flags(flags_of(kind, default, helps=True), first)
        count = len(flags_of(shown, values))
        more = f"These are {count} of {len(flags)} flags. {prog} --help-all shows all of them."
        kind, default, about, words = shown, values, f"{about}\n{more}", ["--help"]
    options: dict[str, Any] = {} if default is None else {"default": default}
    errors, page = io.StringIO(), _Page(sys.stdout)
    try:
        with (
            contextlib.redirect_stderr(errors),
            contextlib.redirect_stdout(page),
            _registry,
            _wide_enough() as columns,
        ):
            return tyro.cli(
                kind,
                args=words,
                prog=prog,
                description=_ABOUT,
                config=(tyro.conf.OmitArgPrefixes,),
                **options,
            )
    except SystemExit as exit_:
        if exit_.code in (0, None):
            print(page.getvalue().replace(_ABOUT, _wrapped(about, columns), 1), end="")
            raise
        message = _one_line(errors.getvalue())
        try:
            if message.startswith("Unrecognized options"):
                check_flags(words, flags, elsewhere or {})
                message = _unexpected(message)
        except UserError as error:
            message = str(error)
        raise UserError(_see_help(message, prog)) from None


NARROWEST = 40
"""Columns of the narrowest help. tyro never ends if the terminal has one or two columns."""


@contextlib.contextmanager
def _wide_enough() -> Iterator[int]:
    """Return a context in which the terminal counts as NARROWEST columns or more: the columns."""
    name = "COLUMNS"
    before, columns = os.environ.get(name), max(NARROWEST, shutil.get_terminal_size().columns)
    os.environ[name] = str(columns)
    try:
        yield columns
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


# Stands for the description in tyro's help, because tyro joins the lines of a description.
_ABOUT = "ABOUT"


class _Page(io.StringIO):
    """Keeps the help that tyro prints, with the colours and frames that `output` can show."""

    def __init__(self, output: TextIO) -> None:
        super().__init__()
        self._output = output

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._output.encoding

    def isatty(self) -> bool:
        return self._output.isatty()


def _wrapped(about: str, columns: int) -> str:
    """Return a description whose lines fit `columns`.

    Indented lines are commands: they go on after a backslash, between two arguments. Other lines
    are paragraphs.
    """
    lines: list[str] = []
    for is_prose, group in itertools.groupby(
        about.splitlines(), lambda line: bool(line) and not line.startswith(" ")
    ):
        if is_prose:
            lines.append(textwrap.fill(" ".join(group), columns, **_BREAKS))
            continue
        for line in group:
            # A flag stays with its value, and a text in quotes stays whole.
            whole = re.sub(r"""(["']).*?\1""", lambda quoted: quoted[0].replace(" ", _KEPT), line)
            whole = re.sub(r"( -\S+) (?!-)", rf"\1{_KEPT}", whole)
            parts = textwrap.wrap(whole, columns - 2, subsequent_indent=6 * " ", **_BREAKS)
            lines.append(" \\\n".join(parts).replace(_KEPT, " "))
    return "\n".join(lines)


# A space at which `_wrapped` does not break a line.
_KEPT = "\N{NO-BREAK SPACE}"
_BREAKS: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}


def _see_help(message: str, prog: str) -> str:
    """Return a message that ends with the command that shows the help."""
    return (
        f"{message} See {prog} --help" if message.endswith("?") else f"{message}; see {prog} --help"
    )


def _unexpected(message: str) -> str:
    """Return tyro's message about arguments that are no flags, in other words."""
    words = message.split(":", 1)[1].split("Perhaps you meant")[0].strip()
    return f"unexpected argument {words}"


def given_flags(kind: type[Any], argv: Sequence[str]) -> set[str]:
    """Return the names of the fields of `kind` whose flags are among the arguments.

    A word of another program counts as the flag that it stands for.

    Args:
      kind: a dataclass; each field is a flag.
      argv: the arguments of the command.
    """
    words = with_known_flags(with_new_flags(argv), flags_of(kind))
    flags = (word.partition("=")[0] for word in words if word.startswith("--"))
    return {flag.removeprefix("--").replace("-", "_") for flag in flags}


def parse_known(kind: type[T], argv: Sequence[str], *, prog: str) -> T:
    """Return the dataclass `kind` with the values of its flags; other flags are ignored.

    Args:
      kind: a dataclass; each field is a flag.
      argv: the arguments of the command.
      prog: the command, for the error.
    Raises:
      UserError: for a value that a flag cannot take.
    """
    words = with_known_flags(with_new_flags(argv), flags_of(kind))
    words = [word for word in words if word not in HELP | HELP_ALL]
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), _registry, _wide_enough():
            known, _ = tyro.cli(kind, args=words, return_unknown_args=True, add_help=False)
            return known
    except SystemExit:
        raise UserError(_see_help(_one_line(errors.getvalue()), prog)) from None


def _one_line(box: str) -> str:
    """Return the message of tyro's box on one line, without frame, title and advice.

    Where the output is not UTF-8, the frame is made of hyphens.
    """
    lines = [re.sub(r"[╭╮╰╯│─]", "", line).strip() for line in box.splitlines()]
    words = " ".join(line for line in lines[1:] if line.strip("-"))
    words = re.split(r"For full helptext|Argument helptext:", words)[0]
    words = re.sub(r"\s+", " ", words).strip().removesuffix(".")
    return re.sub(r"^Error parsing \w+: ", "", words)


def run(main: Callable[[Sequence[str]], int], goes_on: bool = False) -> None:
    """Run a command and end the process with its exit code.

    A user's mistake is one line on standard error and exit code 2, without a traceback.

    Args:
      main: the command: (arguments) -> exit code.
      goes_on: whether the command goes on if its output cannot be written, because it saves its
        result in files.
    """
    silence_libraries()
    keep_compiled_programs()
    # The objects of imported libraries live until the end. Garbage collections do not search frozen
    # objects, which would take a tenth of a second each time.
    gc.freeze()
    with any_terminal(goes_on) as output:
        try:
            if "--version" in sys.argv[1:]:
                # The package itself is above this module, which must not import it by name.
                print(f"jaxlm {sys.modules['jaxlm'].__version__}")
                code = 0
            else:
                code = main(sys.argv[1:])
            sys.stdout.flush()
        except UserError as error:
            code = fail(str(error))
        except (MemoryError, RuntimeError) as error:
            # JAX's error is a RuntimeError.
            if isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
                raise
            code = fail("the memory is full: give less at a time, or use a larger machine")
        except KeyboardInterrupt:
            code = 130
        except OutputClosedError:
            code = 0
        code = exit_code(code, output.error)
        if output.error is not None and output.error.errno != errno.EPIPE:
            why = reason(output.error)
            went_on = "; the command went on without it" if goes_on else ""
            print(f"error: standard output cannot be written: {why}{went_on}", file=sys.stderr)
    # Python would search for garbage for half a second before it exits.
    gc.freeze()
    sys.exit(code)


# Arguments of library functions, and their flags if these have another name.
FLAGS = {"folder": "out", "count": "top", "from_run": "from"}


def with_flags(message: str) -> str:
    """Return a message of the library with its `settings` spelled as flags, --settings."""

    def flag(match: re.Match[str]) -> str:
        no = "no-" if match[2] == "False" else ""
        return f"--{no}{FLAGS.get(match[1], match[1]).replace('_', '-')}"

    # A switch has no value: `eos` False is --no-eos.
    return re.sub(r"`([a-z][a-z0-9_]*)`(?: (True|False)\b)?", flag, message)


def say(note: str | None) -> None:
    """Print a note on standard error. The results are on standard output. None prints nothing."""
    if note:
        print(f"note: {with_flags(note)}", file=sys.stderr, flush=True)


def report_stream(table: Path | None) -> TextIO:
    """Return the stream of a command's report: standard output, beside a table in a file or none.

    A device such as /dev/stdout gets the table alone, and the report goes to standard error.
    """
    return sys.stdout if table is None or not is_device(table) else sys.stderr


def fail(message: str) -> int:
    """Print the one line of a user's mistake and return the exit code, 2."""
    print(f"error: {' '.join(with_flags(message).split())}", file=sys.stderr)
    return 2
