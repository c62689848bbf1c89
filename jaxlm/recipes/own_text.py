"""The recipe for a text of the user's own: rate and batches, and sizes that follow from the time.

The settings were chosen on tiny Shakespeare by characters, for 3 and for 10 minutes on two CPU
cores. `experiments/own_text.md` has the table of tries, and the figures of other texts.
"""

import math
from typing import Any

from jaxlm.recipes.table import Recipe

WIDTHS = (64, 96, 128, 192, 256, 320, 384, 448, 512, 640, 768, 1024)
"""Numbers of units that are tried, the smallest first."""
LEAST_WIDTH, LARGEST_WITHOUT_TIME = 128, 256
"""The smallest width, and the largest width if the command gives no time."""
TOKENS_PER_PARAMETER = {"few": 8, "many": 5}
"""Tokens that are read for each parameter of the LSTM: a larger model would read too few. Texts of
many different tokens, such as words, need wider models."""
FEW_PASSES = 3
"""With more passes over a text of many different tokens, the rate falls as 1/√passes."""
WEIGHT_OF_PASS, WEIGHT_OF_PASS_OF_MANY = 2, 4
"""A pass over a text of many different tokens counts as this many for its dropout, for at most
FEW_PASSES passes and for more."""
FEW_TOKENS = 1000
"""A vocabulary of at most this many tokens has LETTER_FEATURES features a token."""
LETTER_FEATURES = 64
EMBEDDING_SCALE = {"few": 1.0, "many": None}
"""`embedding_scale`. With large embeddings, a text of many different tokens is learned by heart."""
MOST_EPOCHS, FEWEST_STEPS = 30, 1000
"""A model of this recipe reads the text at most this often. A short text is read more often, as
many times as take FEWEST_STEPS train steps."""
MOST_VALIDATIONS = 40
"""A text that is read more often than this is not validated after every pass."""
MOST_WARMUP, SHARE_OF_WARMUP = 200, 0.05
"""The warm-up takes this many train steps, but at most this share of all train steps."""
USED = 0.44
"""Share of the rate of large products that a train step of this recipe reaches."""

SETTINGS: dict[str, Any] = {
    "embedding_size": LETTER_FEATURES,
    "embedding_scale": 1.0,
    "hidden_size": 256,
    "dropout": 0.1,
    "batch_size": 16,
    "bptt": 32,
    "optimizer": "adam",
    "lr": 8e-3,
    "warmup_steps": 100,
    "clip": 1.0,
    "schedule": "cosine",
    "epochs": 10,
}

OWN_TEXT: dict[str, Recipe] = {
    "own-text": {
        "settings": SETTINGS,
        # The highest rates that were tried and were better than a lower one.
        "by_model": {
            "gru": {"lr": 5e-3},
            "rnn": {"lr": 3e-3},
            "nplm": {"lr": 4e-3},
            "modern-nplm": {"lr": 4e-3},
            "mogrifier": {"lr": 3e-3},
            "transformer": {"lr": 3e-3},
        },
        "paper": "ours: Adam with a cosine schedule, for a text of the user's own",
        "published": {},
        "expected": {},
        "measured": {},
    }
}


def parameters(width: int, features: int) -> int:
    """Return the number of parameters of an LSTM layer, without biases."""
    return 4 * width * (features + width)


def features_of(width: int, vocab_size: int) -> int:
    """Return the number of features of a token: LETTER_FEATURES for letters, else the width."""
    return LETTER_FEATURES if vocab_size <= FEW_TOKENS else width


def own_text_settings(
    *,
    vocab_size: int,
    tokens: int,
    seconds: float | None,
    read: float,
    flops: float,
    lr: float,
    width: int | None = None,
    batch: int | None = None,
    epochs: float | None = None,
) -> dict[str, Any]:
    """Return the sizes, dropout, rate and warm-up of a model, for the time that there is.

        C = 6 (P + H V) S       P: parameters of the LSTM, H: width, V: vocabulary,
                                S: tokens that are read, C: FLOP of training

    The width is the largest one with S at least TOKENS_PER_PARAMETER · P. With `seconds`, S follows
    from C, but is at most MOST_EPOCHS passes over the text, or FEWEST_STEPS. Without, S is `read`,
    and the width is at most LARGEST_WITHOUT_TIME. The rate falls with the width, and with many
    passes over a text of many different tokens.

    Example:
      >>> sizes = {"vocab_size": 65, "tokens": 1_000_000, "read": 1e7, "flops": 1.5e11, "lr": 8e-3}
      >>> [own_text_settings(seconds=s, **sizes)["hidden_size"] for s in (60, 180, 600)]
      [192, 256, 384]

    Args:
      vocab_size: number of different tokens.
      tokens: number of tokens of the training text.
      seconds: the time for training; None if the number of tokens is given instead.
      read: number of tokens that are read, if `seconds` is None.
      flops: FLOP per second of large products on this machine.
      lr: learning rate of a model of at most 256 units.
      width: number of units that the user gives; None to choose it. The other settings follow.
      batch: tokens of a batch; None for the batches of the recipe.
      epochs: the passes that the user gives beside a time; None for as many as the time allows.
    """
    batch = SETTINGS["batch_size"] * SETTINGS["bptt"] if batch is None else batch
    most_epochs = epochs or max(MOST_EPOCHS, FEWEST_STEPS * batch / tokens)
    kind = "few" if vocab_size <= FEW_TOKENS else "many"
    found, passes = LEAST_WIDTH, read / tokens
    for tried in WIDTHS if width is None else (width,):
        count, reads = parameters(tried, features_of(tried, vocab_size)), read
        if seconds is not None:
            per_token = 6 * (count + tried * vocab_size)
            reads = min(seconds * USED * flops / per_token, most_epochs * tokens)
        if width is None and tried > LEAST_WIDTH:
            too_wide = seconds is None and tried > LARGEST_WITHOUT_TIME
            if too_wide or reads < TOKENS_PER_PARAMETER[kind] * count:
                break
        found, passes = tried, reads / tokens
    steps = passes * tokens / batch
    weighted = passes
    if kind == "many":
        many_passes = passes > FEW_PASSES
        weighted = passes * (WEIGHT_OF_PASS_OF_MANY if many_passes else WEIGHT_OF_PASS)
        lr *= (FEW_PASSES / passes) ** 0.5 if many_passes else 1.0
    settings = {
        "hidden_size": found,
        "embedding_size": features_of(found, vocab_size),
        "embedding_scale": EMBEDDING_SCALE[kind],
        "dropout": dropout_of(weighted),
        # Two digits of any size: four decimals would make 0 of a small rate.
        "lr": float(f"{min(1.0, SETTINGS['hidden_size'] / found) * lr:.2g}"),
        "warmup_steps": min(MOST_WARMUP, round(SHARE_OF_WARMUP * steps)),
    }
    if passes > MOST_VALIDATIONS:
        settings["eval_every"] = max(1, round(steps / MOST_VALIDATIONS))
    return settings | ({} if seconds is None or epochs else {"epochs": round(most_epochs)})


def dropout_of(passes: float) -> float:
    """Return the dropout for a number of passes over the text: more passes need more dropout.

    Example:
      >>> [dropout_of(passes) for passes in (2, 5, 10, 20, 80)]
      [0.0, 0.0, 0.1, 0.2, 0.4]
    """
    return min(0.5, max(0.0, round(0.1 * math.log2(passes / 5), 1)))
