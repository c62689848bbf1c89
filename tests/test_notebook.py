"""experiments/colab.ipynb runs from top to bottom, as in Colab but with small settings."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

NOTEBOOK = Path(__file__).parents[1] / "experiments" / "colab.ipynb"
RUN = """
import sys
import nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], 4)
NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
nbformat.write(notebook, "executed.ipynb")
"""


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebook")
    (folder / "my.txt").write_text("to be, or not to be, that is the question\n" * 200)
    # Two devices, because the notebook uses a mesh if there are several devices, as on a TPU.
    small = {"JAXLM_TEXT": "my.txt", "JAXLM_STEPS": "40", "JAXLM_UNITS": "24"}
    small |= {"JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu", "JUPYTER_PLATFORM_DIRS": "1"}
    # The client runs in a new process, because its event loop leaves threads behind.
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(NOTEBOOK)],
        cwd=folder,
        env=os.environ | small,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, nbformat.read(folder / "executed.ipynb", 4)


def outputs(notebook, kind):
    return [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output["output_type"] == kind
    ]


@pytest.mark.full
def test_the_notebook_runs_from_top_to_bottom(executed):
    folder, notebook = executed
    written = "".join(output["text"] for output in outputs(notebook, "stream"))
    assert "我 讨厌" in written
    assert "perplexity" in written
    assert written.count("--- temperature") == 2
    assert (folder / "jaxlm-run.zip").stat().st_size > 1000
    pictures = [
        output for output in outputs(notebook, "display_data") if "image/png" in output.data
    ]
    assert len(pictures) == 1, "the curve is updated in place"


def test_the_notebook_in_the_repository_has_no_outputs():
    notebook = nbformat.read(NOTEBOOK, 4)
    assert not outputs(notebook, "stream") and not outputs(notebook, "display_data")
    assert all(cell.get("execution_count") is None for cell in notebook.cells)
