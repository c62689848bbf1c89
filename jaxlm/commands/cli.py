"""What every command shares: reading its flags, and telling a user's mistake in one line."""

import contextlib
import gc
import io
import os
import re
import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar, get_args

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from jaxlm.errors import UserError

T = TypeVar("T")
NONE = "none"
_registry = ConstructorRegistry()


@_registry.primitive_rule
def _optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """A flag of type `int | None` is shown as INT, and takes a number or `none`."""
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


def parse(kind: type[T], argv: Sequence[str], *, prog: str, about: str, default: Any = None) -> T:
    """Flags to the dataclass `kind`: its fields, flat, with their docstrings as help. Raises
    UserError for a bad flag.
    """
    options: dict[str, Any] = {} if default is None else {"default": default}
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), _registry:
            return tyro.cli(
                kind,
                args=list(argv),
                prog=prog,
                description=about,
                config=(tyro.conf.OmitArgPrefixes,),
                **options,
            )
    except SystemExit as exit_:
        if exit_.code in (0, None):
            raise
        raise UserError(f"{_one_line(errors.getvalue())}; see {prog} --help") from None


def parse_known(kind: type[T], argv: Sequence[str]) -> T:
    """The fields of `kind` among the flags; the others are left for `parse`."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), _registry:
            known, _ = tyro.cli(kind, args=list(argv), return_unknown_args=True, add_help=False)
            return known
    except SystemExit:
        raise UserError(_one_line(errors.getvalue())) from None


def _one_line(box: str) -> str:
    """The message in tyro's box of several lines: all but its frame, its title and its advice."""
    lines = [re.sub(r"[╭╮╰╯│─]", "", line).strip() for line in box.splitlines()]
    words = " ".join(line for line in lines[1:] if line)
    words = re.split(r"For full helptext|Argument helptext:", words)[0]
    return re.sub(r"\s+", " ", words).strip().removesuffix(".")


def run(main: Callable[[Sequence[str]], int]) -> None:
    """Runs a command: exit code 2 and one line for a user's mistake, no traceback."""
    # What the libraries made as they were imported stays to the end: collections need not look
    # through it again and again, a tenth of a second each.
    gc.freeze()
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except UserError as error:
        code = fail(str(error))
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        # The reader (head, less) has gone; nothing more can be told, and that is no mistake.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    # Python would look for cycles to free before it ends, half a second long; the process's end
    # frees all.
    gc.freeze()
    sys.exit(code)


# Arguments of library functions whose flags have another name.
FLAGS = {"folder": "out", "count": "top", "positions": "positions"}


def with_flags(message: str) -> str:
    """Return a message of the library with its `settings` spelled as flags, --settings."""

    def flag(match: re.Match[str]) -> str:
        return "--" + FLAGS.get(match[1], match[1]).replace("_", "-")

    return re.sub(r"`([a-z][a-z0-9_]*)`", flag, message)


def fail(message: str) -> int:
    """Print the one line of a user's mistake and return the exit code, 2."""
    print(f"error: {' '.join(with_flags(message).split())}", file=sys.stderr)
    return 2
