"""The neural probabilistic language model of Bengio et al. 2003."""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm import shapes
from jaxlm.errors import UserError
from jaxlm.models.adaptive_embedding import describe_embedding, make_embedding
from jaxlm.models.heads.output_layer import describe_head, make_head
from jaxlm.models.layers import DTYPES, Affine, Dropout, check_common
from jaxlm.models.neural import NeuralModel
from jaxlm.models.windows import side_by_side, with_context


@dataclass(frozen=True)
class NPLMConfig:
    """Bengio's feed-forward model over a window of words."""

    n_step: int = 4
    """Words of context the model sees."""
    embedding_size: int = 100
    """Size of a word's feature vector (a row of C)."""
    hidden_size: int = 200
    """Size of the tanh layer; 0 leaves it out, which needs --direct."""
    num_layers: int = 1
    """Tanh layers, one on another."""
    residual: bool = False
    """Add a tanh layer's input to its output, from the second layer on."""
    layer_norm: bool = False
    """Normalise what goes into each tanh layer from the second on, and into the output."""
    direct: bool = False
    """Connect the word features directly to the output (W in the paper)."""
    tied: bool = False
    """Use the embedding, transposed, as the output matrix (projected if sizes differ)."""
    dropout: float = 0.0
    """Dropout on the word features and on the hidden layer."""
    init_scale: float | None = None
    """Draw every parameter from U(-s, s) (none: each layer by its own size)."""
    dtype: str | None = None
    """Compute in float32, tf32 (the same with a GPU's faster, shorter products) or bfloat16 (none:
    bfloat16 on a TPU, float32 elsewhere); parameters and loss are float32 in any case."""
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


class NPLM(NeuralModel):
    """Neural probabilistic language model (Bengio, Ducharme, Vincent & Jauvin 2003, section 2).

        x = (C(w_{t-n+1}), ..., C(w_t))      the features of the last n = n_step words, side by side
        y = b + W x + U tanh(d + H x)        P(w_{t+1} | ...) = softmax(y)

    W is there with `direct`, else 0. Beyond the paper: more layers, aˡ = tanh(dˡ + Hˡ aˡ⁻¹) after
    a¹ = tanh(d + H x), to which `residual` adds aˡ⁻¹; with `layer_norm` they and the output read
    LN(aˡ⁻¹) (norms_l; Ba et al. 2016). Parameters: embedding C [V, D]; hidden H [n·D, H] and d;
    output [F, V] and b, where the features F are tanh(...), followed by x if `direct`: the kernel
    is U over W.

    The carry is the last n_step - 1 tokens, int32 [B, N-1]; before the text's start it is
    `start_id`. The paper counts the predicted word in n: its n = 5 is n_step = 4.

    Raises UserError for sizes below 1, hidden_size 0 without `direct`, and tied weights with it.
    """

    n_step: int = 4
    embedding_size: int = 100
    hidden_size: int = 200
    num_layers: int = 1
    residual: bool = False
    layer_norm: bool = False
    direct: bool = False
    tied: bool = False
    dropout: float = 0.0
    init_scale: float | None = None
    dtype: str = "float32"
    softmax: str = "full"
    cutoffs: tuple[int, ...] = ()
    adaptive_input: bool = False
    sampled_words: int = 1024
    softmaxes: int = 10

    pads = True

    def setup(self) -> None:
        check_common(self)
        if self.hidden_size < 1 and not (self.direct and self.hidden_size == 0):
            raise UserError(
                f"--hidden-size {self.hidden_size}: must be at least 1 (or 0 with --direct)"
            )
        deep = self.num_layers > 1 or self.residual or self.layer_norm
        if deep and not self.hidden_size:
            raise UserError(
                "--hidden-size 0 leaves out the tanh layer: leave out --num-layers, --residual and "
                "--layer-norm too"
            )
        if self.tied and self.direct:
            raise UserError(
                "--tied and --direct exclude each other: the embedding has no row for the "
                "direct connections"
            )
        dtype = DTYPES[self.dtype]
        self.embedding = make_embedding(self, dtype)
        if self.hidden_size:
            window = self.n_step * self.embedding_size
            self.hidden = Affine(self.hidden_size, window, dtype, self.init_scale)
            sizes = self.hidden_size, self.hidden_size, dtype, self.init_scale
            more = range(1, self.num_layers)
            self.further = [Affine(*sizes, name=f"hidden_{index}") for index in more]
            if self.layer_norm:
                self.norms = [
                    nn.LayerNorm(dtype=dtype, name=f"norms_{index}")
                    for index in range(self.num_layers)
                ]
        self.output = make_head(self)
        self.drop = Dropout(self.dropout)

    @property
    def window(self) -> int:
        return self.n_step

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
        seen_BS, carry = with_context(tokens_BT, carry, length)
        if last:
            seen_BS = seen_BS[:, -self.n_step :]
        words_BSD = self.drop(self.embedding(seen_BS), deterministic)
        shapes.check(words_BSD, "BSD", B=tokens_BT.shape[0], D=self.embedding_size)
        x_BTX = side_by_side(words_BSD, self.n_step)
        parts: list[jax.Array] = []
        if self.hidden_size:
            a_BTH = self.drop(jnp.tanh(self.hidden(x_BTX)), deterministic)
            for index, layer in enumerate(self.further):
                read_BTH = self.norms[index](a_BTH) if self.layer_norm else a_BTH
                new_BTH = self.drop(jnp.tanh(layer(read_BTH)), deterministic)
                a_BTH = a_BTH + new_BTH if self.residual else new_BTH
            parts.append(self.norms[-1](a_BTH) if self.layer_norm else a_BTH)
        if self.direct:
            parts.append(x_BTX)
        return jnp.concatenate(parts, axis=-1), carry

    def layers(self) -> dict[str, str]:
        window = self.n_step * self.embedding_size
        features = self.hidden_size + (window if self.direct else 0)
        size = self.hidden_size
        described = describe_embedding(self)
        if size:
            described["hidden"] = f"H, d: {window} -> {size}, tanh"
        for index in range(1, self.num_layers):
            described[f"hidden_{index}"] = f"H, d: {size} -> {size}, tanh"
        if self.layer_norm:
            for index in range(self.num_layers):
                described[f"norms_{index}"] = f"scale and shift of {size} features"
        return described | describe_head(self, features)
