"""Run folders: a new run never overwrites an old run, and only the same run is resumed."""

import json
import shutil

import pytest
import tiny_runs

import jaxlm
from jaxlm import BatchingConfig, UserError
from jaxlm.runs.folder import CONFIG

STREAMS = BatchingConfig("streams", 6, 8)
LECTURE = ("--model", "rnn", "--steps", "4", "--checkpoint-every", "2", "--log-every", "2")


def test_a_folder_that_cannot_be_written_is_unchanged(text, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / f"{CONFIG}.partial").mkdir()
    model = tiny_runs.make(jaxlm.RNN, text)
    with pytest.raises(UserError, match=r"cannot write to .*run: Is a directory: choose another"):
        tiny_runs.fit(model, text, tmp_path / "run", steps=1)
    assert [path.name for path in (tmp_path / "run").iterdir()] == [f"{CONFIG}.partial"]


@pytest.fixture(scope="module")
def run(text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    model = tiny_runs.make(jaxlm.RNN, text)
    tiny_runs.fit(model, text, folder, batching=STREAMS, steps=10, eval_every=5)
    return folder


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / "run")


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("options", [{}, {"tensorboard": True}], ids=["plain", "tensorboard"])
def test_fit_does_not_change_the_folder_of_another_run(options, copy, text):
    before = contents(copy)
    model = tiny_runs.make(jaxlm.RNN, text)
    with pytest.raises(UserError, match=r"already holds a run.*`resume`"):
        tiny_runs.fit(model, text, copy, batching=STREAMS, steps=10, **options)
    assert contents(copy) == before


def test_fit_does_not_overwrite_a_file(text, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is a file"):
        tiny_runs.fit(tiny_runs.make(jaxlm.RNN, text), text, tmp_path / "file", steps=1)
    assert (tmp_path / "file").read_text() == "mine"


OTHERS = [
    (jaxlm.GRU, {}, {}, "model is rnn, not gru"),
    (jaxlm.RNN, {"hidden_size": 9}, {}, "hidden_size 8, not 9"),
    (jaxlm.RNN, {"dropout": 0.5, "tied": True}, {}, "tied False, not True.*dropout 0.0, not 0.5"),
    (jaxlm.RNN, {}, {"batching": BatchingConfig("streams", 7, 8)}, "batch_size 6, not 7"),
    (jaxlm.RNN, {}, {"batching": BatchingConfig("rows", 6, 8)}, "batching streams, not rows"),
    (jaxlm.RNN, {}, {"optimizer": "sgd"}, "optimizer.*adam.*sgd"),
    (jaxlm.RNN, {}, {"seed": 3}, "`seed` 0, not 3"),
    (jaxlm.RNN, {}, {"average": "ema"}, "`average` none, not ema, and its state would be lost"),
    (jaxlm.RNN, {}, {"freeze": "emb*"}, r"`freeze` none, not emb\*, and its state would be lost"),
]


@pytest.mark.full
def test_another_average_is_refused(text, tmp_path):
    """The averages share their arrays, but a sum of one kind is no sum of the other kind."""
    model = tiny_runs.make(jaxlm.RNN, text)
    for old, new in (("ema", "triggered"), ("triggered", "ema"), ("ema", "none")):
        folder, settings = tmp_path / f"{old}-{new}", {"batching": STREAMS}
        tiny_runs.fit(model, text, folder, steps=2, average=old, **settings)
        with pytest.raises(UserError, match=f"`average` {old}, not {new}"):
            tiny_runs.fit(model, text, folder, steps=4, resume=True, average=new, **settings)


@pytest.mark.parametrize(("kind", "sizes", "options", "named"), OTHERS)
def test_the_error_for_resuming_another_run_names_the_difference(
    kind, sizes, options, named, copy, text
):
    before = contents(copy)
    options = {"batching": STREAMS} | options
    with pytest.raises(UserError, match=named):
        model = tiny_runs.make(kind, text, **sizes)
        tiny_runs.fit(model, text, copy, resume=True, steps=10, **options)
    assert contents(copy) == before


def test_a_run_without_newer_settings_is_resumed(copy, text):
    config = json.loads((copy / "config.json").read_text())
    for section, names in {
        "network": ("weight_drop", "layer_sizes"),
        "batching": ("vary_bptt",),
    }.items():
        for name in names:
            del config[section][name]
    (copy / "config.json").write_text(json.dumps(config))
    model = tiny_runs.make(jaxlm.RNN, text)
    run = tiny_runs.fit(model, text, copy, resume=True, batching=STREAMS, steps=10)
    assert not run.settings["network"]["layer_sizes"]
    del config["network"]["hidden_size"]
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="hidden_size 200, not 8"):
        tiny_runs.fit(model, text, copy, resume=True, batching=STREAMS, steps=12)


def test_the_error_for_resuming_with_another_vocabulary_names_the_sizes(copy, text, tmp_path):
    other = jaxlm.read_corpus(str(tiny_runs.write_text(tmp_path / "other.txt", words=30)))
    sizes = f"{len(text.vocabulary)} tokens, this text gives {len(other.vocabulary)}"
    with pytest.raises(UserError, match=sizes):
        model = tiny_runs.make(jaxlm.RNN, other)
        tiny_runs.fit(model, other, copy, resume=True, batching=STREAMS, steps=10)


@pytest.mark.full
def test_a_run_is_resumed_with_other_settings_of_its_optimizer(copy, text):
    """The message for a loss that is not finite advises other settings."""
    console = tiny_runs.quiet()
    model = tiny_runs.make(jaxlm.RNN, text)
    gentler = {"clip": 0.5, "weight_decay": 0.01, "lr": 1e-4, "warmup_steps": 3}
    options = {"batching": STREAMS, "steps": 12, "eval_every": 5} | gentler
    tiny_runs.fit(model, text, copy, resume=True, console=console, **options)
    output = console.file.getvalue()
    assert "resumed at step 10 of 12" in output and "damaged" not in output
    assert tiny_runs.whole_state(copy)[1]["step"] == 12


def test_config_and_tokenizer_are_written_before_the_first_step(text, tmp_path, monkeypatch):
    def seen(*_):
        raise RuntimeError

    monkeypatch.setattr("jaxlm.training.loop.init_state", seen)
    model = tiny_runs.make(jaxlm.RNN, text)
    with pytest.raises(RuntimeError):
        tiny_runs.fit(model, text, tmp_path / "run", batching=STREAMS, steps=7, seed=3)
    config = json.loads((tmp_path / "run" / CONFIG).read_text(encoding="utf-8"))
    assert config["model"] == "rnn"
    assert (config["batching"]["bptt"], config["training"]["steps"]) == (8, 7)
    assert (tmp_path / "run" / "tokenizer.json").is_file()


@pytest.mark.full
def test_a_model_with_a_window_of_one_word_is_saved(text, tmp_path):
    """The carry of a window of a single word has no elements, which orbax cannot store."""
    model = tiny_runs.make(jaxlm.NPLM, text, n_step=1)
    batching = BatchingConfig("windows", 16)
    for steps in (3, 6):
        resume = steps > 3
        tiny_runs.fit(model, text, tmp_path / "run", batching=batching, steps=steps, resume=resume)
    assert jaxlm.load(tmp_path / "run").step == 6


@pytest.mark.full
def test_the_command_numbers_new_runs_and_resumes_the_newest(train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = train(*LECTURE, "--resume")
    tiny_runs.assert_user_error(code, err)
    assert "no run runs/rnn-toy to continue" in err
    for name in ("rnn-toy", "rnn-toy-2"):
        code, out, err = train(*LECTURE)
        assert (code, err) == (0, "")
        assert f"saved in runs/{name}\n" in out
    first = contents(tmp_path / "runs" / "rnn-toy")
    code, out, _ = train(*LECTURE, "--resume", "--steps", "6")
    assert code == 0
    assert "resumed at step 4 of 6" in out and "saved in runs/rnn-toy-2\n" in out
    assert contents(tmp_path / "runs" / "rnn-toy") == first
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["rnn-toy", "rnn-toy-2"]
    # A folder that holds no run is not resumed.
    (tmp_path / "runs" / "rnn-toy-3").mkdir()
    code, out, _ = train(*LECTURE, "--resume", "--steps", "6")
    assert code == 0 and "saved in runs/rnn-toy-2\n" in out


def test_the_command_never_overwrites_a_run(train, run, text_file, tmp_path):
    before = contents(run)
    code, _, err = train("--model", "rnn", "--corpus", text_file, "--out", run)
    tiny_runs.assert_user_error(code, err)
    assert "already holds a run" in err and contents(run) == before
    code, _, err = train(*LECTURE, "--out", tmp_path / "nothing", "--resume")
    tiny_runs.assert_user_error(code, err)
    assert "no run to continue" in err and not (tmp_path / "nothing").exists()


def test_a_run_pads_with_the_start_token_of_its_text_before_and_after_it_is_loaded(tmp_path):
    text = jaxlm.read_corpus("toy")
    model = jaxlm.NPLM(len(text.vocabulary), n_step=3, embedding_size=4, hidden_size=8)
    rows = {"batching": "rows", "batch_size": 3, "lr": 0.05, "steps": 30}
    run = tiny_runs.fit(model, text, tmp_path / "run", **rows)
    again = jaxlm.load(tmp_path / "run")
    assert run.model.start_id == again.model.start_id == text.vocabulary.start_id != 0
    assert jaxlm.next_words(run, "", 3) == jaxlm.next_words(again, "", 3)
    assert float(jaxlm.perplexity(run)) == float(jaxlm.perplexity(again))
