"""Flags of the commands that ask a mixture of runs."""

from collections.abc import Sequence
from pathlib import Path

from jaxlm.errors import UserError
from jaxlm.runs.run import Run, load_all


def parse_weights(text: str) -> list[float]:
    """Return the numbers of a text such as .5,.5. Raise UserError for other text.

    Example:
      >>> parse_weights(".7,.3")
      [0.7, 0.3]
    """
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(
            f"--weights {text!r}: give one number per component, separated by commas, such as .5,.5"
        ) from None


def load_mixed(folders: Sequence[Path], weights: str | None, checkpoint_folder: str | None) -> Run:
    """Return the run of one folder, or the mixture of the runs of several folders.

    Args:
      folders: the folders.
      weights: the weights as text, such as .7,.3; None for the best on the validation split.
      checkpoint_folder: where the checkpoints are, if they are not in the folder.
    Raises:
      UserError: for folders that cannot be loaded or mixed, and weights that are no numbers.
    """
    parsed = None if weights is None else parse_weights(weights)
    runs = load_all(folders, checkpoint_folder=checkpoint_folder)
    if len(runs) == 1:
        return runs[0]
    from jaxlm.evaluation.mixed_runs import interpolate

    return interpolate(runs, parsed)


def describe_weights(run: Run) -> str:
    """Return the weight of each part of a mixture as a note; "" for a run of its own."""
    if run.model.trained_by != "interpolation":
        # An n-gram of its own does not need JAX, which mixtures import.
        return ""
    from jaxlm.evaluation.mixed_runs import MixedRun

    assert isinstance(run, MixedRun)
    parts = zip(run.params.weights, run.parts, strict=True)
    return "mixture: " + ", ".join(f"{weight:.4f} {part.name}" for weight, part in parts)
