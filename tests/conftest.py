"""A compilation cache for each worker of a session, the processes that its tests start included.

Many tests compile the same program. The cache is a new, empty folder each time, so it can hide
nothing between two sessions. Property tests draw the same examples every time, so that a run of the
tests says something of the code and not of the day; `pytest --hypothesis-profile default` draws
others.

Programs are compiled with little optimisation of the machine code, and with XLA's older code
generator, here and in the processes that tests start. What XLA makes of a program is the same, and
compiling takes less than half the time. `JAX_DISABLE_MOST_OPTIMIZATIONS=0 pytest` compiles programs
as users do; CI runs the laws and the oracles so on one of its stacks.
"""

import contextlib
import ctypes
import gc
import os
import shutil
import subprocess
import sys
import tempfile

import pytest
from hypothesis import settings

settings.register_profile("same every time", derandomize=True, database=None, deadline=None)
settings.load_profile("same every time")


def use_flags_if_known(flags):
    """Set XLA_FLAGS, here and for processes started later. XLA ends a process for an unknown flag,
    so a process of its own tries them.
    """
    environment = os.environ | {"XLA_FLAGS": flags}
    start = [sys.executable, "-c", "import jax; jax.devices()"]
    if subprocess.run(start, env=environment, capture_output=True, check=False).returncode == 0:
        os.environ["XLA_FLAGS"] = flags


# On import, before a conftest of a folder below imports JAX, which reads the environment then.
# Workers of pytest-xdist inherit it; only the process that starts them makes the folder.
WORKER = os.environ.get("PYTEST_XDIST_WORKER")
if WORKER is None:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jaxlm-compiled-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    if os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] != "0" and "XLA_FLAGS" not in os.environ:
        use_flags_if_known("--xla_cpu_use_fusion_emitters=false")
else:
    # One of its own: JAX's cache is not written aside, so one worker could read what another has
    # half written.
    os.environ["JAX_COMPILATION_CACHE_DIR"] += f"/{WORKER}"


def pytest_configure(config):
    if WORKER is None:
        folder = os.environ["JAX_COMPILATION_CACHE_DIR"]
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


@pytest.fixture(scope="session", autouse=True)
def float32_products():
    """What is called without a model's own precision, as a model's `apply` may be, is compared in
    float32 also where JAX's default is less: TF32 on a GPU, bfloat16 on a TPU.
    """
    import jax

    if jax.default_backend() != "cpu":
        jax.config.update("jax_default_matmul_precision", "float32")


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="also run the tests marked full")


# A worker of more than this many bytes forgets its compiled programs; it finds them again in the
# session's compilation cache.
MOST_BYTES = 1_200_000_000


def resident_bytes() -> int:
    """Return the memory of this process; 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    if resident_bytes() > MOST_BYTES and (jax := sys.modules.get("jax")):
        jax.clear_caches()
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)


# Long tests come first: as the last, one would keep a worker while the other is idle.
LONG = ("test_docs.py", "test_signals.py", "test_disk_full.py", "test_external.py")
# Files whose tests compile the same programs: one worker for all of a file's tests.
TOGETHER = ("test_outcomes.py", "test_checkpoints.py", "test_run_folders.py", "test_step.py")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    for item in items:
        quick = item.get_closest_marker("quick_for")
        if quick and hasattr(item, "callspec"):
            parameters = item.callspec.id
            if not {parameters, *parameters.split("-")} & set(quick.args):
                item.add_marker(pytest.mark.full)
    # The quick tier, unless --full or an expression of one's own (-m) asks for more.
    if not (config.option.full or config.option.markexpr):
        left_out = [item for item in items if item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("full")]
    for item in items:
        if item.path.name in TOGETHER:
            item.add_marker(pytest.mark.xdist_group(item.path.name))
    items.sort(key=lambda item: item.path.name not in LONG)
