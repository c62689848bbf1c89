"""What predict, generate and evaluate show: tokens, unknown words, and tables of any width."""

import io
import json

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

import jaxlm
from jaxlm.data.encoding import TextSize
from jaxlm.evaluate import result_table, shortened
from jaxlm.evaluation.generation import UnknownWords
from jaxlm.evaluation.perplexity import Report

LONG = "experiments-2026/tinyshakespeare/ngram-kneser-ney-order-"


def ngram(folder, lines, order=3, **options):
    """Count an n-gram of a text in a file of its own, and return the folder of the run."""
    folder.mkdir()
    (folder / "my.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    text = jaxlm.read_corpus(folder / "my.txt", fractions=(1.0,), **options)
    model = jaxlm.NGram(len(text.vocabulary), order=order, start_id=text.vocabulary.start_id)
    jaxlm.fit(model, text, folder=folder / "run", quiet=True)
    return folder / "run"


def reports(*runs, texts=("my.txt test",), size=None):
    size = size or TextSize(3_000_000, 1_000_000, 200_000, 9)
    return [
        Report(run, text, 1e6, 234_567, 89, size, "", known_nll=9e5)
        for run, text in zip(runs, texts * len(runs), strict=False)
    ]


def printed(items, width):
    """Return the lines of the table, and the columns that were left out."""
    table, left_out = result_table(items, width)
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue().splitlines(), left_out


RUNS = {
    1: ["u"],
    2: [f"{LONG}{index}" for index in range(2)],
    5: [*(f"{LONG}{index}" for index in range(3)), "runs/lstm-ptb, adapted", "mixture"],
}


@pytest.mark.parametrize("number", RUNS)
@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_a_table_fits_the_terminal_and_names_each_run(width, number):
    lines, left_out = printed(reports(*RUNS[number]), width)
    assert {cell_len(line) for line in lines if line} == {cell_len(lines[0])}
    assert cell_len(lines[0]) <= width
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines[3:-1]]
    # A long name is folded into several rows.
    names = "".join(row[0] for row in rows).replace(" ", "")
    for run in RUNS[number]:
        assert run.split("/")[-1].replace(" ", "") in names
    for row in rows:
        assert "…" not in "".join(row[1:])
    assert sum(row[1] == "234,567" for row in rows) == number
    assert left_out == ["/byte", "/char", "/word", "bits/token", "<unk>"][: len(left_out)]
    assert len(left_out) <= (0 if width >= 120 else 3 if width == 80 else 5)


def test_a_table_of_different_texts_names_them():
    items = reports("a", "b", texts=("x test", "y test"))
    lines, left_out = printed(items, 90)
    assert "text" in lines[1] and any("x test" in line for line in lines)
    assert left_out == ["/byte", "/char"]
    assert "text" not in printed(reports("a", "b"), 90)[0][1]


def test_columns_without_a_figure_are_left_out_silently():
    items = reports("a", size=TextSize(30, 10, 0, 1))
    lines, left_out = printed(items, 120)
    assert "/word" not in lines[1] and "/byte" in lines[1] and left_out == []


def test_names_lose_only_the_folders_that_they_share():
    assert shortened(["a/b", "a/c"], 3) == ["a/b", "a/c"]
    assert shortened(["deep/er/lstm-1", "deep/other/lstm-1"], 9) == [
        "…/er/lstm-1",
        "…/other/lstm-1",
    ]
    assert shortened(["deep/lstm-1", "mixture"], 9) == ["…/lstm-1", "mixture"]
    assert shortened(["[bold]/x"], 4) == ["…/x"]


def test_evaluate_fits_80_columns(shell, text_run, tmp_path, monkeypatch):
    run = jaxlm.load(text_run)
    runs = [tmp_path / f"a-folder-of-runs/another-folder/lstm-{index}" for index in range(2)]
    for path in runs:
        run.save(path)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "new.txt").write_text("the zebra sat\n")
    code, out, _ = shell("evaluate", *runs, "--text", tmp_path / "new.txt")
    assert code == 0
    table = [line for line in out.splitlines() if line and line[0] in "┏┃┡│└"]
    assert all(cell_len(line) == cell_len(table[0]) <= 80 for line in table)
    assert "│ …/lstm-0" in out and "│ …/lstm-1" in out
    assert "left out, as they need a wider terminal: /byte, /char, /word" in out
    assert out.count("without the 1 <unk>") == 2


def test_byte_level_tokens_are_shown_as_text(shell, tmp_path):
    # "在" and "是" become tokens; a line of 100 characters has parts of characters too.
    lines = ["在 是。"] * 20 + ["".join(map(chr, range(0x4E00, 0x4E60)))]
    run = ngram(tmp_path / "zh", lines, order=2, tokens="bpe", vocab_size=270)
    code, out, _ = shell("predict", run, "在 是。", "在", "--top", "270")
    assert code == 0
    assert "在 是。 -> '\\n'" in out and "  <0xB8>" in out and "  。" in out
    assert "Ċ" not in out and "ãĢĤ" not in out
    path = tmp_path / "zh.tsv"
    assert shell("evaluate", run, "--per-token", path)[0] == 0
    tokens = [line.split("\t")[0] for line in path.read_text(encoding="utf-8").splitlines()]
    assert "。" in tokens and r"\n" in tokens and "Ċ" not in tokens
    words = dict(jaxlm.next_words(jaxlm.load(run), "在 是。", 3))
    session = jaxlm.Session(jaxlm.load(run))
    session.push("在 是。")
    assert "\n" in words and words == pytest.approx(dict(session.next_words(3)))


def test_a_line_break_in_a_context_is_eos(shell, tmp_path, monkeypatch):
    lines = ["sun rise", "sun set", "moon rise", "moon glow"] * 6
    run = ngram(tmp_path / "ml", lines)
    _, out, _ = shell("predict", run, "sun set\nmoon", "moon")
    assert "'sun set\\nmoon' -> rise" in out and out.count("0.4784") == 2
    loaded = jaxlm.load(run)
    session = jaxlm.Session(loaded)
    assert len(session.push("sun set\nmoon")) == 4 and session.text == "sun set\nmoon"
    assert session.next_words(1)[0] == ("rise", pytest.approx(0.4784, abs=5e-5))
    (text,) = jaxlm.sample(loaded, "sun set\nmoon", length=1, temperature=0)
    assert text == "sun set\nmoon rise"
    # The line break that ends a line of standard input is not a part of the context.
    monkeypatch.setattr("sys.stdin", io.StringIO("moon\n"))
    assert "moon -> rise" in shell("predict", run)[1]


def test_predict_names_unknown_words(shell, tmp_path):
    run = ngram(tmp_path / "seen", ["the <unk> sat", "the cat sat"] * 3, unk="always")
    _, out, err = shell("predict", run, "the zebra", "the cat", "the yak, a zebra")
    assert "the zebra -> sat\nnote: zebra is not in the vocabulary; the model reads <unk>\n" in out
    assert "yak,, a and zebra are not in the vocabulary" in out and "training" not in out
    assert out.count("note:") - out.count("sees the last") == 2
    code, out, err = shell("generate", run, "--prompt", "the zebra", "--length", "1")
    assert (code, out[:9]) == (0, "the <unk>")
    assert err == "note: zebra is not in the vocabulary; the model reads <unk>\n"


def test_predict_gives_no_answer_about_unk_if_it_was_never_trained(shell, tmp_path):
    run = ngram(tmp_path / "new", ["我 喜欢 玩具", "我 爱 爸爸"], unk="always")
    code, out, _ = shell("predict", run, "我 恨")
    note = "恨 is not in the vocabulary; the model reads <unk>, which never occurred in training"
    assert code == 0 and f"我 恨 -> ?\nnote: {note}\n" in out
    assert "我 喜欢 -> 玩具" in shell("predict", run, "我 喜欢")[1]


def test_a_predicted_unk_is_explained(shell, tmp_path):
    lines = ["a b", "a c", "a d", "a a"]
    run = ngram(tmp_path / "rare", lines, order=2, min_count=2, eos=True)
    _, out, _ = shell("predict", run, "a", "--top", "1")
    assert "a -> <unk>" in out
    assert "<unk>, which stands for every word outside the vocabulary" in out


LINES = ["a b", "a b", "a c"]


@pytest.mark.parametrize("change", ["min_count", "listed", "old"])
def test_nothing_is_claimed_about_an_unk_that_was_trained_or_may_have_been(tmp_path, change):
    lines = LINES + ["a <unk>"] * (change == "listed")
    options = {"min_count": 2} if change == "min_count" else {}
    folder = ngram(tmp_path / "run", lines, order=2, unk="always", **options)
    if change == "old":
        config = json.loads((folder / "config.json").read_text())
        del config["unk_in_training"]
        (folder / "config.json").write_text(json.dumps(config))
    unknown = UnknownWords(jaxlm.load(folder))
    assert not unknown.never_trained
    assert unknown.note("a z") == "z is not in the vocabulary; the model reads <unk>"
    assert unknown.note("a b") == "" and unknown.note("a <unk>") == ""


def test_a_run_knows_without_its_text_that_unk_was_never_trained(tmp_path):
    folder = ngram(tmp_path / "run", LINES, order=2, unk="always")
    (tmp_path / "run/my.txt").unlink()
    text = jaxlm.read_corpus(LINES, unk="always")
    model = jaxlm.LSTM(len(text.vocabulary), embedding_size=2, hidden_size=2)
    sentences = jaxlm.fit(model, text, batching="rows", batch_size=2, steps=1, quiet=True)
    for run in (jaxlm.load(folder), sentences):
        assert UnknownWords(run).note("a z").endswith("which never occurred in training")


def test_many_unknown_words_are_counted():
    text = jaxlm.read_corpus(["a b"], fractions=(1.0,), unk="always", tokens="chars")
    run = jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=2), text, quiet=True)
    note = UnknownWords(run).note("a\tcdefghi")
    assert note.startswith("'\\t', c, d, e, f and 3 more are not in the vocabulary")


def test_bits_of_a_certain_token_have_no_sign():
    text = jaxlm.read_corpus(["a a a"], fractions=(1.0,), eos=False)
    model = jaxlm.NGram(len(text.vocabulary), order=1, smoothing="maximum-likelihood")
    bits = jaxlm.Session(jaxlm.fit(model, text, quiet=True)).push("a a")
    assert not np.signbit(bits[-1]) and bits[-1] == 0
