"""The folders of runs that train together."""

from collections.abc import Sequence
from pathlib import Path

from jaxlm.data.text import Text
from jaxlm.errors import UserError
from jaxlm.processes import agreed, is_first
from jaxlm.training.member import Settings
from jaxlm.training.runs import claim_folder, give_up_folder, write_description


def claim_folders(runs: Sequence[Settings], text: Text, resume: bool) -> None:
    """Makes all folders these runs', or none: what is refused leaves no other run's folder behind.
    Of several processes the first does it, for all.

    Raises UserError as `claim_folder` does.
    """
    refused: UserError | None = None
    if is_first():
        try:
            _claim(runs, text, resume)
        except UserError as error:
            refused = error
    if agreed([refused is not None])[0, 0]:
        raise refused or UserError("the first process could not take the run's folder")


def _claim(runs: Sequence[Settings], text: Text, resume: bool) -> None:
    made: list[Path] = []
    for run in runs:
        if run.folder is None:
            continue
        new = not run.folder.exists()
        try:
            claim_folder(run.folder, run.description(text), text.tokenizer, resume)
        except UserError:
            for folder in made:
                give_up_folder(folder)
            raise
        made += [run.folder] * new


def describe_again(runs: Sequence[Settings], text: Text) -> None:
    """Writes what the runs are, which has changed since they were claimed."""
    for run in runs:
        if run.folder and is_first():
            write_description(run.folder, run.description(text), text.tokenizer)
