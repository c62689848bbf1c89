"""Bengio's model with residual layers, normalisation and a longer context (Sun & Iyyer 2021)."""

from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm import shapes
from jaxlm.models.adaptive_embedding import describe_embedding, make_embedding
from jaxlm.models.heads import describe_head, make_head
from jaxlm.models.layers import Affine, Dropout, check_common
from jaxlm.models.neural import NeuralModel
from jaxlm.models.windows import prepend_context, sliding_windows
from jaxlm.ops.lookup import look_up
from jaxlm.ranges import Layers, Range, Rate, Size, Window


class ModernNPLM(NeuralModel):
    """The neural probabilistic language model, revisited (Sun & Iyyer 2021, section 3).

        x  = (C(w_{t-n+1}), ..., C(w_t), g_1, ..., g_K)     n = n_step words, and K averages
        g_k = Σ_j α_kj C(w_{t-n-(k-1)W-j}), j = 0 ... W-1   of W = far_size words each
        h⁰ = p + P x          hˡ = hˡ⁻¹ + bˡ + Bˡ relu(aˡ + Aˡ LN(hˡ⁻¹)), l = 1 ... L
        P(w_{t+1} | ...) = softmax(b + U LN(h^L))

    The weights α are parameters; they start at 1 / W, so g_k starts as the mean of its window.

    Parameters: embedding C [V, D]; far/weights α [K, W]; first P [(n + K) · D, H] and p; layers_l:
    norm, inner A [H, inner_size] and a, outer B [inner_size, H] and b; norm (the last LN); output
    U [H, V] and b. The carry is the last n + K · W - 1 tokens.

    Sun & Iyyer tie U to C in an adaptive softmax, and train 16 layers with Adam.

    Example:
      >>> model = ModernNPLM(vocab_size=7, n_step=3, far_windows=2, far_size=2)
      >>> model.window
      7

    Raises:
      SettingError: for a size below 1, and a negative number of windows.
    """

    n_step: Window = 15
    """Words of context the model sees one by one."""
    far_windows: Annotated[int, Range(0, 1000)] = 4
    """Windows before these words; the model sees a weighted average of each window."""
    far_size: Annotated[int, Range(1, 100_000)] = 10
    """Words in each of these windows."""
    embedding_size: Size = 128
    """Size of a word's feature vector (a row of C)."""
    hidden_size: Size = 256
    """Features that each residual layer reads and writes."""
    inner_size: Size = 1024
    """Features inside a residual layer, between its two matrices."""
    num_layers: Layers = 4
    """Residual layers, stacked."""
    dropout: Rate = 0.0
    """Dropout on the word features, on what a layer adds, and before the output."""

    pads = True

    def setup(self) -> None:
        check_common(self)
        dtype = self.array_dtype
        self.embedding = make_embedding(self, dtype)
        if self.far_windows:
            self.far = FarAverages(self.far_windows, self.far_size)
        inputs = (self.n_step + self.far_windows) * self.embedding_size
        self.first = Affine(self.hidden_size, inputs, dtype, self.init_scale)
        self.residual = [
            ResidualLayer(
                self.hidden_size,
                self.inner_size,
                self.dropout,
                dtype,
                self.init_scale,
                name=f"layers_{index}",
            )
            for index in range(self.num_layers)
        ]
        self.norm = nn.LayerNorm(dtype=dtype)
        self.output = make_head(self)
        self.drop = Dropout(self.dropout)

    @property
    def window(self) -> int:
        return self.n_step + self.far_windows * self.far_size

    @property
    def widest(self) -> int:
        words = self.n_step + self.far_windows
        return max(words * self.embedding_size, self.hidden_size, self.inner_size)

    def initial_carry(self, batch_size: int) -> jax.Array:
        return jnp.full((batch_size, self.window - 1), self.filler_id, jnp.int32)

    def encode(
        self,
        tokens_BT: jax.Array,
        carry: jax.Array,
        last: bool,
        deterministic: bool,
        length: jax.Array | None,
    ) -> tuple[jax.Array, jax.Array]:
        shapes.check(carry, "BN", B=tokens_BT.shape[0], N=self.window - 1)
        seen_BS, carry = prepend_context(tokens_BT, carry, length)
        if last:
            seen_BS = seen_BS[:, -self.window :]
        words_BSD = self.drop(self.embedding(seen_BS), deterministic)
        # X: the concatenated features of all words and averages. The nearest words are the last
        # n_step of each window.
        x_BTX = sliding_windows(words_BSD[:, self.window - self.n_step :], self.n_step)
        if self.far_windows:
            x_BTX = jnp.concatenate([x_BTX, self.far(words_BSD, x_BTX.shape[1])], axis=-1)
        h_BTH = self.first(x_BTX)
        self.record(features=x_BTX, hidden_0=h_BTH)
        for index, layer in enumerate(self.residual, start=1):
            h_BTH = layer(h_BTH, deterministic)
            self.record(**{f"hidden_{index}": h_BTH})
        return self.norm(h_BTH), carry

    def output_dropout(self, hidden_BTF: jax.Array, deterministic: bool) -> jax.Array:
        return self.drop(hidden_BTF, deterministic)

    def layers(self) -> dict[str, str]:
        inputs, size = self.embedding_size * (self.n_step + self.far_windows), self.hidden_size
        described = describe_embedding(self)
        if self.far_windows:
            described["far"] = f"α: weights of {self.far_windows} x {self.far_size} words"
        described["first"] = f"P, p: {inputs} -> {size}"
        for index in range(self.num_layers):
            described[f"layers_{index}"] = f"LN, A, a, B, b: {size} -> {self.inner_size} -> {size}"
        described["norm"] = f"scale and shift of {size} features"
        return described | describe_head(self, size)


BLOCK = 256
"""Positions whose averages `FarAverages` computes at once."""


class FarAverages(nn.Module):
    """Weighted averages of distant words: g_1 ... g_K of every position, concatenated."""

    windows: int
    """Number of windows K."""
    size: int
    """Words in a window, W."""

    @nn.compact
    def __call__(self, words_BSD: jax.Array, positions: int) -> jax.Array:
        """Return the averages at `positions` consecutive positions, [B, T, K · D].

        `words_BSD` holds the features of all words that the positions see. The farthest window of
        the first position starts at word 0.
        """
        init = nn.initializers.constant(1 / self.size)
        weights_KW = self.param("weights", init, (self.windows, self.size))
        # `jax.export` may leave the number of positions open.
        if not isinstance(positions, int) or positions <= BLOCK:
            return self._band(weights_KW, words_BSD, positions)
        # In blocks, the memory grows with the positions and not with their square.
        batch, _, features = words_BSD.shape
        blocks, seen = -(-positions // BLOCK), BLOCK + self.windows * self.size - 1
        missing = max(0, (blocks - 1) * BLOCK + seen - words_BSD.shape[1])
        padded_BSD = jnp.pad(words_BSD, ((0, 0), (0, missing), (0, 0)))

        def block(first: jax.Array) -> jax.Array:
            part_BSD = jax.lax.dynamic_slice_in_dim(padded_BSD, first, seen, axis=1)
            return self._band(weights_KW, part_BSD, BLOCK)

        # N: the number of a block.
        g_NBTF = jax.lax.map(block, BLOCK * jnp.arange(blocks))
        g_BTF = g_NBTF.swapaxes(0, 1).reshape(batch, blocks * BLOCK, self.windows * features)
        return g_BTF[:, :positions]

    def _band(self, weights_KW: jax.Array, words_BSD: jax.Array, positions: int) -> jax.Array:
        """Return the averages of all positions at once, as a product with a band matrix."""
        batch, seen, features = words_BSD.shape
        # Position t reads K · W words, from word t on, the farthest window first. So the weights of
        # all positions are a band matrix [T, S].
        offset_TS = jnp.arange(seen)[None, :] - jnp.arange(positions)[:, None]
        # M: the K · W weights, the farthest word first.
        farthest_first_M = weights_KW[::-1, ::-1].reshape(-1)
        window_TS = offset_TS // self.size
        index_TS = jnp.clip(offset_TS, 0, self.windows * self.size - 1)
        band_TS = look_up(farthest_first_M, index_TS)
        band_KTS = jnp.stack(
            [
                jnp.where(window_TS == window, band_TS, 0.0)
                for window in reversed(range(self.windows))
            ]
        ).astype(words_BSD.dtype)
        g_BTKD = jnp.einsum("kts,bsd->btkd", band_KTS, words_BSD)
        return g_BTKD.reshape(batch, positions, self.windows * features)


class ResidualLayer(nn.Module):
    """A residual layer, h + b + B relu(a + A LN(h)), with dropout on the added term."""

    size: int
    """Number of features of h."""
    inner_size: int
    """Number of features between A and B."""
    dropout: float
    """Dropout rate."""
    dtype: Any
    """dtype of the products' operands and of the result."""
    init_scale: float | None
    """Draw parameters from U(±init_scale). None: see `Affine`."""

    @nn.compact
    def __call__(self, h_BTH: jax.Array, deterministic: bool) -> jax.Array:
        dtype = self.dtype
        normed_BTH = nn.LayerNorm(dtype=dtype, name="norm")(h_BTH)
        inner = Affine(self.inner_size, self.size, dtype, self.init_scale, name="inner")
        outer = Affine(self.size, self.inner_size, dtype, self.init_scale, name="outer")
        added_BTH = outer(jax.nn.relu(inner(normed_BTH)))
        return h_BTH + Dropout(self.dropout)(added_BTH, deterministic)
