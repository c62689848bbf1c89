"""Fixtures for the tests of commands: runs that are trained once, and a call of a command."""

import pytest
from in_process import run_module

import jaxlm


@pytest.fixture(scope="session")
def toy_runs(tmp_path_factory):
    """Folders of an NPLM and an LSTM that the command trained on the lecture's sentences."""
    folder = tmp_path_factory.mktemp("runs")
    return {name: train_toy(name, folder / f"{name}-toy") for name in ("nplm", "lstm")}


@pytest.fixture(scope="session")
def toy_ngram(tmp_path_factory):
    """Folder of an n-gram that the command counted in the lecture's sentences."""
    out = tmp_path_factory.mktemp("ngram") / "ngram-toy"
    assert call("train", "--model", "ngram", "--out", str(out)) == 0
    return out


def train_toy(name, out):
    code = call("train", "--model", name, "--steps", "2000", "--out", str(out))
    assert code == 0
    return out


@pytest.fixture(scope="session")
def text_run(tmp_path_factory):
    """Folder of an NPLM with <eos> and <unk>, trained briefly on a text file."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "my.txt").write_text("the cat sat on the mat\nthe dog sat on the log\n" * 20)
    text = jaxlm.read_corpus(str(folder / "my.txt"), unk="always")
    model = jaxlm.NPLM(
        vocab_size=len(text.vocabulary), start_id=text.vocabulary.start_id, embedding_size=8
    )
    jaxlm.fit(model, text, folder=folder / "run", epochs=5, batch_size=4, bptt=8)
    return folder / "run"


def call(command, *argv):
    """Run `python -m jaxlm.<command>` in this process, and return its exit code.

    Runs have no report, which takes a second, unless `argv` has --report.
    """
    if command == "train" and "--report" not in argv:
        argv = ["--no-report", *argv]
    return run_module(f"jaxlm.{command}", argv)


@pytest.fixture
def shell(capsys, monkeypatch):
    """shell("predict", run, "我") -> (exit code, standard output, standard error)."""
    # At this width no table wraps, in any terminal.
    monkeypatch.setenv("COLUMNS", "160")

    def run(command, *argv):
        code = call(command, *argv)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
