"""Trained n-grams without the n-grams that are worth little: `prune`."""

from dataclasses import replace

from jaxlm.errors import UserError
from jaxlm.models.ngram import NGram
from jaxlm.ngrams.config import CountingConfig
from jaxlm.ngrams.pruning import prune_by_entropy
from jaxlm.ranges import checked, kinds_of
from jaxlm.runs.run import Run


def prune(run: Run, prune_entropy: float) -> Run:
    """Return a run of an n-gram without the n-grams whose loss changes the perplexity by little.

    An n-gram is removed if the perplexity becomes larger by less than `prune_entropy` of its value
    without it, as by SRILM's -prune (Stolcke 1998). The probability of a context is the model's
    own. To train with counted probabilities of contexts, which prune Kneser-Ney better, give
    `prune_entropy` to `jaxlm.fit`.

    Example:
      >>> import jaxlm
      >>> text = jaxlm.read_corpus("toy", eos=False)
      >>> run = jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=3), text, quiet=True)
      >>> smaller = prune(run, 0.01)
      >>> run.params.sizes, smaller.params.sizes
      ((7, 7, 6), (7, 7, 3))

    Args:
      run: the run. It stays as it is.
      prune_entropy: the relative change of the perplexity, such as 1e-8.
    Raises:
      UserError: for a run of another model, and for an n-gram that is no distribution.
      SettingError: for a number that is not between 0 and 1.
    """
    if not isinstance(run, Run) or not isinstance(run.model, NGram):
        what = repr(run)
        if isinstance(run, Run):
            what = f"{run.name} has the model {type(run.model).__name__}"
        raise UserError(f"{what}: only runs of n-grams can be pruned")
    kind = kinds_of(CountingConfig)["prune_entropy"]
    threshold = checked("prune_entropy", prune_entropy, kind)
    end_id = None if run.model.stream else run.vocabulary.start_id
    tables = prune_by_entropy(run.params, threshold, end_id)
    counting = run.settings.get("counting") or {}
    about = {"prune_entropy": threshold, "prune_history": "model"}
    settings = {**run.settings, "counting": {**counting, **about}}
    return replace(run, params=tables, settings=settings, folder=None)
