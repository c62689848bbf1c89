"""Our own: the most that two CPU cores can be had to learn in an hour or two."""

from typing import Any

from jaxlm.recipes.table import Recipe, not_yet_run


def _budget(
    corpus: str, minutes: float, cutoffs: tuple[int, int], dropout: float
) -> dict[str, Any]:
    """A small tied LSTM whose rare words cost little, for as many epochs as there is time for, and
    a rate that falls to nothing at the end of them. Of two tried for an hour on PTB the small one
    was far ahead: valid 90.0 after 20 epochs, where one of 2x512 (Adam, batches of 64) had
    122.5 after five of the eleven it had time for.
    """
    return {
        "model": "lstm",
        "corpus": corpus,
        "embedding_size": 256,
        "hidden_size": 256,
        "num_layers": 2,
        "tied": True,
        "softmax": "adaptive",
        "cutoffs": cutoffs,
        "init_scale": 0.1,
        "dropout": dropout,
        "batch_size": 20,
        "bptt": 35,
        "optimizer": "sgd",
        "lr": 20.0,
        "clip": 0.25,
        "schedule": "cosine",
        "epochs": 40,
        "max_minutes": minutes,
    }


def _rung(model: str, dropout: float, lr: float, epochs: int) -> dict[str, Any]:
    """A rung of the ladder below the LSTM, of one layer, by Adam: far ahead of SGD in the first
    epochs (an LSTM's valid after three of them 114, where SGD had 141), so that few do.
    """
    return {
        "model": model,
        "corpus": "ptb",
        "embedding_size": 200,
        "hidden_size": 400,
        "num_layers": 1,
        "tied": True,
        "softmax": "adaptive",
        "cutoffs": (2000, 5000),
        "init_scale": 0.1,
        "dropout": dropout,
        "batch_size": 20,
        "bptt": 35,
        "optimizer": "adam",
        "lr": lr,
        "warmup_steps": 300,
        "clip": 1.0,
        "schedule": "cosine",
        "epochs": epochs,
    }


_TIED = (
    "weights tied through an adaptive softmax (Press & Wolf 2017; Grave et al. 2017; Baevski & "
    "Auli 2019), dropout (Zaremba et al. 2014)"
)

OURS: dict[str, Recipe] = {
    "ptb-1h-cpu": not_yet_run(
        _budget("ptb", 60, (2000, 5000), 0.25),
        f"ours: {_TIED}, SGD and a cosine; as many epochs as fit into 60 minutes",
    ),
    "wt2-2h-cpu": not_yet_run(
        _budget("wikitext-2", 120, (3000, 10000), 0.25),
        f"ours: {_TIED}, SGD and a cosine; as many epochs as fit into 120 minutes",
    ),
    "ptb-gru": not_yet_run(
        _rung("gru", 0.4, 3e-3, 18),
        f"ours: the GRU of Cho et al. 2014; {_TIED}, Adam and a cosine",
    ),
    "ptb-rnn": not_yet_run(
        _rung("rnn", 0.3, 1e-3, 15),
        f"ours: the network of Elman 1990; {_TIED}, Adam and a cosine",
    ),
}
