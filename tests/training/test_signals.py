"""`python -m jaxlm.train` after Ctrl-C, SIGTERM and SIGKILL."""

import random
import signal
import time
from pathlib import Path

import pytest
import tiny_runs

from jaxlm.runs.folder import CONFIG

pytestmark = pytest.mark.xdist_group("signals")

SIZES = ("--model", "lstm", "--embedding-size", 8, "--hidden-size", 8, "--dropout", 0.2)
TRAINING = ("--batch-size", 4, "--bptt", 8, "--lr", 0.01, "--log-every", 5, "--seed", 7)
PACE = ("--steps", 400, "--eval-every", 100)
# Saving takes longer than these steps, so a signal is likely to come while the run saves.
OFTEN = ("--checkpoint-every", 3)


@pytest.fixture(scope="module")
def argv(text_file):
    return [*SIZES, "--corpus", text_file, *TRAINING, *PACE]


@pytest.fixture(scope="module")
def uninterrupted(argv, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert tiny_runs.run_here([*argv, "--out", folder]) == 0
    return folder


def wait_for(words: str, output: Path, process) -> None:
    deadline = time.monotonic() + 60
    while words not in output.read_text(encoding="utf-8"):
        assert process.poll() is None, tiny_runs.error_output(output)
        assert time.monotonic() < deadline, "nothing happens"
        time.sleep(0.01)


@pytest.mark.full
def test_ctrl_c_and_sigterm_save_and_print_how_to_resume(argv, tmp_path, uninterrupted, train):
    folder, argv = tmp_path / "run", [*argv, "--out", tmp_path / "run"]
    for number, step, resume in ((signal.SIGINT, 20, []), (signal.SIGTERM, 60, ["--resume"])):
        output = tmp_path / f"out{number}"
        process = tiny_runs.start([*argv, *OFTEN, *resume], output)
        wait_for(f"step {step:6d}  epoch", output, process)
        process.send_signal(number)
        assert process.wait(timeout=60) == 128 + number
        assert tiny_runs.error_output(output) == ""
        printed, reached = output.read_text(), tiny_runs.whole_state(folder)[1]["step"]
        assert step <= reached < 400
        assert f"stopped at step {reached} of 400; saved" in printed
        assert f"the same command with --resume --out {folder} continues it" in printed
        if resume:
            assert "resumed at step" in printed
    code, printed, err = train(*argv, "--resume")
    assert (code, err) == (0, "")
    assert f"resumed at step {reached} of 400" in printed
    tiny_runs.assert_same_run(folder, uninterrupted)


# The moments of kills: seconds after the start (while it imports and compiles), seconds after a
# checkpoint, or while a checkpoint is being written.
STARTING, TRAINED, WRITING = "starting", "trained", "writing"


def saved(folder: Path) -> set[Path]:
    return set(folder.glob("checkpoints/last/*[0-9]"))


def being_written(folder: Path) -> list[Path]:
    return list(folder.glob("checkpoints/*/*orbax-checkpoint-tmp*"))


def kill(process, when: str, draw: random.Random, folder: Path) -> None:
    """Kill a running process at a random moment.

    Args:
      process: the process.
      when: kind of the moment: STARTING, TRAINED or WRITING.
      draw: random numbers.
      folder: folder of the run.
    """
    before, deadline = saved(folder), time.monotonic() + 60
    if when == STARTING:
        time.sleep(draw.uniform(0.3, 3.0))
    else:
        while not saved(folder) - before and process.poll() is None:
            time.sleep(0.005)
            assert time.monotonic() < deadline, "nothing happens"
        time.sleep(draw.uniform(0.0, 0.3))
    while when == WRITING and process.poll() is None and not being_written(folder):
        assert time.monotonic() < deadline, "nothing is written"
    assert process.poll() is None, "the run ended before it was killed; it needs more steps"
    process.kill()
    assert process.wait(timeout=60) == -signal.SIGKILL


@pytest.mark.full
def test_a_run_after_ten_kills_equals_an_uninterrupted_run(argv, tmp_path, uninterrupted, train):
    draw = random.Random(1)
    folder, argv = tmp_path / "run", [*argv, "--out", tmp_path / "run"]
    moments = [STARTING] * 2 + [TRAINED] * 4 + [WRITING] * 4
    draw.shuffle(moments)
    half_written, resumed = 0, 0
    for index, when in enumerate(moments):
        output = tmp_path / f"out{index}"
        resume = ["--resume"] if (folder / CONFIG).exists() else []
        # Without the cache, runs that are killed while they start have programs to compile.
        process = tiny_runs.start([*argv, *OFTEN, *resume], output, cached=when != STARTING)
        kill(process, when, draw, folder)
        assert tiny_runs.error_output(output) == ""
        half_written += bool(being_written(folder))
        resumed += "resumed at step" in output.read_text()
    assert half_written >= 1
    assert resumed >= 5
    code, printed, err = train(*argv, "--resume")
    assert (code, err) == (0, "")
    assert "resumed at step" in printed
    tiny_runs.assert_same_run(folder, uninterrupted)
    assert not being_written(folder)
