"""A model's layers, shapes and parameter counts as a table."""

import math
from typing import Any

import jax
from rich.table import Table


def parameter_table(title: str, shapes: Any, layers: dict[str, str]) -> Table:
    """Return a table of layers, with the shapes and the number of their parameters.

    Args:
      title: the title of the table.
      shapes: a tree of arrays or jax.ShapeDtypeStruct, the parameters by name.
      layers: a text that describes each layer, by the prefix of its parameters' paths. The table
        has a row for each prefix, in the same order.
    """
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    by_path = {"/".join(entry.key for entry in path): leaf.shape for path, leaf in leaves}
    table = Table(title=title, title_justify="left", show_footer=True)
    total = f"{sum(map(math.prod, by_path.values())):,}"
    for header, footer, justify in (
        ("layer", "", "left"),
        ("shapes", "total", "left"),
        ("parameters", total, "right"),
        ("what it computes", "", "left"),
    ):
        table.add_column(header, footer, justify=justify)  # type: ignore[arg-type]
    for prefix, meaning in layers.items():
        layer_shapes = [shape for path, shape in by_path.items() if _layer(path, layers) == prefix]
        layer_shapes.sort(key=len, reverse=True)
        shown = ", ".join("x".join(map(str, shape)) for shape in layer_shapes)
        table.add_row(prefix, shown, f"{sum(map(math.prod, layer_shapes)):,}", meaning)
    return table


def _layer(path: str, layers: dict[str, str]) -> str:
    """Return the layer of a parameter: the longest prefix of its path, or an empty text."""
    prefixes = [prefix for prefix in layers if f"{path}/".startswith(f"{prefix}/")]
    return max(prefixes, key=len, default="")
