"""Everything that depends on the platform: time loops, precision, layouts and compiler options.

No other module asks which platform JAX runs on. A constant here was measured on the machine that
its comment names; it changes how fast a program is, never what it computes (up to the order of
summation). The constants of a CPU depend on its kind, and are in the table of `jaxlm.ops.cpus`.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxlm.errors import UserError
from jaxlm.ops.cpus import WITH_BFLOAT16, Constants, row_of_this_cpu, this_cpu

TIME_LOOPS = ("auto", "scan", "fused", "newton", "cudnn")
# Up to this many time steps, the loop over time is unrolled. For so few time steps, a loop takes
# longer than its body.
UNROLLED_STEPS = 4
# Time steps in one iteration of the compiled loop. On a GPU a time step is about ten kernels of at
# least 2 µs each, and the time steps of one iteration share some of them. On an H100 a train step
# of three layers of 1150 units, 20 streams and 70 words took 17.9 ms with one time step per
# iteration and 11.0 ms with seven. With ALIGNMENT it took 8.3 ms with 14 or 28.
STEPS_PER_ITERATION = {"gpu": 14}
# The number of elements in a matrix row should be a multiple of this. A GPU's matrix units read
# rows that begin at multiples of 16 bytes. XLA pads other rows, or takes a slower kernel. If the
# product is inside the loop, XLA pads in each iteration (a third of the train step above).
ALIGNMENT = {"gpu": 8}
# The default dtype of products; float32 on the other platforms.
DTYPE = {"tpu": "bfloat16"}
# JAX's names for the precision of a product of float32 numbers. JAX's default is TF32 on a GPU
# (10 bits of mantissa where float32 has 23), and bfloat16 on a TPU (7 bits).
PRECISION = {"float32": "float32", "tf32": "tensorfloat32"}
# On a GPU, XLA times several kernels for a product and takes the fastest, which differs between
# processes. It also adds to rows of memory in no fixed order. With this option, the same seed gives
# the same bytes in every process. On an H200, a train step of two layers of 650 units then takes
# 2.6 ms in place of 2.14 ms, and compiles in 7 s in place of 10 s.
DETERMINISTIC = {"gpu": {"xla_gpu_deterministic_ops": True}}
# The constants of the output layer and of products on platforms that are not a CPU. The logits need
# not stay in a small cache.
ACCELERATOR = Constants(
    words_without_gradient=Constants.words_with_gradient,
    largest_transposed={"float32": 1 << 19, "bfloat16": 0},
    materialises_transposes={},
    options={},
)

# FLOP per second that a train step of a recurrent model reaches on a GPU or a TPU, about: 290,000
# tokens per second of two layers of 650 units, on an H200.
ACCELERATOR_RATE = 2e13
LEAST_GAIN = 1.1
"""A note names bfloat16 where it makes a train step at least this many times as fast."""
ANY = "any"
"""The platform of a program that every platform runs. It has no entry in the tables above: products
state their precision, and no size is aligned, no loop unrolled, for a single platform."""

_target: ContextVar[str | None] = ContextVar("target", default=None)
_constants: ContextVar[Constants | None] = ContextVar("constants", default=None)


def platform() -> str:
    """Return "cpu", "gpu", "tpu" or ANY: the platform that programs are compiled for now."""
    return _target.get() or jax.default_backend()


def host_memory() -> int | None:
    """Return the bytes of main memory that this process may use; None if the system does not say.

    A container may have less memory than the machine.
    """
    found: list[int] = []
    with contextlib.suppress(OSError, ValueError, AttributeError):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        # The first file holds the word "max" where there is no limit.
        with contextlib.suppress(OSError, ValueError):
            found.append(int(Path(limit).read_text()))
    return min(found, default=None)


def devices_memory() -> int | None:
    """Return the bytes of memory of all devices; None if they do not say. A CPU's is the host's."""
    if platform() == "cpu":
        return host_memory()
    # A process can only ask its own devices. The devices of other processes are taken to be alike.
    own = jax.local_devices()
    statistics = [device.memory_stats() or {} for device in own]
    limits: list[int] = [one["bytes_limit"] for one in statistics if "bytes_limit" in one]
    return sum(limits) * jax.device_count() // len(own) if len(limits) == len(own) else None


def check_fits(what: str, size: int, memory: int | None, remedy: str) -> None:
    """Raise UserError if `size` bytes are more than the memory there is.

    Args:
      what: what takes the bytes, a plural.
      size: number of bytes.
      memory: bytes of memory, from `host_memory` or `devices_memory`; None if it is not known.
      remedy: what the user can do.
    """
    if memory is not None and size > memory:
        raise UserError(
            f"{what} take {_gigabytes(size)}, more than the {_gigabytes(memory)} of memory there "
            f"are: {remedy}"
        )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"


@contextlib.contextmanager
def compiling_for(name: str) -> Iterator[None]:
    """Return a context in which programs are lowered for platform `name`, or for ANY.

    This machine need not have the platform.
    """
    token = _target.set(name)
    try:
        yield
    finally:
        _target.reset(token)


def constants() -> Constants:
    """Return the constants that programs are compiled with now.

    On a CPU they are of the row that is nearest to this CPU in the table of `jaxlm.ops.cpus`.
    """
    if platform() != "cpu":
        return ACCELERATOR
    return _constants.get() or row_of_this_cpu().constants


@contextlib.contextmanager
def using_constants(chosen: Constants) -> Iterator[None]:
    """Return a context in which programs of a CPU are compiled with the constants `chosen`.

    A function that was compiled before this context, or in it, keeps its program.
    """
    token = _constants.set(chosen)
    try:
        yield
    finally:
        _constants.reset(token)


def products_per_second(dtype: str | None = None) -> float:
    """Return the FLOP per second that large products reach on this machine, about.

    A CPU's rate is the rate of its row in the table of `jaxlm.ops.cpus`, for as many cores as this
    process may use.

    Args:
      dtype: the setting `dtype` of the model.
    """
    if platform() != "cpu":
        return ACCELERATOR_RATE
    row = row_of_this_cpu()
    rate = row.gflops.get("bfloat16" if dtype == "bfloat16" else "float32", row.gflops["float32"])
    return 1e9 * rate * cores() / row.cores


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def bfloat16_note(dtype: str | None) -> str:
    """Return a note if this CPU trains faster in bfloat16 and `dtype` leaves the choice open.

    The text is empty for a dtype that was asked for, for a CPU without bfloat16 units, on other
    platforms, and where the table has measured no gain.

    Args:
      dtype: the setting `dtype`; None and "auto" leave the choice open.
    """
    if dtype not in (None, "auto") or platform() != "cpu" or this_cpu()[1] not in WITH_BFLOAT16:
        return ""
    gain = row_of_this_cpu().bfloat16_step
    if gain < LEAST_GAIN:
        return ""
    return (
        f"this CPU has bfloat16 units: with `dtype` bfloat16 a train step is about {gain:.1f} "
        f"times as fast, at the same perplexity (PTB: within 0.5%)"
    )


def default_dtype() -> str:
    """Return the dtype that a model computes in, unless its settings name one."""
    return DTYPE.get(platform(), "float32")


def precision_of(dtype: str) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which products of float32 arrays have the precision that `dtype` names.

    "float32" is full float32 on every platform. "tf32" is TF32 on a GPU, three bfloat16 products on
    a TPU, and float32 on a CPU. bfloat16 operands need no precision.
    """
    return matmul_precision(None if platform() == "cpu" else PRECISION.get(dtype))


def matmul_precision(name: str | None) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which products of float32 arrays have JAX's precision `name`.

    None leaves the precision as it is.
    """
    return contextlib.nullcontext() if name is None else jax.default_matmul_precision(name)


def current_precision() -> str | None:
    """Return the precision of the context that is active now, for `matmul_precision`.

    A gradient rule is traced after its context has ended. The forward function stores this name,
    and the backward function enters the precision again.
    """
    name: str | None = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    return name


def tf32_note(dtype: str) -> str:
    """Return a warning if this platform has no TF32 and `dtype` asks for it, else an empty text."""
    missing = dtype == "tf32" and platform() == "cpu"
    return "`dtype` tf32: a CPU has no TF32; float32 is used instead" if missing else ""


def choose_time_loop(
    time_loop: str, time: int, plain_lstm: bool, dtype: str, recurrent: bool = True
) -> str:
    """Return how a recurrent layer runs over time.

    The result is "scan", "fused", "newton", "cudnn" or "parallel". "scan" is `nn.scan`. The other
    names are keys of TIME_LOOP_FUNCTIONS in `models.recurrent.layer`. "auto" is "scan" for up to
    UNROLLED_STEPS time steps, which are unrolled, and "fused" for more. "fused" is faster than
    cuDNN on a GPU too: on an H100 a train step of two layers of 650 units took 2.4 ms
    (cuDNN 4.9 ms); of three layers of 1150 units, in batches of 20 and 80, 8.3 and 18.2 ms (cuDNN
    18.6 and 32.4 ms). "cudnn" becomes "fused" where cuDNN cannot run; `fallback_note` says why.

    Args:
      time_loop: one of TIME_LOOPS.
      time: number of time steps.
      plain_lstm: whether the cell is an LSTM without dropout on its state.
      dtype: dtype of the products, "float32", "tf32" or "bfloat16".
      recurrent: whether the gates of the cell read the state. If not, "fused" and "newton" become
        "parallel", which computes all time steps at once.
    """
    if time_loop == "auto":
        time_loop = "scan" if time <= UNROLLED_STEPS else "fused"
    time_loop = "fused" if fallback_note(time_loop, plain_lstm, dtype) else time_loop
    return "parallel" if time_loop in ("fused", "newton") and not recurrent else time_loop


def fallback_note(time_loop: str, plain_lstm: bool, dtype: str) -> str:
    """Return why `time_loop` cannot run as asked, or an empty text if it can."""
    if time_loop != "cudnn":
        return ""
    reason = ""
    if not plain_lstm:
        reason = "jax has cuDNN's LSTM alone, without dropout of its state"
    elif dtype not in PRECISION:
        reason = f"jax has cuDNN's LSTM in float32, not in {dtype}"
    elif not cudnn_is_here():
        reason = f"there is no cuDNN on this machine ({platform()})"
    return f"`time_loop` cudnn: {reason}; `time_loop` fused runs in its place" if reason else ""


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error says that a device or the machine has no memory left.

    Example:
      >>> is_out_of_memory(MemoryError()), is_out_of_memory(ValueError("RESOURCE_EXHAUSTED"))
      (True, False)
    """
    from_jax = isinstance(error, jax.errors.JaxRuntimeError)
    return isinstance(error, MemoryError) or (from_jax and "RESOURCE_EXHAUSTED" in str(error))


def cudnn_is_here() -> bool:
    """Return whether JAX runs on an NVIDIA GPU and was built with cuDNN's recurrent networks."""
    if platform() != "gpu":
        return False
    try:
        from jax.experimental import rnn
    except ImportError:
        return False
    return getattr(rnn, "gpu_rnn", None) is not None


def steps_per_iteration() -> int:
    """Return how many time steps one iteration of a compiled time loop contains."""
    return STEPS_PER_ITERATION.get(platform(), 1)


def aligned(size: int) -> int:
    """Return the smallest number of elements, at least `size`, with which products are fast."""
    multiple = ALIGNMENT.get(platform(), 1)
    return -(-size // multiple) * multiple


def must_materialise_transpose(dtype: Any) -> bool:
    """Return whether a transposed first operand must be materialised before a product in `dtype`.

    See `Constants.materialises_transposes`.
    """
    return constants().materialises_transposes.get(jnp.dtype(dtype).name, False)


def must_transpose_recurrent(size: int, dtype: Any) -> bool:
    """Return whether the backward time loop is faster with a transposed copy of a matrix.

    See `Constants.largest_transposed`.

    Args:
      size: the number of elements of the recurrent matrix.
      dtype: dtype of the products.
    """
    return size <= constants().largest_transposed.get(jnp.dtype(dtype).name, 0)


def computes_time_steps_in_sequence() -> bool:
    """Return whether a loop over T time steps is faster than log T parallel rounds.

    A CPU has few cores. On two cores, the sequential loop of `ops.linear_recurrence` takes 2.2 ms
    and the associative scan 6.9 ms at [T, B, H] = [256, 32, 256]. At [2048, 8, 256] they take 5 ms
    and 44 ms. A program for ANY platform may leave T open, and the parallel rounds need to know T.
    """
    return platform() in ("cpu", ANY)


def block_if_needed(mesh: Mesh | None, arrays: Any) -> None:
    """Wait until the arrays are computed, if another program could cause a deadlock meanwhile.

    Two programs can wait for each other in two cases: with several processes, which communicate
    between programs, and with several virtual devices on one CPU, which share its threads.
    """
    if mesh is not None and (jax.process_count() > 1 or jax.default_backend() == "cpu"):
        jax.block_until_ready(arrays)


def scatter_add_is_ordered() -> bool:
    """Return whether a scatter-add to the rows of an array has a fixed order of summation."""
    return platform() != "gpu"


def deterministic_options() -> dict[str, Any]:
    """Return compiler options that make gradients the same bytes in each process."""
    return DETERMINISTIC.get(platform(), {})


def task_options(task: str, dtype: str) -> dict[str, Any]:
    """Return compiler options for a program.

    Args:
      task: what the program does, one of `cpus.TASKS`. Programs of "generation" have products with
        few rows.
      dtype: dtype of the products, such as "float32".
    """
    chosen = constants().options_of(task, dtype if dtype == "bfloat16" else "float32")
    return supported_options(dict(chosen))


def step_options(dtype: str) -> dict[str, Any]:
    """Return the compiler options of a train step with products in `dtype`.

    They are the options of the task "step" (`task_options`), and `deterministic_options`.
    """
    return deterministic_options() | task_options("step", dtype)


def supported_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that the installed XLA supports on a CPU; none on other platforms.

    An unsupported option makes a compilation fail, and XLA has no list of options. So an empty
    program is compiled with each option, once per process.
    """
    if platform() != "cpu":
        return {}
    return {name: value for name, value in options.items() if _is_supported(name, value)}


@functools.cache
def _is_supported(name: str, value: Any) -> bool:
    try:
        jax.jit(lambda: 0, compiler_options={name: value})()
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" in str(error) or "not a valid enum value" in str(error):
            return False
        raise
    return True


def jit_with(
    options: Callable[[], dict[str, Any]], function: Callable[..., Any], **jit_options: Any
) -> Callable[..., Any]:
    """Return `jax.jit(function, **jit_options)` with compiler options that depend on the platform.

    `options` returns the compiler options. It is called when the function is first called on a
    platform, not on import, because the platform is known only then. The function takes positional
    arguments only.
    """

    @functools.cache
    def compiled_for(name: str) -> Any:
        # `options` depends on the platform `name`.
        return jax.jit(function, compiler_options=options(), **jit_options)

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        return compiled_for(platform())(*arguments)

    return call
