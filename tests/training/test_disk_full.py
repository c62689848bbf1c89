"""A full disk gives exit code 2 and a one-line error; no checkpoint is lost, and a run resumes."""

import os
import re
import shutil
import subprocess
import threading
import time
from pathlib import Path

import jax.numpy as jnp
import pytest
import tiny_runs

import jaxlm
from jaxlm import UserError
from jaxlm.runs.checkpoints import Checkpoints
from jaxlm.runs.log import Log
from jaxlm.training.state import TrainState

pytestmark = pytest.mark.xdist_group("disk")

MIB = 1 << 20
FULL = Path("/dev/full")


@pytest.fixture
def argv(text_file):
    sizes = ("--model", "rnn", "--embedding-size", 48, "--hidden-size", 48)
    paces = ("--batch-size", 4, "--bptt", 8, "--checkpoint-every", 10, "--log-every", 5)
    return [*sizes, "--corpus", text_file, *paces]


@pytest.fixture
def small_disk(tmp_path):
    """small_disk(files) mounts a file system of 2 MiB with room for `files` files."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(files: int = 10_000) -> Path:
        options = f"size=2m,nr_inodes={files}"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
        if os.geteuid() or not shutil.which("mount"):
            pytest.skip("only root can mount a small file system")
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting a small file system is not permitted here")
        return disk

    yield mount
    if disk.is_mount():
        subprocess.run(["umount", "-l", str(disk)], check=True)


def assert_full(result, folder: Path) -> int:
    """Assert a one-line error that names the folder; return the step of the saved parameters."""
    code, _, err = result
    tiny_runs.assert_user_error(code, err)
    assert str(folder) in err
    return jaxlm.load(folder).step


@pytest.mark.full
def test_a_full_file_system_is_an_error_and_loses_nothing(argv, small_disk, tmp_path, train):
    disk = small_disk()
    folder, ballast = disk / "run", disk / "ballast"
    argv = [*argv, "--out", folder, "--steps", 100, "--eval-every", 40]
    # There is room for fewer than four checkpoints, of about 0.15 MB each.
    ballast.write_bytes(bytes(2 * MIB - 550_000))
    result = tiny_runs.finish(argv, tmp_path / "out")
    loaded = assert_full(result, folder)
    assert 10 <= loaded < 100
    failed = re.search(r"checkpoint of step (\d+) to .*No space left.*--resume", result[2])
    assert loaded <= int(failed[1]) <= 100 and int(failed[1]) % 10 == 0
    # The disk is still full: another attempt loses nothing.
    left = os.statvfs(disk)
    with open(ballast, "ab") as file:
        file.write(bytes(left.f_bavail * left.f_bsize))
    assert assert_full(train(*argv, "--resume"), folder) == loaded
    ballast.unlink()
    code, out, err = train(*argv, "--resume")
    assert (code, err) == (0, "") and "resumed at step" in out
    steps = [record["step"] for record in tiny_runs.records(folder, "train")]
    assert steps == list(range(5, 101, 5))
    assert tiny_runs.whole_state(folder)[1]["step"] == 100


def ends_within(thread, seconds):
    """Return whether a thread ends within `seconds`.

    A thread that another thread is starting is already listed, but cannot be joined yet.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            # The `join` of orbax's threads would raise the error that ended the thread.
            threading.Thread.join(thread, timeout=max(0, deadline - time.monotonic()))
            return not thread.is_alive()
        except RuntimeError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


# Tensorstore reports a failed write a second time, to an event loop that orbax has closed. Commands
# hide this report; a caller of the library sees it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("files", [60, 75, 90, 105, 120])
def test_no_thread_survives_a_failed_checkpoint(files, small_disk):
    """A thread that does not end would keep the process alive for minutes."""
    weights = jnp.ones((4, 3))
    before = set(threading.enumerate())
    checkpoints = Checkpoints(small_disk(files) / "checkpoints", print)
    with pytest.raises(UserError, match=r"could not write the checkpoint of step [1-9]"):
        for step in range(1, 9):
            state = TrainState(jnp.int32(step), {"w": weights}, (), (weights,), jnp.float32(1))
            checkpoints.save("best", state, {})
            checkpoints.save("last", state, {})
            checkpoints.wait()
    checkpoints.close()
    for thread in set(threading.enumerate()) - before:
        # Idle threads of a pool end with the process.
        if not thread.daemon and not thread.name.startswith("metadata_store"):
            assert ends_within(thread, 2), thread.name


@pytest.mark.full
def test_a_limit_of_file_sizes_is_an_error_and_loses_nothing(argv, tmp_path, train):
    """The system limits each file to 14 KB; this needs no root."""
    folder, whole = tmp_path / "run", tmp_path / "whole"
    argv = [*argv, "--eval-every", 1000]
    assert train(*argv, "--out", folder, "--steps", 10)[0] == 0
    argv = [*argv, "--resume", "--steps", 30]
    # The run compiles here, so the limited process does not write into the compilation cache.
    shutil.copytree(folder, whole)
    assert train(*argv, "--out", whole)[0] == 0
    argv = [*argv, "--out", folder]
    limited = tiny_runs.finish(argv, tmp_path / "out", file_size=14_000)
    assert assert_full(limited, folder) == 10
    assert re.search("checkpoint of step 20 to .*File too large.*--resume", limited[2])
    code, out, err = train(*argv)
    assert (code, err) == (0, "") and "resumed at step 10 of 30" in out
    tiny_runs.assert_same_run(folder, whole)


@pytest.mark.full
@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("name", ["metrics.jsonl.partial", "timing.jsonl.partial"])
def test_a_file_that_does_not_fit_is_an_error(name, train, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    argv = ["--model", "rnn", "--out", folder, "--log-every", 5, "--checkpoint-every", 5]
    assert train(*argv, "--steps", 5)[0] == 0
    write_text = Path.write_text

    def write_to_a_full_disk(path, *args, **options):
        # A link in the place of a .partial file would be removed.
        return write_text(FULL if path.name == name else path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", write_to_a_full_disk)
        code, _, err = train(*argv, "--steps", 10, "--resume")
    tiny_runs.assert_user_error(code, err)
    assert "No space left" in err and str(folder) in err, err
    assert train(*argv, "--steps", 10, "--resume")[0] == 0
    assert jaxlm.load(folder).step == 10


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("name", ["metrics.jsonl", "timing.jsonl"])
def test_a_record_that_does_not_fit_is_an_error(name, tmp_path):
    (tmp_path / name).symlink_to(FULL)
    log = Log(tmp_path, tiny_runs.quiet(), 10, False)
    with log, pytest.raises(UserError, match=rf"{name}: No space left.*`resume`"):
        log.record(1, {"split": "train", "loss": 1.0}, "step 1")


def test_a_folder_that_cannot_be_made_is_an_error(train, tmp_path):
    (tmp_path / "file").write_text("mine")
    code, _, err = train("--model", "rnn", "--steps", 1, "--out", tmp_path / "file" / "run")
    tiny_runs.assert_user_error(code, err)
    assert (tmp_path / "file").read_text() == "mine"
