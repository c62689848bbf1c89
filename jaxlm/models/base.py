"""The contract every language model keeps, whether it was trained by gradient or by counting."""

import abc
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import numpy as np
from rich.table import Table

from jaxlm.ops.sampling import uniforms

Carry = Any
"""What a model remembers between two calls: any pytree whose leaves have the batch as their first
axis.
"""
Params = Any
Draw = Callable[[Any, jax.Array], jax.Array]
"""draw(logits_BV, uniform_2B): a token for each row, int32 [B], by two numbers a row from [0, 1).
Hashable, and pure. Of logits, what is added to all of a row does not matter."""


class LanguageModel(abc.ABC):
    """A state machine over tokens that knows what may come next.

    It is asked three things: how likely each token of a text is (`token_scores`), what comes next
    (`next_log_probs`), and how a text goes on (`generate`). Its parameters are not part of it.

    Two laws hold for every model. Causality: what comes out at position t depends on tokens up to t
    alone. Chunks: running tokens[:, :k] and then tokens[:, k:] with the carry gives what one run
    over tokens gives.
    """

    trained_by: ClassVar[str]
    """"gradient" or "counting": how its parameters come about, and how they are kept."""
    vocab_size: int
    start_id: int | None
    """The token that stands before the first one of a text; None if there is none."""
    pads: ClassVar[bool] = False
    """Whether it needs its whole window: a shorter context is padded with the start token."""
    starts_from_nothing: ClassVar[bool] = False
    """Whether it can tell what comes first without a token to start from."""
    across_lines: bool = True
    """Whether what it remembers goes on over line ends."""

    @property
    @abc.abstractmethod
    def window(self) -> int | None:
        """How many tokens before the one to predict it sees; None if all."""

    @property
    def context_size(self) -> int | None:
        """How many tokens before the present one fix the carry; None if all do."""
        return None if self.window is None else max(0, self.window - 1)

    @property
    def filler_id(self) -> int:
        """What is read where a text has not begun: the start token, or any where there is none."""
        return self.start_id or 0

    @property
    def nothing_id(self) -> int:
        """What the initial carry holds in place of tokens."""
        return self.filler_id

    @abc.abstractmethod
    def tokens_in_chunk(self, detail: bool) -> int:
        """How many tokens to score in one call, batch times time, to stay within memory."""

    @abc.abstractmethod
    def initial_carry(self, batch_size: int) -> Carry:
        """The carry at the start of a text."""

    @abc.abstractmethod
    def token_scores(
        self, params: Params, inputs_BT: Any, targets_BT: Any, carry: Carry, detail: bool = False
    ) -> tuple[tuple[Any, ...], Carry]:
        """Natural log-probability of each target after the inputs up to its place; with `detail`
        also its rank (1: the likeliest) and the entropy of the whole distribution in nats. [B, T]
        each, and the carry.
        """

    @abc.abstractmethod
    def next_log_probs(
        self, params: Params, tokens_BT: Any, carry: Carry = None
    ) -> tuple[Any, Carry]:
        """Log-probability of every token after the last of `tokens_BT`, [B, V], and the carry."""

    def generate(
        self, params: Params, prompt_BT: Any, key: jax.Array, draw: Draw, length: int
    ) -> Any:
        """Tokens that go on from the prompt, int32 [B, length], each drawn by `draw`."""
        log_probs_BV, carry = self.next_log_probs(params, prompt_BT)
        tokens: list[np.ndarray] = []
        for uniform_2B in uniforms(key, length, len(prompt_BT)):
            tokens.append(np.asarray(_drawn(log_probs_BV, uniform_2B, draw)))
            log_probs_BV, carry = self.next_log_probs(params, tokens[-1][:, None], carry)
        return np.stack(tokens, axis=1)

    def sources(self, params: Params, tokens_1T: Any, words: Any) -> list[str]:
        """What in the model gave each of `words` its probability after the tokens; empty where
        there is nothing to tell.
        """
        return [""] * len(words)

    @abc.abstractmethod
    def summary(self) -> Table:
        """Its parts as a table."""


@functools.partial(jax.jit, static_argnames="draw")
def _drawn(log_probs_BV: Any, uniform_2B: jax.Array, draw: Draw) -> jax.Array:
    return draw(log_probs_BV, uniform_2B)
