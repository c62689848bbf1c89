"""Our own: the most that two CPU cores can be had to learn in an hour or two."""

from typing import Any

from jaxlm.recipes.table import Recipe, not_yet_run


def _budget(corpus: str, minutes: float, cutoffs: tuple[int, int], **more: Any) -> dict[str, Any]:
    """A tied LSTM whose rare words cost little, dropout for as many epochs as there is time for,
    and a rate that falls to nothing at the end of them.
    """
    return {
        "model": "lstm",
        "corpus": corpus,
        "num_layers": 2,
        "tied": True,
        "softmax": "adaptive",
        "cutoffs": cutoffs,
        "bptt": 35,
        "optimizer": "adam",
        "schedule": "cosine",
        "warmup_steps": 200,
        "clip": 1.0,
        "epochs": 40,
        "max_minutes": minutes,
    } | more


_OURS = (
    "ours: weights tied through an adaptive softmax (Press & Wolf 2017; Grave et al. 2017; Baevski "
    "& Auli 2019), dropout (Zaremba et al. 2014), Adam and a cosine"
)

OURS: dict[str, Recipe] = {
    "ptb-1h-cpu": not_yet_run(
        _budget(
            "ptb",
            60,
            (2000, 5000),
            embedding_size=512,
            hidden_size=512,
            dropout=0.4,
            batch_size=64,
            lr=4e-3,
        ),
        f"{_OURS}; as many epochs as fit into 60 minutes",
    ),
    "wt2-2h-cpu": not_yet_run(
        _budget(
            "wikitext-2",
            120,
            (3000, 10000),
            embedding_size=400,
            hidden_size=400,
            dropout=0.3,
            batch_size=64,
            lr=4e-3,
        ),
        f"{_OURS}; as many epochs as fit into 120 minutes",
    ),
}
