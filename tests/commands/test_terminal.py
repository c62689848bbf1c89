"""Commands with other encodings, closed pipes, full disks and closed terminals."""

import errno
import io
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from jaxlm.commands import process
from jaxlm.commands.terminal import Output, OutputClosedError, exit_code


class Broken(io.StringIO):
    """A stream whose second write fails."""

    def __init__(self, number):
        super().__init__()
        self.number, self.writes = number, 0

    def write(self, text):
        self.writes += 1
        if self.writes > 1:
            raise OSError(self.number, os.strerror(self.number))
        return super().write(text)


def test_a_command_that_saves_files_continues_without_output():
    stream = Broken(errno.ENOSPC)
    output = Output(stream, goes_on=True)
    for text in ("one", "two", "three"):
        assert output.write(text) == len(text)
    assert stream.getvalue() == "one"
    assert output.error.errno == errno.ENOSPC and exit_code(0, output.error) == 1


def test_a_command_that_saves_no_files_stops_without_output():
    output = Output(Broken(errno.EPIPE), goes_on=False)
    output.write("one")
    with pytest.raises(OutputClosedError):
        output.write("two")
    assert exit_code(0, output.error) == 0 and exit_code(2, output.error) == 2


def test_characters_that_the_encoding_lacks_are_replaced():
    raw = io.BytesIO()
    output = Output(io.TextIOWrapper(raw, encoding="cp1252"), goes_on=False)
    output.write("我 é █\n")
    output.flush()
    assert raw.getvalue() == "? é ?\n".encode("cp1252")


def command(*argv, **options):
    return [sys.executable, "-m", *map(str, argv)], {"stderr": subprocess.PIPE, **options}


def train(out, steps=300):
    return "jaxlm.train", "--model", "nplm", "--steps", steps, "--out", out


@pytest.mark.full
def test_a_command_prints_on_a_terminal_without_chinese(tmp_path):
    env = os.environ | {"PYTHONIOENCODING": "cp1252"}
    run = tmp_path / "run"
    for argv in (
        train(run, 50),
        ("jaxlm.generate", run, "--prompt", "我 爱", "--length", 3),
    ):
        line, options = command(*argv, env=env, stdout=subprocess.PIPE)
        done = subprocess.run(line, check=False, **options)
        assert done.returncode == 0, argv
        # `generate` says that this run learnt the last word of each line alone.
        notes = done.stderr.splitlines()
        assert len(notes) == (argv[0] == "jaxlm.generate"), argv
        assert all(note.startswith(b"note: ") for note in notes)
        assert done.stdout.decode("cp1252")


@pytest.mark.full
def test_training_continues_after_its_pipe_is_closed(tmp_path):
    line, options = command(*train(tmp_path / "run"), stdout=subprocess.PIPE)
    with subprocess.Popen(line, **options) as process:
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
    assert (tmp_path / "run/checkpoints/last/300").is_dir()


@pytest.mark.full
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_training_continues_if_its_output_cannot_be_written(tmp_path):
    with open("/dev/full", "w") as full:
        line, options = command(*train(tmp_path / "run"), stdout=full)
        done = subprocess.run(line, check=False, **options)
    assert done.returncode == 1
    assert b"No space left on device; the command went on without it" in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert (tmp_path / "run/checkpoints/last/300").is_dir()


@pytest.mark.full
@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
def test_training_continues_after_its_terminal_is_closed(tmp_path):
    master, slave = os.openpty()
    line, options = command(*train(tmp_path / "run", 10_000), stdout=slave, stderr=slave)
    process = subprocess.Popen(line, start_new_session=True, **options)
    os.close(slave)
    while not (tmp_path / "run/metrics.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGHUP)
    os.close(master)
    assert process.wait() == 1
    assert (tmp_path / "run/checkpoints/last/10000").is_dir()


def test_ctrl_c_during_imports_prints_no_traceback():
    # SIGINT comes while the command imports its first library. The handler is set here, because a
    # shell starts a job in the background with SIGINT ignored, and Python leaves it ignored.
    code = (
        "import sys, signal, runpy, threading;"
        "signal.signal(signal.SIGINT, signal.default_int_handler);"
        "sys.meta_path.insert(0, type('Stop', (), {'find_spec': staticmethod(lambda name, *rest:"
        " signal.raise_signal(signal.SIGINT) if name == 'tyro' else None)}));"
        "sys.argv = ['jaxlm.predict', 'run'];"
        "runpy.run_module('jaxlm.predict', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode in (130, -signal.SIGINT)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_ctrl_c_in_a_callback_is_raised_again(monkeypatch):
    given = []
    monkeypatch.setattr(process._thread, "interrupt_main", lambda: given.append(1))
    hook = process._Unraisable(lambda unraisable: given.append(unraisable))
    hook(SimpleNamespace(exc_value=KeyboardInterrupt()))
    assert given == [1]


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_the_list_of_commands_is_printed_into_a_closed_pipe(argument):
    reader, writer = os.pipe()
    os.close(reader)
    line = [sys.executable, "-m", "jaxlm", argument]
    done = subprocess.run(line, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
