"""Engines that run a query over more rows than memory holds.

An engine reads plain SQL and Parquet files, and writes Parquet files. No other module depends on
which engine runs, or where. A new engine is one function and one line in ENGINES.
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
"""engine(query, windows, result, memory) runs an SQL query in about `memory` bytes.

Args:
  query: SQL that reads the table `windows`.
  windows: a folder of Parquet files, the rows of that table.
  result: a folder to make. Its Parquet files, sorted by name, hold the resulting rows in order.
  memory: bytes.
Raises:
  UserError: if the engine is not installed, or needs more memory.
  OSError: if the disk is full.
"""

# Each thread of DuckDB needs this much memory to sort and group without spilling at every step.
_BYTES_PER_THREAD = 100_000_000


def import_pyarrow() -> ModuleType:
    """Return the module pyarrow; `pyarrow.parquet` reads and writes the files of the engines.

    Raises:
      UserError: if pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            "counting on disk needs pyarrow: pip install duckdb pyarrow, or give more `memory`"
        ) from None
    return pyarrow


def run_duckdb(query: str, windows: Path, result: Path, memory: int) -> None:
    """Run `query` by DuckDB in this process. Rows that exceed the memory are spilled into `result`.

    Args:
      query: SQL that reads the table `windows`.
      windows: folder of the Parquet files of that table.
      result: folder to make, for the resulting Parquet file.
      memory: limit for DuckDB, in bytes.
    Raises:
      UserError: if DuckDB is not installed, or needs more memory.
      OSError: if the disk is full.
    """
    try:
        import duckdb
    except ImportError:
        raise UserError(
            "the engine duckdb is not installed: pip install duckdb pyarrow, or give more `memory`"
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
                "`memory`: give more, or a smaller `order`"
            ) from None
        except duckdb.IOException as error:
            raise OSError(errno.EIO, str(error).splitlines()[0], str(result)) from None
    shutil.rmtree(spilled, ignore_errors=True)


def run_spark(query: str, windows: Path, result: Path, memory: int) -> None:
    """Run `query` by Spark: in the active session, which may use a cluster, or in a new local one.

    Every machine of the cluster must see both folders under the same paths.

    Args:
      query: SQL that reads the table `windows`.
      windows: folder of the Parquet files of that table.
      result: folder to make, for the resulting Parquet files.
      memory: bytes for the driver of a new session. An active session keeps its own limit.
    Raises:
      UserError: if PySpark is not installed, or Spark does not start.
    """
    try:
        from pyspark.sql import SparkSession
    except ImportError:
        raise UserError(
            "the engine spark is not installed: pip install pyspark pyarrow, or use `engine` duckdb"
        ) from None
    try:
        # An active session ignores this setting. Spark needs 512 MiB to start.
        builder = SparkSession.builder.config("spark.driver.memory", f"{max(memory >> 20, 512)}m")
        session = builder.getOrCreate()
    except RuntimeError as error:
        raise UserError(
            f"Spark did not start ({' '.join(str(error).split())[:120]}): it needs Java, on the "
            "PATH or at JAVA_HOME"
        ) from None
    # "file:" selects the local file system. A cluster may have another default.
    session.read.parquet(f"file:{windows.absolute()}").createOrReplaceTempView("windows")
    session.sql(query).write.parquet(f"file:{result.absolute()}")


def _quoted(text: str) -> str:
    """Return `text` as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


ENGINES: dict[str, Engine] = {"duckdb": run_duckdb, "spark": run_spark}
