"""Recurrent language models: any cell of CELLS, any number of layers, scanned over time with
`nn.scan`.
"""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm import shapes
from jaxlm.errors import UserError, choose
from jaxlm.models.cells import CELLS, Carry, Cell
from jaxlm.models.layers import DTYPES, Affine, OutputLayer, check_common, embed, uniform
from jaxlm.models.neural import NeuralModel
from jaxlm.ops.recurrence import recurrence as fused_recurrence

# Up to this many steps the loop over time is unrolled: for the lecture's two words a loop costs
# more than its body.
UNROLLED_STEPS = 4


@dataclass(frozen=True)
class RecurrentConfig:
    """A recurrent model: embedding, layers of one cell, output."""

    embedding_size: int = 200
    """Size of a word's feature vector."""
    hidden_size: int = 200
    """Units in each recurrent layer."""
    num_layers: int = 1
    """Recurrent layers, one on another."""
    tied: bool = False
    """Use the embedding, transposed, as the output matrix."""
    dropout: float = 0.0
    """Dropout on all but the recurrent links: word features, between layers, before the output."""
    forget_bias: float | None = None
    """Added to the forget gate's bias at the start (none: 1, in cells that have one)."""
    init_scale: float | None = None
    """Draw every parameter from U(-s, s) (none: each layer by its own size)."""
    dtype: str = "float32"
    """Compute in float32 or bfloat16; parameters and loss are float32 either way."""
    kernel: str = "auto"
    """How time is run: scan (the definition), fused (the same, faster), or auto."""


KERNELS = ("auto", "scan", "fused")


def choose_kernel(kernel: str, time: int) -> str:
    """ "scan" or "fused", for so many steps: a few are unrolled, where nothing is to be gained."""
    if kernel != "auto":
        return kernel
    return "scan" if time <= UNROLLED_STEPS else "fused"


class Recurrence(nn.Module):
    """One time step of a layer: u = U h_{t-1}, then the cell. Owns U (and its bias, where the cell
    wants one).
    """

    cell: Cell
    hidden_size: int
    dtype: Any
    init_scale: float | None

    def setup(self) -> None:
        width = len(self.cell.gates) * self.hidden_size
        init = uniform(self.init_scale or self.hidden_size**-0.5)
        self.kernel = self.param("kernel", init, (self.hidden_size, width))
        if self.cell.recurrent_bias:
            self.bias = self.param("bias", uniform(self.init_scale or 0.0), (width,))

    def weights(self) -> tuple[jax.Array, jax.Array | None]:
        """U [H, G], and its bias where the cell wants one."""
        return self.kernel, self.bias if self.cell.recurrent_bias else None

    def __call__(self, carry: Carry, x_BG: jax.Array) -> tuple[Carry, jax.Array]:
        kernel_HG, bias_G = self.weights()
        h_BH = carry[0].astype(self.dtype)
        # The product runs in the compute dtype; the elementwise part and the carry are float32, or
        # c would lose its memory.
        u_BG = jnp.matmul(h_BH, kernel_HG.astype(self.dtype), preferred_element_type=jnp.float32)
        if bias_G is not None:
            u_BG = u_BG + bias_G
        gates = self.cell.activations(carry, x_BG.astype(jnp.float32), u_BG)
        for name, value_BH in gates.items():
            self.sow("gates", name, value_BH)
        carry = self.cell.update(carry, gates)
        return carry, carry[0].astype(self.dtype)


class RecurrentLayer(nn.Module):
    """A cell run over time: x_BTG = W x + b of all steps in one product, then a scan of the
    recurrence.

    Parameters: input/kernel [D, G], input/bias [G], recurrent/kernel [H, G], and recurrent/bias [G]
    for cells that need it; the gates are fused side by side in the cell's order, so PyTorch's
    weights are these transposed. Gates are recorded, [B, T, H] each, when "gates" is a mutable
    collection.
    """

    cell: Cell
    hidden_size: int
    dtype: Any
    init_scale: float | None
    forget_bias: float
    kernel: str

    @nn.compact
    def __call__(self, x_BTD: jax.Array, carry: Carry) -> tuple[jax.Array, Carry]:
        batch, time, _ = x_BTD.shape
        for array in carry:
            shapes.check(array, "BH", B=batch, H=self.hidden_size)
        width = len(self.cell.gates) * self.hidden_size
        inputs = Affine(
            width, self.hidden_size, self.dtype, self.init_scale, self._bias_init, name="input"
        )
        recurrence = (self.cell, self.hidden_size, self.dtype, self.init_scale)
        # The definition draws the parameters, and records gates; the other computes the same.
        defined = self.is_initializing() or self.is_mutable_collection("gates")
        if not defined and choose_kernel(self.kernel, time) == "fused":
            kernel_HG, bias_G = Recurrence(*recurrence, name="recurrent").weights()
            x_TBG = inputs(x_BTD.swapaxes(0, 1))
            h_TBH, carry = fused_recurrence(
                self.cell.step,
                carry,
                x_TBG.astype(jnp.float32),
                kernel_HG,
                bias_G,
                dtype=self.dtype,
                additive=self.cell.additive,
            )
            return h_TBH.swapaxes(0, 1).astype(self.dtype), carry
        x_BTG = inputs(x_BTD)
        scan = nn.scan(
            Recurrence,
            variable_broadcast="params",
            variable_axes={"gates": 1},
            split_rngs={"params": False},
            in_axes=1,
            out_axes=1,
            unroll=time if time <= UNROLLED_STEPS else 1,
        )
        carry, h_BTH = scan(*recurrence, name="recurrent")(carry, x_BTG)
        return h_BTH, carry

    def _bias_init(
        self, key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32
    ) -> jax.Array:
        bias_G = uniform(self.init_scale or 0.0)(key, shape, dtype)
        if "forget" in self.cell.gates:
            start = self.cell.gates.index("forget") * self.hidden_size
            bias_G = bias_G.at[start : start + self.hidden_size].add(self.forget_bias)
        return bias_G


class Recurrent(NeuralModel):
    """A recurrent language model with any cell.

        h⁰_t = C(w_t)      hˡ_t = cell(hˡ⁻¹_t, hˡ_{t-1}), l = 1 ... L = num_layers
        P(w_{t+1} | w_1 ... w_t) = softmax(b + U h^L_t)

    Parameters: embedding C [V, D]; layers_l (see RecurrentLayer); output [H, V] and b. Dropout on
    the non-recurrent links (Zaremba et al. 2014). The carry is a tuple with one entry a layer: (h,)
    for RNN and GRU, (h, c) for an LSTM, float32 [B, H] each, zeros at the start.

    Source: Mikolov et al., "Recurrent neural network based language model", 2010.

    Raises UserError for sizes below 1, tied weights of unequal sizes, and a forget_bias where the
    cell has no forget gate.
    """

    cell: Cell = CELLS["lstm"]
    embedding_size: int = 200
    hidden_size: int = 200
    num_layers: int = 1
    tied: bool = False
    dropout: float = 0.0
    forget_bias: float | None = None
    init_scale: float | None = None
    dtype: str = "float32"
    kernel: str = "auto"

    def setup(self) -> None:
        check_common(self)
        if self.hidden_size < 1:
            raise UserError(f"--hidden-size {self.hidden_size}: must be at least 1")
        if self.forget_bias and "forget" not in self.cell.gates:
            raise UserError(
                f"--forget-bias {self.forget_bias}: {self.cell} has no forget gate (its gates: "
                f"{', '.join(self.cell.gates)}); leave the flag out"
            )
        dtype = DTYPES[self.dtype]
        self.embedding = embed(self.vocab_size, self.embedding_size, self.init_scale, dtype)
        forget_bias = 1.0 if self.forget_bias is None else self.forget_bias
        choose(dict.fromkeys(KERNELS), self.kernel, "kernel")
        layer = (self.cell, self.hidden_size, dtype, self.init_scale, forget_bias, self.kernel)
        self.recurrent = [
            RecurrentLayer(*layer, name=f"layers_{index}") for index in range(self.num_layers)
        ]
        self.output = OutputLayer(self.vocab_size, self.tied, dtype, self.init_scale)
        self.drop = nn.Dropout(self.dropout)

    @property
    def window(self) -> None:
        return None

    def initial_carry(self, batch_size: int) -> tuple[Carry, ...]:
        zeros_BH = jnp.zeros((batch_size, self.hidden_size), jnp.float32)
        return tuple(tuple(zeros_BH for _ in self.cell.carry) for _ in range(self.num_layers))

    def features(
        self, tokens_BT: jax.Array, carry: tuple[Carry, ...], last: bool, deterministic: bool
    ) -> tuple[jax.Array, tuple[Carry, ...]]:
        h_BTD = self.drop(self.embedding(tokens_BT), deterministic=deterministic)
        shapes.check(
            h_BTD, "BTD", B=tokens_BT.shape[0], T=tokens_BT.shape[1], D=self.embedding_size
        )
        after = []
        for index, (layer, layer_carry) in enumerate(zip(self.recurrent, carry, strict=True)):
            h_BTD, layer_carry = layer(h_BTD, layer_carry)
            if last and index == self.num_layers - 1:
                h_BTD = h_BTD[:, -1:]
            h_BTD = self.drop(h_BTD, deterministic=deterministic)
            after.append(layer_carry)
        return h_BTD, tuple(after)

    def logits(self, hidden_BTF: jax.Array) -> jax.Array:
        return self.output(hidden_BTF, self.embedding.embedding)

    def loss(
        self, hidden_BTF: jax.Array, targets_BT: jax.Array, weights_BT: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        return self.output.loss(hidden_BTF, self.embedding.embedding, targets_BT, weights_BT)

    def layers(self) -> dict[str, str]:
        gates, size = self.cell.gates, self.hidden_size
        described = {"embedding": f"C: {self.vocab_size} words x {self.embedding_size} features"}
        for index in range(self.num_layers):
            inputs = size if index else self.embedding_size
            described[f"layers_{index}/input"] = (
                f"W, b: {inputs} -> {len(gates)} x {size} ({', '.join(gates)})"
            )
            described[f"layers_{index}/recurrent"] = f"U: {size} -> {len(gates)} x {size}"
        tied = " (U is C)" if self.tied else ""
        return described | {"output": f"U, b: {size} -> {self.vocab_size}, softmax{tied}"}


class RNN(Recurrent):
    """An Elman network: `Recurrent` with the ElmanCell."""

    cell: Cell = CELLS["rnn"]


class GRU(Recurrent):
    """A gated recurrent unit network: `Recurrent` with the GRUCell."""

    cell: Cell = CELLS["gru"]


class LSTM(Recurrent):
    """A long short-term memory network: `Recurrent` with the LSTMCell."""

    cell: Cell = CELLS["lstm"]
