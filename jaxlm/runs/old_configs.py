"""Settings of runs that older versions of jaxlm kept, translated to the present names."""

from typing import Any

# Names and values of version 0.1.0, and their present names.
_NETWORK = {"kernel": "time_loop"}
# Settings of batching that came later, with the value that is as if there was no setting.
ABSENT = {"drop_state": 0.0}
_POSITIONS = {"every": "all", "last": "last"}


def upgrade(config: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a config.json with the names and sections of this version.

    Only configs of version 0.1.0 lack a "protocol" section. A run that was trained before there was
    a setting keeps training without it.
    """
    config = dict(config)
    if isinstance(config.get("batching"), dict):
        config["batching"] = ABSENT | config["batching"]
    if "protocol" in config:
        return config
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
    batching = config.get("batching", {})
    rows = batching.get("batching") == "rows"
    config["protocol"] = {"rows": rows, "last_only": rows and batching.get("positions") == "last"}
    if "optimizer" not in config:
        # An n-gram has no batches: its section "batching" only said how it is scored.
        config.pop("batching", None)
    return config
