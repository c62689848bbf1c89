"""experiments/colab.ipynb runs from top to bottom, as in Colab but with small settings.

Its installation never asks a package index for jaxlm, and no other file of the repository does.
"""

import copy
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "experiments" / "colab.ipynb"
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
    notebook = nbformat.read(NOTEBOOK, 4)
    (place,) = [n for n, cell in enumerate(notebook.cells) if "LiveCurve" in cell.source]
    # The training cell runs twice.
    again = copy.deepcopy(notebook.cells[place])
    again["id"] = "again"
    notebook.cells.insert(place + 1, again)
    nbformat.write(notebook, folder / "twice.ipynb")
    # The client runs in a new process, because its event loop leaves threads behind.
    done = subprocess.run(
        [sys.executable, "-c", RUN, "twice.ipynb"],
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
    assert len(pictures) == 2, "the curve of each training is updated in place"
    assert [path.name for path in sorted((folder / "runs").iterdir())] == ["colab-1", "colab-2"]
    assert "for 40 steps on a cpu" in written
    # The progress bar passes on what is printed while it is shown.
    shown = "".join(
        output.data.get("text/plain", "") for output in outputs(notebook, "display_data")
    )
    assert "more minutes" in shown + written


def test_the_notebook_in_the_repository_has_no_outputs():
    notebook = nbformat.read(NOTEBOOK, 4)
    assert not outputs(notebook, "stream") and not outputs(notebook, "display_data")
    assert all(cell.get("execution_count") is None for cell in notebook.cells)


def install(source, folder, monkeypatch):
    """Run the notebook's cell that installs jaxlm, and return what pip was asked to install."""
    cells = nbformat.read(NOTEBOOK, 4).cells
    (code,) = [cell.source for cell in cells if "find_spec" in cell.source]
    asked = []

    def call(command, **options):
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, stdout="jax==0.10.2\nrich==15.0.0\n")

    monkeypatch.chdir(folder)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", call)
    exec(code, {"SOURCE": source})
    assert (Path(folder) / "kept.txt").read_text() == "jax==0.10.2"
    return asked[-1][-1]


@pytest.mark.parametrize("name", ["", "jaxlm", "jaxlm[notebook]", "jaxlm==0.1.0"])
def test_the_notebook_asks_no_index_for_jaxlm(name, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="git"):
        install(name, tmp_path, monkeypatch)
    assert not list(tmp_path.iterdir())


def test_the_notebook_installs_a_clone_an_address_or_a_wheel(tmp_path, monkeypatch, capsys):
    address = "git+https://example.org/jaxlm.git"
    assert install(address, tmp_path, monkeypatch) == address
    assert f"installing jaxlm from {address}" in capsys.readouterr().out
    wheel = tmp_path / "jaxlm-0.1.0-py3-none-any.whl"
    wheel.touch()
    assert install(wheel.name, tmp_path, monkeypatch) == str(wheel)
    # A clone is found from a folder inside it.
    (tmp_path / "jaxlm").mkdir()
    (tmp_path / "jaxlm/train.py").touch()
    (tmp_path / "experiments").mkdir()
    assert install("", tmp_path / "experiments", monkeypatch) == str(tmp_path)


def by_bare_name(text):
    """Return the commands in a text that install jaxlm from an index, by its name alone."""
    commands = re.findall(r"pip3?\b[^\n]{0,20}?\binstall\b([^\n`&;|]*)", text)
    return [
        command
        for command in commands
        if re.search(r"(?<![\w/.\-])jaxlm(\[[^\]]*\])?(?![\w/.\-\[]|\s*@|.* from)", command)
    ]


def test_no_file_installs_jaxlm_by_its_bare_name():
    for bad in ("pip install jaxlm", "pip install -U 'jaxlm[plots]'", "-m pip install jaxlm==1.0"):
        assert by_bare_name(bad), bad
    for good in ('pip install "jaxlm @ git+ADDRESS"', "pip install -e . && python -m jaxlm.train"):
        assert not by_bare_name(good), good
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git clone")
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path == Path(__file__) or not path.is_file():
            continue
        assert by_bare_name(path.read_text(encoding="utf-8", errors="ignore")) == [], name
