"""Recipes of the lecture (`jaxlm.recipes`): three sentences, which the models learn by heart."""

from typing import Any

from jaxlm.recipes.table import Recipe

_LECTURE: dict[str, Any] = {
    "corpus": "toy",
    "eos": False,
    "n_step": 2,
    "order": 3,
    "embedding_size": 2,
    "hidden_size": 2,
    "batching": "rows",
    "positions": "last",
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


def _lecture(**more: Any) -> Recipe:
    """Return the recipe of the lecture with some settings added."""
    return {
        "settings": _LECTURE | more,
        "by_model": {
            # Layer normalisation of two features leaves only their order. Without distant words,
            # the modern NPLM too reads two words, and can be asked for the third.
            "modern-nplm": {"hidden_size": 8, "far_windows": 0},
            "transformer": {"hidden_size": 8},
        },
        "paper": _LECTURE_SOURCE,
        "published": {},
        "expected": {"train": (1.0, 1.01)},
        "measured": {
            "train": 1.0,
            "hardware": "two CPU cores (AMD EPYC)",
            "minutes": 0.1,
            "seeds": 1,
        },
    }


# A text of a few sentences has more words than two features tell apart. The models predict every
# word and the end of the line, so that each can be asked after any beginning of a line.
_SMALL_TEXT: dict[str, Any] = {
    "eos": True,
    "positions": "all",
    "n_step": 4,
    "embedding_size": 16,
    "hidden_size": 32,
    "lr": 0.01,
    "steps": 500,
    "log_every": 100,
    "checkpoint_every": 500,
}


LECTURE: dict[str, Recipe] = {
    "lecture": _lecture(),
    "lecture-nplm": _lecture(model="nplm"),
    "lecture-lstm": _lecture(model="lstm"),
    "small-text": {
        "settings": _LECTURE | _SMALL_TEXT,
        "paper": "the lecture's settings, with sizes and a rate for up to 200 words of one's own",
        "published": {},
        "expected": {},
        "measured": {},
    },
    # The words before 苹果 and apple tell their sense. The validation perplexity is lowest after
    # some 200 steps, but the senses go on parting: so there is one validation, at the end, and the
    # last parameters are the best ones.
    "apple": {
        "settings": {
            "model": "lstm",
            "corpus": "apple",
            "eos": True,
            "batching": "rows",
            "positions": "all",
            "embedding_size": 32,
            "hidden_size": 64,
            "dropout": 0.5,
            "batch_size": 28,
            "optimizer": "adam",
            "lr": 0.01,
            "clip": 1.0,
            "steps": 400,
            "log_every": 50,
            "eval_every": 400,
            "checkpoint_every": 400,
        },
        "paper": "ours: the lecture's example of a word with two senses, in 112 lines, for seconds",
        "published": {},
        "expected": {"valid": (11.0, 17.0)},
        "measured": {
            "valid": 13.57,
            "test": 13.01,
            "hardware": "one CPU core (AMD EPYC with AVX-512)",
            "minutes": 0.1,
            "seeds": 3,
        },
    },
}
