"""The settings of a whole run: one object from the command line, or `fit`, to config.json.

Each setting is declared once, beside what it configures: a model's settings are the fields of its
class, and each section below is a dataclass. Precedence: default < recipe < config file < flag.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from jaxlm.data.batching import BATCHINGS, BatchingConfig, no_start_error, rows_of
from jaxlm.data.batching import BELONGS as OF_BATCHING
from jaxlm.data.text import Text, TextConfig
from jaxlm.errors import SettingError, UserError, choose, nearest_setting, with_synonym
from jaxlm.models.registry import MODELS
from jaxlm.ngrams.config import CountingConfig
from jaxlm.ranges import (
    LARGEST_INT32,
    Positive,
    Seed,
    Steps,
    check_settings,
    check_values,
    checked,
    kinds_of,
)
from jaxlm.runs.protocol import Protocol
from jaxlm.training.optimizers import BELONGS, CHOICES, OptimizerConfig


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of the length of training, of validation, of the log and of the checkpoints."""

    epochs: Positive = 10
    """Passes over the training text. Giving it replaces the steps of a recipe or a file."""
    steps: Steps | None = None
    """Train steps, in place of epochs (none: epochs decides). Give steps or epochs, not both."""
    max_minutes: Positive | None = None
    """Stop within this wall-clock time: train no more steps than fit into it, and shrink the
    schedules to these steps; the number changes if the machine gets slower or faster (with steps:
    train that number, or fewer if the time is over)."""
    seed: Seed = 0
    """Determines every random choice: the same command, seed and machine give the same bytes."""
    log_every: Steps = 200
    """Steps between two lines of the log."""
    eval_every: Steps | None = None
    """Steps between two validations, which need a validation split (none: every epoch)."""
    patience: Steps | None = None
    """Stop after this many validations without improvement (none: train to the end)."""
    checkpoint_every: Steps | None = None
    """Steps between two checkpoints; there is one at every validation too (none: at validations
    alone; without a validation split, every epoch, or every 1,000 steps if an epoch is shorter)."""
    checkpoint_minutes: Positive | None = None
    """Minutes between two checkpoints, in addition to checkpoint_every (none: by steps alone)."""
    keep: Steps = 2
    """How many of the newest checkpoints are kept, beside the best; at least two are."""
    checkpoint_folder: str | None = None
    """Where checkpoints go, such as gs://bucket/runs (none: into the run's folder)."""
    tensorboard: bool = False
    """Write TensorBoard event files too (extra: tensorboard)."""


SECTIONS: dict[str, dict[str, Any]] = {
    "gradient": {
        "text": TextConfig,
        "batching": BatchingConfig,
        "optimizer": OptimizerConfig,
        "training": TrainingConfig,
    },
    "counting": {"text": TextConfig, "counting": CountingConfig},
}


@dataclass(frozen=True)
class RunConfig:
    """Every setting of a run.

    model: a name in MODELS. network: the model's own settings by name. text, batching, optimizer,
    training, counting: the sections; a section that the model does not use is None. about: other
    entries of config.json, which are no settings, such as the command.

    Example:
      >>> config = RunConfig.default("nplm").with_options({"lr": 0.1, "n_step": 2}, "the example")
      >>> config.optimizer.lr, config.network["n_step"]
      (0.1, 2)
    """

    model: str
    network: Mapping[str, Any] = field(default_factory=dict)
    text: TextConfig = field(default_factory=TextConfig)
    batching: BatchingConfig | None = None
    optimizer: OptimizerConfig | None = None
    training: TrainingConfig | None = None
    counting: CountingConfig | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def default(cls, model: str, trained_by: str | None = None) -> "RunConfig":
        """Return the default settings of a model.

        `trained_by` is "gradient" or "counting"; it can be left out for a name in MODELS.
        """
        if trained_by is None:
            entry = choose(MODELS, model, "model")
            trained_by = entry.kind.trained_by
            network = dict(entry.defaults)
        else:
            network = {}
        sections = {name: section() for name, section in SECTIONS[trained_by].items()}
        return cls(model, network, **sections)

    @property
    def sections(self) -> dict[str, Any]:
        """The sections that the model uses, by name."""
        names = {name for sections in SECTIONS.values() for name in sections}
        return {
            item.name: getattr(self, item.name)
            for item in fields(self)
            if item.name in names and getattr(self, item.name) is not None
        }

    def with_options(self, options: Mapping[str, Any], origin: str) -> "RunConfig":
        """Return these settings with flat options put into the sections that declare them.

        A setting that only other models have is ignored, so that one recipe serves several models.
        Options with `epochs` and without `steps` replace these settings' `steps` by None.

        Args:
          options: values by the name of a setting; lists, which JSON has in the place of tuples,
            become tuples.
          origin: where the options come from, such as "recipe lecture", for the error.
        Raises:
          UserError: for a name that no model and no section has.
          SettingError: for a value of another type.
        """
        config, known = self, dict.fromkeys(all_settings())
        for name, value in _with_length(options).items():
            choose(known, name, f"setting in {origin}")
            if name in config.network:
                kind = kinds_of(MODELS[config.model].kind)[name]
                network = {**config.network, name: checked(name, value, kind)}
                config = replace(config, network=network)
            for title, section in config.sections.items():
                if name in {item.name for item in fields(section)}:
                    config = replace(config, **{title: _with(section, name, value)})
        return config

    def with_section_options(self, options: Mapping[str, Any]) -> "RunConfig":
        """Return these settings with flat options of `fit`; each must belong to a section.

        Unlike in `with_options`, a name that belongs to another kind of model is an error, and the
        settings of the model and of the text cannot be changed: `fit` gets both as arguments.

        Raises:
          SettingError: for a name that no section of this model has, a value of another type, and
            `steps` and `epochs` together.
        """
        minutes = self.training.max_minutes if self.training else None
        check_length({"max_minutes": minutes, **options})
        declared = {
            item.name: title
            for title, section in self.sections.items()
            if title != "text"
            for item in fields(section)
        }
        config = self
        for name, value in _with_length(options).items():
            if name not in declared:
                raise self._unknown_option(name, value, declared)
            title = declared[name]
            config = replace(config, **{title: _with(getattr(config, title), name, value)})
        return config

    def _unknown_option(self, name: str, value: Any, declared: Mapping[str, str]) -> SettingError:
        """Return the error of an option that `fit` does not have."""
        model = dict.fromkeys(self.network)
        if with_synonym(name, model) in model and with_synonym(name, declared) not in declared:
            meant = with_synonym(name, model)
            why = f"is a setting of the model: give `{meant}` to the model, not to fit"
        elif name in {item.name for item in fields(self.text)}:
            why = "is a setting of the text: give it to read_corpus, not to fit"
        else:
            meant = nearest_setting(name, declared) or ""
            hint = f" (did you mean `{meant}`?)" if meant else ""
            why = f"is no option of fit{hint}: choose one of {', '.join(declared)}"
        return SettingError(name, value, why)

    def with_steps(self, steps: int | None) -> "RunConfig":
        """Return these settings with another number of train steps."""
        assert self.training is not None
        return replace(self, training=replace(self.training, steps=steps))

    def with_about(self, **entries: Any) -> "RunConfig":
        """Return these settings with more entries of config.json that are no settings."""
        return replace(self, about={**self.about, **entries})

    def protocol(self, start_id: int | None) -> Protocol:
        """Return how a run with these settings is scored.

        Without batches (an n-gram), the text is scored by lines if it has no start token.

        Args:
          start_id: id of the token that stands before a text; None if there is none.
        """
        if self.batching is not None:
            rows, positions = self.batching.batching == "rows", self.batching.positions
        else:
            assert self.counting is not None
            rows, positions = start_id is None, self.counting.positions
        return Protocol(rows, rows and positions == "last")

    def check_ranges(self) -> None:
        """Raise SettingError for a setting of another type, or out of its range."""
        if self.model in MODELS:
            check_values(MODELS[self.model].kind, self.network)
        for section in self.sections.values():
            check_settings(section)

    def check_positions(self, start_id: int | None) -> None:
        """Raise UserError if `positions` is "last" and has no effect; see `protocol`."""
        section = self.counting if self.batching is None else self.batching
        assert section is not None
        if section.positions != "last" or self.protocol(start_id).rows:
            return
        needed = "a text without <eos>, whose lines are rows (`eos`)"
        if self.batching is not None:
            name = self.batching.batching
            choose(BATCHINGS, name, "batching")
            if start_id is None:
                raise no_start_error(name)
            needed = f"`batching` rows, not {name}"
        raise SettingError("positions", "last", f"needs {needed}: use `positions` all")

    def check_used(self, given: Collection[str]) -> None:
        """Raise SettingError for a setting among `given` that has no effect with the others."""
        for name, (choice, values) in BELONGS.items():
            chosen = getattr(self.optimizer, choice, None)
            if name in given and chosen in CHOICES[choice] and chosen not in values:
                why = f"has no effect with `{choice}` {chosen}: it belongs to {', '.join(values)}"
                raise SettingError(name, getattr(self.optimizer, name), why)
        softmax = self.network.get("softmax")
        if softmax is not None and given:
            from jaxlm.models.heads import HEADS, softmaxes_with

            for name in sorted(self.network.keys() & set(given)) if softmax in HEADS else ():
                owners = softmaxes_with(name)
                if owners and softmax not in owners:
                    why = f"has no effect with `softmax` {softmax}: it belongs to {owners[0]}"
                    value = self.network[name]
                    shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
                    raise SettingError(name, shown, why)
        kind = self.batching and self.batching.batching
        for name, values in OF_BATCHING.items():
            if name in given and kind in BATCHINGS and kind not in values:
                why = f"has no effect with `batching` {kind}: it belongs to {', '.join(values)}"
                raise SettingError(name, getattr(self.batching, name), why)

    def check_window(self, given: Collection[str], context: int | None) -> None:
        """Raise SettingError for a `bptt` among `given` that the model's own window replaces.

        Args:
          given: the settings that the user gives.
          context: `context_size` of the model; None for a model that reads any number of tokens.
        """
        if self.batching is None or self.batching.batching != "windows":
            return
        if "bptt" in given and context is not None:
            width = context + 1
            why = f"has no effect with `batching` windows: those of this model have {width} words"
            raise SettingError("bptt", self.batching.bptt, why)

    def as_json(self, start_id: int | None) -> dict[str, Any]:
        """Return the content of config.json; for `start_id`, see `protocol`."""
        sections = {title: asdict(section) for title, section in self.sections.items()}
        protocol = {"protocol": self.protocol(start_id).as_json()}
        described = {"model": self.model, "network": dict(self.network)}
        return {**self.about, **described, **protocol, **sections}


def all_settings() -> set[str]:
    """Return the names of the settings of all models and sections, and "model"."""
    names = {name for entry in MODELS.values() for name in entry.defaults}
    sections = {section for kind in SECTIONS.values() for section in kind.values()}
    return names | {item.name for section in sections for item in fields(section)} | {"model"}


def section_names() -> set[str]:
    """Return the names of all sections of config.json that hold settings."""
    return {name for sections in SECTIONS.values() for name in sections} | {"network"}


def check_length(options: Mapping[str, Any]) -> None:
    """Raise SettingError if options give both `steps` and `epochs`, and one has no effect.

    With `max_minutes` both have an effect: `epochs` shapes the schedules; see `horizon_of`.
    """
    epochs, steps, minutes = (options.get(name) for name in ("epochs", "steps", "max_minutes"))
    if epochs is not None and steps is not None and minutes is None:
        why = f"has no effect with `steps` {steps}: give one of the two"
        raise SettingError("epochs", epochs, why)


def _with_length(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options, with `steps` None if they have `epochs` and no `steps`."""
    length = {"steps": None} if options.get("epochs") is not None else {}
    return length | dict(options)


def total_steps(config: TrainingConfig, steps_per_epoch: int) -> int:
    """Return how many train steps `config` asks for.

    Raises:
      SettingError: for a number that is out of its range.
    """
    check_settings(config)
    if config.steps:
        return config.steps
    steps = max(1, round(config.epochs * steps_per_epoch))
    if steps > LARGEST_INT32:
        why = f"makes {steps:,} steps of {steps_per_epoch:,} an epoch, more than {LARGEST_INT32:,}"
        raise SettingError("epochs", config.epochs, why)
    return steps


def check_valid_split(text: Text, protocol: Protocol) -> None:
    """Raise UserError if there is a validation split and none of its tokens can be predicted."""
    valid = text.valid
    if valid is None or not len(valid) or not protocol.rows:
        return
    try:
        rows_of(valid)
    except UserError:
        raise UserError(
            f"the valid split of {text.name} has no line in which a token can be predicted: add "
            f"lines of two words or more to it, or leave the split out"
        ) from None


def _with(section: Any, name: str, value: Any) -> Any:
    """Return a section with another value of one setting."""
    return replace(section, **{name: checked(name, value, kinds_of(type(section))[name])})
