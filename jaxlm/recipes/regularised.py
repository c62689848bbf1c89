"""Recipes of regularised and modernised models, from their papers."""

from jaxlm.recipes.table import Recipe, not_yet_run


def _awd(batch_size: int, dropout_between: float, dropout_input: float, epochs: int) -> Recipe:
    """Return the settings that the AWD-LSTMs of Merity et al. share."""
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
        "drop_state": 0.0,
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

_MOGRIFIER = (
    "Melis, Kocisky & Blunsom, Mogrifier LSTM, 2020, section 4.2, 24M parameters: two tied layers "
    "with skip connections (here residual links) of 910 units, 5 rounds of rank 84, RMSProp (Adam "
    "with beta1 0), and averaging when validation stops improving. The paper sums the loss over 70 "
    "steps, with clip 10 and L2 2.5e-4; here the loss is a mean, and both are divided by 70. "
    "Measure it with `temperature` auto"
)
_MODERN = (
    "Sun & Iyyer, Revisiting simple neural probabilistic language models, 2021, section 3: deep, "
    "residual and normalised, with averages of distant words, Adam and a tied adaptive softmax. "
    "The paper has 148M parameters on WikiText-103 (valid 31.7). This recipe has 4M on PTB, for "
    "which there is no published result"
)
_MIN = (
    "Feng, Tung, Ahmed, Bengio & Hajimirsadeghi, Were RNNs all we needed?, 2024, section 4.3: "
    "minGRU, 1.548 nats per character, three layers of 384, dropout 0.2, chunks of 256, batches of "
    "64, Adam at 1e-3"
)

REGULARISED: dict[str, Recipe] = {
    "awd-lstm-ptb": not_yet_run(
        _awd(20, 0.25, 0.4, 500) | {"corpus": "ptb"},
        f"{_AWD}, without the fine-tuning that gives the best result of the paper",
        {"valid": 60.7, "test": 58.8},
    ),
    "awd-lstm-wt2": not_yet_run(
        _awd(80, 0.2, 0.65, 750) | {"corpus": "wikitext-2"},
        f"{_AWD}, without the fine-tuning that gives the best result of the paper",
        {"valid": 69.1, "test": 66.0},
    ),
    "mogrifier-ptb": not_yet_run(
        {
            "model": "mogrifier",
            "corpus": "ptb",
            "embedding_size": 910,
            "hidden_size": 910,
            "num_layers": 2,
            "tied": True,
            "residual": True,
            "rounds": 5,
            "rank": 84,
            "capped": True,
            "variational": True,
            "dropout_input": 0.729,
            "dropout_between": 0.291,
            "dropout_state": 0.387,
            "dropout_output": 0.716,
            "batch_size": 64,
            "bptt": 70,
            "drop_state": 0.01,
            "optimizer": "adam",
            "beta1": 0.0,
            "lr": 0.0023,
            "clip": 10 / 70,
            "weight_decay": 2.5e-4 / 70,
            "average": "triggered",
            "trigger_after": 5,
            "epochs": 300,
        },
        _MOGRIFIER,
        {"valid": 51.4, "test": 50.1},
    ),
    "modern-nplm": {
        "settings": {
            "model": "modern-nplm",
            "corpus": "ptb",
            "n_step": 15,
            "far_windows": 4,
            "far_size": 10,
            "embedding_size": 200,
            "hidden_size": 200,
            "inner_size": 800,
            "num_layers": 4,
            "tied": True,
            "dropout": 0.4,
            "softmax": "adaptive",
            "cutoffs": (2000, 5000),
            # The windows of 55 words overlap. In a stream each word is looked up once for all its
            # windows, and the averages of distant words are one matrix product.
            "batching": "streams",
            "batch_size": 20,
            "bptt": 35,
            "drop_state": 0.0,
            "optimizer": "adam",
            "lr": 2e-3,
            "warmup_steps": 1000,
            "schedule": "cosine",
            "clip": 0.5,
            "epochs": 20,
        },
        "paper": _MODERN,
        "published": {},
        "expected": {"valid": (103.5, 106.5), "test": (97.0, 100.0)},
        "measured": {
            "valid": 104.98,
            "test": 98.34,
            "hardware": "one CPU core (AMD EPYC with AVX2)",
            "minutes": 117,
            "seeds": 1,
        },
    },
    "char-shakespeare": {
        "settings": {
            "model": "mingru",
            "corpus": "tinyshakespeare",
            "tokens": "chars",
            "fractions": (0.9, 0.1),
            "embedding_size": 384,
            "hidden_size": 384,
            "num_layers": 3,
            "residual": True,
            "layer_norm": True,
            "dropout": 0.2,
            "batch_size": 64,
            "bptt": 256,
            "drop_state": 0.0,
            "optimizer": "adam",
            "lr": 1e-3,
            "schedule": "cosine",
            "clip": 0.25,
            "epochs": 30,
        },
        "paper": _MIN,
        "published": {"valid": 4.70},
        "expected": {"valid": (4.85, 5.06)},
        "measured": {
            "valid": 4.95,
            "hardware": "one CPU core (AMD EPYC with AVX-512)",
            "minutes": 27,
            "seeds": 1,
        },
    },
}
