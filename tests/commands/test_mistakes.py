"""A user's mistake gives a one-line error: the value, the choices, the remedy. Exit code 2."""

import json

import pytest

from jaxlm.commands.settings import read_config_file

TRAIN = {
    "unknown model": (
        ["--model", "lstn"],
        ["'lstn'", "nplm, modern-nplm, transformer, rnn, gru", "'lstm'"],
    ),
    "unknown corpus": (
        ["--corpus", "ptbb"],
        ["'ptbb'", "toy, apple, ptb", "file or folder"],
    ),
    "unknown recipe": (["--recipe", "zaremba"], ["'zaremba'", "zaremba-small, zaremba-medium"]),
    "unknown tokens": (["--tokens", "letters"], ["'letters'", "words, chars, bytes, bpe"]),
    "unknown optimizer": (["--optimizer", "adamm"], ["'adamm'", "did you mean 'adam'", "rmsprop"]),
    "unknown schedule": (["--schedule", "cosin"], ["'cosin'", "cosine"]),
    "unknown batching": (["--batching", "stream"], ["'stream'", "streams, windows, rows"]),
    "unknown dtype": (["--dtype", "float16"], ["'float16'", "float32, tf32, bfloat16"]),
    "unknown features": (["--positions", "first"], ["'first'", "all, last"]),
    "unknown flag": (
        ["--hiden-size", "3"],
        ["unknown flag --hiden-size: did you mean --hidden-size? See python -m jaxlm.train --help"],
    ),
    "one dash": (["-lr", "3"], ["unknown flag -lr: did you mean --lr?"]),
    "beginning of a flag": (["--checkpoint-f", "3"], ["did you mean --checkpoint-folder?"]),
    "flag of another model": (["--n-gram", "3"], ["--n-gram: --order is a flag of ngram, not of"]),
    "rate of a count": (["--model", "ngram", "--learning-rate", "3"], ["--lr is a flag of nplm,"]),
    "no flag": (["ptb"], ["unexpected argument ptb; see python -m jaxlm.train --help"]),
    "no value": (["--epochs", "many"], ["--epochs", "see python -m jaxlm.train --help"]),
    "model in capitals": (["--model", "LSTN"], ["'LSTN'", "did you mean 'lstm'"]),
    "not a number": (["--hidden-size", "big"], ["--hidden-size", "'big'"]),
    "zero size": (["--hidden-size", "0"], ["--hidden-size 0", "--direct"]),
    "negative rate": (["--lr", "-1"], ["--lr -1.0", "above 0"]),
    "dropout of one": (["--dropout", "1"], ["--dropout 1.0", "below 1"]),
    "weight drop of one": (
        ["--model", "rnn", "--weight-drop", "1"],
        ["--weight-drop 1.0", "below 1"],
    ),
    "negative penalty": (
        ["--model", "gru", "--temporal-penalty", "-1"],
        ["--temporal-penalty -1.0", "at least 0"],
    ),
    "a layer of nothing": (["--model", "lstm", "--layer-sizes", "4", "0"], ["--layer-sizes 4 0"]),
    "a size beside sizes": (
        ["--model", "lstm", "--layer-sizes", "4", "3", "--nhid", "9"],
        ["--hidden-size 9", "has no effect with --layer-sizes"],
    ),
    "a rate without effect": (
        [
            "--model",
            "gru",
            "--dropout",
            ".2",
            "--dropout-input",
            ".1",
            "--dropout-between",
            ".1",
            "--dropout-output",
            ".1",
        ],
        ["--dropout 0.2", "has no effect, because --dropout-input, --dropout-between"],
    ),
    "no steps": (["--steps", "0"], ["--steps 0", "above 0"]),
    "forget bias": (["--model", "gru", "--forget-bias", "1"], ["GRUCell", "no forget gate"]),
    "timescale below a step": (["--model", "rnn", "--timescale", "0.5"], ["--timescale 0.5"]),
    "timescale without end": (["--model", "rnn", "--timescale", "nan"], ["--timescale nan"]),
    "timescale of gates": (
        ["--model", "lstm", "--timescale", "50"],
        ["--timescale 50.0", "LSTMCell", "leave the setting out"],
    ),
    "batch too large": (["--batch-size", "4"], ["--batch-size 4", "3 lines", "3 or less"]),
    "streams, no <eos>": (["--batching", "streams"], ["--eos", "rows"]),
    "order of none": (["--model", "ngram", "--order", "0"], ["--order 0", "1 to 20"]),
    "order too large": (["--model", "ngram", "--order", "5"], ["--order 5", "--order 4 or less"]),
    "unknown smoothing": (
        ["--model", "ngram", "--smoothing", "kneser"],
        ["'kneser'", "modified-kneser-ney, kneser-ney, witten-bell"],
    ),
    "negative k": (["--model", "ngram", "--add-k", "-1"], ["--add-k -1.0"]),
    "no memory": (["--model", "ngram", "--memory", "much"], ["'much'", "2GB"]),
    "unknown engine": (["--model", "ngram", "--engine", "sql"], ["'sql'", "duckdb, spark"]),
    "a rate for counting": (["--model", "ngram", "--lr", "1"], ["--lr"]),
    "resume nothing": (["--resume"], ["--resume", "no run"]),
    "no minutes": (["--max-minutes", "0"], ["--max-minutes 0", "above 0"]),
    "no seeds": (["--seeds", "0"], ["--seeds 0", "at least 1"]),
    "a sweep of sizes": (["--sweep", "hidden_size=2,4"], ["'hidden_size'", "lr, clip"]),
    "a sweep of words": (["--sweep", "lr=high"], ["'lr=high'", "lr=1e-3,2e-3"]),
    "rounds below none": (["--model", "mogrifier", "--rounds", "-1"], ["--rounds -1"]),
    "unknown mesh": (["--mesh", "date=2"], ["'date'", "did you mean 'data'", "data, model"]),
    "a mesh of none": (["--mesh", "data=0"], ["--mesh data=0", "data=4,model=2"]),
    "a plot": (["--plot"], ["--plot", "report.html", "python -m jaxlm.show RUN --figure curve"]),
    "no vocabulary to keep": (["--vocabulary", "keep"], ["--vocabulary keep", "without --from"]),
    "no validation": (["--patience", "2"], ["--patience 2", "validation split", "--fractions"]),
    "last of streams": (["--eos", "--batching", "streams"], ["--positions last", "rows"]),
    "too few devices": (["--mesh", "data=512"], ["512 devices", "this machine has"]),
    "processes without end": (["--processes", "2"], ["--coordinator", "all three"]),
    "a process too many": (
        ["--coordinator", "localhost:1", "--processes", "2", "--process", "2"],
        ["--process 2", "from 0 to 1"],
    ),
    "no softmaxes": (["--softmax", "mixture", "--softmaxes", "0"], ["--softmaxes 0"]),
}


@pytest.mark.parametrize(("flags", "fragments"), list(TRAIN.values()), ids=list(TRAIN))
def test_mistakes_of_train(shell, tmp_path, monkeypatch, flags, fragments):
    monkeypatch.chdir(tmp_path)
    assert_mistake(shell("train", *flags), fragments)
    # A folder with a config.json would be taken for a run.
    assert not list(tmp_path.rglob("config.json"))


def assert_mistake(result, fragments):
    code, _, err = result
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1, err
    for fragment in fragments:
        assert fragment in err


TEXTS = {
    "empty": (b"", ["is empty"]),
    "blank": (b"\n\n", ["is empty"]),
    "not UTF-8": ("我 喜欢\n".encode() + "玩具\n".encode("gb18030"), ["offset 11", "UTF-8"]),
    "batch larger than the text": (b"a b c\nd e f\n", ["--batch-size 20", "tokens"]),
}


@pytest.mark.parametrize(("content", "fragments"), list(TEXTS.values()), ids=list(TEXTS))
def test_train_rejects_a_bad_text(shell, tmp_path, monkeypatch, content, fragments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.txt").write_bytes(content)
    assert_mistake(
        shell("train", "--corpus", "my.txt", "--batching", "streams", "--batch-size", "20"),
        fragments,
    )


def test_a_run_is_not_overwritten(shell, toy_runs):
    assert_mistake(
        shell("train", "--out", toy_runs["nplm"]), ["already holds a run", "--out", "--resume"]
    )


def test_a_run_of_another_model_is_not_resumed(shell, toy_runs):
    result = shell("train", "--model", "gru", "--out", toy_runs["nplm"], "--resume")
    assert_mistake(result, ["another run", "nplm, not gru"])


def test_train_rejects_a_bad_config_file(shell, tmp_path):
    (tmp_path / "bad.json").write_text("{lr: 1}")
    assert_mistake(shell("train", "--config", tmp_path / "bad.json"), ["not JSON", "bad.json"])
    (tmp_path / "odd.json").write_text('{"learning_rate": 1}')
    assert_mistake(shell("train", "--config", tmp_path / "odd.json"), ["'learning_rate'"])
    assert_mistake(shell("train", "--config", tmp_path / "none.json"), ["cannot be read"])
    (tmp_path / "list.json").write_text('{"model": ["lstm"]}')
    flags = ("--config", tmp_path / "list.json", "--recipe", "lecture")
    assert_mistake(shell("train", *flags), ["list.json", "the model ['lstm']"])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            {"network": {"hidden_size": 8}, "batching": {"batch_size": 4}},
            {"hidden_size": 8, "batch_size": 4},
        ),
        (
            {"network": {"hidden_size": 8}, "batching": "rows"},
            {"hidden_size": 8, "batching": "rows"},
        ),
        (
            {"network": {}, "optimizer": {"lr": 0.1}, "batching": {"bptt": 4}},
            {"lr": 0.1, "bptt": 4},
        ),
    ],
)
def test_a_config_file_with_sections_is_read_as_it_is_written(content, expected, tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps(content))
    assert read_config_file(tmp_path / "mine.json") == expected


def test_a_table_does_not_replace_the_text_that_is_read(shell, toy_runs, tmp_path):
    run, text = toy_runs["nplm"], tmp_path / "text.txt"
    text.write_text("我 喜欢 玩具\n")
    inside = tmp_path / "folder" / ".." / "text.txt"
    (tmp_path / "folder").mkdir()
    for words in (
        ("score", run, "--lines", text, "--out", inside),
        ("evaluate", run, "--text", text, "--per-token", inside),
        ("compare", run, run, "--text", text, "--out", inside),
        ("show", run, "--text", text, "--out", inside),
    ):
        assert_mistake(shell(*words), ["text.txt", "give another name"])
    assert_mistake(
        shell("show", run, "我 喜欢", "--out", tmp_path / "n.json", "--data", tmp_path / "n.json"),
        ["--data", "the file of the page too"],
    )
    assert text.read_text() == "我 喜欢 玩具\n"


def test_a_text_in_the_place_of_a_file_name_is_one_line(shell, toy_runs):
    run, long = toy_runs["nplm"], "a sentence " * 40
    for words in (
        ("show", run, "--text", long),
        ("pairs", run, long),
        ("compare", long, run, "--text", long),
        ("score", run, "--lines", long),
    ):
        code, _, err = shell(*words)
        assert code == 2 and err.startswith("error: ") and err.count("\n") == 1


def test_mistakes_of_predict(shell, toy_runs, tmp_path):
    run = toy_runs["nplm"]
    assert_mistake(shell("predict", run, "我 喜"), ["'喜'", "7 tokens", "nearest", "'喜欢'"])
    assert_mistake(shell("predict", run, "我"), ["1 token", "needs 2", "no <eos>"])
    assert_mistake(shell("predict", toy_runs["lstm"], ""), ["context is empty"])
    assert_mistake(shell("predict", run, "我 爱", "--top", "0"), ["--top 0"])
    assert_mistake(shell("predict", tmp_path, "我 爱"), ["is not a run", "config.json"])
    assert_mistake(shell("predict", run.parent / "none", "我"), ["is not a run", str(run)])


def test_mistakes_of_generate(shell, toy_runs):
    run = toy_runs["lstm"]
    assert_mistake(shell("generate", run), ["context is empty"])
    for flag, value in (
        ("--length", "0"),
        ("--samples", "0"),
        ("--top-k", "0"),
        ("--top-p", "0"),
        ("--temperature", "-1"),
    ):
        assert_mistake(shell("generate", run, "--prompt", "我", flag, value), [flag])


def test_mistakes_of_evaluate(shell, toy_runs, tmp_path):
    run = toy_runs["nplm"]
    (tmp_path / "new.txt").write_text("我 喜欢 你\n", encoding="utf-8")
    (tmp_path / "empty.txt").write_text("")
    assert_mistake(shell("evaluate"), ["name at least one run"])
    assert_mistake(shell("evaluate", run, "--split", "test"), ["'test'", "train"])
    assert_mistake(shell("evaluate", run, "--text", tmp_path / "none.txt"), ["does not exist"])
    assert_mistake(shell("evaluate", run, "--text", tmp_path / "empty.txt"), ["is empty"])
    assert_mistake(shell("evaluate", run, "--text", tmp_path / "new.txt"), ["'你'", "nearest"])
    assert_mistake(shell("evaluate", *toy_runs.values(), "--per-token", "x.tsv"), ["one run"])
    assert_mistake(shell("evaluate", run, "--cache", 5), ["cannot be adapted", "one stream"])
    assert_mistake(shell("evaluate", run, "--temperature", "warm"), ["'warm'", "auto"])
    assert_mistake(shell("evaluate", run, "--cache-share", ".1"), ["belongs to --cache:"])
    share = shell("evaluate", run, "--cache", 5, "--cache-share", "1.5")
    assert_mistake(share, ["--cache-share 1.5: must be at least 0 and below 1"])
    assert_mistake(shell("evaluate", run, "--mc-samples", -1), ["--mc-samples -1: must be at"])
    assert_mistake(shell("evaluate", run, "--dynamic-lr", ".1"), ["belongs to --dynamic:"])
    assert_mistake(shell("evaluate", run, "--seed", "1"), ["belongs to --mc-samples:"])
    unknown = shell("evaluate", run, "--dynamic", "--dynamic-rule", "adam")
    assert_mistake(unknown, ["'adam'", "sgd, rms"])
    per_token = "--per-token", tmp_path / "x.tsv"
    assert_mistake(shell("evaluate", run, "--cache", 5, *per_token), ["--per-token"])
    assert not (tmp_path / "x.tsv").exists()
    assert_mistake(
        shell("evaluate", run, "--per-token", tmp_path / "no" / "x.tsv"), ["cannot be written"]
    )
    for name in ("", tmp_path, "/"):
        assert_mistake(shell("evaluate", run, "--per-token", name), ["--per-token '", "no file"])
    assert_mistake(shell("evaluate", run, "--per-token", "-"), ["--per-token '-'", "/dev/stdout"])


def test_evaluate_keeps_the_corpus_and_knows_if_it_was_changed(shell, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [f"the cat saw the {word}\n" for word in ("dog", "mat", "log", "cat")] * 30
    path = tmp_path / "my.txt"
    path.write_text("".join(lines))
    flags = ("--model", "ngram", "--no-report")
    assert shell("train", *flags, "--corpus", "my.txt", "--out", "run")[0] == 0
    assert_mistake(shell("evaluate", "run", "--per-token", "my.txt"), ["is a file that is read"])
    code, whole, _ = shell("evaluate", "run")
    # The same file by another name has the splits of the training.
    code, again, _ = shell("evaluate", "run", "--corpus", path)
    assert code == 0 and again.splitlines()[1:] == whole.splitlines()[1:]
    path.write_text("".join(lines[:-20]))
    assert_mistake(shell("evaluate", "run"), ["my.txt was changed since run", "--text"])
    assert_mistake(shell("evaluate", "run", "--corpus", path), ["was changed since"])
    assert shell("evaluate", "run", "--text", path)[0] == 0
    path.write_text("".join([*lines[:-9], "a new word\n", *lines[-8:]]))
    assert_mistake(shell("evaluate", "run"), ["was changed since"])
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("train.txt", "valid.txt"):
        (folder / name).write_text("".join(lines))
    place = ("--corpus", folder, "--per-token", folder / "valid.txt")
    assert_mistake(shell("evaluate", "run", *place), ["is a file in a folder that is read"])


def test_mistakes_of_score(shell, toy_runs, tmp_path):
    run, path = toy_runs["nplm"], tmp_path / "sentences.txt"
    path.write_text("我 喜欢 玩具\n我 恨 玩具\n", encoding="utf-8")
    lines = ("--lines", path)
    assert_mistake(shell("score", *lines), ["name at least one run"])
    assert_mistake(shell("score", run), ["--lines FILE", "standard input"])
    assert_mistake(shell("score", run, "--lines", tmp_path / "none"), ["--lines", "does not exist"])
    assert_mistake(shell("score", run, *lines), ["'恨'", "7 tokens"])
    assert_mistake(shell("score", run, *lines, "--by", "line"), ["--by 'line'", "word or sentence"])
    assert_mistake(shell("score", run, *lines, "--start", "hot"), ["'hot'", "fresh, warm, carried"])
    assert_mistake(shell("score", run, *lines, "--start", "carried"), ["--start carried", "last"])
    assert_mistake(shell("score", run, *lines, "--format", "csv"), ["'csv'", "wide, long, lm-zoo"])
    assert_mistake(shell("score", run, run, *lines, "--format", "lm-zoo"), ["--format lm-zoo", "2"])
    assert_mistake(shell("score", run, *lines, "--out", tmp_path), ["--out", "no file"])
    assert_mistake(shell("score", run, *lines, "--out", "-"), ["--out '-'", "/dev/stdout"])
    zoo = ("--format", "lm-zoo", "--by", "sentence")
    assert_mistake(shell("score", run, *lines, *zoo), ["--by sentence", "--format lm-zoo"])
    out = tmp_path / "no" / "table.tsv"
    assert_mistake(shell("score", run, *lines, "--out", out), ["--out", "no folder"])
    assert_mistake(shell("score", tmp_path, *lines), ["is not a run", "config.json"])


def test_an_unknown_command_is_an_error(shell):
    assert_mistake(shell("__main__", "trian"), ["'trian'", "'train'", "evaluate"])


def test_mistakes_of_mixing(shell, toy_runs, text_run):
    run = toy_runs["nplm"]
    assert_mistake(shell("evaluate", run, "--mix"), ["two components", "--unigram-cache"])
    assert_mistake(shell("evaluate", run, "--weights", "1"), ["--mix"])
    both = toy_runs.values()
    assert_mistake(shell("evaluate", *both, "--mix"), ["validation split", "--weights"])
    assert_mistake(shell("evaluate", *both, "--mix", "--weights", "a,b"), ["'a,b'", ".5,.5"])
    assert_mistake(shell("evaluate", *both, "--mix", "--weights", ".5,.6"), ["sum must be 1"])
    mixed = shell("evaluate", run, text_run, "--mix", "--weights", ".5,.5")
    assert_mistake(mixed, ["different vocabularies", "'我' is in", "not in"])


def test_mistakes_of_convert(shell, toy_runs, tmp_path):
    assert_mistake(shell("convert", toy_runs["nplm"], tmp_path / "x.arpa"), ["NPLM", "n-grams"])
    assert_mistake(shell("convert", tmp_path / "x.arpa", tmp_path / "run"), ["does not exist"])
    (tmp_path / "x.stablehlo").mkdir()
    programs = shell("convert", tmp_path / "x.stablehlo", tmp_path / "run")
    assert_mistake(programs, ["x.stablehlo: StableHLO programs", "not read"])
    (tmp_path / "bad.arpa").write_text("\\data\\\nngram 1=2\nngram 2=-5\n")
    bad = shell("convert", tmp_path / "bad.arpa", tmp_path / "run")
    assert_mistake(bad, ["bad.arpa", "3", "-5"])
    assert not (tmp_path / "run").exists()


def test_mistakes_of_prepare(shell, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.txt").write_text("a b\n")
    assert_mistake(shell("prepare"), ["at least one text file", "--help"])
    assert_mistake(shell("prepare", "none.txt"), ["none.txt", "No such file"])
    assert_mistake(shell("prepare", "my.txt", "--tokens", "word"), ["'word'", "words"])
    assert_mistake(shell("prepare", "my.txt", "--valid", "none.txt"), ["none.txt"])
    assert_mistake(shell("prepare", "my.txt", "--out", "."), ["--out .", "new folder"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my.txt"]
