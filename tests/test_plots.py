"""Callbacks of a run, and the live curve of a notebook."""

import sys
import time
from types import SimpleNamespace

import pytest

import jaxlm
from jaxlm.errors import UserError
from jaxlm.runs.log import read_records
from jaxlm.runs.plots import _curve


def trained(folder, **options):
    text = jaxlm.read_corpus("toy", eos=False)
    model = jaxlm.NPLM(len(text.vocabulary), n_step=2, embedding_size=2, hidden_size=2)
    rows = {"batching": "rows", "positions": "last", "batch_size": 3}
    return jaxlm.fit(model, text, folder=folder, steps=6, log_every=2, **rows, **options)


@pytest.fixture
def shown(monkeypatch):
    """Return the list of the pictures that a notebook would show."""
    pictures = []

    class Place:
        def update(self, picture):
            pictures.append(picture)

    monkeypatch.setattr("IPython.display.display", lambda picture, display_id: Place())
    # A machine that has just started: its clock is near 0.
    began = time.monotonic()
    monkeypatch.setattr(
        "jaxlm.runs.plots.time", SimpleNamespace(monotonic=lambda: time.monotonic() - began)
    )
    return pictures


def test_callbacks_get_the_records_of_the_log(tmp_path, capsys):
    seen = []
    trained(tmp_path / "run", callbacks=[seen.append])
    assert [record["step"] for record in seen] == [2, 4, 6]
    assert seen == read_records(tmp_path / "run/metrics.jsonl")


def test_a_live_curve_draws_records(tmp_path, capsys, shown):
    curve = jaxlm.LiveCurve(seconds=0)
    trained(tmp_path / "run", callbacks=[curve])
    assert len(curve.records) == 3 and len(shown) == 3
    assert all(picture.data.startswith(b"\x89PNG") for picture in shown)
    slow = jaxlm.LiveCurve(seconds=1000)
    slow({"step": 1, "split": "train", "ppl": 2.0})
    slow({"step": 2, "split": "valid", "ppl": 3.0})
    assert len(shown) == 4, "the first record is drawn at once, the second later"
    slow.draw()
    assert len(shown) == 5 and shown[-1].data != shown[-2].data
    slow.finish()
    assert len(shown) == 5, "there is no new record"


@pytest.mark.full
def test_the_last_records_are_drawn_also_after_an_error(tmp_path, capsys, shown):
    curve = jaxlm.LiveCurve(seconds=1000)
    trained(tmp_path / "run", callbacks=[curve])
    assert len(curve.records) == 3 and len(shown) == 2

    def fails(record):
        raise RuntimeError

    curve = jaxlm.LiveCurve(seconds=1000)
    curve({"step": 1, "split": "train", "ppl": 2.0})
    with pytest.raises(RuntimeError):
        trained(tmp_path / "other", callbacks=[curve, fails])
    assert len(curve.records) == 2 and len(shown) == 4


@pytest.mark.full
def test_callbacks_of_several_runs_get_the_name_of_the_run(tmp_path):
    text = jaxlm.read_corpus("toy", eos=False)
    model = jaxlm.NPLM(len(text.vocabulary), n_step=2, embedding_size=2, hidden_size=2)
    rows = {"batching": "rows", "positions": "last", "batch_size": 3}
    many = {"steps": 2, "log_every": 2, "quiet": True, **rows}
    for seeds, folder, names in (
        (2, tmp_path / "two", ["seed-0", "seed-1"]),
        (1, tmp_path / "one", ["seed-0"]),
        (2, None, ["run 0", "run 1"]),
    ):
        seen = []
        jaxlm.fit_many(model, text, seeds=seeds, folder=folder, callbacks=[seen.append], **many)
        assert [record["run"] for record in seen] == names
        if folder:
            assert "run" not in read_records(folder / "seed-0/metrics.jsonl")[0]
    axes = _curve(seen, "").axes[0]
    assert [line.get_label() for line in axes.lines] == ["run 0 train", "run 1 train"]


def test_a_live_curve_without_a_notebook_is_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    with pytest.raises(UserError, match="LiveCurve draws in a notebook"):
        jaxlm.LiveCurve()


def test_a_curve_has_numbers_that_can_be_read(tmp_path):
    tiny = [{"step": 1, "split": "train", "loss": 1e-3, "ppl": 1.001}]
    tiny += [{"step": 1, "split": "valid", "nll": 4e-3, "tokens": 2, "ppl": 1.002}]
    axes = _curve(tiny, "toy").axes[0]
    assert axes.get_ylabel() == "loss (nats per token)"
    assert [line.get_ydata()[0] for line in axes.lines] == [1e-3, 2e-3]
    for worst in (70, 700, 1e9):
        records = [{"step": n, "split": "train", "ppl": ppl} for n, ppl in enumerate((worst, 20))]
        figure = _curve(records, "text")
        figure.savefig(tmp_path / "curve.png")
        axes = figure.axes[0]
        labels = [label.get_text() for label in axes.get_yticklabels()]
        assert axes.get_ylabel() == "perplexity" and len(labels) >= 3
        assert not any("$" in label for label in labels)
