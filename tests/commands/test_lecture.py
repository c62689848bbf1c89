"""The lecture: its steps in two languages, the command, and the notebooks made from the steps."""

import ast
import builtins
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from rich.cells import cell_len

import jaxlm
from jaxlm.commands.lecture_steps import (
    LANGUAGES,
    joined,
    needed,
    read_step,
    read_steps,
    terminal_lines,
    wrapped,
)
from jaxlm.lecture import WIDTH, Teller, default_language, main

ROOT = Path(__file__).parents[2]
STEPS = read_steps()
PIECES = [
    (f"{step.name}-{number}", cell)
    for step in STEPS.values()
    for number, cell in enumerate(step.cells)
]
TEXTS = [(name, cell) for name, cell in PIECES if cell.text]
CODE = [(name, cell) for name, cell in PIECES if cell.code]


@pytest.fixture(scope="module")
def notebooks():
    """Return experiments/lecture_notebooks.py as a module."""
    path = ROOT / "experiments" / "lecture_notebooks.py"
    spec = importlib.util.spec_from_file_location("lecture_notebooks", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_lecture_has_its_steps_in_order():
    first = ["setup", "apple", "counts", "corpus", "nplm", "limits", "rnn", "bptt"]
    second = ["gradients", "gru", "lstm", "gates", "new-words", "speed", "next"]
    assert list(STEPS) == first + second


@pytest.mark.parametrize(("name", "cell"), TEXTS)
def test_each_text_is_in_both_languages(name, cell):
    chinese, english = cell.text["zh"], cell.text["en"]
    assert re.search("[\u4e00-\u9fff]", chinese)
    assert len(english) > len(chinese) / 2
    # The same headings, list items, tables and blocks of formulas.
    marks = [re.findall(r"^(?:#+|-|\d\.|\||    )", text, re.M) for text in (chinese, english)]
    assert marks[0] == marks[1]
    for language in LANGUAGES:
        for line in terminal_lines(cell.text[language], WIDTH):
            assert cell_len(line) <= WIDTH, line


@pytest.mark.parametrize(("name", "cell"), CODE)
def test_each_code_cell_is_short_and_uses_public_names_only(name, cell):
    lines = cell.code.splitlines()
    assert len(lines) <= 30
    for line in lines:
        assert cell_len(line) <= 76, line
    shows = ("print(", "show(", "plt.show(", "print_cost")
    assert any(word in cell.code for word in shows)
    for node in ast.walk(ast.parse(cell.code)):
        if isinstance(node, ast.Attribute):
            assert node.attr == "__version__" or not node.attr.startswith("_")
            if isinstance(node.value, ast.Name) and node.value.id == "jaxlm":
                assert node.attr in {*jaxlm.__all__, "__version__", "inspection"}
        if isinstance(node, ast.ImportFrom):
            assert not node.module.startswith("jaxlm")


def names_of(step):
    """Return the names that a step reads from earlier steps, and the names that it defines."""
    read, defined = set(), set(dir(builtins))
    for cell in step.cells:
        nodes = list(ast.walk(ast.parse(cell.code)))
        stored = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        stored |= {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.ExceptHandler)}
        stored |= {n.arg for n in nodes if isinstance(n, ast.arg)}
        stored |= {
            (alias.asname or alias.name).split(".")[0]
            for n in nodes
            if isinstance(n, ast.Import | ast.ImportFrom)
            for alias in n.names
        }
        loaded = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
        read |= loaded - stored - defined
        # A terminal leaves out the cells that draw.
        if "figure" not in cell.marks:
            defined |= stored
    return read, defined


@pytest.mark.parametrize("name", STEPS)
def test_a_step_names_the_steps_that_it_needs(name):
    read, _ = names_of(STEPS[name])
    given = set().union(*(names_of(STEPS[step])[1] for step in needed(STEPS, name)))
    assert read <= given


def test_the_lines_about_apple_are_new_to_the_model():
    (code,) = [cell.code for _, cell in CODE if cell.code.startswith("fruit = ")]
    found: dict = {}
    exec(code, found)
    known = jaxlm.read_corpus("apple")
    for by_word in (found["fruit"], found["company"]):
        for word, lines in by_word.items():
            for line in lines.split("\n"):
                words = line.split()
                assert set(words) <= {*known.vocabulary.tokens}, line
                beginning = " ".join(words[: words.index(word) + 1])
                assert not any(seen.startswith(beginning) for seen in known.train.source.lines())


def test_a_file_of_a_step_is_read():
    step = read_step(
        "name",
        "<!-- needs: a b-c -->\n<!-- zh -->\n## 题\n一，\n二\n<!-- en -->\n## Title\none\ntwo\n"
        "```python figure timed\nplot()\n```\n<!-- zh -->\n三\n<!-- en -->\nthree\n",
    )
    assert step.needs == ("a", "b-c") and step.title("zh") == "题"
    assert [cell.text.get("en", cell.code) for cell in step.cells] == [
        "## Title\none two",
        "plot()",
        "three",
    ]
    assert step.cells[0].text["zh"] == "## 题\n一，二"
    assert step.cells[1].marks == {"figure", "timed"}


def test_paragraphs_are_joined_without_a_blank_in_chinese():
    assert joined("用 RNN，\nGPU 等\n词\n\n```text\na\nb\n```\n") == (
        "用 RNN，GPU 等词\n\n```text\na\nb\n```"
    )
    assert joined("- a\n  b\n\n    x = 1\n    y = 2") == "- a b\n\n    x = 1\n    y = 2"


def test_no_line_begins_with_a_closing_mark_or_ends_with_an_opening_mark():
    text = "第一（甲乙）：丙丁，戊己。“庚”辛word（word），壬。" * 3
    for width in range(10, 30):
        lines = list(wrapped(text, width))
        assert "".join(lines).replace(" ", "") == text.replace(" ", "")
        for line in lines:
            assert cell_len(line) <= width
            assert line[0] not in "，。：）”" and line[-1] not in "（“"


def test_the_terminal_aligns_chinese_in_tables():
    lines = list(terminal_lines("| 年 | b |\n|---|---|\n| **甲乙** | `x` |\n| c | y |", 40))
    lines.pop(1)
    columns = [cell_len(line[: line.index(m)]) for line, m in zip(lines, "bxy", strict=False)]
    assert columns == [8, 8, 8]


def test_the_command_lists_its_steps(capsys):
    assert main(["--list", "--lang", "zh"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == list(STEPS)
    assert "梯度消失" in "".join(listed)


def test_a_step_runs_alone_after_the_code_that_it_needs(shell):
    code, out, err = shell("lecture", "--lang", "en", "--step", "corpus")
    assert (code, err) == (0, "")
    assert "target_words: ['玩具', '爸爸', '挨打']" in out
    assert "{'我': 0, '喜欢': 1," in out
    assert "0.786" not in out, "the output of the step before is not shown"
    assert all(cell_len(line) <= 80 for line in out.splitlines())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--step", "bptp"], "unknown step of the lecture 'bptp' (did you mean 'bptt'?)"),
        (["--lang", "fr"], "unknown language 'fr': choose one of zh, en"),
        (["--figures", "/dev/null/x"], "--figures /dev/null/x: cannot be written"),
    ],
)
def test_a_mistake_is_one_line(words, message, shell):
    code, out, err = shell("lecture", *words)
    assert (code, out) == (2, "")
    assert message in err and err.count("\n") == 1


def test_the_language_is_that_of_the_environment():
    assert default_language({"LANG": "zh_CN.UTF-8"}) == "zh"
    assert default_language({"LC_ALL": "C", "LANG": "zh_CN.UTF-8"}) == "en"
    assert default_language({"LC_ALL": "", "LC_MESSAGES": "zh_TW", "LANG": "C"}) == "zh"
    assert default_language({}) == "en"


STEP = read_step(
    "small",
    "<!-- zh -->\n## 一\n<!-- en -->\n## One\n```python\nx = 1\nprint('x is', x)\n```\n"
    "<!-- zh -->\n二\n<!-- en -->\ntwo\n```python\nprint(x / 0)\n```\n",
)


def test_enter_goes_on_and_q_ends(monkeypatch, capsys):
    answers = iter(["", "q"])
    monkeypatch.setattr(builtins, "input", lambda prompt: next(answers))
    assert Teller("en", True, None).show(STEP) is False
    shown = capsys.readouterr().out
    assert "x is 1" in shown and "two" not in shown


@pytest.mark.full
def test_a_pipe_that_is_closed_early_ends_the_lecture_in_silence():
    done = subprocess.run(
        f"{sys.executable} -m jaxlm.lecture --step counts | head -1; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1


def test_code_that_fails_is_one_line(capsys):
    with pytest.raises(
        jaxlm.UserError, match="the step small stopped in line 1: ZeroDivisionError"
    ):
        Teller("zh", False, None).show(STEP)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_notebook_in_the_repository_is_made_from_the_steps(language, notebooks):
    path = notebooks.path_of(language)
    again = notebooks.with_outputs_of(notebooks.build(language), path)
    assert nbformat.writes(again) + "\n" == path.read_text(encoding="utf-8"), (
        "run experiments/lecture_notebooks.py"
    )
    for cell in again.cells:
        if cell.cell_type == "code":
            silent = "timed" in cell.metadata.get("tags", [])
            assert bool(cell.outputs) != silent, cell.id
            assert not [o for o in cell.outputs if o.output_type == "error"]
            assert not [o for o in cell.outputs if o.get("name") == "stderr"]


def test_both_notebooks_have_the_same_code(notebooks):
    chinese, english = (nbformat.read(notebooks.path_of(name), 4).cells for name in LANGUAGES)
    assert [cell.id for cell in chinese] == [cell.id for cell in english]
    for ours, theirs in zip(chinese, english, strict=True):
        assert (ours.source == theirs.source) == (ours.cell_type == "code"), ours.id


RUN = """
import sys
import nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], 4)
NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
nbformat.write(notebook, "executed.ipynb")
"""


@pytest.mark.full
def test_the_notebook_runs_from_top_to_bottom(notebooks, tmp_path):
    """The other notebook has the same code."""
    path = notebooks.path_of("zh")
    own = {"JAX_PLATFORMS": "cpu", "JUPYTER_PLATFORM_DIRS": "1"}
    # Like a user: programs are compiled with full optimisation, and no compilation cache is there.
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JAX_COMPILATION", "JAX_PERSISTENT", "JAX_DISABLE", "XLA_FLAGS"))
    }
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(path)],
        cwd=tmp_path,
        env=environment | own,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    cells = nbformat.read(tmp_path / "executed.ipynb", 4).cells
    figures = [
        output
        for cell in cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(figures) == sum("figure" in cell.marks for _, cell in CODE)
    written = "".join(o.text for c in cells for o in c.get("outputs", []) if "text" in o)
    for words, target in (("喜欢", "玩具"), ("爱", "爸爸"), ("讨厌", "挨打")):
        assert f"['我', '{words}'] -> {target} target: {target}" in written
    (difference,) = re.findall(r"by jax: .*\nlargest difference: (\S+)", written)
    assert float(difference) < 1e-6


@pytest.mark.full
def test_the_command_goes_through_the_whole_lecture(shell, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    # The console of `rich.print` keeps the width that it had when it was made.
    monkeypatch.setattr("rich._console", None)
    code, out, err = shell("lecture", "--lang", "en", "--all", "--figures", tmp_path / "new")
    assert (code, err) == (0, "")
    assert len(list((tmp_path / "new").iterdir())) == sum("figure" in c.marks for _, c in CODE)
    lines = [line.rstrip() for line in out.splitlines() if str(tmp_path) not in line]
    assert [line for line in lines if cell_len(line) > 80] == []
    for step in STEPS.values():
        assert step.title("en") in out.replace("\n", "")


@pytest.mark.full
@pytest.mark.parametrize("name", ["bptt", "speed"])
def test_a_late_step_runs_alone(name, shell):
    code, _, err = shell("lecture", "--step", name)
    assert (code, err) == (0, "")


@pytest.mark.full
def test_a_student_may_add_sentences_of_three_words(capsys):
    names: dict = {}
    added = ', "我 喜欢 爸爸", "他 爱 玩具"]'
    for step in [*needed(STEPS, "next"), "lstm", "next"]:
        for cell in STEPS[step].cells:
            if cell.code and "figure" not in cell.marks:
                code = cell.code.replace('"我 讨厌 挨打"]', '"我 讨厌 挨打"' + added)
                exec(code.replace("5000", "10"), names)
    assert len(names["sentences"]) == 5 == len(names["features"])
    assert "['他', '爱']" in capsys.readouterr().out


def test_a_figure_that_cannot_be_written_is_one_line(shell, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    code, _, err = shell("lecture", "--step", "gradients", "--all", "--figures", tmp_path / "new")
    assert code == 2 and "--figures" in err and "No space left" in err and err.count("\n") == 1
