"""What a function is compiled for; and options that make one faster, where it knows them."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import jax

# XLA's CPU products in float32 through YNNPACK (jaxlib 0.10) copy a matrix into an order of their
# own each time, which a product with a few rows does not pay back: with them, a 650-unit LSTM
# generates 20 streams in a fifth longer (1193 ms for 983). In bfloat16 there is nothing as fast
# without them (746 ms for 1104). Its sums are left to it: a tenth of the time of 200 units.
FEW_ROWS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}
# On a GPU XLA times ways to multiply and takes the fastest, not always the same one; and it adds to
# rows in no fixed order (`ops.lookup` does without that). With this one seed ends in the same bytes
# in every process. On an H200 a step of two layers of 650 units takes a fifth longer for it (2.6 ms
# for 2.14), and compiles in 7 s, not 10.
IN_ORDER = {"gpu": {"xla_gpu_deterministic_ops": True}}
_target: ContextVar[str | None] = ContextVar("target", default=None)


def platform() -> str:
    """What is compiled for: "cpu", "gpu" or "tpu"; JAX's own, unless `compiling_for` says other."""
    return _target.get() or jax.default_backend()


@contextlib.contextmanager
def compiling_for(name: str) -> Iterator[None]:
    """A context in which functions are lowered for machines that are not here."""
    token = _target.set(name)
    try:
        yield
    finally:
        _target.reset(token)


def in_order() -> dict[str, Any]:
    """Options for a program that takes gradients, to have the same bytes each time it runs."""
    return IN_ORDER.get(platform(), {})


def few_rows(dtype: str) -> dict[str, str]:
    """Options for a program whose products have few rows, in this dtype."""
    return {} if dtype == "bfloat16" else known(FEW_ROWS)


def jit_with(
    options: Callable[[], dict[str, Any]], function: Callable[..., Any], **how: Any
) -> Callable[..., Any]:
    """`jax.jit` with options that are asked for when it is called, not on import: what is compiled
    for, and what its compiler knows, are known then.
    """

    @functools.cache
    def compiled_for(name: str) -> Any:
        return jax.jit(function, compiler_options=options(), **how)

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        return compiled_for(platform())(*arguments)

    return call


@functools.cache
def _is_known(name: str, value: str) -> bool:
    try:
        jax.jit(lambda: 0, compiler_options={name: value})()
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" in str(error) or "not a valid enum value" in str(error):
            return False
        raise
    return True


def known(options: dict[str, str]) -> dict[str, str]:
    """Those of `options` that the installed XLA has for a CPU, which they are all about; none on an
    accelerator. Compiles an empty program to find out, once: an option that is not known stops a
    compilation, and XLA has no list of them.
    """
    if platform() != "cpu":
        return {}
    return {name: value for name, value in options.items() if _is_known(name, value)}
