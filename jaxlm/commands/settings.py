"""The flags of a model, and the settings that they stand for.

Precedence: default < recipe < config file < flag.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxlm.data.corpora import CORPORA
from jaxlm.data.json_files import read_json
from jaxlm.data.shards import is_prepared
from jaxlm.data.text import Text
from jaxlm.errors import SettingError, choose, reason
from jaxlm.models.registry import MODELS
from jaxlm.ops.machine import products_per_second
from jaxlm.recipes import recipe_settings
from jaxlm.recipes.own_text import own_text_settings
from jaxlm.runs.folder import read_description
from jaxlm.runs.old_configs import upgrade
from jaxlm.runs.run import UNK_IN_TRAINING
from jaxlm.runs.starts import WARM_START
from jaxlm.training.config import RunConfig, all_settings, check_length, section_names

SMALL_TEXT, SMALL_TOKENS = "small-text", 200
"""The recipe for a text of the user's own of fewer tokens than SMALL_TOKENS."""
OWN_TEXT = "own-text"
"""The recipe for a longer text of the user's own; the size of the model depends on the time."""
NO_SETTINGS = {"jaxlm", "command", "params", "protocol", "file", "text_sha256", "from_run"}
NO_SETTINGS |= {WARM_START, UNK_IN_TRAINING}
"""The entries of a run's config.json that are no settings."""


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

    Without recipe and file, the recipe is the corpus's own, such as "lecture" for the toy corpus.

    Args:
      model: a name in MODELS; None for the file's or the recipe's model, or nplm.
      recipe: a name in RECIPES, or None.
      config_file: a JSON file of settings, or None.
      corpus: the corpus that the command names.
    Raises:
      UserError: for an unknown name, and a value of another type.
    """
    if recipe is None and config_file is None and corpus in CORPORA:
        recipe = CORPORA[corpus].recipe
    from_file = read_config_file(config_file) if config_file else {}
    model = model or from_file.get("model")
    from_recipe = recipe_settings(recipe, model) if recipe else {}
    name = model or from_recipe.get("model") or "nplm"
    config = RunConfig.default(str(name)).with_options(from_recipe, f"recipe {recipe}")
    return config.with_options(from_file, str(config_file))


def small_text_config(config: RunConfig, text: Text, is_cut: bool = False) -> RunConfig | None:
    """Return settings with which a model learns a few sentences of the user's own by heart.

    These are the recipe SMALL_TEXT, in batches of all lines, without a validation split. The result
    is None for a text of SMALL_TOKENS or more, for a corpus with a name, for a prepared text, and
    for a model that is trained by counting, which needs no recipe.

    Args:
      config: the settings before any flag.
      text: the text, as the command reads it without the recipe.
      is_cut: whether the command says how the text is cut into splits.
    """
    if config.training is None or text.name in CORPORA or is_prepared(Path(text.name)):
        return None
    if len(text.train) >= SMALL_TOKENS:
        return None
    settings = recipe_settings(SMALL_TEXT, config.model) | {"corpus": text.name}
    splits = [text.train]
    if os.path.isfile(text.name) and not is_cut:
        settings["fractions"] = (1.0,)
        splits = [text.split(name) for name in text.splits]
    elif text.valid is not None:
        # An epoch is one step, and the default is a validation at each.
        settings["eval_every"] = settings["log_every"]
    # A text cut at characters has lines in two splits.
    whole = "".join(line for split in splits for line in split.source.lines())
    # Without a start token, the first token of a line is not predicted.
    least = 1 if text.vocabulary.start_id is not None else 2
    lines = sum(len(line.split()) >= least for line in whole.split("\n"))
    settings["batch_size"] = max(1, lines)
    return config.with_options(settings, f"recipe {SMALL_TEXT}")


def own_text_config(
    config: RunConfig,
    text: Text,
    *,
    minutes: float | None,
    epochs: float | None,
    steps: int | None,
    dtype: str | None = None,
    width: int | None = None,
    batch: Mapping[str, int] | None = None,
    always: bool = False,
) -> RunConfig | None:
    """Return settings for a text of the user's own: the recipe OWN_TEXT, and sizes by the time.

    The result is None for a corpus with a name, and for a model that is trained by counting.

    Args:
      config: the settings before any flag.
      text: the text.
      minutes: the time that the command gives, or None.
      epochs: the passes that the command gives, or None.
      steps: the train steps that the command gives, or None.
      dtype: the setting `dtype` of the command, or None.
      width: the number of units that the command gives, or None.
      batch: `batch_size` and `bptt`, where the command gives them.
      always: whether a corpus with a name gets these settings too.
    """
    if config.training is None or (text.name in CORPORA and not always):
        return None
    settings = recipe_settings(OWN_TEXT, config.model)
    sizes = settings | dict(batch or {})
    in_batch = sizes["batch_size"] * sizes["bptt"]
    settings |= own_text_settings(
        vocab_size=len(text.vocabulary),
        tokens=len(text.train),
        seconds=None if minutes is None else 60 * minutes,
        read=steps * in_batch if steps else (epochs or settings["epochs"]) * len(text.train),
        flops=products_per_second(dtype),
        lr=settings["lr"],
        width=width,
        batch=in_batch,
        epochs=epochs,
    )
    if text.valid is None or not len(text.valid):
        settings.pop("eval_every", None)
    return config.with_options(settings, f"recipe {OWN_TEXT}")


def own_text_note(config: RunConfig) -> str:
    """Return the note that says which settings a text of the user's own is trained with."""
    shown = {"hidden_size": "units", "batch_size": "streams", "bptt": "steps"}
    assert config.batching is not None
    sizes = {**config.network, **dataclasses.asdict(config.batching)}
    parts = [f"{sizes[name]} {word}" for name, word in shown.items() if name in sizes]
    assert config.optimizer is not None
    return (
        f"settings for a text of your own (recipe {OWN_TEXT}): {', '.join(parts)}, rate "
        f"{config.optimizer.lr:g} with a {config.optimizer.schedule} schedule; flags, --recipe and "
        f"--config change them"
    )


def resumed_config(config: RunConfig, folder: Path) -> RunConfig:
    """Return the settings before any flag of a run that is resumed: the settings of the run.

    `steps` and `max_minutes` of the run are left out, because the command gives them anew.

    Args:
      config: the settings of a new run of the same model.
      folder: the folder of the run.
    Raises:
      UserError: for a damaged run.
    """
    saved, _ = read_description(folder)
    settings: dict[str, Any] = {}
    for section in ("network", "batching", "optimizer", "training"):
        settings |= saved.get(section, {})
    left_out = ("steps", "max_minutes")
    known = {name: settings[name] for name in settings.keys() & all_settings() - set(left_out)}
    return config.with_options(known, str(folder))


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
        raise SettingError("config", path, f"cannot be read: {reason(error)}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SettingError("config", path, f"is not JSON: {error}") from None
    except ValueError as error:
        raise SettingError("config", path, str(error)) from None
    if not isinstance(content, dict):
        why = f'holds a {type(content).__name__}: give an object like {{"lr": 0.1}}'
        raise SettingError("config", path, why)
    # A run's config.json has entries that are no settings. Files that people write have none.
    of_a_run = "network" in content and bool({"protocol", "command", "file"} & content.keys())
    if of_a_run:
        content = upgrade(content)
    if not isinstance(content.get("model", ""), str):
        raise SettingError("config", path, f"has the model {content['model']!r}: give a name")
    flat: dict[str, Any] = {}
    for name, value in content.items():
        is_section = name in section_names() and isinstance(value, dict)
        flat.update(value if is_section else {name: value})
    if not of_a_run:
        check_length(flat)
    return {name: value for name, value in flat.items() if name not in NO_SETTINGS}


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
