"""Texts of the user's own: settings by the time there is, and an n-gram mixed with the model."""

import json
import shutil

import jax
import numpy as np
import pytest

import jaxlm
from jaxlm.commands import settings as commands_settings
from jaxlm.commands.settings import own_text_config
from jaxlm.models import MODELS, make_model
from jaxlm.models.neural import param_shapes
from jaxlm.ops import machine
from jaxlm.ops.cpus import Row
from jaxlm.recipes.own_text import WIDTHS, own_text_settings
from jaxlm.training.config import RunConfig
from jaxlm.training.state import init_params

SENTENCES = ("the cat sat on the mat", "a dog ran in the park", "the bird sang in a tree")
TEXT = "".join(f"{SENTENCES[n * n % 3]}\n" for n in range(40))
SMALL = ("--hidden-size", "8", "--embedding-size", "4", "--batch-size", "4", "--bptt", "8")


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "my.txt").write_text(TEXT)
    return ("--corpus", tmp_path / "my.txt", "--tokens", "chars")


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def test_more_time_makes_larger_models_that_still_read_enough():
    sizes = {"vocab_size": 66, "tokens": 1_000_000, "read": 1e7, "flops": 1.2e11, "lr": 0.008}
    found = [own_text_settings(seconds=60 * m, **sizes) for m in (0.1, 1, 3, 10, 60, 600)]
    widths = [each["hidden_size"] for each in found]
    assert widths == sorted(widths) and widths[0] < widths[2] < widths[4] and widths[2] == 256
    dropouts = [each["dropout"] for each in found]
    assert dropouts[0] == 0 and max(dropouts) <= 0.5
    rates = [each["lr"] for each in found]
    assert rates == sorted(rates, reverse=True) and rates[0] == 0.008 > rates[-1] >= 0.001
    # A faster machine is like more time.
    faster = own_text_settings(seconds=60, **sizes | {"flops": 1e12})
    assert faster["hidden_size"] == own_text_settings(seconds=600, **sizes)["hidden_size"]


@pytest.mark.parametrize("tokens", [200, 5_000, 10_000_000])
def test_a_text_of_any_length_gets_settings(tokens):
    for seconds in (None, 1, 36_000):
        for vocab_size in (3, 65, 4_000, 300_000):
            found = own_text_settings(
                vocab_size=vocab_size,
                tokens=tokens,
                read=10 * tokens,
                seconds=seconds,
                flops=1e11,
                lr=0.008,
            )
            assert found["hidden_size"] in WIDTHS and 0 <= found["dropout"] <= 0.5
            assert found["warmup_steps"] <= 0.05 * max(1000, 30 * tokens / 512) + 1


BY_GRADIENT = [name for name, entry in MODELS.items() if entry.kind.trained_by == "gradient"]


@pytest.mark.parametrize("name", BY_GRADIENT)
def test_every_model_can_be_made_with_these_settings(name):
    text = jaxlm.read_corpus(list(SENTENCES) * 10, tokens="chars")
    for minutes in (None, 1, 10, 60):
        config = own_text_config(
            RunConfig.default(name), text, minutes=minutes, epochs=None, steps=None
        )
        assert config.optimizer.schedule == "cosine"
        assert param_shapes(make_model(name, config.network, len(text.vocabulary)))


@pytest.mark.quick_for("True-1.0")
@pytest.mark.parametrize("scale", [None, 0.3, 1.0])
@pytest.mark.parametrize("adaptive", [False, True])
def test_embeddings_have_the_deviation_that_is_asked_for(scale, adaptive):
    network = {"embedding_size": 64, "hidden_size": 8, "embedding_scale": scale}
    if adaptive:
        network |= {"softmax": "adaptive", "adaptive_input": True}
    model = make_model("lstm", network, 500)
    params = init_params(model, jax.random.key(0))
    tables = jax.tree.leaves({k: v for k, v in params["embedding"].items() if "project" not in k})
    expected = 64**-0.5 if scale is None else scale
    for table in tables:
        assert abs(np.std(table) / expected - 1) < 0.1


def test_a_text_of_ones_own_is_trained_with_settings_by_the_time(shell, corpus, tmp_path):
    flags = ("--model", "gru", *corpus, "--steps", "3", "--out", tmp_path / "run")
    code, out, err = shell("train", *flags, "--lr", "0.001")
    assert (code, err) == (0, "")
    assert "settings for a text of your own (recipe own-text): 128 units, 16 streams" in out
    assert "rate 0.001 with a cosine schedule" in out and "--with-ngram counts and mixes" in out
    config = config_of(tmp_path / "run")
    assert config["network"]["embedding_size"] == 64 and config["network"]["embedding_scale"] == 1
    assert config["batching"]["bptt"] == 32 and config["optimizer"]["lr"] == 0.001
    # A corpus with a name has the plain settings, unless the command names the recipe.
    code, out, _ = shell("train", "--corpus", "toy", "--steps", "2", "--out", tmp_path / "toy")
    assert code == 0 and "own-text" not in out and "--with-ngram" not in out


def test_a_cpu_that_is_faster_in_bfloat16_gets_a_note(shell, corpus, tmp_path, monkeypatch):
    row = Row("amd", "avx512-bfloat16", bfloat16_step=1.54)
    monkeypatch.setattr(machine, "row_of_this_cpu", lambda: row)
    monkeypatch.setattr(machine, "this_cpu", lambda: (row.vendor, row.level))
    flags = ("--model", "rnn", "--corpus", "toy", "--steps", "1")
    for dtype, shown in {"auto": 1, "float32": 0}.items():
        run = tmp_path / dtype
        code, out, err = shell("train", *flags, "--dtype", dtype, "--out", run)
        assert (code, err) == (0, "")
        assert out.count("with --dtype bfloat16 a train step is about 1.5 times as fast") == shown
        # The command does not change the dtype by itself.
        assert config_of(run)["network"]["dtype"] == "float32"


@pytest.mark.full
@pytest.mark.parametrize("lost", [False, True], ids=["kept", "lost"])
def test_a_resumed_run_keeps_its_settings_on_another_machine(
    lost, shell, corpus, tmp_path, monkeypatch
):
    """The new machine is faster. If the folder was lost, the checkpoints are elsewhere."""
    flags = ("--model", "gru", *corpus, "--batch-size", "4", "--out", tmp_path / "run")
    flags += ("--checkpoint-folder", tmp_path / "elsewhere") if lost else ()
    code, _, _ = shell("train", *flags, "--max-minutes", "0.02")
    assert code == 0
    before = config_of(tmp_path / "run")
    if lost:
        shutil.rmtree(tmp_path / "run")
    monkeypatch.setattr(commands_settings, "products_per_second", lambda dtype: 1e16)
    code, _, err = shell("train", *flags, "--max-minutes", "0.04", "--resume")
    assert (code, err) == (0, "")
    after = config_of(tmp_path / "run")
    assert after["network"] == before["network"]
    assert after["optimizer"] == before["optimizer"]


def test_the_rate_of_many_passes_is_not_rounded_to_nothing():
    sizes = {"vocab_size": 2000, "tokens": 10**6, "flops": 1e11, "lr": 3e-3}
    found = own_text_settings(seconds=None, read=1e9, width=1024, **sizes)
    assert found["lr"] == pytest.approx(3e-3 * (3 / 1000) ** 0.5 * 256 / 1024, rel=0.05)


def test_the_passes_that_are_given_limit_the_size():
    sizes = {"vocab_size": 66, "tokens": 1_000_000, "flops": 1.2e11, "lr": 0.008}
    free = own_text_settings(seconds=3600, read=1e7, **sizes)
    few = own_text_settings(seconds=3600, read=2e6, epochs=2, **sizes)
    assert few["hidden_size"] < free["hidden_size"] and few["dropout"] == 0
    assert "epochs" not in few


@pytest.mark.full
def test_an_ngram_is_counted_and_mixed(shell, corpus, tmp_path):
    run, ngram = tmp_path / "run", tmp_path / "run-ngram"
    flags = ("--model", "rnn", *corpus, *SMALL, "--steps", "20", "--out", run, "--with-ngram")
    code, out, err = shell("train", *flags)
    assert (code, err) == (0, "")
    assert "--with-ngram counts" not in out
    loaded = jaxlm.load(ngram)
    assert loaded.model.order == 8 and loaded.model.stream
    mixed = jaxlm.mixture([jaxlm.load(run), loaded], split="valid")
    assert f"{mixed.together.nats_per_token:.4f}" in out.split("mixed")[1]
    command = out[out.index("python -m jaxlm.generate") :].split()
    code, out, err = shell("generate", *command[3:], "--length", "20")
    assert code == 0 and "note: mixture: " in err
    # The finished run and its n-gram are found again.
    code, out, err = shell("train", *flags, "--resume")
    assert code == 0 and "mixed" in out
    code, _, err = shell("train", *flags[:-3], "--out", tmp_path / "run", "--with-ngram")
    assert code == 2
    # An n-gram of another order is refused before anything is trained.
    shutil.rmtree(ngram)
    code, _, err = shell("train", "--model", "ngram", *corpus, "--order", "3", "--out", ngram)
    assert (code, err) == (0, "")
    steps = jaxlm.load(run).step
    code, _, err = shell("train", *flags, "--steps", "30", "--resume")
    assert code == 2 and "holds another run than the 8-gram that is mixed" in err
    assert err.count("\n") == 1 and jaxlm.load(run).step == steps


def test_blank_lines_are_left_out_of_the_mixture_of_rows(shell, tmp_path):
    (tmp_path / "my.txt").write_text("the cat sat on the mat\n\na dog saw the cat\n" * 60)
    flags = ("--model", "rnn", "--corpus", tmp_path / "my.txt", "--batching", "rows")
    flags += ("--recipe", "own-text", "--steps", "5", "--out", tmp_path / "run", "--with-ngram")
    code, out, err = shell("train", *flags)
    assert (code, err) == (0, "") and "mixed" in out


def test_lines_that_are_shorter_than_the_order_can_be_mixed(shell, tmp_path, monkeypatch):
    (tmp_path / "my.txt").write_text("the cat\na dog\n" * 80)
    monkeypatch.chdir(tmp_path)
    flags = (
        "--model",
        "rnn",
        "--corpus",
        "my.txt",
        "--batching",
        "rows",
        *SMALL[:-2],
        "--steps",
        "2",
    )
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    more = ("--corpus", tmp_path / "my.txt", "--out", ".", "--with-ngram")
    code, out, err = shell("train", *flags, *more)
    assert (code, err) == (0, "")
    assert jaxlm.load(tmp_path / "here-ngram").model.order <= 3 and "mixed" in out


@pytest.mark.full
def test_the_runs_of_a_sweep_share_the_time(shell, corpus, tmp_path):
    """Two seeds and two rates are four runs, each with a quarter of the minutes."""
    flags = ("--model", "rnn", *corpus, "--max-minutes", "0.05")
    notes = []
    for name, more in {
        "four": ("--seeds", "4"),
        "sweep": ("--sweep", "clip=1,2", "--seeds", "2"),
    }.items():
        code, out, err = shell("train", *flags, *more, "--no-report", "--out", tmp_path / name)
        assert (code, err) == (0, "")
        notes.append(next(line for line in out.splitlines() if "settings for a text" in line))
    assert notes[0] == notes[1]


@pytest.mark.full
def test_the_warm_up_follows_from_the_batches_of_the_command(shell, corpus, tmp_path):
    warmups = []
    for name, more in {"small": (), "large": ("--batch-size", "64", "--bptt", "64")}.items():
        flags = ("--model", "rnn", *corpus, "--hidden-size", "8", "--epochs", "40", *more)
        code, _, err = shell("train", *flags, "--out", tmp_path / name)
        assert (code, err) == (0, "")
        steps = jaxlm.load(tmp_path / name).step
        warmups.append(config_of(tmp_path / name)["optimizer"]["warmup_steps"])
        assert warmups[-1] <= 0.06 * steps + 1
    assert warmups[0] > warmups[1]


def test_a_small_text_may_be_cut(shell, tmp_path):
    path = tmp_path / "five.txt"
    path.write_text("the cat sat\nthe dog ran\na bird sang\nmy dog eats\nthe cat ran\n")
    flags = ("--model", "rnn", "--corpus", path, "--fractions", "0.6", "0.2", "0.2")
    code, _, err = shell("train", *flags, "--out", tmp_path / "run")
    assert (code, err) == (0, "")
    config = config_of(tmp_path / "run")
    assert config["batching"]["batch_size"] == 3
    assert config["training"]["eval_every"] == config["training"]["log_every"] > 1


@pytest.mark.full
def test_the_steps_that_fitted_into_other_minutes_are_not_kept(shell, corpus, tmp_path):
    flags = ("--model", "rnn", *corpus, *SMALL)
    code, _, err = shell("train", *flags, "--max-minutes", "0.02", "--out", tmp_path / "a")
    assert (code, err) == (0, "")
    config = tmp_path / "a/config.json"
    again = ("--config", config, "--max-minutes", "0.05", "--out", tmp_path / "b")
    code, out, err = shell("train", *again)
    assert (code, err) == (0, "") and "--max-minutes 0.05 allows" in out
    code, out, err = shell("train", *again[:-1], tmp_path / "c", "--steps", "3")
    assert (code, err) == (0, "") and jaxlm.load(tmp_path / "c").step == 3


def test_no_runs_are_refused(shell, corpus, tmp_path):
    flags = ("--model", "rnn", *corpus, *SMALL, "--max-minutes", "1", "--out", tmp_path / "run")
    code, _, err = shell("train", *flags, "--seeds", "0")
    assert code == 2 and "--seeds 0" in err and err.count("\n") == 1


def test_what_cannot_be_mixed_is_refused_before_training(shell, corpus, tmp_path):
    flags = ("--model", "rnn", *corpus, *SMALL, "--steps", "2", "--out", tmp_path / "run")
    for more, why in {
        ("--fractions", "1"): "needs a validation split",
        ("--seeds", "2"): "one run",
    }.items():
        code, _, err = shell("train", *flags, *more, "--with-ngram")
        assert code == 2 and why in err and err.count("\n") == 1
    ngram = ("--model", "ngram", *corpus, "--out", tmp_path / "run", "--with-ngram")
    code, _, err = shell("train", *ngram)
    assert code == 2 and "--with-ngram adds an n-gram to another model, not to ngram" in err
    code, _, err = shell("train", *flags, "--dtype", "float16")
    assert code == 2 and "choose one of float32, tf32, bfloat16, auto" in err
    (tmp_path / "run-ngram").mkdir()
    (tmp_path / "run-ngram/config.json").write_text("{}")
    code, _, err = shell("train", *flags, "--with-ngram")
    assert code == 2 and "run-ngram holds a run already: give another --out" in err
    assert not (tmp_path / "run").exists()
