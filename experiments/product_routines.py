"""Compare XLA's float32 products with the sgemm of NumPy's OpenBLAS or of MKL, called by jax.ffi.

Command    python experiments/product_routines.py [--library PATH]
Hardware   any CPU; nothing else should run on its cores
Minutes    1, and `pip install numba` before (`pip install mkl` for MKL)
Expected   GFLOP/s of each shape, and the largest difference of the results. On two cores of an AMD
           EPYC with AVX2, OpenBLAS is 1.05 to 1.11 times as fast as XLA in the geometric mean (0.8
           for 20 rows, 1.3 for aᵀ b at 200 units), and MKL 0.94 times
Published  none

A training step multiplies in three layouts: a b (nn), a bᵀ (nt) and aᵀ b (tn). Numba compiles a
handler for each, which reads the arguments from XLA's call frame and calls cblas_sgemm. So no C
compiler is needed. The OpenBLAS is the library that NumPy's wheel contains; PATH names another
library with cblas_sgemm, such as libmkl_rt.so.3.
"""

import argparse
import ctypes
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numba import cfunc, types
from numba.core import cgutils
from numba.extending import intrinsic

CONTRACTED = {"nn": ((1,), (0,)), "nt": ((1,), (1,)), "tn": ((0,), (0,))}
"""The contracted axes of a and b, by layout."""
SHAPES = [
    # layout, rows, contracted size, columns; the products of the shapes of experiments/benchmark.
    ("nn", 700, 650, 10_000),
    ("nt", 700, 10_000, 650),
    ("tn", 650, 700, 10_000),
    ("nn", 700, 650, 2600),
    ("nt", 700, 2600, 650),
    ("tn", 650, 700, 2600),
    ("nn", 320, 200, 10_000),
    ("nt", 320, 10_000, 200),
    ("tn", 200, 320, 10_000),
    ("nn", 400, 200, 800),
    ("tn", 200, 400, 800),
    ("tn", 256, 8192, 1024),
    # One time step of a batch.
    ("nn", 20, 650, 2600),
    ("nt", 20, 2600, 650),
    ("nn", 20, 200, 800),
    ("nt", 20, 800, 200),
    ("nn", 32, 256, 1024),
    ("nt", 32, 1024, 256),
]
ROW_MAJOR, PLAIN, TRANSPOSED = 101, 111, 112
"""Constants of cblas.h."""
# Offsets in bytes, of xla/ffi/api/c_api.h.
EXTENSION, ARGUMENTS, RESULTS = 8, 72, 112
"""In XLA_FFI_CallFrame: the extension, the array of arguments, the array of results."""
DATA, DIMENSIONS = 24, 40
"""In XLA_FFI_Buffer: the data, and the array of sizes."""
METADATA, MAJOR, MINOR = 24, 24, 28
"""In the extension: the metadata; in the metadata: the version of the interface."""


@intrinsic
def read64(context: Any, address: Any) -> Any:
    """Return the 64-bit integer at an address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], cgutils.ir.IntType(64).as_pointer())
        return builder.load(pointer)

    return types.int64(types.int64), generate


@intrinsic
def write32(context: Any, address: Any, value: Any) -> Any:
    """Write a 32-bit integer to an address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], cgutils.ir.IntType(32).as_pointer())
        builder.store(args[1], pointer)
        return context.get_dummy_value()

    return types.none(types.int64, types.int32), generate


def find_sgemm(library: Path | None) -> tuple[Any, Any]:
    """Return cblas_sgemm as a function of integers, and NumPy's type of its sizes."""
    names = {"cblas_sgemm": np.int32, "scipy_cblas_sgemm64_": np.int64}
    if library is None:
        folder = Path(np.__file__).parent.parent / "numpy.libs"
        library = next(folder.glob("libscipy_openblas*"), None)
        if library is None:
            raise SystemExit("error: this NumPy has no OpenBLAS of its own: give --library PATH")
    try:
        loaded = ctypes.CDLL(str(library))
    except OSError as error:
        raise SystemExit(f"error: --library {library}: {error}") from None
    for name, integer in names.items():
        if hasattr(loaded, name):
            address = ctypes.cast(getattr(loaded, name), ctypes.c_void_p).value
            flag, real, pointer = ctypes.c_int32, ctypes.c_float, ctypes.c_int64
            size = ctypes.c_int32 if integer is np.int32 else ctypes.c_int64
            arguments = [flag, flag, flag, size, size, size, real]
            arguments += [pointer, size, pointer, size, real, pointer, size]
            return ctypes.CFUNCTYPE(None, *arguments)(address), integer
    raise SystemExit(f"error: --library {library} has none of {', '.join(names)}")


def make_handler(layout: str, sgemm: Any, integer: Any) -> Any:
    """Return a compiled handler of XLA's that multiplies two matrices in a layout."""
    first = np.int32(TRANSPOSED if layout[0] == "t" else PLAIN)
    second = np.int32(TRANSPOSED if layout[1] == "t" else PLAIN)
    order, zero, one = np.int32(ROW_MAJOR), np.float32(0), np.float32(1)
    # Offsets of the rows, the contracted size and the columns in the arrays of sizes.
    rows, inner, columns = (8, 0, 8) if layout[0] == "t" else (0, 8, 8)
    if layout[1] == "t":
        columns = 0

    @cfunc(types.int64(types.int64))
    def handler(frame: int) -> int:
        extension = read64(frame + EXTENSION)
        if extension != 0:
            # XLA asks for the version of the interface when the handler is registered.
            metadata = read64(extension + METADATA)
            write32(metadata + MAJOR, np.int32(0))
            write32(metadata + MINOR, np.int32(1))
            return 0
        arguments, results = read64(frame + ARGUMENTS), read64(frame + RESULTS)
        a, b, y = read64(arguments), read64(arguments + 8), read64(results)
        sizes_a, sizes_b = read64(a + DIMENSIONS), read64(b + DIMENSIONS)
        m, k = integer(read64(sizes_a + rows)), integer(read64(sizes_a + inner))
        n = integer(read64(sizes_b + columns))
        width_a, width_b = integer(read64(sizes_a + 8)), integer(read64(sizes_b + 8))
        data_a, data_b, data_y = read64(a + DATA), read64(b + DATA), read64(y + DATA)
        sgemm(order, first, second, m, n, k, one, data_a, width_a, data_b, width_b, zero, data_y, n)
        return 0

    return handler


def register(layout: str, handler: Any) -> None:
    """Register the handler with XLA as sgemm_{layout}."""
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = (
        ctypes.py_object,
        [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p],
    )
    capsule = new(handler.address, None, None)
    jax.ffi.register_ffi_target(f"sgemm_{layout}", capsule, platform="cpu", api_version=1)


def by_xla(layout: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """Return the product by XLA."""
    return jax.lax.dot_general(a, b, (CONTRACTED[layout], ((), ())))


def by_ffi(layout: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """Return the product by the registered handler."""
    shape = jax.eval_shape(lambda a, b: by_xla(layout, a, b), a, b)
    return jax.ffi.ffi_call(f"sgemm_{layout}", shape)(a, b)


def rate(multiply: Any, layout: str, a: jax.Array, b: jax.Array, flop: int) -> float:
    """Return the FLOP per second of many products in one compiled loop, the median of 0.5 s."""
    count = max(1, int(2e8 / flop))

    shape = jax.eval_shape(lambda a, b: multiply(layout, a, b), a, b)

    # Both matrices are arguments: XLA could change the layout of a constant while it compiles.
    def loop(a: jax.Array, b: jax.Array) -> jax.Array:
        def body(_: Any, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            a, _ = state
            y = multiply(layout, a, b)
            # The next product depends on this product, so that XLA computes each.
            return a + 0 * y[0, 0], y

        return jax.lax.fori_loop(0, count, body, (a, jnp.zeros(shape.shape)))[1]

    compiled = jax.jit(loop).lower(a, b).compile()
    compiled(a, b).block_until_ready()
    times, end = [], time.perf_counter() + 0.5
    while time.perf_counter() < end:
        began = time.perf_counter()
        compiled(a, b).block_until_ready()
        times.append(time.perf_counter() - began)
    return count * flop / statistics.median(times)


def main() -> None:
    """Print a line for each shape."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", type=Path, help="a shared library with cblas_sgemm")
    sgemm, integer = find_sgemm(parser.parse_args().library)
    handlers = {layout: make_handler(layout, sgemm, integer) for layout in CONTRACTED}
    for layout, handler in handlers.items():
        register(layout, handler)
    random = np.random.default_rng(0)
    ratios = []
    print("layout            shape   XLA  BLAS  ratio  difference")
    for layout, m, k, n in SHAPES:
        sizes = ((k, m) if layout[0] == "t" else (m, k)), ((n, k) if layout[1] == "t" else (k, n))
        a, b = (jnp.asarray(random.standard_normal(size, dtype=np.float32)) for size in sizes)
        rates = [rate(way, layout, a, b, 2 * m * k * n) / 1e9 for way in (by_xla, by_ffi)]
        found = jax.jit(by_ffi, static_argnums=0)(layout, a, b)
        difference = float(abs(found - by_xla(layout, a, b)).max())
        ratios.append(rates[1] / rates[0])
        print(
            f"{layout:6} {f'{m}x{k}x{n}':>16} {rates[0]:5.0f} {rates[1]:5.0f} {ratios[-1]:6.2f}"
            f"  {difference:.0e}",
            flush=True,
        )
    print(f"geometric mean {statistics.geometric_mean(ratios):.2f}")


if __name__ == "__main__":
    main()
