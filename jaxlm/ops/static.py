"""Static values, known when a function is traced, and traced values, known when it runs."""

from typing import Any

import jax


def is_zero(value: Any) -> bool:
    """Return whether a number is static, and 0 or None. A traced number may be 0 later."""
    return not isinstance(value, jax.core.Tracer) and not value


def is_static(value: Any) -> bool:
    """Return whether the value of a number is known while a function is traced."""
    return not isinstance(value, jax.core.Tracer)
