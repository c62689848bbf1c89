"""The n-gram model, which is trained by counting."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from jaxlm.models.base import Carry, LanguageModel
from jaxlm.ngrams.details import rank_and_entropy
from jaxlm.ngrams.tables import MAX_ORDER, NOTHING, Tables
from jaxlm.ranges import NotNegative, Range, check_settings

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class NGram(LanguageModel):
    """An n-gram model (Shannon 1948), counted with smoothing, or read from an ARPA file.

        P(w_t | w_1 ... w_{t-1}) = P(w_t | w_{t-n+1} ... w_{t-1}),   n = order

    Its parameters are `jaxlm.ngrams.tables.Tables`, a back-off model. The carry is the last n - 1
    tokens, int64 [B, n-1]: the id of a token, V = vocab_size for the start of a line, and -1 where
    there is no token. Without `stream`, no context reaches back beyond `start_id` (the token that
    ends a line). With `stream`, `start_id` is a token like any other.

    Example:
      >>> NGram(vocab_size=7, order=3).window
      2

    Raises:
      SettingError: for an order outside 1 ... 20, and a negative add_k.
    """

    vocab_size: int
    start_id: int | None = None
    order: Annotated[int, Range(1, MAX_ORDER)] = 5
    """Words of the longest n-gram, 1 to 20; the model sees order - 1 words of context."""
    smoothing: str = "modified-kneser-ney"
    """modified-kneser-ney, kneser-ney, witten-bell, add-k or maximum-likelihood."""
    add_k: NotNegative = 1.0
    """Smoothing add-k only: what is added to every count."""
    stream: bool = False
    """Read over line ends, as the neural models do (default: a context starts anew in each line, as
    in KenLM)."""

    trained_by = "counting"
    starts_from_nothing = True

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def window(self) -> int:
        return self.order - 1

    @property
    def across_lines(self) -> bool:  # type: ignore[override]
        return self.stream

    def tokens_in_chunk(self, detail: bool) -> int:
        return 1 << 20

    def initial_carry(self, batch_size: int) -> np.ndarray:
        nothing = NOTHING if self.stream else self.vocab_size
        return np.full((batch_size, self.order - 1), nothing, np.int64)

    def token_scores(
        self, params: Tables, inputs_BT: Any, targets_BT: Any, carry: Carry, detail: bool = False
    ) -> tuple[tuple[np.ndarray, ...], Carry]:
        contexts, carry = self.contexts(params, inputs_BT, carry)
        targets_BT = np.asarray(targets_BT)
        contexts = [context_BP[:, 1:] for context_BP in contexts]
        probability_BT, _ = params.score(contexts, targets_BT)
        log_prob_BT = _log(probability_BT)
        if not detail:
            return (log_prob_BT,), carry
        rank_BT, entropy_BT = rank_and_entropy(params, contexts, targets_BT)
        return (log_prob_BT, rank_BT, entropy_BT), carry

    def next_log_probs(
        self, params: Tables, tokens_BT: Any, carry: Carry = None
    ) -> tuple[np.ndarray, Carry]:
        p_BV, _, carry = self._last(params, tokens_BT, carry)
        return _log(p_BV), carry

    def sources(self, params: Tables, tokens_1T: Any, words: Any, carry: Carry = None) -> list[str]:
        """Return the order of the n-gram that gave each word its probability, such as "3-gram".

        Args:
          params: the tables.
          tokens_1T: the tokens before the words, int [1, T].
          words: ids of the words.
          carry: the carry before the tokens; None for the initial carry.
        """
        _, order_1V, _ = self._last(params, tokens_1T, carry, orders=True)
        assert order_1V is not None
        return [f"{order}-gram" for order in order_1V[0, words]]

    def _last(
        self, tables: Tables, tokens_BT: Any, carry: Carry, orders: bool = False
    ) -> tuple[np.ndarray, np.ndarray | None, Carry]:
        """Return the distributions after the last token of each row, and the carry.

        The distributions are the probabilities of all words, [B, V], and with `orders` the order
        of the n-gram that each probability comes from, [B, V], else None.
        """
        carry = self.initial_carry(len(tokens_BT)) if carry is None else carry
        # Earlier tokens do not change the last contexts.
        recent_BT = np.asarray(tokens_BT)[:, -self.order :]
        contexts, carry = self.contexts(tables, recent_BT, carry)
        last = [context_BP[:, -1] for context_BP in contexts]
        p_BV, order_BV = tables.distributions(last, orders, batch=len(carry))
        return p_BV, order_BV, carry

    def contexts(
        self, tables: Tables, tokens_BT: Any, carry: np.ndarray
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """Return the ids of the contexts of 1 ... n - 1 tokens at each input, and the carry.

        The ids are [B, 1 + T] for each length; column 0 is the context before the first input. In
        the names of arrays, P is 1 + T positions, and S is the n - 1 + T tokens that are read.
        """
        seen_BS = self.seen(tokens_BT, carry)
        first = self.order - 2
        contexts = [ids_BS[:, first:] for ids_BS in tables.contexts(seen_BS)]
        return contexts, seen_BS[:, seen_BS.shape[1] - (self.order - 1) :]

    def seen(self, tokens_BT: Any, carry: np.ndarray) -> np.ndarray:
        """Return the tokens of the carry and the tokens that are read after it, int64 [B, n-1+T].

        Without `stream`, the token that ends a line is V, the start of the next line.
        """
        tokens_BT = np.asarray(tokens_BT, np.int64)
        if not self.stream and self.start_id is not None:
            tokens_BT = np.where(tokens_BT == self.start_id, self.vocab_size, tokens_BT)
        return np.concatenate([carry, tokens_BT], axis=1)

    def summary(self) -> "Table":
        from rich.table import Table

        table = Table(title=f"NGram, {self.smoothing}", title_justify="left")
        for header in ("order", "what it computes"):
            table.add_column(header)
        for order in range(1, self.order + 1):
            seen = ", ".join(f"w_t-{back}" for back in range(order - 1, 0, -1))
            table.add_row(str(order), f"P(w_t{' | ' * bool(seen)}{seen})")
        return table


def _log(probability: np.ndarray) -> np.ndarray:
    # Under maximum likelihood, a word that was not counted after a context has probability 0.
    with np.errstate(divide="ignore"):
        return np.log(probability)
