"""Changes that a command makes to its own process."""

import os
import platform
import subprocess
import sys

import pytest

from jaxlm.commands.process import MALLOC_VARIABLES

PROGRAM = """
import resource
import numpy as np
from jaxlm.commands.process import keep_freed_memory

def faults_of_ten():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        np.ones(4_000_000, np.float32)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = faults_of_ten()
kept = keep_freed_memory()
faults_of_ten()
print(kept, first, faults_of_ten())
"""


def _run(**variables: str) -> list[str]:
    environment = {key: value for key, value in os.environ.items() if key not in MALLOC_VARIABLES}
    program = [sys.executable, "-c", PROGRAM]
    found = subprocess.run(
        program, env=environment | variables, capture_output=True, text=True, check=True
    )
    return found.stdout.split()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_memory_is_used_again_without_page_faults():
    kept, first, later = _run()
    # An array of 16 MB is 4,096 pages, or 8 pages of 2 MiB.
    assert kept == "True" and int(first) >= 80 and int(later) < 5


def test_a_users_own_options_of_malloc_stay():
    assert _run(MALLOC_ARENA_MAX="2")[0] == "False"
