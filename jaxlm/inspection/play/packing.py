"""Arrays as JSON, compressed, with the types in which they take the least room."""

import base64
import zlib
from typing import Any

import numpy as np

DTYPES = ("float16", "float32")
"""The types of weights."""


def packed(array: Any, dtype: str) -> dict[str, Any]:
    """Return an array as a JSON object, whose `data` is base64 of its bytes, little-endian.

    The bytes are compressed by zlib if this makes them fewer. Before that, the first bytes of all
    numbers are put together, then their second bytes, and so on: the bytes with signs and exponents
    repeat more than the others.

    Args:
      array: any array of numbers.
      dtype: float16, float32, uint8, uint16, uint32 or int32.

    Example:
      >>> packed([1, 2], "uint8")
      {'dtype': 'uint8', 'shape': [2], 'data': 'AQI=', 'deflated': False}
      >>> packed(np.zeros(1000), "float16")["deflated"]
      True
    """
    values = np.asarray(array)
    raw = np.ascontiguousarray(values, np.dtype(dtype).newbyteorder("<")).tobytes()
    columns = np.frombuffer(raw, np.uint8).reshape(-1, np.dtype(dtype).itemsize).T
    smaller = zlib.compress(columns.tobytes(), 9)
    deflated = len(smaller) < len(raw)
    data = base64.b64encode(smaller if deflated else raw).decode("ascii")
    return {"dtype": dtype, "shape": list(values.shape), "data": data, "deflated": deflated}


def packed_ids(array: Any) -> dict[str, Any]:
    """Return an array of integers from 0 on, packed in the smallest type that holds them.

    Example:
      >>> packed_ids([3, 300])["dtype"]
      'uint16'
    """
    values = np.asarray(array)
    highest = int(values.max()) if values.size else 0
    return packed(values, str(np.min_scalar_type(highest)))
