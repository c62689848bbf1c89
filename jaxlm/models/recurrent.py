"""Recurrent language models: any cell of CELLS, any number of layers."""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm import shapes
from jaxlm.errors import UserError, choose
from jaxlm.models.cells import CELLS, Carry, Cell
from jaxlm.models.heads import describe_head, make_head
from jaxlm.models.layers import DTYPES, check_common, embed
from jaxlm.models.neural import NeuralModel
from jaxlm.models.recurrent_layer import RecurrentLayer
from jaxlm.ops.kernels import KERNELS, fallback


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
    """How time is run: scan (the definition), fused (the same, faster), cudnn (an LSTM), auto."""
    remat: int = 0
    """Keep the state of every so many steps alone, and compute the rest again for the gradient."""
    softmax: str = "full"
    """The output layer: full, adaptive (rare words in small clusters), sampled (in training)."""
    cutoffs: tuple[int, ...] = ()
    """adaptive: ids at which a cluster of rarer words begins (none: a fifth, and three fifths)."""
    sampled_words: int = 1024
    """sampled: words that a training step compares the targets with."""


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
    remat: int = 0
    softmax: str = "full"
    cutoffs: tuple[int, ...] = ()
    sampled_words: int = 1024

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
        if self.remat < 0:
            raise UserError(f"--remat {self.remat}: must be 0 (keep every step) or more")
        if self.remat and self.kernel not in ("auto", "fused"):
            raise UserError(
                f"--remat {self.remat}: needs --kernel fused or auto, not {self.kernel}"
            )
        layer = (self.cell, self.hidden_size, self.dtype, self.init_scale, forget_bias)
        how = (self.kernel, self.remat)
        self.recurrent = [
            RecurrentLayer(*layer, *how, name=f"layers_{index}") for index in range(self.num_layers)
        ]
        self.output = make_head(self)
        self.drop = nn.Dropout(self.dropout)

    @property
    def window(self) -> None:
        return None

    @nn.nowrap
    def notes(self) -> list[str]:
        kernel = fallback(self.kernel, self.cell == CELLS["lstm"], self.dtype)
        return [note for note in (kernel, make_head(self, parent=None).note()) if note]

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
        self,
        hidden_BTF: jax.Array,
        targets_BT: jax.Array,
        weights_BT: jax.Array,
        deterministic: bool,
    ) -> tuple[jax.Array, jax.Array]:
        table_VD = self.embedding.embedding
        return self.output.loss(hidden_BTF, table_VD, targets_BT, weights_BT, deterministic)

    def layers(self) -> dict[str, str]:
        gates, size = self.cell.gates, self.hidden_size
        described = {"embedding": f"C: {self.vocab_size} words x {self.embedding_size} features"}
        for index in range(self.num_layers):
            inputs = size if index else self.embedding_size
            described[f"layers_{index}/input"] = (
                f"W, b: {inputs} -> {len(gates)} x {size} ({', '.join(gates)})"
            )
            described[f"layers_{index}/recurrent"] = f"U: {size} -> {len(gates)} x {size}"
        return described | describe_head(self, size)


class RNN(Recurrent):
    """An Elman network: `Recurrent` with the ElmanCell."""

    cell: Cell = CELLS["rnn"]


class GRU(Recurrent):
    """A gated recurrent unit network: `Recurrent` with the GRUCell."""

    cell: Cell = CELLS["gru"]


class LSTM(Recurrent):
    """A long short-term memory network: `Recurrent` with the LSTMCell."""

    cell: Cell = CELLS["lstm"]
