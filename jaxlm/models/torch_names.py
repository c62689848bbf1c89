"""The parameters of a model by the names and in the layout of PyTorch."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxlm.errors import UserError, nearest
from jaxlm.models.cells import CELLS
from jaxlm.models.neural import param_shapes
from jaxlm.models.nplm import NPLM
from jaxlm.models.recurrent.model import GRU, LSTM, RNN, Recurrent
from jaxlm.models.registry import name_of

Tensors = dict[str, np.ndarray]
"""Tensors by their PyTorch names, float32."""


class Entry(NamedTuple):
    """One parameter of jaxlm, and the PyTorch tensors that hold it."""

    path: tuple[str, ...]
    """Path of the parameter, such as ("output", "kernel")."""
    names: tuple[str, ...]
    """Names of the tensors, such as ("decoder.weight",)."""
    write: Callable[[np.ndarray], tuple[np.ndarray, ...]]
    """The tensors of a parameter."""
    read: Callable[..., np.ndarray]
    """The parameter of these tensors."""


def to_torch(model: Any, params: Any, with_start: bool = False) -> Tensors:
    """Return the parameters of a model as PyTorch tensors by name, float32 NumPy arrays.

    A matrix of PyTorch is [out, in], the transpose of the kernel [in, out]. The gates have one
    order in both: i, f, g, o in an LSTM, and r, z, n in a GRU. V is the vocabulary size, D the
    embedding size, H the units of a layer, G its gates times H, F the features that the output
    layer reads.

        every model           encoder.weight [V, D]     decoder.weight [V, F]    decoder.bias [V]
        tied                  no decoder.weight; project.weight [D, F] if F differs from D
        rnn, gru, lstm        rnn.weight_ih_lK [G, in]   rnn.weight_hh_lK [G, H]   layer K = 0 ...
                              rnn.bias_ih_lK [G]         rnn.bias_hh_lK [G]
          layers of different sizes: rnns.K.weight_ih_l0, and so on
          layer_norm: norms.K.weight, norms.K.bias
          learned_start: start.K.h, and start.K.c of an LSTM [H]; needs `with_start`
        nplm                  hidden.K.weight, hidden.K.bias; hidden.0 reads the window [n D]
          direct: direct.weight [V, n D]        layer_norm: norms.K.weight, norms.K.bias

    `nn.RNN` and `nn.LSTM` have two biases, which occur only as a sum. bias_ih is jaxlm's bias, and
    bias_hh is zero. `nn.GRU` needs both.

    Example:
      >>> import jax, jaxlm
      >>> model = jaxlm.LSTM(vocab_size=7, embedding_size=2, hidden_size=3)
      >>> params = model.init(jax.random.key(0), jax.numpy.zeros((1, 1), "int32"))["params"]
      >>> tensors = to_torch(model, params)
      >>> tensors["rnn.weight_ih_l0"].shape, sorted(tensors)[:3]
      ((12, 2), ['decoder.bias', 'decoder.weight', 'encoder.weight'])

    Args:
      model: RNN, GRU, LSTM or NPLM with a full or sampled softmax.
      params: its parameters.
      with_start: whether the reader of the tensors knows a learned state before a text. A reader
        that starts from zeros would compute something else.
    Raises:
      UserError: for another model.
    """
    tensors: Tensors = {}
    for entry in entries(model, with_start):
        array = params
        for key in entry.path:
            array = array[key]
        written = entry.write(np.asarray(array, np.float32))
        tensors |= zip(entry.names, map(np.ascontiguousarray, written), strict=True)
    return tensors


def from_torch(model: Any, tensors: Mapping[str, np.ndarray], with_start: bool = False) -> Any:
    """Return the parameters of a model from PyTorch tensors; the inverse of `to_torch`.

    Example:
      >>> import jax, jaxlm
      >>> model = jaxlm.GRU(vocab_size=7, embedding_size=2, hidden_size=3)
      >>> params = model.init(jax.random.key(0), jax.numpy.zeros((1, 1), "int32"))["params"]
      >>> back = from_torch(model, to_torch(model, params))
      >>> bool(jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), params, back)))
      True

    Args:
      model: RNN, GRU, LSTM or NPLM with a full or sampled softmax.
      tensors: tensors by name, of any float dtype.
      with_start: whether there may be a learned state before a text; see `to_torch`.
    Returns:
      The parameters, float32 NumPy arrays.
    Raises:
      UserError: for another model; for a tensor that is missing, unknown, of another shape or of
        another kind than float; and for a number that is not finite.
    """
    shapes = tensor_shapes(model, with_start)
    for name in tensors:
        if name not in shapes:
            close = nearest(name, shapes)
            raise UserError(f"unknown tensor {name}: expected {', '.join(close or shapes)}")
    for name, shape in shapes.items():
        _check(name, shape, tensors.get(name))
    params: dict[str, Any] = {}
    for entry in entries(model, with_start):
        arrays = (np.asarray(tensors[name]).astype(np.float32) for name in entry.names)
        inner = params
        for key in entry.path[:-1]:
            inner = inner.setdefault(key, {})
        inner[entry.path[-1]] = np.ascontiguousarray(entry.read(*arrays))
    return params


def tensor_shapes(model: Any, with_start: bool = False) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of `to_torch` by name. No array of these shapes is made.

    Raises:
      UserError: for a model that `to_torch` cannot write.
    """
    listed, params = entries(model, with_start), param_shapes(model)
    shapes: dict[str, tuple[int, ...]] = {}
    for entry in listed:
        struct = params
        for key in entry.path:
            struct = struct[key]
        # An array of one number that is shown with this shape.
        written = entry.write(np.broadcast_to(np.float32(0), struct.shape))
        shapes |= {name: array.shape for name, array in zip(entry.names, written, strict=True)}
    return shapes


def entries(model: Any, with_start: bool = False) -> list[Entry]:
    """Return every parameter of a model with its tensors.

    Raises:
      UserError: for a model that `to_torch` cannot write.
    """
    # A subclass may have other parameters.
    layout = LAYOUTS.get(type(model))
    if layout is None:
        raise _unsupported(model, f"the class {type(model).__name__}")
    if model.softmax not in ("full", "sampled"):
        raise _unsupported(model, f"`softmax` {model.softmax}")
    if model.adaptive_input:
        raise _unsupported(model, "`adaptive_input`")
    if getattr(model, "learned_start", False) and not with_start:
        raise UserError(
            "this format has no place for a learned state before a text (`learned_start`): write a "
            ".safetensors or .pt file"
        )
    return list(layout(model))


def _recurrent(model: Recurrent) -> Iterator[Entry]:
    """Yield the parameters of a recurrent model."""
    if model.cell not in TORCH_CELLS.values():
        raise _unsupported(model, f"the cell {type(model.cell).__name__}")
    yield Entry(("embedding", "embedding"), ("encoder.weight",), _same, _one)
    sizes = model.sizes
    one_size = len(set(sizes)) == 1
    for index in range(len(sizes)):
        layer = f"layers_{index}"
        pattern = f"rnn.{{}}_l{index}" if one_size else f"rnns.{index}.{{}}_l0"
        names = {kind: pattern.format(kind) for kind in WEIGHTS}
        yield Entry((layer, "input", "kernel"), (names["weight_ih"],), _transposed, _transpose)
        yield Entry((layer, "recurrent", "kernel"), (names["weight_hh"],), _transposed, _transpose)
        biases = names["bias_ih"], names["bias_hh"]
        if model.cell.recurrent_bias:
            yield Entry((layer, "input", "bias"), biases[:1], _same, _one)
            yield Entry((layer, "recurrent", "bias"), biases[1:], _same, _one)
        else:
            yield Entry((layer, "input", "bias"), biases, _with_zeros, _sum)
        for name in model.cell.carry if model.learned_start else ():
            yield Entry(("start", f"{index}_{name}"), (f"start.{index}.{name}",), _same, _one)
    yield from _norms(model, len(sizes) + 1)
    yield from _output(model, sizes[-1])


def _nplm(model: NPLM) -> Iterator[Entry]:
    """Yield the parameters of an NPLM."""
    yield Entry(("embedding", "embedding"), ("encoder.weight",), _same, _one)
    for index in range(model.num_layers if model.hidden_size else 0):
        name = f"hidden_{index}" if index else "hidden"
        yield Entry((name, "kernel"), (f"hidden.{index}.weight",), _transposed, _transpose)
        yield Entry((name, "bias"), (f"hidden.{index}.bias",), _same, _one)
    yield from _norms(model, model.num_layers)
    if not model.direct:
        yield from _output(model, model.hidden_size)
        return
    yield Entry(("output", "bias"), ("decoder.bias",), _same, _one)
    if not model.hidden_size:
        yield Entry(("output", "kernel"), ("direct.weight",), _transposed, _transpose)
        return
    H = model.hidden_size

    def split(kernel_FV: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return kernel_FV[:H].T, kernel_FV[H:].T

    def join(decoder_VH: np.ndarray, direct_VX: np.ndarray) -> np.ndarray:
        return np.concatenate([decoder_VH.T, direct_VX.T])

    yield Entry(("output", "kernel"), ("decoder.weight", "direct.weight"), split, join)


def _norms(model: Any, count: int) -> Iterator[Entry]:
    """Yield the scale and the bias of each LayerNorm."""
    for index in range(count if model.layer_norm else 0):
        yield Entry((f"norms_{index}", "scale"), (f"norms.{index}.weight",), _same, _one)
        yield Entry((f"norms_{index}", "bias"), (f"norms.{index}.bias",), _same, _one)


def _output(model: Any, features: int) -> Iterator[Entry]:
    """Yield the parameters of an output layer that reads `features` features."""
    yield Entry(("output", "bias"), ("decoder.bias",), _same, _one)
    if not model.tied:
        yield Entry(("output", "kernel"), ("decoder.weight",), _transposed, _transpose)
    elif features != model.embedding_size:
        yield Entry(("output", "project"), ("project.weight",), _transposed, _transpose)


TORCH_CELLS = {"RNN": CELLS["rnn"], "GRU": CELLS["gru"], "LSTM": CELLS["lstm"]}
"""The cells that PyTorch has, by the name of the module in torch.nn."""
LAYOUTS: dict[type, Callable[[Any], Iterator[Entry]]] = {
    **dict.fromkeys((Recurrent, RNN, GRU, LSTM), _recurrent),
    NPLM: _nplm,
}
"""The function that yields the parameters of a model, by the class of the model."""
WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
"""Names of the tensors of a layer, without the layer's number."""


def _same(array: np.ndarray) -> tuple[np.ndarray, ...]:
    return (array,)


def _transposed(array: np.ndarray) -> tuple[np.ndarray, ...]:
    return (array.T,)


def _with_zeros(bias_G: np.ndarray) -> tuple[np.ndarray, ...]:
    return bias_G, np.zeros_like(bias_G)


def _sum(bias_G: np.ndarray, second_G: np.ndarray) -> np.ndarray:
    # -0 + 0 would be 0, and not the bytes of -0.
    return bias_G + second_G if second_G.any() else bias_G


def _one(array: np.ndarray) -> np.ndarray:
    return array


def _transpose(array: np.ndarray) -> np.ndarray:
    return array.T


def _check(name: str, shape: tuple[int, ...], tensor: np.ndarray | None) -> None:
    """Raise UserError unless a tensor has this shape, and finite numbers of a float dtype."""
    if tensor is None:
        raise UserError(f"the tensor {name} {list(shape)} is missing")
    if tensor.shape != shape:
        raise UserError(f"the tensor {name} has the shape {list(tensor.shape)}, not {list(shape)}")
    # ml_dtypes, such as bfloat16, are of kind V.
    if tensor.dtype.kind not in "fV":
        raise UserError(f"the tensor {name} has the dtype {tensor.dtype}, not float")
    if not np.isfinite(tensor.astype(np.float32)).all():
        raise UserError(f"the tensor {name} has a number that is infinite or not a number (NaN)")


def _unsupported(model: Any, what: str) -> UserError:
    """Return the error for a model that has no PyTorch layout."""
    name = name_of(model) or type(model).__name__
    return UserError(
        f"{name} with {what} cannot be written as PyTorch tensors: PyTorch layouts exist for rnn, "
        f"gru, lstm and nplm with `softmax` full or sampled, without `adaptive_input`"
    )
