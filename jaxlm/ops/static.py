"""Static values, which are known while JAX traces a function, and traced values, which are not."""

from typing import Any

import jax


def is_zero(value: Any) -> bool:
    """Return whether a number is static, and 0 or None.

    For a traced number it is False, because its value is not known.
    """
    return is_static(value) and not value


def is_static(value: Any) -> bool:
    """Return whether a number is static, so that Python code may branch on its value."""
    return not isinstance(value, jax.core.Tracer)
