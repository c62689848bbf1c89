"""The arrays that a model records while it reads: their names, kinds and units."""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlm.errors import SettingError, UserError
from jaxlm.inspection.arguments import in_a_line
from jaxlm.models.registry import MODELS

if TYPE_CHECKING:
    from jaxlm.models.neural import NeuralModel

HIDDEN = "hidden"
"""The name of the features that the output layer reads."""
GATES, STATES = "gates", "states"
# Tokens with which a model is traced to learn what it records.
FEW = 8


def collections() -> tuple[str, ...]:
    """Return the collections that models record."""
    from jaxlm.models.neural import FEATURES
    from jaxlm.models.recurrent.layer import RECORDED

    return (*RECORDED, FEATURES)


def named_arrays(recorded: Any, shape: tuple[int, int]) -> Iterator[tuple[str, str, Any]]:
    """Yield the name, the kind and the array [T, units] of each recorded array.

    Args:
      recorded: the collections, as `apply` returns them.
      shape: (1, T). Arrays that do not begin with these axes have no row for each token, and are
        left out.
    """
    taken: set[str] = set()
    # States first: in a cell that names a gate as a state, the gate gets the longer name.
    for kind in sorted(recorded, key=lambda kind: kind != STATES):
        for path, array in _leaves(recorded[kind]):
            if array.shape[:2] == shape:
                name = "/".join(path)
                name = f"{name}_{kind}" if name in {*taken, HIDDEN} else name
                taken.add(name)
                yield name, kind, array.reshape(shape[1], -1)


def _leaves(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the path and the array of each leaf, in the order of the tree."""
    from jaxlm.models.neural import RECORD

    if isinstance(tree, Mapping):
        for key, branch in tree.items():
            # These parts of a path say where a model records, and not what.
            named = () if key in (RECORD, "recurrent") else (key,)
            yield from _leaves(branch, path + named)
    elif isinstance(tree, tuple):
        # `sow` keeps a tuple with the value of each call.
        for branch in tree:
            yield from _leaves(branch, path)
    else:
        yield path, tree


@functools.lru_cache(maxsize=8)
def _recorded_shapes(model: "NeuralModel") -> tuple[dict[str, str], dict[str, int]]:
    """Return the kind and the number of units of each array that a model records, by name."""
    import jax

    from jaxlm.models.neural import param_shapes

    kinds: dict[str, str] = {}
    widths: dict[str, int] = {}

    def shapes(params: Any, tokens_1T: Any) -> Any:
        (hidden_1TF, _), recorded = model.apply(
            {"params": params}, tokens_1T, mutable=list(collections())
        )
        for name, kind, array in named_arrays(recorded, tokens_1T.shape):
            kinds[name], widths[name] = kind, array.shape[-1]
        kinds[HIDDEN], widths[HIDDEN] = HIDDEN, hidden_1TF.shape[-1]
        return ()

    jax.eval_shape(shapes, param_shapes(model), np.zeros((1, FEW), np.int32))
    return kinds, widths


def recorded_names(model: "NeuralModel") -> tuple[list[str], dict[str, str]]:
    """Return the names of the arrays that a model records, in order, and the kind of each.

    The arrays of a layer come in the order in which its cell names gates and states.
    """
    kinds, _ = _recorded_shapes(model)
    cell = getattr(model, "cell", None)
    order = [] if cell is None else [*cell.gates, *cell.carry]

    def place(name: str) -> Any:
        last = name.rpartition("/")[2]
        known = order.index(last) if last in order else len(order)
        return name == HIDDEN, _numbered(layer_of(name)), known, _numbered(name)

    names = sorted(kinds, key=place)
    return names, {name: kinds[name] for name in names}


def _numbered(name: str) -> list[Any]:
    """Return the parts of a name, with its numbers as integers, so that 2 comes before 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def checked_units(
    run: str, model: "NeuralModel", units: Mapping[str, Sequence[int]]
) -> dict[str, np.ndarray]:
    """Return units by the name of their array as int32 arrays.

    Args:
      run: name of the run.
      model: its model.
      units: the units by the name of the array.
    Raises:
      UserError: for a name or a unit that the model does not record.
      SettingError: for units that are no dict, or no whole numbers.
    """
    if not isinstance(units, Mapping):
        raise SettingError(
            "units", in_a_line(units), 'must be a dict, such as {"layers_0/h": [0, 3]}'
        )
    (_, kinds), (_, widths) = recorded_names(model), _recorded_shapes(model)
    checked = {}
    for name, wanted in units.items():
        if name not in kinds:
            raise missing(name, run, kinds)
        try:
            index = np.atleast_1d(wanted)
        except ValueError:  # lists of different lengths
            index = np.empty((0, 0))
        # An empty list is an array of floating-point numbers.
        if index.ndim != 1 or (index.size and index.dtype.kind not in "iu"):
            why = f"must be a list of whole numbers, the units of {name}"
            raise SettingError("units", in_a_line(wanted), why)
        for unit in index[(index < 0) | (index >= widths[name])][:1].tolist():
            last = widths[name] - 1
            raise UserError(f"`units`: {name} of {run} has the units 0 to {last}, not {unit}")
        checked[name] = index.astype(np.int32)
    return checked


def missing(name: str, run: str, kinds: Mapping[str, str]) -> UserError:
    """Return the error for an array that a trace of `run` does not have.

    Args:
      name: name of the array.
      run: name of the run.
      kinds: the arrays that the run has, with their kinds.
    """
    if any(kind in (GATES, STATES) for kind in kinds.values()):
        return UserError(f"{run} records no {name!r}; it records {', '.join(kinds)}")
    has = f"; it records {', '.join(kinds)}" if kinds else ""
    return UserError(
        f"{run} has no gates and no states, so no {name!r}{has}. Runs of these models have gates: "
        f"{', '.join(models_with_gates())}"
    )


def models_with_gates() -> list[str]:
    """Return the names of the registered models that have gates.

    Example:
      >>> models_with_gates()[:3]
      ['rnn', 'gru', 'lstm']
    """
    return [
        name
        for name, entry in MODELS.items()
        if entry.cell is not None or hasattr(entry.kind, "cell")
    ]


def layer_of(name: str) -> str:
    """Return the part of an array's name that names its layer."""
    return name.rpartition("/")[0]
