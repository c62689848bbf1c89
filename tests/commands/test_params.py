"""train --params: a model of a number of parameters."""

import json

import pytest

import jaxlm
from jaxlm.models.sizing import parameter_count


def test_a_run_that_was_sized_keeps_its_widths(shell, tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("".join(f"line {number} of a text\n" for number in range(200)))
    flags = ("--model", "lstm", "--corpus", file, "--tokens", "chars", "--out", tmp_path / "run")
    for options in (
        ("--params", "60k", "--steps", "2"),
        ("--params", "60k", "--steps", "3", "--resume"),
        # The number need not be given again, and is kept.
        ("--steps", "4", "--resume"),
    ):
        code, _, err = shell("train", *flags, *options)
        assert (code, err) == (0, "")
        config = json.loads((tmp_path / "run/config.json").read_text())
        assert config["params"] == "60k"
        assert 57_000 < parameter_count(jaxlm.load(tmp_path / "run").model) <= 60_000
    code, _, err = shell("train", *flags, "--params", "70k", "--steps", "5", "--resume")
    assert code == 2 and "--params 70k: the run in" in err and "has --params 60k" in err


@pytest.mark.full
def test_the_rate_of_a_text_of_ones_own_follows_from_the_width(shell, tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("".join(f"line {number} of a text\n" for number in range(200)))
    rates = {}
    for name, options in {
        "given": ("--hidden-size", "512"),
        "sized": ("--params", "2M"),
        "chosen": (),
    }.items():
        out = tmp_path / name
        flags = ("--model", "rnn", "--corpus", file, "--tokens", "chars", "--out", out)
        code, _, err = shell("train", *flags, *options, "--steps", "1")
        assert (code, err) == (0, "")
        config = json.loads((out / "config.json").read_text())
        rates[name] = config["optimizer"]["lr"]
        share = min(1.0, 256 / config["network"]["hidden_size"])
        assert abs(rates[name] - share * 3e-3) < 1e-4
    assert rates["given"] < rates["chosen"] and rates["sized"] < rates["chosen"]


@pytest.mark.full
def test_a_width_that_is_given_is_kept_by_any_name(shell, tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("".join(f"line {number} of a text\n" for number in range(200)))
    flags = ("--model", "lstm", "--corpus", file, "--tokens", "chars", "--params", "60k")
    for name in ("--embedding-size", "--emsize", "--Embedding_Size"):
        out = tmp_path / name.strip("-")
        code, _, err = shell("train", *flags, name, "24", "--steps", "1", "--out", out)
        assert (code, err) == (0, "")
        assert jaxlm.load(out).model.embedding_size == 24
    code, _, err = shell(
        "train", *flags, "--emsize", "40", "--steps", "2", "--resume", "--out", out
    )
    assert code == 2 and "--embedding-size 40: the run in" in err and "has 24" in err
    assert err.count("\n") == 1
