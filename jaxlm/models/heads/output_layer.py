"""The full softmax, and the sampled softmax."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm.errors import check_at_least
from jaxlm.models.heads.base import Head
from jaxlm.models.layers import project, to_embedding_size, uniform
from jaxlm.ops.output_layer import output_cross_entropy
from jaxlm.ops.products import as_output_matrix
from jaxlm.ops.sampled_softmax import sampled_cross_entropy


class OutputLayer(Head):
    """The full softmax: logits y = b + U h.

    If `tied`, U is the transposed embedding (Inan et al. 2017; Press & Wolf 2017). If the number of
    features F then differs from the embedding size D, h is first projected: y = b + U P h.

    Parameters: kernel U [F, V] unless tied, bias b [V], and project P [F, D] if needed.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> head = OutputLayer(10, False, embedding_size=4, dtype=jnp.float32, init_scale=None)
      >>> hidden_BTF, embedding_VD = jnp.ones((2, 3, 5)), jnp.ones((10, 4))
      >>> logits_BTV, _ = head.init_with_output(jax.random.key(0), hidden_BTF, embedding_VD)
      >>> logits_BTV.shape
      (2, 3, 10)
    """

    @nn.compact
    def operands(
        self, hidden_BTF: jax.Array, embedding_VD: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return h [B, T, F], or P h [B, T, D]; U [F or D, V]; and b [V]."""
        bias_V = self.param("bias", uniform(self.init_scale or 0.0), (self.vocab_size,))
        if self.tied:
            size = embedding_VD.shape[-1]
            hidden_BTF = to_embedding_size(self, hidden_BTF, size, self.init_scale, self.dtype)
            return hidden_BTF, as_output_matrix(embedding_VD, self.dtype), bias_V
        features = hidden_BTF.shape[-1]
        init = uniform(self.init_scale or features**-0.5)
        return hidden_BTF, self.param("kernel", init, (features, self.vocab_size)), bias_V

    def __call__(self, hidden_BTF: jax.Array, embedding_VD: jax.Array) -> jax.Array:
        """Return the logits, [B, T, V] float32: products in `dtype`, sums and bias in float32."""
        hidden_BTF, kernel_FV, bias_V = self.operands(hidden_BTF, embedding_VD)
        return project(hidden_BTF, kernel_FV, self.dtype) + bias_V

    def loss(
        self,
        hidden_BTF: jax.Array,
        embedding_VD: jax.Array,
        targets_BT: jax.Array,
        weights_BT: jax.Array,
        deterministic: bool,
    ) -> tuple[jax.Array, jax.Array]:
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
        """Return `operands` with batch and time merged: h [N, F], U [F, V] and b [V]."""
        hidden_BTF, kernel_FV, bias_V = self.operands(hidden_BTF, embedding_VD)
        return hidden_BTF.reshape(-1, hidden_BTF.shape[-1]), kernel_FV, bias_V

    @nn.nowrap
    def describe(self, features: int) -> dict[str, str]:
        words = f"{self.vocab_size}, softmax"
        if not self.tied:
            return {"": f"U, b: {features} -> {words}"}
        through = "" if features == self.embedding_size else f"{self.embedding_size} -> "
        which = "P, b" if through else "b"
        return {"": f"{which}: {features} -> {through}{words} (U is C)"}


class SampledSoftmax(OutputLayer):
    """An output layer whose training loss uses a random sample of the vocabulary.

    Each training step draws a new sample; see `ops.sampled_softmax`. Evaluation, scores and
    generation use the full softmax.
    """

    sampled_words: int = 1024
    """Number of words in a sample."""

    @nn.nowrap
    def check(self) -> None:
        check_at_least("sampled_words", self.sampled_words, 1)

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
