"""The flags of a model, and the settings that they stand for.

Precedence: default < recipe < config file < flag.
"""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxlm.data.json_files import read_json
from jaxlm.errors import SettingError, choose
from jaxlm.models.registry import MODELS
from jaxlm.recipes import recipe_settings
from jaxlm.runs.old_configs import upgrade
from jaxlm.runs.starts import WARM_START
from jaxlm.training.config import RunConfig, check_length, section_names


def network_class(model: str) -> type:
    """Return a dataclass of the settings of a model, from which tyro makes flags.

    Raises:
      UserError: for a name that is not in MODELS.
    """
    entry = choose(MODELS, model, "model")
    fields = [
        (
            setting.name,
            Annotated[setting.type, tyro.conf.arg(help=setting.help)],
            dataclasses.field(default=setting.default),
        )
        for setting in entry.settings.values()
    ]
    made = dataclasses.make_dataclass(f"{entry.kind.__name__}Settings", fields, frozen=True)
    made.__doc__ = (entry.kind.__doc__ or model).strip().splitlines()[0]
    return made


def default_config(
    model: str | None, recipe: str | None, config_file: Path | None, corpus: str
) -> RunConfig:
    """Return the settings before any flag: defaults, then the recipe, then the file.

    For the toy corpus without recipe and file, the recipe is "lecture".

    Args:
      model: a name in MODELS; None for the file's or the recipe's model, or nplm.
      recipe: a name in RECIPES, or None.
      config_file: a JSON file of settings, or None.
      corpus: the corpus that the command names.
    Raises:
      UserError: for an unknown name, and a value of another type.
    """
    if recipe is None and config_file is None and corpus == "toy":
        recipe = "lecture"
    from_file = read_config_file(config_file) if config_file else {}
    model = model or from_file.get("model")
    from_recipe = recipe_settings(recipe, model) if recipe else {}
    name = model or from_recipe.get("model") or "nplm"
    config = RunConfig.default(str(name)).with_options(from_recipe, f"recipe {recipe}")
    return config.with_options(from_file, str(config_file))


def read_config_file(path: Path) -> dict[str, Any]:
    """Return the settings of a JSON file, flat.

    The file is flat ({"lr": 0.1}), or has sections like a run's config.json.

    Raises:
      SettingError: if the file cannot be read, holds no JSON object, or gives both `steps` and
        `epochs`. The config.json of a run always has both; its `steps` decide unless they are null.
    """
    try:
        content = read_json(path)
    except OSError as error:
        raise SettingError("config", path, f"cannot be read: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SettingError("config", path, f"is not JSON: {error}") from None
    except ValueError as error:
        raise SettingError("config", path, str(error)) from None
    if not isinstance(content, dict):
        why = f'holds a {type(content).__name__}: give an object like {{"lr": 0.1}}'
        raise SettingError("config", path, why)
    of_a_run = "network" in content
    if of_a_run:
        content = upgrade(content)
    flat: dict[str, Any] = {}
    for name, value in content.items():
        is_section = name in section_names() and isinstance(value, dict)
        flat.update(value if is_section else {name: value})
    if not of_a_run:
        check_length(flat)
    return {
        name: value
        for name, value in flat.items()
        if name
        not in ("jaxlm", "command", "protocol", "file", "text_sha256", "from_run", WARM_START)
    }


def config_of(model: str, command: Any, about: dict[str, Any]) -> RunConfig:
    """Return the settings that parsed flags stand for.

    Args:
      model: the name of the model.
      command: the parsed flags, with `network` and the sections as attributes.
      about: entries of config.json that are not settings, such as the command.
    """
    sections = {
        name: getattr(command, name)
        for name in ("text", "batching", "optimizer", "training", "counting")
        if hasattr(command, name)
    }
    fields = dataclasses.fields(command.network)
    network = {field.name: getattr(command.network, field.name) for field in fields}
    return RunConfig(model, network, **sections, about=about)
