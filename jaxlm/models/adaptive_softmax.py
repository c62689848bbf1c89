"""The adaptive softmax: an output layer whose rare words are in small clusters."""

import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm.models.layers import Affine, affine, project, uniform
from jaxlm.ops.output_layer import output_cross_entropy

Full = tuple[jax.Array, jax.Array]
"""U and b."""
Clustered = tuple[jax.Array, jax.Array, jax.Array]
"""R, U and b of a cluster."""


def _reduced_size(features: int, cluster: int) -> int:
    """F_k: a quarter as many features for each cluster further down."""
    return max(1, features // 4**cluster)


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


class AdaptiveSoftmax(nn.Module):
    """A softmax in clusters by frequency (Grave et al. 2017), exact in training as in evaluation.

        P(w) = P_head(w)                            for the words before the first cutoff
        P(w) = P_head(cluster k) · P_k(w)           for a word of cluster k
        P_head = softmax(b + U h)                   over the first words and the clusters
        P_k = softmax(b_k + U_k R_k h)              with R_k to F / 4^k features

    Ids are by frequency, most frequent first, so most tokens cost the head alone; a cluster's
    product is formed for its own tokens. Parameters: head/kernel [F, c_1 + K] and bias;
    tail_k/reduce [F, F_k], tail_k/kernel [F_k, words] and bias.

    Source: Grave, Joulin, Cissé, Grangier & Jégou, "Efficient softmax approximation for GPUs",
    2017, section 4.
    """

    vocab_size: int
    cutoffs: tuple[int, ...]
    dtype: Any
    init_scale: float | None

    @property
    def edges(self) -> tuple[int, ...]:
        """First ids of the clusters, and the end."""
        size = self.vocab_size
        return *(self.cutoffs or (max(1, size // 5), max(2, 3 * size // 5))), size

    @nn.compact
    def weights(self, features: int) -> tuple[Full, list[Clustered]]:
        """(U, b) of the head, and (R_k, U_k, b_k) of each cluster."""
        edges, settings = self.edges, (self.dtype, self.init_scale)
        head = Affine(edges[0] + len(edges) - 1, features, *settings, name="head")
        tails = []
        for index, (first, end) in enumerate(itertools.pairwise(edges), 1):
            cluster = Cluster(end - first, self.init_scale, name=f"tail_{index}")
            tails.append(cluster(features, _reduced_size(features, index)))
        return head.weights(features), tails

    def __call__(self, hidden_BTF: jax.Array, embedding_VD: jax.Array) -> jax.Array:
        """Log-probabilities [B, T, V], float32: logits whose softmax is themselves."""
        (kernel, bias), tails = self.weights(hidden_BTF.shape[-1])
        head = jax.nn.log_softmax(affine(hidden_BTF, kernel, bias, self.dtype).astype(jnp.float32))
        first = self.edges[0]
        parts = [head[..., :first]]
        for index, (reduce, kernel, bias) in enumerate(tails):
            logits = affine(self._reduced(hidden_BTF, reduce), kernel, bias, self.dtype)
            inside = jax.nn.log_softmax(logits.astype(jnp.float32))
            parts.append(head[..., first + index, None] + inside)
        return jnp.concatenate(parts, axis=-1)

    def _reduced(self, hidden_BTF: jax.Array, reduce_FR: jax.Array) -> jax.Array:
        return project(hidden_BTF.astype(self.dtype), reduce_FR.astype(self.dtype))

    def loss(
        self,
        hidden_BTF: jax.Array,
        embedding_VD: jax.Array,
        targets_BT: jax.Array,
        weights_BT: jax.Array,
        deterministic: bool,
    ) -> tuple[jax.Array, jax.Array]:
        """As OutputLayer's."""
        (kernel, bias), tails = self.weights(hidden_BTF.shape[-1])
        hidden_NF = hidden_BTF.reshape(-1, hidden_BTF.shape[-1])
        targets_N, weights_N = targets_BT.reshape(-1), weights_BT.reshape(-1)
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
            reduced_NR = self._reduced(hidden_NF[order_N][None], reduce)[0]
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
        return total, nll_N.reshape(targets_BT.shape)

    @nn.nowrap
    def note(self) -> str:
        """Nothing: the loss is exact."""
        return ""

    @nn.nowrap
    def described(self, features: int) -> dict[str, str]:
        """Each parameter group in words."""
        edges = self.edges
        found = {"/head": f"U, b: {features} -> {edges[0]} words + {len(edges) - 1} clusters"}
        for index, (first, end) in enumerate(itertools.pairwise(edges), 1):
            reduced = _reduced_size(features, index)
            found[f"/tail_{index}"] = f"R, U, b: {features} -> {reduced} -> {end - first} words"
        return found
