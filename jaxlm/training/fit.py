"""`fit` and `fit_many`: train a model, by gradient or by counting."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optax
from rich.console import Console

from jaxlm.data.text import Text
from jaxlm.errors import SettingError, UserError, check_at_least
from jaxlm.models.base import LanguageModel
from jaxlm.models.neural import NeuralModel
from jaxlm.models.registry import check_trainable, describe_model, name_of
from jaxlm.models.sizing import sized
from jaxlm.runs.folder import holds_run
from jaxlm.runs.log import Callback
from jaxlm.runs.run import UNK_IN_TRAINING, Run
from jaxlm.runs.starts import WARM_START, warm_stretch
from jaxlm.training.config import RunConfig
from jaxlm.training.counting import fit_by_counting
from jaxlm.training.fine_tuning import adapt_model, start_params
from jaxlm.training.loop import Extras, train_many, train_one
from jaxlm.training.optimizers import CUSTOM, CustomParts, OptimizerConfig
from jaxlm.training.sweep import sweep_runner, sweep_specs
from jaxlm.training.trainee import Spec

# Tokens that are looked at together.
BLOCK = 1 << 20
# Settings that have no effect with a schedule, and with an optimizer, of the user's own.
SCHEDULE_SETTINGS = ("lr", "warmup_steps")
RATE_SETTINGS = (*SCHEDULE_SETTINGS, "schedule", "weight_decay", "beta1", "beta2", "epsilon")


def fit(
    model: LanguageModel | None,
    text: Text,
    *,
    folder: str | Path | None = None,
    resume: bool = False,
    config: RunConfig | None = None,
    from_run: Run | None = None,
    callbacks: Sequence[Callback] = (),
    mesh: Mapping[str, int] | None = None,
    console: Console | None = None,
    quiet: bool = False,
    sample_every: int | None = None,
    params: int | str | None = None,
    **options: Any,
) -> Run:
    """Train a model on a text, and return the run.

    The run has the best parameters by validation, or the last parameters without a validation
    split. With `folder` the run is kept there, and `jaxlm.load` brings it back.

    Example:
      >>> import jaxlm
      >>> text = jaxlm.read_corpus("toy", eos=False)
      >>> model = jaxlm.NPLM(len(text.vocabulary), n_step=2, embedding_size=2, hidden_size=2)
      >>> run = jaxlm.fit(
      ...     model, text, batching="rows", positions="last", batch_size=3, lr=0.1, steps=500,
      ...     quiet=True,
      ... )
      >>> jaxlm.next_words(run, "我 讨厌", 1)[0][0]
      '挨打'

    Args:
      model: the model. With `from_run` it may be None: then it is the run's model.
      text: the corpus, from `read_corpus`.
      folder: where the run is kept; None to keep nothing.
      resume: whether to continue the run in `folder`, exactly as if it had never stopped. A
        folder that holds no run yet, here and in `checkpoint_folder`, starts a new run.
      config: every setting; None for the defaults. `options` change single settings. The settings
        of the model and of the text are always those of `model` and `text`.
      from_run: a trained run whose parameters training starts from (fine-tuning); its other
        settings are not used. The text must have been read with the run's vocabulary, or with the
        run's vocabulary extended; see `read_corpus(tokenizer=...)`.
      callbacks: functions that are called with each record of the log, a dict. If a callback has a
        method `finish`, it is called once at the end, also after an error.
      mesh: for a neural model, sizes of the device mesh, such as {"data": 4, "model": 2}; None for
        the devices that divide the batch, on data.
      console: a rich Console for the log; None for standard output.
      quiet: whether to print nothing.
      sample_every: validations between two samples, which the log shows; 0 for none. None: a text
        by characters has samples at its validations, if they take at most 2% of the time. An
        n-gram, which has one validation, has one sample at the end. A callback with a method
        `sample(step, text)` gets the samples too.
      params: a number of parameters, such as 3_000_000 or "3M". The model's widths are scaled to
        it, in proportion (`models.sizing.sized`). None keeps the widths.
      **options: settings by name. For a neural model, fields of BatchingConfig, OptimizerConfig and
        TrainingConfig; `batching`, `optimizer` and `training` can be whole configs too.
        `optimizer` can be any optax GradientTransformation, and `schedule` any function from the
        step to the learning rate. For an n-gram, fields of CountingConfig.
    Returns:
      The trained Run.
    Raises:
      UserError: for a setting that cannot work, a loss that is not finite, and a full disk.
    """
    if model is None:
        if from_run is None:
            raise UserError("fit needs a model, or `from_run`: a run to start from")
        model = adapt_model(from_run, text)
    check_trainable(type(model))
    model = with_start_of(model, text)
    if params is not None:
        model = _with_params(model, params, from_run)
    console = Console(quiet=True) if quiet else console
    settings, custom = _settings(model, text, config, options, kept=folder is not None)
    _check_effects(settings, model, options, kept=folder is not None, resume=resume)
    place = Path(folder) if folder else None
    if model.trained_by == "counting":
        for name, value in {"mesh": mesh, "callbacks": callbacks, "from_run": from_run}.items():
            if value:
                raise UserError(f"`{name}` is for models trained by gradient: leave it out")
        return fit_by_counting(model, text, settings, place, resume, console, sample_every)  # type: ignore[arg-type]
    assert isinstance(model, NeuralModel)
    start = None
    if from_run is not None:
        start = start_params(model, from_run, text)
        settings = settings.with_about(from_run=from_run.name)
    extras = Extras(console, callbacks, custom, start, sample_every=sample_every)
    return train_one(Spec(model, settings, place), text, resume, extras, mesh)


def _with_params(model: LanguageModel, params: int | str, from_run: Run | None) -> LanguageModel:
    """Return the model with widths for a number of parameters."""
    if from_run is not None:
        raise SettingError("params", params, "`from_run` has its own widths; leave `params` out")
    if not isinstance(model, NeuralModel):
        raise SettingError("params", params, "a model that is counted has no widths; leave it out")
    return sized(model, params)


def fit_many(
    model: NeuralModel,
    text: Text,
    *,
    seeds: int = 1,
    sweep: Mapping[str, Sequence[float]] | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    config: RunConfig | None = None,
    callbacks: Sequence[Callback] = (),
    console: Console | None = None,
    quiet: bool = False,
    sample_every: int | None = None,
    **options: Any,
) -> list[Run]:
    """Train several runs of one model in parallel, in one compiled function (`jax.vmap`).

        runs = jaxlm.fit_many(model, text, seeds=5, sweep={"lr": [1e-3, 2e-3]}, epochs=3)

    There are `seeds` runs for each combination of the values in `sweep`; their seeds count up from
    the setting `seed`. Each run equals the run that `fit` would make, up to the order of summation.
    A run whose loss is not finite ends, and so does a run that is out of `patience`; the other runs
    go on.

    Args:
      model: the model that all runs share.
      text: the corpus, from `read_corpus`.
      seeds: number of seeds of each combination.
      sweep: values of `lr`, `clip`, `weight_decay` and the dropout rates.
      folder: keeps each run in a folder of its own, such as lr-0.001-seed-0; None to keep nothing.
      resume: whether to continue the runs in `folder`.
      config: every setting; None for the defaults. `options` change single settings.
      callbacks: functions that are called with each record of the log of each run; the entry
        `run` of a record is the name of the run, such as lr-0.001-seed-0.
      console: a rich Console for the log; None for standard output.
      quiet: whether to print nothing.
      sample_every: validations between two samples of the first run; see `fit`.
      **options: settings by name, as for `fit`.
    Returns:
      The runs that did not fail.
    Raises:
      UserError: for a setting that cannot work or be swept, and if all runs fail.
    """
    model = with_start_of(model, text)
    check_at_least("seeds", seeds, 1)
    if not isinstance(model, NeuralModel):
        raise UserError("fit_many is for models trained by gradient: use fit, as a count is exact")
    settings, custom = _settings(model, text, config, options, kept=folder is not None)
    _check_effects(settings, model, options, kept=folder is not None, resume=resume)
    _check_sweep_of_custom(custom, sweep or {})
    place = Path(folder) if folder else None
    if place is not None and not resume and holds_run(place):
        raise SettingError("folder", place, "holds a single run: give another folder for the runs")
    specs = sweep_specs(Spec(model, settings), seeds, sweep or {}, place, resume)
    console = Console(quiet=True) if quiet else console
    extras = Extras(console, callbacks, custom, name_runs=True, sample_every=sample_every)
    if len(specs) == 1:
        return [train_one(specs[0], text, resume, extras, {"data": 1})]
    return train_many(specs, text, resume, extras, sweep_runner)


def with_start_of(model: LanguageModel, text: Text) -> Any:
    """Return the model with the start token of the text, which pads short contexts.

    Raises:
      UserError: if the model and the text have vocabularies of different sizes.
    """
    if model.vocab_size != len(text.vocabulary):
        raise UserError(
            f"the model has vocab_size {model.vocab_size}, the text "
            f"{len(text.vocabulary)} tokens: they must be equal"
        )
    if isinstance(model, NeuralModel) and model.start_id != text.vocabulary.start_id:
        return model.clone(start_id=text.vocabulary.start_id)
    return model


def _settings(
    model: LanguageModel,
    text: Text,
    config: RunConfig | None,
    options: dict[str, Any],
    *,
    kept: bool,
) -> tuple[RunConfig, CustomParts]:
    """Return every setting of the run, and the user's own optimizer and schedule.

    Args:
      model: the model.
      text: the corpus.
      config: the settings to start from, or None for the defaults.
      options: the options of `fit`.
      kept: whether the run is kept in a folder, so that the model must be registered.
    Raises:
      UserError: for a setting that cannot work.
    """
    if kept or name_of(model) is not None:
        name, network = describe_model(model)
    else:
        # A model that is not registered can be trained, but not kept.
        name, network = type(model).__name__, {}
    default = RunConfig.default(name, model.trained_by)
    base = config or default
    if base.sections.keys() != default.sections.keys():
        raise UserError(
            f"`config` is of {base.model}, whose sections are {', '.join(base.sections)}, but "
            f"{name} has {', '.join(default.sections)}: start from RunConfig.default({name!r})"
        )
    settings = replace(base, model=name, network=network, text=text.config)
    custom, plain = CustomParts(), dict(options)
    for section, now in settings.sections.items():
        value = plain.get(section)
        if section != "text" and is_dataclass(value) and not isinstance(value, type):
            if type(value) is not type(now):
                why = f"must be a {type(now).__name__}, or one setting by name"
                raise SettingError(section, type(value).__name__, why)
            settings = replace(settings, **{section: plain.pop(section)})
    if isinstance(plain.get("optimizer"), optax.GradientTransformation):
        _check_unused(plain, RATE_SETTINGS, "optimizer")
        custom = custom._replace(optimizer=plain["optimizer"])
        plain["optimizer"] = CUSTOM
    if isinstance(plain.get("schedule"), Callable):  # type: ignore[arg-type]
        _check_unused(plain, SCHEDULE_SETTINGS, "schedule")
        custom = custom._replace(schedule=plain["schedule"])
        plain["schedule"] = CUSTOM
    settings = _with_unk(settings.with_section_options(plain), text)
    return _with_warm_start(settings, model, text), custom


def _with_unk(settings: RunConfig, text: Text) -> RunConfig:
    """Return the settings of a run, which say whether the training text has `<unk>`."""
    unk_id, ids = text.vocabulary.unk_id, text.train.ids
    if unk_id is None:
        return settings
    # `<unk>` occurs early, if it occurs: so few blocks of a large text are read.
    blocks = (ids[start : start + BLOCK] for start in range(0, len(ids), BLOCK))
    seen = any(bool(np.any(np.asarray(block) == unk_id)) for block in blocks)
    return settings.with_about(**{UNK_IN_TRAINING: seen})


def _with_warm_start(settings: RunConfig, model: LanguageModel, text: Text) -> RunConfig:
    """Return the settings of a run that is trained on a stream, with the text of its warm start.

    Other runs are returned unchanged: their state is reset at each line.
    """
    start_id = text.vocabulary.start_id
    if not model.across_lines or settings.protocol(start_id).rows:
        return settings
    stretch = warm_stretch(text.train.ids, start_id)
    return settings.with_about(**{WARM_START: stretch}) if stretch else settings


def _check_effects(
    settings: RunConfig,
    model: LanguageModel,
    options: Mapping[str, Any],
    *,
    kept: bool,
    resume: bool,
) -> None:
    """Raise SettingError for a setting that would have no effect.

    Args:
      settings: every setting of the run.
      model: the model.
      options: the settings that the caller gives by name.
      kept: whether the run is kept in a folder.
      resume: whether the run continues. Runs of version 0.1.0 may have a `positions` that has no
        effect; they can be resumed.
    """
    if not resume:
        settings.check_positions(model.start_id)
        settings.check_used(options)
        settings.check_window(options, model.context_size)
    if kept:
        return
    wanted: dict[str, Any] = {"resume": resume or None}
    if settings.training is not None:
        wanted["checkpoint_folder"] = settings.training.checkpoint_folder
        wanted["tensorboard"] = settings.training.tensorboard or None
    for name, value in wanted.items():
        if value is not None:
            why = "needs `folder`, the folder of the run: without a folder nothing is kept"
            raise SettingError(name, value, why)


def _check_unused(options: dict[str, Any], names: Sequence[str], own: str) -> None:
    """Raise SettingError for an option that the user's own optimizer or schedule decides.

    Args:
      options: the options of `fit`.
      names: the settings that have no effect.
      own: "optimizer" or "schedule".
    """
    for name in names:
        if name in options:
            why = f"belongs to the {own} that you give: set it there, or name the {own}"
            raise SettingError(name, options[name], why)


def _check_sweep_of_custom(custom: CustomParts, sweep: Mapping[str, Sequence[float]]) -> None:
    """Raise SettingError if the user's own optimizer or schedule would make swept runs equal."""
    own = {"optimizer": (custom.optimizer, RATE_SETTINGS), "schedule": (custom.schedule, ("lr",))}
    for part, (value, names) in own.items():
        for name in sweep if value is not None else ():
            if name in names:
                why = f"has no effect with {part}= of your own: sweep another setting"
                raise SettingError("sweep", name, why)


__all__ = ["OptimizerConfig", "fit", "fit_many"]
