"""Old flags, names of flags in messages, and the cache of compiled programs."""

import dataclasses
import json
import os
import re
import subprocess
import sys

import pytest

import jaxlm
from jaxlm import train
from jaxlm.__main__ import COMMANDS
from jaxlm.commands import cli, process
from jaxlm.commands import flags as flags_module
from jaxlm.commands.settings import network_class
from jaxlm.data.tokenizers import TOKENIZERS
from jaxlm.errors import SYNONYMS
from jaxlm.interop.formats import FORMATS
from jaxlm.models import MODELS
from jaxlm.models.heads import HEADS
from jaxlm.training.config import all_settings

VERBS = tuple(COMMANDS)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (["--kernel", "scan"], ["--time-loop", "scan"]),
        (["--kernel=scan"], ["--time-loop=scan"]),
        (["--features", "every"], ["--positions", "all"]),
        (["--features=every", "--lr", "1"], ["--positions=all", "--lr", "1"]),
        (["--features", "last"], ["--positions", "last"]),
        (["--corpus", "every"], ["--corpus", "every"]),
    ],
)
def test_flags_of_version_0_1_0_are_translated(old, new):
    assert cli.with_new_flags(old) == new


def test_train_accepts_an_old_flag(shell, tmp_path):
    code, _, err = shell(
        "train", "--model", "lstm", "--kernel", "scan", "--steps", 2, "--out", tmp_path / "run"
    )
    assert (code, err) == (0, "")
    code, out, _ = shell("train", "--model", "lstm", "--help-all")
    assert "--time-loop" in out and "--kernel" not in out and "--features" not in out


@pytest.mark.parametrize("model", ["ngram", "nplm", "transformer", "lstm"])
def test_help_shows_the_flags_that_people_use_first(shell, model):
    _, first, _ = shell("train", "--model", model, "--help")
    _, every, _ = shell("train", "--help-all", "--model", model)
    shown, known = (set(re.findall(r"--[a-z][a-z0-9-]+", text)) for text in (first, every))
    assert 15 <= len(shown - {"--help", "--help-all"}) <= 32  # With the forms --no-FLAG.
    assert {"--model", "--corpus", "--tokens", "--out", "--resume", "--recipe", "--from"} <= shown
    assert shown - {"--help-all"} < known
    assert "--help-all shows all of them" in first
    assert ("--lr FLOAT" in first, "--order INT" in first) == (model != "ngram", model == "ngram")
    assert "--plugin" in known - shown and "--vocab-size" in known - shown


def test_the_first_flags_are_flags():
    of_gradient = {field.name for field in dataclasses.fields(train.Command)}
    known = {flag.name for flag in cli.flags_of(train.Flags)} | of_gradient | all_settings()
    assert {name for names in train.FIRST.values() for name in names} <= known


def test_help_shows_the_settings_that_only_a_model_of_ones_own_has(shell, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import jaxlm\n"
        "class Mine(jaxlm.NPLM):\n"
        "    wonder: int = 3\n"
        '    """How wonderful."""\n'
        "jaxlm.register_model('mine', Mine)\n"
    )
    try:
        _, out, _ = shell("train", "--plugin", tmp_path / "mine.py", "--model", "mine", "--help")
    finally:
        MODELS.pop("mine", None)
    assert "--wonder INT" in out and "How wonderful. (default: 3)" in out
    assert "--residual" not in out


@pytest.mark.parametrize("line", ["│", " "])
def test_the_message_of_a_box_is_one_line(line):
    words = ("Unrecognized options: ptb", "-" * 20, "For full helptext, run train --help")
    box = "\n".join(f"{line} {text} {line}" for text in ("title", "-" * 30, *words))
    assert cli._one_line(box) == "Unrecognized options: ptb"


@pytest.mark.parametrize("command", (*VERBS, "__main__"))
def test_each_command_prints_the_version(command, shell):
    assert shell(command, "--version") == (0, f"jaxlm {jaxlm.__version__}\n", "")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("--learning-rate 1", "--lr 1"),
        ("--learning_rate=1", "--lr=1"),
        ("--LR 1", "--lr 1"),
        ("--hidden 3", "--hidden-size 3"),
        ("--hidden_size 3", "--hidden-size 3"),
        ("--epoch 2", "--epochs 2"),
        ("--embed 2", "--embedding-size 2"),
        ("--batch 2", "--batch-size 2"),
        ("--layers 2", "--num-layers 2"),
        ("--no_tied", "--no-tied"),
        ("--from run --seeds 2", "--from run --seeds 2"),
        ("--n-gram 3", "--n-gram 3"),
        ("-1 -.5 -- x=--hidden", "-1 -.5 -- x=--hidden"),
    ],
)
def test_the_words_of_other_programs_are_understood(given, meant):
    network = network_class("nplm")
    flags = cli.flags_of(train.Command[network], train.Command(network=network()))
    assert flags_module.with_known_flags(given.split(), flags) == meant.split()


def test_an_ngram_understands_its_own_words():
    network = network_class("ngram")
    flags = cli.flags_of(train.CountingCommand, train.CountingCommand(network=network()))
    assert flags_module.with_known_flags(["--n_gram", "3"], flags) == ["--order", "3"]


def test_each_synonym_means_a_setting_and_is_none_itself():
    known = all_settings() | {"length", "samples", "temperature", "top_k", "top_p", "top", "out"}
    assert {*SYNONYMS.values()} <= known
    assert not {*SYNONYMS} & known


def test_models_corpora_and_recipes_are_found_in_any_case(shell, tmp_path):
    code, out, err = shell(
        "train", "--Model", "RNN", "--corpus", "Toy", "--recipe", "LECTURE", "--step", 1,
        "--output", tmp_path / "run",
    )  # fmt: skip
    assert (code, err) == (0, "") and "corpus toy" in out
    saved = json.loads((tmp_path / "run/config.json").read_text())
    assert (saved["model"], saved["text"]["corpus"]) == ("rnn", "toy")
    assert saved["training"]["steps"] == 1


@pytest.mark.parametrize("command", VERBS)
def test_help_has_examples_and_fits_the_terminal(command, shell, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = shell(command, "--help")
    assert code == 0
    assert "Examples:" in out and f"  python -m jaxlm.{command} " in out
    # The help of an optional flag shows its type without None.
    assert "None" not in out
    assert "type: ignore" not in out and "noqa" not in out
    assert max(map(len, out.splitlines())) <= 80


def test_the_help_and_errors_end_in_a_terminal_of_one_column(shell, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1")
    code, out, _ = shell("compare", "--help")
    # The help is that of 40 columns. The usage, its first line, is not wrapped.
    assert code == 0 and max(map(len, out.splitlines()[1:])) <= 40
    code, _, err = shell("compare", "--seed", "x")
    assert code == 2 and err.count("\n") == 1 and "--seed" in err
    assert os.environ["COLUMNS"] == "1"


def test_the_help_breaks_commands_between_arguments():
    about = "Do this\nand that.\n\nExamples:\n  python -m it run --text 'a b' --out x.tsv\n  short"
    assert cli._wrapped(about, 32).splitlines() == [
        "Do this and that.",
        "",
        "Examples:",
        "  python -m it run \\",
        "      --text 'a b' --out x.tsv",
        "  short",
    ]


def test_messages_name_flags_instead_of_settings():
    message = "`hidden_size` 0: must be at least 1 (or 0 with `direct`); choose another `folder`"
    shown = "--hidden-size 0: must be at least 1 (or 0 with --direct); choose another --out"
    assert cli.with_flags(message) == shown
    assert cli.with_flags("no `Setting` here, nor `two words`") == (
        "no `Setting` here, nor `two words`"
    )


def test_each_kind_of_cpu_has_its_own_folder_of_compiled_programs(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXLM_CACHE", str(tmp_path))
    here = process.compiled_folder()
    assert here.parent == tmp_path / "compiled"
    monkeypatch.setattr(process, "cpu_features", lambda: "flags: sse2")
    assert process.compiled_folder() != here


def test_users_can_choose_or_disable_the_compilation_cache(monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/mine")
    process.keep_compiled_programs()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "/mine"
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("JAXLM_CACHE", "off")
    process.keep_compiled_programs()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


@pytest.mark.full
def test_a_second_command_reuses_compiled_programs(tmp_path):
    names = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment |= {"JAXLM_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "jaxlm.train", "--model", "nplm", "--steps", "3", "--out"]
    written = []
    for number in (1, 2):
        subprocess.run(
            [*command, str(tmp_path / f"run-{number}")],
            env=environment,
            check=True,
            capture_output=True,
        )
        files = (tmp_path / "cache/compiled").rglob("*")
        written.append({file.name for file in files if file.name.endswith("-cache")})
    assert written[0] and written[0] == written[1]


def test_the_oldest_compiled_programs_are_removed(tmp_path):
    for age, name in enumerate(("new", "older", "oldest")):
        path = tmp_path / "key" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(100))
        os.utime(path, (1000 - age, 1000 - age))
    process.remove_oldest(tmp_path, 250)
    assert sorted(path.name for path in (tmp_path / "key").iterdir()) == ["new", "older"]
    process.remove_oldest(tmp_path, 250)
    assert len(list((tmp_path / "key").iterdir())) == 2


@pytest.mark.parametrize(
    ("command", "flag", "names"),
    [
        (["train"], "--model", MODELS),
        (["train"], "--tokens", TOKENIZERS),
        (["train"], "--softmax", HEADS),
        (["prepare"], "--tokens", TOKENIZERS),
        (["convert"], "--format", FORMATS),
    ],
)
def test_the_help_of_a_flag_lists_every_name(command, flag, names, shell, monkeypatch):
    # On a wide terminal the help has two columns.
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = shell(*command, "--help-all")
    # A long name may wrap after a hyphen, at the end of a line.
    words = re.sub(r"[│\s]+", " ", out).replace("- ", "-")
    text = re.search(rf"{flag} STR (.*?\(default: )", words)[1]
    assert [name for name in names if not re.search(rf"\b{re.escape(name)}\b", text)] == []


def test_a_switch_in_a_message_has_no_value():
    message = "`eos` False adds none; `like_lmplz` True, or `lr`: see `folder`"
    shown = "--no-eos adds none; --like-lmplz, or --lr: see --out"
    assert cli.with_flags(message) == shown
