"""The page at /: the page to play with, of the runs that are served."""

from collections.abc import Callable, Sequence

from jaxlm.errors import UserError
from jaxlm.inspection.play.building import play_page, shelves_of
from jaxlm.runs.run import Run


def front_page(runs: Sequence[Run], note: Callable[[str], None]) -> str | None:
    """Return the page to play with, of the runs that it can hold; None if it can hold none.

    Args:
      runs: the runs.
      note: called with a line of text for each run that is left out.
    """
    try:
        return play_page(shelves_of(runs))
    except UserError:
        # The page may hold some of the runs.
        kept: list[Run] = []
    page = None
    for run in runs:
        try:
            page = play_page(shelves_of([*kept, run]))
        except UserError as error:
            note(f"{run.name} is not in the page at /: {error}")
        else:
            kept.append(run)
    return page
