"""Recurrent language models: any cell of CELLS, any number of layers."""

from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm import shapes
from jaxlm.errors import SettingError, choose
from jaxlm.models.adaptive_embedding import describe_embedding, make_embedding
from jaxlm.models.cells import CELLS, Carry, Cell
from jaxlm.models.heads import describe_head, make_head
from jaxlm.models.layers import Dropout, check_common
from jaxlm.models.neural import NeuralModel
from jaxlm.models.recurrent.layer import NEWTON, RecurrentLayer
from jaxlm.ops.dropout import drop_words
from jaxlm.ops.machine import TIME_LOOPS, fallback_note
from jaxlm.ops.penalties import activation_penalty, temporal_penalty
from jaxlm.ops.static import is_zero
from jaxlm.ranges import Finite, Layers, NotNegative, Range, Rate, Size

NOT_BEGUN = float(jnp.finfo(jnp.float32).min)
"""The number that fills the initial carry of a model with `learned_start`, which knows no
parameters. `encode` replaces it by the learned state. No cell computes a state this large."""


class Recurrent(NeuralModel):
    """A recurrent language model with any cell.

        h⁰_t = C(w_t)      hˡ_t = cell(hˡ⁻¹_t, hˡ_{t-1}), l = 1 ... L = num_layers
        P(w_{t+1} | w_1 ... w_t) = softmax(b + U h^L_t)

    Parameters: embedding C [V, D]; layers_0 ... layers_(L-1) (see RecurrentLayer); output [H, V]
    and b. The carry is a tuple with one entry per layer: (h,) for RNN and GRU, (h, c) for an LSTM,
    float32 [B, H] each, zeros at the start.

    With `learned_start`, the state before a text is a parameter of each layer (start: l_h, and l_c
    for an LSTM, [H] each), and the initial carry is filled with NOT_BEGUN in place of zeros. The
    learned state gets a gradient from the chunks in which a text starts.

    With `residual`, hˡ += hˡ⁻¹ where the sizes agree. With `layer_norm`, each layer and the output
    read LN(hˡ⁻¹) (norms_0 ... norms_L: scale and bias; Ba et al. 2016; before the layer: Xiong et
    al. 2020).

    Regularisation, in training alone: dropout on the non-recurrent links (Zaremba et al. 2014); one
    mask per sequence, and dropout of whole words (Gal & Ghahramani 2016); dropout of the state and
    of U (see RecurrentLayer); AR and TAR (`ops.penalties`; Merity et al. 2017).

    Source: Mikolov et al., "Recurrent neural network based language model", 2010.

    Example:
      >>> from jaxlm.models.cells import CELLS
      >>> model = Recurrent(vocab_size=7, cell=CELLS["gru"], embedding_size=2, hidden_size=3)
      >>> [h_BH.shape for (h_BH,) in model.initial_carry(batch_size=4)]
      [(4, 3)]

    Raises:
      SettingError: for a `cell` that is no cell, a size below 1, a rate or penalty out of range, a
        forget_bias without a forget gate, and a timescale for a cell with gates.
    """

    cell: Cell = CELLS["lstm"]
    embedding_size: Size = 200
    """Size of a word's feature vector."""
    hidden_size: Size = 200
    """Units in each recurrent layer."""
    num_layers: Layers = 1
    """Recurrent layers, stacked."""
    layer_sizes: tuple[Size, ...] = ()
    """Units of each layer, if the layers differ (in place of hidden_size and num_layers)."""
    residual: bool = False
    """Add a layer's input to its output, where both have one size."""
    layer_norm: bool = False
    """Normalise the input of each layer, and of the output layer."""
    dropout: Rate = 0.0
    """Dropout on all links that are not recurrent: word features, between layers, before the
    output."""
    dropout_input: Rate | None = None
    """Dropout on the word features (none: as dropout)."""
    dropout_between: Rate | None = None
    """Dropout between two layers (none: as dropout)."""
    dropout_output: Rate | None = None
    """Dropout before the output (none: as dropout)."""
    dropout_words: Rate = 0.0
    """Drop whole words of the vocabulary from the input, for a chunk."""
    dropout_state: Rate = 0.0
    """Dropout on the state on its way to the next step, one mask for a chunk."""
    weight_drop: Rate = 0.0
    """Drop numbers of the recurrent matrices, for a chunk."""
    variational: bool = False
    """Use one dropout mask for all steps of a chunk, in place of one mask a step."""
    activation_penalty: NotNegative = 0.0
    """AR: factor of the mean square of the last layer's output, after dropout, in the loss."""
    temporal_penalty: NotNegative = 0.0
    """TAR: factor of the mean square of its change from step to step, before dropout."""
    forget_bias: Finite | None = None
    """Added to the forget gate's bias at the start (none: 1, in cells that have one)."""
    timescale: Annotated[float, Range(1)] = 1.0
    """Let the units of an Elman layer start as memories that fade over 1 to this many words."""
    time_loop: str = "auto"
    """How the layer runs over time: scan (the definition), fused (the same, faster), newton (all
    steps at once, by Newton's method), cudnn (an LSTM), auto."""
    remat: Annotated[int, Range(0)] = 0
    """Keep the state of every n-th step only, and compute the rest again for the gradient (0: keep
    every step)."""
    learned_start: bool = False
    """Learn the state before a text (false: zeros)."""

    def setup(self) -> None:
        self.check()
        dtype = self.array_dtype
        self.embedding = make_embedding(self, dtype)
        self.recurrent = [self.make_layer(index, size) for index, size in enumerate(self.sizes)]
        if self.learned_start:
            self.start = LearnedStart(self.sizes, self.cell.carry)
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
        """Return layer `index`, counted from 0, with `size` units.

        The layer is called with the arguments of RecurrentLayer.
        """
        forget_bias = 1.0 if self.forget_bias is None else self.forget_bias
        settings = (self.compute_dtype, self.init_scale, forget_bias, self.time_loop, self.remat)
        drops = (self.weight_drop, self.dropout_state)
        name = f"layers_{index}"
        return RecurrentLayer(
            self.cell, size, *settings, *drops, timescale=self.timescale, name=name
        )

    @nn.nowrap
    def check(self) -> None:
        """Raise SettingError for settings that are out of range or exclude each other."""
        check_common(self)
        if not isinstance(self.cell, Cell):
            cells = ", ".join(CELLS)
            why = f"is not a cell: give one of the table, such as CELLS['gru'] (it has {cells})"
            raise SettingError("cell", repr(self.cell), why)
        self.cell.check()
        choose(dict.fromkeys(TIME_LOOPS), self.time_loop, "time_loop")
        if self.forget_bias and self.cell.forget_gate is None:
            gates = ", ".join(self.cell.gates)
            why = f"{self.cell} has no forget gate (its gates: {gates}); leave the setting out"
            raise SettingError("forget_bias", self.forget_bias, why)
        if self.timescale != 1 and not (self.cell.has_matrix and len(self.cell.gates) == 1):
            why = f"{self.cell} has gates for that; leave the setting out"
            raise SettingError("timescale", self.timescale, why)
        for name in ("weight_drop", "dropout_state", "remat"):
            if not is_zero(getattr(self, name)) and not self.cell.recurrent:
                why = f"{self.cell} has no matrix from step to step; leave the setting out"
                raise SettingError(name, getattr(self, name), why)
        parts = self.dropout_input, self.dropout_between, self.dropout_output
        if not is_zero(self.dropout) and None not in parts:
            why = (
                "has no effect, because `dropout_input`, `dropout_between` and `dropout_output` "
                "are set; leave it out"
            )
            raise SettingError("dropout", self.dropout, why)
        if self.remat and self.time_loop not in ("auto", "fused"):
            why = f"needs `time_loop` fused or auto, not {self.time_loop}"
            raise SettingError("remat", self.remat, why)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of units of each layer."""
        return self.layer_sizes or (self.hidden_size,) * self.num_layers

    @property
    def window(self) -> None:
        return None

    @property
    def widest(self) -> int:
        return max(self.embedding_size, len(self.cell.gates) * max(self.sizes))

    @property
    def measured(self) -> tuple[str, ...]:
        return NEWTON if self.time_loop == "newton" and self.cell.recurrent else ()

    @nn.nowrap
    def notes(self) -> list[str]:
        plain_lstm = self.cell == CELLS["lstm"] and is_zero(self.dropout_state)
        note = fallback_note(self.time_loop, plain_lstm, self.compute_dtype)
        return super().notes() + [note] * bool(note)

    def sweep_notes(self) -> list[str]:
        if not self.measured:
            return []
        # jax.vmap computes both branches of a condition.
        return [
            "`time_loop` newton: several runs together compute every fall-back, needed or not; "
            "`time_loop` fused has the same values and is faster here"
        ]

    def initial_carry(self, batch_size: int) -> tuple[Carry, ...]:
        value = NOT_BEGUN if self.learned_start else 0.0

        def layer(size: int) -> Carry:
            return tuple(jnp.full((batch_size, size), value, jnp.float32) for _ in self.cell.carry)

        return tuple(map(layer, self.sizes))

    def encode(
        self,
        tokens_BT: jax.Array,
        carry: tuple[Carry, ...],
        last: bool,
        deterministic: bool,
        length: jax.Array | None,
    ) -> tuple[jax.Array, tuple[Carry, ...]]:
        # F: the features of the embedding, then the units of each layer.
        h_BTF = self._words(tokens_BT, deterministic)
        carry = self.start(carry) if self.learned_start else carry
        new_carry = []
        for index, (layer, layer_carry) in enumerate(zip(self.recurrent, carry, strict=True)):
            if index:
                h_BTF = self.drop_between(h_BTF, deterministic)
            x_BTF = self.norms[index](h_BTF) if self.layer_norm else h_BTF
            new_BTF, layer_carry = layer(x_BTF, layer_carry, deterministic, length)
            skips = self.residual and new_BTF.shape == h_BTF.shape
            h_BTF = h_BTF + new_BTF if skips else new_BTF
            new_carry.append(layer_carry)
        h_BTF = h_BTF[:, -1:] if last else h_BTF
        return self.norms[-1](h_BTF) if self.layer_norm else h_BTF, tuple(new_carry)

    def _words(self, tokens_BT: jax.Array, deterministic: bool) -> jax.Array:
        """Return the word features after dropout, [B, T, D]."""
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
        total: jax.Array | float = 0.0
        if self.activation_penalty:
            total += self.activation_penalty * activation_penalty(dropped_BTF, shares_BT)
        if self.temporal_penalty:
            total += self.temporal_penalty * temporal_penalty(hidden_BTF, shares_BT)
        return total

    def layers(self) -> dict[str, str]:
        gates, inputs = self.cell.gates, self.embedding_size
        described = describe_embedding(self)
        if self.learned_start:
            described["start"] = f"{', '.join(self.cell.carry)} of each layer before a text"
        for index, size in enumerate(self.sizes):
            if self.layer_norm:
                described[f"norms_{index}"] = f"scale and shift of {inputs} normalised features"
            described[f"layers_{index}/input"] = (
                f"W, b: {inputs} -> {len(gates)} x {size} ({', '.join(gates)})"
            )
            if self.cell.elementwise:
                vectors = ", ".join((*gates, *self.cell.weights)).replace("_", " ")
                described[f"layers_{index}/recurrent"] = f"U: {size} for each of {vectors}"
            elif self.cell.recurrent:
                weights = "U, b" if self.cell.recurrent_bias else "U"
                described[f"layers_{index}/recurrent"] = (
                    f"{weights}: {size} -> {len(gates)} x {size}"
                )
            inputs = size
        if self.layer_norm:
            described[f"norms_{len(self.sizes)}"] = f"scale and shift of {inputs} features"
        return described | describe_head(self, inputs)


class LearnedStart(nn.Module):
    """The learned state of each layer before a text.

    Parameters: 0_h, 0_c, 1_h, ... [H], the arrays of the carry of each layer; zeros at first.

    Example:
      >>> module, carry = LearnedStart((2,), ("h",)), ((jnp.array([[NOT_BEGUN] * 2, [1, 2]]),),)
      >>> module.apply({"params": {"0_h": jnp.array([7, 8])}}, carry)[0][0].tolist()
      [[7.0, 8.0], [1.0, 2.0]]
    """

    sizes: tuple[int, ...]
    """Number of units of each layer."""
    names: tuple[str, ...]
    """Names of the arrays in the carry of a layer."""

    @nn.compact
    def __call__(self, carry: tuple[Carry, ...]) -> tuple[Carry, ...]:
        """Return the carry with the learned state in the rows that have not begun."""

        def begin(index: int, name: str, state_BH: jax.Array) -> jax.Array:
            zeros: Any = nn.initializers.zeros
            start_H = self.param(f"{index}_{name}", zeros, (self.sizes[index],))
            return jnp.where(state_BH == NOT_BEGUN, start_H, state_BH)

        return tuple(
            tuple(
                begin(index, name, state_BH)
                for name, state_BH in zip(self.names, layer, strict=True)
            )
            for index, layer in enumerate(carry)
        )


class RNN(Recurrent):
    """An Elman network: `Recurrent` with the ElmanCell.

    Example:
      >>> RNN(vocab_size=7, hidden_size=3, num_layers=2).sizes
      (3, 3)
    """

    cell: Cell = CELLS["rnn"]


class GRU(Recurrent):
    """A gated recurrent unit network: `Recurrent` with the GRUCell.

    Example:
      >>> GRU(vocab_size=7, hidden_size=3, num_layers=2).sizes
      (3, 3)
    """

    cell: Cell = CELLS["gru"]


class LSTM(Recurrent):
    """A long short-term memory network: `Recurrent` with the LSTMCell.

    Example:
      >>> LSTM(vocab_size=7, hidden_size=3, num_layers=2).sizes
      (3, 3)
    """

    cell: Cell = CELLS["lstm"]
