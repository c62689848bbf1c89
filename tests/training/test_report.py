"""report.html: the page that `train` ends with. tests/browser opens such a page."""

import json
import re
import subprocess
import sys

import pytest
import tiny_runs

import jaxlm
from jaxlm.inspection import report
from jaxlm.runs.folder import REPORT

LECTURE = ("--model", "ngram", "--report")


def views_of(page):
    """Return the names of the views of a page, and its data."""
    data = re.search('id="data">(.*?)</script>', page.read_text(encoding="utf-8"))[1]
    return json.loads(data)["order"], json.loads(data)


def test_a_run_ends_with_a_report(train, tmp_path):
    code, out, err = train(*LECTURE, "--out", tmp_path / "run")
    assert (code, err) == (0, "")
    path = tmp_path / "run" / REPORT
    assert out.endswith(f"look at it in a browser: {path}\n")
    names, data = views_of(path)
    assert names == ["surprise", "next", "about"], "an n-gram has no learning curve and no gates"
    assert data["text"].splitlines()[0] == "我 喜欢 玩具"
    assert data["foot"]["command"].startswith("python -m jaxlm.train --model ngram")
    train(*LECTURE[:-1], "--no-report", "--out", tmp_path / "other")
    assert not (tmp_path / "other" / REPORT).exists()


def test_a_report_that_fails_loses_no_run(train, tmp_path, monkeypatch):
    def fails(*arguments, **options):
        raise RuntimeError("no page\ntoday")

    monkeypatch.setattr(report, "page", fails)
    code, out, err = train(*LECTURE, "--out", tmp_path / "run")
    assert (code, err) == (0, "")
    path = tmp_path / "run" / REPORT
    assert out.endswith(f"warning: no {path}: RuntimeError: no page today\n")
    assert not path.exists() and jaxlm.load(tmp_path / "run").step == 1


def test_a_folder_with_a_report_is_not_taken(train, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / REPORT).write_text("mine")
    code, _, err = train(*LECTURE, "--out", tmp_path / "run")
    tiny_runs.assert_user_error(code, err)
    assert (tmp_path / "run" / REPORT).read_text() == "mine"


@pytest.mark.full
def test_runs_of_one_command_share_a_report(train, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "MOST_RUNS", 2)
    argv = ("--model", "rnn", "--steps", "2", "--log-every", "1", "--seeds", "3", "--report")
    assert train(*argv, "--out", tmp_path / "runs")[0] == 0
    names, data = views_of(tmp_path / "runs" / REPORT)
    assert names == list(report.REPORT_VIEWS)
    assert [run["label"] for run in data["runs"]] == ["seed-0", "seed-1"]
    assert data["notes"][-1]["en"] == "The command trained 3 runs: this page shows the first 2."
    assert not (tmp_path / "runs/seed-0" / REPORT).exists()


@pytest.mark.full
def test_a_report_imports_no_plotting(tmp_path):
    code = f"""
import sys
from jaxlm import train
assert train.main(["--model", "rnn", "--steps", "1", "--out", {str(tmp_path / "run")!r}]) == 0
print("matplotlib" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert (tmp_path / "run" / REPORT).exists()
