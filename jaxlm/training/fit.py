"""Training, whichever way a model is trained."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from jaxlm.data.batching import BatchingConfig
from jaxlm.data.text import Text
from jaxlm.errors import UserError
from jaxlm.models.base import LanguageModel
from jaxlm.models.neural import NeuralModel
from jaxlm.runs.run import Run
from jaxlm.training.counting import fit_by_counting
from jaxlm.training.loop import fit_by_gradient, train
from jaxlm.training.optimizers import OptimizerConfig
from jaxlm.training.progress import TrainingConfig
from jaxlm.training.sweep import members
from jaxlm.training.trainee import settings_of

FITTERS: dict[str, Callable[..., Run]] = {
    "gradient": fit_by_gradient,
    "counting": fit_by_counting,
}


def fit_many(
    model: NeuralModel,
    text: Text,
    *,
    seeds: int = 1,
    sweep: Mapping[str, Sequence[float]] | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    config: dict[str, Any] | None = None,
    console: Console | None = None,
    batching: BatchingConfig | str = "streams",
    optimizer: OptimizerConfig | str = "adam",
    training: TrainingConfig | None = None,
    **options: Any,
) -> list[Run]:
    """Trains several runs of one model side by side, in one compiled function (`jax.vmap`): `seeds`
    of each setting, from the seed of `training` on, and a setting for each combination of the
    values in `sweep`.

        runs = jaxlm.fit_many(model, text, seeds=5, sweep={"lr": [1e-3, 2e-3]}, epochs=3)

    What can be swept are `lr`, `clip`, `weight_decay` and the rates of dropout. Each run is what
    `fit` would have made of its seed and numbers, up to the order of summation, and with `folder`
    has a folder of its own in it, such as lr-0.001-seed-0. A run whose loss is not finite is out;
    the others go on, and are returned. `options` and the rest: as for `fit`.

    Raises UserError for a setting that cannot work or be swept, and if all runs are out.
    """
    check_vocabulary(model, text)
    if seeds < 1:
        raise UserError(f"--seeds {seeds}: must be at least 1")
    settings = settings_of(model, batching, optimizer, training, None, config, options)
    place = Path(folder) if folder else None
    return train(members(settings, seeds, sweep or {}, place), text, resume, console)


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
    never stopped. `config` is kept in config.json beside the settings. For a neural model also
    `mesh`, sizes such as {"data": 4, "model": 2} (none: every device on data), and `watch`, which
    is called with each record of the log, such as a `LiveCurve`.

    Raises UserError for a setting that cannot work, a loss that is not finite, and a disk that is
    full.
    """
    check_vocabulary(model, text)
    fitter = FITTERS[model.trained_by]
    return fitter(
        model, text, folder=folder, resume=resume, config=config, console=console, **options
    )


def check_vocabulary(model: LanguageModel, text: Text) -> None:
    """Raises UserError if a model and a text are of different sizes."""
    if model.vocab_size != len(text.vocabulary):
        raise UserError(
            f"the model has vocab_size {model.vocab_size}, the text "
            f"{len(text.vocabulary)} tokens: they must be equal"
        )
