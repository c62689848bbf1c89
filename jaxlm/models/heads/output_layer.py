"""Output layers: features to the next token's distribution, and to its negative log-likelihood."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm.errors import UserError, choose
from jaxlm.models.heads.adaptive_softmax import AdaptiveSoftmax, check_cutoffs
from jaxlm.models.heads.softmax_mixture import SoftmaxMixture
from jaxlm.models.layers import DTYPES, affine, to_word_size, uniform
from jaxlm.ops.output_layer import output_cross_entropy
from jaxlm.ops.sampled_softmax import sampled_cross_entropy


class OutputLayer(nn.Module):
    """y = b + U h: features to logits. Tied, U is the transposed embedding (Inan et al. 2017; Press
    & Wolf 2017), of P h where h has another size than a word (project [F, D]).
    """

    vocab_size: int
    tied: bool
    embedding_size: int
    dtype: Any
    init_scale: float | None

    # Whether its words, and their rows of the embedding, may be spread over devices.
    spreads = True

    @nn.compact
    def operands(
        self, hidden_BTF: jax.Array, embedding_VD: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """What the product is of: h, or P h; U [F or D, V]; and b [V]."""
        bias_V = self.param("bias", uniform(self.init_scale or 0.0), (self.vocab_size,))
        if self.tied:
            size = embedding_VD.shape[-1]
            hidden_BTF = to_word_size(self, hidden_BTF, size, self.init_scale, self.dtype)
            return hidden_BTF, embedding_VD.T, bias_V
        features = hidden_BTF.shape[-1]
        init = uniform(self.init_scale or features**-0.5)
        return hidden_BTF, self.param("kernel", init, (features, self.vocab_size)), bias_V

    def __call__(self, hidden_BTF: jax.Array, embedding_VD: jax.Array) -> jax.Array:
        """Logits [B, T, V] in the compute dtype."""
        return affine(*self.operands(hidden_BTF, embedding_VD), self.dtype)

    def loss(
        self,
        hidden_BTF: jax.Array,
        embedding_VD: jax.Array,
        targets_BT: jax.Array,
        weights_BT: jax.Array,
        deterministic: bool,
    ) -> tuple[jax.Array, jax.Array]:
        """Σ weight · nll, and the nll of every target [B, T]: the logits are never all there."""
        total, nll_N = output_cross_entropy(
            *self._flat(hidden_BTF, embedding_VD),
            targets_BT.reshape(-1),
            weights_BT.reshape(-1),
            self.dtype,
        )
        return total, nll_N.reshape(targets_BT.shape)

    def _flat(
        self, hidden_BTF: jax.Array, embedding_VD: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        hidden_BTF, kernel_FV, bias_V = self.operands(hidden_BTF, embedding_VD)
        return hidden_BTF.reshape(-1, hidden_BTF.shape[-1]), kernel_FV, bias_V

    @nn.nowrap
    def note(self) -> str:
        """What a figure of training would otherwise be taken for."""
        return ""

    @nn.nowrap
    def described(self, features: int) -> dict[str, str]:
        """Each parameter group in words."""
        words = f"{self.vocab_size}, softmax"
        if not self.tied:
            return {"": f"U, b: {features} -> {words}"}
        through = "" if features == self.embedding_size else f"{self.embedding_size} -> "
        which = "P, b" if through else "b"
        return {"": f"{which}: {features} -> {through}{words} (U is C)"}


class SampledSoftmax(OutputLayer):
    """An OutputLayer that training compares with a few words instead of all: `sampled_words` of
    them, drawn anew for each step; see `ops.sampled_softmax`. Evaluation, scores and generation are
    those of the full softmax.
    """

    sampled_words: int = 1024

    def loss(
        self,
        hidden_BTF: jax.Array,
        embedding_VD: jax.Array,
        targets_BT: jax.Array,
        weights_BT: jax.Array,
        deterministic: bool,
    ) -> tuple[jax.Array, jax.Array]:
        if deterministic:
            return super().loss(hidden_BTF, embedding_VD, targets_BT, weights_BT, deterministic)
        nll_N = sampled_cross_entropy(
            self.make_rng("sampling"),
            *self._flat(hidden_BTF, embedding_VD),
            targets_BT.reshape(-1),
            self.sampled_words,
            self.dtype,
        )
        return jnp.sum(nll_N * weights_BT.reshape(-1)), nll_N.reshape(targets_BT.shape)

    @nn.nowrap
    def note(self) -> str:
        return (
            f"the training loss is approximate: a softmax over {self.sampled_words:,} sampled "
            f"words of {self.vocab_size:,}; validation and evaluation are exact"
        )


def _settings(model: Any, dtype: Any) -> dict[str, Any]:
    names = ("vocab_size", "tied", "embedding_size", "init_scale")
    return {name: getattr(model, name) for name in names} | {"dtype": dtype}


def _full(model: Any, dtype: Any, **where: Any) -> OutputLayer:
    return OutputLayer(**_settings(model, dtype), **where)


def _sampled(model: Any, dtype: Any, **where: Any) -> SampledSoftmax:
    words = model.sampled_words
    if words < 1:
        raise UserError(f"--sampled-words {words}: must be at least 1")
    return SampledSoftmax(**_settings(model, dtype), sampled_words=words, **where)


def _adaptive(model: Any, dtype: Any, **where: Any) -> AdaptiveSoftmax:
    check_cutoffs(model)
    where |= {"cutoffs": model.cutoffs, "adaptive_input": model.adaptive_input}
    return AdaptiveSoftmax(**_settings(model, dtype), **where)


def _mixture(model: Any, dtype: Any, **where: Any) -> SoftmaxMixture:
    if model.softmaxes < 1:
        raise UserError(f"--softmaxes {model.softmaxes}: must be at least 1")
    return SoftmaxMixture(**_settings(model, dtype), softmaxes=model.softmaxes, **where)


HEADS = {"full": _full, "adaptive": _adaptive, "sampled": _sampled, "mixture": _mixture}


def make_head(model: Any, **where: Any) -> Any:
    """The output layer that a model's fields ask for, as a part of it; with parent=None by itself,
    to be asked what it is. Raises UserError for one there is not.
    """
    dtype = choose(DTYPES, model.compute_dtype, "dtype")
    return choose(HEADS, model.softmax, "softmax")(model, dtype, **where)


def describe_head(model: Any, features: int) -> dict[str, str]:
    """What the parameters of a model's output layer are, by their paths."""
    described = make_head(model, parent=None).described(features)
    return {f"output{part}": text for part, text in described.items()}
