"""Training, whichever way a model is trained."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from jaxlm.data.text import Text
from jaxlm.errors import UserError
from jaxlm.models.base import LanguageModel
from jaxlm.training.counting import fit_by_counting
from jaxlm.training.loop import fit_by_gradient
from jaxlm.training.runs import Run

FITTERS: dict[str, Callable[..., Run]] = {
    "gradient": fit_by_gradient,
    "counting": fit_by_counting,
}


def fit(
    model: LanguageModel,
    text: Text,
    *,
    folder: str | Path | None = None,
    resume: bool = False,
    config: dict[str, Any] | None = None,
    console: Console | None = None,
    **options: Any,
) -> Run:
    """Trains `model` on `text` and returns the run, with the best parameters by validation (the
    last, without a valid split).

        run = jaxlm.fit(model, text, epochs=5, lr=1e-3, batch_size=20, folder="runs/mine")
        run = jaxlm.fit(jaxlm.NGram(vocab_size=len(text.vocabulary), order=3), text)

    `options`, for a neural model: `batching`, `optimizer` and `training`, configs or (the first
    two) names that stand for their defaults; and fields of BatchingConfig, OptimizerConfig and
    TrainingConfig by name. For an n-gram: fields of CountingConfig. With `folder`, everything is
    kept there; with `resume` too, training goes on from its last checkpoint exactly as if it had
    never stopped. `config` is kept in config.json beside the settings.

    Raises UserError for a setting that cannot work, a loss that is not finite, and a disk that is
    full.
    """
    if model.vocab_size != len(text.vocabulary):
        raise UserError(
            f"the model has vocab_size {model.vocab_size}, the text "
            f"{len(text.vocabulary)} tokens: they must be equal"
        )
    fitter = FITTERS[model.trained_by]
    return fitter(
        model, text, folder=folder, resume=resume, config=config, console=console, **options
    )
