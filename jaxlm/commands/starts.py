"""The note that says from which state a run reads a text."""

from jaxlm.commands import cli
from jaxlm.runs.protocol import FRESH, WARM
from jaxlm.runs.run import Run
from jaxlm.runs.starts import WARM_START, start_of


def say_start(run: Run, start: str | None) -> None:
    """Print on standard error from which state the run reads a text, if it can have two states.

    Raises:
      SettingError: for a start that the run does not have.
    """
    used = start_of(run, start).name
    stretch = run.settings.get(WARM_START)
    if not stretch:
        return
    described = {
        WARM: f"start warm, after {len(stretch)} tokens of the training text; --start {FRESH} "
        f"starts from the initial state",
        FRESH: f"start fresh, from the initial state; --start {WARM} starts after "
        f"{len(stretch)} tokens of the training text",
    }
    cli.say(described[used])
