"""The whole configuration of a training run, put together from the sections that live beside what
they configure.

Precedence: default < recipe < config file < flag.
"""

import json
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from jaxlm.data.batching import BatchingConfig
from jaxlm.data.text import TextConfig
from jaxlm.errors import UserError, choose
from jaxlm.models import MODELS
from jaxlm.recipes import RECIPES
from jaxlm.training.counting import CountingConfig
from jaxlm.training.optimizers import OptimizerConfig
from jaxlm.training.progress import TrainingConfig

Network = TypeVar("Network")


@dataclass(frozen=True)
class Config(Generic[Network]):
    """Every setting of a run trained by gradient; `network` is the chosen model's own config."""

    network: Network
    text: TextConfig = field(default_factory=TextConfig)
    batching: BatchingConfig = field(default_factory=BatchingConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)


@dataclass(frozen=True)
class CountedConfig(Generic[Network]):
    """Every setting of a run trained by counting."""

    network: Network
    text: TextConfig = field(default_factory=TextConfig)
    counting: CountingConfig = field(default_factory=CountingConfig)


AnyConfig = Config | CountedConfig
CONFIGS: dict[str, type[AnyConfig]] = {"gradient": Config, "counting": CountedConfig}


def sections_of(config: AnyConfig) -> dict[str, Any]:
    """The sections of a configuration by name."""
    # A command's configuration has flags of its own beside the sections.
    kind = next(kind for kind in CONFIGS.values() if isinstance(config, kind))
    return {item.name: getattr(config, item.name) for item in fields(kind)}


def known_sections() -> set[str]:
    """The names of all sections of any configuration."""
    return {item.name for kind in CONFIGS.values() for item in fields(kind)}


def known_fields() -> set[str]:
    """Every setting that some model's configuration has."""
    sections = [entry.config for entry in MODELS.values()]
    sections += [TextConfig, BatchingConfig, OptimizerConfig, TrainingConfig, CountingConfig]
    return {item.name for section in sections for item in fields(section)}


def with_fields(config: AnyConfig, values: dict[str, Any], origin: str) -> AnyConfig:
    """`config` with flat `values` put into the sections they belong to.

    Raises UserError for a name that no model has; a name of another model's is passed over.
    """
    known = dict.fromkeys(known_fields() | {"model"})
    sections = sections_of(config)
    for name, value in values.items():
        choose(known, name, f"setting in {origin}")
        for title, section in sections.items():
            if name in {item.name for item in fields(section)}:
                # JSON has no tuples.
                fitting = tuple(value) if isinstance(value, list) else value
                sections[title] = replace(section, **{name: fitting})
    return type(config)(**sections)


def read_config_file(path: Path) -> dict[str, Any]:
    """A JSON file of settings: flat ({"lr": 0.1}), or by section as in a run's config.json. Raises
    UserError if it is not.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read --config {path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"--config {path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(
            f'--config {path} holds a {type(content).__name__}: give an object like {{"lr": 0.1}}'
        )
    flat: dict[str, Any] = {}
    for name, value in content.items():
        inner = name in known_sections() and isinstance(value, dict)
        flat.update(value if inner else {name: value})
    return {name: value for name, value in flat.items() if name not in ("jaxlm", "command")}


def default_config(
    model: str | None, recipe: str | None, config_file: Path | None, corpus: str
) -> tuple[str, AnyConfig]:
    """The model's name and its configuration before any flag: defaults, then the recipe, then the
    file.

    Without a recipe the toy corpus is trained as the lecture does. Raises UserError for unknown
    names.
    """
    if recipe is None and config_file is None and corpus == "toy":
        recipe = "lecture"
    from_recipe = choose(RECIPES, recipe, "recipe")["settings"] if recipe else {}
    from_file = read_config_file(config_file) if config_file else {}
    name = model or from_file.get("model") or from_recipe.get("model") or "nplm"
    entry = choose(MODELS, name, "model")
    config = CONFIGS[entry.kind.trained_by](entry.config())
    config = with_fields(config, from_recipe, f"recipe {recipe}")
    return name, with_fields(config, from_file, str(config_file))
