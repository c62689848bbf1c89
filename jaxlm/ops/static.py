"""Numbers that are known when a function is compiled, and those that are given when it runs."""

from typing import Any

import jax


def is_zero(value: Any) -> bool:
    """Whether a number is known to be 0 (or is None); one that is given at run time is not."""
    return not isinstance(value, jax.core.Tracer) and not value


def is_static(value: Any) -> bool:
    """Whether a number can be looked at while compiling."""
    return not isinstance(value, jax.core.Tracer)
