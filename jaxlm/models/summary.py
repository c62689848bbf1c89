"""A model's layers, shapes and parameter counts as a table."""

import math
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from rich.table import Table


def parameter_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shape of each parameter by its path, without computing the parameters."""
    tokens_BT = np.zeros((1, 2), np.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), tokens_BT)["params"]
    shapes: dict[str, tuple[int, ...]] = {}

    def visit(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> None:
        shapes["/".join(entry.key for entry in path)] = leaf.shape

    jax.tree_util.tree_map_with_path(visit, params)
    return shapes


def parameter_table(model: nn.Module, layers: dict[str, str]) -> Table:
    """Return a table of layers, with the shapes and the number of their parameters.

    `layers` maps a prefix of parameter paths to a text that describes the layer. The table has a
    row for each prefix, in the same order.
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
        layer_shapes = [shape for path, shape in shapes.items() if _layer(path, layers) == prefix]
        layer_shapes.sort(key=len, reverse=True)
        shown = ", ".join("x".join(map(str, shape)) for shape in layer_shapes)
        table.add_row(prefix, shown, f"{sum(map(math.prod, layer_shapes)):,}", meaning)
    return table


def _layer(path: str, layers: dict[str, str]) -> str:
    """Return the layer of a parameter: the longest prefix of its path, or an empty text."""
    prefixes = [prefix for prefix in layers if f"{path}/".startswith(f"{prefix}/")]
    return max(prefixes, key=len, default="")
