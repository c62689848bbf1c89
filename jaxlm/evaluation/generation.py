"""Ask a run what comes next: the most probable next tokens, and sampled continuations."""

import itertools
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from jaxlm.data.corpora import LONGEST_SHOWN
from jaxlm.data.tokenizers import Tokenizer, quoted
from jaxlm.errors import SettingError, UserError, check_at_least
from jaxlm.evaluation.scoring import repeated
from jaxlm.ranges import NotNegative, Range, Seed, Size, check_settings
from jaxlm.runs.protocol import FRESH
from jaxlm.runs.run import UNK_IN_TRAINING, Run
from jaxlm.runs.starts import Start, start_of


@dataclass(frozen=True)
class Context:
    """An encoded context.

    Attributes:
      ids: token ids that the model reads, int32 [1, T]. The ids of the text come last.
      note: how the context that the model sees differs from the text; empty if it does not differ.
      start: the state from which the model reads the ids.
    """

    ids: np.ndarray
    note: str
    start: Start

    @property
    def text_ids(self) -> np.ndarray:
        """Token ids of the text alone, int32 [T]."""
        return self.ids[0, len(self.start.ids) :]


def encode_context(run: Run, text: str, start: str | None = None) -> Context:
    """Return the token ids of `text`, after the start token if the vocabulary has a start token.

    With a warm start the model has read a stretch of its training text before; see
    `jaxlm.runs.starts.start_of`. A model with a window sees only the last tokens of a longer
    context. Where a model needs its whole window (an NPLM), a shorter context is padded with the
    start token, as in training by rows. The note reports both.

    Args:
      run: the run.
      text: the text.
      start: "fresh", "warm", or None for the default of the run.
    Raises:
      UserError: for text with lone surrogates (from bytes that are not UTF-8), an unknown word if
        the vocabulary has no `<unk>`, and a context that is too short and cannot be padded.
    """
    vocabulary, tokenizer, begin = run.vocabulary, run.tokenizer, start_of(run, start)
    check_unicode(text)
    # A context is the beginning of a line, so no <eos> follows it. The tokenizer for words would
    # add <eos>.
    words = tokenizer.encode_context(text)
    ids_1T = np.concatenate([np.array(begin.ids, np.int32), words]).astype(np.int32)[None, :]
    model, count = run.model, len(words)
    needed, window = model.padded_window, model.window
    missing = max(0, needed - count)
    padded = missing > 0 and begin.name == FRESH
    if padded and vocabulary.start_id is None:
        raise UserError(
            f"the context {text!r} has {count} {_tokens(count)}, and this model needs {needed}: "
            f"its vocabulary has no <eos> to pad with. Give {needed} words"
        )
    if not ids_1T.size and not model.starts_from_nothing:
        raise UserError(
            "the context is empty, and this model has no <eos> to start from: give a word"
        )
    note = ""
    if padded:
        note = (
            f"context of {count} {_tokens(count)} padded with {missing} x "
            f"{tokenizer.token_text(begin.ids[-1])!r} to the model's {needed}"
        )
    elif window is not None and count > window:
        note = f"of the context's {count} tokens the model sees the last {window}"
    return Context(ids_1T, note, begin)


def check_unicode(text: str) -> None:
    """Raise UserError for text with lone surrogates, which come from bytes that are not UTF-8."""
    if not is_unicode(text):
        raise UserError(f"the context {text!r} is not valid UTF-8 text: give it in UTF-8")


def is_unicode(text: str) -> bool:
    """Return whether a text has no lone surrogates.

    Example:
      >>> is_unicode("猫"), is_unicode("\\udce7")
      (True, False)
    """
    return text.isprintable() or not any("\ud800" <= character <= "\udfff" for character in text)


def _tokens(count: int) -> str:
    """Return the noun for `count` tokens: singular or plural."""
    return "token" if count == 1 else "tokens"


def next_words(
    run: Run, context: str, count: int = 5, *, start: str | None = None
) -> list[tuple[str, float]]:
    """Return the `count` most probable next tokens after `context`, with their probabilities.

    The most probable token is first. Tokens are texts that people can read, also for byte-level
    BPE: `Tokenizer.token_text`.

    Example:
      >>> import jaxlm
      >>> from rich.console import Console
      >>> text = jaxlm.read_corpus("toy", eos=False)
      >>> model = jaxlm.NGram(vocab_size=len(text.vocabulary), order=3)
      >>> run = jaxlm.fit(model, text, console=Console(quiet=True))
      >>> [(word, round(p, 3)) for word, p in jaxlm.next_words(run, "我 讨厌", 2)]
      [('挨打', 0.786), ('我', 0.036)]

    Args:
      run: the trained run.
      context: the text before the next token.
      count: number of tokens to return.
      start: the state from which the model reads the context: "fresh", "warm" (after a stretch of
        training text), or None for warm if the run was trained on a stream of text.
    Raises:
      SettingError: for a count below 1, and for a warm start that the run does not have.
      UserError: for an unknown word, or a context that is too short for the model.
    """
    check_at_least("count", count, 1)
    best = next_ids(run, encode_context(run, context, start), count)
    return [(run.tokenizer.token_text(index), probability) for index, probability in best]


def next_ids(run: Run, context: Context, count: int) -> list[tuple[int, float]]:
    """Return the ids of the `count` most probable next tokens, with their probabilities."""
    log_probs_1V, _ = run.model.next_log_probs(run.params, context.ids, context.start.carry)
    log_probs_V = np.asarray(log_probs_1V)[0]
    best = np.argsort(-log_probs_V, kind="stable")[:count]
    return [(int(index), float(np.exp(log_probs_V[index]))) for index in best]


def sources(run: Run, context: Context, ids: Sequence[int]) -> list[str]:
    """Return, for each next token, which part of the model its probability comes from.

    In an n-gram model the part is an order, such as "3-gram". Other models return empty strings.
    """
    return run.model.sources(run.params, context.ids, np.array(ids), context.start.carry)


class UnknownWords:
    """Says which words of a text are not in the vocabulary of a run, so that it reads `<unk>`.

    Example:
      >>> import jaxlm
      >>> text = jaxlm.read_corpus("toy", eos=False, unk="always")
      >>> run = jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=3), text, quiet=True)
      >>> UnknownWords(run).note("我 恨")
      '恨 is not in the vocabulary; the model reads <unk>, which never occurred in training'

    Args:
      run: the run that reads the text.
    """

    def __init__(self, run: Run) -> None:
        self.run = run

    def words(self, text: str) -> list[str]:
        """Return the words of `text` that the run reads as `<unk>`, each once."""
        tokenizer, vocabulary = self.run.tokenizer, self.run.vocabulary
        if vocabulary.unk is None or not tokenizer.closed_vocabulary:
            return []
        pieces = tokenizer.pieces([text.replace("\r\n", "\n")])
        return list(dict.fromkeys(piece for piece in pieces if piece not in vocabulary))

    @property
    def never_trained(self) -> bool:
        """True if the training text has no `<unk>`, so that the model has learnt nothing about it.

        False also for a run of an older version, which does not say.
        """
        return self.run.settings.get(UNK_IN_TRAINING) is False

    def note(self, text: str) -> str:
        """Return a sentence that names the unknown words of `text`; "" if there are none."""
        words = self.words(text)
        if not words:
            return ""
        never = ", which never occurred in training" if self.never_trained else ""
        unk = self.run.vocabulary.unk
        return f"{_subject(words)} not in the vocabulary; the model reads {unk}{never}"


def unread_note(words: Sequence[str]) -> str:
    """Return a sentence that names the words that a model leaves out; "" if there are none.

    Args:
      words: words that the vocabulary of a run lacks, which has no `<unk>`; each once.

    Example:
      >>> unread_note(["é", "ü"])
      'é and ü are not in the vocabulary, which has no <unk>: the model reads on without them'
    """
    if not words:
        return ""
    them = "it" if len(words) == 1 else "them"
    return (
        f"{_subject(words)} not in the vocabulary, which has no <unk>: the model reads on "
        f"without {them}"
    )


def _subject(words: Sequence[str]) -> str:
    """Return up to five words, how many more there are, and "is" or "are"."""
    *listed, last = map(_shown, words[:5])
    if len(words) > 5:
        listed, last = [*listed, last], f"{len(words) - 5} more"
    subject = f"{', '.join(listed)} and {last}" if listed else last
    return f"{subject} {'is' if len(words) == 1 else 'are'}"


def _shown(word: str) -> str:
    """Return a word as a sentence shows it; a mark that stands on a letter gets a place for it."""
    if unicodedata.combining(word[0]):
        word = f"◌{word}"
    return quoted(word if len(word) <= LONGEST_SHOWN else f"{word[:LONGEST_SHOWN]}...")


@dataclass(frozen=True)
class SamplingConfig:
    """Settings of `sample`."""

    length: Size = 100
    """Tokens to generate."""
    samples: Size = 1
    """Continuations to generate, as one batch."""
    temperature: NotNegative = 1.0
    """Divide the logits by this: below 1 less varied, above 1 more; 0: the most probable token."""
    top_k: Size | None = None
    """Sample from the k most probable tokens only."""
    top_p: Annotated[float, Range(above=0, most=1)] | None = None
    """Sample from the fewest most probable tokens whose probabilities sum to p (nucleus)."""
    stop: tuple[str, ...] = ()
    """End a continuation before the first of these texts (in a command, \\n is a line break)."""
    seed: Seed = 0
    """Seed of the random numbers."""
    start: str | None = None
    """fresh: from the model's initial state; warm: after a stretch of the training text (none:
    warm for a run that was trained on a stream of text)."""


def cut(text: str, stops: Iterable[str], begin: int = 0) -> tuple[str, bool]:
    """Return a text up to the first stop text, and whether there is one.

    Example:
      >>> cut("to be or not", ["be", " or"]), cut("to be", ["be"], begin=4)
      (('to ', True), ('to be', False))

    Args:
      text: the text.
      stops: the stop texts.
      begin: the index in the text from which a stop text counts.
    """
    found = [at for stop in stops if stop and (at := text.find(stop, begin)) >= 0]
    return (text[: min(found)], True) if found else (text, False)


def continuation(
    tokenizer: Tokenizer, prompt: Sequence[int], ids: Sequence[int], stops: Sequence[str]
) -> tuple[str, bool]:
    """Return the text of a prompt and its continuation up to a stop text, and whether it stopped.

    Args:
      tokenizer: the tokenizer.
      prompt: token ids of the prompt, in which no stop text is looked for.
      ids: token ids of the continuation.
      stops: the stop texts.
    """
    text = tokenizer.decode([*prompt, *ids])
    if not stops:
        return text, False
    # A character whose bytes are in both parts changes the text before.
    pairs = zip(tokenizer.decode(prompt), text, strict=False)
    return cut(
        text, stops, sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    )


def generation_note(run: Run) -> str:
    """Return why most words of the run's continuations are arbitrary, and a remedy.

    The note is empty for a run that learnt to predict every word. An n-gram always counts them all.
    """
    if not run.protocol.last_only or run.model.trained_by == "counting":
        return ""
    eos = "" if run.vocabulary.start_id is not None else " and `eos`, which ends the lines too"
    return (
        f"this model was trained to predict the last word of each line alone, so its other words "
        f"are arbitrary: to generate lines, train with `positions` all{eos}"
    )


def check_sampling(config: SamplingConfig, vocab_size: int = 0) -> None:
    """Raise SettingError for a value out of its range, and for samples that the memory cannot hold.

    Args:
      config: the settings.
      vocab_size: the number of tokens of the model.
    """
    # An infinite temperature would make impossible words as likely as all others.
    from jaxlm.ops.machine import check_fits, host_memory

    check_settings(config)
    if "" in config.stop:
        raise SettingError("stop", "''", "is an empty text, which is everywhere: leave it out")
    from jaxlm.models.generating import bucket

    # A token is a number, and is drawn by a key and two random numbers. Each sample has logits, and
    # the program sorts them.
    of_sample = 20 * bucket(config.length) + 12 * vocab_size
    check_fits(
        f"`length` {config.length:,} and `samples` {config.samples:,}",
        of_sample * config.samples,
        host_memory(),
        "give smaller numbers",
    )


def sample(
    run: Run, prompt: str = "", config: SamplingConfig | None = None, **options: Any
) -> list[str]:
    """Return sampled continuations of `prompt`.

    Each text begins with the tokens of the prompt, as the tokenizer decodes them. So a word that is
    not in the vocabulary becomes `<unk>`, if the vocabulary has it. A run that learnt the last word
    of each line alone (`protocol.last_only`) generates arbitrary words elsewhere: train it with
    positions="all".

    Example:
      >>> import jaxlm
      >>> from rich.console import Console
      >>> text = jaxlm.read_corpus("toy", eos=False)
      >>> model = jaxlm.NGram(vocab_size=len(text.vocabulary), order=3)
      >>> run = jaxlm.fit(model, text, console=Console(quiet=True))
      >>> jaxlm.sample(run, "我 讨厌", length=1, temperature=0)
      ['我 讨厌 挨打']
      >>> jaxlm.sample(run, "我", length=9, temperature=0, stop=(" 我",))
      ['我 喜欢 玩具']
      >>> len(jaxlm.sample(run, "我", length=2, samples=3, top_p=0.9, seed=1))
      3

    Args:
      run: the trained run.
      prompt: text to continue; if it is empty, the model writes from the start of a line.
      config: the settings; None for a SamplingConfig of `options`.
      **options: fields of SamplingConfig by name, unless `config` is given.
    Raises:
      SettingError: for a value out of its range, and for options beside a `config`.
      UserError: for an unknown word, or a prompt that is too short for the model.
    """
    import jax

    from jaxlm.ops.sampling import Sampler

    if config is None:
        config = SamplingConfig(**options)
    else:
        for name, value in options.items():
            raise SettingError(name, value, "has no effect with a SamplingConfig: set it there")
    check_sampling(config, len(run.vocabulary))
    encoded = encode_context(run, prompt, config.start)
    tokens_BT = run.model.generate(
        run.params,
        np.repeat(encoded.ids, config.samples, axis=0),
        jax.random.key(config.seed),
        Sampler(float(config.temperature), config.top_k, config.top_p),
        config.length,
        repeated(encoded.start.carry, config.samples),
    )
    prompt_ids = encoded.text_ids.tolist()
    return [
        continuation(run.tokenizer, prompt_ids, new, config.stop)[0]
        for new in np.asarray(tokens_BT).tolist()
    ]
