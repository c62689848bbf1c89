"""Killed commands, damaged files and two processes: nothing is lost, and nothing silently wrong."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_runs

import jaxlm
from jaxlm import UserError
from jaxlm.runs.folder import CONFIG, LOCK, SAVING, RunFolder, files_of_run
from jaxlm.runs.log import read_records
from jaxlm.runs.old_configs import absent_settings, complete
from jaxlm.training import counting

DRIVER = Path(__file__).parents[2] / "experiments" / "accidents.py"
SHORT = {"steps": 4, "eval_every": 2, "log_every": 1, "batch_size": 4, "bptt": 8}


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def ngram(text, order=3):
    return jaxlm.NGram(len(text.vocabulary), text.vocabulary.start_id, order=order)


@pytest.fixture
def counted(text, tmp_path):
    """Folder of a finished n-gram."""
    tiny_runs.fit(ngram(text), text, tmp_path / "counted")
    return tmp_path / "counted"


@pytest.fixture(scope="module")
def trained(text, tmp_path_factory):
    """A model, and the folder of its finished run."""
    folder, model = tmp_path_factory.mktemp("trained") / "run", tiny_runs.make(jaxlm.RNN, text)
    tiny_runs.fit(model, text, folder, **SHORT)
    return model, folder


@pytest.mark.full
@pytest.mark.xdist_group("signals")
def test_killed_commands_end_with_the_same_bytes(tmp_path):
    argv = [sys.executable, DRIVER, "--kills", "2", "--steps", "40", "--seed", "1"]
    argv += ["--kinds", "lstm", "ngram", "--folder", tmp_path / "accidents"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| lstm | 1 |" in done.stdout and "| ngram | 1 |" in done.stdout


@pytest.mark.full
def test_the_driver_finds_what_is_lost_and_what_differs(trained, monkeypatch):
    spec = importlib.util.spec_from_file_location("accidents", DRIVER)
    driver = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "accidents", driver)
    spec.loader.exec_module(driver)
    saved = driver.checkpoints(trained[1])
    assert saved == {"step": 4}
    assert driver.lost_saves(saved, saved, "seed-0: resumed at step 4 of 9\n") == 0
    assert driver.lost_saves(saved, saved, "resumed at step 2 of 9") == 2
    assert driver.lost_saves(saved, {}, "") == 4
    assert driver.lost_saves({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}, "") == 1
    found = driver.contents(trained[1])
    assert {"metrics.jsonl", "tokenizer.json", "checkpoints/last/4/meta/metadata"} <= found.keys()
    assert sum("parameters" in name for name in found) > 2
    assert driver.compare(found, found | {"metrics.jsonl": b""}) == ["metrics.jsonl"]


# Two processes.


@pytest.mark.full
@pytest.mark.parametrize("which", ["gradient", "counting"])
def test_a_run_that_another_process_trains_is_not_resumed(which, trained, text, tmp_path):
    model, folder = trained
    options = SHORT if which == "gradient" else {}
    if which == "counting":
        model, folder = ngram(text), tmp_path / "first"
        tiny_runs.fit(model, text, folder)
    folder = shutil.copytree(folder, tmp_path / "run")
    other = RunFolder(folder, {}, text.tokenizer)
    with other.locked():
        before = contents(folder)
        with pytest.raises(UserError, match=r"another process trains the run in .*run: wait unt"):
            tiny_runs.fit(model, text, folder, resume=True, **options)
        assert contents(folder) == before
        assert jaxlm.load(folder).folder == folder
    assert not (folder / LOCK).exists()
    tiny_runs.fit(model, text, folder, resume=True, **options)
    assert not (folder / LOCK).exists()


def test_the_lock_of_a_process_that_dies_is_released(text, tmp_path):
    code = f"import filelock; lock = filelock.FileLock({str(tmp_path / LOCK)!r}); lock.acquire(); "
    child = [sys.executable, "-uc", code + "print(1); import time; time.sleep(60)"]
    folder = RunFolder(tmp_path, {}, text.tokenizer)
    with subprocess.Popen(child, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        with pytest.raises(UserError, match="another process"), folder.locked():
            pass
        process.kill()
    assert (tmp_path / LOCK).exists()
    with folder.locked():
        pass


def test_a_file_system_without_locks_is_used_without(text, tmp_path, monkeypatch):
    def unknown(*_, **__):
        raise NotImplementedError

    monkeypatch.setattr("filelock.FileLock.acquire", unknown)
    with RunFolder(tmp_path, {}, text.tokenizer).locked():
        pass


# Claims.


@pytest.mark.full
def test_a_sweep_that_was_killed_while_it_claimed_its_folders_is_resumed(text, tmp_path):
    model = tiny_runs.make(jaxlm.RNN, text)
    options = {"seeds": 2, "console": tiny_runs.quiet(), **SHORT}
    jaxlm.fit_many(model, text, folder=tmp_path / "whole", **options)
    jaxlm.fit_many(model, text, folder=tmp_path / "killed", **options)
    (tmp_path / "killed/seed-1" / CONFIG).rename(tmp_path / "config")
    with pytest.raises(UserError, match=r"seed-1 has no config\.json, but tokenizer\.json, "):
        jaxlm.fit_many(model, text, folder=tmp_path / "killed", resume=True, **options)
    shutil.rmtree(tmp_path / "killed/seed-0/checkpoints")
    shutil.rmtree(tmp_path / "killed/seed-1")
    jaxlm.fit_many(model, text, folder=tmp_path / "killed", resume=True, **options)
    for seed in ("seed-0", "seed-1"):
        tiny_runs.assert_same_run(tmp_path / "killed" / seed, tmp_path / "whole" / seed)


def test_resume_is_advised_only_where_it_works(trained, text, tmp_path):
    model, folder = trained
    with pytest.raises(UserError, match=r"already holds a run: choose .*, or continue it with `re"):
        tiny_runs.fit(model, text, folder, **SHORT)
    other = tiny_runs.make(jaxlm.GRU, text)
    with pytest.raises(UserError, match=r"already holds a run: choose another `folder`$"):
        tiny_runs.fit(other, text, folder, **SHORT)


def test_the_command_does_not_advise_to_overwrite_checkpoints(trained, train, text_file, tmp_path):
    folder = shutil.copytree(trained[1], tmp_path / "runs" / "seed-0")
    (folder / CONFIG).unlink()
    before = contents(tmp_path)
    argv = ("--model", "rnn", "--corpus", text_file)
    for flags in (("--out", folder), ("--out", folder.parent, "--seeds", 2)):
        for resume in ((), ("--resume",)):
            code, _, err = train(*argv, *flags, *resume)
            tiny_runs.assert_user_error(code, err)
            assert "no config.json, but" in err and "leave --resume out" not in err
            assert contents(tmp_path) == before


def test_a_users_own_log_is_not_overwritten(text, tmp_path):
    (tmp_path / "metrics.jsonl").write_text("my own\n")
    for model, options in ((tiny_runs.make(jaxlm.RNN, text), SHORT), (ngram(text), {})):
        with pytest.raises(UserError, match=r"no config.json, but metrics.jsonl"):
            tiny_runs.fit(model, text, tmp_path, **options)
    assert (tmp_path / "metrics.jsonl").read_text() == "my own\n"


# Saves of whole runs.


@pytest.mark.parametrize("moved", [False, True])
def test_a_save_that_was_killed_can_be_repeated(moved, counted, tmp_path):
    run, folder = jaxlm.load(counted), tmp_path / "saved"
    (folder / SAVING / "ngrams").mkdir(parents=True)
    (folder / SAVING / "ngrams/keys-2.npy").write_text("half")
    (folder / "mine.txt").write_text("mine")
    if moved:
        shutil.copytree(counted / "ngrams", folder / "ngrams")
        (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"is not a run: it has no config\.json"):
        jaxlm.load(folder)
    kept = run.save(folder)
    assert jaxlm.perplexity(kept).nll == jaxlm.perplexity(run).nll
    assert not (folder / SAVING).exists() and (folder / "mine.txt").read_text() == "mine"
    with pytest.raises(UserError, match="already holds a run"):
        run.save(folder)


def test_a_refused_save_removes_no_file_of_the_save_that_runs(counted, tmp_path):
    run, folder = jaxlm.load(counted), tmp_path / "saved"
    (folder / SAVING).mkdir(parents=True)
    (folder / SAVING / "half").write_text("half")
    with RunFolder(folder, {}, run.tokenizer).locked():
        before = contents(folder)
        with pytest.raises(UserError, match="another process"):
            run.save(folder)
        assert contents(folder) == before


def test_a_save_does_not_remove_a_run_that_lost_its_config(counted, tmp_path):
    run = jaxlm.load(counted)
    other = shutil.copytree(counted, tmp_path / "other")
    (other / CONFIG).unlink()
    before = contents(other)
    with pytest.raises(UserError, match=r"no config\.json, but tokenizer\.json"):
        run.save(other)
    assert contents(other) == before
    assert "ngrams" in files_of_run(other)


# n-grams.


def test_a_count_that_was_killed_before_its_validation_is_finished(
    text, counted, tmp_path, monkeypatch
):
    def die(*_):
        raise KeyboardInterrupt

    folder = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(counting, "_validate", die)
        with pytest.raises(KeyboardInterrupt):
            tiny_runs.fit(ngram(text), text, folder)
    assert not (folder / "metrics.jsonl").exists()
    times = {path: path.stat().st_mtime_ns for path in (folder / "ngrams").iterdir()}
    tiny_runs.fit(ngram(text), text, folder, resume=True)
    assert (folder / "metrics.jsonl").read_bytes() == (counted / "metrics.jsonl").read_bytes()
    assert {path: path.stat().st_mtime_ns for path in (folder / "ngrams").iterdir()} == times
    before = contents(folder)
    tiny_runs.fit(ngram(text), text, folder, resume=True)
    assert contents(folder) == before


def flip(path, place=-3):
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-8])


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
@pytest.mark.parametrize("name", ["keys-3", "probabilities-1", "backoffs-2"])
def test_a_damaged_table_is_an_error(name, damage, counted, text):
    damage(counted / "ngrams" / f"{name}.npy")
    # A user sees one line.
    with pytest.raises(UserError, match=r"ngrams is damaged: [^\n]*; remove this folder, then"):
        jaxlm.load(counted)
    with pytest.raises(UserError, match=rf"ngrams is damaged: [^\n]*{name}"):
        tiny_runs.fit(ngram(text), text, counted, resume=True)
    shutil.rmtree(counted / "ngrams")
    tiny_runs.fit(ngram(text), text, counted, resume=True)
    assert jaxlm.load(counted).params.order == 3


def set_first(path, value):
    array = np.load(path)
    array[0] = value
    np.save(path, array)


def replace(path, old, new):
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("keys-3", cut),
        ("keys-2", lambda path: set_first(path, 1 << 40)),
        ("probabilities-2", lambda path: set_first(path, 1.5)),
        ("backoffs-1", lambda path: set_first(path, np.nan)),
        ("probabilities-1", lambda path: path.write_bytes(b"")),
        # The header of the file is a Python expression, whose parenthesis is not closed now.
        ("probabilities-1", lambda path: replace(path, b",), }", b",}, }")),
        ("backoffs-2", lambda path: replace(path, b"'descr'", b"'descq'")),
        ("probabilities-3", lambda path: np.save(path, np.load(path)[1:])),
        ("keys-2", lambda path: np.save(path, np.load(path).astype(np.int32))),
    ],
)
def test_tables_without_digests_load_and_their_values_are_checked(name, damage, counted):
    (counted / "ngrams/digests.json").unlink()
    assert jaxlm.load(counted).params.order == 3
    damage(counted / "ngrams" / f"{name}.npy")
    with pytest.raises(UserError, match="ngrams is damaged"):
        jaxlm.load(counted)


DIGESTS = [b"\xff", b"[]", b'{"x": 1}', b'{"../x": {}}', b"", b"[" * 100_000]


@pytest.mark.parametrize("content", DIGESTS, ids=[0, 1, 2, 3, 4, "too deep"])
def test_damaged_digests_are_an_error(content, counted):
    (counted / "ngrams/digests.json").write_bytes(content)
    with pytest.raises(UserError, match="ngrams is damaged"):
        jaxlm.load(counted)


# Logs.


DAMAGED = [b"\xff\xfe\n", b"[1, 2]\n", b'{"step": "x"}\n', b"not json\n", b'"step"\n', b"null\n"]


@pytest.mark.parametrize(
    "line",
    [*DAMAGED[:2], *(pytest.param(line, marks=pytest.mark.full) for line in DAMAGED[2:])],
)
def test_readable_records_are_kept_and_a_note_names_the_others(line, trained, text, tmp_path):
    model, folder = trained[0], shutil.copytree(trained[1], tmp_path / "run")
    for name in ("metrics.jsonl", "timing.jsonl"):
        lines = (folder / name).read_bytes().splitlines(keepends=True)
        (folder / name).write_bytes(b"".join([lines[0], line, *lines[1:], line]))
        notes = []
        records = read_records(folder / name, notes.append)
        assert records == [json.loads(record) for record in lines]
        assert notes == [f"{folder / name}: lines 2, {len(lines) + 2} are damaged and left out"]
    whole = (trained[1] / "metrics.jsonl").read_bytes()
    console = tiny_runs.quiet()
    tiny_runs.fit(model, text, folder, resume=True, console=console, **SHORT | {"steps": 5})
    printed = console.file.getvalue()
    assert "metrics.jsonl: lines 2, " in printed and "timing.jsonl: lines 2, " in printed
    assert (folder / "metrics.jsonl").read_bytes().startswith(whole)


# Settings of a resumed run.


def test_changed_settings_are_said_in_one_note(trained, text, tmp_path):
    model, folder = trained[0], shutil.copytree(trained[1], tmp_path / "run")
    console = tiny_runs.quiet()
    options = SHORT | {"steps": 6, "lr": 0.5, "schedule": "cosine"}
    tiny_runs.fit(model, text, folder, resume=True, console=console, **options)
    notes = [line for line in console.file.getvalue().splitlines() if "goes on with" in line]
    assert notes == [
        "note: the run goes on with `lr` 0.5 (was 0.001), `schedule` cosine (was constant), "
        "`steps` 6 (was 4)"
    ]
    console = tiny_runs.quiet()
    tiny_runs.fit(model, text, folder, resume=True, console=console, **options | {"steps": 6})
    assert "goes on with" not in console.file.getvalue()


@pytest.mark.parametrize(
    ("section", "value"),
    [("batching", 3), ("network", []), ("optimizer", None), ("training", 3), ("text", [])],
)
def test_a_damaged_section_is_one_line(section, value, trained, text, tmp_path):
    model, folder = trained[0], shutil.copytree(trained[1], tmp_path / "run")
    config = json.loads((folder / CONFIG).read_text())
    config[section] = value
    (folder / CONFIG).write_text(json.dumps(config))
    with pytest.raises(UserError) as error:
        tiny_runs.fit(model, text, folder, resume=True, **SHORT)
    assert "\n" not in str(error.value) and section in str(error.value)


def test_an_ngram_is_not_resumed_as_another_model(counted, text):
    model = tiny_runs.make(jaxlm.LSTM, text)
    with pytest.raises(UserError, match="holds another run: its model is ngram, not lstm"):
        tiny_runs.fit(model, text, counted, resume=True, **SHORT)


def test_settings_that_a_run_lacks_have_their_defaults():
    config = {"model": "rnn", "network": {"hidden_size": 9}, "batching": {"batch_size": 3}}
    whole = complete(config)
    assert whole["network"]["hidden_size"] == 9 and whole["network"]["tied"] is False
    assert whole["batching"]["batch_size"] == 3 and whole["batching"]["bptt"] > 0
    assert complete({"model": [], "network": 3}) == {"model": [], "network": 3}
    assert absent_settings([]) == absent_settings({"batching": {"drop_state": 0.5}}) == {}


# Links in the place of partial files.


def test_links_in_the_place_of_partial_files_are_not_followed(trained, text, tmp_path):
    model, folder = trained[0], shutil.copytree(trained[1], tmp_path / "run")
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    for name in (CONFIG, "tokenizer.json", "metrics.jsonl", "timing.jsonl"):
        os.symlink(mine, folder / f"{name}.partial")
    tiny_runs.fit(model, text, folder, resume=True, **SHORT | {"steps": 5})
    (tmp_path / "outside").mkdir()
    (tmp_path / "ngram").mkdir()
    os.symlink(tmp_path / "outside", tmp_path / "ngram/ngrams.partial")
    tiny_runs.fit(ngram(text), text, tmp_path / "ngram")
    assert mine.read_text() == "mine"
    assert not list((tmp_path / "outside").iterdir())
    assert not list(folder.glob("*.partial")) and (tmp_path / "ngram/ngrams").is_dir()
