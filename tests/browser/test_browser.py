"""The browser of the tests has no network, and notes what a page does wrong."""

import http.server
import threading
import urllib.request

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
    # A server of this machine, which answers this process, does not answer the page either.
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        assert urllib.request.urlopen(address).status == 200
        assert not page.evaluate(f"fetch('{address}').then(() => true, () => false)")
        server.shutdown()
    # Both are noted: the request, and the error on the console.
    assert {mistake.split()[0] for mistake in open_page.mistakes} == {"request:", "console"}
    open_page.mistakes.clear()


class Answering(http.server.BaseHTTPRequestHandler):
    """Answers any request, of any origin."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Access-Control-Allow-Origin", "*")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.mark.full
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_of_a_page_are_noted(tmp_path, open_page, mistake):
    (tmp_path / "page.html").write_text(SILENT + MISTAKES[mistake], encoding="utf-8")
    page = open_page(tmp_path / "page.html")
    page.wait_for_timeout(100)
    assert open_page.mistakes[0].startswith(mistake)
    open_page.mistakes.clear()
