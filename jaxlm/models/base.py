"""The interface of all language models, trained by gradient or by counting."""

import abc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from jaxlm.models.settings import setting_defaults

if TYPE_CHECKING:
    import jax
    from rich.table import Table

Carry = Any
"""A model's memory between two calls: any pytree whose leaves have the batch as first axis."""
Params = Any
"""The parameters of a model: a pytree of arrays, or an n-gram's tables."""
Draw = Callable[[Any, "jax.Array"], "jax.Array"]
"""draw(logits_BV, uniform_2B) -> int32 [B]: draws one token for each row.

uniform_2B holds two random numbers from [0, 1) for each row. Logits may differ from
log-probabilities by a constant for each row. The function is pure and hashable."""


class LanguageModel(abc.ABC):
    """A state machine over tokens that predicts the next token.

    Every model computes the probability of each token of a text (`token_scores`), the probability
    of every next token (`next_log_probs`), and a continuation of a text (`generate`). The
    parameters are not part of the model: each method gets them as its first argument.

    Two laws hold for every model:
      causality: the output at position t depends only on the tokens up to position t.
      chunks: running tokens[:, :k], and then tokens[:, k:] with the carry, gives the same outputs
        as running all tokens at once.

    Example:
      >>> import jaxlm
      >>> isinstance(jaxlm.NGram(vocab_size=7), LanguageModel), jaxlm.NGram(vocab_size=7).trained_by
      (True, 'counting')
    """

    trained_by: ClassVar[str]
    """"gradient" or "counting": how the parameters are trained, and how a run stores them. A
    mixture of trained models, which no run stores, has "interpolation"."""
    vocab_size: int
    start_id: int | None
    """Id of the token that stands before the first token of a text; None if there is none."""
    pads: ClassVar[bool] = False
    """Whether the model needs its whole window; a shorter context is padded with `start_id`."""

    @property
    def padded_window(self) -> int:
        """Number of tokens to which a shorter context is padded; 0 if the model pads nothing."""
        return (self.window or 0) if self.pads else 0

    starts_from_nothing: ClassVar[bool] = False
    """Whether the model can predict the first token of a text without a token before it."""
    across_lines: bool = True
    """Whether the carry goes on over line ends."""

    @property
    @abc.abstractmethod
    def window(self) -> int | None:
        """Number of tokens before the predicted token that the model sees; None if it sees all."""

    @property
    def context_size(self) -> int | None:
        """Number of tokens that the model sees before the last token it reads; None if all.

        These tokens determine the carry with which the last token is read, whatever the carry was
        before them. It is one less than `window`, because `window` contains the last token.
        """
        return None if self.window is None else max(0, self.window - 1)

    @property
    def filler_id(self) -> int:
        """Id of the token that is read before a text begins: `start_id`, or 0 if there is none."""
        return self.start_id or 0

    def settings(self) -> dict[str, Any]:
        """Return the value of each setting by name, as config.json keeps them."""
        return {name: getattr(self, name) for name in setting_defaults(type(self))}

    @abc.abstractmethod
    def tokens_in_chunk(self, detail: bool) -> int:
        """Return how many tokens (batch times time) one call may score within memory."""

    @abc.abstractmethod
    def initial_carry(self, batch_size: int) -> Carry:
        """Return the carry at the start of a text."""

    @abc.abstractmethod
    def token_scores(
        self, params: Params, inputs_BT: Any, targets_BT: Any, carry: Carry, detail: bool = False
    ) -> tuple[tuple[Any, ...], Carry]:
        """Return the log-probability of each target, given the inputs up to its position.

        Args:
          params: the parameters.
          inputs_BT: the tokens that are read, int [B, T].
          targets_BT: the token that follows each input, int [B, T].
          carry: from `initial_carry` or an earlier call.
          detail: whether to return ranks and entropies too.
        Returns:
          A tuple of arrays [B, T], and the carry after the last input. The arrays are the natural
          log-probabilities; with `detail` also the rank of each target (1: the likeliest token),
          and the entropy of the whole distribution in nats.
        """

    @abc.abstractmethod
    def next_log_probs(
        self, params: Params, tokens_BT: Any, carry: Carry = None
    ) -> tuple[Any, Carry]:
        """Return the log-probability of every token after the last input, [B, V], and the carry."""

    def generate(
        self,
        params: Params,
        prompt_BT: Any,
        key: "jax.Array",
        draw: Draw,
        length: int,
        carry: Carry = None,
    ) -> Any:
        """Return `length` tokens that continue each prompt, int32 [B, length].

        Args:
          params: the parameters.
          prompt_BT: tokens to continue, int [B, T].
          key: key of all random draws, or keys [B], one for each row.
          draw: draws one token for each row from logits and random numbers.
          length: number of tokens to generate, at least 1.
          carry: the carry before the prompt; None for the initial carry.
        """
        from jaxlm.ops.sampling import drawn, uniforms

        log_probs_BV, carry = self.next_log_probs(params, prompt_BT, carry)
        tokens_TB: list[np.ndarray] = []
        for uniform_2B in uniforms(key, length, len(prompt_BT)):
            tokens_TB.append(np.asarray(drawn(log_probs_BV, uniform_2B, draw)))
            log_probs_BV, carry = self.next_log_probs(params, tokens_TB[-1][:, None], carry)
        return np.stack(tokens_TB, axis=1)

    def sources(self, params: Params, tokens_1T: Any, words: Any, carry: Carry = None) -> list[str]:
        """Return the name of the part of the model that each next word's probability comes from.

        An n-gram returns the order of the n-gram; other models return empty texts.

        Args:
          params: the parameters.
          tokens_1T: the tokens before the words, int [1, T].
          words: ids of the words.
          carry: the carry before the tokens; None for the initial carry.
        """
        return [""] * len(words)

    @abc.abstractmethod
    def summary(self) -> "Table":
        """Return the parts of the model as a table."""
