"""Runs as files of PyTorch weights, .safetensors and .pt, and such files of other programs as runs.

A file of jaxlm has the tensors of `jaxlm.models.torch_names`, and beside them the content of
config.json and tokenizer.json, so that the run can be read back exactly:

    .safetensors    in the metadata: jaxlm_config, jaxlm_tokenizer, jaxlm_step
    .pt             a dictionary with state_dict and with the same three entries

A file of another program has weights alone; `jaxlm.interop.torch_layouts` recognises its layout. A
.pt file is read by torch.load(weights_only=True), which makes tensors, texts and numbers, and runs
nothing of the file. This is the only module that imports torch.
"""

import contextlib
import functools
import json
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxlm.data.files import replacing
from jaxlm.data.json_files import parse_json
from jaxlm.data.tokenizers import Tokenizer, from_saved, to_json
from jaxlm.errors import SettingError, UserError, reason
from jaxlm.interop.torch_layouts import FLOATS, Layout, Stored, recognise
from jaxlm.interop.vocabulary_files import make_tokenizer, read_vocabulary
from jaxlm.models.ngram import NGram
from jaxlm.models.registry import describe_model, make_model
from jaxlm.models.torch_names import from_torch, tensor_shapes, to_torch
from jaxlm.runs.folder import described
from jaxlm.runs.protocol import Protocol
from jaxlm.runs.run import Run, check_registered, described_model

Tell = Callable[[str], None]

CONFIG, TOKENIZER, STEP = "jaxlm_config", "jaxlm_tokenizer", "jaxlm_step"
"""The entries of a file of jaxlm beside the tensors."""
STATE_DICT = "state_dict"
# Other names of the entry with the weights.
STATE_DICTS = (STATE_DICT, "model_state_dict", "model_state", "model", "net", "weights")
LONGEST_NAME = 300
# The dtypes of safetensors that are floats, by their names in PyTorch and NumPy.
SAFETENSORS_DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}


class TensorFile(NamedTuple):
    """The content of a file: its tensors by name, and everything beside them."""

    path: Path
    tensors: dict[str, Stored]
    about: dict[str, Any]


# Writing.


def write_safetensors(run: Run, path: Path) -> None:
    """Write a run as a .safetensors file; `read_safetensors` reads it back exactly.

    Raises:
      UserError: for a model that PyTorch does not have, and if the file cannot be written.
    """
    from safetensors.numpy import save

    tensors = _tensors(run)
    about = {"format": "pt"} | {name: str(value) for name, value in _about(run).items()}
    # `save_file` would make a file that other users of the machine cannot read.
    _write(path, lambda partial: partial.write_bytes(save(tensors, about)))


def write_pt(run: Run, path: Path) -> None:
    """Write a run as a .pt file, which torch.load(weights_only=True) reads.

    Raises:
      UserError: for a model that PyTorch does not have, if torch is not installed, and if the file
        cannot be written.
    """
    tensors = _tensors(run)
    torch = _torch(path)
    state = {name: torch.from_numpy(array.copy()) for name, array in tensors.items()}
    _write(path, lambda partial: torch.save({STATE_DICT: state} | _about(run), str(partial)))


def _tensors(run: Run) -> dict[str, np.ndarray]:
    """Return the tensors of a run by their PyTorch names."""
    if isinstance(run.model, NGram):
        raise UserError(
            f"{run.name} is an n-gram, which has counts and no weights: write an ARPA file, whose "
            f"name ends in .arpa or .arpa.gz"
        )
    return to_torch(run.model, run.params, with_start=True)


def _about(run: Run) -> dict[str, Any]:
    """Return the entries of a file beside the tensors."""
    name, network = describe_model(run.model)
    config = run.settings | {
        "model": name,
        "network": network,
        "protocol": run.protocol.as_json(),
    }
    saved = json.dumps(config, ensure_ascii=False)
    return {CONFIG: saved, TOKENIZER: to_json(run.tokenizer), STEP: int(run.step)}


def _write(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file by way of a partial file, by a function of a library."""
    _check_plain(path)
    try:
        with replacing(path) as partial:
            write(partial)
    except Exception as error:  # safetensors and torch raise unrelated types
        raise UserError(f"cannot write {path}: {_why(error)}") from None


# Reading.


def read_safetensors(
    path: Path,
    folder: Path | None = None,
    *,
    vocabulary: Path | None = None,
    tokens: str | None = None,
    tell: Tell = print,
) -> Run:
    """Return the run of a .safetensors file, and save the run in `folder` unless it is None.

    Args:
      path: the file, by jaxlm or by another program.
      folder: a new folder, or None.
      vocabulary: for a file of another program, a file with its tokens in the order of the rows of
        the embedding; see `read_vocabulary`.
      tokens: how a text is cut into these tokens: "words" or "chars"; None for words.
      tell: called with each line of text about what was found and assumed.
    Raises:
      UserError: for a file that is damaged, or whose model is not recognised; for a vocabulary of
        another size; and for a folder that holds a run. Nothing is written then.
    """
    with _prefixed(path):
        run = _read(_open_safetensors(path), vocabulary, tokens, tell)
    return run if folder is None else run.save(folder)


def read_pt(
    path: Path,
    folder: Path | None = None,
    *,
    vocabulary: Path | None = None,
    tokens: str | None = None,
    tell: Tell = print,
) -> Run:
    """Return the run of a .pt file; see `read_safetensors`. Nothing in the file is executed.

    Raises:
      UserError: as `read_safetensors`; for a file that needs classes; and without torch.
    """
    with _prefixed(path):
        run = _read(_open_pt(path), vocabulary, tokens, tell)
    return run if folder is None else run.save(folder)


def _open_safetensors(path: Path) -> TensorFile:
    """Return the tensors and the metadata of a .safetensors file. No tensor is read yet."""
    from safetensors import safe_open

    _check_plain(path)

    def load(name: str) -> np.ndarray:
        with _one_line(path), safe_open(path, framework="numpy") as file:
            return np.asarray(file.get_tensor(name), np.float32)

    tensors: dict[str, Stored] = {}
    # The library checks that the shapes cover the bytes of the file exactly.
    with _one_line(path), safe_open(path, framework="numpy") as file:
        about = dict(file.metadata() or {})
        for name in file.keys():  # noqa: SIM118 (the file is no dictionary)
            _check_name(name)
            view = file.get_slice(name)
            kind = SAFETENSORS_DTYPES.get(view.get_dtype(), view.get_dtype())
            tensors[name] = Stored(tuple(view.get_shape()), kind, functools.partial(load, name))
    return TensorFile(path, tensors, about)


def _open_pt(path: Path) -> TensorFile:
    """Return the tensors of a .pt file, and the other entries of its dictionary."""
    _check_plain(path)
    torch = _torch(path)
    _check_archive(path)
    try:
        # torch warns about damaged files before it refuses them.
        with warnings.catch_warnings(action="ignore"):
            # Nothing of the file is executed: other classes than tensors and containers are errors.
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise errors of many types
        raise _unreadable(path, error) from None
    state, about = _find_state_dict(path, content, torch.Tensor)
    tensors = {name: _stored(name, tensor, torch) for name, tensor in state.items()}
    return TensorFile(path, tensors, about)


def _check_plain(path: Path) -> None:
    """Raise UserError for a name that promises a compressed file."""
    if path.suffix == ".gz":
        raise UserError(f"{path}: weights are not compressed: leave out .gz")


def _check_archive(path: Path) -> None:
    """Raise UserError for a file that cannot be opened, and for a zip file with compressed entries.

    PyTorch stores entries as they are. A small compressed entry could fill the memory.
    """
    try:
        with open(path, "rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"
            if not is_zip:
                return
            with zipfile.ZipFile(file) as archive:
                entries = archive.infolist()
            size = path.stat().st_size
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from None
    except Exception as error:  # zipfile raises errors of many types for damaged files
        raise UserError(f"{path} is a damaged .pt file: {_why(error)}") from None
    packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if packed or sum(entry.file_size for entry in entries) > size:
        raise UserError(f"{path} is no file of PyTorch: an entry is larger than the file holds")


def _check_name(name: str) -> None:
    """Raise UserError for a name that a terminal could not show as one line."""
    if not name.isprintable() or len(name) > LONGEST_NAME:
        shown = repr(name[:60])
        raise UserError(f"the name of a tensor is no plain text of a line: {shown}")


def _find_state_dict(path: Path, content: Any, tensor: type) -> tuple[dict[str, Any], Any]:
    """Return the weights of a .pt file by name, and the other entries of the dictionary.

    Raises:
      UserError: if there are no weights, or weights under several names.
    """

    def is_state(value: Any) -> bool:
        return (
            isinstance(value, dict)
            and len(value) > 0
            and all(
                isinstance(name, str) and isinstance(item, tensor) for name, item in value.items()
            )
        )

    if is_state(content):
        return dict(content), {}
    if isinstance(content, dict):
        found = [name for name, value in content.items() if is_state(value)]
        known = [name for name in STATE_DICTS if name in found]
        if known or len(found) == 1:
            name = (known or found)[0]
            about = {key: value for key, value in content.items() if key != name}
            return dict(content[name]), about
        if found:
            raise UserError(
                f"{path} has weights in several entries, {', '.join(map(str, found[:6]))}: keep "
                f"one, by torch.save(torch.load(FILE)[ENTRY], NEW)"
            )
        shown = ", ".join(str(name)[:40] for name in list(content)[:6]) or "nothing"
        what = f"a dictionary with {shown}"
    else:
        what = f"a {type(content).__name__}"
    raise UserError(f"{path} holds no state_dict, tensors by name, but {what}")


def _stored(name: str, tensor: Any, torch: Any) -> Stored:
    """Return a tensor of PyTorch.

    Raises:
      UserError: for a tensor with more numbers than the file holds for it, and a sparse tensor.
    """
    _check_name(name)
    kind = str(tensor.dtype).removeprefix("torch.")
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise UserError(
            f"the tensor {name} is {tensor.layout} on {tensor.device}, not plain numbers"
        )
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise UserError(
            f"the tensor {name} {list(tensor.shape)} has more numbers than the file holds for it"
        )

    def load() -> np.ndarray:
        array: np.ndarray = tensor.detach().to(torch.float32).contiguous().numpy()
        return array

    return Stored(tuple(tensor.shape), kind, load)


def _unreadable(path: Path, error: Exception) -> UserError:
    """Return the error for a .pt file that torch.load(weights_only=True) refuses."""
    text = str(error)
    _, _, after = text.partition("GLOBAL ")
    if not after:
        # torch's own advice, to read the file with weights_only=False, would run it.
        why = re.sub(r"(?s)^Weights only load failed.*?(WeightsUnpickler error: |\n\n\n)", "", text)
        why = why.partition("Check the documentation")[0].strip()
        if not why or why.startswith("Weights only load failed"):
            why = "not weights alone"
        return UserError(f"{path} is a damaged .pt file, or none: {' '.join(why.split())[:160]}")
    needed = repr(after.split()[0].rstrip(".,")[:80])[1:-1]
    # A whole module, as colorlessgreenRNNs saves it, or a dictionary with classes, as flair's.
    weights = '["state_dict"]' if needed.startswith("flair.") else ".state_dict()"
    return UserError(
        f"{path} needs the code of {needed}, and reading that could run anything, so it was not "
        f"read. If you trust the file, save its weights with PyTorch, "
        f"torch.save(torch.load(FILE, weights_only=False){weights}, 'weights.pt'), and convert "
        f"weights.pt with `vocabulary`"
    )


def _torch(path: Path) -> Any:
    """Return the library torch."""
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{path}: .pt files need PyTorch: pip install torch, or use .safetensors"
        ) from None
    return torch


# From tensors to a run.


def _read(file: TensorFile, vocabulary: Path | None, tokens: str | None, tell: Tell) -> Run:
    """Return the run of the content of a file."""
    if CONFIG not in file.about:
        return _foreign_run(file, vocabulary, tokens, tell)
    for name, value in (("vocabulary", vocabulary), ("tokens", tokens)):
        if value is not None:
            why = "has no effect: the file is by jaxlm, and has its tokenizer"
            raise SettingError(name, value, why)
    return _own_run(file)


def _own_run(file: TensorFile) -> Run:
    """Return the run of a file that jaxlm wrote."""

    def read(name: str) -> Any:
        text = file.about.get(name)
        if not isinstance(text, str):
            raise UserError(f"the entry {name} is missing, or no text")
        return parse_json(text, name)

    settings, tokenizer = described(
        str(file.path), lambda: (read(CONFIG), lambda: from_saved(read(TOKENIZER)))
    )
    check_registered(file.path, settings["model"])
    protocol = Protocol.from_json(settings["protocol"])
    model = described_model(file.path, settings, tokenizer.vocabulary)
    expected = tensor_shapes(model, with_start=True)
    arrays = _load(file, {name: name for name in file.tensors}, expected)
    try:
        step = int(str(file.about.get(STEP, "0"))[:20])
    except ValueError:
        raise UserError(f"the entry {STEP} of the file is no number") from None
    if not 0 <= step < 1 << 31:
        raise UserError(f"the entry {STEP} of the file is {step}: expected a train step")
    return _make_run(model, arrays, tokenizer, protocol, settings, step)


def _foreign_run(file: TensorFile, vocabulary: Path | None, tokens: str | None, tell: Tell) -> Run:
    """Return the run of a file of another program."""
    layout = recognise(file.tensors)
    V = layout.vocab_size
    stanza = _stanza_tokens(file)
    if stanza is not None:
        for name, value in (("vocabulary", vocabulary), ("tokens", tokens)):
            if value is not None:
                raise SettingError(name, value, "has no effect: the file has its characters")
        kind, listed = "chars", stanza
    elif vocabulary is None:
        raise SettingError(
            "vocabulary",
            "none",
            f"the file has weights of {V:,} tokens and no vocabulary: give a file with the tokens "
            f"in the order of their ids, one a line, or a JSON list",
        )
    else:
        kind = "words" if tokens is None else tokens
        listed = read_vocabulary(Path(vocabulary), kind)
    if len(listed) != V:
        origin = "the file" if vocabulary is None else str(vocabulary)
        raise UserError(
            f"{origin} lists {len(listed):,} tokens, and the embedding has {V:,} rows: give the "
            f"vocabulary that the model was trained with"
        )
    tokenizer, protocol, told = make_tokenizer(listed, kind)
    words = tokenizer.vocabulary
    model = make_model(layout.model, layout.network, V, words.start_id)
    names = {name: source.name for name, source in layout.sources.items()}
    arrays = _load(file, names, tensor_shapes(model, with_start=True), layout)
    _, network = describe_model(model)
    settings = {
        "model": layout.model,
        "network": network,
        "protocol": protocol.as_json(),
        "file": str(file.path),
    }
    run = _make_run(model, arrays, tokenizer, protocol, settings, 0)
    for line in (*_lines_of(file, layout), *told):
        tell(line)
    return run


def _load(
    file: TensorFile,
    names: Mapping[str, str | None],
    expected: Mapping[str, tuple[int, ...]],
    layout: Layout | None = None,
) -> dict[str, np.ndarray]:
    """Return the tensors of a model by name, after a check of names and shapes.

    Args:
      file: the file.
      names: the tensor of the file for each tensor of the model; None for zeros.
      expected: the shape of each tensor of the model.
      layout: the layout of a foreign file, whose tensors may hold all layers.
    """
    arrays: dict[str, np.ndarray] = {}
    missing = [name for name in expected if name not in names]
    if missing:
        raise UserError(f"the tensor {missing[0]} {list(expected[missing[0]])} is missing")
    for name, source in names.items():
        if source is None:
            arrays[name] = np.zeros(expected[name], np.float32)
            continue
        tensor = file.tensors[source]
        if tensor.dtype not in FLOATS:
            choices = ", ".join(FLOATS)
            raise UserError(f"the tensor {source} has the dtype {tensor.dtype}: expected {choices}")
        index = layout.sources[name].layer if layout is not None else None
        if index is None and name in expected and tensor.shape != expected[name]:
            # Before the numbers are read.
            raise UserError(
                f"the tensor {source} has the shape {tensor}, not {list(expected[name])}"
            )
        if name not in expected:
            raise UserError(f"the tensor {source} {tensor} is not of this model")
        with np.errstate(all="ignore"):
            array = tensor.load()
        if not np.isfinite(array).all():
            raise UserError(
                f"the tensor {source} has a number that is infinite in float32, or not a number "
                f"(NaN)"
            )
        arrays[name] = array if index is None else array[index].reshape(expected[name])
    return arrays


def _make_run(
    model: Any,
    arrays: dict[str, np.ndarray],
    tokenizer: Tokenizer,
    protocol: Protocol,
    settings: dict[str, Any],
    step: int,
) -> Run:
    """Return a run of these tensors."""
    import jax
    import jax.numpy as jnp

    params = jax.tree.map(jnp.asarray, from_torch(model, arrays, with_start=True))
    return Run(model, params, tokenizer, protocol, settings, None, step)


def _lines_of(file: TensorFile, layout: Layout) -> Iterator[str]:
    """Yield lines that tell the layout, what each tensor became, and what was assumed."""
    yield f"layout: {layout.title}; read as {layout.model}"
    width = max(map(len, layout.sources))
    for name, source in layout.sources.items():
        shape = "" if source.name is None else f" {file.tensors[source.name]}"
        yield f"  {name:{width}} <- {source}{shape}"
    others = sorted({tensor.dtype for tensor in file.tensors.values()} - {"float32"})
    if others:
        yield f"note: {', '.join(others)} became float32"
    for note in layout.notes:
        yield f"note: {note}"


# Files of Stanza.


def _stanza_tokens(file: TensorFile) -> list[str] | None:
    """Return the characters of a file of Stanza, by id; None for a file of another program.

    Raises:
      UserError: for a model that reads from right to left, and a damaged vocabulary.
    """
    about = file.about
    # flair's models have this entry too.
    if about.get("is_forward_lm", True) is not True:
        raise UserError(
            "the model reads text from right to left (is_forward_lm is False), and jaxlm reads "
            "from left to right: its scores would have no meaning; take the forward model"
        )
    vocab = about.get("vocab")
    if not (isinstance(vocab, dict) and "_id2unit" in vocab and "args" in about):
        return None
    units = vocab["_id2unit"]
    if not isinstance(units, list) or not all(isinstance(unit, str) for unit in units):
        raise UserError("the entry vocab of the file has no list _id2unit of characters")
    if vocab.get("lower"):
        raise UserError("the vocabulary is of lower-cased text (`lower`), which jaxlm cannot do")
    return units


# Errors.


@contextlib.contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Within this context, an error of the library safetensors becomes a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from None
    except UserError:
        raise
    except Exception as error:  # the library has an error type of its own, and NumPy others
        raise UserError(
            f"{path} is a damaged .safetensors file: {_why(error)}; copy or export it again"
        ) from None


@contextlib.contextmanager
def _prefixed(path: Path) -> Iterator[None]:
    """Within this context, the name of the file is put before a UserError that lacks it."""
    try:
        yield
    except SettingError:
        raise
    except UserError as error:
        # An entry of a .pt file may have line breaks in its name.
        line = " ".join(str(error).split())
        raise UserError(line if str(path) in line else f"{path}: {line}") from None


def _why(error: BaseException) -> str:
    """Return the reason of an error in one line."""
    return " ".join(str(error).split())[:160] or type(error).__name__
