"""Write a run as a Hugging Face folder."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.data.file_digests import file_digest
from jaxlm.data.huggingface_tokenizer import PAD, START, describe, special_tokens, tokenizer_file
from jaxlm.errors import UserError, reason
from jaxlm.interop.huggingface.card import model_card
from jaxlm.models.ngram import NGram
from jaxlm.models.registry import describe_model
from jaxlm.runs.huggingface import (
    CONFIG,
    DIGESTS,
    MODEL_TYPE,
    MODELING,
    RUN,
    RUN_TOKENIZER,
    TOKENIZER,
    WARM,
    WEIGHTS,
)
from jaxlm.runs.run import Run, load
from jaxlm.runs.starts import WARM_START, start_of

# Tools divide longer texts into windows of this many tokens. The model itself has no limit.
LONGEST = 32_768
EPSILON = 1e-6
Json = dict[str, Any]


def export_huggingface(run: Run, folder: str | Path) -> None:
    """Write a run as a folder that Hugging Face's transformers and `jaxlm.load` read.

    The folder has config.json, model.safetensors, tokenizer.json, tokenizer_config.json,
    generation_config.json, README.md, jaxlm.json (digests) and modeling_jaxlm.py, the model in
    PyTorch. It is written under another name and then renamed.

    Example:
      >>> import tempfile
      >>> import jaxlm
      >>> text = jaxlm.read_corpus("toy")
      >>> model = jaxlm.LSTM(len(text.vocabulary), text.vocabulary.start_id, hidden_size=4)
      >>> run = jaxlm.fit(model, text, steps=1, batch_size=2, bptt=2, quiet=True)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     export_huggingface(run, folder)
      ...     jaxlm.load(folder).model.sizes
      (4,)

    Args:
      run: an RNN, GRU, LSTM or NPLM, over words, characters, bytes or BPE.
      folder: a folder that does not exist, or is empty.
    Raises:
      UserError: for another model or tokenizer, and if the folder is not empty or cannot be
        written.
    """
    folder = Path(folder)
    check_target(folder)
    if isinstance(run.model, NGram):
        raise UserError(
            f"{run.name} is an n-gram: a Hugging Face model computes with tensors, and an n-gram "
            f"looks up counted word sequences; write it as an ARPA file (a name that ends in .arpa)"
        )
    tensors, config = _tensors(run), config_file(run)
    tokenizer = tokenizer_file(run.tokenizer)
    contents = {
        CONFIG: config,
        TOKENIZER: tokenizer,
        "tokenizer_config.json": tokenizer_config(run),
        "generation_config.json": generation_config(config),
    }
    with _new_folder(folder) as partial:
        for name, content in contents.items():
            text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
            (partial / name).write_text(text, encoding="utf-8")
        _write_tensors(partial / WEIGHTS, tensors)
        source = files("jaxlm.interop.huggingface") / "assets" / MODELING
        (partial / MODELING).write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
        card = model_card(run, config, _prompt(run))
        (partial / "README.md").write_text(card, encoding="utf-8")
        digests = {
            name: {
                "bytes": os.path.getsize(partial / name),
                "sha256": file_digest(partial / name),
            }
            for name in (CONFIG, TOKENIZER, WEIGHTS, MODELING)
        }
        text = json.dumps({"files": digests}, indent=2) + "\n"
        (partial / DIGESTS).write_text(text, encoding="utf-8")


def import_huggingface(path: str | Path, folder: str | Path | None = None) -> Run:
    """Return the run in a Hugging Face folder, and save it in `folder` unless it is None.

    Raises:
      UserError: if jaxlm did not write the folder, if it is damaged, and if `folder` holds a run.
    """
    run = load(path)
    return run if folder is None else run.save(folder)


def check_target(folder: Path) -> None:
    """Raise UserError unless a folder does not exist, or is empty."""
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise UserError(f"{folder} is a file: name a new folder")
    if os.path.isdir(folder) and os.listdir(folder):
        raise UserError(f"{folder} is not empty: name a new folder, or an empty one")


def config_file(run: Run) -> Json:
    """Return the content of config.json: the numbers of the model, and the run's description."""
    name, network = describe_model(run.model)
    settings = run.settings | {
        "model": name,
        "network": network,
        "protocol": run.protocol.as_json(),
    }
    if "training" in settings:
        # The parameters are in this folder, wherever training kept its checkpoints.
        settings["training"] = settings["training"] | {"checkpoint_folder": None}
    vocabulary = run.vocabulary
    model: Any = run.model
    ids = special_tokens(run.tokenizer)
    about: Json = {
        "model_type": MODEL_TYPE,
        "architectures": ["JaxlmForCausalLM"],
        "auto_map": {
            "AutoConfig": "modeling_jaxlm.JaxlmConfig",
            "AutoModelForCausalLM": "modeling_jaxlm.JaxlmForCausalLM",
        },
        "vocab_size": len(vocabulary),
        "bos_token_id": ids.get(START),
        "eos_token_id": ids.get(START),
        "pad_token_id": ids[PAD],
        # The token that is read at bos_token_id: the end of a line.
        "start_id": vocabulary.start_id,
        "max_position_embeddings": LONGEST,
        "embedding_size": model.embedding_size,
        "tied": model.tied,
        "residual": model.residual,
        "layer_norm": model.layer_norm,
        "layer_norm_epsilon": EPSILON,
        "start": start_of(run).name,
        "has_warm_state": bool(run.settings.get(WARM_START)),
        "use_cache": True,
    }
    about |= (_nplm if hasattr(model, "n_step") else _recurrent)(model)
    about["hidden_size"] = about["layer_sizes"][-1] if about["layer_sizes"] else 0
    about["num_hidden_layers"] = len(about["layer_sizes"])
    about[RUN] = {"settings": settings, "step": run.step}
    about[RUN_TOKENIZER] = describe(run.tokenizer)
    return about


def _recurrent(model: Any) -> Json:
    from jaxlm.models.torch_names import TORCH_CELLS

    network = next(name for name, cell in TORCH_CELLS.items() if cell == model.cell).lower()

    def rate(own: float | None) -> float:
        return model.dropout if own is None else own

    return {
        "network": network,
        "layer_sizes": list(model.sizes),
        "dropout_input": rate(model.dropout_input),
        "dropout_between": rate(model.dropout_between),
        "dropout_output": rate(model.dropout_output),
    }


def _nplm(model: Any) -> Json:
    return {
        "network": "nplm",
        "layer_sizes": [model.hidden_size] * model.num_layers if model.hidden_size else [],
        "window": model.n_step,
        "direct": model.direct,
        "fill_id": model.filler_id,
        "dropout_input": model.dropout,
        "dropout_between": model.dropout,
        "dropout_output": 0.0,
    }


def tokenizer_config(run: Run) -> Json:
    """Return the content of tokenizer_config.json.

    No token is added to a text, and no blank is removed from one.
    """
    names = {"pad_token": PAD}
    if START in special_tokens(run.tokenizer):
        names |= {"bos_token": START, "eos_token": START}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **names,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "padding_side": "left",
    }


def generation_config(config: Json) -> Json:
    """Return the content of generation_config.json.

    A text does not end at the end of its first line: no token ends the generation.
    """
    return {
        "bos_token_id": config["bos_token_id"],
        "eos_token_id": None,
        "pad_token_id": config["pad_token_id"],
    }


def _tensors(run: Run) -> dict[str, np.ndarray]:
    """Return the parameters, and the state of a warm start if the run keeps a stretch of text."""
    import jax

    from jaxlm.models.torch_names import to_torch

    tensors = to_torch(run.model, run.params)
    if run.settings.get(WARM_START):
        carry = run.warm_carry
        # A layer's carry is a tuple; the carry of an NPLM is one array of tokens.
        layers = carry if isinstance(carry, tuple) else (carry,)
        for index, layer in enumerate(layers):
            parts = [np.asarray(array)[0] for array in jax.tree.leaves(layer)]
            tokens = parts[0].dtype.kind == "i"
            array = parts[0].astype(np.int64) if tokens else np.stack(parts).astype(np.float32)
            tensors[f"{WARM}{index}"] = np.ascontiguousarray(array)
    return tensors


def _write_tensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    from safetensors.numpy import save

    # `save_file` would make a file that other users of the machine cannot read.
    path.write_bytes(save(tensors, {"format": "pt"}))


def _prompt(run: Run) -> str:
    """Return a beginning of a text whose tokens the run knows, for the example of the card."""
    kept = run.settings.get(WARM_START) or []
    unk, length = run.vocabulary.unk or "\n", 20 if run.tokenizer.unit == "words" else 4
    parts = run.tokenizer.decode(kept).replace(unk, "\n").split("\n")
    known = [part.strip() for part in parts[1:] if len(part.strip()) > length]
    if known:
        return known[0][:length].rsplit(" ", 1)[0]
    if run.vocabulary.start_id is not None:
        return ""
    # A text of no tokens cannot be continued without a start token.
    texts = map(run.tokenizer.token_text, range(len(run.vocabulary)))
    shown = (text for text in texts if text.strip() and text.isprintable() and text != unk)
    return next(shown, "")


@contextlib.contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside `folder`; when the context ends, it becomes `folder`.

    If `folder` exists, it stays, because it may be a link or the current folder. Its files come one
    by one, and config.json, without which the folder is no model, comes last.

    Raises:
      UserError: if the folder cannot be written. Then nothing is left.
    """
    partial = folder.parent / f".{folder.name}.{os.getpid()}.partial"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        try:
            yield partial
            if os.path.isdir(folder):
                _move_files(partial, folder)
            else:
                os.rename(partial, folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    except OSError as error:
        raise UserError(f"cannot write {folder}: {reason(error)}") from None


def _move_files(source: Path, target: Path) -> None:
    """Move the files of one folder to another, and remove the folder. An error moves no file."""
    moved: list[Path] = []
    try:
        for name in sorted(os.listdir(source), key=lambda name: (name == CONFIG, name)):
            os.replace(source / name, target / name)
            moved.append(target / name)
        source.rmdir()
    except BaseException:
        for path in moved:
            path.unlink(missing_ok=True)
        raise
