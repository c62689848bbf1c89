"""The adaptive embedding: word features in clusters by frequency, with fewer for rare words."""

import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm.errors import SettingError
from jaxlm.models.heads.adaptive_softmax import check_cutoffs, cluster_edges, reduced_size
from jaxlm.models.layers import Embedding, check_parameter, embedding_init, project, uniform
from jaxlm.ops.lookup import look_up


class AdaptiveEmbedding(nn.Module):
    """Word features in clusters by frequency (Baevski & Auli 2019).

        C(w) = C_0[w]             for the words before the first cutoff, D features
        C(w) = C_k[w] P_k         for a word of cluster k, which has D / 4^k features

    Parameters: table_k [words, D_k] is C_k, and project_k [D_k, D] is P_k, with D_k = D / 4^k. The
    initial variance of P_k is 1 / D_k. So the features of all words start with the same variance,
    the variance of the tables.

    Source: Baevski & Auli, "Adaptive input representations for neural language modeling", 2019,
    section 3.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> module = AdaptiveEmbedding((2, 5), features=8, dtype=jnp.float32, init_scale=None)
      >>> variables = module.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
      >>> jax.tree.map(jnp.shape, variables["params"])
      {'project_1': (2, 8), 'table_0': (2, 8), 'table_1': (3, 2)}
    """

    edges: tuple[int, ...]
    """The id after each cluster's last word. The last edge is the vocabulary size."""
    features: int
    """Embedding size D."""
    dtype: Any
    """dtype of the result."""
    init_scale: float | None
    """Draw the tables, but not the projections, from U(±init_scale). None: N(0, 1/D)."""
    scale: float | None = None
    """Draw the tables from N(0, scale²), in place of `init_scale`."""

    def setup(self) -> None:
        tables, projections = [], []
        for index, (first, end) in enumerate(itertools.pairwise((0, *self.edges))):
            size = reduced_size(self.features, index)
            init = embedding_init(self.features, self.init_scale, self.scale)
            check_parameter((end - first, size))
            tables.append(self.param(f"table_{index}", init, (end - first, size)))
            if index:
                # A uniform distribution on ±√(3 / D_k) has the variance 1 / D_k.
                init = uniform((3 / size) ** 0.5)
                shape = (size, self.features)
                projections.append(self.param(f"project_{index}", init, shape))
        self.tables, self.projections = tuple(tables), tuple(projections)

    @property
    def embedding(self) -> tuple[jax.Array, ...]:
        """The table C_k of each cluster, [words, D_k]."""
        return self.tables

    def __call__(self, tokens_BT: jax.Array) -> jax.Array:
        """Return word features, [B, T, D] in `dtype`."""
        # W: the words of a cluster. R: the features D_k of a cluster.
        table_WD, *tables_WR = self.tables
        frequent_BT = jnp.minimum(tokens_BT, self.edges[0] - 1)
        words_BTD = look_up(table_WD, frequent_BT).astype(self.dtype)
        clusters = zip(tables_WR, self.projections, itertools.pairwise(self.edges), strict=True)
        for table_WR, project_RD, (start, end) in clusters:
            rows_BTR = look_up(table_WR, jnp.clip(tokens_BT - start, 0, end - start - 1))
            # Words of later clusters are inside too; the next iterations overwrite them.
            inside_BT1 = (tokens_BT >= start)[..., None]
            rare_BTD = project(rows_BTR, project_RD, self.dtype).astype(self.dtype)
            words_BTD = jnp.where(inside_BT1, rare_BTD, words_BTD)
        return words_BTD


def make_embedding(model: Any, dtype: Any) -> Any:
    """Return the embedding module that a model's settings describe.

    `model` is a NeuralModel. The module maps tokens [B, T] to features [B, T, D] in `dtype`. Its
    attribute `embedding` is the table, or the tuple of tables, for a tied output layer.

    Raises:
      SettingError: if `adaptive_input` is set without `softmax` adaptive, or for wrong `cutoffs`.
    """
    if not model.adaptive_input:
        return Embedding(
            model.vocab_size,
            model.embedding_size,
            model.init_scale,
            dtype,
            model.embedding_scale,
        )
    if model.softmax != "adaptive":
        why = f"needs `softmax` adaptive, not {model.softmax}: its clusters define the rare words"
        raise SettingError("adaptive_input", model.adaptive_input, why)
    check_cutoffs(model)
    edges = cluster_edges(model.vocab_size, model.cutoffs)
    return AdaptiveEmbedding(
        edges, model.embedding_size, dtype, model.init_scale, model.embedding_scale
    )


def describe_embedding(model: Any) -> dict[str, str]:
    """Return a text that describes the parameters of `make_embedding`, by their path."""
    words, size = model.vocab_size, model.embedding_size
    if not model.adaptive_input:
        return {"embedding": f"C: {words} words x {size} features"}
    clusters = len(cluster_edges(words, model.cutoffs))
    sizes = ", ".join(str(reduced_size(size, index)) for index in range(clusters))
    return {"embedding": f"C, P: {words} words x {sizes} features, by cluster, to {size}"}
