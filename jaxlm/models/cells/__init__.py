"""Recurrent cells: the mathematics of one time step, by name.

A new cell is one file in this folder and one line in CELLS.
"""

from jaxlm.models.cells.base import Carry, Cell, ParallelCell
from jaxlm.models.cells.elman import ElmanCell
from jaxlm.models.cells.gru import GRUCell
from jaxlm.models.cells.lstm import LSTMCell
from jaxlm.models.cells.min_gru import MinGRUCell
from jaxlm.models.cells.min_lstm import MinLSTMCell

CELLS: dict[str, Cell] = {
    "rnn": ElmanCell(),
    "gru": GRUCell(),
    "lstm": LSTMCell(),
    "mingru": MinGRUCell(),
    "minlstm": MinLSTMCell(),
}

__all__ = [
    "CELLS",
    "Carry",
    "Cell",
    "ElmanCell",
    "GRUCell",
    "LSTMCell",
    "MinGRUCell",
    "MinLSTMCell",
    "ParallelCell",
]
