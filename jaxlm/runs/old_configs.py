"""Settings of runs that older versions of jaxlm kept, translated to the present settings."""

import json
from typing import Any

from jaxlm.data.batching import BatchingConfig
from jaxlm.models.registry import MODELS

# Names and values of version 0.1.0, and their present names.
_NETWORK = {"kernel": "time_loop"}
# Settings of batching that came later, with the value that is as if there was no setting. Other
# settings that came later have such a value as their default.
ABSENT = {"drop_state": 0.0}
_POSITIONS = {"every": "all", "last": "last"}


def upgrade(config: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a config.json with the names and sections of this version.

    Only configs of version 0.1.0 lack a "protocol" section. A run that was trained before there was
    a setting keeps training without it.
    """
    if "protocol" not in config:
        config = _from_version_0_1_0(config)
    return {**config, **_filled(config, {"batching": ABSENT})}


def complete(config: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a config.json with every setting that this version has.

    A setting that the run lacks has its default, because the run was trained as if it had it.
    """
    defaults = {"batching": vars(BatchingConfig())}
    entry = MODELS.get(config["model"]) if isinstance(config.get("model"), str) else None
    if entry is not None:
        defaults["network"] = dict(entry.defaults)
    return {**config, **_filled(config, defaults)}


def _filled(config: dict[str, Any], defaults: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the sections of a config, with `defaults` for the settings that they lack."""
    return {
        section: json.loads(json.dumps(values)) | config[section]
        for section, values in defaults.items()
        if isinstance(config.get(section), dict)
    }


def absent_settings(config: Any) -> dict[str, Any]:
    """Return the settings of ABSENT that the batching of a config.json lacks.

    Example:
      >>> absent_settings({"batching": {"batch_size": 20}}), absent_settings({"batching": None})
      ({'drop_state': 0.0}, {})
    """
    batching = config.get("batching") if isinstance(config, dict) else None
    if not isinstance(batching, dict):
        return {}
    return {name: value for name, value in ABSENT.items() if name not in batching}


def _from_version_0_1_0(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config of version 0.1.0 with the names and sections of this version."""
    config = dict(config)
    network = config.get("network")
    if isinstance(network, dict):
        config["network"] = {_NETWORK.get(name, name): value for name, value in network.items()}
    for section in ("batching", "counting"):
        settings = config.get(section)
        if isinstance(settings, dict) and "features" in settings:
            settings = dict(settings)
            settings["positions"] = _POSITIONS.get(settings["features"], settings["features"])
            del settings["features"]
            config[section] = settings
    batching = config.get("batching")
    batching = batching if isinstance(batching, dict) else {}
    rows = batching.get("batching") == "rows"
    config["protocol"] = {"rows": rows, "last_only": rows and batching.get("positions") == "last"}
    if "optimizer" not in config:
        # An n-gram has no batches: its section "batching" only said how it is scored.
        config.pop("batching", None)
    return config
