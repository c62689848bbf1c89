"""python -m jaxlm.serve: next words, scores and continuations over HTTP, as JSON."""

if __name__ == "__main__":
    # Before the other imports, which take a second.
    from jaxlm.commands.interrupt import end_quietly

    end_quietly()

import importlib.util
import ipaddress
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import tyro

from jaxlm.commands import cli
from jaxlm.commands.plugins import load_plugin
from jaxlm.errors import SettingError, UserError
from jaxlm.ranges import NotNegative, Range, check_settings
from jaxlm.runs.run import load_all
from jaxlm.serving.guard import LOOPBACK_HOSTS
from jaxlm.serving.limits import Limits

ABOUT = """Serve runs over HTTP: next words, scores and continuations as JSON, and a page at /.

There is no password: whoever reaches the address may ask. By default only this machine does.

Examples:
  python -m jaxlm.serve runs/lstm-ptb
  python -m jaxlm.serve runs/ngram-ptb runs/lstm-ptb --port 9000
  curl http://127.0.0.1:8000/next -H "Content-Type: application/json" -d '{"text": "the stock"}'
"""


@dataclass(frozen=True)
class Command(Limits):
    """Settings of `python -m jaxlm.serve`."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Folders of the runs; a request that names no run asks the first."""
    host: str = "127.0.0.1"
    """Address to serve; 0.0.0.0 for every address of this machine."""
    port: Annotated[int, Range(0, 65535)] = 8000
    """Port to serve; 0 for any free port."""
    rows: Annotated[int, Range(1, 1024)] = 8
    """Rows of requests in a batch; 1 for no batches."""
    wait_ms: NotNegative = 2.0
    """Milliseconds that an idle run waits for more requests after the first."""
    page: bool = True
    """Show the page to play with at /."""
    allow_origin: tuple[str, ...] = ()
    """Origins of web pages that may ask this server, such as http://localhost:3000."""
    plugin: Path | None = None
    """Run this Python file first; it registers models or cells of your own."""
    checkpoint_folder: str | None = None
    """Where the checkpoints are, if they were trained with --checkpoint-folder (none: in the run's
    folder)."""


def main(argv: Sequence[str]) -> int:
    """Serve until Ctrl-C or SIGTERM."""
    command = cli.parse(Command, argv, prog="python -m jaxlm.serve", about=ABOUT)
    if not command.runs:
        raise UserError("name at least one run: python -m jaxlm.serve RUN")
    check_settings(command)
    check_origins(command.allow_origin)
    check_installed()
    from jaxlm.serving.app import serving
    from jaxlm.serving.front_page import front_page
    from jaxlm.serving.server import open_socket, serve, url_of

    load_plugin(command.plugin)
    # A port that is taken is reported before the runs are loaded.
    with open_socket(command.host, command.port) as opened:
        url = url_of(opened)
        place = command.checkpoint_folder
        runs = load_all(command.runs, checkpoint_folder=place)
        loopback = ipaddress.ip_address(opened.getsockname()[0]).is_loopback
        if not loopback:
            say(f"note: whoever reaches {url} may ask this server; there is no password")
        page = front_page(runs, lambda line: say(f"note: {line}")) if command.page else None
        names = ", ".join(run.name for run in runs)
        say(f"preparing {names}")
        with serving(
            runs,
            limits=Limits(**{item.name: getattr(command, item.name) for item in fields(Limits)}),
            rows=command.rows,
            wait=command.wait_ms / 1000,
            page=page,
            hosts={*LOOPBACK_HOSTS, command.host.lower()} if loopback else None,
            origins=command.allow_origin,
        ) as application:
            return serve(
                application,
                opened,
                ready=lambda: print(f"serving {url}  ({names}); Ctrl-C ends it", flush=True),
                drain=command.timeout,
            )


def say(line: str) -> None:
    """Print a line on standard error."""
    print(cli.with_flags(line), file=sys.stderr, flush=True)


def check_installed() -> None:
    """Raise UserError if a library of the extra `serve` is missing."""
    missing = [name for name in ("fastapi", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{' and '.join(missing)} missing: pip install fastapi uvicorn")


def check_origins(origins: Sequence[str]) -> None:
    """Raise SettingError for an origin that no browser sends."""
    for origin in origins:
        scheme, _, rest = origin.partition("://")
        if origin != "*" and (scheme not in ("http", "https") or not rest or "/" in rest):
            why = "must be * or a scheme, a host and a port, such as http://localhost:3000"
            raise SettingError("allow_origin", origin, why)


if __name__ == "__main__":
    cli.run(main)
