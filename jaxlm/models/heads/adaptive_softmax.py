"""The adaptive softmax: an output layer whose rare words are in small clusters."""

import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm.errors import UserError
from jaxlm.models.layers import Affine, affine, project, to_word_size, uniform
from jaxlm.ops.output_layer import output_cross_entropy
from jaxlm.parallel.mesh import Axes
from jaxlm.parallel.shard_map import Spread, by_device

Table = jax.Array | tuple[jax.Array, ...]
"""C of all words, or of each cluster."""
Full = tuple[jax.Array, jax.Array]
"""U and b."""
Clustered = tuple[jax.Array | None, jax.Array, jax.Array]
"""R, None where a cluster's words have all the features, U and b."""


def reduced_size(features: int, cluster: int) -> int:
    """F_k: a quarter as many features for each cluster further down."""
    return max(1, features // 4**cluster)


def cluster_edges(vocab_size: int, cutoffs: tuple[int, ...]) -> tuple[int, ...]:
    """First ids of the clusters, and the end."""
    fifths = max(1, vocab_size // 5), max(2, 3 * vocab_size // 5)
    return *(cutoffs or fifths), vocab_size


def check_cutoffs(model: Any) -> None:
    """Raises UserError for cutoffs that do not rise between the ends of the vocabulary."""
    edges = (0, *model.cutoffs, model.vocab_size)
    if model.vocab_size < 3 or any(first >= end for first, end in itertools.pairwise(edges)):
        shown = ",".join(map(str, model.cutoffs))
        raise UserError(
            f"--cutoffs {shown or '(none)'}: must rise between 1 and the vocabulary's size - 1, "
            f"{model.vocab_size - 1}"
        )


class Cluster(nn.Module):
    """The parameters of one cluster of rare words."""

    words: int
    init_scale: float | None

    @nn.compact
    def __call__(self, features: int, reduced: int) -> Clustered:
        """R [F, F_k], U [F_k, words] and b [words]."""

        def matrix(name: str, rows: int, columns: int) -> jax.Array:
            return self.param(name, uniform(self.init_scale or rows**-0.5), (rows, columns))

        reduce_FR = matrix("reduce", features, reduced)
        kernel_RW = matrix("kernel", reduced, self.words)
        return (
            reduce_FR,
            kernel_RW,
            self.param("bias", uniform(self.init_scale or 0.0), (self.words,)),
        )


class TiedHead(nn.Module):
    """The parameters of a head whose words are rows of the embedding: of the clusters alone."""

    clusters: int
    init_scale: float | None

    @nn.compact
    def __call__(self, words_DW: jax.Array) -> Full:
        """U [D, words + clusters] and b."""
        size, words = words_DW.shape
        init = uniform(self.init_scale or size**-0.5)
        clusters_DK = self.param("clusters", init, (size, self.clusters))
        bias = self.param("bias", uniform(self.init_scale or 0.0), (words + self.clusters,))
        return jnp.concatenate([words_DW, clusters_DK], axis=1), bias


class TiedCluster(nn.Module):
    """The parameters of a cluster whose words are rows of the embedding."""

    init_scale: float | None

    @nn.compact
    def __call__(self, words_RW: jax.Array, features: int) -> Clustered:
        """R [features, D_k], or None if words have all the features; U [D_k, words], b [words]."""
        size, words = words_RW.shape
        bias = self.param("bias", uniform(self.init_scale or 0.0), (words,))
        if size == features:
            return None, words_RW, bias
        init = uniform(self.init_scale or features**-0.5)
        return self.param("reduce", init, (features, size)), words_RW, bias


class AdaptiveSoftmax(nn.Module):
    """A softmax in clusters by frequency (Grave et al. 2017), exact in training as in evaluation.

        P(w) = P_head(w)                            for the words before the first cutoff
        P(w) = P_head(cluster k) · P_k(w)           for a word of cluster k
        P_head = softmax(b + U h)                   over the first words and the clusters
        P_k = softmax(b_k + U_k R_k h)              with R_k to F / 4^k features

    Ids are by frequency, most frequent first, so most tokens cost the head alone; a cluster's
    product is formed for its own tokens. Parameters: head/kernel [F, c_1 + K] and bias;
    tail_k/reduce [F, F_k], tail_k/kernel [F_k, words] and bias.

    Tied, U_k are the embedding's rows of these words, and one P is there where h has another size
    than a word (project [F, D]). If they have all the features, there is no R_k; of an
    AdaptiveEmbedding they have D / 4^k, and R_k [D, D_k] is another matrix than its P_k. The
    clusters' own part of the head stays: head/clusters [D, K].

    Source: Grave, Joulin, Cissé, Grangier & Jégou, "Efficient softmax approximation for GPUs",
    2017, section 4; tied: Baevski & Auli, "Adaptive input representations for neural language
    modeling", 2019, section 3.
    """

    vocab_size: int
    cutoffs: tuple[int, ...]
    tied: bool
    embedding_size: int
    dtype: Any
    init_scale: float | None
    adaptive_input: bool = False

    # Clusters are of sizes of their own: every device has all of them.
    spreads = False

    @property
    def edges(self) -> tuple[int, ...]:
        """First ids of the clusters, and the end."""
        return cluster_edges(self.vocab_size, self.cutoffs)

    @nn.compact
    def operands(
        self, hidden_BTF: jax.Array, embedding: Table
    ) -> tuple[jax.Array, Full, list[Clustered]]:
        """What the products are of (h, or P h), (U, b) of the head, (R_k, U_k, b_k) of clusters.
        embedding: [V, D], or of each cluster [words, D_k].
        """
        edges, settings = self.edges, (self.dtype, self.init_scale)
        tails = []
        if self.tied:
            size = self.embedding_size
            hidden_BTF = to_word_size(self, hidden_BTF, size, self.init_scale, self.dtype)
            # Split, the table's gradient is one array put together; of slices it would be a sum of
            # as many tables, each padded with zeros.
            if not isinstance(embedding, tuple):
                embedding = tuple(jnp.split(embedding, edges[:-1]))
            head_WD, *tails_WR = embedding
            head = TiedHead(len(edges) - 1, self.init_scale, name="head")(head_WD.T)
            for index, tail_WR in enumerate(tails_WR, 1):
                tied = TiedCluster(self.init_scale, name=f"tail_{index}")
                tails.append(tied(tail_WR.T, size))
            return hidden_BTF, head, tails
        features = hidden_BTF.shape[-1]
        full = Affine(edges[0] + len(edges) - 1, features, *settings, name="head")
        for index, (first, end) in enumerate(itertools.pairwise(edges), 1):
            cluster = Cluster(end - first, self.init_scale, name=f"tail_{index}")
            tails.append(cluster(features, reduced_size(features, index)))
        return hidden_BTF, full.weights(features), tails

    def __call__(self, hidden_BTF: jax.Array, embedding: Table) -> jax.Array:
        """Log-probabilities [B, T, V], float32: logits whose softmax is themselves."""
        hidden_BTF, (kernel, bias), tails = self.operands(hidden_BTF, embedding)
        head = jax.nn.log_softmax(affine(hidden_BTF, kernel, bias, self.dtype).astype(jnp.float32))
        first = self.edges[0]
        parts = [head[..., :first]]
        for index, (reduce, kernel, bias) in enumerate(tails):
            logits = affine(self._reduced(hidden_BTF, reduce), kernel, bias, self.dtype)
            inside = jax.nn.log_softmax(logits.astype(jnp.float32))
            parts.append(head[..., first + index, None] + inside)
        return jnp.concatenate(parts, axis=-1)

    def _reduced(self, hidden_BTF: jax.Array, reduce_FR: jax.Array | None) -> jax.Array:
        if reduce_FR is None:
            return hidden_BTF
        return project(hidden_BTF, reduce_FR, self.dtype).astype(self.dtype)

    def loss(
        self,
        hidden_BTF: jax.Array,
        embedding: Table,
        targets_BT: jax.Array,
        weights_BT: jax.Array,
        deterministic: bool,
    ) -> tuple[jax.Array, jax.Array]:
        """As OutputLayer's."""
        hidden_BTF, *layers = self.operands(hidden_BTF, embedding)
        hidden_NF = hidden_BTF.reshape(-1, hidden_BTF.shape[-1])
        targets_N, weights_N = targets_BT.reshape(-1), weights_BT.reshape(-1)
        # Each device puts its own tokens in order, and the sums are added up after it.
        inputs: tuple[Axes, ...] = (("batch", None), ("batch",), ("batch",), ())
        by_its_tokens = by_device(self._loss, inputs, (("batch",), ("batch",)))
        totals, nll_N = by_its_tokens(hidden_NF, targets_N, weights_N, layers)
        return jnp.sum(totals), nll_N.reshape(targets_BT.shape)

    @nn.nowrap
    def _loss(
        self,
        spread: Spread,
        hidden_NF: jax.Array,
        targets_N: jax.Array,
        weights_N: jax.Array,
        layers: tuple[Full, list[Clustered]],
    ) -> tuple[jax.Array, jax.Array]:
        """The sum, as [1], and each token's nll."""
        (kernel, bias), tails = layers
        # A rare word's target in the head is its cluster.
        starts = jnp.asarray(self.edges[:-1], targets_N.dtype)
        cluster_N = jnp.sum(targets_N[:, None] >= starts, axis=-1)
        in_head_N = jnp.where(cluster_N == 0, targets_N, self.edges[0] - 1 + cluster_N)
        total, nll_N = output_cross_entropy(
            hidden_NF, kernel, bias, in_head_N, weights_N, self.dtype
        )
        for index, (reduce, kernel, bias) in enumerate(tails, 1):
            # The cluster's tokens come first, and only they are gone through.
            inside_N = cluster_N == index
            order_N = jnp.argsort(~inside_N, stable=True)
            inside_first_NF = hidden_NF.at[order_N].get(unique_indices=True)
            reduced_NR = self._reduced(inside_first_NF[None], reduce)[0]
            words_N = jnp.clip(targets_N - self.edges[index - 1], 0, bias.shape[0] - 1)
            part, part_N = output_cross_entropy(
                reduced_NR,
                kernel,
                bias,
                words_N[order_N],
                jnp.where(inside_N, weights_N, 0.0)[order_N],
                self.dtype,
                live=jnp.sum(inside_N),
            )
            total = total + part
            found_N = jnp.zeros_like(part_N).at[order_N].set(part_N, unique_indices=True)
            nll_N = nll_N + jnp.where(inside_N, found_N, 0.0)
        return total[None], nll_N

    @nn.nowrap
    def note(self) -> str:
        """Nothing: the loss is exact."""
        return ""

    @nn.nowrap
    def described(self, features: int) -> dict[str, str]:
        """Each parameter group in words."""
        edges = self.edges
        words = f"{edges[0]} words + {len(edges) - 1} clusters"
        if self.tied:
            size = self.embedding_size
            through = {} if features == size else {"/project": f"P: {features} -> {size}"}
            found = through | {"/head": f"b, clusters: {size} -> {words} (U is C)"}
        else:
            found = {"/head": f"U, b: {features} -> {words}"}
        for index, (first, end) in enumerate(itertools.pairwise(edges), 1):
            inside = f"{end - first} words"
            if not self.tied:
                text = f"R, U, b: {features} -> {reduced_size(features, index)} -> {inside}"
            elif self.adaptive_input:
                size = self.embedding_size
                text = f"R, b: {size} -> {reduced_size(size, index)} -> {inside} (U is C)"
            else:
                text = f"b: {inside} (U is C)"
            found[f"/tail_{index}"] = text
        return found
