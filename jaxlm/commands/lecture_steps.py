"""The steps of the lecture, in Chinese and in English: the files of `jaxlm/commands/lecture/`.

A file is one step. Its name has the step's place and name, such as `04-nplm.md`. Its lines are

    <!-- needs: corpus -->   names of the steps whose code must run before
    <!-- zh -->              text in Chinese follows, in Markdown
    <!-- en -->              the same text in English follows
    ```python                code follows, which both languages share; words after "python":
                             "figure" marks a cell that draws, "timed" a cell that prints times

The command `lecture` and the two notebooks in `experiments/` are made from these files.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files

from rich.cells import cell_len

from jaxlm.errors import choose

LANGUAGES = {"zh": "中文", "en": "English"}
# A text in two languages, or code with the words after "python".
_TEXT = re.compile(r"<!-- zh -->\n(?P<zh>.*?)<!-- en -->\n(?P<en>.*?)(?=<!-- zh -->|\Z)", re.S)
_CODE = re.compile(r"^```python(?P<marks>[a-z ]*)\n(?P<code>.*?)^```$\n?", re.M | re.S)
_NEEDS = re.compile(r"<!-- needs: ([a-z -]+) -->")
# Characters that may not begin a line, and characters that may not end a line.
_NOT_FIRST, _NOT_LAST = set("，。、；：？！）」』》”’…—,.;:?!)]}"), set("（「『《“‘([{")


@dataclass(frozen=True)
class Cell:
    """A piece of a step: a text, or code.

    Attributes:
      text: Markdown by language; empty for code. A paragraph is one line.
      code: Python; "" for a text.
      marks: "figure" for code that draws with matplotlib, "timed" for code that prints times.
    """

    text: Mapping[str, str]
    code: str = ""
    marks: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Step:
    """A step of the lecture.

    Attributes:
      name: the name of the step, such as "nplm".
      needs: names of the steps whose code must run before.
      cells: texts and code, in order.
    """

    name: str
    needs: tuple[str, ...]
    cells: tuple[Cell, ...]

    def title(self, language: str) -> str:
        """Return the heading of the step."""
        return self.cells[0].text[language].splitlines()[0].lstrip("# ")


def read_steps() -> dict[str, Step]:
    """Return the steps of the lecture by name, in their order.

    Example:
      >>> steps = read_steps()
      >>> steps["corpus"].needs, len(steps["corpus"].cells) > 1
      (('setup', 'counts'), True)
    """
    folder = files("jaxlm.commands").joinpath("lecture")
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".md"))
    steps = (
        read_step(
            re.sub(r"^\d+-|\.md$", "", name), folder.joinpath(name).read_text(encoding="utf-8")
        )
        for name in names
    )
    return {step.name: step for step in steps}


def read_step(name: str, content: str) -> Step:
    """Return the step that a file describes.

    Args:
      name: the name of the step.
      content: the file, as this module explains it.
    """
    needs = _NEEDS.search(content)
    cells: list[Cell] = []
    end = 0
    for match in [*_CODE.finditer(content), None]:
        between = content[end : match.start() if match else len(content)]
        for text in _TEXT.finditer(between):
            cells.append(Cell({language: joined(text[language]) for language in LANGUAGES}))
        if match:
            marks = frozenset(match["marks"].split())
            cells.append(Cell({}, match["code"].rstrip("\n"), marks))
            end = match.end()
    return Step(name, tuple(needs[1].split()) if needs else (), tuple(cells))


def needed(steps: Mapping[str, Step], name: str) -> list[str]:
    """Return the names of all steps that must run before the step `name`, in order.

    Raises:
      UserError: for a name that is no step.
    """
    choose(steps, name, "step of the lecture")
    found: set[str] = set()
    open_names = [name]
    while open_names:
        new = set(steps[open_names.pop()].needs) - found
        found |= new
        open_names += new
    return [step for step in steps if step in found]


def joined(markdown: str) -> str:
    """Return Markdown with each paragraph and each list item on one line.

    No blank comes between two lines that end and begin in Chinese.

    Example:
      >>> joined("甲乙，\\n丙丁\\n\\n- a\\n  b\\n- c\\n")
      '甲乙，丙丁\\n\\n- a b\\n- c'
    """
    lines: list[str] = []
    fenced = False
    for line in markdown.strip("\n").split("\n"):
        fence = line.startswith("```")
        fenced ^= fence
        alone = fence or fenced or not line or line.startswith(("#", "|", "    "))
        starts = alone or re.match(r"([-*]|\d+\.) ", line) is not None
        above = lines[-1] if lines else ""
        if starts or not above or above.startswith(("#", "|", "    ", "```")):
            lines.append(line)
        else:
            line = line.strip()
            lines[-1] += line if _touch(above[-1], line[0]) else f" {line}"
    return "\n".join(lines)


def _touch(last: str, first: str) -> bool:
    """Return whether no blank comes between two lines, by their last and first character."""
    return (wide(last) and wide(first)) or last in "，。、；：？！）」”" or first in "（「“"


def wide(character: str) -> bool:
    """Return whether a character takes two columns of a terminal, as Chinese does.

    Example:
      >>> wide("字"), wide("。"), wide("a")
      (True, True, False)
    """
    return unicodedata.east_asian_width(character) in "WF"


def terminal_lines(markdown: str, width: int) -> Iterator[str]:
    """Yield the lines of Markdown for a terminal, at most `width` columns wide.

    Tables and code keep their lines; columns of tables are aligned, Chinese too. Emphasis and
    links lose their marks.

    Example:
      >>> list(terminal_lines("## A *title*\\n\\n- 一二三四，五", width=10))
      ['A title', '═══════', '', '- 一二三', '  四，五', '']

    Args:
      markdown: the text, with each paragraph on one line; see `joined`.
      width: columns of the terminal.
    """
    table: list[list[str]] = []
    fenced = False
    for line in [*markdown.split("\n"), ""]:
        if line.startswith("```"):
            fenced = not fenced
            continue
        if line.startswith("|") and not fenced:
            table.append([_plain(cell.strip()) for cell in line.strip("|").split("|")])
            continue
        yield from _table_lines(table)
        table = []
        if fenced or line.startswith("    "):
            yield f"    {line}" if fenced else line
        elif line.startswith("#"):
            title = _plain(line.lstrip("# "))
            yield from (title, ("═" if line.startswith("## ") else "─") * cell_len(title))
        else:
            mark = re.match(r"(?:[-*]|\d+\.) ", line)
            hang = len(mark[0]) if mark else 0
            for number, part in enumerate(wrapped(_plain(line[hang:]), width - hang)):
                yield (line[:hang] if number == 0 else " " * hang) + part


def _plain(text: str) -> str:
    """Return a line of Markdown without the marks of emphasis, code and links."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    parts = re.split(r"`([^`]*)`", text)
    parts[::2] = [re.sub(r"(\*\*|\*)(?=\S)(.+?)(?<=\S)\1", r"\2", part) for part in parts[::2]]
    return "".join(parts)


def _table_lines(rows: list[list[str]]) -> Iterator[str]:
    """Yield the lines of a table, with aligned columns; the rule below the header is drawn."""
    rows = [row for row in rows if not all(re.fullmatch(r":?-+:?", cell) for cell in row)]
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        cells = zip(row, widths, strict=True)
        yield ("  " + "  ".join(cell + " " * (w - cell_len(cell)) for cell, w in cells)).rstrip()
        if number == 0:
            yield "  " + "  ".join("─" * w for w in widths)


def wrapped(text: str, width: int) -> Iterator[str]:
    """Yield the lines of a paragraph, at most `width` columns wide; at least one line.

    A line breaks at a blank or beside a Chinese character. No line begins with a closing mark or
    ends with an opening mark.

    Args:
      text: the paragraph.
      width: columns of the terminal.
    """
    # Units that a line break does not divide.
    units: list[str] = []
    for piece in re.findall(r"\s+|[^\s]", text):
        above = units[-1] if units else " "
        glued = (
            piece in _NOT_FIRST
            or above[-1] in _NOT_LAST
            or not (wide(piece[0]) or wide(above[-1]) or piece.isspace() or above.isspace())
        )
        if glued and units and not piece.isspace() and not above.isspace():
            units[-1] += piece
        else:
            units.append(piece)
    line, used = "", 0
    for unit in units:
        size = cell_len(unit)
        if used + size > width and not unit.isspace() and line.strip():
            yield line.rstrip()
            line, used = "", 0
        if line or not unit.isspace():
            line, used = line + unit, used + size
    yield line.rstrip()
