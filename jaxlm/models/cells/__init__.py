"""Recurrent cells: the maths of one step. A new cell is one file here and one line in CELLS."""

from jaxlm.models.cells.base import Carry, Cell
from jaxlm.models.cells.elman import ElmanCell
from jaxlm.models.cells.gru import GRUCell
from jaxlm.models.cells.lstm import LSTMCell

CELLS: dict[str, Cell] = {"rnn": ElmanCell(), "gru": GRUCell(), "lstm": LSTMCell()}

__all__ = ["CELLS", "Carry", "Cell", "ElmanCell", "GRUCell", "LSTMCell"]
