"""A trained run that adapts to what it reads, while it is measured: a temperature, and a cache of
its own states. Nothing of the run is changed, and validation chooses what is not given.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.data.encoding import Split
from jaxlm.errors import UserError
from jaxlm.evaluation import Report, open_split, report
from jaxlm.mixing import em_weights, interpolated
from jaxlm.models.base import Carry
from jaxlm.models.neural import NeuralModel
from jaxlm.ops.continuous_cache import cache_log_probs
from jaxlm.scoring import TokenScores
from jaxlm.training.runs import Run

# Tokens whose logits and likeness to the cache are there at a time.
CHUNK = 256
TEMPERATURES = tuple(round(0.70 + 0.05 * step, 2) for step in range(13))
FLATNESSES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0)


@dataclass(frozen=True)
class Adaptation:
    """How a run is measured.

        P(w | h) = (1 - λ) softmax(y / τ)_w + λ P_cache(w | h)

    temperature: τ. cache: how many of the last states are kept, 0 for none; flatness: θ, and share:
    λ, of the cache. None: chosen on the validation split, τ first, then θ and with each θ the best
    λ.
    """

    temperature: float | None = 1.0
    cache: int = 0
    flatness: float | None = None
    share: float | None = None
    chosen: str = ""

    def check(self) -> None:
        """Raises UserError for a setting that cannot be."""
        if self.temperature is not None and not self.temperature > 0:
            raise UserError(f"--temperature {self.temperature}: must be above 0, or auto")
        if self.cache < 0:
            raise UserError(f"--cache {self.cache}: must be at least 0 (0: no cache)")
        if self.flatness is not None and not self.flatness >= 0:
            raise UserError(f"--cache-flatness {self.flatness}: must be at least 0")
        if self.share is not None and not 0 <= self.share < 1:
            raise UserError(f"--cache-share {self.share}: must be at least 0 and below 1")

    def __str__(self) -> str:
        parts = [f"temperature {self.temperature:g}"] if self.temperature != 1 else []
        if self.cache:
            parts.append(
                f"cache of the last {self.cache:,} states, flatness {self.flatness:g}, share "
                f"{self.share:.4f}"
            )
        return f"Adapted: {'; '.join(parts) or 'nothing'}{self.chosen}"


def adapted(
    run: Run,
    adaptation: Adaptation,
    *,
    corpus: str | None = None,
    split: str | None = None,
    text: str | Path | None = None,
) -> Report:
    """The perplexity of `run` as `adaptation` has it; corpus, split, text: as for `perplexity`.

        print(jaxlm.adapted(run, jaxlm.Adaptation(temperature=None, cache=500)))

    Raises UserError for a run that is not of a neural model over a stream, settings that cannot be,
    and a corpus without validation split where one is to choose.
    """
    adaptation.check()
    if not isinstance(run.model, NeuralModel) or run.in_rows:
        raise UserError(
            f"{run.name} cannot be adapted: --cache and --temperature are for neural models that "
            f"read one stream (--batching streams or windows)"
        )
    if adaptation.temperature is None or (
        adaptation.cache and None in (adaptation.flatness, adaptation.share)
    ):
        # Before the text itself is looked at: validation chooses.
        adaptation = _chosen_on_valid(run, adaptation, corpus)
    opened = open_split(run, corpus, split, text)
    settings = [adaptation.temperature], [adaptation.flatness or 0.0]
    measured = _measure(run, opened, adaptation.cache, *settings)  # type: ignore[arg-type]
    log_probs = measured.model_KT[0]
    if adaptation.cache:
        share = adaptation.share or 0.0
        parts_MT = np.stack([log_probs, measured.cache(0, 0)])
        log_probs = interpolated(parts_MT, [1 - share, share])
    found = report(run, opened, TokenScores(log_probs))
    return replace(found, run=f"{run.name}, adapted", protocol=f"{found.protocol} {adaptation}.")


def _chosen_on_valid(run: Run, adaptation: Adaptation, corpus: str | None) -> Adaptation:
    try:
        valid = open_split(run, corpus, "valid")
    except UserError as error:
        raise UserError(
            f"what is not given is chosen on the validation split, which cannot be had ({error}): "
            f"give --temperature, --cache-flatness and --cache-share"
        ) from None
    given = adaptation.temperature, adaptation.flatness
    temperatures = TEMPERATURES if given[0] is None else (given[0],)
    flatnesses = FLATNESSES if given[1] is None else (given[1],)
    measured = _measure(run, valid, adaptation.cache, temperatures, flatnesses)
    best = int(np.argmax(measured.model_KT.sum(axis=1)))
    chosen = f" (by {valid.name}, {len(valid):,} tokens)"
    adaptation = replace(adaptation, temperature=temperatures[best], chosen=chosen)
    if not adaptation.cache:
        return adaptation
    found = []
    for place, flatness in enumerate(flatnesses):
        parts_MT = np.stack([measured.model_KT[best], measured.cache(best, place)])
        share = adaptation.share
        share = float(em_weights(parts_MT)[1]) if share is None else share
        total = interpolated(parts_MT, [1 - share, share]).sum()
        found.append((total, flatness, share))
    _, flatness, share = max(found)
    return replace(adaptation, flatness=flatness, share=share)


class _Measured(NamedTuple):
    """log P of every token by the model at each temperature, float64 [K, T], and by the cache at
    each flatness [J, T].
    """

    model_KT: np.ndarray
    cache_JT: np.ndarray

    def cache(self, temperature: int, flatness: int) -> np.ndarray:
        """The cache's; where it is empty, before the first token, it says what the model does."""
        first = self.model_KT[temperature, :1]
        return np.concatenate([first, self.cache_JT[flatness, 1:]])


class _Memory(NamedTuple):
    """The last states, the word that followed each, and how many there are."""

    states_WF: jax.Array
    words_W: jax.Array
    filled: jax.Array


def _measure(
    run: Run, split: Split, cache: int, temperatures: Sequence[float], flatnesses: Sequence[float]
) -> _Measured:
    model, ids = run.model, np.asarray(split.ids, np.int32)
    before = np.concatenate([[model.filler_id], ids[:-1]]).astype(np.int32)
    carry = model.initial_carry(1)
    memory: _Memory | None = None
    grids = jnp.asarray(temperatures, jnp.float32), jnp.asarray(flatnesses, jnp.float32)
    chunks = []
    for start in range(0, len(ids), CHUNK):
        # The last chunk is filled up; what comes of that is cut off again.
        places = np.minimum(np.arange(start, start + CHUNK), len(ids) - 1)
        texts = before[places][None], ids[places]
        found, carry, memory = _chunk(run.params, *texts, carry, memory, *grids, model, cache)
        chunks.append(found)
    parts = zip(*chunks, strict=True)
    return _Measured(
        *(np.concatenate([np.asarray(one) for one in part], 1)[:, : len(ids)] for part in parts)
    )


@functools.partial(jax.jit, static_argnames=("model", "cache"))
def _chunk(
    params: Any,
    inputs_1T: jax.Array,
    targets_T: jax.Array,
    carry: Carry,
    memory: _Memory | None,
    temperatures_K: jax.Array,
    flatnesses_J: jax.Array,
    model: NeuralModel,
    cache: int,
) -> tuple[tuple[jax.Array, jax.Array], Carry, _Memory]:
    hidden_1TF, carry = model.apply({"params": params}, inputs_1T, carry)
    logits_TV = model.apply({"params": params}, hidden_1TF, method="logits")[0]
    logits_TV = logits_TV.astype(jnp.float32)
    target_T = jnp.take_along_axis(logits_TV, targets_T[:, None], axis=-1)[:, 0]

    def at(temperature: jax.Array) -> jax.Array:
        return target_T / temperature - jax.nn.logsumexp(logits_TV / temperature, axis=-1)

    model_KT = jax.lax.map(at, temperatures_K)
    states_TF = hidden_1TF[0].astype(jnp.float32)
    if memory is None:
        width, features = cache, states_TF.shape[-1]
        empty = jnp.zeros((width, features)), jnp.zeros(width, targets_T.dtype)
        memory = _Memory(*empty, jnp.int32(0))
    cache_JT = jnp.zeros((len(flatnesses_J), len(targets_T)))
    if cache:
        cache_JT = cache_log_probs(states_TF, targets_T, *memory, flatnesses_J)
    kept = _Memory(
        jnp.concatenate([memory.states_WF, states_TF])[len(states_TF) :],
        jnp.concatenate([memory.words_W, targets_T])[len(states_TF) :],
        jnp.minimum(cache, memory.filled + len(states_TF)),
    )
    return (model_KT, cache_JT), carry, kept
