"""Two processes train one model on this machine, over gloo; wrong settings raise errors."""

import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from texts import write_many_words

from jaxlm.errors import UserError
from jaxlm.parallel.multihost import ProcessConfig, allgather_ints, is_first, join_processes
from jaxlm.runs.log import read_records


def start(*flags):
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "2"}
    command = [sys.executable, "-m", "jaxlm.train", *map(str, flags)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def losses(folder):
    records = read_records(folder / "metrics.jsonl")
    return [record["loss"] for record in records if "loss" in record]


# The default settings for a text of one's own follow from the number of train steps.
SAME_FOR_ALL_STEPS = ["--embedding-size", "8", "--schedule", "constant", "--warmup-steps", "0"]
SAME_FOR_ALL_STEPS += ["--lr", "8e-3"]


@pytest.mark.full
def test_a_signal_stops_two_processes_and_a_single_process_resumes(tmp_path):
    text = write_many_words(tmp_path / "text.txt")
    train = ["--model", "lstm", "--corpus", text, "--batch-size", "4", "--bptt", "5"]
    train += ["--hidden-size", "8", "--dropout", "0.1", "--log-every", "1", *SAME_FOR_ALL_STEPS]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    joined = ["--coordinator", address, "--processes", "2", "--mesh", "data=2,model=2"]
    parts = tmp_path / "parts"
    both = [
        start(*train, "--steps", "1000000", "--out", parts, *joined, "--process", process)
        for process in (0, 1)
    ]
    waited = time.monotonic()
    while len(losses(parts)) < 5 and time.monotonic() - waited < 300:
        assert all(process.poll() is None for process in both), both[0].communicate()
        time.sleep(0.1)
    # The second process does not write the log.
    both[1].send_signal(signal.SIGTERM)
    outputs = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [128 + signal.SIGTERM] * 2, outputs
    stopped = len(losses(parts))
    assert f"stopped at step {stopped} of 1000000; saved" in outputs[0][0]
    assert "loss" not in outputs[1][0], "only the first process prints"
    steps = ["--steps", stopped + 10]
    runs = [(*steps, "--out", parts, "--resume"), (*steps, "--out", tmp_path / "whole")]
    for flags in runs:
        # A single process, with two devices.
        single = start(*train, *flags)
        output = single.communicate(timeout=300)
        assert single.returncode == 0, output
    # The runs differ only in the order of summation.
    whole = losses(tmp_path / "whole")
    assert len(whole) == stopped + 10
    np.testing.assert_allclose(losses(parts), whole, rtol=1e-4)


def test_incomplete_settings_raise_errors():
    for flags in ({"processes": 2}, {"coordinator": "localhost:1", "process": 0}):
        with pytest.raises(UserError, match="give all three, or none"):
            join_processes(ProcessConfig(**flags))
    with pytest.raises(UserError, match="`process` 2: must be from 0 to 1"):
        join_processes(ProcessConfig(coordinator="localhost:1", processes=2, process=2))


def test_a_single_process_needs_no_communication():
    join_processes(ProcessConfig())
    assert is_first()
    np.testing.assert_array_equal(allgather_ints([3, 4]), [[3, 4]])
