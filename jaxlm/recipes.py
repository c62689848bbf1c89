"""Settings by name: what a paper or the lecture used, as plain dicts of flags.

A recipe's fields are flags without their dashes. Fields of another model than the one chosen are
passed over, so that the lecture's recipe serves all its models.
"""

from typing import Any

RECIPES: dict[str, dict[str, Any]] = {
    # The lecture: three sentences, two words of context (an n-gram of order 3), sizes 2, Adam at
    # 0.1, the cost each 1000 steps.
    "lecture": {
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
    },
    # Zaremba, Sutskever & Vinyals 2014, the small LSTM on PTB: 120.7 / 114.5 (valid / test). The
    # paper sums the loss over the 20 time steps and averages over the batch; for our mean per token
    # its rate 1 becomes 20, and its clip 5 becomes 5 / 20.
    "zaremba-small": {
        "model": "lstm",
        "corpus": "ptb",
        "embedding_size": 200,
        "hidden_size": 200,
        "num_layers": 2,
        "forget_bias": 0.0,
        "init_scale": 0.1,
        "dropout": 0.0,
        "batch_size": 20,
        "bptt": 20,
        "optimizer": "sgd",
        "lr": 20.0,
        "clip": 0.25,
        "schedule": "step-decay",
        "decay": 0.5,
        "full_epochs": 4,
        "epochs": 13,
    },
}
