"""The view "about": the layers of each run, and how each number of the page comes about."""

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jaxlm.runs.run import Run

if TYPE_CHECKING:
    from jaxlm.inspection.pages.views import Options


def collect(runs: Sequence[Run], text: str, options: "Options") -> dict[str, Any]:
    """Return the table of layers, the protocol and the training command of each run."""
    return {"runs": [_about(run, text, options) for run in runs]}


def _about(run: Run, text: str, options: "Options") -> dict[str, Any]:
    table = run.model.summary()
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    protocol = run.protocol
    return {
        "model": str(table.title or type(run.model).__name__),
        "headers": [str(column.header) for column in table.columns],
        "rows": [list(row) for row in zip(*columns, strict=True)],
        "footer": [str(column.footer) for column in table.columns] if table.show_footer else None,
        "vocabulary": len(run.vocabulary),
        "step": run.step,
        "counted": run.model.trained_by == "counting",
        "by_lines": protocol.rows,
        "last_only": protocol.last_only,
        "start": options.trace(run, text).start.name,
        "window": run.model.window,
        "command": command_of(run),
    }


def command_of(run: Run) -> str:
    """Return the command that trained a run; "" if config.json does not say."""
    saved = run.settings.get("command")
    return shlex.join(map(str, saved)) if isinstance(saved, list) else ""
