"""What comes next: the next word's distribution, and sampled continuations."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.errors import UserError
from jaxlm.ops.sampling import categorical
from jaxlm.runs.run import Run


@dataclass(frozen=True)
class Context:
    """A prompt as the model gets it: ids [1, T], and a note where that is not simply what was
    asked.
    """

    ids: np.ndarray
    note: str = ""


def encode_context(run: Run, text: str) -> Context:
    """The ids of `text` as a context, after the start token if there is one.

    A window model sees the last n_step tokens; a shorter context is padded with the start token, as
    in training; both are noted. Raises UserError for an unknown word without `<unk>`, and for a
    context that is too short where nothing pads it.
    """
    vocabulary, tokenizer = run.vocabulary, run.tokenizer
    if not text.isprintable() and any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError(f"the context {text!r} is not valid UTF-8 text: give it in UTF-8")
    # A context is the beginning of a line: words are split without the <eos> that would end it.
    words = vocabulary.ids(text.split()) if tokenizer.name == "words" else tokenizer.encode([text])
    before = [] if vocabulary.start_id is None else [vocabulary.start_id]
    ids = np.concatenate([np.array(before, np.int32), words]).astype(np.int32)[None, :]
    model, count = run.model, len(words)
    window = model.window
    missing = 0 if window is None else max(0, window - count)
    padded = model.pads and missing > 0
    if padded and vocabulary.start_id is None:
        raise UserError(
            f"the context {text!r} has {count} {_tokens(count)}, and this model needs "
            f"{window}: its vocabulary has no <eos> "
            f"to pad with. Give {window} words"
        )
    if not ids.size and not model.starts_from_nothing:
        raise UserError(
            "the context is empty, and this model has no <eos> to start from: give a word"
        )
    note = ""
    if padded:
        note = (
            f"context of {count} {_tokens(count)} padded with {missing} x {vocabulary.start!r} to "
            f"the model's {window}"
        )
    elif window is not None and count > window:
        note = f"of the context's {count} tokens the model sees the last {window}"
    return Context(ids, note)


def _tokens(count: int) -> str:
    return "token" if count == 1 else "tokens"


def next_words(run: Run, context: str, count: int = 5) -> list[tuple[str, float]]:
    """The `count` likeliest next tokens after `context`, with their probabilities, likeliest first.

        >>> jaxlm.next_words(run, "我 讨厌", 1)
        [('挨打', 0.9999)]

    Raises UserError for an unknown word, a context too short to use, or a count below 1.
    """
    if count < 1:
        raise UserError(f"--top {count}: must be at least 1")
    ids = encode_context(run, context).ids
    log_probs_BV, _ = run.model.next_log_probs(run.params, ids)
    log_probs_V = np.asarray(log_probs_BV)[0]
    best = np.argsort(-log_probs_V, kind="stable")[:count]
    return [(run.vocabulary.tokens[index], float(np.exp(log_probs_V[index]))) for index in best]


def word_sources(run: Run, context: str, words: Sequence[str]) -> list[str]:
    """What in the model gave each word its probability after `context` (an n-gram's order); empty
    strings where it has nothing to tell.
    """
    ids = encode_context(run, context).ids
    return run.model.sources(run.params, ids, run.vocabulary.ids(words))


@dataclass(frozen=True)
class SamplingConfig:
    """How a continuation is drawn."""

    length: int = 100
    """Tokens to generate."""
    samples: int = 1
    """Continuations, generated side by side in one batch."""
    temperature: float = 1.0
    """Divide the logits by this: below 1 bolder, above 1 wilder, 0 always the likeliest."""
    top_k: int | None = None
    """Draw from the k likeliest tokens only."""
    top_p: float | None = None
    """Draw from the fewest likeliest tokens whose probabilities sum to p (nucleus sampling)."""
    seed: int = 0
    """Fixes the draws."""


def check_sampling(config: SamplingConfig) -> None:
    """Raises UserError that names the flag of a value out of its range."""
    least = {"length": config.length, "samples": config.samples, "top_k": config.top_k}
    for name, value in least.items():
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be at least 1")
    if not config.temperature >= 0:
        raise UserError(f"--temperature {config.temperature}: must be 0 or more")
    if config.top_p is not None and not 0 < config.top_p <= 1:
        raise UserError(f"--top-p {config.top_p}: must be above 0 and at most 1")


def filter_logits(
    logits_BV: jax.Array, temperature: float, top_k: int | None, top_p: float | None
) -> jax.Array:
    """Logits of the distribution to draw from, -inf at what is cut off.

    y / temperature; then the k largest (Fan et al. 2018); then the smallest set of likeliest tokens
    with probability at least p (Holtzman et al. 2020). The likeliest token always stays.
    """
    logits_BV = logits_BV / temperature
    if top_k is not None and top_k < logits_BV.shape[-1]:
        least_B1 = jax.lax.top_k(logits_BV, top_k)[0][:, -1:]
        logits_BV = jnp.where(logits_BV < least_B1, -jnp.inf, logits_BV)
    if top_p is not None:
        sorted_BV = -jnp.sort(-logits_BV, axis=-1)
        before_BV = jnp.cumsum(jax.nn.softmax(sorted_BV), axis=-1) - jax.nn.softmax(sorted_BV)
        kept_B1 = jnp.maximum(1, jnp.sum(before_BV < top_p, axis=-1, keepdims=True))
        least_B1 = jnp.take_along_axis(sorted_BV, kept_B1 - 1, axis=-1)
        logits_BV = jnp.where(logits_BV < least_B1, -jnp.inf, logits_BV)
    return logits_BV


@dataclass(frozen=True)
class Sampler:
    """draw(logits_BV, uniform_2B) -> token_B: the likeliest at temperature 0, else a random one of
    what `filter_logits` leaves, by two numbers a row from [0, 1).
    """

    temperature: float
    top_k: int | None
    top_p: float | None

    def __call__(self, logits_BV: jax.Array, uniform_2B: jax.Array) -> jax.Array:
        if self.temperature == 0:
            return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
        left_BV = filter_logits(logits_BV, self.temperature, self.top_k, self.top_p)
        return categorical(uniform_2B, left_BV)


def sample(
    run: Run, prompt: str = "", config: SamplingConfig | None = None, **options: Any
) -> list[str]:
    """Continuations of `prompt`, as text that begins with it.

        jaxlm.sample(run, "我", length=20, temperature=0.8, samples=3, seed=1)

    `options` are fields of SamplingConfig. Raises UserError for a value out of range or an unknown
    word.
    """
    config = SamplingConfig(**options) if config is None else config
    check_sampling(config)
    ids = encode_context(run, prompt).ids
    tokens_BT = run.model.generate(
        run.params,
        np.repeat(ids, config.samples, axis=0),
        jax.random.key(config.seed),
        Sampler(float(config.temperature), config.top_k, config.top_p),
        config.length,
    )
    return [joined(run, ids[0], row) for row in np.asarray(tokens_BT).tolist()]


def joined(run: Run, prompt_ids: np.ndarray, new_ids: Sequence[int]) -> str:
    """The text of prompt and continuation, without the start token."""
    skipped = 0 if run.vocabulary.start_id is None else 1
    return run.tokenizer.decode([*prompt_ids[skipped:].tolist(), *new_ids])
