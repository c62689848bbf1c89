"""Old flags, names of flags in messages, and the cache of compiled programs."""

import os
import re
import subprocess
import sys

import pytest

from jaxlm.commands import cli, process
from jaxlm.data.tokenizers import TOKENIZERS
from jaxlm.interop.formats import FORMATS
from jaxlm.models import MODELS
from jaxlm.models.heads import HEADS

VERBS = ("train", "evaluate", "predict", "generate", "prepare", "convert")


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
    code, out, _ = shell("train", "--model", "lstm", "--help")
    assert "--time-loop" in out and "--kernel" not in out and "--features" not in out


@pytest.mark.parametrize("command", VERBS)
def test_help_shows_no_code_comments(command, shell):
    code, out, _ = shell(command, "--help")
    assert code == 0
    assert "type: ignore" not in out and "noqa" not in out


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
    _, out, _ = shell(*command, "--help")
    # A long name may wrap after a hyphen, at the end of a line.
    words = re.sub(r"[│\s]+", " ", out).replace("- ", "-")
    text = re.search(rf"{flag} STR (.*?\(default: )", words)[1]
    assert [name for name in names if not re.search(rf"\b{re.escape(name)}\b", text)] == []
