"""Output layers: logits of the next token from features, and the training loss."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm.errors import check_at_least, choose
from jaxlm.models.heads.adaptive_softmax import AdaptiveSoftmax, check_cutoffs
from jaxlm.models.heads.softmax_mixture import SoftmaxMixture
from jaxlm.models.layers import DTYPES, affine, to_embedding_size, uniform
from jaxlm.ops.output_layer import output_cross_entropy
from jaxlm.ops.sampled_softmax import sampled_cross_entropy


class OutputLayer(nn.Module):
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

    vocab_size: int
    """Number of words V."""
    tied: bool
    """Use the transposed embedding as U."""
    embedding_size: int
    """Embedding size D."""
    dtype: Any
    """dtype of the product's operands and of the logits."""
    init_scale: float | None
    """Draw parameters from U(±init_scale). None: a matrix [I, O] from U(±1/√I), and b = 0."""

    # Whether the output parameters and the embedding are sharded over the vocabulary on a mesh.
    shards_vocabulary = True

    @nn.compact
    def operands(
        self, hidden_BTF: jax.Array, embedding_VD: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return h [B, T, F], or P h [B, T, D]; U [F or D, V]; and b [V]."""
        bias_V = self.param("bias", uniform(self.init_scale or 0.0), (self.vocab_size,))
        if self.tied:
            size = embedding_VD.shape[-1]
            hidden_BTF = to_embedding_size(self, hidden_BTF, size, self.init_scale, self.dtype)
            return hidden_BTF, embedding_VD.T, bias_V
        features = hidden_BTF.shape[-1]
        init = uniform(self.init_scale or features**-0.5)
        return hidden_BTF, self.param("kernel", init, (features, self.vocab_size)), bias_V

    def __call__(self, hidden_BTF: jax.Array, embedding_VD: jax.Array) -> jax.Array:
        """Return the logits, [B, T, V] in `dtype`."""
        return affine(*self.operands(hidden_BTF, embedding_VD), self.dtype)

    def loss(
        self,
        hidden_BTF: jax.Array,
        embedding_VD: jax.Array,
        targets_BT: jax.Array,
        weights_BT: jax.Array,
        deterministic: bool,
    ) -> tuple[jax.Array, jax.Array]:
        """Return Σ weight · nll and the nll of each target, without storing all logits.

        Args:
          hidden_BTF: features, in the compute dtype.
          embedding_VD: word features, float32. Only a tied output layer uses them.
          targets_BT: ids of the words to predict, integers.
          weights_BT: weight of each target in the sum, float32.
          deterministic: False in training; True in evaluation.
        Returns:
          The weighted sum, a float32 scalar, and the nll of each target, float32 [B, T].
        """
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
    def note(self) -> str:
        """Return a warning if the training loss is an estimate; an empty text if it is exact."""
        return ""

    @nn.nowrap
    def describe(self, features: int) -> dict[str, str]:
        """Return a text that describes each parameter group, by the end of the group's path.

        `features` is F, the number of features that the layer reads.
        """
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


def _shared_settings(model: Any, dtype: Any) -> dict[str, Any]:
    """Return the module arguments that all output layers have."""
    names = ("vocab_size", "tied", "embedding_size", "init_scale")
    return {name: getattr(model, name) for name in names} | {"dtype": dtype}


def _full(model: Any, dtype: Any, **module_options: Any) -> OutputLayer:
    return OutputLayer(**_shared_settings(model, dtype), **module_options)


def _sampled(model: Any, dtype: Any, **module_options: Any) -> SampledSoftmax:
    check_at_least("sampled_words", model.sampled_words, 1)
    settings = _shared_settings(model, dtype) | {"sampled_words": model.sampled_words}
    return SampledSoftmax(**settings, **module_options)


def _adaptive(model: Any, dtype: Any, **module_options: Any) -> AdaptiveSoftmax:
    check_cutoffs(model)
    settings = _shared_settings(model, dtype)
    settings |= {"cutoffs": model.cutoffs, "adaptive_input": model.adaptive_input}
    return AdaptiveSoftmax(**settings, **module_options)


def _mixture(model: Any, dtype: Any, **module_options: Any) -> SoftmaxMixture:
    check_at_least("softmaxes", model.softmaxes, 1)
    settings = _shared_settings(model, dtype) | {"softmaxes": model.softmaxes}
    return SoftmaxMixture(**settings, **module_options)


# Functions (model, dtype, **module_options) -> output layer, for each value of `softmax`.
HEADS = {"full": _full, "adaptive": _adaptive, "sampled": _sampled, "mixture": _mixture}


def make_head(model: Any, **module_options: Any) -> Any:
    """Return the output layer that a model's settings describe.

    Called in a model's `setup`, it makes the layer a submodule of the model. With parent=None the
    layer has no parameters, and only methods such as `note` and `describe` can be called.

    Args:
      model: a NeuralModel.
      module_options: arguments of every Flax module, such as `parent`.

    Raises:
      UserError: for an unknown `softmax` or `dtype`, or a wrong setting of the output layer.
    """
    dtype = choose(DTYPES, model.compute_dtype, "dtype")
    return choose(HEADS, model.softmax, "softmax")(model, dtype, **module_options)


def describe_head(model: Any, features: int) -> dict[str, str]:
    """Return a text that describes the parameters of a model's output layer, by their path.

    `features` is the number of features that the output layer reads.
    """
    descriptions = make_head(model, parent=None).describe(features)
    return {f"output{suffix}": text for suffix, text in descriptions.items()}
