"""Every example of README.md and docs/ runs; names, paths, links and flags on the pages exist.

The languages of fenced blocks on a page:

    bash                  commands, run in order
    python                a program, run in order with the commands; after the comment
                          <!-- continues --> it continues the program of the previous block
    python title="F.py"   written to the file F.py
    text                  output of the previous blocks: each line must be printed; decimal numbers
                          may differ by 5%; "..." stands for the rest of a line
    sh, py, r, js         not run; the comment <!-- not run: WHY --> before it has the reason; the
                          flags in sh must be flags of the command

All pages run in the same folder. A page whose examples need runs of another page has the comment
<!-- after: PAGE.md --> at its top.
"""

import ast
import functools
import itertools
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from command_server import CommandServer

import jaxlm
from jaxlm.models import MODELS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FRONT, CHINESE = ROOT / "README.md", ROOT / "README.zh.md"
PAGES = [FRONT, *sorted(DOCS.glob("*.md"))]
TEXTS = [*PAGES, CHINESE, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"]
NOT_RUN = ("sh", "py", "r", "js")
LANGUAGES = {"bash", "python", "text", "toml", "json", "", *NOT_RUN}
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)(?P<options>[^\n]*)\n(?P<code>.*?)^(?P=indent)```$",
    re.M | re.S,
)
NUMBER = re.compile(r"\d+\.\d+(?:e-?\d+)?")

# A single worker runs all pages, because they share a folder and a server.
pytestmark = pytest.mark.xdist_group("docs")


@dataclass(frozen=True)
class Block:
    """A fenced block: language, options after the language, code, and the comment before it."""

    language: str
    options: str
    code: str
    comment: str


def read(path):
    return path.read_text(encoding="utf-8")


@functools.cache
def blocks(page):
    text, found = read(page), []
    for match in FENCE.finditer(text):
        before = text[: match.start()].rstrip().splitlines()[-1:] or [""]
        comment = re.fullmatch(r"<!-- (.*) -->", before[0].strip())
        code = re.sub(rf"^{match['indent']}", "", match["code"], flags=re.M)
        found.append(
            Block(match["language"], match["options"], code, comment[1] if comment else "")
        )
    return found


def blocks_in(page, language):
    return [block for block in blocks(page) if block.language == language]


def here(path):
    return str(path.relative_to(ROOT))


# The examples of README.md are in the quick tier, and the examples of docs/ in the full tier.
every_page = pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=here(page), marks=() if page == FRONT else pytest.mark.full)
        for page in PAGES
    ],
)
every_text = pytest.mark.parametrize("page", TEXTS, ids=here)


def script(page):
    """Return the shell program of a page."""
    parts = ["set -euo pipefail"]
    for block in blocks(page):
        title = re.search(r'title="([^"]+)"', block.options)
        if block.language == "bash":
            lines = [line.removeprefix("pip install -e . && ") for line in block.code.splitlines()]
            parts += [line for line in lines if not line.startswith("pip install")]
        elif block.language == "python" and title:
            parts.append(f"cat > {title[1]} <<'END_OF_FILE'\n{block.code}END_OF_FILE")
        elif block.language == "python" and block.comment == "continues":
            parts[-1] = parts[-1].removesuffix("END_OF_CODE") + block.code + "END_OF_CODE"
        elif block.language == "python":
            parts.append(f"python - <<'END_OF_CODE'\n{block.code}END_OF_CODE")
    return "\n".join(parts)


class Shell:
    """Run each page once, all in the same folder, and keep their output."""

    def __init__(self, folder, path):
        self.folder, self.path, self.done = folder, path, {}

    def run(self, page):
        for name in re.findall(r"^<!-- after: (\S+) -->$", read(page), re.M):
            self.run(DOCS / name)
        if page not in self.done:
            # README.md has another folder, because docs/ uses the same names of runs.
            folder = self.folder / ("front" if page == FRONT else "")
            folder.mkdir(exist_ok=True)
            self.done[page] = self.call(["bash", "-c", script(page)], folder)
        done = self.done[page]
        assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def call(self, command, folder=None):
        return subprocess.run(
            command,
            cwd=folder or self.folder,
            env=os.environ | self.path,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=300,
        )

    @functools.cache  # noqa: B019
    def flags(self, command, choice):
        """Return the flags in the help of a command, with --model or --recipe as `choice`."""
        done = self.call(["python", "-m", command, *choice, "--help-all"])
        assert done.returncode == 0, done.stderr
        return set(re.findall(r"--[a-z][a-z0-9-]*", done.stdout))


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    bin_folder = tmp_path_factory.mktemp("bin")
    # Tables are wide. `python` and `jaxlm` call the server; other programs are on the usual PATH.
    wide = {"COLUMNS": "120", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    path = os.pathsep.join([str(bin_folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    with CommandServer(bin_folder, os.environ | wide):
        yield Shell(tmp_path_factory.mktemp("pages"), wide | {"PATH": path})


@every_page
def test_every_example_runs_and_prints_what_the_page_shows(page, shell):
    printed = [skeleton(line) for line in shell.run(page).splitlines()]
    for block in blocks_in(page, "text"):
        for line in filter(str.strip, block.code.splitlines()):
            assert any(same(skeleton(line), found) for found in printed), line


def skeleton(line):
    """Return a line without decimal numbers, bars and runs of blanks; and its decimal numbers."""
    plain = re.sub(r"[\s█]+", " ", line).strip()
    return NUMBER.sub("#", plain), [float(number) for number in NUMBER.findall(plain)]


def same(shown, printed):
    """Return whether a printed line is the line that a page shows."""
    (words, numbers), (all_words, found) = shown, printed
    if words.endswith("..."):
        words = words.removesuffix("...").rstrip()
        all_words, found = all_words[: len(words)], found[: len(numbers)]
    if words != all_words or len(numbers) != len(found):
        return False
    return all(abs(a - b) <= 0.005 + 0.05 * abs(a) for a, b in zip(numbers, found, strict=True))


@every_text
def test_blocks_have_a_known_language_or_a_reason_not_to_run(page):
    for block in blocks(page):
        assert block.language in LANGUAGES, block
        if block.language in NOT_RUN:
            assert block.comment.startswith("not run: "), f"say why this is not run: {block.code}"


@every_text
def test_flags_in_blocks_that_are_not_run_exist(page, shell):
    for block in blocks_in(page, "sh"):
        for line in block.code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            after = dict(itertools.pairwise(words))
            command = after.get("-m", "")
            if command.startswith("jaxlm.") and command not in FOREIGN:
                check_flags(shell, command, words)
            elif after.get("python", "").endswith(".py"):
                assert (ROOT / after["python"]).exists(), line


# Commands with the flags of another program.
FOREIGN = {"jaxlm.interop.lm_eval"}


def check_flags(shell, command, words):
    given = [word for word in words if word.startswith("--")]
    choice = ()
    for flag, table in (("--recipe", jaxlm.RECIPES), ("--model", MODELS)):
        if flag in given:
            name = words[words.index(flag) + 1]
            assert name in table, f"{flag} {name}"
            choice = (flag, name)
    unknown = set(given) - shell.flags(command, choice)
    assert not unknown, f"{command} has no {' '.join(sorted(unknown))}"


def test_the_chinese_front_page_has_the_same_commands():
    for language in ("bash", "sh", "text"):
        assert [b.code for b in blocks_in(CHINESE, language)] == [
            b.code for b in blocks_in(FRONT, language)
        ]
    english, chinese = (
        [ast.dump(ast.parse(block.code)) for block in blocks_in(page, "python")]
        for page in (FRONT, CHINESE)
    )
    assert english == chinese


def test_the_cell_of_the_manual_is_twenty_lines():
    code = next(b.code for b in blocks_in(DOCS / "add-a-cell.md", "python") if "(Cell)" in b.code)
    body = code[code.index("class") :].strip().splitlines()
    end = next((n for n, line in enumerate(body) if line and n and line[0] not in " #"), len(body))
    assert len("\n".join(body[:end]).strip().splitlines()) <= 20


def test_the_front_page_is_short():
    assert len(read(FRONT).splitlines()) <= 140


# Folders that get a file for each new cell, head, format or recipe. The tree may leave these out.
OPEN_FOLDERS = ("jaxlm/models/cells/", "jaxlm/models/heads/", "jaxlm/interop/", "jaxlm/recipes/")


def test_the_file_tree_names_every_module():
    tree = next(b.code for b in blocks_in(DOCS / "design.md", "") if b.code.startswith("jaxlm/"))
    named = set(tree_paths(tree))
    existing = {here(path) for path in (ROOT / "jaxlm").rglob("*.py") if path.name != "__init__.py"}
    assert named <= existing
    assert [path for path in sorted(existing - named) if not path.startswith(OPEN_FOLDERS)] == []


def tree_paths(tree):
    """Yield the paths of files in an indented tree. Folders end in "/"; a level is two blanks."""
    parents = []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        words = line.split()
        parents = parents[:depth]
        if words and words[0].endswith("/"):
            parents.append(words[0])
            words = words[1:]
        for word in words:
            if not word.endswith(".py"):
                break
            yield "".join(parents) + word


@every_text
def test_paths_on_the_pages_exist(page):
    for name in re.findall(r"`((?:jaxlm|tests|experiments|docs)/[\w./-]+)`", read(page)):
        # Files whose names begin with "my_" are written by the reader.
        assert (ROOT / name).exists() or "my_" in name, name


@every_text
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", read(page)):
        if not re.match(r"\w+:", target):
            assert (page.parent / target).exists(), target


def test_the_api_reference_names_every_public_name():
    page = read(DOCS / "api.md")
    for name in jaxlm.__all__:
        assert f"jaxlm.{name}\n" in page or f"`jaxlm.{name}`" in page, name


def test_the_manual_lists_every_page():
    navigation = read(ROOT / "mkdocs.yml")
    for page in DOCS.glob("*.md"):
        assert f" {page.name}\n" in navigation, page.name


def test_the_changelog_has_a_section_for_this_version():
    changelog = read(ROOT / "CHANGELOG.md")
    assert "## [Unreleased]" in changelog
    assert re.search(rf"^## \[{re.escape(jaxlm.__version__)}\]", changelog, re.M)


def test_the_version_is_written_in_one_place():
    assert re.search(r'^dynamic = \["version"\]$', read(ROOT / "pyproject.toml"), re.M)
    assert jaxlm.__version__ not in read(ROOT / "CITATION.cff")
