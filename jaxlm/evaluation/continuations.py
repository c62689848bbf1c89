"""Log-likelihoods of continuations and documents, and texts that go on until a stop sequence."""

import io
import math
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, NamedTuple

import numpy as np

from jaxlm.data.sources import EmbeddedText
from jaxlm.data.splitting import NONE, check_split, split_words
from jaxlm.errors import UserError
from jaxlm.evaluation.generation import check_unicode, cut, encode_context
from jaxlm.evaluation.perplexity import line_carry
from jaxlm.evaluation.scoring import Scorer, repeated
from jaxlm.models.base import Carry
from jaxlm.ranges import NotNegative, Range, Size, check_settings
from jaxlm.runs.protocol import WARM
from jaxlm.runs.run import Run
from jaxlm.runs.starts import by_lines, start_of

# Prompts that are continued as one batch, and tokens that are generated before the stop texts are
# looked for.
PROMPTS = 64
PIECE = 32


class Continuation(NamedTuple):
    """The natural log-likelihood of a continuation, and whether greedy decoding would write it."""

    log_prob: float
    greedy: bool


@dataclass(frozen=True)
class _Part:
    """A part of a text that is read from the start state.

    Attributes:
      ids: token ids, int32; the start token comes first if the vocabulary has one.
      first: index in `ids` of the first token that counts, at least 1.
    """

    ids: np.ndarray
    first: int


def check_predicts_all(run: Run) -> None:
    """Raise UserError for a run that learnt to predict the last token of each line alone."""
    if run.protocol.last_only:
        raise UserError(
            f"{run.name} predicts the last word of each line alone, so the likelihoods of its "
            f"other words are arbitrary: train it with `positions` all"
        )


def continuations(
    run: Run,
    requests: Iterable[tuple[str, str]],
    *,
    start: str | None = None,
    split: str = NONE,
) -> list[Continuation]:
    """Return log P(continuation | context) of each request, a pair (context, continuation).

    White space at the end of the context belongs to the continuation. The text is cut into tokens
    as a whole, and a token belongs to the continuation if its last character does. A continuation
    that ends with a line break includes the end of the line, as the scores of `jaxlm.pairs` do.

    A run whose protocol scores each line on its own reads each line from the start state. Other
    runs read the context and the continuation as one text.

    Example:
      >>> import jaxlm
      >>> text = jaxlm.read_corpus("toy")
      >>> run = jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=3), text, quiet=True)
      >>> good, bad = continuations(run, [("我 喜欢", " 玩具"), ("我 喜欢", " 挨打")])
      >>> round(good.log_prob, 3), good.greedy, round(bad.log_prob, 3), bad.greedy
      (-0.251, True, -3.571, False)

    Args:
      run: the run.
      requests: pairs (context, continuation). A context may be empty; then the continuation follows
        the start state. Without a start token, the first token of a text is context.
      start: the state before each text: "fresh", "warm" (after a stretch of the training text), or
        None for warm if the run keeps such a stretch.
      split: "treebank", "wikitext" or "none": how to split words; see `split_words`.
    Raises:
      UserError: for a run that predicts the last word of each line alone, for a continuation of
        which no token is predicted, and for a token that the vocabulary lacks, if it has no
        `<unk>`.
      SettingError: for a start that the run does not have.
    """
    check_predicts_all(run)
    check_split(split)
    started = by_lines(run, start)
    carry = line_carry(started)
    parts_of = [_parts(run, context, text, split) for context, text in requests]
    rows, row_of = _distinct([part.ids for parts in parts_of for part in parts])
    log_probs: list[list[float]] = [[]] * len(rows)
    for row, values in Scorer(run.model).sentences(run.params, rows, carry=carry):
        log_probs[row] = values
    numbers = iter(row_of)
    # The log-probabilities of the tokens that count, by request and part.
    found = [[log_probs[next(numbers)][part.first - 1 :] for part in parts] for parts in parts_of]
    totals = [math.fsum(value for values in item for value in values) for item in found]
    if any(map(math.isnan, totals)):
        raise UserError(f"{run.name} gives no number as a likelihood: its parameters are damaged")
    # The likeliest of V tokens has a probability of at least 1 / V. This rules out most texts.
    least = -math.log(len(run.vocabulary)) - 1e-4
    maybe = [all(value >= least for values in item for value in values) for item in found]
    likely = [part for parts, may in zip(parts_of, maybe, strict=True) if may for part in parts]
    greedy = iter(_greedy(run, likely, carry))
    written = [
        may and not [part for part in parts if not next(greedy)]
        for may, parts in zip(maybe, parts_of, strict=True)
    ]
    return list(map(Continuation, totals, written))


def _parts(run: Run, context: str, continuation: str, split: str) -> list[_Part]:
    """Return the parts of a text that have a token of the continuation."""
    if not run.tokenizer.exact:
        context, continuation = (_with_line_feeds(text) for text in (context, continuation))
    check_unicode(context + continuation)
    border = len(context.rstrip())
    parts, at, asked = [], 0, False
    for text, offsets in _texts(run, context + continuation, split):
        ids = run.tokenizer.encode_context(text)
        counts = at + offsets[run.tokenizer.spans(text)[:, 1]] > border
        at += int(offsets[-1])
        first = int(np.argmax(counts)) if counts.any() else len(ids)
        asked |= first < len(ids)
        before = _before(run)
        ids = np.concatenate([before, ids]).astype(np.int32)
        first = max(1, first + len(before))
        if first < len(ids):
            parts.append(_Part(ids, first))
    if asked and not parts:
        raise UserError(
            f"{run.name} predicts no token of {continuation!r}: it has no start token, so the "
            f"first token of a text is context; train with `eos`, or give a context"
        )
    return parts


def _with_line_feeds(text: str) -> str:
    return io.StringIO(text, newline=None).read() if "\r" in text else text


def _before(run: Run) -> np.ndarray:
    start_id = run.vocabulary.start_id
    return np.array([] if start_id is None else [start_id], np.int32)


def _texts(run: Run, text: str, split: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the texts that are read from the start state, split into words, with their offsets.

    They are the lines of `text`, or `text` as a whole if the run reads over line ends. See
    `split_words` for the offsets. A blank line is no row of a run that reads lines; it is yielded
    as "", with the offsets of its ends.
    """
    lines = list(io.StringIO(text, newline="\n"))
    cut = [split_words(line, split) for line in lines]
    if run.protocol.rows:
        for line, (new, offsets) in zip(lines, cut, strict=True):
            yield (new, offsets) if line.strip() else ("", np.array([len(line)]))
    else:
        starts = np.cumsum([0, *map(len, lines)])
        ends = [start + offsets[:-1] for start, (_, offsets) in zip(starts, cut, strict=False)]
        yield "".join(new for new, _ in cut), np.concatenate([*ends, starts[-1:]])


def _distinct(rows: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[int]]:
    """Return the distinct rows, and the index of each row among them."""
    index_of: dict[bytes, int] = {}
    distinct: list[np.ndarray] = []
    row_of = []
    for row in rows:
        index = index_of.setdefault(row.tobytes(), len(distinct))
        if index == len(distinct):
            distinct.append(row)
        row_of.append(index)
    return distinct, row_of


def _greedy(run: Run, parts: Sequence[_Part], carry: Carry) -> list[bool]:
    """Return for each part whether greedy decoding writes the tokens that count."""
    if not parts:
        return []
    rows, row_of = _distinct([part.ids for part in parts])
    inputs, targets = [row[:-1] for row in rows], [row[1:] for row in rows]
    scores = Scorer(run.model, detail=True).rows(run.params, inputs, targets, False, carry=carry)
    ends = np.cumsum([len(row) for row in targets])[:-1]
    log_probs, ranks = (np.split(np.asarray(values), ends) for values in scores[:2])
    return [
        bool((ranks[row][part.first - 1 :] == 1).all())
        and all(
            _is_chosen(run, part.ids, int(at) + 1, carry)
            # Two tokens can be the likeliest only if neither has more than half of the probability.
            for at in np.flatnonzero(log_probs[row] < math.log(0.5) + 1e-6)
            if at >= part.first - 1
        )
        for part, row in zip(parts, row_of, strict=True)
    ]


def _is_chosen(run: Run, ids: np.ndarray, at: int, carry: Carry) -> bool:
    """Return whether greedy decoding chooses token `at` of `ids`, the first of the likeliest."""
    log_probs_1V, _ = run.model.next_log_probs(run.params, ids[None, :at], carry)
    return int(np.argmax(np.asarray(log_probs_1V)[0])) == ids[at]


def documents(
    run: Run, texts: Iterable[str], *, start: str | None = None, split: str = NONE
) -> list[float]:
    """Return log P(text) of each text, which is read by itself from the start state.

    Each token counts once, as in `jaxlm.perplexity` of a file with this text: a run over words with
    `<eos>` predicts the end of each line, the last line included. A run whose protocol scores each
    line on its own reads each line from the start state; other runs carry their state over the
    lines of a text.

    Example:
      >>> import jaxlm
      >>> text = jaxlm.read_corpus("toy")
      >>> run = jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=3), text, quiet=True)
      >>> [round(value, 3) for value in documents(run, ["我 喜欢 玩具", "我 讨厌 挨打\\n"])]
      [-2.336, -2.336]

    Args:
      run: the run.
      texts: the texts. A text may be empty; its log-likelihood is 0.
      start: the state before each text; see `continuations`. "fresh" is the start of `perplexity`.
      split: how to split words; see `split_words`.
    Raises:
      UserError: for a run that predicts the last word of each line alone, and for a token that the
        vocabulary lacks, if it has no `<unk>`.
      SettingError: for a start that the run does not have.
    """
    check_predicts_all(run)
    check_split(split)
    started = by_lines(run, start)
    carry, before, tokenizer = line_carry(started), _before(run), run.tokenizer
    if not run.protocol.rows:
        begin = start_of(run, started.protocol.start)
        # The first token counts too, as in `Scorer.stream`.
        first = begin.ids[-1] if started.protocol.start == WARM else run.model.filler_id
        carry, before = begin.carry, np.array([first], np.int32)
    rows, text_of = [], []
    count = 0
    for text in texts:
        check_unicode(text)
        lines = EmbeddedText(text, tokenizer.exact).lines()
        cut = [split_words(line, split)[0] for line in lines]
        parts = [[line] for line in cut if line.strip()] if run.protocol.rows else [cut]
        for part in parts:
            row = np.concatenate([before, tokenizer.encode(part)]).astype(np.int32)
            if len(row) > 1:
                rows.append(row)
                text_of.append(count)
        count += 1
    values: list[list[float]] = [[] for _ in range(count)]
    for row_index, log_probs in Scorer(run.model).sentences(run.params, rows, carry=carry):
        values[text_of[row_index]] += log_probs
    totals = [math.fsum(items) for items in values]
    if any(map(math.isnan, totals)):
        raise UserError(f"{run.name} gives no number as a likelihood: its parameters are damaged")
    return totals


@dataclass(frozen=True)
class Generation:
    """The settings with which a text is continued."""

    length: Size = 256
    """Largest number of tokens to generate."""
    until: tuple[str, ...] = ()
    """Texts at which the continuation stops; they are left out."""
    temperature: NotNegative = 0.0
    """Divide the logits by this; 0: the most probable token."""
    top_k: Size | None = None
    """Sample from the k most probable tokens only."""
    top_p: Annotated[float, Range(above=0, most=1)] | None = None
    """Sample from the fewest most probable tokens whose probabilities sum to p."""


def continued(
    run: Run,
    requests: Iterable[tuple[str, Generation]],
    *,
    start: str | None = None,
    split: str = NONE,
    seed: int = 0,
) -> list[str]:
    """Return the continuation of each context, without the context, up to a stop text.

    A run whose protocol scores each line on its own sees the last line of the context alone, and
    stops at the end of the line.

    Example:
      >>> import jaxlm
      >>> text = jaxlm.read_corpus("toy")
      >>> run = jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=3), text, quiet=True)
      >>> continued(run, [("我 讨厌", Generation(until=("\\n",))), ("我", Generation(length=1))])
      [' 挨打', ' 喜欢']

    Args:
      run: the run.
      requests: pairs (context, how to continue it).
      start: the state before each context; see `continuations`.
      split: how to split the words of the contexts; see `split_words`.
      seed: seed of the samples at temperatures above 0. A sample does not depend on the other
        requests, except that equal requests have different samples.
    Raises:
      UserError: for a run that predicts the last word of each line alone, and for a context that
        cannot be read; see `encode_context`.
      SettingError: for a setting out of its range.
    """
    check_predicts_all(run)
    check_split(split)
    name = by_lines(run, start).protocol.start
    begin = start_of(run, name)
    prompts: list[np.ndarray] = []
    groups: dict[Generation, list[int]] = {}
    for index, (context, how) in enumerate(requests):
        check_settings(how)
        lines = list(io.StringIO(_with_line_feeds(context), newline="\n"))
        if run.protocol.rows:
            lines = [line for line in lines[-1:] if not line.endswith("\n")]
            how = replace(how, until=(*how.until, "\n"))
        text = "".join(split_words(line, split)[0] for line in lines)
        prompts.append(encode_context(run, text, name).ids[0])
        groups.setdefault(how, []).append(index)
    texts = [""] * len(prompts)
    for how, indices in groups.items():
        asked = [prompts[index] for index in indices]
        pieces = _until(run, asked, len(begin.ids), begin.carry, how, seed)
        for index, text in zip(indices, pieces, strict=True):
            texts[index] = text
    return texts


def _until(
    run: Run, prompts: Sequence[np.ndarray], skip: int, carry: Carry, how: Generation, seed: int
) -> list[str]:
    """Return the continuations of prompts, cut at the first stop text.

    The stop texts are looked for every PIECE tokens. The first `skip` tokens of a prompt are not
    part of its text.
    """
    texts = [""] * len(prompts)
    read, unfinished = list(prompts), list(range(len(prompts)))
    names_B2 = _names(prompts)
    for done in range(0, how.length, PIECE):
        asked = [read[index] for index in unfinished]
        names = np.insert(names_B2[unfinished], 2, done, axis=1)
        for at, ids in _generated(run, asked, carry, how, seed, names):
            index = unfinished[at]
            read[index] = np.concatenate([read[index], ids[: how.length - done]])
            old = len(prompts[index]) - skip
            texts[index], stopped = cut(_new_text(run, read[index][skip:], old), how.until)
            if stopped:
                unfinished[at] = -1
        unfinished = [index for index in unfinished if index >= 0]
        if not unfinished:
            break
    return texts


def _names(prompts: Sequence[np.ndarray]) -> np.ndarray:
    """Return two numbers that identify each prompt, uint32 [B, 2].

    The numbers are a checksum of the prompt, and the number of equal prompts before it. So they do
    not depend on other prompts.
    """
    before: Counter[int] = Counter()
    names = []
    for prompt in prompts:
        checksum = zlib.crc32(prompt.astype("<i4").tobytes())
        names.append((checksum, before[checksum]))
        before[checksum] += 1
    return np.array(names, np.uint32).reshape(-1, 2)


def _new_text(run: Run, ids: np.ndarray, old: int) -> str:
    """Return the text that the tokens from index `old` on add to the text of the tokens before."""
    before, whole = (run.tokenizer.decode(part.tolist()) for part in (ids[:old], ids))
    # A character whose bytes are in both parts changes the text before.
    return whole[len(before) :] if whole.startswith(before) else run.tokenizer.decode(ids[old:])


def _generated(
    run: Run,
    prompts: Sequence[np.ndarray],
    carry: Carry,
    how: Generation,
    seed: int,
    names_BN: np.ndarray,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the index of each prompt, and the PIECE tokens that continue it.

    Prompts of the same length share a batch. The size of a batch is a power of 2, so that few
    programs are compiled. The random key of a prompt is made from the seed and its `names_BN`.
    """
    from jaxlm.ops.sampling import Sampler, row_keys

    draw = Sampler(float(how.temperature), how.top_k, how.top_p)
    lengths = np.array([len(prompt) for prompt in prompts])
    batches = [
        rows[at : at + PROMPTS]
        for rows in (np.flatnonzero(lengths == length) for length in np.unique(lengths))
        for at in range(0, len(rows), PROMPTS)
    ]
    for batch in batches:
        size = 1 << (len(batch) - 1).bit_length()
        rows = np.append(batch, np.full(size - len(batch), batch[0]))
        tokens_BT: Any = run.model.generate(
            run.params,
            np.stack([prompts[row] for row in rows]).astype(np.int32),
            row_keys(np.uint32(seed), names_BN[rows]),
            draw,
            PIECE,
            repeated(carry, size),
        )
        yield from zip(batch.tolist(), np.asarray(tokens_BT), strict=False)
