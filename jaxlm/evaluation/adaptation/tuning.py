"""A run measured while it adapts, with what is not given chosen on the validation split."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.data.encoding import Split
from jaxlm.errors import UserError
from jaxlm.evaluation.adaptation.dynamic import RULES, Following, no_rms, training_rms
from jaxlm.evaluation.adaptation.reading import CHUNK, How, Readings, read
from jaxlm.evaluation.adaptation.settings import Adaptation
from jaxlm.evaluation.interpolation import em_weights, interpolated
from jaxlm.evaluation.perplexity import Report, open_split, report
from jaxlm.evaluation.scoring import TokenScores
from jaxlm.runs.run import Run

TEMPERATURES = tuple(round(0.70 + 0.05 * step, 2) for step in range(13))
FLATNESSES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0)
# Of the rules: first the rate, with the first decay; then the decay.
RATES = {"sgd": (0.01, 0.03, 0.1, 0.3, 1.0), "rms": (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)}
DECAYS = {"sgd": (1e-3, 0.0, 3e-3, 1e-2), "rms": (0.02, 0.0, 5e-3, 0.05)}
# Tokens at the beginning of the validation split on which they are chosen.
TRIAL = 10_000


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
    adapter = Adapter(run, corpus)
    # Before the text itself is looked at: validation chooses.
    adaptation = adapter.complete(adaptation)
    opened = open_split(run, corpus, split, text)
    return adapter.report(adaptation, opened, adapter.log_probs(adaptation, opened))


class Adapter:
    """A run that adapts, and what of its training text a rule asks for, looked at once; corpus: in
    place of the one it was trained on.
    """

    def __init__(self, run: Run, corpus: str | None = None) -> None:
        self.run, self.corpus = run, corpus
        self._found: dict[tuple[bool, int], Any] = {}

    def complete(self, adaptation: Adaptation) -> Adaptation:
        """`adaptation`, with what it leaves open chosen on the validation split. Raises UserError
        for what cannot be.
        """
        adaptation.check()
        adaptation.check_run(self.run)
        if not adaptation.open:
            return adaptation
        try:
            valid = open_split(self.run, self.corpus, "valid")
        except UserError as error:
            raise UserError(
                f"what is not given is chosen on the validation split, which cannot be had "
                f"({error}): give --temperature, --cache-flatness, --cache-share, --dynamic-lr, "
                f"--dynamic-decay"
            ) from None
        chosen = [f"{valid.name}, {len(valid):,} tokens"]
        if adaptation.dynamic_open:
            adaptation = _with_rule(self, adaptation, valid.ids[:TRIAL])
            chosen.append(f"rate and decay by its first {min(TRIAL, len(valid)):,}")
        adaptation = replace(adaptation, chosen=f" (by {'; '.join(chosen)})")
        return _with_mixture(self, adaptation, valid)

    def log_probs(self, adaptation: Adaptation, split: Split) -> np.ndarray:
        """log P of every token of a split, float64 [T], with complete settings."""
        assert adaptation.temperature is not None
        settings = [adaptation.temperature], [adaptation.flatness or 0.0]
        readings = self.read(adaptation, split.ids, *settings)
        if not adaptation.cache:
            return readings.model_KT[0]
        share = adaptation.share or 0.0
        parts_MT = np.stack([readings.model_KT[0], readings.cache(0, 0)])
        return interpolated(parts_MT, [1 - share, share])

    def report(self, adaptation: Adaptation, split: Split, log_probs: np.ndarray) -> Report:
        """The figures of `log_probs`, and how they came about."""
        found = report(self.run, split, TokenScores(log_probs))
        protocol = f"{found.protocol} {adaptation}."
        return replace(found, run=f"{self.run.name}, adapted", protocol=protocol)

    def read(
        self,
        adaptation: Adaptation,
        ids: np.ndarray,
        temperatures: Sequence[float] = (1.0,),
        flatnesses: Sequence[float] = (0.0,),
        cache: int | None = None,
    ) -> Readings:
        """One pass over `ids`; cache: in place of the adaptation's."""
        cache = adaptation.cache if cache is None else cache
        how = How(cache, adaptation.samples, adaptation.dynamic)
        steps, following = CHUNK, None
        if adaptation.dynamic != "none":
            steps = adaptation.dynamic_steps
            rms, mean = self._rms(RULES[adaptation.dynamic].wants_rms, steps)
            following = Following(rms, mean, adaptation.dynamic_lr, adaptation.dynamic_decay)
        return read(
            self.run.model,  # type: ignore[arg-type]
            self.run.params,
            ids,
            how,
            temperatures,
            flatnesses,
            seed=adaptation.seed,
            steps=steps,
            following=following,
        )

    def _rms(self, wanted: bool, steps: int) -> Any:
        if (wanted, steps) not in self._found:
            model, params = self.run.model, self.run.params
            if wanted:
                ids = open_split(self.run, self.corpus, "train").ids
                self._found[wanted, steps] = training_rms(model, params, ids, steps)  # type: ignore[arg-type]
            else:
                self._found[wanted, steps] = no_rms(params)
        return self._found[wanted, steps]


def _with_rule(adapting: Adapter, adaptation: Adaptation, ids: np.ndarray) -> Adaptation:
    """The rule's rate, and then its decay, under which `ids` are likeliest."""
    rule, plain = adaptation.dynamic, replace(adaptation, temperature=1.0)

    def best(trials: Sequence[Adaptation]) -> Adaptation:
        # A rate so high that the parameters burst is not a number, and no maximum.
        scores = [
            np.nan_to_num(adapting.read(one, ids, cache=0).model_KT.sum(), nan=-np.inf)
            for one in trials
        ]
        return trials[int(np.argmax(scores))]

    rates = RATES[rule] if plain.dynamic_lr is None else (plain.dynamic_lr,)
    decays = DECAYS[rule] if plain.dynamic_decay is None else (plain.dynamic_decay,)
    found = best([replace(plain, dynamic_lr=rate, dynamic_decay=decays[0]) for rate in rates])
    found = best([replace(found, dynamic_decay=decay) for decay in decays])
    return replace(found, temperature=adaptation.temperature)


def _with_mixture(adapting: Adapter, adaptation: Adaptation, valid: Split) -> Adaptation:
    """The temperature, and the cache's flatness and share, under which `valid` is likeliest."""
    given = adaptation.temperature, adaptation.flatness
    temperatures = TEMPERATURES if given[0] is None else (given[0],)
    flatnesses = FLATNESSES if given[1] is None else (given[1],)
    if given[0] is not None and not adaptation.cache:
        return adaptation
    readings = adapting.read(adaptation, valid.ids, temperatures, flatnesses)
    best = int(np.argmax(readings.model_KT.sum(axis=1)))
    adaptation = replace(adaptation, temperature=temperatures[best])
    if not adaptation.cache:
        return adaptation
    found = []
    for place, flatness in enumerate(flatnesses):
        parts_MT = np.stack([readings.model_KT[best], readings.cache(best, place)])
        share = adaptation.share
        share = float(em_weights(parts_MT)[1]) if share is None else share
        total = interpolated(parts_MT, [1 - share, share]).sum()
        found.append((total, flatness, share))
    _, flatness, share = max(found)
    return replace(adaptation, flatness=flatness, share=share)
