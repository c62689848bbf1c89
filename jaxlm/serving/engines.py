"""How the worker computes with a model: rows of many requests in one call, in static shapes.

An engine reads, scores and writes rows. It gets a list of rows and returns a list of results, so
that the worker knows nothing of shapes, padding and devices. A carry is the carry of one row.
"""

import abc
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from jaxlm.errors import UserError
from jaxlm.evaluation.perplexity import line_carry
from jaxlm.models.base import Carry
from jaxlm.runs.run import Run


class Read(NamedTuple):
    """The result of reading tokens in a row.

    logits_V: the logits of the next token. log_probs_V: their log-probabilities. carry: the carry.
    """

    logits_V: np.ndarray
    log_probs_V: np.ndarray
    carry: Carry


class Drawing(NamedTuple):
    """The settings with which a row draws its tokens: the arguments of `draw_rows` for the row."""

    temperature: float
    top_k: int
    top_p: float


EVERY = (1 << 31) - 1
"""As `top_k`, every token."""
FEW_TOKENS, FEW_SAMPLES, GROWTH = 64, 8, 8
"""Random numbers are drawn for 64, 512, 4096, ... tokens and for 8, 64, 512, ... samples."""
WARM = 1 << 20
"""Random numbers of a request, at most, whose program is compiled before the first request."""
GREEDY = Drawing(0.0, EVERY, math.inf)


class Engine(abc.ABC):
    """Computes with the model of a run.

    Args:
      run: the run.
      rows: the largest number of rows in one call.
    """

    def __init__(self, run: Run, rows: int) -> None:
        self.run, self.params, self.rows = run, run.params, rows
        self.model: Any = run.model
        self._line_carries: dict[str, Carry] = {}

    slice: ClassVar[int]
    """Tokens that a row writes in one call. Between two calls, other requests have their turn."""

    @abc.abstractmethod
    def width(self, left: int) -> int:
        """Return how many tokens a row with `left` tokens reads, at most, in its next call.

        Rows of one width are read together. The width depends on the row alone.
        """

    @abc.abstractmethod
    def read(
        self, tokens: Sequence[np.ndarray], carries: Sequence[Carry], width: int
    ) -> list[Read]:
        """Read tokens, at most `width` of each row, and predict the next token of each row."""

    @abc.abstractmethod
    def score(
        self,
        inputs: Sequence[np.ndarray],
        targets: Sequence[np.ndarray],
        carries: Sequence[Carry],
        width: int,
        detail: bool,
    ) -> list[tuple[tuple[np.ndarray, ...], Carry]]:
        """Return `token_scores` of each row, and the carry of each row after its last token.

        The carry of a row with fewer than `width` tokens has no meaning, because the row ends here.

        Args:
          inputs: the tokens that each row reads, int32 [T], T <= `width`.
          targets: the token after each input, int32 [T].
          carries: the carry of each row before its inputs.
          width: the number of tokens that the compiled call reads in each row.
          detail: whether ranks and entropies are computed too.
        """

    @abc.abstractmethod
    def write(
        self,
        logits: Sequence[np.ndarray],
        carries: Sequence[Carry],
        uniforms: Sequence[np.ndarray],
        drawings: Sequence[Drawing],
    ) -> list[tuple[np.ndarray, np.ndarray, Carry]]:
        """Draw `slice` tokens for each row; return the tokens, the logits after them and the carry.

        Args:
          logits: the logits [V] of the next token of each row.
          carries: the carry of each row.
          uniforms: two random numbers for each token of each row, [slice, 2].
          drawings: how each row draws.
        """

    def initial_carry(self) -> Carry:
        """Return the carry of one row before a text."""
        return self.model.initial_carry(1)

    def line_carry(self, run: Run) -> Carry:
        """Return the carry from which `run`, this run with a protocol by lines, reads a line."""
        name = run.protocol.start
        if name not in self._line_carries:
            carry = line_carry(run)
            self._line_carries[name] = self.initial_carry() if carry is None else carry
        return self._line_carries[name]

    @abc.abstractmethod
    def warm_up(self) -> None:
        """Compile all programs, so that no request waits for a compilation."""


class Compiled(Engine):
    """An engine for a neural model: a program of each kind and width is compiled once.

    All calls have `rows` rows: missing rows are padding. So the shapes, and with them the rounding
    of a row's numbers, do not depend on the other rows.
    """

    widths: ClassVar[tuple[int, ...]] = (16, 64)
    """Numbers of tokens that a call reads."""
    slice = 16

    def __init__(self, run: Run, rows: int) -> None:
        from jaxlm.models.neural import with_fused_loop

        super().__init__(run, rows)
        self.model = with_fused_loop(run.model, "cudnn", "newton")
        fits = self.model.tokens_in_chunk(True) // rows
        self.fitting = [width for width in self.widths if width <= fits] or [self.widths[0]]

    def width(self, left: int) -> int:
        # The largest width that the row fills: a row of 70 tokens is read as 64 and 6 (of 16).
        return max((w for w in self.fitting if w <= left), default=self.fitting[0])

    def read(
        self, tokens: Sequence[np.ndarray], carries: Sequence[Carry], width: int
    ) -> list[Read]:
        lengths_B = np.ones(self.rows, np.int32)
        lengths_B[: len(tokens)] = [len(row) for row in tokens]
        found = _compiled("read", self.model.compute_dtype)(
            self.params, self._padded(tokens, width), lengths_B, self._stacked(carries), self.model
        )
        logits_BV, log_probs_BV, carry = _to_host(found)
        return [
            Read(logits_BV[row], log_probs_BV[row], row_of(carry, row))
            for row in range(len(tokens))
        ]

    def score(
        self,
        inputs: Sequence[np.ndarray],
        targets: Sequence[np.ndarray],
        carries: Sequence[Carry],
        width: int,
        detail: bool,
    ) -> list[tuple[tuple[np.ndarray, ...], Carry]]:
        # With details in any case: the program without them would be compiled too.
        found = self.model.token_scores(
            self.params,
            self._padded(inputs, width),
            self._padded(targets, width),
            self._stacked(carries),
            True,
        )
        scores, carry = _to_host(found)
        return _by_row(scores, carry, inputs)

    def write(
        self,
        logits: Sequence[np.ndarray],
        carries: Sequence[Carry],
        uniforms: Sequence[np.ndarray],
        drawings: Sequence[Drawing],
    ) -> list[tuple[np.ndarray, np.ndarray, Carry]]:
        missing = self.rows - len(logits)
        logits_BV = np.stack([*logits, *[logits[0]] * missing])
        found = _compiled("write", self.model.compute_dtype)(
            self.params,
            logits_BV,
            self._stacked(carries),
            *_draws(uniforms, drawings, self.rows),
            self.model,
        )
        tokens_BS, logits_BV, carry = _to_host(found)
        return [(tokens_BS[row], logits_BV[row], row_of(carry, row)) for row in range(len(logits))]

    def warm_up(self) -> None:
        carry = self.initial_carry()
        for width in self.fitting:
            tokens = [np.zeros(width, np.int32)]
            self.read(tokens, [carry], width)
            self.score(tokens, tokens, [carry], width, True)
        logits_V = np.zeros(self.model.vocab_size, np.float32)
        self.write([logits_V], [carry], [np.zeros((self.slice, 2), np.float32)], [GREEDY])

    def _padded(self, tokens: Sequence[np.ndarray], width: int) -> np.ndarray:
        tokens_BT = np.zeros((self.rows, width), np.int32)
        for row, ids in enumerate(tokens):
            tokens_BT[row, : len(ids)] = ids
        return tokens_BT

    def _stacked(self, carries: Sequence[Carry]) -> Carry:
        return stacked([*carries, *[carries[0]] * (self.rows - len(carries))])


class Counted(Engine):
    """An engine for a model that is trained by counting: NumPy, in any shape."""

    longest: ClassVar[int] = 1024
    """Most tokens of a row in one call."""
    slice = 8

    def width(self, left: int) -> int:
        # Rows of similar lengths share a call.
        return min(self.longest, max(16, 1 << (left - 1).bit_length()))

    def read(
        self, tokens: Sequence[np.ndarray], carries: Sequence[Carry], width: int
    ) -> list[Read]:
        window = self.model.window
        # Tokens before the window do not matter, so most rows have the same number of tokens.
        ends = [ids if window is None else ids[max(0, len(ids) - window) :] for ids in tokens]
        results: dict[int, Read] = {}
        for length in {len(ids) for ids in ends}:
            rows = [row for row, ids in enumerate(ends) if len(ids) == length]
            tokens_BT = np.stack([ends[row] for row in rows])
            carry = stacked([carries[row] for row in rows])
            log_probs_BV, carry = self.model.next_log_probs(self.params, tokens_BT, carry)
            for place, row in enumerate(rows):
                results[row] = Read(log_probs_BV[place], log_probs_BV[place], row_of(carry, place))
        return [results[row] for row in range(len(tokens))]

    def score(
        self,
        inputs: Sequence[np.ndarray],
        targets: Sequence[np.ndarray],
        carries: Sequence[Carry],
        width: int,
        detail: bool,
    ) -> list[tuple[tuple[np.ndarray, ...], Carry]]:
        longest = max(map(len, inputs))
        inputs_BT, targets_BT = (
            np.stack([np.pad(ids, (0, longest - len(ids))) for ids in rows])
            for rows in (inputs, targets)
        )
        scores, carry = self.model.token_scores(
            self.params, inputs_BT, targets_BT, stacked(carries), detail
        )
        return _by_row(scores, carry, inputs)

    def write(
        self,
        logits: Sequence[np.ndarray],
        carries: Sequence[Carry],
        uniforms: Sequence[np.ndarray],
        drawings: Sequence[Drawing],
    ) -> list[tuple[np.ndarray, np.ndarray, Carry]]:
        rows, draw = len(logits), _compiled("draw", "float32")
        uniforms_S2B, *settings = _draws(uniforms, drawings, self.rows)
        logits_BV, carry, tokens = np.stack(logits), stacked(carries), []
        missing = ((0, self.rows - rows), (0, 0))
        for uniform_2B in uniforms_S2B:
            padded_BV = np.pad(logits_BV, missing, mode="edge")
            tokens.append(np.asarray(draw(padded_BV, uniform_2B, *settings))[:rows])
            logits_BV, carry = self.model.next_log_probs(self.params, tokens[-1][:, None], carry)
        tokens_BS = np.stack(tokens, axis=1)
        return [(tokens_BS[row], logits_BV[row], row_of(carry, row)) for row in range(rows)]

    def warm_up(self) -> None:
        read = self.read([np.zeros(1, np.int32)], [self.initial_carry()], 16)[0]
        numbers = [np.zeros((self.slice, 2), np.float32)]
        self.write([read.logits_V], [read.carry], numbers, [GREEDY])


def _by_row(
    scores: Sequence[np.ndarray], carry: Carry, inputs: Sequence[np.ndarray]
) -> list[tuple[tuple[np.ndarray, ...], Carry]]:
    """Return the scores [B, T] and the carry of a batch by row, without the padding of a row."""
    return [
        (tuple(array_BT[row, : len(ids)] for array_BT in scores), row_of(carry, row))
        for row, ids in enumerate(inputs)
    ]


ENGINES: dict[str, type[Engine]] = {"gradient": Compiled, "counting": Counted}
"""The engine of a model, by its `trained_by`."""


def engine_of(run: Run, rows: int) -> Engine:
    """Return the engine for a run.

    Example:
      >>> import jaxlm
      >>> text = jaxlm.read_corpus("toy", eos=False)
      >>> run = jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=3), text, quiet=True)
      >>> engine = engine_of(run, rows=8)
      >>> (read,) = engine.read([text.train.ids[:2]], [engine.initial_carry()], width=16)
      >>> read.log_probs_V.shape
      (7,)
    """
    if run.model.trained_by not in ENGINES:
        raise UserError(f"{run.name} is a mixture, which is not served: serve its parts")
    return ENGINES[run.model.trained_by](run, rows)


def random_numbers(seed: int, samples: int, length: int, most: tuple[int, int]) -> np.ndarray:
    """Return the random numbers that `jaxlm.sample` draws with, [samples, length, 2].

    Args:
      seed: the seed.
      samples: number of continuations.
      length: number of tokens.
      most: the largest `samples` and `length` of all requests. A few programs serve all requests,
        because the first numbers of a key do not depend on how many are drawn.
    """
    most_samples, most_length = most
    drawn_samples = _drawn(samples, FEW_SAMPLES, most_samples)
    drawn_length = _drawn(length, FEW_TOKENS, most_length)
    drawn = _compiled("numbers", "float32")(np.uint32(seed), drawn_length, drawn_samples)
    flat_TN = np.asarray(drawn).reshape(drawn_length, -1)[:length, : 2 * samples]
    return flat_TN.reshape(length, 2, samples).transpose(2, 0, 1)


def warm_up_random_numbers(most: tuple[int, int]) -> None:
    """Compile the programs of `random_numbers` that draw at most WARM numbers.

    Args:
      most: the largest number of samples, and of tokens, of a request.
    """
    samples, lengths = (
        {_drawn(few * GROWTH**power, few, largest) for power in range(8)}
        for few, largest in zip((FEW_SAMPLES, FEW_TOKENS), most, strict=True)
    )
    for count, length in itertools.product(sorted(samples), sorted(lengths)):
        if 2 * count * length <= WARM:
            random_numbers(0, min(count, most[0]), min(length, most[1]), most)


def _drawn(count: int, few: int, most: int) -> int:
    """Return for how many random numbers are drawn if `count` are needed, of `most` at most."""
    size = few
    while size < count:
        size *= GROWTH
    return min(size, max(few, most))


def stacked(carries: Sequence[Carry]) -> Carry:
    """Return the carries of single rows as one carry, in NumPy."""
    if isinstance(carries[0], np.ndarray):
        # An n-gram does not need JAX.
        return np.concatenate(carries)
    import jax

    return jax.tree.map(lambda *leaves: np.concatenate(list(map(np.asarray, leaves))), *carries)


def row_of(carry: Carry, row: int) -> Carry:
    """Return the carry of one row."""
    if isinstance(carry, np.ndarray):
        return carry[row : row + 1]
    import jax

    return jax.tree.map(lambda leaf: leaf[row : row + 1], carry)


def _to_host(tree: Any) -> Any:
    import jax

    return jax.tree.map(np.asarray, jax.device_get(tree))


def _draws(
    uniforms: Sequence[np.ndarray], drawings: Sequence[Drawing], rows: int
) -> tuple[np.ndarray, ...]:
    """Return random numbers [S, 2, B], and the arrays [B] of the drawings, padded to B rows."""
    missing = rows - len(uniforms)
    uniforms_BS2 = np.pad(np.stack(uniforms), ((0, missing), (0, 0), (0, 0)))
    columns = zip(*drawings, *[GREEDY] * missing, strict=True)
    dtypes = np.float32, np.int32, np.float32
    settings = (np.array(column, dtype) for column, dtype in zip(columns, dtypes, strict=True))
    return uniforms_BS2.transpose(1, 2, 0), *settings


@functools.cache
def _compiled(name: str, dtype: str) -> Callable[..., Any]:
    """Return a program by name; `dtype` is the type of its products."""
    from jaxlm.ops.machine import jit_with, task_options
    from jaxlm.serving.programs import PROGRAMS

    function, static = PROGRAMS[name]
    options = functools.partial(task_options, "generation", dtype)
    return jit_with(options, function, static_argnums=static)
