"""The browser of the tests has no network, and notes what a page does wrong."""

import pytest

SILENT = "<!doctype html><title>page</title><p id=text>text</p>"
MISTAKES = {
    "console": "<script>console.log('said')</script>",
    "error": "<script>throw new Error('thrown')</script>",
    "request": "<img src='https://example.org/picture.png'>",
}


def test_a_silent_page_is_opened_without_network(tmp_path, open_page):
    (tmp_path / "page.html").write_text(SILENT, encoding="utf-8")
    page = open_page(tmp_path / "page.html", width=390)
    assert page.inner_text("#text") == "text" and page.evaluate("innerWidth") == 390
    assert not page.evaluate("navigator.onLine")


@pytest.mark.full
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_of_a_page_are_noted(tmp_path, open_page, mistake):
    (tmp_path / "page.html").write_text(SILENT + MISTAKES[mistake], encoding="utf-8")
    page = open_page(tmp_path / "page.html")
    page.wait_for_timeout(100)
    assert open_page.mistakes[0].startswith(mistake)
    open_page.mistakes.clear()
