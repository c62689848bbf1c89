"""A model as a table: layers, shapes, parameter counts."""

import math
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from rich.table import Table


def parameter_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Every parameter's path and shape, without computing a value."""
    tokens_BT = np.zeros((1, 2), np.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), tokens_BT)["params"]
    found: dict[str, tuple[int, ...]] = {}

    def visit(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> None:
        found["/".join(entry.key for entry in path)] = leaf.shape

    jax.tree_util.tree_map_with_path(visit, params)
    return found


def parameter_table(model: nn.Module, layers: dict[str, str]) -> Table:
    """Layers in order (prefix of the parameters' paths -> what they compute), the shapes of their
    parameters, and how many numbers those are.
    """
    shapes = parameter_shapes(model)
    table = Table(title=f"{type(model).__name__}", title_justify="left", show_footer=True)
    total = f"{sum(map(math.prod, shapes.values())):,}"
    for header, footer, justify in (
        ("layer", "", "left"),
        ("shapes", "total", "left"),
        ("parameters", total, "right"),
        ("what it computes", "", "left"),
    ):
        table.add_column(header, footer, justify=justify)  # type: ignore[arg-type]
    for prefix, meaning in layers.items():
        own = [shape for path, shape in shapes.items() if _layer(path, layers) == prefix]
        own.sort(key=len, reverse=True)
        drawn = ", ".join("x".join(map(str, shape)) for shape in own)
        table.add_row(prefix, drawn, f"{sum(map(math.prod, own)):,}", meaning)
    return table


def _layer(path: str, layers: dict[str, str]) -> str:
    """Which layer a parameter belongs to: the longest prefix of its path."""
    fitting = [prefix for prefix in layers if f"{path}/".startswith(f"{prefix}/")]
    return max(fitting, key=len, default="")
