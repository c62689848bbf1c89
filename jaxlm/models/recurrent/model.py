"""Recurrent language models: any cell of CELLS, any number of layers."""

import math
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm import shapes
from jaxlm.errors import UserError, choose
from jaxlm.models.adaptive_embedding import describe_embedding, make_embedding
from jaxlm.models.cells import CELLS, Carry, Cell
from jaxlm.models.heads.output_layer import describe_head, make_head
from jaxlm.models.layers import DTYPES, Dropout, check_common
from jaxlm.models.neural import NeuralModel
from jaxlm.models.recurrent.layer import RecurrentLayer
from jaxlm.ops.dropout import drop_words
from jaxlm.ops.machine import TIME_LOOPS, fallback_note
from jaxlm.ops.penalties import activation_penalty, temporal_penalty
from jaxlm.ops.static import is_zero


@dataclass(frozen=True)
class RecurrentConfig:
    """A recurrent model: embedding, layers of one cell, output."""

    embedding_size: int = 200
    """Size of a word's feature vector."""
    hidden_size: int = 200
    """Units in each recurrent layer."""
    num_layers: int = 1
    """Recurrent layers, one on another."""
    layer_sizes: tuple[int, ...] = ()
    """Units of each layer, if they are not all alike (in place of hidden_size and num_layers)."""
    residual: bool = False
    """Add a layer's input to its output, where they have one size."""
    layer_norm: bool = False
    """Normalise what goes into each layer, and into the output."""
    tied: bool = False
    """Use the embedding, transposed, as the output matrix (projected if sizes differ)."""
    dropout: float = 0.0
    """Dropout on all but the recurrent links: word features, between layers, before the output."""
    dropout_input: float | None = None
    """Of the word features (none: as --dropout)."""
    dropout_between: float | None = None
    """Between two layers (none: as --dropout)."""
    dropout_output: float | None = None
    """Before the output (none: as --dropout)."""
    dropout_words: float = 0.0
    """Drop whole words of the vocabulary from the input, for a chunk."""
    dropout_state: float = 0.0
    """Of the state on its way to the next step, one mask for a chunk."""
    weight_drop: float = 0.0
    """Drop numbers of the recurrent matrices, for a chunk."""
    variational: bool = False
    """One dropout mask for all steps of a chunk, in place of one a step."""
    activation_penalty: float = 0.0
    """AR: times the mean square of the last layer's output, after dropout, added to the loss."""
    temporal_penalty: float = 0.0
    """TAR: times the mean square of its change from step to step, before dropout."""
    forget_bias: float | None = None
    """Added to the forget gate's bias at the start (none: 1, in cells that have one)."""
    timescale: float = 1.0
    """Let the units of an Elman layer begin as memories that fade over 1 to so many words."""
    init_scale: float | None = None
    """Draw every parameter from U(-s, s) (none: each layer by its own size)."""
    dtype: str | None = None
    """Compute in float32, tf32 (the same with a GPU's faster, shorter products) or bfloat16 (none:
    bfloat16 on a TPU, float32 elsewhere); parameters and loss are float32 in any case."""
    time_loop: str = "auto"
    """How time is run: scan (the definition), fused (the same, faster), cudnn (an LSTM), auto."""
    remat: int = 0
    """Keep the state of every so many steps alone, and compute the rest again for the gradient."""
    softmax: str = "full"
    """The output layer: full, adaptive (rare words in small clusters), sampled (in training),
    mixture (of softmaxes)."""
    cutoffs: tuple[int, ...] = ()
    """adaptive: ids at which a cluster of rarer words begins (none: a fifth, and three fifths)."""
    adaptive_input: bool = False
    """adaptive: rarer words have fewer features, at the input too."""
    sampled_words: int = 1024
    """sampled: words that a training step compares the targets with."""
    softmaxes: int = 10
    """mixture: softmaxes in it."""


class Recurrent(NeuralModel):
    """A recurrent language model with any cell.

        h⁰_t = C(w_t)      hˡ_t = cell(hˡ⁻¹_t, hˡ_{t-1}), l = 1 ... L = num_layers
        P(w_{t+1} | w_1 ... w_t) = softmax(b + U h^L_t)

    Parameters: embedding C [V, D]; layers_l (see RecurrentLayer); output [H, V] and b. The carry is
    a tuple with one entry a layer: (h,) for RNN and GRU, (h, c) for an LSTM, float32 [B, H] each,
    zeros at the start.

    With `residual` hˡ += hˡ⁻¹ where the sizes agree, and with `layer_norm` each layer and the
    output read LN(hˡ⁻¹) (norms_l, norms_L: scale and bias; Ba et al. 2016; before the layer: Xiong
    et al. 2020).

    Regularised in training alone: dropout on the non-recurrent links (Zaremba et al. 2014), or one
    mask a sequence (Gal & Ghahramani 2016), of whole words (ibid.), of the state and of U (see
    RecurrentLayer), and AR and TAR (`ops.penalties`; Merity et al. 2017).

    Source: Mikolov et al., "Recurrent neural network based language model", 2010.

    Raises UserError for sizes below 1, rates and penalties that cannot be, a forget_bias where the
    cell has no forget gate, and a timescale where it has gates.
    """

    cell: Cell = CELLS["lstm"]
    embedding_size: int = 200
    hidden_size: int = 200
    num_layers: int = 1
    layer_sizes: tuple[int, ...] = ()
    residual: bool = False
    layer_norm: bool = False
    tied: bool = False
    dropout: float = 0.0
    dropout_input: float | None = None
    dropout_between: float | None = None
    dropout_output: float | None = None
    dropout_words: float = 0.0
    dropout_state: float = 0.0
    weight_drop: float = 0.0
    variational: bool = False
    activation_penalty: float = 0.0
    temporal_penalty: float = 0.0
    forget_bias: float | None = None
    timescale: float = 1.0
    init_scale: float | None = None
    dtype: str = "float32"
    time_loop: str = "auto"
    remat: int = 0
    softmax: str = "full"
    cutoffs: tuple[int, ...] = ()
    adaptive_input: bool = False
    sampled_words: int = 1024
    softmaxes: int = 10

    def setup(self) -> None:
        self.check()
        dtype = DTYPES[self.dtype]
        self.embedding = make_embedding(self, dtype)
        self.recurrent = [self.make_layer(index, size) for index, size in enumerate(self.sizes)]
        if self.layer_norm:
            count = len(self.sizes) + 1
            self.norms = [
                nn.LayerNorm(dtype=dtype, name=f"norms_{index}") for index in range(count)
            ]
        self.output = make_head(self)

        def drop(rate: float | None) -> Dropout:
            return Dropout(self.dropout if rate is None else rate, self.variational)

        self.drop_input = drop(self.dropout_input)
        self.drop_between = drop(self.dropout_between)
        self.drop_output = drop(self.dropout_output)

    @nn.nowrap
    def make_layer(self, index: int, size: int) -> nn.Module:
        """A layer of so many units, called as RecurrentLayer is."""
        forget_bias = 1.0 if self.forget_bias is None else self.forget_bias
        settings = (self.dtype, self.init_scale, forget_bias, self.time_loop, self.remat)
        drops = (self.weight_drop, self.dropout_state)
        name = f"layers_{index}"
        return RecurrentLayer(
            self.cell, size, *settings, *drops, timescale=self.timescale, name=name
        )

    @nn.nowrap
    def check(self) -> None:
        """Raises UserError for settings that cannot be."""
        check_common(self)
        choose(dict.fromkeys(TIME_LOOPS), self.time_loop, "time_loop")
        for size in self.sizes:
            if size < 1:
                flag = "--layer-sizes" if self.layer_sizes else "--hidden-size"
                raise UserError(f"{flag} {size}: must be at least 1")
        if self.forget_bias and "forget" not in self.cell.gates:
            raise UserError(
                f"--forget-bias {self.forget_bias}: {self.cell} has no forget gate (its gates: "
                f"{', '.join(self.cell.gates)}); leave the flag out"
            )
        if not 1 <= self.timescale < math.inf:
            raise UserError(f"--timescale {self.timescale}: must be 1 (no memory) or more words")
        if self.timescale != 1 and not (self.cell.recurrent and len(self.cell.gates) == 1):
            raise UserError(
                f"--timescale {self.timescale}: {self.cell} has gates for that; leave the flag out"
            )
        for name in ("weight_drop", "dropout_state", "remat"):
            if not is_zero(getattr(self, name)) and not self.cell.recurrent:
                raise UserError(
                    f"--{name.replace('_', '-')} {getattr(self, name)}: {self.cell} has no matrix "
                    f"from step to step; leave the flag out"
                )
        if self.remat < 0:
            raise UserError(f"--remat {self.remat}: must be 0 (keep every step) or more")
        if self.remat and self.time_loop not in ("auto", "fused"):
            raise UserError(
                f"--remat {self.remat}: needs --time-loop fused or auto, not {self.time_loop}"
            )
        for name in ("activation_penalty", "temporal_penalty"):
            value = getattr(self, name)
            if value < 0:
                raise UserError(f"--{name.replace('_', '-')} {value}: must be at least 0")

    @property
    def sizes(self) -> tuple[int, ...]:
        """Units of each layer."""
        return self.layer_sizes or (self.hidden_size,) * self.num_layers

    @property
    def window(self) -> None:
        return None

    @nn.nowrap
    def notes(self) -> list[str]:
        plain = self.cell == CELLS["lstm"] and is_zero(self.dropout_state)
        kernel = fallback_note(self.time_loop, plain, self.dtype)
        return super().notes() + [kernel] * bool(kernel)

    def initial_carry(self, batch_size: int) -> tuple[Carry, ...]:
        def zeros(size: int) -> Carry:
            return tuple(jnp.zeros((batch_size, size), jnp.float32) for _ in self.cell.carry)

        return tuple(map(zeros, self.sizes))

    def encode(
        self,
        tokens_BT: jax.Array,
        carry: tuple[Carry, ...],
        last: bool,
        deterministic: bool,
        length: jax.Array | None,
    ) -> tuple[jax.Array, tuple[Carry, ...]]:
        h_BTD = self._words(tokens_BT, deterministic)
        after = []
        for index, (layer, layer_carry) in enumerate(zip(self.recurrent, carry, strict=True)):
            if index:
                h_BTD = self.drop_between(h_BTD, deterministic)
            x_BTD = self.norms[index](h_BTD) if self.layer_norm else h_BTD
            new_BTD, layer_carry = layer(x_BTD, layer_carry, deterministic, length)
            skips = self.residual and new_BTD.shape == h_BTD.shape
            h_BTD = h_BTD + new_BTD if skips else new_BTD
            after.append(layer_carry)
        h_BTD = h_BTD[:, -1:] if last else h_BTD
        return self.norms[-1](h_BTD) if self.layer_norm else h_BTD, tuple(after)

    def _words(self, tokens_BT: jax.Array, deterministic: bool) -> jax.Array:
        words_BTD = self.embedding(tokens_BT)
        batch, time = tokens_BT.shape
        shapes.check(words_BTD, "BTD", B=batch, T=time, D=self.embedding_size)
        if not (deterministic or is_zero(self.dropout_words)):
            key = self.make_rng("dropout")
            words_BTD = drop_words(key, words_BTD, tokens_BT, self.vocab_size, self.dropout_words)
        return self.drop_input(words_BTD, deterministic)

    def output_dropout(self, hidden_BTF: jax.Array, deterministic: bool) -> jax.Array:
        return self.drop_output(hidden_BTF, deterministic)

    def penalty(
        self, hidden_BTF: jax.Array, dropped_BTF: jax.Array, shares_BT: jax.Array
    ) -> jax.Array | float:
        found: jax.Array | float = 0.0
        if self.activation_penalty:
            found += self.activation_penalty * activation_penalty(dropped_BTF, shares_BT)
        if self.temporal_penalty:
            found += self.temporal_penalty * temporal_penalty(hidden_BTF, shares_BT)
        return found

    def layers(self) -> dict[str, str]:
        gates, inputs = self.cell.gates, self.embedding_size
        described = describe_embedding(self)
        for index, size in enumerate(self.sizes):
            if self.layer_norm:
                described[f"norms_{index}"] = f"scale and shift of {inputs} normalised features"
            described[f"layers_{index}/input"] = (
                f"W, b: {inputs} -> {len(gates)} x {size} ({', '.join(gates)})"
            )
            if self.cell.recurrent:
                described[f"layers_{index}/recurrent"] = f"U: {size} -> {len(gates)} x {size}"
            inputs = size
        if self.layer_norm:
            described[f"norms_{len(self.sizes)}"] = f"scale and shift of {inputs} features"
        return described | describe_head(self, inputs)


class RNN(Recurrent):
    """An Elman network: `Recurrent` with the ElmanCell."""

    cell: Cell = CELLS["rnn"]


class GRU(Recurrent):
    """A gated recurrent unit network: `Recurrent` with the GRUCell."""

    cell: Cell = CELLS["gru"]


class LSTM(Recurrent):
    """A long short-term memory network: `Recurrent` with the LSTMCell."""

    cell: Cell = CELLS["lstm"]
