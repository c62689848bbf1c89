"""docs/serve.md: a real server gets every call of the page, which prints what the page shows."""

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.full
PAGE = Path(__file__).parents[2] / "docs" / "serve.md"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
URL = "http://127.0.0.1:8000"
PROGRAMS = {
    "sh": ["bash", "-c", 'curl() { command curl -sS "$@" && echo; }; source ./file'],
    "py": [sys.executable, "file"],
    "r": ["Rscript", "file"],
    "js": ["node", "file.mjs"],
}
BLOCKS = FENCE.findall(PAGE.read_text(encoding="utf-8"))
# A block with a call, and the block that shows what it prints.
CALLS = [
    (language, code, BLOCKS[place + 1][1])
    for place, (language, code) in enumerate(BLOCKS)
    if language in PROGRAMS and URL in code
]


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    made = next(code for language, code in BLOCKS if language == "bash")
    made = made.replace("python ", f"{sys.executable} ")
    subprocess.run(["bash", "-ec", made], cwd=folder, check=True, capture_output=True)
    server = subprocess.Popen(
        [sys.executable, "-m", "jaxlm.serve", "runs/cats", "--port", "0"],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield server.stdout.readline().split()[1]
    server.send_signal(signal.SIGTERM)
    assert server.wait(60) == 0
    server.stdout.close()


def has_packages(language, code):
    """Return whether the packages of R that a program loads are installed."""
    if language != "r":
        return True
    names = re.findall(r"library\((\w+)\)", code)
    test = f"quit(status = !all(sapply(c({names!r}), requireNamespace)))"
    test = test.replace("[", "").replace("]", "")
    return subprocess.run(["Rscript", "-e", test], capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("language", "code", "shown"),
    [pytest.param(*call, id=f"{call[0]}-{number}") for number, call in enumerate(CALLS)],
)
def test_a_call_of_the_page_prints_what_the_page_shows(language, code, shown, url, tmp_path):
    command = PROGRAMS[language]
    if shutil.which(command[0]) is None or not has_packages(language, code):
        pytest.skip(f"{command[0]} or a package of it is not installed")
    name = "file.mjs" if language == "js" else "file"
    (tmp_path / name).write_text(code.replace(URL, url))
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == shown.split()


def test_the_page_has_calls_of_every_language():
    assert {language for language, *_ in CALLS} == set(PROGRAMS)
