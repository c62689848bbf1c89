"""--seeds and --sweep train several runs by a single command."""

import json
import random

import pytest


@pytest.mark.full
def test_seeds_and_sweep_train_every_combination(shell, tmp_path):
    corpus = tmp_path / "text"
    corpus.mkdir()
    draw = random.Random(1)
    for split, lines in {"train": 90, "valid": 20}.items():
        rows = [" ".join(draw.choices("abcdefgh", k=6)) for _ in range(lines)]
        (corpus / f"{split}.txt").write_text("\n".join(rows) + "\n")
    flags = ["--corpus", corpus, "--steps", "6", "--hidden-size", "8", "--embedding-size", "8"]
    flags += ["--out", tmp_path / "runs", "--batch-size", "4", "--model", "rnn"]
    code, out, _ = shell("train", *flags, "--seeds", "2", "--sweep", "lr=1e-3,2e-3")
    assert code == 0 and "standard deviation" in out and "lr-0.002" in out
    folders = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert folders == [f"lr-{lr}-seed-{seed}" for lr in ("0.001", "0.002") for seed in (0, 1)]
    config = json.loads((tmp_path / "runs/lr-0.002-seed-1/config.json").read_text())
    assert (config["optimizer"]["lr"], config["training"]["seed"]) == (0.002, 1)
    mixed = ["--mix", *(tmp_path / "runs" / name for name in folders[2:])]
    assert shell("evaluate", *mixed)[0] == 0
    code, _, error = shell("train", *flags, "--sweep", "lr=a")
    assert code == 2 and "--sweep 'lr=a': give a setting and its values" in error
    code, _, error = shell("train", "--model", "ngram", "--seeds", "2")
    assert code == 2 and "a count is exact" in error


@pytest.mark.full
def test_a_sweep_is_not_resumed_as_a_single_run_or_a_single_run_as_a_sweep(
    shell, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for one, many in ((["--out", "one"], ["--out", "many"]), (["--model", "rnn"], [])):
        sizes = ["--steps", "2", "--hidden-size", "2", "--embedding-size", "2"]
        assert shell("train", *sizes, *one)[0] == 0
        assert shell("train", *sizes, *many, "--seeds", "2", "--log-every", "1")[0] == 0
    before = sorted(path for path in tmp_path.rglob("*"))
    for out in (["--out", "many"], []):
        code, _, error = shell("train", "--resume", "--steps", "3", *out)
        assert code == 2 and "to continue the runs of --seeds or --sweep, give the same" in error
        assert error.count("\n") == 1 and "seed-0" in error
    for out in (["--out", "one"], ["--model", "rnn"]):
        code, _, error = shell("train", "--resume", "--steps", "3", "--seeds", "2", *out)
        assert code == 2 and "holds a single run: leave out --seeds and --sweep" in error
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_a_setting_that_is_swept_twice_is_an_error(shell, tmp_path):
    sweep = ("--sweep", "lr=.1,.2", "lr=.3,.4", "--out", tmp_path / "runs")
    code, _, error = shell("train", "--steps", "1", *sweep)
    assert code == 2 and "--sweep gives lr twice" in error
    assert not (tmp_path / "runs").exists()
