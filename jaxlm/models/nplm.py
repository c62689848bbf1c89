"""The neural probabilistic language model of Bengio et al. 2003."""

from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm import shapes
from jaxlm.errors import SettingError
from jaxlm.models.adaptive_embedding import describe_embedding, make_embedding
from jaxlm.models.heads import describe_head, make_head
from jaxlm.models.layers import Affine, Dropout, check_common
from jaxlm.models.neural import NeuralModel
from jaxlm.models.windows import prepend_context, sliding_windows
from jaxlm.ranges import Layers, Range, Rate, Size, Window


class NPLM(NeuralModel):
    """Neural probabilistic language model (Bengio, Ducharme, Vincent & Jauvin 2003, section 2).

        x = (C(w_{t-n+1}), ..., C(w_t))      the features of the last n = n_step words, concatenated
        y = b + W x + U tanh(d + H x)        P(w_{t+1} | ...) = softmax(y)

    W exists with `direct` only. Beyond the paper, there can be more tanh layers:

        a¹ = tanh(d + H x)      aˡ = tanh(dˡ + Hˡ aˡ⁻¹)      with `residual` aˡ⁻¹ is added

    With `layer_norm` the further layers and the output read LN(aˡ⁻¹) (Ba et al. 2016).

    Parameters: embedding C [V, D]; hidden (the matrix H, [n·D, hidden_size], and d); hidden_1,
    hidden_2, ... (Hˡ and dˡ of the further layers, l = 2, 3, ...); norms_0, norms_1, ... (the LN of
    a¹, a², ...); output [F, V] and b. The output layer reads F features: the last aˡ, followed by x
    with `direct`. So with `direct`, the output kernel is U with W below it.

    The carry is the last n - 1 tokens, int32 [B, n-1]; before the start of a text these are
    `start_id`. The paper counts the predicted word in n: its n = 5 is n_step = 4.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> model = NPLM(vocab_size=7, n_step=2, embedding_size=2, hidden_size=3)
      >>> tokens_BT = jnp.zeros((1, 4), jnp.int32)
      >>> params = model.init(jax.random.key(0), tokens_BT)["params"]
      >>> hidden_BTH, carry = model.apply({"params": params}, tokens_BT)
      >>> hidden_BTH.shape, carry.shape
      ((1, 4, 3), (1, 1))

    Raises:
      SettingError: for a size below 1, hidden_size 0 without `direct`, and `tied` with `direct`.
    """

    n_step: Window = 4
    """Words of context the model sees."""
    embedding_size: Size = 100
    """Size of a word's feature vector (a row of C)."""
    hidden_size: Annotated[int, Range(0)] = 200
    """Units in a tanh layer; 0 leaves the layer out, which needs `direct`."""
    num_layers: Layers = 1
    """Tanh layers, stacked."""
    residual: bool = False
    """Add a tanh layer's input to its output, from the second layer on."""
    layer_norm: bool = False
    """Normalise the input of each tanh layer from the second on, and of the output layer."""
    direct: bool = False
    """Connect the word features directly to the output (W in the paper)."""
    dropout: Rate = 0.0
    """Dropout on the word features, between layers and before the output."""

    pads = True

    def setup(self) -> None:
        check_common(self)
        if self.hidden_size < 1 and not (self.direct and self.hidden_size == 0):
            raise SettingError(
                "hidden_size", self.hidden_size, "must be at least 1 (or 0 with `direct`)"
            )
        deep = self.num_layers > 1 or self.residual or self.layer_norm
        if deep and not self.hidden_size:
            raise SettingError(
                "hidden_size",
                0,
                "leaves out the tanh layer: leave out `num_layers`, `residual` and `layer_norm` "
                "too",
            )
        if self.tied and self.direct:
            raise SettingError(
                "tied",
                True,
                "`tied` and `direct` exclude each other: the embedding has no row for the direct "
                "connections",
            )
        self.embedding = make_embedding(self, self.array_dtype)
        if self.hidden_size:
            window, size = self.n_step * self.embedding_size, self.hidden_size
            self.hidden = Affine(size, window, self.array_dtype, self.init_scale)
            self.further = [
                Affine(size, size, self.array_dtype, self.init_scale, name=f"hidden_{index}")
                for index in range(1, self.num_layers)
            ]
            if self.layer_norm:
                self.norms = [
                    nn.LayerNorm(dtype=self.array_dtype, name=f"norms_{index}")
                    for index in range(self.num_layers)
                ]
        self.output = make_head(self)
        self.drop = Dropout(self.dropout)

    @property
    def window(self) -> int:
        return self.n_step

    @property
    def widest(self) -> int:
        return max(self.n_step * self.embedding_size, self.hidden_size)

    def initial_carry(self, batch_size: int) -> jax.Array:
        return jnp.full((batch_size, self.n_step - 1), self.filler_id, jnp.int32)

    def encode(
        self,
        tokens_BT: jax.Array,
        carry: jax.Array,
        last: bool,
        deterministic: bool,
        length: jax.Array | None,
    ) -> tuple[jax.Array, jax.Array]:
        shapes.check(carry, "BN", B=tokens_BT.shape[0], N=self.n_step - 1)
        seen_BS, carry = prepend_context(tokens_BT, carry, length)
        if last:
            seen_BS = seen_BS[:, -self.n_step :]
        words_BSD = self.drop(self.embedding(seen_BS), deterministic)
        shapes.check(words_BSD, "BSD", B=tokens_BT.shape[0], D=self.embedding_size)
        # X: the concatenated features of n_step words.
        x_BTX = sliding_windows(words_BSD, self.n_step)
        self.record(features=x_BTX)
        parts: list[jax.Array] = []
        if self.hidden_size:
            a_BTH = self.drop(jnp.tanh(self.hidden(x_BTX)), deterministic)
            self.record(hidden_0=a_BTH)
            for index, layer in enumerate(self.further):
                input_BTH = self.norms[index](a_BTH) if self.layer_norm else a_BTH
                new_BTH = self.drop(jnp.tanh(layer(input_BTH)), deterministic)
                a_BTH = a_BTH + new_BTH if self.residual else new_BTH
                self.record(**{f"hidden_{index + 1}": a_BTH})
            parts.append(self.norms[-1](a_BTH) if self.layer_norm else a_BTH)
        if self.direct:
            parts.append(x_BTX)
        return jnp.concatenate(parts, axis=-1), carry

    def output_dropout(self, hidden_BTF: jax.Array, deterministic: bool) -> jax.Array:
        # `encode` applies the dropout to each part of the features.
        return hidden_BTF

    def layers(self) -> dict[str, str]:
        window, size = self.n_step * self.embedding_size, self.hidden_size
        features = size + (window if self.direct else 0)
        described = describe_embedding(self)
        if size:
            described["hidden"] = f"H, d: {window} -> {size}, tanh"
        for index in range(1, self.num_layers):
            described[f"hidden_{index}"] = f"H, d: {size} -> {size}, tanh"
        if self.layer_norm:
            for index in range(self.num_layers):
                described[f"norms_{index}"] = f"scale and shift of {size} features"
        return described | describe_head(self, features)
