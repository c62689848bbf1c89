"""Two processes that train one model, on this machine, over gloo; and flags that cannot be."""

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


@pytest.mark.full
def test_two_processes_stopped_by_a_signal_to_one_and_resumed_by_one(tmp_path):
    text = write_many_words(tmp_path / "text.txt")
    train = ["--model", "lstm", "--corpus", text, "--batch-size", "4", "--bptt", "5"]
    train += ["--hidden-size", "8", "--dropout", "0.1", "--log-every", "1"]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    together = ["--coordinator", address, "--processes", "2", "--mesh", "data=2,model=2"]
    parts = tmp_path / "parts"
    both = [
        start(*train, "--steps", "1000000", "--out", parts, *together, "--process", process)
        for process in (0, 1)
    ]
    waited = time.monotonic()
    while len(losses(parts)) < 5 and time.monotonic() - waited < 300:
        assert all(process.poll() is None for process in both), both[0].communicate()
        time.sleep(0.1)
    # To the one that does not write the log.
    both[1].send_signal(signal.SIGTERM)
    told = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [128 + signal.SIGTERM] * 2, told
    stopped = len(losses(parts))
    assert f"stopped at step {stopped} of 1000000; saved" in told[0][0]
    assert "loss" not in told[1][0], "the first speaks for both"
    steps = ["--steps", stopped + 10]
    runs = [(*steps, "--out", parts, "--resume"), (*steps, "--out", tmp_path / "whole")]
    for flags in runs:
        # Of one process, on its two devices.
        alone = start(*train, *flags)
        said = alone.communicate(timeout=300)
        assert alone.returncode == 0, said
    # Each adds up the same numbers in an order of its own.
    whole = losses(tmp_path / "whole")
    assert len(whole) == stopped + 10
    np.testing.assert_allclose(losses(parts), whole, rtol=1e-4)


def test_flags_that_do_not_belong_together():
    for flags in ({"processes": 2}, {"coordinator": "localhost:1", "process": 0}):
        with pytest.raises(UserError, match="give all three, or none"):
            join_processes(ProcessConfig(**flags))
    with pytest.raises(UserError, match="`process` 2: must be from 0 to 1"):
        join_processes(ProcessConfig(coordinator="localhost:1", processes=2, process=2))


def test_one_process_agrees_with_itself():
    join_processes(ProcessConfig())
    assert is_first()
    np.testing.assert_array_equal(allgather_ints([3, 4]), [[3, 4]])
