"""A browser without network for the tests of pages: the system's Chromium, driven by playwright.

Tests of pages are skipped where there is no Chromium or no playwright. All of them run in one
worker, one after another, because they share one browser.
"""

import os
import shutil
from pathlib import Path

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# The browser resolves no name of a host, so that a page cannot reach anything.
ARGUMENTS = ("--host-resolver-rules=MAP * ~NOTFOUND", "--disable-background-networking")
FOLDER = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Run the tests of this folder in one worker of pytest-xdist."""
    for item in items:
        if item.path.is_relative_to(FOLDER):
            item.add_marker(pytest.mark.xdist_group("browser"))


# The browser ends after the last test of this folder, not of the session: while playwright's
# synchronous interface is in use, an event loop runs in this thread, and other tests start theirs.
@pytest.fixture(scope="package")
def browser():
    """Start Chromium without network; skip the test where Chromium or playwright is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no Chromium on PATH: looked for {', '.join(BROWSERS)}")
    # Chromium's sandbox does not work for root, and pages of our own need none.
    arguments = [*ARGUMENTS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=program, args=arguments)
        yield started
        started.close()


class Pages:
    """The pages of a test, each in a window of its own, and what they did wrong.

    Attributes:
      mistakes: messages on the console, errors, and requests for anything but the page's own file.
    """

    def __init__(self, browser):
        self.browser, self.windows, self.mistakes = browser, [], []

    def __call__(self, path, *, width=1280, height=900, dark=False, language="en-US", touch=False):
        """Open a file, and return playwright's page."""
        window = self.browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            locale=language,
            has_touch=touch,
            offline=True,
        )
        self.windows.append(window)
        window.grant_permissions(["clipboard-read", "clipboard-write"])
        address = Path(path).resolve().as_uri()
        page = window.new_page()
        page.on("console", lambda message: self._note(f"console {message.type}: {message.text}"))
        page.on("pageerror", lambda error: self._note(f"error: {error}"))
        page.on("request", lambda request: self._check_request(request.url, address))
        page.goto(address)
        return page

    def _note(self, mistake):
        self.mistakes.append(mistake)

    def _check_request(self, url, address):
        if url.partition("#")[0] != address:
            self._note(f"request: {url[:200]}")

    def close(self):
        for window in self.windows:
            window.close()


@pytest.fixture
def open_page(browser):
    """Return a function that opens a file in the browser: `Pages`.

        page = open_page(path, width=390, dark=True, language="zh-CN")

    The test fails at its end if an opened page wrote to the console, raised an error or asked for
    anything but its own file.
    """
    pages = Pages(browser)
    yield pages
    pages.close()
    assert not pages.mistakes
