"""An error makes no folder of a new run, and changes no byte of an old run."""

import json
import shutil
import threading
from dataclasses import replace
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_runs

import jaxlm
from jaxlm.errors import SettingError, UserError
from jaxlm.runs.folder import CONFIG, RunFolder
from jaxlm.runs.protocol import Protocol
from jaxlm.runs.run import WRITERS

SHORT = {"batch_size": 4, "bptt": 5, "steps": 4, "eval_every": 2}
ROWS = {"batching": "rows", "batch_size": 2, "steps": 2}


def contents(folder):
    """Return the bytes of each file in a folder, and the names of its folders."""
    return {
        path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))
    }


def python_if(step):
    return 0.1 if step < 3 else 0.01


def fails(updates, state, params=None):
    raise TypeError("mine")


BROKEN = optax.GradientTransformation(lambda params: (), fails)
CANNOT_START = [
    (
        {},
        {"average": "triggered", "trigger_after": 5, "patience": 5},
        SettingError,
        r"`patience` 5: ends the run before its average can begin .*use 6 or more",
    ),
    ({"hidden_size": -1}, {}, SettingError, "`hidden_size` -1"),
    ({}, {"schedule": python_if}, SettingError, "`schedule` of your own: fails when JAX traces"),
    ({}, {"schedule": lambda step: None}, SettingError, "`schedule` of your own: must return one"),
    ({}, {"schedule": lambda step: jnp.ones(2)}, SettingError, "must return one number"),
    ({}, {"optimizer": BROKEN}, TypeError, "mine"),
]


@pytest.mark.parametrize(("sizes", "options", "error", "message"), CANNOT_START)
@pytest.mark.parametrize("fit", [jaxlm.fit, jaxlm.fit_many])
def test_a_run_that_cannot_start_makes_no_folder(
    fit, sizes, options, error, message, text, tmp_path
):
    with pytest.raises(error, match=message):
        model = tiny_runs.make(jaxlm.NPLM, text, **sizes)
        fit(model, text, folder=tmp_path / "run", quiet=True, **SHORT | options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("cell", ["mingru", None])
def test_a_name_is_no_cell(cell, text):
    with pytest.raises(SettingError, match=r"`cell` .*: is not a cell: .* CELLS\['gru'\]"):
        jaxlm.fit(tiny_runs.make(jaxlm.Recurrent, text, cell=cell), text, quiet=True, **SHORT)


@pytest.mark.parametrize("eos", [True, False])
def test_a_validation_split_without_tokens_to_predict_is_an_error(eos, tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "train.txt").write_text("a b\nb a c\n")
    (corpus / "valid.txt").write_text("\n\n" if eos else "a\nb\n")
    text = jaxlm.read_corpus(str(corpus), eos=eos)
    vocabulary = text.vocabulary
    models = [tiny_runs.make(jaxlm.RNN, text)]
    # With <eos> an n-gram scores the blank lines as a stream.
    models += [] if eos else [jaxlm.NGram(len(vocabulary), vocabulary.start_id, order=2)]
    for model in models:
        options = ROWS if model.trained_by == "gradient" else {}
        with pytest.raises(UserError, match=r"the valid split of .*corpus has no line in which a"):
            tiny_runs.fit(model, text, tmp_path / "run", **options)
        assert not (tmp_path / "run").exists()


def read(path, content, **options):
    path.write_text(content)
    return jaxlm.read_corpus(str(path), tokens="bytes", **options)


ONE, OTHER = "abcdefgh\n" * 40, "hgfedcba\n" * 40


def models_of(text):
    start_id = text.vocabulary.start_id
    yield tiny_runs.make(jaxlm.RNN, text), SHORT
    yield jaxlm.NGram(len(text.vocabulary), start_id, order=2), {}


@pytest.mark.full
@pytest.mark.parametrize("which", [0, 1], ids=["gradient", "counting"])
def test_a_run_is_not_resumed_with_another_text(which, tmp_path):
    text = read(tmp_path / "one.txt", ONE)
    model, options = list(models_of(text))[which]
    tiny_runs.fit(model, text, tmp_path / "run", **options)
    before = contents(tmp_path / "run")
    others = {
        "train and valid": read(tmp_path / "two.txt", OTHER),
        "train": read(tmp_path / "one.txt", ONE, fractions=(0.8, 0.05, 0.15)),
    }
    # A split of the same text that differs only in the validation.
    swapped = replace(text, splits={**text.splits, "valid": text.splits["test"]})
    shifted = replace(swapped, splits={**text.splits, "valid": others["train and valid"].valid})
    others["valid"] = shifted
    for split, other in others.items():
        with pytest.raises(UserError, match=rf"another text: `corpus` .* has another {split}"):
            tiny_runs.fit(model, other, tmp_path / "run", resume=True, **options)
        assert contents(tmp_path / "run") == before
    moved = read(tmp_path / "moved.txt", ONE)
    tiny_runs.fit(model, moved, tmp_path / "run", resume=True, **options)
    # A run of an older version has no digests.
    config = json.loads((tmp_path / "run" / CONFIG).read_text())
    assert sorted(config.pop("text_sha256")) == ["train", "valid"]
    (tmp_path / "run" / CONFIG).write_text(json.dumps(config))
    other = others["train and valid"]
    tiny_runs.fit(model, other, tmp_path / "run", resume=True, **options)


def test_a_resume_of_a_finished_count_does_not_change_its_description(tmp_path):
    text = read(tmp_path / "one.txt", ONE)
    model = jaxlm.NGram(len(text.vocabulary), text.vocabulary.start_id, order=2)
    tiny_runs.fit(model, text, tmp_path / "run")
    before = contents(tmp_path / "run")
    moved = read(tmp_path / "moved.txt", ONE)
    tiny_runs.fit(model, moved, tmp_path / "run", resume=True)
    assert contents(tmp_path / "run") == before


@pytest.fixture(scope="module")
def finished(text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    model = tiny_runs.make(jaxlm.RNN, text)
    # Later validations may be worse or better.
    tiny_runs.fit(model, text, folder, **SHORT)
    return folder, model


EXTRAS = [{}, {"tensorboard": True}] if find_spec("tensorboardX") else [{}]


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_resume_without_a_readable_checkpoint_changes_no_byte(extra, finished, text, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    for path in (folder / "checkpoints/last").glob("*/*/*"):
        if path.is_file():
            path.write_bytes(b"")
    (folder / "checkpoints/last/9.orbax-checkpoint-tmp").mkdir()
    before = contents(folder)
    with pytest.raises(UserError, match=r"no checkpoint in .*last can be read"):
        options = SHORT | {"steps": 8, "resume": True} | extra
        tiny_runs.fit(finished[1], text, folder, **options)
    assert contents(folder) == before


def test_a_run_of_parameters_alone_is_not_resumed_and_keeps_every_byte(finished, text, tmp_path):
    jaxlm.load(finished[0]).save(tmp_path / "saved")
    before = contents(tmp_path / "saved")
    with pytest.raises(UserError, match="holds parameters alone"):
        tiny_runs.fit(finished[1], text, tmp_path / "saved", resume=True, **SHORT | {"steps": 9})
    with pytest.raises(UserError, match=r"already holds a run: choose another `folder`$"):
        tiny_runs.fit(finished[1], text, tmp_path / "saved", **SHORT)
    with pytest.raises(UserError, match=r"already holds a run: choose another `folder`$"):
        jaxlm.load(finished[0]).save(tmp_path / "saved")
    assert contents(tmp_path / "saved") == before


@pytest.mark.full
def test_a_resume_of_a_finished_run_changes_no_byte(finished, text, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    before = contents(folder)
    run = tiny_runs.fit(finished[1], text, folder, resume=True, **SHORT)
    assert contents(folder) == before
    tiny_runs.assert_same_arrays(run.params, jaxlm.load(folder).params)
    longer = tiny_runs.fit(finished[1], text, folder, resume=True, **SHORT | {"steps": 6})
    assert longer.settings["training"]["steps"] == 6
    sessions = (folder / "sessions.jsonl").read_text().splitlines()
    assert len(sessions) == 2


LEFT = ["checkpoints/last/4/x", "ngrams/x", "metrics.jsonl", "tokenizer.json", "failed.json"]


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", LEFT)
def test_a_folder_that_lost_its_config_is_not_used(name, resume, text, tmp_path):
    (tmp_path / "run" / name).parent.mkdir(parents=True)
    (tmp_path / "run" / name).write_text("old")
    before = contents(tmp_path / "run")
    model = tiny_runs.make(jaxlm.RNN, text)
    with pytest.raises(UserError, match=f"no config.json, but {name.split('/')[0]} of another"):
        tiny_runs.fit(model, text, tmp_path / "run", resume=resume, **SHORT)
    assert contents(tmp_path / "run") == before


def test_only_one_of_many_simultaneous_claims_succeeds(text, tmp_path):
    claimed, refused = [], []
    barrier = threading.Barrier(8)

    def claim(index):
        folder = RunFolder(tmp_path / "run", {"model": "x", "mine": index}, text.tokenizer)
        barrier.wait()
        try:
            folder.claim(resume=False)
            claimed.append(index)
        except UserError:
            refused.append(index)

    threads = [threading.Thread(target=claim, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claimed) == 1 and len(refused) == 7
    assert json.loads((tmp_path / "run" / CONFIG).read_text())["mine"] == claimed[0]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [CONFIG, "tokenizer.json"]


def test_a_run_that_was_killed_while_it_claimed_is_started_by_resume(text, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / CONFIG).touch()
    (tmp_path / "run/tokenizer.json").write_text("{}")
    before = contents(tmp_path / "run")
    model = tiny_runs.make(jaxlm.RNN, text)
    with pytest.raises(UserError, match=r"another process is starting a run in .*`resume`"):
        tiny_runs.fit(model, text, tmp_path / "run", **SHORT)
    assert contents(tmp_path / "run") == before
    run = tiny_runs.fit(model, text, tmp_path / "run", resume=True, **SHORT)
    assert jaxlm.load(tmp_path / "run").step == run.step


@pytest.mark.parametrize("existed", [False, True])
@pytest.mark.parametrize("error", [OSError(28, "No space left"), KeyboardInterrupt()])
def test_a_run_that_could_not_be_saved_leaves_nothing(
    error, existed, finished, monkeypatch, tmp_path
):
    folder, write = tmp_path / "saved", WRITERS["gradient"]
    if existed:
        folder.mkdir()
        (folder / "mine.txt").write_text("mine")

    def write_and_fail(run, folder):
        write(run, folder)
        raise error

    monkeypatch.setitem(WRITERS, "gradient", write_and_fail)
    run = jaxlm.load(finished[0])
    with pytest.raises(UserError if isinstance(error, OSError) else KeyboardInterrupt):
        run.save(folder)
    assert folder.exists() == existed
    assert not existed or [path.name for path in folder.iterdir()] == ["mine.txt"]
    monkeypatch.undo()
    assert run.save(folder).step == run.step


def test_simultaneous_commands_use_different_default_folders(train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ("--model", "ngram", "--order", 2)
    taken = []
    make_folder = type(tmp_path).mkdir

    def taken_first(path, *args, **options):
        """Make the folder after the check and before the claim, like another command."""
        if path.name == "ngram-toy" and not taken:
            taken.append(path)
            make_folder(path, *args, **options)
        return make_folder(path, *args, **options)

    monkeypatch.setattr(type(tmp_path), "mkdir", taken_first)
    code, out, err = train(*argv)
    assert (code, err) == (0, "") and "saved in runs/ngram-toy-2\n" in out


def test_a_refused_command_leaves_no_default_folder(train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = train("--model", "rnn", "--batch-size", 1000)
    tiny_runs.assert_user_error(code, err)
    assert not list((tmp_path / "runs").iterdir())


def test_a_signal_in_the_last_dispatch_does_not_stop_the_run(text, tmp_path):
    console = tiny_runs.ActingConsole("step      4  epoch", tiny_runs.terminate)
    model = tiny_runs.make(jaxlm.RNN, text)
    run = tiny_runs.fit(model, text, tmp_path / "run", console=console, **SHORT | {"log_every": 1})
    assert run.stopped_by == 0
    assert not any("stopped" in line for line in console.lines)


def test_a_bad_protocol_is_an_error():
    with pytest.raises(SettingError, match="`last_only` True: needs `rows`"):
        Protocol(last_only=True)


def test_an_incompletely_copied_description_is_copied_again(text, tmp_path, monkeypatch):
    """A machine was killed while it copied the description from the remote checkpoints."""
    model = tiny_runs.make(jaxlm.RNN, text)
    options = SHORT | {"checkpoint_folder": str(tmp_path / "remote")}
    tiny_runs.fit(model, text, tmp_path / "run", **options)
    shutil.rmtree(tmp_path / "run")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("jaxlm.data.files.os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            tiny_runs.fit(model, text, tmp_path / "run", resume=True, **options)
    assert not (tmp_path / "run" / CONFIG).exists()
    options |= {"steps": 6}
    assert tiny_runs.fit(model, text, tmp_path / "run", resume=True, **options).step == 6


@pytest.mark.parametrize("protocol", [{"rows": False, "spans": 3}, ["rows"], {"last_only": True}])
def test_a_run_with_an_unknown_protocol_is_not_loaded(protocol, finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"protocol": protocol}))
    with pytest.raises(UserError, match=r"run cannot be loaded: .*(spans|rows)"):
        jaxlm.load(folder)


def test_the_best_parameters_are_restored_if_their_checkpoint_is_missing(finished, text, tmp_path):
    """The last validation is the best, and the run was killed before it saved the best again."""
    folder = shutil.copytree(finished[0], tmp_path / "run")
    progress = tiny_runs.whole_state(folder)[1]["progress"]
    assert progress["best_step"] == progress["step"] == progress["valid_step"] == 4
    shutil.rmtree(folder / "checkpoints/best")
    tiny_runs.fit(finished[1], text, folder, resume=True, **SHORT)
    best = jaxlm.load(folder)
    assert best.step == 4 and (folder / "checkpoints/best/4").is_dir()
    same = jax.tree.map(np.array_equal, best.params, jaxlm.load(finished[0]).params)
    assert all(jax.tree.leaves(same))
