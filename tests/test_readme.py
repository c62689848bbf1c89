"""The README's examples are run, in order, as a reader would; its file tree is the tree."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.M | re.S)


def environment():
    # `python` and `jaxlm` are this environment's, and tables are wide.
    scripts = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": scripts, "COLUMNS": "120", "JAX_PLATFORMS": "cpu"}


def test_every_command_of_the_readme_runs(tmp_path):
    """All shell blocks in one shell, in order, but for installing and for the tests themselves."""
    lines = "".join(blocks("bash")).splitlines()
    lines = [line.removeprefix("pip install -e . && ") for line in lines]
    script = "\n".join(line for line in lines if not line.startswith("pip install"))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert "resumed at step" in done.stdout
    assert done.stdout.count("----") == 2
    # The first command prints what the README shows.
    (shown,) = (block for block in blocks("text") if block.startswith("我 喜欢 玩具"))
    for line in shown.splitlines():
        # The cost's digits are the machine's; everything else is the same everywhere.
        line = re.sub(r"(cost \d\.\d{2})\d+", r"\1", line)
        line = re.sub(r"  1\.0000$", "", line).strip()
        assert line in done.stdout, line


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_every_python_block_runs(number, tmp_path):
    before = blocks("python")[:number] if number == 1 else []
    code = "\n".join([*before, blocks("python")[number]])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_cell_of_the_readme_is_twenty_lines():
    (code,) = (block for block in blocks("python") if "(Cell)" in block)
    body = code[code.index("class") : code.index("text =")].strip().splitlines()
    assert len(body) <= 20


def test_the_long_commands_are_ones_that_train_knows():
    """Commands that take minutes are not run, but their flags are read."""
    for line in "".join(blocks("sh")).replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:2] == ["python", "-m"]:
            assert words[2] in ("jaxlm.train", "jaxlm.evaluate", "jaxlm.generate", "jaxlm.predict")


def test_the_file_tree_names_every_module():
    (tree,) = (block for block in blocks("text") if block.startswith("jaxlm/"))
    for path in sorted((ROOT / "jaxlm").rglob("*.py")):
        if path.name != "__init__.py":
            assert path.name in tree, f"{path} is missing from the README's tree"
    for name in re.findall(r"[\w/]+\.py", tree):
        assert list((ROOT / "jaxlm").rglob(Path(name).name)), f"{name} is in the tree alone"


def test_links_and_paths_exist():
    for name in re.findall(r"`((?:jaxlm|tests|experiments)/[\w./]+)`", README):
        if "mgu" not in name:
            assert (ROOT / name).exists(), name
