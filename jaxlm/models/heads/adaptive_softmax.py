"""The adaptive softmax: an output layer with clusters of rare words, which have fewer features."""

import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm.errors import SettingError
from jaxlm.models.heads.base import Head
from jaxlm.models.layers import Affine, project, to_embedding_size, uniform
from jaxlm.ops.output_layer import output_cross_entropy
from jaxlm.ops.products import as_output_matrix
from jaxlm.parallel.mesh import Axes
from jaxlm.parallel.shard_map import ShardedAxes, on_each_device

Tables = jax.Array | tuple[jax.Array, ...]
"""The embedding: one table C [V, D], or a tuple with a table C_k [words, D_k] of each cluster."""
HeadWeights = tuple[jax.Array, jax.Array]
"""U and b of the head."""
TailWeights = tuple[jax.Array | None, jax.Array, jax.Array]
"""R, U and b of a cluster of rare words (a tail). R is None if the cluster reads all features."""


def reduced_size(features: int, cluster: int) -> int:
    """Return F_k, the number of features of cluster k: F / 4^k rounded down, and at least 1."""
    return max(1, features // 4**cluster)


def cluster_edges(vocab_size: int, cutoffs: tuple[int, ...]) -> tuple[int, ...]:
    """Return the first id of each cluster of rare words, then the vocabulary size.

    `cutoffs` are the first ids of the clusters. If it is empty, clusters start at a fifth and at
    three fifths of the vocabulary.

    Example:
      >>> cluster_edges(10_000, ())
      (2000, 6000, 10000)
    """
    fifths = max(1, vocab_size // 5), max(2, 3 * vocab_size // 5)
    return *(cutoffs or fifths), vocab_size


def increasing(numbers: tuple[int, ...]) -> bool:
    """Return whether the numbers increase strictly."""
    return all(first < second for first, second in itertools.pairwise(numbers))


def check_cutoffs(model: Any) -> None:
    """Raise SettingError unless the cutoffs increase strictly, within the vocabulary.

    `model` is a NeuralModel: its `cutoffs` and its `vocab_size` are checked.
    """
    if model.vocab_size < 3 or not increasing((0, *model.cutoffs, model.vocab_size)):
        shown = ",".join(map(str, model.cutoffs)) or "(none)"
        why = (
            f"must increase strictly from at least 1 to at most {model.vocab_size - 1}, the last id"
        )
        raise SettingError("cutoffs", shown, why)


class Cluster(nn.Module):
    """The parameters of one cluster of rare words."""

    words: int
    """Number of words in the cluster."""
    init_scale: float | None
    """Draw parameters from U(±init_scale). None: a matrix [I, O] from U(±1/√I), and b = 0."""

    @nn.compact
    def __call__(self, features: int, reduced: int) -> TailWeights:
        """Return R [F, F_k], U [F_k, words] and b [words], for F `features` and F_k `reduced`."""

        def matrix(name: str, rows: int, columns: int) -> jax.Array:
            return self.param(name, uniform(self.init_scale or rows**-0.5), (rows, columns))

        reduce_FR = matrix("reduce", features, reduced)
        kernel_RW = matrix("kernel", reduced, self.words)
        bias_W = self.param("bias", uniform(self.init_scale or 0.0), (self.words,))
        return reduce_FR, kernel_RW, bias_W


class TiedHead(nn.Module):
    """The parameters of a tied head.

    The weights of its words are rows of the embedding. The weights of its clusters, and the biases,
    are parameters.
    """

    clusters: int
    """Number of clusters of rare words."""
    init_scale: float | None
    """Draw parameters from U(±init_scale). None: the clusters from U(±1/√D), and b = 0."""

    @nn.compact
    def __call__(self, words_DW: jax.Array) -> HeadWeights:
        """Return U [D, words + clusters] and b [words + clusters].

        `words_DW` holds the columns of U that belong to words.
        """
        size, words = words_DW.shape
        init = uniform(self.init_scale or size**-0.5)
        clusters_DK = self.param("clusters", init, (size, self.clusters))
        bias_O = self.param("bias", uniform(self.init_scale or 0.0), (words + self.clusters,))
        return jnp.concatenate([words_DW, clusters_DK], axis=1), bias_O


class TiedCluster(nn.Module):
    """The parameters of a tied cluster. The weights of its words are rows of the embedding."""

    init_scale: float | None
    """Draw parameters from U(±init_scale). None: R from U(±1/√D), and b = 0."""

    @nn.compact
    def __call__(self, words_RW: jax.Array, features: int) -> TailWeights:
        """Return R [features, D_k], or None if D_k = features; U [D_k, words]; and b [words].

        `words_RW` is U. `features` is the number of features that R reads.
        """
        size, words = words_RW.shape
        bias_W = self.param("bias", uniform(self.init_scale or 0.0), (words,))
        if size == features:
            return None, words_RW, bias_W
        init = uniform(self.init_scale or features**-0.5)
        return self.param("reduce", init, (features, size)), words_RW, bias_W


class AdaptiveSoftmax(Head):
    """A softmax with clusters by word frequency (Grave et al. 2017), exact in training too.

        P(w) = P_head(w)                            for the words before the first cutoff
        P(w) = P_head(cluster k) · P_k(w)           for a word of cluster k
        P_head = softmax(b + U h)                   over the first words and the clusters
        P_k = softmax(b_k + U_k R_k h)              with R_k to F / 4^k features

    Ids are sorted by frequency, most frequent first, so most tokens need only the head. The loss
    computes the product of a cluster only for tokens whose target is in the cluster.

    Parameters: head/kernel [F, c_1 + K] and head/bias; tail_k/reduce [F, F_k], tail_k/kernel [F_k,
    words] and tail_k/bias. Here c_1 is the first cutoff and K the number of clusters.

    If `tied`, the columns of U and U_k that belong to words are rows of the embedding:

    - If F differs from the embedding size D, a projection P [F, D] ("project") comes first.
    - With one embedding table, U_k reads all D features, and there is no R_k.
    - With an AdaptiveEmbedding, words of cluster k have D / 4^k features. R_k [D, D_k] is not the
      embedding's P_k.
    - The head's columns for clusters are parameters: head/clusters [D, K].

    Source: Grave, Joulin, Cissé, Grangier & Jégou, "Efficient softmax approximation for GPUs",
    2017, section 4; tied: Baevski & Auli, "Adaptive input representations for neural language
    modeling", 2019, section 3.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> settings = {"embedding_size": 4, "dtype": jnp.float32, "init_scale": None}
      >>> head = AdaptiveSoftmax(10, cutoffs=(3, 6), tied=False, **settings)
      >>> hidden_BTF, embedding_VD = jnp.ones((1, 2, 8)), jnp.ones((10, 4))
      >>> log_probs_BTV, _ = head.init_with_output(jax.random.key(0), hidden_BTF, embedding_VD)
      >>> log_probs_BTV.shape, bool(jnp.allclose(jnp.exp(log_probs_BTV).sum(-1), 1))
      ((1, 2, 10), True)
    """

    cutoffs: tuple[int, ...]
    """First id of each cluster of rare words; see `cluster_edges`."""
    adaptive_input: bool = False
    """Whether the embedding is an AdaptiveEmbedding."""

    # Clusters differ in size, so the parameters of the clusters are replicated on each device.
    shards_vocabulary = False

    @nn.nowrap
    def check(self) -> None:
        check_cutoffs(self)

    @property
    def edges(self) -> tuple[int, ...]:
        """The first id of each cluster of rare words, then the vocabulary size."""
        return cluster_edges(self.vocab_size, self.cutoffs)

    @nn.compact
    def operands(
        self, hidden_BTF: jax.Array, embedding: Tables
    ) -> tuple[jax.Array, HeadWeights, list[TailWeights]]:
        """Return h or P h, (U, b) of the head, and (R_k, U_k, b_k) of each cluster."""
        edges, settings = self.edges, (self.dtype, self.init_scale)
        tails = []
        if self.tied:
            size = self.embedding_size
            hidden_BTF = to_embedding_size(self, hidden_BTF, size, self.init_scale, self.dtype)
            # The gradient of a split is one concatenation. The gradient of slices would be a sum of
            # whole tables, each padded with zeros.
            if not isinstance(embedding, tuple):
                embedding = tuple(jnp.split(embedding, edges[:-1]))
            head_WD, *tails_WR = embedding  # R is D if there is one embedding table.
            tied_head = TiedHead(len(edges) - 1, self.init_scale, name="head")
            head = tied_head(as_output_matrix(head_WD, self.dtype))
            for index, tail_WR in enumerate(tails_WR, 1):
                tied = TiedCluster(self.init_scale, name=f"tail_{index}")
                tails.append(tied(as_output_matrix(tail_WR, self.dtype), size))
            return hidden_BTF, head, tails
        features = hidden_BTF.shape[-1]
        head_layer = Affine(edges[0] + len(edges) - 1, features, *settings, name="head")
        for index, (first, end) in enumerate(itertools.pairwise(edges), 1):
            cluster = Cluster(end - first, self.init_scale, name=f"tail_{index}")
            tails.append(cluster(features, reduced_size(features, index)))
        return hidden_BTF, head_layer.weights(features), tails

    def __call__(self, hidden_BTF: jax.Array, embedding: Tables) -> jax.Array:
        """Return log-probabilities, [B, T, V] float32. They serve as logits."""
        hidden_BTF, (kernel_FO, bias_O), tails = self.operands(hidden_BTF, embedding)
        # O: the outputs of the head, its words and the clusters. W: the words of a cluster. R: the
        # features of a cluster.
        head_BTO = jax.nn.log_softmax(project(hidden_BTF, kernel_FO, self.dtype) + bias_O)
        words = self.edges[0]
        log_probs = [head_BTO[..., :words]]
        for index, (reduce_FR, kernel_RW, bias_W) in enumerate(tails):
            reduced_BTR = self._reduce(hidden_BTF, reduce_FR)
            tail_BTW = jax.nn.log_softmax(project(reduced_BTR, kernel_RW, self.dtype) + bias_W)
            log_probs.append(head_BTO[..., words + index, None] + tail_BTW)
        return jnp.concatenate(log_probs, axis=-1)

    def _reduce(self, hidden_BTF: jax.Array, reduce_FR: jax.Array | None) -> jax.Array:
        """Return R_k h, or h if there is no R_k."""
        if reduce_FR is None:
            return hidden_BTF
        return project(hidden_BTF, reduce_FR, self.dtype).astype(self.dtype)

    def loss(
        self,
        hidden_BTF: jax.Array,
        embedding: Tables,
        targets_BT: jax.Array,
        weights_BT: jax.Array,
        deterministic: bool,
    ) -> tuple[jax.Array, jax.Array]:
        hidden_BTF, *layers = self.operands(hidden_BTF, embedding)
        hidden_NF = hidden_BTF.reshape(-1, hidden_BTF.shape[-1])
        targets_N, weights_N = targets_BT.reshape(-1), weights_BT.reshape(-1)
        # Each device sorts its own tokens by cluster, and returns its own sum: K sums.
        inputs: tuple[Axes, ...] = (("batch", None), ("batch",), ("batch",), ())
        local_loss = on_each_device(self._local_loss, inputs, (("batch",), ("batch",)))
        totals_K, nll_N = local_loss(hidden_NF, targets_N, weights_N, layers)
        return jnp.sum(totals_K), nll_N.reshape(targets_BT.shape)

    @nn.nowrap
    def _local_loss(
        self,
        sharded: ShardedAxes,
        hidden_NF: jax.Array,
        targets_N: jax.Array,
        weights_N: jax.Array,
        layers: tuple[HeadWeights, list[TailWeights]],
    ) -> tuple[jax.Array, jax.Array]:
        """Return this device's sum, [1], and the nll of each of its tokens, [N].

        `on_each_device` concatenates the sums of the devices along the axis of length 1.
        """
        (kernel_FO, bias_O), tails = layers
        # In the head, the target of a rare word is the word's cluster.
        starts_K = jnp.asarray(self.edges[:-1], targets_N.dtype)
        cluster_N = jnp.sum(targets_N[:, None] >= starts_K, axis=-1)
        head_targets_N = jnp.where(cluster_N == 0, targets_N, self.edges[0] - 1 + cluster_N)
        total, nll_N = output_cross_entropy(
            hidden_NF, kernel_FO, bias_O, head_targets_N, weights_N, self.dtype
        )
        for index, (reduce_FR, kernel_RW, bias_W) in enumerate(tails, 1):
            # Tokens of the cluster are sorted to the front, and only these are computed.
            inside_N = cluster_N == index
            order_N = jnp.argsort(~inside_N, stable=True)
            sorted_NF = hidden_NF.at[order_N].get(unique_indices=True)
            reduced_NR = self._reduce(sorted_NF[None], reduce_FR)[0]
            tail_targets_N = jnp.clip(targets_N - self.edges[index - 1], 0, bias_W.shape[0] - 1)
            tail_total, sorted_nll_N = output_cross_entropy(
                reduced_NR,
                kernel_RW,
                bias_W,
                tail_targets_N[order_N],
                jnp.where(inside_N, weights_N, 0.0)[order_N],
                self.dtype,
                num_valid=jnp.sum(inside_N),
            )
            total = total + tail_total
            zeros_N = jnp.zeros_like(sorted_nll_N)
            tail_nll_N = zeros_N.at[order_N].set(sorted_nll_N, unique_indices=True)
            nll_N = nll_N + jnp.where(inside_N, tail_nll_N, 0.0)
        return total[None], nll_N

    @nn.nowrap
    def describe(self, features: int) -> dict[str, str]:
        edges = self.edges
        words = f"{edges[0]} words + {len(edges) - 1} clusters"
        if self.tied:
            size = self.embedding_size
            project = {} if features == size else {"/project": f"P: {features} -> {size}"}
            descriptions = project | {"/head": f"b, clusters: {size} -> {words} (U is C)"}
        else:
            descriptions = {"/head": f"U, b: {features} -> {words}"}
        for index, (first, end) in enumerate(itertools.pairwise(edges), 1):
            inside = f"{end - first} words"
            if not self.tied:
                text = f"R, U, b: {features} -> {reduced_size(features, index)} -> {inside}"
            elif self.adaptive_input:
                size = self.embedding_size
                text = f"R, b: {size} -> {reduced_size(size, index)} -> {inside} (U is C)"
            else:
                text = f"b: {inside} (U is C)"
            descriptions[f"/tail_{index}"] = text
        return descriptions
