"""A small decoder-only Transformer with attention over a sliding window."""

from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxlm import shapes
from jaxlm.models.adaptive_embedding import describe_embedding, make_embedding
from jaxlm.models.heads import describe_head, make_head
from jaxlm.models.layers import Affine, Dropout, check_common
from jaxlm.models.modern_nplm import ResidualLayer
from jaxlm.models.neural import NeuralModel
from jaxlm.models.windows import prepend_context
from jaxlm.ranges import Layers, Range, Rate, Size

LayerCache = tuple[jax.Array, jax.Array]
"""The keys and the values of the last N = n_step - 1 positions in one layer, [B, N, A] each."""
Cache = tuple[jax.Array, tuple[LayerCache, ...]]
"""The tokens of the last N positions, int32 [B, N], and the LayerCache of each layer."""

NO_TOKEN = -1


class Transformer(NeuralModel):
    """A causal Transformer (Vaswani et al. 2017), with layer normalisation before each sublayer.

        h⁰_t = √D C(w_t)                                       (P √D C(w_t) + p if D is not H)
        aˡ_t = hˡ⁻¹_t + o + O [head_1; ...; head_J]_t          l = 1 ... L, J = num_heads
        hˡ_t = aˡ_t + bˡ + Bˡ relu(iˡ + Iˡ LN(aˡ_t))
        P(w_{t+1} | ...) = softmax(b + U LN(h^L_t))

    A head compares the query of a position with the keys of n = n_step positions: the position
    itself, and the n - 1 positions before it. It returns a weighted average of their values. A bias
    falls linearly with the distance; each head has its own slope:

        q, k, v = parts of c + W LN(hˡ⁻¹)                      d = ⌈H / J⌉ features each
        s_ti    = q_t · k_i / √d - 2^{-8j/J} (t - i)           t - n < i ≤ t, head j = 1 ... J
        head_jt = Σ_i softmax_i(s_ti) v_i

    Through L layers, a prediction sees L (n - 1) + 1 tokens. Scores depend on distances and not on
    absolute positions, so a text may be cut into chunks anywhere.

    Parameters: embedding C [V, D]; first P [D, H] and p, if D is not H; layers_l: attention (norm;
    qkv W [H, 3A] and c, A = J · d; outer O [A, H] and o) and feed_forward (norm; inner I
    [H, inner_size]; outer B [inner_size, H]); norm; output [H, V] and b.

    The carry is the last n - 1 tokens, int32 [B, n-1], and the keys and values of every layer at
    these positions, [B, n-1, A] each. So for a new token each layer computes a single query, key
    and value. Where no token has been read yet, the token is -1, and no later query sees its
    position. In training, no gradient goes into the carry (as in Dai et al. 2019, section 3.2).

    Sources: layers, heads, √D and dropout: Vaswani et al., "Attention is all you need", 2017,
    sections 3 and 5.4. LN before each sublayer: Xiong et al., "On layer normalization in the
    Transformer architecture", 2020, section 3. Bias by distance (ALiBi): Press et al., "Train
    short, test long", 2022, section 3. Sliding window: Beltagy et al., "Longformer", 2020,
    section 3.1.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> model = Transformer(vocab_size=7, n_step=4, hidden_size=6, embedding_size=6, num_heads=2)
      >>> model.window
      7
      >>> tokens_BT = jnp.zeros((1, 5), jnp.int32)
      >>> params = model.init(jax.random.key(0), tokens_BT)["params"]
      >>> hidden_BTH, (tokens_BN, caches) = model.apply({"params": params}, tokens_BT)
      >>> hidden_BTH.shape, tokens_BN.shape, [key_BNA.shape for key_BNA, value_BNA in caches]
      ((1, 5, 6), (1, 3), [(1, 3, 6), (1, 3, 6)])

    Raises:
      SettingError: for a size below 1, and an `n_step` below 2.
    """

    n_step: Annotated[int, Range(2, 100_000)] = 64
    """Words that one layer's attention sees: the present word and those before it."""
    embedding_size: Size = 256
    """Size of a word's feature vector (a row of C)."""
    hidden_size: Size = 256
    """Features that each layer reads and writes (the width of the model)."""
    inner_size: Size = 1024
    """Features inside the feed-forward part of a layer."""
    num_layers: Layers = 2
    """Layers, stacked; each is attention and a feed-forward part."""
    num_heads: Size = 4
    """Attention heads in a layer."""
    dropout: Rate = 0.0
    """Dropout on the word features, on what each part of a layer adds, and before the output."""

    def setup(self) -> None:
        check_common(self)
        size, dtype = self.hidden_size, self.array_dtype
        self.embedding = make_embedding(self, dtype)
        if self.embedding_size != size:
            self.first = Affine(size, self.embedding_size, dtype, self.init_scale)
        sizes = size, self.inner_size, self.num_heads, self.head_size
        self.blocks = [
            TransformerLayer(*sizes, self.dropout, dtype, self.init_scale, name=f"layers_{index}")
            for index in range(self.num_layers)
        ]
        self.norm = nn.LayerNorm(dtype=dtype)
        self.output = make_head(self)
        self.drop = Dropout(self.dropout)

    @property
    def head_size(self) -> int:
        """Features of a key, a query and a value: hidden_size / num_heads, rounded up."""
        return -(-self.hidden_size // self.num_heads)

    @property
    def window(self) -> int:
        return self.num_layers * (self.n_step - 1) + 1

    @property
    def widest(self) -> int:
        # A query sees its block of n_step - 1 positions and the block before it.
        keys = 2 * max(1, self.n_step - 1)
        return max(self.num_heads * keys, 3 * self.num_heads * self.head_size, self.inner_size)

    def initial_carry(self, batch_size: int) -> Cache:
        # N: the n_step - 1 positions before. A: the features of all heads.
        positions = self.n_step - 1
        tokens_BN = jnp.full((batch_size, positions), NO_TOKEN, jnp.int32)
        shape = batch_size, positions, self.num_heads * self.head_size

        def zeros() -> jax.Array:
            return jnp.zeros(shape, self.array_dtype)

        return tokens_BN, tuple((zeros(), zeros()) for _ in range(self.num_layers))

    def encode(
        self,
        tokens_BT: jax.Array,
        carry: Cache,
        last: bool,
        deterministic: bool,
        length: jax.Array | None,
    ) -> tuple[jax.Array, Cache]:
        tokens_BN, caches = carry
        shapes.check(tokens_BN, "BN", B=tokens_BT.shape[0], N=self.n_step - 1)
        seen_BS, tokens_BN = prepend_context(tokens_BT, tokens_BN, length)
        words_BTD = self.embedding(jnp.maximum(tokens_BT, 0)) * self.embedding_size**0.5
        h_BTH = self.drop(words_BTD, deterministic)
        if self.embedding_size != self.hidden_size:
            h_BTH = self.first(h_BTH)
        self.record(hidden_0=h_BTH)
        new_caches = []
        for index, (layer, cache) in enumerate(zip(self.blocks, caches, strict=True), start=1):
            h_BTH, cache = layer(h_BTH, cache, seen_BS != NO_TOKEN, deterministic, length)
            self.record(**{f"hidden_{index}": h_BTH})
            new_caches.append(cache)
        h_BTH = h_BTH[:, -1:] if last else h_BTH
        return self.norm(h_BTH), (tokens_BN, tuple(new_caches))

    def output_dropout(self, hidden_BTF: jax.Array, deterministic: bool) -> jax.Array:
        return self.drop(hidden_BTF, deterministic)

    def layers(self) -> dict[str, str]:
        size, heads, head_size = self.hidden_size, self.num_heads, self.head_size
        described = describe_embedding(self)
        if self.embedding_size != size:
            described["first"] = f"P, p: {self.embedding_size} -> {size}"
        for index in range(self.num_layers):
            described[f"layers_{index}/attention"] = (
                f"LN, W, c, O, o: {heads} heads of {head_size}, over {self.n_step} words"
            )
            described[f"layers_{index}/feed_forward"] = (
                f"LN, I, i, B, b: {size} -> {self.inner_size} -> {size}"
            )
        described["norm"] = f"scale and shift of {size} features"
        return described | describe_head(self, size)


class TransformerLayer(nn.Module):
    """Attention, then a feed-forward sublayer; each reads LN of its input, and is added to it."""

    size: int
    """Number of features that the layer reads and writes, H."""
    inner_size: int
    """Number of features inside the feed-forward sublayer."""
    num_heads: int
    """Number of attention heads, J."""
    head_size: int
    """Number of features of a query, a key and a value, d."""
    dropout: float
    """Rate of the dropout on the output of each sublayer."""
    dtype: Any
    """dtype of the products' operands and of the result."""
    init_scale: float | None
    """Draw parameters from U(±init_scale). None: see `Affine`."""

    def setup(self) -> None:
        common = self.dtype, self.init_scale
        self.attention = Attention(self.size, self.num_heads, self.head_size, *common)
        self.feed_forward = ResidualLayer(self.size, self.inner_size, self.dropout, *common)
        self.drop = Dropout(self.dropout)

    def __call__(
        self,
        h_BTH: jax.Array,
        cache: LayerCache,
        is_token_BS: jax.Array,
        deterministic: bool,
        length: jax.Array | None,
    ) -> tuple[jax.Array, LayerCache]:
        """Return the layer's output and the new cache.

        Args:
          h_BTH: input of the layer.
          cache: see `Attention`.
          is_token_BS: see `Attention`.
          deterministic: whether dropout is off.
          length: int32 scalar, number of the T tokens that are read; None for all.
        """
        added_BTH, cache = self.attention(h_BTH, cache, is_token_BS, length)
        return self.feed_forward(h_BTH + self.drop(added_BTH, deterministic), deterministic), cache


class Attention(nn.Module):
    """The attention sublayer: o + O [head_1; ...; head_J], where the heads read LN(h).

    A position sees itself and the N positions before it, N = n_step - 1.
    """

    size: int
    """Number of features that the layer reads and writes, H."""
    num_heads: int
    """Number of attention heads, J."""
    head_size: int
    """Number of features of a query, a key and a value, d."""
    dtype: Any
    """dtype of the products' operands and of the result."""
    init_scale: float | None
    """Draw parameters from U(±init_scale). None: see `Affine`."""

    @nn.compact
    def __call__(
        self,
        h_BTH: jax.Array,
        cache: LayerCache,
        is_token_BS: jax.Array,
        length: jax.Array | None,
    ) -> tuple[jax.Array, LayerCache]:
        """Return the sublayer's output, which is added to h, and the new cache.

        Args:
          h_BTH: input of the layer.
          cache: keys and values of the N positions before, [B, N, A] each, A = J · d.
          is_token_BS: whether there is a token at each of the S = N + T positions.
          length: int32 scalar, number of the T tokens that are read; None for all.
        """
        batch, time, _ = h_BTH.shape
        width = self.num_heads * self.head_size
        for array_BNA in cache:
            shapes.check(array_BNA, "BNA", B=batch, N=is_token_BS.shape[1] - time, A=width)
        normed_BTH = nn.LayerNorm(dtype=self.dtype, name="norm")(h_BTH)
        qkv = Affine(3 * width, self.size, self.dtype, self.init_scale, name="qkv")
        query_BTA, key_BTA, value_BTA = jnp.split(qkv(normed_BTH), 3, axis=-1)
        key_BSA, key_BNA = prepend_context(key_BTA, cache[0], length)
        value_BSA, value_BNA = prepend_context(value_BTA, cache[1], length)
        heads_BTA = sliding_attention(query_BTA, key_BSA, value_BSA, is_token_BS, self.num_heads)
        outer = Affine(self.size, width, self.dtype, self.init_scale, name="outer")
        return outer(heads_BTA), (key_BNA, value_BNA)


def sliding_attention(
    query_BTA: jax.Array,
    key_BSA: jax.Array,
    value_BSA: jax.Array,
    is_token_BS: jax.Array,
    num_heads: int,
) -> jax.Array:
    """Return the outputs of all heads, concatenated.

        s_ti    = q_t · k_i / √d - 2^{-8j/J} (t - i)           t - N ≤ i ≤ t
        head_jt = Σ_i softmax_i(s_ti) v_i

    The queries are cut into blocks of at most N positions. A block sees its own positions and the N
    positions before them, so memory grows with T and not with T².

    Args:
      query_BTA: queries of all heads, A = J · d.
      key_BSA: keys, S = N + T. The first N keys are at the positions before the first query.
      value_BSA: values at the same positions.
      is_token_BS: whether a query may see the position. Every query sees its own position.
      num_heads: number of heads J.
    Returns:
      [B, T, A] in the dtype of the values.
    """
    # K: blocks. Q: the queries of a block. P: the N + Q positions that a block sees.
    batch, time, width = query_BTA.shape
    before = key_BSA.shape[1] - time
    # `jax.export` may leave T open; then every block has N positions.
    size = min(time, before) if isinstance(time, int) else before
    blocks = -(-time // size)

    def in_blocks(x_BT: jax.Array) -> jax.Array:
        """Return [B, T, ...] as blocks [B, K, Q, ...]; the last block is padded."""
        padding = [(0, 0), (0, blocks * size - time)] + [(0, 0)] * (x_BT.ndim - 2)
        return jnp.pad(x_BT, padding).reshape(batch, blocks, size, *x_BT.shape[2:])

    def seen_by_blocks(x_BS: jax.Array) -> jax.Array:
        """Return the positions of [B, S, ...] that each block sees, [B, K, P, ...]."""
        if blocks == 1:
            return x_BS[:, None]
        # With several blocks, Q is N: a block sees the block before it and itself.
        blocks_BKQ = in_blocks(x_BS[:, before:])
        earlier_BKN = jnp.concatenate([x_BS[:, None, :before], blocks_BKQ[:, :-1]], axis=1)
        return jnp.concatenate([earlier_BKN, blocks_BKQ], axis=2)

    def by_head(x: jax.Array) -> jax.Array:
        """Return [B, K, Q or P, A] as [B, K, Q or P, J, d]."""
        return x.reshape(*x.shape[:3], num_heads, -1)

    query_BKQJd = by_head(in_blocks(query_BTA))
    key_BKPJd = by_head(seen_by_blocks(key_BSA))
    value_BKPJd = by_head(seen_by_blocks(value_BSA))
    # Made inside of the program: as constants, they would fill the compiled program.
    distance_QP = before + jnp.arange(size)[:, None] - jnp.arange(before + size)
    near_QP = (distance_QP >= 0) & (distance_QP <= before)
    is_token_BKP = seen_by_blocks(is_token_BS)
    visible_BKQP = near_QP & (is_token_BKP[:, :, None] | (distance_QP == 0))
    slope_J11 = (2.0 ** (-8 * np.arange(1, num_heads + 1) / num_heads))[:, None, None]
    bias_JQP = -jnp.float32(slope_J11) * distance_QP.astype(jnp.float32)
    product_BKJQP = jnp.einsum(
        "bkqjd,bkpjd->bkjqp", query_BKQJd, key_BKPJd, preferred_element_type=jnp.float32
    )
    score_BKJQP = product_BKJQP * (width // num_heads) ** -0.5 + bias_JQP
    weight_BKJQP = jax.nn.softmax(jnp.where(visible_BKQP[:, :, None], score_BKJQP, -jnp.inf))
    heads_BKQJd = jnp.einsum(
        "bkjqp,bkpjd->bkqjd", weight_BKJQP.astype(value_BSA.dtype), value_BKPJd
    )
    return heads_BKQJd.reshape(batch, blocks * size, width)[:, :time]
