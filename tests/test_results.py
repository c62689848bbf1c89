"""Every row of a table of results names the command that gives it, and the command's flags exist.

The command is in the row, or in the text of the section above the table. A page of benchmarks or of
one experiment may name the command at its top. Commands have these forms:

    python -m jaxlm.VERB ...            parsed by the command's own flags
    --recipe NAME ...                   flags of jaxlm.train
    python experiments/NAME ...         the file exists, and its source has the flags
    NAME.py or NAME.ipynb               a file in experiments/, in the first cell of its README.md
"""

import importlib
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest

from jaxlm.commands import cli

ROOT = Path(__file__).parents[1]
EXPERIMENTS = ROOT / "experiments"
# On these pages the row or its section names the command.
BY_ROW = [ROOT / "README.md", ROOT / "README.zh.md", ROOT / "docs/results.md"]
# On these pages the top of the page may name the command of all tables.
BY_PAGE = [
    ROOT / "docs/benchmarks.md",
    ROOT / "docs/long-runs.md",
    *sorted(EXPERIMENTS.glob("*.md")),
    *sorted(EXPERIMENTS.glob("benchmark/*.md")),
]
# Tables of names, not of results: their first header, by page.
NO_RESULTS = {
    "README.md": ("I want to",),
    "README.zh.md": ("我想",),
    "docs/benchmarks.md": ("page",),
    "experiments/scaling.md": ("chip",),
}
COMMAND = re.compile(
    r"^(python -m jaxlm\.\w+ .*|--recipe (?!NAME).*|python experiments/[\w/.]+.*"
    r"|\w+\.(py|ipynb)|benchmark/)$"
)


class Row(NamedTuple):
    """A row of a table, the text of its section above it, and the text at the top of its page."""

    page: Path
    line: str
    header: str
    section: str
    top: str


def cells(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def rows(page):
    """Yield the rows of every table of results on a page."""
    skipped = NO_RESULTS.get(page.relative_to(ROOT).as_posix(), ())
    section, top, header, is_top, is_code = "", "", "", True, False
    for line in page.read_text(encoding="utf-8").splitlines():
        is_code ^= line.lstrip().startswith("```")
        if line.startswith("## ") or line.startswith("### "):
            section, is_top = "", False
        if not line.startswith("|") or is_code:
            header = ""
            section += line + "\n"
            top += (line + "\n") * is_top
        elif not header:
            header = line
        elif not set(line) <= set("|- :") and not cells(header)[0].startswith(skipped or "\0"):
            yield Row(page, line, header, section, top)


def commands(text):
    """Return the commands in a Markdown text."""
    spans = (re.sub(r"\s+", " ", span) for span in re.findall(r"`([^`]+)`", text))
    return [span for span in spans if COMMAND.match(span)]


def check(command):
    """Raise an error if the command cannot be typed."""
    words = shlex.split(command)
    if words[0] == "--recipe":
        words = ["python", "-m", "jaxlm.train", *words]
    if words[:2] == ["python", "-m"]:
        verb, argv = importlib.import_module(words[2]), words[3:]
        if words[2] != "jaxlm.train":
            cli.parse(verb.Command, argv, prog=words[2], about="")
            return
        choice = cli.parse_known(verb.Choice, argv, prog=words[2])
        verb._parse(verb._start_config(choice), argv)
        return
    path = ROOT / words[1] if words[0] == "python" else EXPERIMENTS / words[0]
    assert path.exists(), command
    flags = [word for word in words if word.startswith("--")]
    sources = [path] if path.is_file() else sorted(path.glob("*.py"))
    source = "".join(file.read_text(encoding="utf-8") for file in sources)
    missing = [flag for flag in flags if f'"{flag}"' not in source]
    assert not missing, f"{command}: {path.name} has no {' '.join(missing)}"


def names_a_command(row):
    own = commands(row.line) or commands(row.section)
    return own or (row.page in BY_PAGE and commands(row.top)) or "not yet run" in row.line


@pytest.mark.parametrize("page", BY_ROW + BY_PAGE, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_row_of_results_names_a_command_that_exists(page):
    found = list(rows(page))
    for row in found:
        assert names_a_command(row), f"name the command of this row: {row.line}"
    for text in {text for row in found for text in (row.line, row.section, row.top)}:
        for command in commands(text):
            check(command)


def test_there_are_tables_to_check():
    for page in BY_ROW:
        assert len(list(rows(page))) >= 8, page


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("python -m jaxlm.train --model ngram --odrer 5", "odrer"),
        ("--recipe zaremba-tiny", "zaremba-tiny"),
        ("python experiments/benchmark --rouns 3", "rouns"),
        ("python experiments/nothing.py", "nothing"),
    ],
)
def test_a_wrong_command_is_found(command, error):
    assert commands(f"| a | `{command}` |") == [command]
    with pytest.raises(Exception, match=error):
        check(command)


def test_a_row_without_a_command_is_found():
    row = Row(BY_ROW[0], "| LSTM | 81.76 | `--dropout 0.5` |", "", "Perplexity on PTB:", "")
    assert not names_a_command(row)
