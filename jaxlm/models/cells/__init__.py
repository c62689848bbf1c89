"""Recurrent cells: the mathematics of one time step, by name.

A new cell is one file in this folder and one line in `jaxlm.models.registry.MODELS`.
"""

from jaxlm.models.cells.base import Carry, Cell, ParallelCell
from jaxlm.models.cells.elman import ElmanCell
from jaxlm.models.cells.gru import GRUCell
from jaxlm.models.cells.lstm import LSTMCell
from jaxlm.models.cells.min_gru import MinGRUCell
from jaxlm.models.cells.min_lstm import MinLSTMCell
from jaxlm.models.cells.para_gru import ParaGRUCell
from jaxlm.models.cells.para_lstm import ParaLSTMCell
from jaxlm.models.registry import MODELS

CELLS: dict[str, Cell] = {
    name: entry.make_cell() for name, entry in MODELS.items() if entry.cell is not None
}
"""The cells of the recurrent models, by the name of the model."""

__all__ = [
    "CELLS",
    "Carry",
    "Cell",
    "ElmanCell",
    "GRUCell",
    "LSTMCell",
    "MinGRUCell",
    "MinLSTMCell",
    "ParaGRUCell",
    "ParaLSTMCell",
    "ParallelCell",
]
