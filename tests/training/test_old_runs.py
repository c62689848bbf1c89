"""Runs of version 0.1.0 (commit e95cabf) load, and give the same scores as in that version.

`version-0.1.0.zip` holds folders of runs, which `jaxlm.train` and `jaxlm.convert` of version 0.1.0
made.
"""

import json
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_runs

import jaxlm
from jaxlm.runs.protocol import Protocol

ARCHIVE = Path(__file__).with_name("version-0.1.0.zip")
# Summed nll in nats, tokens, and the step of the parameters, as version 0.1.0 computed them.
EXPECTED = {
    "nplm-toy": (0.0031174212344922125, 3, 300),
    "lstm-chars": (138.0504286289215, 53, 21),
    "ngram-words": (2.8608149171634327, 7, 1),
    "ngram-toy": (0.7234861704506643, 3, 1),
    "from-arpa": (68.23481035939479, 168, 1),
}
PROTOCOLS = {
    "nplm-toy": Protocol(rows=True, last_only=True),
    "ngram-toy": Protocol(rows=True, last_only=True),
}


@pytest.fixture
def old_runs(tmp_path, monkeypatch):
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(tmp_path)
    # The runs name their text by a relative path.
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", EXPECTED)
def test_an_old_run_has_the_same_scores(name, old_runs):
    run = jaxlm.load(old_runs / name)
    nll, tokens, step = EXPECTED[name]
    text = "my.txt" if name == "from-arpa" else None
    report = jaxlm.perplexity(run, text=text)
    assert (report.tokens, run.step) == (tokens, step)
    # On another kind of CPU a neural model sums in another order.
    assert report.nll == pytest.approx(nll, rel=1e-12 if name.startswith("ngram") else 1e-4)
    assert run.protocol == PROTOCOLS.get(name, Protocol())


@pytest.mark.full
def test_an_old_run_is_resumed_with_old_flags(old_runs):
    """The command with its old flags resumes the run, and saves settings by their new names."""
    argv = (
        "--model lstm --corpus my.txt --tokens chars --epochs 4 --bptt 16 --batch-size 4 "
        "--hidden-size 8 --embedding-size 8 --tied --fractions 0.8 0.1 0.1 --kernel auto "
        "--out lstm-chars --resume"
    )
    before = jaxlm.load(old_runs / "lstm-chars")
    assert tiny_runs.run_here(argv.split()) == 0
    after = jaxlm.load(old_runs / "lstm-chars")
    assert after.step > before.step
    config = json.loads((old_runs / "lstm-chars/config.json").read_text(encoding="utf-8"))
    assert config["network"]["time_loop"] == "auto" and "kernel" not in config["network"]
    assert config["batching"]["positions"] == "all"
    different = jax.tree.map(lambda a, b: not np.array_equal(a, b), before.params, after.params)
    assert any(jax.tree.leaves(different))
