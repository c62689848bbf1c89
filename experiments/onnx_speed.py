"""Time an LSTM in onnxruntime: ONNX's own LSTM operator, and the Loop that a scan becomes.

Command    python experiments/onnx_speed.py
Hardware   one CPU core (Intel Xeon, family 6, model 207, AVX-512), shared
Minutes    2
Expected   microseconds a token of LSTM, Loop and jax2onnx, in steps: 96, 99, 216 (1 x 256);
           375, 436, 746 (2 x 256); 5390, 5301, 8191 (2 x 650, 10,000 words); in chunks of 128:
           24, 48, 57; 39, 75, 88; 866, 955, 1041
Published  none; onnxruntime's issue 27796 says that Loop is slow

Three programs compute the same model, to 1e-5:

    LSTM       the file of `python -m jaxlm.convert RUN x.onnx`
    Loop       the same file, with each LSTM operator replaced by a product W x + b for all time
               steps, and a Loop over time with a product, the gates and the state: what a
               scan of JAX is. It is written by hand, as short as possible
    jax2onnx   `jax2onnx.to_onnx` of jaxlm's own model, if the library is installed

The batch is 1, onnxruntime has one thread, and the programs take turns. A step is a call with one
token, with the state fed back. A chunk is a call with 128 tokens. The numbers are medians over
rounds, in microseconds a token, of the processor time of the thread that calls. This thread does
all of the work, and programs that share the processor change the number little.
"""

import argparse
import importlib.util
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import jaxlm
from jaxlm.interop.onnx_graph import OUTPUT_SUFFIX, make_model

CHUNK, ROUNDS = 128, 25
# Calls in a round: about 50 ms on the slowest program.
CALLS = {1: 50, CHUNK: 2}
MODELS = {
    "1 x 256, 65 characters": (65, 64, 256, 1),
    "2 x 256, 65 characters": (65, 64, 256, 2),
    "2 x 650, 10,000 words": (10_000, 650, 650, 2),
}


def run_of(vocab: int, embedding: int, hidden: int, layers: int) -> jaxlm.Run:
    """Return a run of an LSTM with random parameters."""
    letters = "".join(chr(0x4E00 + index) for index in range(vocab - 1)) + "\n"
    text = jaxlm.read_corpus([letters[:-1]], tokens="chars", fractions=(1.0,))
    size = len(text.vocabulary)
    model = jaxlm.LSTM(
        size, embedding_size=embedding, hidden_size=hidden, num_layers=layers, time_loop="fused"
    )
    params = model.init(jax.random.key(0), np.zeros((1, 2), np.int32))["params"]
    return jaxlm.Run(model, params, text.tokenizer)


def with_loops(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with a Loop in the place of each LSTM operator."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    constants = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    added: dict[str, np.ndarray] = {"axis_0": np.array([0]), "axis_1": np.array([1])}
    nodes = []
    for node in model.graph.node:
        nodes += _loop(node, constants, added) if node.op_type == "LSTM" else [node]
    used = {name for node in nodes for name in node.input}
    kept = {name: array for name, array in constants.items() if name in used} | added
    del changed.graph.node[:], changed.graph.initializer[:]
    changed.graph.node.extend(nodes)
    changed.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in kept.items())
    onnx.checker.check_model(changed, full_check=True)
    return changed


def _loop(node: Any, constants: dict[str, np.ndarray], added: dict[str, np.ndarray]) -> list[Any]:
    """Return the operators of an LSTM operator's Loop; `added` gets their constants."""
    x_TBD, w, r, b, _, h_1BH, c_1BH = node.input
    key, size = node.name, constants[r].shape[2]
    gates = 4 * size
    added[f"{key}_W"] = np.ascontiguousarray(constants[w][0].T)
    added[f"{key}_U"] = np.ascontiguousarray(constants[r][0].T)
    added[f"{key}_b"] = constants[b][0, :gates] + constants[b][0, gates:]
    added[f"{key}_zero"] = np.array(0)
    float_BH = [None, size]

    def value(name: str, kind: int, shape: list[Any]) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    def op(kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> Any:
        return helper.make_node(kind, inputs, outputs, **attributes)

    # The gates have the order of the LSTM operator: i, o, f, g.
    body = helper.make_graph(
        [
            op("Gather", [f"{key}_x", "t"], ["x"], axis=0),
            op("MatMul", ["h", f"{key}_U"], ["u"]),
            op("Add", ["x", "u"], ["s"]),
            op("Split", ["s"], ["si", "so", "sf", "sg"], axis=-1),
            op("Sigmoid", ["si"], ["i"]),
            op("Sigmoid", ["so"], ["o"]),
            op("Sigmoid", ["sf"], ["f"]),
            op("Tanh", ["sg"], ["g"]),
            op("Mul", ["f", "c"], ["fc"]),
            op("Mul", ["i", "g"], ["ig"]),
            op("Add", ["fc", "ig"], ["c_new"]),
            op("Tanh", ["c_new"], ["tanh_c"]),
            op("Mul", ["o", "tanh_c"], ["h_new"]),
            op("Identity", ["h_new"], ["h_step"]),
            op("Identity", ["go"], ["go_on"]),
        ],
        f"{key}_body",
        [
            value("t", TensorProto.INT64, []),
            value("go", TensorProto.BOOL, []),
            value("h", TensorProto.FLOAT, float_BH),
            value("c", TensorProto.FLOAT, float_BH),
        ],
        [
            value("go_on", TensorProto.BOOL, []),
            value("h_new", TensorProto.FLOAT, float_BH),
            value("c_new", TensorProto.FLOAT, float_BH),
            value("h_step", TensorProto.FLOAT, float_BH),
        ],
    )
    y_T1BH, h_last, c_last = node.output
    return [
        op("MatMul", [x_TBD, f"{key}_W"], [f"{key}_Wx"]),
        op("Add", [f"{key}_Wx", f"{key}_b"], [f"{key}_x"]),
        op("Shape", [x_TBD], [f"{key}_shape"]),
        op("Gather", [f"{key}_shape", f"{key}_zero"], [f"{key}_T"]),
        op("Squeeze", [h_1BH, "axis_0"], [f"{key}_h0"]),
        op("Squeeze", [c_1BH, "axis_0"], [f"{key}_c0"]),
        op(
            "Loop",
            [f"{key}_T", "", f"{key}_h0", f"{key}_c0"],
            [f"{key}_h", f"{key}_c", f"{key}_y"],
            body=body,
        ),
        op("Unsqueeze", [f"{key}_y", "axis_1"], [y_T1BH]),
        op("Unsqueeze", [f"{key}_h", "axis_0"], [h_last]),
        op("Unsqueeze", [f"{key}_c", "axis_0"], [c_last]),
    ]


def converted(run: jaxlm.Run, length: int) -> onnx.ModelProto:
    """Return jaxlm's model as jax2onnx converts it, for `length` tokens."""
    from jax2onnx import to_onnx

    model: Any = run.model
    carry = model.initial_carry(1)
    leaves, tree = jax.tree.flatten(carry)

    def program(tokens: jax.Array, *state: jax.Array) -> tuple[jax.Array, ...]:
        variables = {"params": run.params}
        hidden_BTF, new = model.apply(variables, tokens, jax.tree.unflatten(tree, state))
        return model.apply(variables, hidden_BTF, method="logits"), *jax.tree.leaves(new)

    tokens = jax.ShapeDtypeStruct((1, length), np.int32)
    shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    return to_onnx(program, inputs=[tokens, *shapes], model_name="lstm")


class Program:
    """An ONNX model in onnxruntime, with the state that it carries from call to call."""

    def __init__(self, model: onnx.ModelProto) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        tokens, *self.states = self.session.get_inputs()
        self.tokens, self.dtype = tokens.name, tokens.type
        # The outputs have the order of the inputs: logits, then the state.
        self.outputs = [output.name for output in self.session.get_outputs()]
        self.reset()

    def reset(self) -> None:
        """Forget everything that was read."""
        self.feed = {s.name: np.zeros((1, s.shape[1]), np.float32) for s in self.states}

    def __call__(self, tokens_1T: np.ndarray) -> np.ndarray:
        """Read tokens, and return their logits."""
        kind = np.int64 if "int64" in self.dtype else np.int32
        feed = self.feed | {self.tokens: tokens_1T.astype(kind)}
        logits, *new = self.session.run(self.outputs, feed)
        self.feed = {s.name: array for s, array in zip(self.states, new, strict=True)}
        return np.asarray(logits)


def measure(programs: dict[str, Program], length: int, vocab: int) -> dict[str, float]:
    """Return the median time of each program in microseconds a token, after a check of its logits.

    The programs take turns.
    """
    generator = np.random.default_rng(0)
    chunks = [generator.integers(0, vocab, (1, length)) for _ in range(3)]
    expected = None
    for name, program in programs.items():
        program.reset()
        found = np.concatenate([program(chunk) for chunk in chunks], axis=1)
        expected = found if expected is None else expected
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=name)
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(ROUNDS):
        for name, program in programs.items():
            begin = time.thread_time()
            for _ in range(CALLS[length]):
                program(chunks[0])
            elapsed = time.thread_time() - begin
            times[name].append(elapsed / CALLS[length] / length * 1e6)
    return {name: statistics.median(found) for name, found in times.items()}


def cpu() -> str:
    """Return the name of the CPU, and its widest vectors."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or platform.machine()
    lines = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in lines.items()}
    widest = next((w for w in ("amx_tile", "avx512f", "avx2") if w in fields.get("flags", "")), "")
    family = f"family {fields.get('cpu family', '?')}, model {fields.get('model', '?')}"
    return f"{fields.get('model name', platform.machine())} ({family}; {widest})"


def main() -> int:
    """Measure every model, and print a table."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    has_converter = importlib.util.find_spec("jax2onnx") is not None
    if not has_converter:
        print("jax2onnx is not installed: pip install jax2onnx to time it too")
    print(f"{cpu()}; onnxruntime {onnxruntime.__version__}, one thread, batch 1\n")
    print("| LSTM | program | one token, µs | chunk of 128, µs per token |")
    print("|---|---|---|---|")
    for title, sizes in MODELS.items():
        run = run_of(*sizes)
        native = make_model(run)
        loops = with_loops(native)
        assert [o.name for o in native.graph.output] == [o.name for o in loops.graph.output]
        assert all(o.name.endswith(OUTPUT_SUFFIX) for o in native.graph.output[1:])
        found = {}
        for length in (1, CHUNK):
            programs = {"LSTM": Program(native), "Loop": Program(loops)}
            if has_converter:
                programs["jax2onnx"] = Program(converted(run, length))
            found[length] = measure(programs, length, run.model.vocab_size)
        for name in found[1]:
            step, chunk = found[1][name], found[CHUNK][name]
            ratio = [found[length][name] / found[length]["LSTM"] for length in (1, CHUNK)]
            print(
                f"| {title} | {name} | {step:,.0f} ({ratio[0]:.2f} x) | "
                f"{chunk:,.1f} ({ratio[1]:.2f} x) |"
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
