"""What is fastest on a CPU: a table of measured rows, one for each kind of CPU.

A row has the constants that programs are compiled with, and how fast the CPU multiplies. The rows
are in `cpus.json`, which `experiments/tune.py` measures and writes. A constant changes how fast a
program is, never what it computes, up to the order of summation.
"""

import functools
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("cpus.json")
LEVELS: dict[str, tuple[str, ...]] = {
    "amx": ("amx_bf16", "amx_tile", "avx512f"),
    "avx512-bfloat16": ("avx512_bf16", "avx512f"),
    "avx512": ("avx512f",),
    "avx2": ("avx2",),
    "neon": ("asimd",),
    "plain": (),
}
"""Levels of vector units, the fastest first, with the flags of /proc/cpuinfo that each needs."""
WITH_BFLOAT16 = ("amx", "avx512-bfloat16")
"""The levels that multiply bfloat16 numbers faster than float32 numbers."""
VENDORS = {"GenuineIntel": "intel", "AuthenticAMD": "amd"}
TASKS = ("step", "evaluation", "generation")
"""The tasks that have compiler options: a train step, scoring a text, and generating."""

# XLA's float32 CPU products through YNNPACK (jaxlib 0.10) copy the matrix on every call. For a
# product with a few rows, the copy takes longer than YNNPACK saves: a 650-unit LSTM generates 20
# streams in 1193 ms with YNNPACK, and in 983 ms without. In bfloat16, YNNPACK's products are faster
# (746 ms in place of 1104 ms). This option uses YNNPACK for sums (reductions) only, which saves a
# tenth of the time at 200 units.
SUMS_BY_YNNPACK = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}

Options = Mapping[str, Any]
"""Compiler options of XLA: name -> value."""


@dataclass(frozen=True)
class Constants:
    """The constants that programs are compiled with on a CPU.

    The default values were measured on AMD EPYCs with AVX2 and with AVX-512.
    """

    chunk_tokens: int = 320
    """Minimum number of tokens whose logits exist at a time in a train step. A chunk has at least
    as many tokens as there are features, because each chunk reads the output matrix and adds to its
    whole gradient."""
    chunk_tokens_without_gradient: int = 1024
    """Tokens in a chunk if no gradient is computed. A chunk has many tokens, because the logits of
    a vocabulary slice are reduced at once."""
    words_with_gradient: int = 7168
    """Largest number of words in one product of the output layer, with gradients. With longer rows
    of logits, neighbours in a column lie on different memory pages, and products that read down the
    columns take twice as long: 450 ms in place of 223 ms at 33,278 words."""
    words_without_gradient: int = 2048
    """Words that the output layer handles at a time, without gradients, so that the logits stay in
    a core's cache."""
    largest_transposed: Mapping[str, int] = field(
        default_factory=lambda: {"float32": 1 << 19, "bfloat16": 0}
    )
    """The backward time loop reads a transposed copy of a recurrent matrix with at most this many
    elements, by dtype of the products. A larger matrix does not stay in a core's cache, and the
    product is faster without the copy."""
    materialises_transposes: Mapping[str, bool] = field(
        default_factory=lambda: {"float32": False, "bfloat16": True}
    )
    """Whether a transposed first operand is materialised before a product, by dtype. XLA's bfloat16
    products cannot read a transposed first operand. They fall back to float32, at half the
    speed."""
    options: Mapping[str, Mapping[str, Options]] = field(
        default_factory=lambda: {"generation": {"float32": SUMS_BY_YNNPACK}}
    )
    """Compiler options by task (TASKS), then by dtype. A task or dtype that is missing has none."""

    def options_of(self, task: str, dtype: str) -> Options:
        """Return the compiler options of a task in a dtype of products."""
        return self.options.get(task, {}).get(dtype, {})


@dataclass(frozen=True)
class Row:
    """One measured row of the table.

    Attributes:
      vendor: "intel", "amd", or another name.
      level: a name in LEVELS.
      cpu: the name of the CPU that was measured, with its number of cores.
      date: when it was measured, such as 2026-11-29; with it, `jaxlib` is the version.
      gflops: rate of a product of two matrices of 2048 x 2048, in GFLOP/s of all cores, by dtype.
      cores: the number of cores.
      bfloat16_step: how many times as fast as in float32 a train step is in bfloat16, the geometric
        mean over the shapes of `experiments/tune.py`.
      constants: the constants that were fastest.
    """

    vendor: str
    level: str
    cpu: str = ""
    date: str = ""
    jaxlib: str = ""
    gflops: Mapping[str, float] = field(default_factory=dict)
    cores: int = 1
    bfloat16_step: float = 1.0
    constants: Constants = field(default_factory=Constants)

    def as_json(self) -> dict[str, Any]:
        """Return the row for `cpus.json`. Constants that have their default value are left out."""
        default = asdict(Constants())
        changed = {
            name: value for name, value in asdict(self.constants).items() if value != default[name]
        }
        return {**asdict(self), "constants": changed}


def row_from_json(entry: Mapping[str, Any]) -> Row:
    """Return a row of `cpus.json`.

    Raises:
      TypeError: for a name that a row does not have.
    """
    return Row(**{**entry, "constants": Constants(**entry.get("constants", {}))})


@functools.cache
def read_table() -> tuple[Row, ...]:
    """Return the rows that come with jaxlm, in the order of the file."""
    return tuple(map(row_from_json, json.loads(TABLE.read_text(encoding="utf-8"))))


@functools.cache
def this_cpu() -> tuple[str, str]:
    """Return the vendor and the level of the CPU that this process runs on."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    return kind_of(text, platform.machine())


def kind_of(cpuinfo: str, architecture: str) -> tuple[str, str]:
    """Return vendor and level of a CPU.

    Args:
      cpuinfo: the text of Linux' /proc/cpuinfo; "" on other systems.
      architecture: the name of the architecture, such as "x86_64" or "arm64".

    Example:
      >>> kind_of("vendor_id : AuthenticAMD\\nflags : fma avx avx2", "x86_64")
      ('amd', 'avx2')
      >>> kind_of("", "arm64")
      ('other', 'neon')
    """
    found: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        found.setdefault(name.strip().lower(), value.strip())
    flags = set((found.get("flags") or found.get("features") or "").split())
    if architecture.lower() in ("arm64", "aarch64"):
        flags.add("asimd")
    vendor = VENDORS.get(found.get("vendor_id", ""), "other")
    return vendor, next(name for name, needed in LEVELS.items() if flags.issuperset(needed))


def nearest_row(rows: Sequence[Row], vendor: str, level: str) -> Row:
    """Return the row that was measured on the CPU that is most like this one.

    The level counts more than the vendor. Among rows of other levels, the next slower level is
    nearer than the next faster one, because the CPU can do all that a slower level can.

    Example:
      >>> rows = [Row("amd", "avx2"), Row("amd", "avx512"), Row("intel", "avx2")]
      >>> nearest_row(rows, "intel", "amx").level, nearest_row(rows, "intel", "avx2").vendor
      ('avx512', 'intel')
    """
    order = list(LEVELS)
    wanted = order.index(level)

    def distance(row: Row) -> tuple[int, bool]:
        away = order.index(row.level) - wanted
        # Twice the distance, so that one step down and one step up never tie.
        return (2 * away if away >= 0 else -2 * away + 1), row.vendor != vendor

    return min(rows, key=distance)


@functools.cache
def row_of_this_cpu() -> Row:
    """Return the row of the table that is nearest to this CPU."""
    return nearest_row(read_table(), *this_cpu())
