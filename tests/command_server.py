"""Run many `python` commands quickly: a server imports jaxlm, and forks for each command.

Importing JAX and jaxlm takes more than a second, and the pages of docs/ have dozens of commands.
`CommandServer` starts a process that imports the library once. It also writes a program named
`python` into a folder; a shell with this folder first on its PATH sends each `python` command to
the server. A forked child runs the command with the shell's standard input, output, folder and
environment, and the program returns the child's exit code.

The server only imports; it does not compute. So no JAX backend exists when it forks, and each
command starts its own backend, as a new process does.
"""

import contextlib
import importlib
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
import traceback
from pathlib import Path

PROGRAM = """#!{python} -IS
import json, os, socket, sys
if any(os.environ.get(name) != value for name, value in {settings!r}.items()):
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
request = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [len(request).to_bytes(8, "big")], [0, 1, 2])
server.sendall(request)
sys.exit(int(server.makefile().read() or 70))
"""
# JAX reads these variables on import, so a command that changes them runs in a new process.
READ_ON_IMPORT = ("JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES", "XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")

# Libraries that jaxlm imports when it first needs them.
LIBRARIES = ("orbax.checkpoint", "rich.progress", "rich.table", "tyro")


class CommandServer:
    """A context manager: a server process, and a folder with a program `python` that calls it.

    Args:
      folder: an empty folder for the program and the socket.
      environment: environment variables of the server.
    """

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self._environment = folder, environment

    def __enter__(self) -> "CommandServer":
        address = str(self.folder / "socket")
        program = self.folder / "python"
        settings = {name: self._environment.get(name) for name in READ_ON_IMPORT}
        program.write_text(
            PROGRAM.format(python=sys.executable, address=address, settings=settings)
        )
        program.chmod(0o755)
        (self.folder / "jaxlm").write_text('#!/bin/sh\nexec python -m jaxlm "$@"\n')
        (self.folder / "jaxlm").chmod(0o755)
        self._process = subprocess.Popen(
            [sys.executable, __file__, address], env=self._environment, stdout=subprocess.PIPE
        )
        # The server prints a line when the imports are done and the socket listens.
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise RuntimeError("the command server could not start")
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def serve(address: str) -> None:
    """Import the library, then answer requests until the process is terminated."""
    import jaxlm

    for module in pkgutil.walk_packages(jaxlm.__path__, "jaxlm."):
        # A command is a module that runs as __main__.
        if module.ispkg or module.name.count(".") > 1:
            importlib.import_module(module.name)
    for name in LIBRARIES:
        importlib.import_module(name)
    for entry in jaxlm.MODELS.values():
        # This reads the help texts of settings from the source, once per process.
        assert entry.settings

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        print("ready", flush=True)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            request, _ = server.accept()
            if os.fork() == 0:
                server.close()
                _answer(request)
            request.close()


def _answer(request: socket.socket) -> None:
    """Run a command in a child process, send its exit code, and end this process."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, streams, _, _ = socket.recv_fds(request, 8, 3)
    with request.makefile("rb") as file:
        argv, folder, environment = json.loads(file.read(int.from_bytes(size, "big")))
    child = os.fork()
    if child == 0:
        request.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        # sys.stdin was opened before the fork. A new object reads the new stream from its start.
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
        os._exit(_run(argv))
    _, status = os.waitpid(child, 0)
    request.sendall(str(os.waitstatus_to_exitcode(status) % 256).encode())
    os._exit(0)


def _run(argv: list[str]) -> int:
    """Run `python argv...` in this process, and return its exit code."""
    code = 0
    try:
        if argv[:1] == ["-m"]:
            sys.argv = argv[1:]
            runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
        elif argv[:1] == ["-"]:
            sys.argv, sys.path[0] = argv, ""
            exec(compile(sys.stdin.read(), "<stdin>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv, sys.path[0] = argv, str(Path(argv[0]).parent)
            runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    return code


if __name__ == "__main__":
    serve(sys.argv[1])
