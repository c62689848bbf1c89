"""A small text for the tests of training."""

from pathlib import Path

import pytest
import tiny_runs

import jaxlm
from jaxlm.models.cells import CELLS
from jaxlm.models.registry import MODELS


@pytest.fixture(scope="session")
def text_file(tmp_path_factory) -> Path:
    return tiny_runs.write_text(tmp_path_factory.mktemp("text") / "tiny.txt")


@pytest.fixture(scope="session")
def text(text_file):
    return jaxlm.read_corpus(str(text_file))


@pytest.fixture
def train(capfd):
    """train(*argv) -> exit code, standard output, standard error of the command, run here."""

    def run(*argv: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = tiny_runs.run_here(list(argv))
        return code, *capfd.readouterr()

    return run


@pytest.fixture
def registry(monkeypatch):
    """Restore the tables of models and cells after the test."""
    monkeypatch.setattr("jaxlm.models.registry.MODELS", MODELS)
    before = dict(MODELS), dict(CELLS)
    yield
    for table, saved in zip((MODELS, CELLS), before, strict=True):
        table.clear()
        table.update(saved)
