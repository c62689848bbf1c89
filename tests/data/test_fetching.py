"""Corpora are fetched once, checked and cached; failures give clear errors."""

import gc
import hashlib
import http.server
import threading

import pytest

from jaxlm.data.corpora import CORPORA, Corpus, RemoteFile, cache_folder, fetch
from jaxlm.data.text import read_corpus
from jaxlm.errors import UserError


class Server(http.server.HTTPServer):
    """Serve `files` (path -> bytes) on a free port, and record the requested paths in `hits`."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.hits = {}, []

    def remote(self, path, content, sha256=None):
        self.files[path] = content
        return RemoteFile(
            f"http://127.0.0.1:{self.server_port}{path}",
            sha256 or hashlib.sha256(content).hexdigest(),
        )


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.hits.append(self.path)
        content = self.server.files.get(self.path)
        self.send_response(404 if content is None else 200)
        cut_short = "short" in self.path
        self.send_header("Content-Length", str(len(content or b"") + 10 * cut_short))
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
    # The library `requests` leaves the socket of a failed answer to the garbage collector, which
    # warns. It must warn in this test, which allows the warning, and not in a later test.
    gc.collect()


def test_a_file_is_fetched_once_per_cache(server, tmp_path):
    content = "我 喜欢 玩具\n".encode() * 100
    remote = server.remote("/data/a.txt", content)
    path = fetch(remote, tmp_path / "cache")
    assert path.parent == tmp_path / "cache"
    assert path.read_bytes() == content
    assert fetch(remote, tmp_path / "cache") == path
    assert server.hits == ["/data/a.txt"]
    fetch(remote, tmp_path / "another cache")
    assert len(server.hits) == 2


def test_files_of_equal_name_do_not_collide(server, tmp_path):
    contents = [b"one", b"two"]
    remotes = [server.remote(f"/{text.decode()}/input.txt", text) for text in contents]
    paths = [fetch(remote, tmp_path) for remote in remotes]
    assert [path.read_bytes() for path in paths] == contents


def test_a_damaged_file_is_fetched_again(server, tmp_path):
    remote = server.remote("/a.txt", b"good text")
    path = fetch(remote, tmp_path)
    path.write_bytes(b"good")
    assert fetch(remote, tmp_path).read_bytes() == b"good text"
    assert len(server.hits) == 2


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_file_with_another_hash_is_an_error(server, tmp_path):
    remote = server.remote("/a.txt", b"changed", hashlib.sha256(b"expected").hexdigest())
    with pytest.raises(
        UserError, match=r"is not the expected text \(its sha256 differs\)"
    ) as caught:
        fetch(remote, tmp_path)
    assert remote.url in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("failure", ["not found", "cut short", "gone"])
def test_a_failed_fetch_is_an_error_and_leaves_no_file(failure, server, tmp_path):
    remote = server.remote("/short.txt" if failure == "cut short" else "/a.txt", b"text")
    if failure == "not found":
        server.files.clear()
    if failure == "gone":
        server.shutdown()
        server.server_close()
    with pytest.raises(UserError, match="cannot fetch http://127") as caught:
        fetch(remote, tmp_path)
    assert remote.url in str(caught.value)
    assert "train.txt, valid.txt, test.txt" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_corpus_by_name_is_fetched_into_the_cache(server, tmp_path, monkeypatch):
    files = {
        split: server.remote(f"/{split}.txt", text.encode())
        for split, text in (("train", "a b c\na b\n"), ("valid", "b a\n"))
    }
    monkeypatch.setitem(CORPORA, "served", Corpus("a test", files))
    monkeypatch.setenv("JAXLM_CACHE", str(tmp_path / "cache"))
    for _ in range(2):
        text = read_corpus("served")
        assert text.valid.tokenizer.decode(text.valid.ids.tolist()) == "b a\n"
        assert text.test is None
        assert sorted(server.hits) == ["/train.txt", "/valid.txt"]
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_corpus_has_default_tokens_and_fractions(server, tmp_path, monkeypatch):
    files = {"all": server.remote("/all.txt", b"abcdefghij")}
    served = Corpus("a test", files, tokens="bytes", fractions=(0.8, 0.2))
    monkeypatch.setitem(CORPORA, "served", served)
    monkeypatch.setenv("JAXLM_CACHE", str(tmp_path))
    text = read_corpus("served")
    assert text.tokenizer.name == "bytes"
    assert {name: len(split) for name, split in text.splits.items()} == {"train": 8, "valid": 2}
    text = read_corpus("served", tokens="chars", fractions=(0.5, 0.3, 0.2))
    assert text.tokenizer.name == "chars"
    assert [len(split) for split in text.splits.values()] == [5, 3, 2]


def test_the_cache_folder_is_chosen_by_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXLM_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    for unset in (lambda: monkeypatch.delenv("JAXLM_CACHE"), lambda: None):
        unset()
        assert cache_folder().name == "jaxlm"
        monkeypatch.setenv("JAXLM_CACHE", "")
