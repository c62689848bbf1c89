"""Folders in the format of Hugging Face that jaxlm wrote, read as runs.

    config.json          the model's numbers, and the description of the run
    tokenizer.json       the tokenizer, as `tokenizers` reads it
    model.safetensors    the parameters by PyTorch's names, and the state of a warm start
    modeling_jaxlm.py    the model in PyTorch, which transformers executes
    jaxlm.json           digests of these files

`jaxlm.interop.huggingface` writes such a folder. transformers may have changed and saved it: then
it has no jaxlm.json, and its parameters are checked by their names, shapes and numbers alone.
"""

from pathlib import Path
from typing import Any

from jaxlm.data.file_digests import check_file
from jaxlm.data.huggingface_tokenizer import read_tokenizer
from jaxlm.data.json_files import read_json
from jaxlm.data.tokenizers import Tokenizer
from jaxlm.errors import UserError, reason

MODEL_TYPE = "jaxlm"
CONFIG, TOKENIZER, WEIGHTS, DIGESTS = (
    "config.json",
    "tokenizer.json",
    "model.safetensors",
    "jaxlm.json",
)
MODELING = "modeling_jaxlm.py"
RUN, RUN_TOKENIZER = "run", "run_tokenizer"
"""The entries of config.json with the settings and the step of a run, and with what tokenizer.json
does not say of its tokenizer."""
WARM = "warm_"
"""How the names of the tensors of a warm start begin. Their numbers follow from the parameters."""


def is_config(content: Any) -> bool:
    """Return whether the content of a config.json is that of a Hugging Face folder.

    Example:
      >>> is_config({"model_type": "gpt2"}), is_config({"model": "lstm", "network": {}})
      (True, False)
    """
    return isinstance(content, dict) and "model_type" in content


def is_huggingface(folder: Path) -> bool:
    """Return whether a folder has a config.json of Hugging Face."""
    try:
        return is_config(read_json(folder / CONFIG))
    except (OSError, ValueError):
        return False


class ForeignFolderError(UserError):
    """A Hugging Face folder of a model that jaxlm does not have."""


def check_own(folder: Path, config: dict[str, Any]) -> None:
    """Raise ForeignFolderError unless the config.json of a Hugging Face folder is that of jaxlm."""
    if config.get("model_type") != MODEL_TYPE:
        kind = str(config.get("model_type"))[:40]
        raise ForeignFolderError(
            f"{folder} is a Hugging Face folder of a {kind!r} model: jaxlm reads only the folders "
            f"that it wrote (model_type {MODEL_TYPE!r}), because it has no such model"
        )


def read_run(folder: Path, config: dict[str, Any]) -> tuple[Any, Tokenizer]:
    """Return the settings of the run in a Hugging Face folder, not checked yet, and its tokenizer.

    Args:
      folder: the folder.
      config: the content of its config.json.
    Raises:
      ValueError: if the folder is damaged.
      OSError: if a file cannot be read.
    """
    _check_digests(folder)
    run = config.get(RUN)
    if not isinstance(run, dict) or not isinstance(run.get("settings"), dict):
        raise ValueError(f"{CONFIG} has no description of the run")
    tokenizer = read_tokenizer(read_json(folder / TOKENIZER), config.get(RUN_TOKENIZER))
    if config.get("vocab_size") != len(tokenizer.vocabulary):
        raise ValueError(
            f"{CONFIG} has a vocabulary of {config.get('vocab_size')} tokens, and {TOKENIZER} one "
            f"of {len(tokenizer.vocabulary)}"
        )
    return run["settings"], tokenizer


def read_params(
    model: Any, folder: Path, settings: dict[str, Any], warn: Any
) -> tuple[Any, int] | None:
    """Return the parameters of a Hugging Face folder, and the step that they are from.

    Args:
      model: the model that the settings describe.
      folder: the folder.
      settings: the settings of the run.
      warn: not called.
    Raises:
      UserError: if the file is damaged, or does not fit the model.
    """
    import jax
    import jax.numpy as jnp

    from jaxlm.models.neural import param_shapes, tree_bytes
    from jaxlm.models.torch_names import from_torch, tensor_shapes
    from jaxlm.ops.machine import check_fits, host_memory

    if model.trained_by != "gradient":
        raise UserError(f"{folder} is damaged: a Hugging Face folder cannot hold an n-gram")
    size = tree_bytes(param_shapes(model))
    check_fits(f"the parameters of {folder}", size, host_memory(), "is it whole?")
    try:
        tensors = _read_tensors(folder / WEIGHTS, set(tensor_shapes(model)))
        params = jax.tree.map(jnp.asarray, from_torch(model, tensors))
    except UserError as error:
        raise UserError(f"{folder} cannot be loaded: {WEIGHTS}: {error}") from None
    step = read_json(folder / CONFIG)[RUN].get("step")
    return params, step if type(step) is int and step >= 0 else 0


def _read_tensors(path: Path, wanted: set[str]) -> dict[str, Any]:
    """Return the tensors of a safetensors file, without the state of a warm start.

    Raises:
      UserError: if the file is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    tensors = {}
    try:
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 (the file is no dict)
                if name in wanted:
                    tensors[name] = file.get_tensor(name)
                elif not name.startswith(WARM):
                    # `from_torch` names it in its error. Its numbers are not read.
                    tensors[name] = file.get_slice(name)
    except OSError as error:
        raise UserError(f"cannot be read: {reason(error)}") from None
    except (SafetensorError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise UserError(f"is damaged: {' '.join(str(error).split())[:200]}") from None
    return tensors


def _check_digests(folder: Path) -> None:
    """Raise ValueError if a file is not as jaxlm wrote it; without jaxlm.json nothing is checked.

    Raises:
      OSError: if a file cannot be read.
    """
    if not (folder / DIGESTS).exists():
        return
    kept = read_json(folder / DIGESTS)
    files = kept.get("files") if isinstance(kept, dict) else None
    # jaxlm 0.1 did not list the Python file.
    if not isinstance(files, dict) or set(files) - {MODELING} != {CONFIG, TOKENIZER, WEIGHTS}:
        raise ValueError(f"{DIGESTS} does not list the digests of the files")
    for name, about in files.items():
        fits = isinstance(about, dict) and type(about.get("bytes")) is int
        if not fits or not isinstance(about.get("sha256"), str):
            raise ValueError(f"{DIGESTS} has no digest of {name}")
        try:
            check_file(folder / name, about["bytes"], about["sha256"])
        except ValueError as error:
            raise ValueError(
                f"{error}; if you changed it on purpose, remove {folder / DIGESTS}"
            ) from None
