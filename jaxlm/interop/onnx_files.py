"""Runs as ONNX files, which onnxruntime, browsers and phones read."""

import importlib.util
from pathlib import Path
from typing import NoReturn

from jaxlm.errors import UserError
from jaxlm.interop.description import check_by_gradient
from jaxlm.interop.files import create
from jaxlm.runs.run import Run


def export_onnx(run: Run, path: str | Path) -> None:
    """Write a recurrent model or an NPLM as an ONNX file.

    Each layer is one native operator, LSTM, GRU or RNN, and the state goes in and out of each call.
    See `jaxlm.interop.onnx_graph.make_model` for the inputs, the outputs and the metadata.

    Raises:
      UserError: for a model that has no native operators, for parameters above 2 GB, if onnx is not
        installed, and if the file cannot be written.
    """
    path = Path(path)
    if path.suffix == ".gz":
        raise UserError(
            f"{path}: no engine reads a compressed ONNX file; let the name end in .onnx"
        )
    check_by_gradient(run, "ONNX has no operator for them; write it as an ARPA file, x.arpa")
    if importlib.util.find_spec("onnx") is None:
        raise UserError("ONNX files need the library onnx: pip install onnx")
    # Imports onnx and JAX.
    from jaxlm.interop.onnx_graph import make_model

    content = make_model(run).SerializeToString()
    with create(path) as file:
        file.write(content)


def import_onnx(path: str | Path, folder: str | Path | None = None) -> NoReturn:
    """Raise UserError: an ONNX file is a program, from which no run is made."""
    raise UserError(
        f"{path}: ONNX files can be written, but not read: they hold a program, not a model that "
        f"could be trained further. Read the run's folder, a safetensors file or an ARPA file"
    )
