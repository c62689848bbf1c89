"""The lines of a small text as one batch that a person can read: `make_batch`."""

from typing import NamedTuple

import numpy as np

from jaxlm.data.batching import rows_of
from jaxlm.data.text import Text
from jaxlm.errors import SettingError, UserError, check_at_least


class SmallBatch(NamedTuple):
    """A batch as indices and as words, from `jaxlm.make_batch`; print shows all four parts.

    Attributes:
      input_batch: token ids, int32 [B, T]; each row is a line without its last word.
      target_batch: token ids, int32 [B]: the last word of each line.
      input_words: the words of `input_batch`.
      target_words: the words of `target_batch`.
    """

    input_batch: np.ndarray
    target_batch: np.ndarray
    input_words: list[list[str]]
    target_words: list[str]

    def __str__(self) -> str:
        width = max(map(len, self._fields)) + 1
        parts = (self.input_batch.tolist(), self.target_batch.tolist(), *self[2:])
        names = (f"{name}:".ljust(width) for name in self._fields)
        return "\n".join(f"{name} {part}" for name, part in zip(names, parts, strict=True))


def make_batch(text: Text, n_step: int | None = None, *, split: str = "train") -> SmallBatch:
    """Return the lines of a small text as one batch: the first words in, the last word out.

    This is the batch of a training with `batching` rows and `positions` last.

    Example:
      >>> import jaxlm
      >>> text = jaxlm.read_corpus("toy", eos=False)
      >>> print(jaxlm.make_batch(text))
      input_batch:  [[0, 1], [0, 3], [0, 5]]
      target_batch: [2, 4, 6]
      input_words:  [['我', '喜欢'], ['我', '爱'], ['我', '讨厌']]
      target_words: ['玩具', '爸爸', '挨打']

    Args:
      text: the text, from `read_corpus`. With `eos` the last token of a line is `<eos>`.
      n_step: the number of input words, the last before the target; None for all words of a line.
      split: train, valid or test.
    Raises:
      UserError: for lines of different lengths without `n_step`, and a text without targets.
      SettingError: for an `n_step` below 1, or one that is longer than the shortest line allows.
    """
    inputs, targets = rows_of(text.split(split))
    shortest, longest = min(map(len, inputs)), max(map(len, inputs))
    if n_step is None:
        if shortest != longest:
            raise UserError(
                f"the lines have from {shortest} to {longest} words before the last: give "
                f"`n_step`, the number of input words"
            )
        n_step = longest
    check_at_least("n_step", n_step, 1)
    if n_step > shortest:
        why = f"is too long: the shortest line has {shortest} before its last word"
        raise SettingError("n_step", n_step, why)
    input_batch = np.stack([row[-n_step:] for row in inputs]).astype(np.int32)
    target_batch = np.array([row[-1] for row in targets], np.int32)
    word = text.tokenizer.token_text
    return SmallBatch(
        input_batch,
        target_batch,
        [[word(index) for index in row] for row in input_batch.tolist()],
        [word(index) for index in target_batch.tolist()],
    )
