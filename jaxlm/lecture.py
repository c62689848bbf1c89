"""python -m jaxlm.lecture: the lecture on language models, step by step, in the terminal."""

if __name__ == "__main__":
    # Before the other imports, which take a second.
    from jaxlm.commands.interrupt import end_quietly

    end_quietly()

import contextlib
import io
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxlm.commands import cli
from jaxlm.commands.lecture_steps import (
    LANGUAGES,
    Cell,
    Step,
    needed,
    read_steps,
    terminal_lines,
)
from jaxlm.commands.terminal import OutputClosedError
from jaxlm.errors import SettingError, UserError, choose, reason

ABOUT = """The lecture on language models, step by step: text, code, and what the code prints.

Enter goes on to the next piece, and q ends the lecture. The same steps are the notebooks
experiments/lecture.zh.ipynb and experiments/lecture.en.ipynb, where you can change each one.

Examples:
  python -m jaxlm.lecture --lang zh
  python -m jaxlm.lecture --list
  python -m jaxlm.lecture --step bptt
  python -m jaxlm.lecture --all --figures figures
"""
WIDTH = 79


@dataclass(frozen=True)
class Command:
    """Settings of `python -m jaxlm.lecture`."""

    lang: str | None = None
    """zh or en (none: zh where the environment's language is Chinese, else en)."""
    step: str | None = None
    """Show this step only; the code of the steps that it needs runs first, without output."""
    list: bool = False
    """List the steps."""
    all: bool = False
    """Do not wait for Enter (also if the input is no terminal)."""
    figures: Path | None = None
    """Folder for the figures, as PNG files (none: figures are left out); needs matplotlib."""


# What the command itself says, by language.
SAYS: dict[str, Mapping[str, str]] = {
    "en": {
        "run": "[Enter: run this code · q: end] ",
        "next": "[Enter: go on · q: end] ",
        "figure": "(A figure belongs here: choose --figures FOLDER, or open the notebook.)",
        "saved": "(figure: {})",
        "before": "(First the code of these steps runs: {}.)",
    },
    "zh": {
        "run": "[回车：运行这段代码 · q：结束] ",
        "next": "[回车：继续 · q：结束] ",
        "figure": "（这里有一张图：加上 --figures 文件夹，或打开 notebook 查看。）",
        "saved": "（图：{}）",
        "before": "（先运行这些步骤的代码：{}。）",
    },
}


class Teller:
    """Shows steps and runs their code, in one namespace.

    Args:
      language: zh or en.
      waits: whether to wait for Enter after each piece.
      figures: the folder for figures, or None.
    """

    def __init__(self, language: str, waits: bool, figures: Path | None) -> None:
        self.language, self.waits, self.figures = language, waits, figures
        self._says = SAYS[language]
        self._names: dict[str, Any] = {"__name__": "lecture"}

    def prepare(self, steps: Sequence[Step]) -> None:
        """Run the code of some steps without their text and output."""
        if steps:
            print(self._says["before"].format(" ".join(step.name for step in steps)), flush=True)
        for step in steps:
            with contextlib.redirect_stdout(io.StringIO()):
                for cell in step.cells:
                    if cell.code and "figure" not in cell.marks:
                        self._run(step, cell)

    def show(self, step: Step) -> bool:
        """Show a step piece by piece, and return whether the user wants to go on."""
        drawn = 0
        for index, cell in enumerate(step.cells):
            if cell.text:
                print("\n".join(terminal_lines(cell.text[self.language], WIDTH)), flush=True)
                continue
            if "figure" in cell.marks and self.figures is None:
                print(self._says["figure"], end="\n\n", flush=True)
                continue
            print("\n".join(f"  │ {line}" for line in cell.code.split("\n")), flush=True)
            if not self._wait("run"):
                return False
            self._run(step, cell)
            if "figure" in cell.marks:
                drawn += 1
                self._save(f"{step.name}-{drawn}.png")
            print(flush=True)
            if index + 1 < len(step.cells) and not self._wait("next"):
                return False
        return True

    def _wait(self, what: str) -> bool:
        """Wait for Enter; return False if the user ends the lecture."""
        if not self.waits:
            print()
            return True
        try:
            return input(self._says[what]).strip().lower() not in ("q", "quit", "exit")
        except EOFError:
            return False

    def _run(self, step: Step, cell: Cell) -> None:
        """Run the code of a cell.

        Raises:
          UserError: if the code fails, for example without the memory or the extra that it needs.
        """
        place = f"<lecture: {step.name}>"
        try:
            exec(compile(cell.code, place, "exec"), self._names)
        except OutputClosedError:
            raise
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            line = [frame.lineno for frame in frames if frame.filename == place][-1]
            what = f"{type(error).__name__}: {error}"
            raise UserError(f"the step {step.name} stopped in line {line}: {what}") from error

    def _save(self, name: str) -> None:
        """Write the figure that was drawn last."""
        assert self.figures is not None
        figure = self._names["plt"].gcf()
        try:
            figure.savefig(self.figures / name, bbox_inches="tight")
        except OSError as error:
            why = f"cannot be written: {reason(error)}; give another folder"
            raise SettingError("figures", self.figures, why) from None
        self._names["plt"].close(figure)
        print(self._says["saved"].format(self.figures / name))


def default_language(environment: Mapping[str, str]) -> str:
    """Return zh if the environment's language is Chinese, else en."""
    names = ("LC_ALL", "LC_MESSAGES", "LANG")
    chosen = next((environment[name] for name in names if environment.get(name)), "")
    return "zh" if chosen.lower().startswith("zh") else "en"


def figures_folder(folder: Path | None) -> Path | None:
    """Return the folder for figures, which exists then; None for None.

    Raises:
      SettingError: if it cannot be made, or matplotlib is not installed.
    """
    if folder is None:
        return None
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise SettingError("figures", folder, "needs matplotlib: install the extra `plots`")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingError("figures", folder, f"cannot be written: {reason(error)}") from None
    # Figures are written into files; no window opens.
    os.environ["MPLBACKEND"] = "agg"
    return folder


def main(argv: Sequence[str]) -> int:
    """List the steps, show one step, or show all."""
    command = cli.parse(Command, argv, prog="python -m jaxlm.lecture", about=ABOUT)
    language = command.lang or default_language(os.environ)
    choose(LANGUAGES, language, "language")
    steps = read_steps()
    if command.list:
        size = max(map(len, steps))
        print("\n".join(f"{name:{size}}  {step.title(language)}" for name, step in steps.items()))
        return 0
    before = needed(steps, command.step) if command.step else []
    waits = not command.all and sys.stdin.isatty() and sys.stdout.isatty()
    teller = Teller(language, waits, figures_folder(command.figures))
    teller.prepare([steps[name] for name in before])
    shown = [steps[command.step]] if command.step else list(steps.values())
    for number, step in enumerate(shown):
        if not teller.show(step):
            return 0
        if number + 1 < len(shown) and not teller._wait("next"):
            return 0
    return 0


if __name__ == "__main__":
    cli.run(main)
