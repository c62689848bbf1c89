"""The output of every command, called as in a shell."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import jaxlm
from jaxlm.interop.formats import FORMATS, Format
from jaxlm.models import MODELS


def test_train_runs_the_lecture_by_default(shell, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = shell("train", "--model", "nplm")
    assert code == 0 and err == ""
    for line in ("我 喜欢 玩具", "我 爱 爸爸", "我 讨厌 挨打", "vocabulary of 7 words"):
        assert line in out
    for layer, shapes, count in (
        ("embedding", "7x2", 14),
        ("hidden", "4x2, 2", 10),
        ("output", "2x7, 7", 21),
    ):
        assert re.search(rf"{layer}\W+{shapes}\W+{count}\b", out)
    assert "tanh" in out
    assert re.findall(r"step +(\d+)  cost \d", out) == ["1000", "2000", "3000", "4000", "5000"]
    for answer in ("我 讨厌 -> 挨打", "我 喜欢 -> 玩具", "我 爱 -> 爸爸"):
        assert answer in out
    assert "saved in runs/nplm-toy" in out
    assert json.loads((tmp_path / "runs/nplm-toy/config.json").read_text())["model"] == "nplm"


@pytest.mark.quick_for("lstm")
@pytest.mark.parametrize("model", MODELS)
def test_every_model_learns_the_lecture(shell, tmp_path, model):
    code, out, err = shell("train", "--model", model, "--out", tmp_path / "run")
    assert (code, err) == (0, "")
    for answer in ("我 讨厌 -> 挨打", "我 喜欢 -> 玩具", "我 爱 -> 爸爸"):
        assert answer in out
    # The run answers what the README asks.
    code, out, err = shell("predict", tmp_path / "run", "我 讨厌", "--top", "2")
    assert (code, err) == (0, "") and "我 讨厌 -> 挨打" in out
    code, out, err = shell("generate", tmp_path / "run", "--prompt", "我 爱", "--length", "2")
    assert code == 0 and out.startswith("我 爱 爸爸")
    learns_all_words = model == "ngram"
    assert (err == "") is learns_all_words
    if not learns_all_words:
        assert err.startswith("note: ") and err.count("\n") == 1 and "--positions all" in err


def test_a_model_that_learns_every_word_generates_lines(shell, tmp_path):
    flags = ("--positions", "all", "--steps", "1000", "--out", tmp_path / "run")
    assert shell("train", "--model", "lstm", *flags)[0] == 0
    code, out, err = shell(
        "generate", tmp_path / "run", "--prompt", "我", "--length", "2", "--samples", "8"
    )
    assert (code, err) == (0, "")
    sentences = {"我 喜欢 玩具", "我 爱 爸爸", "我 讨厌 挨打"}
    assert set(out.strip().split("\n----\n")) <= sentences


def test_train_predicts_short_lines(shell, tmp_path):
    # The second line is shorter than the NPLM's window, and has brackets that rich would read as
    # markup. The third line has no context.
    (tmp_path / "s.txt").write_text("a b c\n[bold] g\nh\n")
    text = ("--corpus", tmp_path / "s.txt", "--fractions", "1", "--no-eos")
    sizes = ("--n-step", "2", "--embedding-size", "2", "--hidden-size", "2", "--batch-size", "2")
    flags = (*text, *sizes, "--batching", "rows", "--steps", "200", "--lr", "0.1")
    code, out, err = shell("train", "--model", "nplm", *flags, "--out", tmp_path / "run")
    assert (code, err) == (0, "")
    assert "a b -> c" in out and "[bold] -> g" in out and "h ->" not in out


def test_train_predicts_characters_as_the_corpus_has_them(shell, tmp_path):
    flags = ("--tokens", "chars", "--n-step", "2", "--steps", "200", "--out", tmp_path / "run")
    code, out, err = shell("train", "--model", "nplm", *flags)
    assert (code, err) == (0, "")
    assert "我 讨厌 挨打 -> '\\n'" in out and "我   讨" not in out


@pytest.mark.full
def test_train_accepts_a_window_longer_than_the_lines(shell, tmp_path):
    sizes = ("--far-windows", "4", "--hidden-size", "2", "--inner-size", "2", "--steps", "2")
    code, out, err = shell("train", "--model", "modern-nplm", *sizes, "--out", tmp_path / "run")
    assert (code, err) == (0, "")
    assert "我 讨厌 ->" in out and "saved in" in out


def test_evaluate_prints_several_runs_in_a_table(shell, toy_runs):
    code, out, _ = shell("evaluate", *toy_runs.values())
    assert code == 0
    assert out.count("1.0") >= 2
    assert "Counted: 3 tokens, the last of each line alone; state reset at each line" in out


def test_evaluate_scores_a_text_and_writes_its_tokens(shell, text_run, tmp_path):
    (tmp_path / "new.txt").write_text("the cat sat on the zebra\n")
    scores = tmp_path / "scores.tsv"
    code, out, _ = shell(
        "evaluate", text_run, "--text", tmp_path / "new.txt", "--per-token", scores
    )
    assert code == 0
    assert "7 tokens, each once, the first included" in out and "1 <unk>" in out
    header, *lines = scores.read_text(encoding="utf-8").splitlines()
    columns = ["token", "log_prob", "surprisal_bits", "rank", "entropy_bits", "text"]
    assert header.split("\t") == columns
    rows = [line.split("\t") for line in lines]
    assert [row[0] for row in rows] == ["the", "cat", "sat", "on", "the", "<unk>", "<eos>"]
    assert [row[5] for row in rows] == ["the", "cat", "sat", "on", "the", "zebra", "<eos>"]
    log_probs = np.array([float(row[1]) for row in rows])
    np.testing.assert_allclose([float(row[2]) for row in rows], -log_probs / np.log(2), atol=1e-5)
    (printed,) = re.findall(r"│ +7 │ +1 │ +([\d.]+) │", out)
    assert float(printed) == pytest.approx(-log_probs.mean(), abs=1e-4)


def test_predict_draws_bars(shell, toy_runs):
    code, out, _ = shell("predict", toy_runs["nplm"], "我 讨厌", "我 爱", "--top", "2")
    assert code == 0
    assert "我 讨厌 -> 挨打" in out and "我 爱 -> 爸爸" in out
    assert re.search(r"挨打 +(0\.99\d\d|1\.0000) +█{30}", out)
    assert len(re.findall(r"^  \S+ +[01]\.\d{4}", out, re.M)) == 4


def test_predict_reads_standard_input(shell, toy_runs, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("我 爱\n我 喜欢\r\n"))
    code, out, _ = shell("predict", toy_runs["lstm"], "--top", "1")
    assert code == 0
    assert "我 爱 -> 爸爸" in out and "我 喜欢 -> 玩具" in out


def test_predict_reports_truncation_and_padding_of_a_context(shell, toy_runs, text_run):
    _, out, _ = shell("predict", toy_runs["nplm"], "爱 我 讨厌")
    assert "of the context's 3 tokens the model sees the last 2" in out
    _, out, _ = shell("predict", text_run, "the cat", "--start", "fresh")
    assert "padded with 2 x '<eos>'" in out


def test_generate_continues_a_prompt(shell, toy_runs, text_run):
    flags = ("--prompt", "the cat", "--length", "8", "--samples", "3", "--seed", "5")
    code, out, _ = shell("generate", text_run, *flags)
    assert code == 0
    texts = out.split("----\n")
    assert len(texts) == 3 and all(text.startswith("the cat") for text in texts)
    assert shell("generate", text_run, *flags)[1] == out
    _, out, _ = shell(
        "generate", toy_runs["lstm"], "--prompt", "我 爱", "--length", "1", "--temperature", "0"
    )
    assert out == "我 爱 爸爸\n"


@pytest.mark.full
def test_none_removes_a_setting_of_the_recipe(shell, tmp_path):
    flags = ("--model", "nplm", "--recipe", "zaremba-small", "--corpus", "toy", "--eos")
    sizes = ("--batch-size", "2", "--bptt", "2", "--steps", "1", "--init-scale", "none")
    assert shell("train", *flags, *sizes, "--clip", "none", "--out", tmp_path / "run")[0] == 0
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["optimizer"]["clip"] is None and config["network"]["init_scale"] is None
    assert config["optimizer"]["lr"] == 20.0


def test_help_of_train_lists_the_flags_of_the_chosen_model(shell):
    assert "--n-step" in shell("train", "--help")[1]
    out = shell("train", "--model", "lstm", "--help")[1]
    assert "--num-layers" in out and "--n-step" not in out


def test_the_package_lists_its_commands(shell):
    code, out, _ = shell("__main__")
    assert code == 0
    for command in ("train", "evaluate", "predict", "generate", "show", "convert"):
        assert f"python -m jaxlm.{command}" in out
    assert shell("__main__", "predict", "--help")[1].startswith("usage: python -m jaxlm.predict")


def test_flags_override_file_and_recipe(shell, tmp_path):
    (tmp_path / "settings.json").write_text('{"lr": 0.05, "hidden_size": 3, "steps": 20}')
    flags = ("--recipe", "lecture", "--config", tmp_path / "settings.json", "--hidden-size", "4")
    assert shell("train", *flags, "--out", tmp_path / "run")[0] == 0
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["network"]["n_step"] == 2  # the recipe's
    assert config["optimizer"]["lr"] == 0.05  # the file's
    assert config["network"]["hidden_size"] == 4  # the flag's
    again = ("--config", tmp_path / "run/config.json", "--out", tmp_path / "again")
    assert shell("train", *again)[0] == 0
    repeated = json.loads((tmp_path / "again/config.json").read_text())
    assert {**repeated, "command": 0} == {**config, "command": 0}
    first, second = ((tmp_path / run / "metrics.jsonl").read_bytes() for run in ("run", "again"))
    assert first == second


def steps_of(folder):
    return json.loads((folder / "config.json").read_text())["training"]["steps"]


@pytest.mark.full
def test_epochs_replace_the_steps_of_an_earlier_source(shell, tmp_path):
    # The lecture's recipe sets steps to 5000; an epoch of the toy corpus is one step.
    code, out, _ = shell("train", "--epochs", "2", "--log-every", "1", "--out", tmp_path / "flag")
    assert code == 0 and re.findall(r"step +(\d+)  cost", out) == ["1", "2"]
    assert steps_of(tmp_path / "flag") is None
    (tmp_path / "epochs.json").write_text('{"epochs": 3}')
    file = ("--recipe", "lecture", "--config", tmp_path / "epochs.json")
    assert shell("train", *file, "--out", tmp_path / "file")[0] == 0
    assert steps_of(tmp_path / "file") is None
    assert shell("train", *file, "--steps", "4", "--out", tmp_path / "steps")[0] == 0
    assert steps_of(tmp_path / "steps") == 4
    # The config.json of a run has both settings; steps decide, unless they are null.
    for name, steps in {"steps": 4, "file": None}.items():
        kept = ("--recipe", "lecture", "--config", tmp_path / name / "config.json")
        assert shell("train", *kept, "--out", tmp_path / f"{name}-again")[0] == 0
        assert steps_of(tmp_path / f"{name}-again") == steps


def test_steps_and_epochs_of_the_same_source_are_an_error(shell, tmp_path):
    code, _, err = shell("train", "--epochs", "2", "--steps", "3", "--out", tmp_path / "run")
    assert code == 2 and "--epochs 2.0: has no effect with --steps 3" in err
    (tmp_path / "both.json").write_text('{"epochs": 2, "steps": 3}')
    flags = ("--config", tmp_path / "both.json", "--out", tmp_path / "run")
    code, _, err = shell("train", *flags)
    assert code == 2 and "--epochs 2: has no effect with --steps 3" in err
    assert not (tmp_path / "run").exists()


def test_convert_does_not_overwrite_a_folder_or_a_file(shell, tmp_path):
    assert shell("train", "--model", "ngram", "--out", tmp_path / "run")[0] == 0
    assert shell("convert", tmp_path / "run", tmp_path / "x.arpa")[0] == 0
    (tmp_path / "a file").write_text("mine")
    for target in ("run", "a file"):
        code, _, err = shell("convert", tmp_path / "x.arpa", tmp_path / target)
        assert code == 2 and target in err and "--" not in err
    assert (tmp_path / "a file").read_text() == "mine"
    code, _, err = shell("convert", tmp_path / "x.txt", tmp_path / "y")
    assert code == 2 and "does not exist" in err


PLUGIN = """
import jaxlm

class Own(jaxlm.NGram):
    pass

if "own" not in jaxlm.MODELS:
    jaxlm.register_model("own", Own)
"""


def test_convert_accepts_a_plugin(shell, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxlm.models.registry.MODELS", MODELS)
    plugin = tmp_path / "own.py"
    plugin.write_text(PLUGIN)
    flags = ("--plugin", plugin, "--model", "own", "--out", tmp_path / "run")
    try:
        assert shell("train", *flags)[0] == 0
        MODELS.pop("own")
        code, _, err = shell("convert", tmp_path / "run", tmp_path / "x.arpa")
        assert code == 2 and "--plugin" in err
        flags = ("--plugin", plugin)
        assert shell("convert", tmp_path / "run", tmp_path / "x.arpa", *flags)[0] == 0
    finally:
        MODELS.pop("own", None)
    assert (tmp_path / "x.arpa").stat().st_size > 0


def test_sessions_of_ngrams_are_recorded(shell, tmp_path):
    assert shell("train", "--model", "ngram", "--out", tmp_path / "run")[0] == 0
    (line,) = (tmp_path / "run/sessions.jsonl").read_text().splitlines()
    session = json.loads(line)
    assert session["command"][-2:] == ["--out", str(tmp_path / "run")]
    assert session["versions"]["numpy"] == np.__version__
    assert session["devices"]["kinds"] == ["cpu: NumPy"]


def test_ngram_learns_the_lecture(shell, tmp_path):
    code, out, err = shell("train", "--model", "ngram", "--out", tmp_path / "run")
    assert code == 0 and err == ""
    for line in ("P(w_t | w_t-2, w_t-1)", "order 3", "6 n-grams", "--discount_fallback"):
        assert line in out
    for answer in ("我 讨厌 -> 挨打", "我 喜欢 -> 玩具", "我 爱 -> 爸爸"):
        assert answer in out
    assert not list((tmp_path / "run").glob("*.partial"))
    code, out, _ = shell("predict", tmp_path / "run", "我 讨厌", "--top", "2")
    assert code == 0
    assert re.search(r"挨打 +0\.\d+ +3-gram", out) and "1-gram" in out


def test_resume_does_not_count_again(shell, tmp_path):
    run = tmp_path / "run"
    assert shell("train", "--model", "ngram", "--out", run)[0] == 0
    before = (run / "ngrams/keys-3.npy").stat().st_mtime_ns
    code, out, _ = shell("train", "--model", "ngram", "--out", run, "--resume")
    assert code == 0 and "nothing left to count" in out
    assert (run / "ngrams/keys-3.npy").stat().st_mtime_ns == before
    assert "valid" not in out


def test_evaluate_adapts_a_run_by_cache_and_dynamic_evaluation(shell, text_run):
    flags = ["--cache", 20, "--dynamic", "--dynamic-lr", 1e-3, "--dynamic-decay", 0.02]
    flags += ["--cache-flatness", 0.1, "--cache-share", 0.1]
    code, out, _ = shell("evaluate", text_run, *flags)
    assert code == 0
    assert "adapted" in out and "dynamic evaluation (rms), a step every 10 tokens" in out
    assert "cache of the last 20 states" in out


def test_evaluate_mixes_a_counted_and_a_neural_run(shell, toy_runs, tmp_path):
    assert shell("train", "--model", "ngram", "--out", tmp_path / "run")[0] == 0
    runs = (tmp_path / "run", toy_runs["nplm"])
    code, out, _ = shell("evaluate", *runs, "--mix", "--weights", ".5,.5")
    assert code == 0
    assert "mixture" in out and "Mixture: 0.5000" in out and "weights given" in out
    assert "bits per token over" in out


def test_counts_on_disk_equal_counts_in_memory(shell, text_run, tmp_path):
    pytest.importorskip("duckdb")
    pytest.importorskip("pyarrow")
    flags = ("--model", "ngram", "--order", "3", "--corpus", text_run.parent / "my.txt")
    assert shell("train", *flags, "--out", tmp_path / "memory")[0] == 0
    code, _, err = shell("train", *flags, "--memory", "100KB", "--out", tmp_path / "disk")
    if code == 0:
        for path in (tmp_path / "memory/ngrams").iterdir():
            assert path.read_bytes() == (tmp_path / "disk/ngrams" / path.name).read_bytes()
    else:
        # 100 KB may be too little for the engine: then one line says so, and no file remains.
        assert code == 2 and "--memory" in err
        assert not (tmp_path / "disk").exists()


def test_convert_to_arpa_and_back_keeps_the_scores(shell, text_run, tmp_path):
    flags = ("--model", "ngram", "--order", "3", "--corpus", text_run.parent / "my.txt")
    assert shell("train", *flags, "--out", tmp_path / "run")[0] == 0
    assert shell("convert", tmp_path / "run", tmp_path / "x.arpa.gz")[0] == 0
    code, out, _ = shell("convert", tmp_path / "x.arpa.gz", tmp_path / "back")
    assert code == 0 and "n-grams of each order" in out
    texts = ("--text", text_run.parent / "my.txt")
    (first, second) = (shell("evaluate", tmp_path / run, *texts)[1] for run in ("run", "back"))
    assert re.findall(r"│ +([\d.]+) │", first) == re.findall(r"│ +([\d.]+) │", second)


def test_convert_uses_a_registered_format(shell, toy_runs, tmp_path, monkeypatch):
    """Register a format that writes the words of a run, and reads every file as the same run."""

    def write(run, path):
        path.write_text("\n".join(run.vocabulary.tokens), encoding="utf-8")

    def read(path, folder):
        run = jaxlm.load(toy_runs["nplm"])
        return run if folder is None else run.save(folder)

    monkeypatch.setitem(FORMATS, "words", Format(write, read))
    assert shell("convert", toy_runs["lstm"], tmp_path / "x.words")[0] == 0
    words = (tmp_path / "x.words").read_text(encoding="utf-8").split("\n")
    assert tuple(words) == jaxlm.load(toy_runs["lstm"]).vocabulary.tokens
    code, out, _ = shell("convert", tmp_path / "x.words", tmp_path / "back")
    assert code == 0 and "parameters: " in out
    assert type(jaxlm.load(tmp_path / "back").model).__name__ == "NPLM"


FIVE = (
    "the cat sat on the mat\nthe dog ran in the park\na bird sang in the tree\n"
    "the cat drinks milk\nmy dog eats meat\n"
)


@pytest.mark.parametrize(
    "model", ["nplm", pytest.param("lstm", marks=pytest.mark.full)], ids=["nplm", "lstm"]
)
def test_five_sentences_are_learnt_by_heart(shell, tmp_path, model):
    (tmp_path / "five.txt").write_text(FIVE)
    flags = ("--model", model, "--corpus", tmp_path / "five.txt", "--out", tmp_path / "run")
    code, out, err = shell("train", *flags)
    assert (code, err) == (0, "")
    assert "the text is small (31 words), so training starts from the recipe small-text" in out
    assert "my dog eats -> meat" in out and "the dog ran in the -> park" in out
    code, out, err = shell("predict", tmp_path / "run", "my dog", "a bird", "--start", "fresh")
    assert code == 0
    assert "my dog -> eats" in out and "a bird -> sang" in out
    # The same command continues the run.
    code, out, err = shell("train", *flags, "--resume", "--steps", "501")
    assert (code, err) == (0, "")


@pytest.mark.full
def test_flags_a_recipe_and_a_config_replace_the_recipe_of_small_texts(shell, tmp_path):
    (tmp_path / "five.txt").write_text(FIVE)
    (tmp_path / "settings.json").write_text('{"batch_size": 2, "bptt": 5}')
    corpus = ("--model", "nplm", "--corpus", tmp_path / "five.txt")
    flags = ("--batching", "streams", "--steps", "2", "--hidden-size", "3", "--batch-size", "2")
    code, out, _ = shell("train", *corpus, *flags, "--out", tmp_path / "flags")
    config = json.loads((tmp_path / "flags/config.json").read_text())
    assert code == 0 and config["network"]["hidden_size"] == 3
    assert config["batching"]["batching"] == "streams" and config["training"]["steps"] == 2
    file = ("--config", tmp_path / "settings.json", "--epochs", "1")
    code, out, _ = shell("train", *corpus, *file, "--out", tmp_path / "file")
    assert code == 0 and "small-text" not in out
    config = json.loads((tmp_path / "file/config.json").read_text())
    assert config["batching"]["batching"] == "streams" and config["optimizer"]["lr"] != 0.01


@pytest.mark.full
def test_unspaced_sentences_are_learnt_by_characters(shell, tmp_path):
    (tmp_path / "zh.txt").write_text("今天天气很好\n我们去公园玩\n孩子们在唱歌\n", encoding="utf-8")
    flags = ("--model", "nplm", "--corpus", tmp_path / "zh.txt", "--out", tmp_path / "run")
    code, out, err = shell("train", *flags)
    assert (code, err) == (0, "")
    assert "read by characters: choose --tokens" in out and "recipe small-text" in out
    assert json.loads((tmp_path / "run/config.json").read_text())["text"]["tokens"] == "chars"
    assert "我们去公园 -> 玩" in out
    code, out, err = shell("train", *flags, "--resume")
    assert (code, err) == (0, "")


def test_a_column_in_another_encoding_is_trained_on_and_evaluated(shell, tmp_path):
    table = "id,text\n" + "".join(f"{n},the café is {n % 3}\n" for n in range(60))
    (tmp_path / "table.csv").write_bytes(table.encode("cp1252"))
    read = ("--encoding", "cp1252", "--column", "text")
    flags = ("--model", "ngram", "--unk", "always", "--corpus", tmp_path / "table.csv", *read)
    code, out, err = shell("train", *flags, "--out", tmp_path / "run")
    assert (code, err) == (0, "") and "the café is 0" in out
    assert shell("evaluate", tmp_path / "run", "--split", "valid")[0] == 0
    text = ("--text", tmp_path / "table.csv")
    assert shell("evaluate", tmp_path / "run", *text, *read)[0] == 0
    code, _, err = shell("evaluate", tmp_path / "run", *text)
    assert code == 2 and "--encoding cp1252" in err and err.count("\n") == 1
    code, _, err = shell("evaluate", tmp_path / "run", *text, *read, "--temperature", "1")
    assert code == 2 and "--encoding and --column are not for" in err
    # A table whose lines are read whole is told so, by each command that reads a text.
    note = "note: table.csv is a table by its name, and its lines are read whole: --column"
    whole = read[:2]
    _, out, _ = shell("train", *flags[:-2], "--out", tmp_path / "whole")
    assert note in out
    for command, *words in (
        ("evaluate", tmp_path / "run", *text),
        ("score", tmp_path / "run", "--lines", tmp_path / "table.csv"),
        ("compare", tmp_path / "run", tmp_path / "run", *text),
    ):
        assert note in shell(command, *words, *whole)[2]
        assert note not in shell(command, *words, *read)[2]
    out = ("--out", tmp_path / "prepared")
    assert note in shell("prepare", tmp_path / "table.csv", *whole, *out)[2]


def test_predict_drops_a_byte_order_mark_of_standard_input(shell, toy_runs, monkeypatch):
    plain, marked = "我 讨厌\n我 爱\n", "\ufeff我 讨厌\r\n我 爱\r\n"
    outputs = []
    for text in (plain, marked):
        monkeypatch.setattr("sys.stdin", io.StringIO(text, newline=""))
        code, out, _ = shell("predict", toy_runs["nplm"])
        assert code == 0
        outputs.append(out)
    assert outputs[0] == outputs[1]


def test_score_reads_standard_input_as_it_reads_a_file(shell, text_run, tmp_path, monkeypatch):
    path = tmp_path / "sentences.txt"
    path.write_bytes("\ufeffthe cat\rsat\r\n\nthe zebra".encode("utf-16"))

    def scored(lines, *options):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
        return shell("score", text_run, "--lines", lines, *options)

    code, table, _ = scored("-", "--encoding", "utf-16")
    assert code == 0 and table.count("<eos>") == 4
    assert table == scored(path, "--encoding", "utf-16")[1]
    assert "is a folder: give" in scored(tmp_path)[2]
    for options, word in (((), "is not UTF-8"), (("--column", "a"), "--column a: is for a table")):
        code, _, err = scored("-", *options)
        assert code == 2 and word in err and err.count("\n") == 1


def test_score_writes_and_prints_a_table_of_words(shell, toy_runs, text_run, tmp_path):
    path, out = tmp_path / "sentences.txt", tmp_path / "table.tsv"
    path.write_text("the cat sat\n\nthe zebra\n")
    code, said, note = shell("score", text_run, "--lines", path, "--out", out)
    assert code == 0 and "8 rows" in said and "7 tokens, each once" in note
    code, printed, _ = shell("score", text_run, "--lines", path)
    assert code == 0 and printed == out.read_text()
    rows = [line.split("\t") for line in printed.splitlines()]
    assert " ".join(rows[0]) == "sentence_id word_id word tokens oov surprisal entropy rank"
    assert " ".join(row[2] for row in rows[1:]) == "the cat sat <eos> <eos> the zebra <eos>"
    assert rows[5][5:] == ["", "", ""] and rows[7][4] == "True"
    code, printed, _ = shell("score", text_run, "--lines", path, "--by", "sentence", "--no-end")
    assert [row.split("\t")[2:5] for row in printed.splitlines()[1:]] == [
        ["3", "3", "0"],
        ["0", "0", "0"],
        ["2", "2", "1"],
    ]


def test_predict_refuses_standard_input_in_another_encoding(shell, toy_runs, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO("我 爱\n".encode("gb18030")), encoding="utf-8")
    monkeypatch.setattr("sys.stdin", stream)
    code, _, err = shell("predict", toy_runs["nplm"])
    assert code == 2 and "standard input is not utf-8: byte 0xce" in err and err.count("\n") == 1


def test_convert_writes_a_file_alone_to_a_device(toy_ngram, tmp_path):
    command = [sys.executable, "-m", "jaxlm.convert", toy_ngram, "/dev/stdout"]
    with open(tmp_path / "x.arpa", "wb") as file:
        done = subprocess.run([*command, "--format", "arpa"], stdout=file, stderr=subprocess.PIPE)
    assert done.returncode == 0 and b"written to /dev/stdout" in done.stderr
    lines = (tmp_path / "x.arpa").read_text("utf-8").splitlines()
    assert (lines[0], lines[-1]) == ("\\data\\", "\\end\\")


def test_score_writes_a_table_alone_to_a_device(toy_ngram, tmp_path):
    (tmp_path / "lines.txt").write_text("我 爱 爸爸\n", encoding="utf-8")
    command = [sys.executable, "-m", "jaxlm.score", toy_ngram, "--lines", tmp_path / "lines.txt"]
    tables = []
    for out in ((), ("--out", "/dev/stdout")):
        with open(tmp_path / "scores.tsv", "wb") as file:
            done = subprocess.run([*command, *out], stdout=file, stderr=subprocess.PIPE)
        assert done.returncode == 0
        tables.append((tmp_path / "scores.tsv").read_text("utf-8"))
    assert tables[0] == tables[1] and b"scores: /dev/stdout" in done.stderr


@pytest.mark.full
def test_a_table_on_standard_output_has_no_report(toy_ngram, tmp_path):
    """The report of `evaluate`, `pairs` and `compare` goes to standard error."""
    (tmp_path / "text.txt").write_text("我 爱 爸爸\n我 喜欢 玩具\n", encoding="utf-8")
    (tmp_path / "pairs.tsv").write_text(
        "sentence_good\tsentence_bad\n我 爱 爸爸\t爱 我 爸爸\n", encoding="utf-8"
    )
    text = ("--text", tmp_path / "text.txt")
    for words in (
        ("evaluate", toy_ngram, *text, "--per-token"),
        ("pairs", toy_ngram, tmp_path / "pairs.tsv", "--out"),
        ("compare", toy_ngram, toy_ngram, *text, "--out"),
    ):
        command = [sys.executable, "-m", f"jaxlm.{words[0]}", *words[1:]]
        subprocess.run([*command, tmp_path / "a.tsv"], check=True, stdout=subprocess.DEVNULL)
        with open(tmp_path / "b.tsv", "wb") as file:
            done = subprocess.run([*command, "/dev/stdout"], stdout=file, stderr=subprocess.PIPE)
        assert done.returncode == 0 and done.stderr
        assert (tmp_path / "a.tsv").read_bytes() == (tmp_path / "b.tsv").read_bytes()


def test_convert_refuses_options_without_effect(shell, toy_ngram, tmp_path):
    shell("convert", toy_ngram, tmp_path / "x.arpa")
    for options, words in (
        (
            (tmp_path / "x.arpa", tmp_path / "run", "--checkpoint-folder", "gs://b"),
            "no checkpoints",
        ),
        ((toy_ngram, tmp_path / "x.gram", "--prune-entropy", "1e-6"), "training text"),
        ((tmp_path / "x.arpa", tmp_path / "run", "--tokens", "bpe"), "unknown tokens 'bpe'"),
    ):
        code, _, err = shell("convert", *options)
        assert code == 2 and words in err and err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.arpa"]


def test_names_with_brackets_are_printed_as_they_are(shell, toy_ngram, tmp_path):
    target = tmp_path / "toy[v2].arpa"
    assert f"written to {target}" in shell("convert", toy_ngram, target)[1]


def test_folders_of_corpora_with_like_names_do_not_meet(shell, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("wiki-2023", "wiki"):
        Path(f"{name}.txt").write_text(f"the cat of {name} sat\n" * 3)
        assert shell("train", "--model", "ngram", "--corpus", f"{name}.txt", "--no-report")[0] == 0
    assert sorted(path.name for path in Path("runs").iterdir()) == ["ngram-wiki", "ngram-wiki-2023"]
    code, _, err = shell("train", "--model", "ngram", "--corpus", "wiki.txt", "--no-report")
    assert code == 0 and Path("runs/ngram-wiki-2").is_dir(), err


def test_a_flag_without_effect_is_an_error(shell, tmp_path):
    out = tmp_path / "run"
    for flags, words in (
        (("--ema-decay", ".9"), "--ema-decay 0.9: has no effect with --average none"),
        (("--bptt", "5"), "--bptt 5: has no effect with --batching rows"),
        (("--model", "ngram", "--add-k", ".1"), "--add-k 0.1: has no effect with --smoothing"),
        (("--tokens", "chars", "--no-eos"), "--no-eos: has no effect with --tokens chars"),
        (
            (
                "--model",
                "nplm",
                "--eos",
                "--positions",
                "all",
                "--batching",
                "windows",
                "--bptt",
                "9",
            ),
            "--bptt 9: has no effect with --batching windows: those of this model have 2 words",
        ),
        (("--softmaxes", "5"), "--softmaxes 5: has no effect with --softmax full: it belongs to"),
        (("--cutoffs", "2", "4"), "--cutoffs 2 4: has no effect with --softmax full"),
    ):
        code, printed, err = shell("train", "--model", "lstm", *flags, "--out", out)
        assert code == 2 and words in err and not out.exists()
        # Nothing is shown of a model that is not trained.
        assert "computes" not in printed
