"""Write the lecture's notebooks, in Chinese and in English, from the steps in jaxlm.

Command    python experiments/lecture_notebooks.py [--execute [STEP ...]]
Hardware   two CPU cores
Minutes    2 with --execute
Expected   lecture.zh.ipynb and lecture.en.ipynb beside this file, with the same code cells
Published  none

The steps are the files of jaxlm/commands/lecture/; change those, then run this program. --execute
runs both notebooks, or the named steps and the steps that they need, and keeps the outputs, except
the times. Every other cell keeps the outputs that it has, if its code is unchanged.
"""

import argparse
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from jaxlm.commands.lecture_steps import LANGUAGES, needed, read_steps

HERE = Path(__file__).parent
# The cell that installs jaxlm is the cell of this notebook.
COLAB = HERE / "colab.ipynb"
TIMED = "timed"
SOURCE = """# @title jaxlm
# What pip installs if jaxlm is not there: a git address (git+https://...), a wheel, or a folder.
# In a clone of jaxlm, SOURCE may stay empty.
import os

SOURCE = os.environ.get("JAXLM_SOURCE", "")

"""


def path_of(language: str) -> Path:
    """Return the path of the notebook in a language."""
    return HERE / f"lecture.{language}.ipynb"


def install_code() -> str:
    """Return the code that installs jaxlm if it is not there."""
    cells = nbformat.read(COLAB, 4).cells
    (code,) = [cell.source for cell in cells if "find_spec" in cell.source]
    return SOURCE + code


def build(language: str) -> NotebookNode:
    """Return the notebook in a language, without outputs."""
    cells = []
    for step in read_steps().values():
        for number, cell in enumerate(step.cells):
            name = f"{step.name}-{number}"
            if cell.text:
                cells.append(new_markdown_cell(cell.text[language], id=name))
            else:
                timed = {"tags": [TIMED]} if TIMED in cell.marks else {}
                cells.append(new_code_cell(cell.code, id=name, metadata=timed))
    hidden = {"cellView": "form", "jupyter": {"source_hidden": True}}
    cells.insert(1, new_code_cell(install_code(), id="install", metadata=hidden))
    metadata = {
        "colab": {"name": path_of(language).name},
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return new_notebook(cells=cells, metadata=metadata)


def execute(notebook: NotebookNode, names: list[str]) -> None:
    """Run steps of a notebook and the steps that they need; cells get outputs, except the times.

    Args:
      notebook: the notebook, which is changed.
      names: names of steps; none for all steps.
    """
    from nbclient import NotebookClient

    steps = read_steps()
    chosen = {*names, *(step for name in names for step in needed(steps, name))} or {*steps}
    cells = [
        cell
        for cell in notebook.cells
        if cell.id == "install" or cell.id.rpartition("-")[0] in chosen
    ]
    part = new_notebook(cells=cells, metadata=dict(notebook.metadata))
    NotebookClient(part, timeout=600, kernel_name="python3", record_timing=False).execute()
    for cell in cells:
        if TIMED in cell.metadata.get("tags", []):
            cell.outputs = []
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code, 1):
        cell.execution_count = number
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = number


def with_outputs_of(notebook: NotebookNode, path: Path) -> NotebookNode:
    """Give each cell the outputs of the cell in the file `path` that has the same code."""
    old = {}
    if path.exists():
        cells = nbformat.read(path, 4).cells
        old = {cell.source: cell for cell in cells if cell.cell_type == "code"}
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.source in old:
            cell.outputs = old[cell.source].outputs
            cell.execution_count = old[cell.source].execution_count
    return notebook


def main() -> None:
    """Write both notebooks."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--execute", nargs="*", metavar="STEP", help="run all steps, or these")
    options = parser.parse_args()
    for language in LANGUAGES:
        path = path_of(language)
        notebook = with_outputs_of(build(language), path)
        if options.execute is not None:
            execute(notebook, options.execute)
        nbformat.write(notebook, path)
        print(f"{path} ({path.stat().st_size // 1024} kB)")


if __name__ == "__main__":
    main()
