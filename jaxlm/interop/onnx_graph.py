"""Recurrent models and NPLMs as ONNX graphs with native operators.

A graph has the inputs tokens [B, T] and one array for each part of the state, and the outputs
logits [B, T, V] and the new state. B and T may be any numbers of at least 1 in each call.

    rnn, gru   h_0, h_1, ...                 float32 [B, H]
    lstm       h_0, c_0, h_1, c_1, ...       float32 [B, H]
    nplm       window                        int64 [B, n - 1], the last n - 1 tokens

An array of the state goes out under its name and `_out`. Source: the ONNX operators LSTM-14,
GRU-14, RNN-14 and LayerNormalization-17, https://onnx.ai/onnx/operators.
"""

import json
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxlm.errors import UserError
from jaxlm.interop.description import (
    State,
    description_of,
    initial_value,
    model_name,
)
from jaxlm.models.cells import CELLS, Cell
from jaxlm.models.nplm import NPLM
from jaxlm.models.recurrent.model import GRU, LSTM, RNN, Recurrent
from jaxlm.runs.run import Run

if TYPE_CHECKING:
    import onnx

# The first opset with LayerNormalization, and the file version that goes with it. onnxruntime 1.14
# (2023) and later read it, and so does onnxruntime-web.
OPSET, IR_VERSION = 17, 8
# The protobuf format, in which ONNX files are written, holds at most 2 GiB. A mebibyte is left for
# the graph, besides the tokenizer.
LARGEST_FILE = (1 << 31) - (1 << 20)
EPSILON = 1e-6
"""The number that flax.linen.LayerNorm adds to the variance."""
OUTPUT_SUFFIX = "_out"
"""An output that is an input of the next call has the name of the input and this suffix."""
TOKENS, LOGITS, WINDOW = "tokens", "logits", "window"
INT64_MAX = np.iinfo(np.int64).max


class Operator(NamedTuple):
    """The native operator of a cell."""

    name: str
    """The name of the operator."""
    gates: tuple[int, ...]
    """The gates in the order of the operator, as indices into the gates of the cell."""
    attributes: dict[str, Any]
    """The attributes of the operator besides its number of units."""


OPERATORS: dict[str, Operator] = {
    # jaxlm's gates are i, f, g, o; ONNX's are i, o, f, c, where c is g.
    "lstm": Operator("LSTM", (0, 3, 1, 2), {}),
    # jaxlm's gates are r, z, n; ONNX's are z, r, h, where h is n. The recurrent bias is inside the
    # product with the reset gate.
    "gru": Operator("GRU", (1, 0, 2), {"linear_before_reset": 1}),
    "rnn": Operator("RNN", (0,), {}),
}
"""The native operators by the name of the cell."""


class Node(NamedTuple):
    """One operator of a graph."""

    operator: str
    """The name of the operator, such as "LSTM"."""
    inputs: tuple[str, ...]
    """The names of its inputs; an empty name leaves an input out."""
    outputs: tuple[str, ...]
    """The names of its outputs."""
    attributes: dict[str, Any]
    """The attributes of the operator by name."""


class Graph:
    """An ONNX graph that grows by one operator at a time.

    Example:
      >>> graph = Graph()
      >>> y = graph.add("Add", "x", graph.constant("one", np.float32(1)))
      >>> [node.operator for node in graph.nodes], list(graph.constants)
      (['Add'], ['one'])
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}

    def constant(self, name: str, value: Any) -> str:
        """Add a constant array, and return its name."""
        self.constants[name] = np.ascontiguousarray(value)
        return name

    def integers(self, *values: int) -> str:
        """Return the name of a constant int64 [N]."""
        name = "integers_" + "_".join(map(str, values))
        return self.constant(name, np.array(values, np.int64))

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add an operator with one output, and return the output's name."""
        return self.add_many(operator, inputs, (output,), **attributes)[0]

    def add_many(
        self, operator: str, inputs: tuple[str, ...], outputs: tuple[str, ...], **attributes: Any
    ) -> tuple[str, ...]:
        """Add an operator with several outputs, and return their names; an empty name is made."""
        count = len(self.nodes)
        names = tuple(
            name or f"{operator.lower()}_{count}_{index}" for index, name in enumerate(outputs)
        )
        self.nodes.append(Node(operator, inputs, names, attributes))
        return names


def make_model(run: Run) -> "onnx.ModelProto":
    """Return a run as an ONNX model, which has passed ONNX's own checker.

    Products are float32, whatever dtype the run was trained in. The metadata (`metadata_props`)
    has the entries of `description_of`, each as JSON.

    Raises:
      UserError: for a model or an output layer that has no native operators, and for parameters
        above 2 GB.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model: Any = run.model
    write = _writer_of(run)
    _check_size(run)
    params = _as_numpy(run.params)
    graph = Graph()
    states = write(graph, model, params)
    description = description_of(run, states, OUTPUT_SUFFIX)
    dtypes = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    # An axis that has a name may have any size.
    batch: Any = "batch"
    time: Any = "time"
    inputs = [helper.make_tensor_value_info(TOKENS, TensorProto.INT64, [batch, time])]
    outputs = [
        helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, [batch, time, model.vocab_size])
    ]
    for state in states:
        shape, dtype = [batch, *state.shape], dtypes[state.dtype]
        inputs.append(helper.make_tensor_value_info(state.name, dtype, shape))
        outputs.append(helper.make_tensor_value_info(state.name + OUTPUT_SUFFIX, dtype, shape))
    nodes = [
        helper.make_node(
            node.operator,
            node.inputs,
            node.outputs,
            f"{node.operator}_{number}",
            **node.attributes,
        )
        for number, node in enumerate(graph.nodes)
    ]
    constants = [numpy_helper.from_array(array, name) for name, array in graph.constants.items()]
    made = helper.make_model(
        helper.make_graph(nodes, model_name(model), inputs, outputs, constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="jaxlm",
        doc_string="A language model: tokens in, logits of the next token out, and its state.",
    )
    texts = {name: json.dumps(value, ensure_ascii=False) for name, value in description.items()}
    helper.set_model_props(made, texts)
    onnx.checker.check_model(made, full_check=True)
    return made


def _check_size(run: Run) -> None:
    """Raise UserError if the parameters of a run do not fit into one file."""
    import jax

    size = sum(4 * math.prod(np.shape(array)) for array in jax.tree.leaves(run.params))
    if size > LARGEST_FILE:
        raise UserError(
            f"{run.name} has {size / 1e9:,.1f} GB of parameters, and an ONNX file holds at most 2 "
            f"GB: write the `format` stablehlo"
        )


def _as_numpy(params: Any) -> Any:
    """Return a tree of float32 NumPy arrays."""
    import jax

    return jax.tree.map(lambda array: np.asarray(array, np.float32), params)


Writer = Callable[[Graph, Any, Any], list[State]]
"""writer(graph, model, params) adds a model's operators to the graph, and returns its state."""


def _writer_of(run: Run) -> Writer:
    """Return the function that writes the model of a run.

    Raises:
      UserError: for a model without native operators. A subclass may compute something else than
        its base class, so only the classes of WRITERS themselves are written.
    """
    model: Any = run.model
    remedy = (
        f"ONNX files hold {', '.join(OPERATORS)} and nplm with `softmax` full or sampled; write "
        f"the `format` stablehlo, which holds every neural model"
    )
    write = WRITERS.get(type(model))
    if write is None or (isinstance(model, Recurrent) and _cell_name(model.cell) is None):
        raise UserError(
            f"{run.name}: ONNX has no operator for the model {model_name(model)}; {remedy}"
        )
    if model.softmax not in ("full", "sampled"):
        raise UserError(f"{run.name} has the output layer {model.softmax}; {remedy}")
    return write


def _cell_name(cell: Cell) -> str | None:
    """Return the name of a cell in OPERATORS; None if it has no operator."""
    return next((name for name in OPERATORS if CELLS[name] == cell), None)


def _write_recurrent(graph: Graph, model: Recurrent, params: Any) -> list[State]:
    """Add the operators of a recurrent model. The operators of ONNX read [T, B, D]."""
    embedding = graph.constant("embedding", params["embedding"]["embedding"])
    tokens_TB = graph.add("Transpose", TOKENS, perm=[1, 0])
    h_TBF = graph.add("Gather", embedding, tokens_TB, axis=0)
    features, states = model.embedding_size, []
    for index, size in enumerate(model.sizes):
        x_TBF = _norm(graph, params, index, h_TBF) if model.layer_norm else h_TBF
        new_TBH = _recurrent_layer(graph, model, params[f"layers_{index}"], index, x_TBF)
        skips = model.residual and size == features
        h_TBF = graph.add("Add", h_TBF, new_TBH) if skips else new_TBH
        features = size
        # A model whose initial state is learned has it among its parameters.
        learned = params.get("start", {})
        for name in model.cell.carry:
            initial = initial_value(learned.get(f"{index}_{name}", np.zeros(size)))
            states.append(State(f"{name}_{index}", (size,), "float32", initial))
    if model.layer_norm:
        h_TBF = _norm(graph, params, len(model.sizes), h_TBF)
    _output(graph, params, graph.add("Transpose", h_TBF, perm=[1, 0, 2]))
    return states


def _recurrent_layer(graph: Graph, model: Recurrent, params: Any, index: int, x_TBF: str) -> str:
    """Add one native operator, and return the name of its output [T, B, H].

    The operator's matrices have an axis of size 1 in front, for its single direction.
    """
    name = _cell_name(model.cell)
    assert name is not None
    operator, size = OPERATORS[name], model.sizes[index]

    def by_gate(array: np.ndarray) -> np.ndarray:
        """Return [G] or [G, in], the gates in the order of the operator."""
        gates = array.reshape(len(operator.gates), size, -1)[list(operator.gates)]
        return gates.reshape(len(operator.gates) * size, *array.shape[1:])

    bias_G = params["input"]["bias"]
    recurrent_bias_G = params["recurrent"].get("bias", np.zeros_like(bias_G))
    biases_1G = np.concatenate([by_gate(bias_G), by_gate(recurrent_bias_G)])[None]
    weights = (
        graph.constant(f"layers_{index}.W", by_gate(params["input"]["kernel"].T)[None]),
        graph.constant(f"layers_{index}.R", by_gate(params["recurrent"]["kernel"].T)[None]),
        graph.constant(f"layers_{index}.B", biases_1G),
    )
    axis = graph.integers(0)
    carry = [graph.add("Unsqueeze", f"{part}_{index}", axis) for part in model.cell.carry]
    # The empty input: all sequences of a batch have the same length.
    h_T1BH, *last = graph.add_many(
        operator.name,
        (x_TBF, *weights, "", *carry),
        ("",) * (1 + len(carry)),
        hidden_size=size,
        **operator.attributes,
    )
    for part, last_1BH in zip(model.cell.carry, last, strict=True):
        graph.add("Squeeze", last_1BH, axis, output=f"{part}_{index}{OUTPUT_SUFFIX}")
    return graph.add("Squeeze", h_T1BH, graph.integers(1))


def _write_nplm(graph: Graph, model: NPLM, params: Any) -> list[State]:
    """Add the operators of an NPLM."""
    embedding = graph.constant("embedding", params["embedding"]["embedding"])
    before, states = model.n_step - 1, []
    seen_BS = TOKENS
    if before:
        states.append(State(WINDOW, (before,), "int64", model.filler_id))
        seen_BS = graph.add("Concat", WINDOW, TOKENS, axis=1)
        _slice(graph, seen_BS, -before, INT64_MAX, output=WINDOW + OUTPUT_SUFFIX)
    words_BSD = graph.add("Gather", embedding, seen_BS, axis=0)
    # The n-th word of each window; the last position of a window is the last token.
    words = [
        _slice(graph, words_BSD, n, n - before if n < before else INT64_MAX)
        for n in range(model.n_step)
    ]
    x_BTX = graph.add("Concat", *words, axis=2)
    parts = []
    if model.hidden_size:
        a_BTH = graph.add("Tanh", _affine(graph, params["hidden"], "hidden", x_BTX))
        for index in range(1, model.num_layers):
            name = f"hidden_{index}"
            input_BTH = _norm(graph, params, index - 1, a_BTH) if model.layer_norm else a_BTH
            new_BTH = graph.add("Tanh", _affine(graph, params[name], name, input_BTH))
            a_BTH = graph.add("Add", a_BTH, new_BTH) if model.residual else new_BTH
        if model.layer_norm:
            a_BTH = _norm(graph, params, model.num_layers - 1, a_BTH)
        parts.append(a_BTH)
    if model.direct:
        parts.append(x_BTX)
    _output(graph, params, graph.add("Concat", *parts, axis=2) if len(parts) > 1 else parts[0])
    return states


def _slice(graph: Graph, array: str, start: int, end: int, output: str = "") -> str:
    """Add array[:, start:end], and return its name."""
    inputs = array, graph.integers(start), graph.integers(end), graph.integers(1)
    return graph.add("Slice", *inputs, output=output)


def _affine(graph: Graph, params: Any, name: str, x_BTF: str) -> str:
    """Add W x + b, and return its name."""
    kernel = graph.constant(f"{name}.kernel", params["kernel"])
    bias = graph.constant(f"{name}.bias", params["bias"])
    return graph.add("Add", graph.add("MatMul", x_BTF, kernel), bias)


def _norm(graph: Graph, params: Any, index: int, x: str) -> str:
    """Add the LayerNorm norms_INDEX, and return the name of its output."""
    name = f"norms_{index}"
    scale = graph.constant(f"{name}.scale", params[name]["scale"])
    bias = graph.constant(f"{name}.bias", params[name]["bias"])
    return graph.add("LayerNormalization", x, scale, bias, axis=-1, epsilon=EPSILON)


def _output(graph: Graph, params: Any, h_BTF: str) -> None:
    """Add the output layer, which reads [B, T, F]; a tied layer shares the embedding's numbers."""
    output = params["output"]
    if "project" in output:
        h_BTF = graph.add("MatMul", h_BTF, graph.constant("output.project", output["project"]))
    if "kernel" in output:
        kernel = graph.constant("output.kernel", output["kernel"])
    else:
        # An engine transposes a constant once, when it loads the file.
        kernel = graph.add("Transpose", "embedding", perm=[1, 0])
    bias = graph.constant("output.bias", output["bias"])
    graph.add("Add", graph.add("MatMul", h_BTF, kernel), bias, output=LOGITS)


WRITERS: dict[type, Writer] = {
    Recurrent: _write_recurrent,
    RNN: _write_recurrent,
    GRU: _write_recurrent,
    LSTM: _write_recurrent,
    NPLM: _write_nplm,
}
"""The function that writes a model, by the model's class."""
