"""Which way a recurrent layer runs over time, and in what products are made: the one place that
knows what the machine offers.
"""

import contextlib
from typing import Any

import jax

from jaxlm.ops.compiling import platform

KERNELS = ("auto", "scan", "fused", "cudnn")
# Up to this many steps the loop over time is unrolled: for the lecture's two words a loop costs
# more than its body.
UNROLLED_STEPS = 4
# Steps in one turn of a longer loop. On a GPU a step is some ten kernels, of 2 µs each however
# little they do, and a turn shares some of them: an H100's step of three layers of 1150 units, 20
# streams and 70 words took 17.9 ms one by one and 11.0 seven at a time; with ALIGNMENT 8.3,
# fourteen or 28 at a time.
TURN = {"gpu": 14}
# What a matrix's rows should be a multiple of. A GPU's matrix units read rows that begin at
# multiples of 16 bytes: XLA widens others, inside the loop if the product is there (a third of the
# step above), or takes a slower kernel.
ALIGNMENT = {"gpu": 8}
# What products are computed in where nothing is asked for; elsewhere float32.
DTYPE = {"tpu": "bfloat16"}
# JAX's names for the precision of a product of float32 numbers. Its default on a GPU is TF32, with
# 10 bits of mantissa for float32's 23, and on a TPU bfloat16's 7: a model says which it wants.
PRECISION = {"float32": "float32", "tf32": "tensorfloat32"}


def default_dtype() -> str:
    """What a model computes in, unless it is told."""
    return DTYPE.get(platform(), "float32")


def precision(dtype: str) -> contextlib.AbstractContextManager[Any]:
    """A context for tracing what computes in `dtype`: "float32" is that on every machine, "tf32"
    what a GPU's matrix units make of it (a TPU three products in bfloat16; a CPU float32).
    """
    if dtype not in PRECISION or platform() == "cpu":
        return contextlib.nullcontext()
    return jax.default_matmul_precision(PRECISION[dtype])


def no_tf32(dtype: str) -> str:
    """Why `dtype` is not what products will be in; empty if it is."""
    missing = dtype == "tf32" and platform() == "cpu"
    return "--dtype tf32: a CPU has no TF32; float32 in its place" if missing else ""


def choose_kernel(
    kernel: str, time: int, plain_lstm: bool, dtype: str, recurrent: bool = True
) -> str:
    """ "scan", "fused", "cudnn" or "parallel", for so many steps in `dtype`; `plain_lstm`: of an
    LSTM with no dropout on its recurrent link; `recurrent`: of a cell with a matrix from step to
    step.

    auto is "fused", or "scan" for a few steps, which are unrolled: nothing is to be gained there.
    On an H100 too: a step of two layers of 650 units took 2.4 ms, by cuDNN 4.9; of three of 1150,
    in batches of 20 and 80, 8.3 and 18.2, by cuDNN 18.6 and 32.4.
    "cudnn" where it cannot be had is "fused"; `fallback` says why. "fused" without a matrix is
    "parallel": all steps at once.
    """
    if kernel == "auto":
        kernel = "scan" if time <= UNROLLED_STEPS else "fused"
    kernel = "fused" if fallback(kernel, plain_lstm, dtype) else kernel
    return "parallel" if kernel == "fused" and not recurrent else kernel


def steps_a_turn() -> int:
    """How many steps of a loop over time are to be written out in one turn of it."""
    return TURN.get(platform(), 1)


def aligned(size: int) -> int:
    """The least size, from this one on, of which products are fast."""
    multiple = ALIGNMENT.get(platform(), 1)
    return -(-size // multiple) * multiple


def fallback(kernel: str, plain_lstm: bool, dtype: str) -> str:
    """Why `kernel` is not what will run; empty if it is."""
    if kernel != "cudnn":
        return ""
    reason = ""
    if not plain_lstm:
        reason = "jax has cuDNN's LSTM alone, without dropout of its state"
    elif dtype not in PRECISION:
        reason = f"jax has cuDNN's LSTM in float32, not in {dtype}"
    elif not cudnn_is_here():
        reason = f"there is no cuDNN on this machine ({platform()})"
    return f"--kernel cudnn: {reason}; --kernel fused runs in its place" if reason else ""


def cudnn_is_here() -> bool:
    """Whether JAX runs on an NVIDIA GPU and was built with cuDNN's recurrent networks."""
    if platform() != "gpu":
        return False
    try:
        from jax.experimental import rnn
    except ImportError:
        return False
    return getattr(rnn, "gpu_rnn", None) is not None
