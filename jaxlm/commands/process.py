"""Changes that a command makes to its own process: logging, hooks, memory, compiled programs.

A library must not make them to the process of its user.
"""

import _thread
import ctypes
import hashlib
import logging
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

CACHE_BYTES = 1 << 30
"""Most bytes of compiled programs that are kept; the least recently used ones are removed."""


def silence_libraries() -> None:
    """Silence the logs of orbax (absl), gcsfs and pooch: the commands report their errors."""
    for name in ("absl", "gcsfs", "pooch"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").addFilter(lambda record: "OCDBT" not in record.getMessage())
    if not isinstance(sys.unraisablehook, _Unraisable):
        sys.unraisablehook = _Unraisable(sys.unraisablehook)


class _Unraisable:
    """An unraisable hook that ignores errors of an event loop that orbax closed early.

    A Ctrl-C that met a callback, where Python cannot raise it, is given again.
    """

    def __init__(self, before: Callable[[Any], Any]) -> None:
        self._before = before

    def __call__(self, unraisable: Any) -> None:
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            _thread.interrupt_main()
        elif str(unraisable.exc_value) != "Event loop is closed":
            self._before(unraisable)


def keep_compiled_programs() -> None:
    """Let JAX keep compiled programs in the user's cache folder, unless JAXLM_CACHE is "off".

    The name of the folder depends on the CPU's features and on the version of JAX, because a
    program compiled for another CPU must not run here. If JAX_COMPILATION_CACHE_DIR is set, nothing
    changes. Programs that were not used for longest are removed above CACHE_BYTES.
    """
    if os.environ.get("JAXLM_CACHE") == "off" or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = compiled_folder()
    settings = {
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    # JAX reads the environment when it is imported, which may have happened already.
    if jax := sys.modules.get("jax"):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    if folder.is_dir():
        remove_oldest(folder.parent, CACHE_BYTES)


MALLOC_OPTIONS = {-4: 0, -1: -1, -8: 1}
"""Options of glibc's `mallopt` by their numbers: M_MMAP_MAX 0 allocates no block by itself with
mmap, M_TRIM_THRESHOLD -1 returns no memory to the system, and M_ARENA_MAX 1 keeps one heap."""
MALLOC_VARIABLES = (
    "GLIBC_TUNABLES",
    "MALLOC_ARENA_MAX",
    "MALLOC_MMAP_MAX_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "MALLOC_TRIM_THRESHOLD_",
)


def keep_freed_memory() -> bool:
    """Tell the C library to keep freed memory for the next allocation; return whether it does.

    The products of a train step allocate and free their work space. By default glibc returns large
    blocks to the system, and the next step waits while the system clears new pages. On two cores
    with AVX-512, a float32 step of two layers of 650 units over 33,278 words took 794 ms with
    98,000 page faults, and 682 ms without them.

    The process keeps the memory of its peak until it ends. Nothing changes if the C library is not
    glibc, or if the environment has an option of its own (MALLOC_VARIABLES). Threads that have
    allocated memory before keep their heaps, so call it before JAX computes.
    """
    if any(name in os.environ for name in MALLOC_VARIABLES):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
        # musl has no function of this name, and other systems have no `gnu_get_libc_version`.
        ctypes.CDLL(None).gnu_get_libc_version  # noqa: B018
    except (OSError, AttributeError, TypeError):
        return False
    return all(mallopt(option, value) for option, value in MALLOC_OPTIONS.items())


def compiled_folder() -> Path:
    """Return the folder of the programs compiled for this CPU by this version of JAX."""
    from importlib.metadata import version

    from jaxlm.data.corpora import cache_folder

    about = [platform.machine(), cpu_features(), version("jax"), version("jaxlib")]
    key = hashlib.sha256("\n".join(about).encode()).hexdigest()[:16]
    return cache_folder() / "compiled" / key


def cpu_features() -> str:
    """Return the features of this CPU, as the system lists them; on other systems its name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            kept = {
                line.strip() for line in file if line.startswith(("flags", "Features", "model"))
            }
    except OSError:
        return platform.processor()
    return "\n".join(sorted(kept))


def remove_oldest(folder: Path, most_bytes: int) -> None:
    """Remove the least recently used files below `folder` until `most_bytes` or fewer are left."""
    files = []
    for path in folder.rglob("*"):
        try:
            if path.is_file():
                status = path.stat()
                files.append((max(status.st_atime, status.st_mtime), status.st_size, path))
        except OSError:
            continue
    left = sum(size for _, size, _ in files)
    for _, size, path in sorted(files, key=lambda file: file[:2]):
        if left <= most_bytes:
            return
        try:
            path.unlink()
        except OSError:
            continue
        left -= size
