"""--plugin FILE.py: models and cells of the user's own, for the commands."""

import importlib.util
import os
import sys
from pathlib import Path

from jaxlm.errors import SettingError


def load_plugin(path: Path | None) -> None:
    """Run a Python file, which registers models or cells (`jaxlm.register_model`).

    Raises:
      SettingError: if the file cannot be read, or raises an error.
    """
    if path is None:
        return
    if not os.path.isfile(path):
        raise SettingError("plugin", path, "does not exist: give a Python file")
    name = f"jaxlm_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise SettingError("plugin", path, "is no Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        why = f"raises {reason}; run python {path} to see where"
        raise SettingError("plugin", path, why) from error
