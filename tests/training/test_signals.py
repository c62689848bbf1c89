"""`python -m jaxlm.train` after Ctrl-C and SIGTERM; test_accidents.py has SIGKILL."""

import signal
import time
from pathlib import Path

import pytest
import tiny_runs

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
