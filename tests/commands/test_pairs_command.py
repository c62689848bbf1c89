"""python -m jaxlm.pairs: the table, the file of every pair, and mistakes."""

import csv
import json

import pytest

import jaxlm

LINES = ["the cat sat on the mat", "the dog sat on the log", "a cat saw the dog"]
PAIRS = [
    ("the cat sat on the log", "the cat sat the on log"),
    ("a dog saw the cat", "dog a saw the cat"),
    ("the mat", "mat the sat on a log"),
    ("the zebra sat", "the gnu sat"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    text = jaxlm.read_corpus([f"{line}\n" for line in LINES * 3], unk="always")
    folder = tmp_path_factory.mktemp("runs") / "ngram"
    jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=3), text, folder=folder, quiet=True)
    return folder


def write_blimp(folder, paradigms):
    """Write {paradigm: (phenomenon, pairs)} as BLiMP's files."""
    folder.mkdir()
    for name, (phenomenon, pairs) in paradigms.items():
        keys = ("sentence_good", "sentence_bad", "UID", "linguistics_term")
        records = [dict(zip(keys, (*pair, name, phenomenon), strict=True)) for pair in pairs]
        text = "".join(f"{json.dumps(record)}\n" for record in records)
        (folder / f"{name}.jsonl").write_text(text)
    return folder


def test_the_command_prints_a_table_and_writes_every_pair(folder, tmp_path, shell, monkeypatch):
    blimp = write_blimp(tmp_path / "blimp", {"a": ("x", PAIRS[:2]), "b": ("y", PAIRS[2:])})
    out = tmp_path / "pairs.tsv"
    monkeypatch.setenv("COLUMNS", "80")
    code, text, err = shell("pairs", folder, blimp, "--out", out)
    assert (code, err) == (0, "") and max(map(len, text.splitlines()[:8])) <= 80
    assert "phenomenon" in text and "mean over paradigms" in text and "<unk> %" in text
    assert "ties, of 4 pairs" in text
    with open(out, newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    found = jaxlm.pairs(jaxlm.load(folder), PAIRS)
    assert [(row["good"], row["bad"]) for row in rows] == PAIRS
    assert [row["paradigm"] for row in rows] == ["a", "a", "b", "b"]
    assert [float(row["score_good"]) for row in rows] == pytest.approx(found.good[0], abs=1e-5)
    assert [float(row["point"]) for row in rows] == found.points[0].tolist()
    _, text, _ = shell("pairs", folder, blimp, "--by", "paradigm")
    assert "paradigm " in text and "phenomenon" not in text


def test_mistakes_of_the_command_are_one_line(folder, tmp_path, shell):
    blimp = write_blimp(tmp_path / "blimp", {"a": ("x", PAIRS)})
    for words, message in [
        ([folder], "name at least one run, and then the pairs"),
        ([blimp, folder], "is a run: the last argument"),
        ([folder, blimp, "--group", "kind"], "line 1, has no field kind"),
        ([folder, blimp, "--by", "words"], "unknown by"),
        ([folder, blimp, "--alpha", "1"], "--alpha 1.0: has no effect"),
        ([folder, blimp, "--out", tmp_path / "none/t.tsv"], "no folder"),
    ]:
        code, _, err = shell("pairs", *words)
        assert code == 2 and message in err and err.count("\n") == 1
