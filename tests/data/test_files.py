"""A file appears only when it is complete."""

import os
import threading
from pathlib import Path

import pytest

from jaxlm.data.files import replacing, write_text
from jaxlm.interop.files import create


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    write_text(path, "我")
    assert path.read_text(encoding="utf-8") == "我"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_or_a_device_is_written_to_and_stays(tmp_path):
    path, read = tmp_path / "pipe", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: read.append(path.read_text(encoding="utf-8")))
    reader.start()
    write_text(path, "我")
    reader.join()
    assert read == ["我"] and path.is_fifo()
    with replacing(Path("/dev/stdout")) as named:
        assert str(named) == "/dev/stdout"


@pytest.mark.parametrize("error", [OSError, KeyError, KeyboardInterrupt])
@pytest.mark.parametrize("open_file", [create, lambda path: open_partial(path)])
def test_no_error_leaves_a_partial_file(error, open_file, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises((error, ValueError)), open_file(path) as file:
        file.write(b"new")
        raise error("stop")
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"


def open_partial(path):
    from contextlib import contextmanager

    @contextmanager
    def opened():
        with replacing(path, per_process=True) as partial, open(partial, "wb") as file:
            yield file

    return opened()
