"""The table of word features: one matrix, or one a cluster of words, the rarer the narrower."""

import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm.errors import UserError
from jaxlm.models.heads.adaptive_softmax import check_cutoffs, cluster_edges, reduced_size
from jaxlm.models.layers import Embedding, project, uniform
from jaxlm.ops.lookup import look_up


class AdaptiveEmbedding(nn.Module):
    """Word features by cluster (Baevski & Auli 2019).

        C(w) = C_0[w]             for the words before the first cutoff, D features
        C(w) = C_k[w] P_k         for a word of cluster k, which has D / 4^k features

    Parameters: table_k [words, D_k], C_k; project_k [D_k, D], P_k, drawn so that C_k P_k varies as
    C_k does.

    Source: Baevski & Auli, "Adaptive input representations for neural language modeling", 2019,
    section 3.
    """

    edges: tuple[int, ...]
    features: int
    dtype: Any
    init_scale: float | None

    def setup(self) -> None:
        tables, projections = [], []
        for index, (first, end) in enumerate(itertools.pairwise((0, *self.edges))):
            size = reduced_size(self.features, index)
            scale = self.init_scale
            init = uniform(scale) if scale else nn.initializers.normal(self.features**-0.5)
            tables.append(self.param(f"table_{index}", init, (end - first, size)))
            if index:
                # Of variance 1 / D_k.
                spread = uniform((3 / size) ** 0.5)
                shape = (size, self.features)
                projections.append(self.param(f"project_{index}", spread, shape))
        self.tables, self.projections = tuple(tables), tuple(projections)

    @property
    def embedding(self) -> tuple[jax.Array, ...]:
        """C_k of every cluster."""
        return self.tables

    def __call__(self, tokens_BT: jax.Array) -> jax.Array:
        """Features [B, T, D] in the compute dtype."""
        first, *rest = self.tables
        frequent_BT = jnp.minimum(tokens_BT, self.edges[0] - 1)
        words_BTD = look_up(first, frequent_BT).astype(self.dtype)
        places = itertools.pairwise(self.edges)
        for table_WR, project_RD, (start, end) in zip(rest, self.projections, places, strict=True):
            rows_BTR = look_up(table_WR, jnp.clip(tokens_BT - start, 0, end - start - 1))
            inside_BT1 = (tokens_BT >= start)[..., None]
            rare_BTD = project(rows_BTR, project_RD, self.dtype).astype(self.dtype)
            words_BTD = jnp.where(inside_BT1, rare_BTD, words_BTD)
        return words_BTD


def make_embedding(model: Any, dtype: Any) -> Any:
    """The table that a model's fields ask for, called with tokens; `embedding` is what a tied
    output layer reads. Raises UserError for one that cannot be.
    """
    if not model.adaptive_input:
        return Embedding(model.vocab_size, model.embedding_size, model.init_scale, dtype)
    if model.softmax != "adaptive":
        raise UserError(
            f"--adaptive-input: which words are rare is for the clusters to say: use --softmax "
            f"adaptive, not {model.softmax}"
        )
    check_cutoffs(model)
    edges = cluster_edges(model.vocab_size, model.cutoffs)
    return AdaptiveEmbedding(edges, model.embedding_size, dtype, model.init_scale)


def describe_embedding(model: Any) -> dict[str, str]:
    """What the parameters of `make_embedding` are, by their path."""
    words, size = model.vocab_size, model.embedding_size
    if not model.adaptive_input:
        return {"embedding": f"C: {words} words x {size} features"}
    clusters = len(cluster_edges(words, model.cutoffs))
    sizes = ", ".join(str(reduced_size(size, index)) for index in range(clusters))
    return {"embedding": f"C, P: {words} words x {sizes} features, by cluster, to {size}"}
