"""Settings of the test session: compilation, property tests, the two tiers, the order of tests.

- Each worker has a compilation cache, because many tests compile the same program. Processes that
  tests start share it. The cache is a new folder in each session, so no session depends on another.
- Property tests draw the same examples in every session. `pytest --hypothesis-profile default`
  draws other examples.
- Programs are compiled with little optimisation of the machine code, and with XLA's older code
  generator, and without the lines of Python in them. XLA's own optimisations are the same, and
  compilation takes less than half the time.
  `JAX_DISABLE_MOST_OPTIMIZATIONS=0 pytest` compiles programs as users do. CI runs the laws and the
  oracles with full optimisation in one of its environments.
- Where the environment forbids Python to write byte code, as in many container images, the session
  keeps byte code in a temporary folder. Otherwise each of the many processes that tests start would
  compile all modules again, which takes two seconds.
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
    """Set XLA_FLAGS, for this process and for processes that it starts later.

    XLA ends the process if it does not know a flag, so a separate process tries the flags first.
    """
    environment = os.environ | {"XLA_FLAGS": flags}
    start = [sys.executable, "-c", "import jax; jax.devices()"]
    if subprocess.run(start, env=environment, capture_output=True, check=False).returncode == 0:
        os.environ["XLA_FLAGS"] = flags


# These lines run on import, because a conftest.py in a subfolder imports JAX, and JAX then reads
# the environment. Only the main process makes the folder; workers of pytest-xdist inherit it.
WORKER = os.environ.get("PYTEST_XDIST_WORKER")
if WORKER is None:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jaxlm-compiled-")
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
        os.environ["PYTHONPYCACHEPREFIX"] = os.environ["JAX_COMPILATION_CACHE_DIR"] + "/bytecode"
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"
    os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    if os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] != "0" and "XLA_FLAGS" not in os.environ:
        use_flags_if_known(
            "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
        )
else:
    # Each worker has its own folder. JAX does not write cache files atomically, so in a shared
    # folder a worker could read a file that another worker has half written.
    os.environ["JAX_COMPILATION_CACHE_DIR"] += f"/{WORKER}"


def pytest_configure(config):
    if WORKER is None:
        folder = os.environ["JAX_COMPILATION_CACHE_DIR"]
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


@pytest.fixture(scope="session", autouse=True)
def float32_products():
    """Compute products in float32 where a test calls `apply` outside of a model's own precision.

    JAX's default is TF32 on a GPU, and bfloat16 on a TPU.
    """
    import jax

    if jax.default_backend() != "cpu":
        jax.config.update("jax_default_matmul_precision", "float32")


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="also run the tests marked full")


# A worker that holds more than this many bytes frees its compiled programs, and later reads them
# from the session's compilation cache.
MOST_BYTES = 1_200_000_000


def resident_bytes() -> int:
    """Return the resident memory of this process in bytes; 0 if the system does not report it."""
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


# Long tests run first. A long test at the end would keep a worker busy while the other is idle.
LONG = ("test_docs.py", "test_signals.py", "test_disk_full.py", "test_external.py")
LONG += ("test_notebook.py", "test_processes.py", "test_sharding.py")
# The tests of each of these files compile the same programs, so a single worker runs a whole file.
ONE_WORKER = ("test_outcomes.py", "test_checkpoints.py", "test_run_folders.py", "test_step.py")
ONE_WORKER += ("test_adaptation.py", "test_mixed_generation.py", "test_resume.py", "test_sweep.py")
ONE_WORKER += ("test_page_views.py", "test_refusals.py", "test_budget.py", "test_open.py")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    for item in items:
        quick = item.get_closest_marker("quick_for")
        if quick and hasattr(item, "callspec"):
            parameters = item.callspec.id
            if not {parameters, *parameters.split("-")} & set(quick.args):
                item.add_marker(pytest.mark.full)
    # Only the quick tier runs, unless --full or -m is given.
    if not (config.option.full or config.option.markexpr):
        left_out = [item for item in items if item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("full")]
    for item in items:
        if item.path.name in ONE_WORKER:
            item.add_marker(pytest.mark.xdist_group(item.path.name))
    items.sort(key=lambda item: item.path.name not in LONG)
