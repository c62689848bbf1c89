"""A mixture of runs as a run that can be asked, and that generates."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxlm.errors import UserError
from jaxlm.evaluation.mixing import (
    check_components,
    check_vocabularies,
    check_weights,
    weights_on_valid,
)
from jaxlm.models.base import Carry
from jaxlm.runs.run import Run
from jaxlm.runs.starts import WARM_START


@dataclass(frozen=True)
class MixedRun(Run):
    """A mixture of runs, as `interpolate` returns it.

    `parts` are its runs, in the order of the weights `params.weights`.

    Example:
      >>> import jaxlm
      >>> text = jaxlm.read_corpus("toy", eos=False)
      >>> runs = [jaxlm.fit(jaxlm.NGram(7, order=order), text, quiet=True) for order in (1, 3)]
      >>> mixed = jaxlm.interpolate(runs, [0.1, 0.9])
      >>> mixed.name, mixed.params.weights
      ('NGram + NGram', (0.1, 0.9))
    """

    parts: tuple[Run, ...] = ()

    @functools.cached_property
    def warm_carry(self) -> Carry:
        """The carries of one row after the training text of the parts that keep some."""
        return tuple(
            part.warm_carry if part.settings.get(WARM_START) else part.model.initial_carry(1)
            for part in self.parts
        )

    @property
    def name(self) -> str:
        """The names of the parts."""
        return " + ".join(part.name for part in self.parts)

    def save(self, folder: str | Path) -> Run:
        """Raise UserError: a mixture has no folder of its own."""
        raise UserError(f"a mixture cannot be saved: keep the folders of {self.name}")


def interpolate(
    runs: Sequence[Run],
    weights: Sequence[float] | None = None,
    *,
    corpus: str | Path | None = None,
) -> MixedRun:
    """Return runs as one run, whose probabilities are interpolated.

        P(w | h) = Σ_m λ_m P_m(w | h)          Σ_m λ_m = 1

    `next_words`, `sample`, `Session`, `score` and `perplexity` take the run like any other run. All
    parts read the same tokens, each from its own state. All parts generate in one compiled program,
    also the n-grams. Where the parts would start differently, the first part that keeps a stretch
    of its training text decides whether a text starts fresh or warm.

    Example:
      >>> import jaxlm
      >>> text = jaxlm.read_corpus("toy", eos=False)
      >>> size = len(text.vocabulary)
      >>> unigram = jaxlm.fit(jaxlm.NGram(size, order=1), text, quiet=True)
      >>> trigram = jaxlm.fit(jaxlm.NGram(size, order=3), text, quiet=True)
      >>> mixed = jaxlm.interpolate([unigram, trigram], [0.1, 0.9])
      >>> [(word, round(p, 3)) for word, p in jaxlm.next_words(mixed, "我 讨厌", 2)]
      [('挨打', 0.72), ('我', 0.056)]

    Args:
      runs: the parts. All have the same vocabulary, in any order.
      weights: λ, a weight for each part; None for the weights that are best on the validation
        split, found by expectation-maximisation.
      corpus: name or path of the corpus of the validation split; None for the corpus that each run
        was trained on. It has no effect with `weights`.
    Raises:
      SettingError: for weights that do not fit the runs.
      UserError: for different vocabularies, fewer than two runs, and, without weights, runs that
        predict different tokens, or a corpus without a validation split.
    """
    from jaxlm.models.interpolated import Interpolated, InterpolatedParams

    check_components(len(runs), None)
    if any(isinstance(run, MixedRun) for run in runs):
        raise UserError("a part is a mixture itself: give the parts of all mixtures to one call")
    check_vocabularies(runs)
    if weights is None:
        weights = weights_on_valid(runs, corpus)
    check_weights(weights, len(runs))
    # Runs are not compared by ==: their parameters are arrays.
    place = next((at for at, run in enumerate(runs) if run.settings.get(WARM_START)), None)
    vocabulary = runs[0].vocabulary
    ids: list[np.ndarray | None] = []
    for run in runs:
        is_same = run.vocabulary.tokens == vocabulary.tokens
        ids.append(None if is_same else np.array(run.vocabulary.ids(vocabulary.tokens), np.int32))
    model = Interpolated(len(vocabulary), vocabulary.start_id, tuple(run.model for run in runs))
    params = InterpolatedParams(
        tuple(run.params for run in runs), tuple(map(float, weights)), tuple(ids)
    )
    settings = dict(runs[0].settings)
    settings.pop(WARM_START, None)
    if place is not None:
        order, stretch = ids[place], runs[place].settings[WARM_START]
        # The ids of the stretch, as ids of the mixture.
        settings[WARM_START] = stretch if order is None else np.argsort(order)[stretch].tolist()
    return MixedRun(
        model, params, runs[0].tokenizer, runs[0].protocol, settings, None, 0, 0, tuple(runs)
    )
