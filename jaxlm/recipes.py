"""Settings by name: what a paper, the lecture or we used, with what came of it.

A recipe is a plain dict:

    settings    flags without their dashes; fields of another model than the one chosen are passed
                over, so that the lecture's recipe serves all its models
    paper       where they come from, and how they were carried over
    published   perplexities as they stand there: {"valid": ..., "test": ...}; {} if there are none
    expected    from and to which our own should lie, by split; {} as long as it has not been run
    measured    ours, by split; with "hardware", "minutes" and "seeds". {} as long as it has not
                been run to its end: a recipe claims no number that nobody has seen

Papers that sum the loss over the time steps and average it over the batch (Zaremba et al.) give a
rate and a clip for that; for our mean per token the rate is multiplied by `bptt` and the clip
divided by it.
"""

from typing import Any

Recipe = dict[str, Any]

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


def _zaremba(size: int, init_scale: float, bptt: int, clip: float, dropout: float) -> Recipe:
    return {
        "model": "lstm",
        "corpus": "ptb",
        "embedding_size": size,
        "hidden_size": size,
        "num_layers": 2,
        "forget_bias": 0.0,
        "init_scale": init_scale,
        "dropout": dropout,
        "batch_size": 20,
        "bptt": bptt,
        "optimizer": "sgd",
        "lr": float(bptt),
        "clip": clip / bptt,
        "schedule": "step-decay",
    }


_ZAREMBA = (
    "Zaremba, Sutskever & Vinyals, Recurrent neural network regularization, 2014, section 4.1"
)


def _awd(batch_size: int, dropout_between: float, dropout_input: float, epochs: int) -> Recipe:
    return {
        "model": "lstm",
        "embedding_size": 400,
        "layer_sizes": (1150, 1150, 400),
        "tied": True,
        "forget_bias": 0.0,
        "variational": True,
        "dropout_words": 0.1,
        "dropout_input": dropout_input,
        "dropout_between": dropout_between,
        "dropout_output": 0.4,
        "weight_drop": 0.5,
        "activation_penalty": 2.0,
        "temporal_penalty": 1.0,
        "batch_size": batch_size,
        "bptt": 70,
        "vary_bptt": True,
        "optimizer": "sgd",
        "lr": 30.0,
        "clip": 0.25,
        "weight_decay": 1.2e-6,
        "average": "triggered",
        "trigger_after": 5,
        "epochs": epochs,
    }


_AWD = "Merity, Keskar & Socher, Regularizing and optimizing LSTM language models, 2018, section 5"

RECIPES: dict[str, Recipe] = {
    "lecture": {
        "settings": _LECTURE,
        "paper": _LECTURE_SOURCE,
        "published": {},
        "expected": {},
        "measured": {},
    },
    "lecture-nplm": {
        "settings": _LECTURE | {"model": "nplm"},
        "paper": _LECTURE_SOURCE,
        "published": {},
        "expected": {},
        "measured": {},
    },
    "lecture-lstm": {
        "settings": _LECTURE | {"model": "lstm"},
        "paper": _LECTURE_SOURCE,
        "published": {},
        "expected": {},
        "measured": {},
    },
    "zaremba-small": {
        "settings": _zaremba(200, 0.1, 20, 5.0, 0.0)
        | {"decay": 0.5, "full_epochs": 4, "epochs": 13},
        "paper": f"{_ZAREMBA}, the non-regularized LSTM of table 1",
        "published": {"valid": 120.7, "test": 114.5},
        "expected": {"valid": (116.0, 121.0), "test": (111.5, 116.0)},
        "measured": {
            "valid": 117.40,
            "test": 114.07,
            "hardware": "one CPU core (AMD EPYC with AVX2), shared and at times paused",
            "minutes": 122,
            "seeds": 1,
        },
    },
    "zaremba-medium": {
        "settings": _zaremba(650, 0.05, 35, 5.0, 0.5)
        | {"decay": 0.8, "full_epochs": 6, "epochs": 39},
        "paper": f"{_ZAREMBA}, medium; the decay is the published code's",
        "published": {"valid": 86.2, "test": 82.7},
        "expected": {},
        "measured": {},
    },
    "zaremba-large": {
        "settings": _zaremba(1500, 0.04, 35, 10.0, 0.65)
        | {"decay": 1 / 1.15, "full_epochs": 14, "epochs": 55},
        "paper": f"{_ZAREMBA}, large",
        "published": {"valid": 82.2, "test": 78.4},
        "expected": {},
        "measured": {},
    },
    "awd-lstm-ptb": {
        "settings": _awd(20, 0.25, 0.4, 500) | {"corpus": "ptb"},
        "paper": f"{_AWD}; without the fine-tuning that its best figure has on top",
        "published": {"valid": 60.7, "test": 58.8},
        "expected": {},
        "measured": {},
    },
    "awd-lstm-wt2": {
        "settings": _awd(80, 0.2, 0.65, 750) | {"corpus": "wikitext-2"},
        "paper": f"{_AWD}; without the fine-tuning that its best figure has on top",
        "published": {"valid": 69.1, "test": 66.0},
        "expected": {},
        "measured": {},
    },
    "word-language-model-wt2": {
        "settings": {
            "model": "lstm",
            "corpus": "wikitext-2",
            "embedding_size": 650,
            "hidden_size": 650,
            "num_layers": 2,
            "tied": True,
            "forget_bias": 0.0,
            "dropout": 0.5,
            "batch_size": 20,
            "bptt": 35,
            "optimizer": "sgd",
            "lr": 20.0,
            "clip": 0.25,
            "schedule": "plateau",
            "decay": 0.25,
            "plateau_patience": 1,
            "epochs": 40,
        },
        "paper": "pytorch/examples, word_language_model, README: LSTM 2x650, tied, dropout 0.5",
        "published": {"valid": 88.2, "test": 84.2},
        "expected": {},
        "measured": {},
    },
}
