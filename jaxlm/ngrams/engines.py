"""Engines that run a query over more rows than memory holds. A new one is one function and one line
in ENGINES.

An engine is given plain SQL and Parquet files, which every one of them reads, and leaves Parquet
files: what it is, or where it runs, nothing else knows.
"""

import errno
import glob
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from jaxlm.errors import UserError

Engine = Callable[[str, Path, Path, int], None]
"""engine(query, windows, result, memory): runs `query` over the table `windows`, the Parquet files
of that folder, within about `memory` bytes. Its rows become the Parquet files of the new folder
`result`; in order of their names, they hold the rows in order. Raises UserError if the engine is
not installed, or needs more memory, and OSError if the disk is full.
"""

# What DuckDB's threads need each to sort and group without spilling at every step.
_BYTES_PER_THREAD = 100_000_000


def arrow() -> ModuleType:
    """pyarrow, whose `parquet` reads and writes what engines are given and leave."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            "counting out of core needs pyarrow: pip install 'jaxlm[duckdb]', or give more --memory"
        ) from None
    return pyarrow


def run_duckdb(query: str, windows: Path, result: Path, memory: int) -> None:
    """DuckDB, in this process; what does not fit is spilled beside the result."""
    try:
        import duckdb
    except ImportError:
        raise UserError(
            "the engine duckdb is not installed: pip install 'jaxlm[duckdb]', or give more --memory"
        ) from None
    result.mkdir(parents=True)
    spilled = result / "spilled"
    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": f"{memory // 1000}KB",
        "temp_directory": str(spilled),
        "threads": max(1, min(os.cpu_count() or 1, memory // _BYTES_PER_THREAD)),
        "preserve_insertion_order": False,
    }
    source = _quoted(f"{glob.escape(str(windows))}/*.parquet")
    with duckdb.connect(config=config) as connection:
        try:
            connection.execute(f"CREATE VIEW windows AS SELECT * FROM read_parquet({source})")
            target = _quoted(str(result / "part-00000.parquet"))
            connection.execute(f"COPY ({query}) TO {target} (FORMAT parquet)")
        except duckdb.OutOfMemoryException as error:
            if "max_temp_directory_size" in str(error):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(spilled)) from None
            raise UserError(
                f"DuckDB cannot count these n-grams in {memory / 1e6:.0f} MB, its share of "
                "--memory: give more, or a smaller --order"
            ) from None
        except duckdb.IOException as error:
            raise OSError(errno.EIO, str(error).splitlines()[0], str(result)) from None
    shutil.rmtree(spilled, ignore_errors=True)


def run_spark(query: str, windows: Path, result: Path, memory: int) -> None:
    """Spark: the session at hand, which may be a cluster's, or else one on this machine. Folders
    must be on a disk that all its machines see.
    """
    try:
        from pyspark.sql import SparkSession
    except ImportError:
        raise UserError(
            "the engine spark is not installed: pip install 'jaxlm[spark]', or take duckdb"
        ) from None
    try:
        # A session at hand keeps what it was started with; Spark does not start with less.
        builder = SparkSession.builder.config("spark.driver.memory", f"{max(memory >> 20, 512)}m")
        session = builder.getOrCreate()
    except RuntimeError as error:
        raise UserError(
            f"Spark did not start ({' '.join(str(error).split())[:120]}): it needs Java, on the "
            "PATH or at JAVA_HOME"
        ) from None
    # Not the cluster's default file system, from where nothing else here reads.
    session.read.parquet(f"file:{windows.absolute()}").createOrReplaceTempView("windows")
    session.sql(query).write.parquet(f"file:{result.absolute()}")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


ENGINES: dict[str, Engine] = {"duckdb": run_duckdb, "spark": run_spark}
