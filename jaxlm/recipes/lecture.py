"""The lecture's models."""

from typing import Any

from jaxlm.recipes.table import Recipe, not_yet_run

_LECTURE: dict[str, Any] = {
    "corpus": "toy",
    "eos": False,
    "n_step": 2,
    "order": 3,
    "embedding_size": 2,
    "hidden_size": 2,
    "batching": "rows",
    "features": "last",
    "batch_size": 3,
    "optimizer": "adam",
    "lr": 0.1,
    "clip": None,
    "steps": 5000,
    "log_every": 1000,
    "checkpoint_every": 5000,
}
_LECTURE_SOURCE = (
    "the lecture: three sentences, two words of context (an n-gram of order 3), sizes 2, Adam at "
    "0.1, the cost each 1000 steps"
)

LECTURE: dict[str, Recipe] = {
    "lecture": not_yet_run(_LECTURE, _LECTURE_SOURCE),
    "lecture-nplm": not_yet_run(_LECTURE | {"model": "nplm"}, _LECTURE_SOURCE),
    "lecture-lstm": not_yet_run(_LECTURE | {"model": "lstm"}, _LECTURE_SOURCE),
}
