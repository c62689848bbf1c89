"""The interface of output layers."""

import abc
from typing import Any

import flax.linen as nn
import jax


class Head(nn.Module, abc.ABC):
    """An output layer: from features h to the distribution of the next token.

    `make_head` gives each field the model's setting of the same name, and `dtype` the model's array
    dtype. A subclass adds its own settings as fields, which `NeuralModel` declares too.
    """

    vocab_size: int
    """Number of words V."""
    tied: bool
    """Use the embedding as the output weights of words."""
    embedding_size: int
    """Embedding size D."""
    dtype: Any
    """dtype of the products' operands."""
    init_scale: float | None
    """Draw parameters from U(±init_scale). None: a matrix [I, O] from U(±1/√I), and zero biases."""

    # Whether the output parameters and the embedding are sharded over the vocabulary on a mesh.
    shards_vocabulary = True

    @abc.abstractmethod
    def __call__(self, hidden_BTF: jax.Array, embedding: Any) -> jax.Array:
        """Return the logits, [B, T, V].

        They have the compute dtype, or they are log-probabilities in float32.

        Args:
          hidden_BTF: features, in the compute dtype.
          embedding: word features [V, D], float32, or the tables of an AdaptiveEmbedding.
        """

    @abc.abstractmethod
    def loss(
        self,
        hidden_BTF: jax.Array,
        embedding: Any,
        targets_BT: jax.Array,
        weights_BT: jax.Array,
        deterministic: bool,
    ) -> tuple[jax.Array, jax.Array]:
        """Return Σ weight · nll and the nll of each target, without storing all logits.

        Args:
          hidden_BTF: features, in the compute dtype.
          embedding: word features, float32. Only a tied output layer uses them.
          targets_BT: ids of the words to predict, integers.
          weights_BT: weight of each target in the sum, float32.
          deterministic: False in training; True in evaluation.
        Returns:
          The weighted sum, a float32 scalar, and the nll of each target, float32 [B, T].
        """

    @nn.nowrap
    @abc.abstractmethod
    def describe(self, features: int) -> dict[str, str]:
        """Return a text that describes each parameter group, by the end of the group's path.

        `features` is F, the number of features that the layer reads.
        """

    @nn.nowrap
    def check(self) -> None:
        """Raise SettingError for a setting of the output layer that is out of range."""

    @nn.nowrap
    def note(self) -> str:
        """Return a warning if the training loss is an estimate; an empty text if it is exact."""
        return ""
