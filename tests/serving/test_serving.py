"""The service over HTTP: answers, refusals in one line, and a process that signals end."""

import asyncio
import concurrent.futures
import json
import os
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.routing import Mount

import jaxlm
from jaxlm import serve as command
from jaxlm.data.splitting import SPLITS
from jaxlm.errors import UserError
from jaxlm.evaluation.generation import SamplingConfig
from jaxlm.evaluation.sentences import STARTS, UNITS
from jaxlm.serving import schema
from jaxlm.serving.app import serving
from jaxlm.serving.front_page import front_page
from jaxlm.serving.limits import Limits

LINES = ["the cat sat on the mat\n", "the dog sat on the log\n"] * 3
LIMITS = Limits(max_characters=200, max_body=1000, max_length=70, max_samples=2)


def counted(**options):
    text = jaxlm.read_corpus(LINES, **options)
    model = jaxlm.NGram(len(text.vocabulary), text.vocabulary.start_id, order=3)
    return jaxlm.fit(model, text, quiet=True)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    counted(unk="always").save(folder / "words")
    counted(tokens="chars").save(folder / "chars")
    return [folder / "words", folder / "chars"]


@pytest.fixture(scope="module")
def runs(folders):
    return [jaxlm.load(folder) for folder in folders]


@pytest.fixture(scope="module")
def application(runs):
    with serving(runs, limits=LIMITS, page="<p>a page</p>", hosts=["testserver"]) as found:
        yield found


@pytest.fixture(scope="module")
def client(application):
    return TestClient(application)


def test_next_words_are_those_of_the_library(client, runs):
    answer = client.post("/next", json={"text": "the cat", "top": 3})
    assert answer.status_code == 200
    schema.NextAnswer.model_validate(answer.json())
    found = [(item["word"], item["probability"]) for item in answer.json()["words"]]
    assert found == jaxlm.next_words(runs[0], "the cat", 3)
    other = client.post("/next", json={"text": "the", "run": "chars"}).json()
    assert other["run"] == "chars"
    assert other["words"][0]["word"] == jaxlm.next_words(runs[1], "the", 1)[0][0]


def test_scores_are_those_of_the_library(client, runs):
    sentences = ["the cat sat", "the zebra sat"]
    answer = client.post("/score", json={"sentences": sentences}).json()
    schema.ScoreAnswer.model_validate(answer)
    table = jaxlm.score(runs[0], sentences)
    assert {name: [row[name] for row in answer["rows"]] for name in table} == table
    assert "1 <unk>" in answer["protocol"]
    # A word that is not counted has null, as JSON has no NaN.
    body = {"sentences": sentences[:1], "first": False, "run": "chars", "detail": False}
    rows = client.post("/score", json=body).json()["rows"]
    assert rows[0]["surprisal"] is None and rows[1]["surprisal"] > 0


def test_texts_are_those_of_the_library(client, runs):
    body = {"prompt": "the", "length": 20, "samples": 2, "temperature": 0.8, "top_p": 0.9}
    for seed in (0, 5):
        answer = client.post("/generate", json=body | {"seed": seed}).json()
        schema.GenerateAnswer.model_validate(answer)
        options = {name: value for name, value in body.items() if name != "prompt"}
        whole = jaxlm.sample(runs[0], "the", seed=seed, **options)
        assert answer["texts"] == whole
        stop = [whole[0][12:15], "never"]
        answer = client.post("/generate", json=body | {"seed": seed, "stop": stop}).json()
        assert answer["texts"] == jaxlm.sample(
            runs[0], "the", seed=seed, stop=tuple(stop), **options
        )
        assert answer["texts"][0] == whole[0][: whole[0].index(stop[0], 3)]


def test_the_runs_the_page_and_the_schema(client):
    found = client.get("/runs").json()
    schema.RunsAnswer.model_validate(found)
    words, chars = found["runs"]
    assert (words["name"], words["model"], words["tokens"]) == ("words", "ngram", "words")
    assert chars["vocabulary"] > words["vocabulary"] and chars["starts"] == ["fresh"]
    assert found["limits"]["max_length"] == LIMITS.max_length
    assert client.get("/health").json() == {"status": "ok", "waiting": 0}
    page = client.get("/")
    assert page.text == "<p>a page</p>" and page.headers["content-type"].startswith("text/html")
    # A browser that has the page gets no second copy.
    tag = {"If-None-Match": page.headers["etag"]}
    assert client.get("/", headers=tag).status_code == 304
    described = client.get("/openapi.json").json()
    assert set(described["paths"]) == {"/runs", "/health", "/next", "/score", "/generate"}
    assert client.get("/docs").status_code == 404


def test_a_bad_field_is_refused_where_the_application_is_mounted(application):
    mounted = TestClient(
        Starlette(routes=[Mount("/lm", app=application)]), base_url="http://testserver"
    )
    answer = mounted.post("/lm/next", json={"text": "the", "topp": 2})
    assert answer.status_code == 422 and "topp" in answer.json()["error"]


def test_the_schema_has_the_choices_and_the_settings_of_the_library():
    described = json.dumps(schema.ScoreRequest.model_json_schema())
    for choices in (STARTS, UNITS, SPLITS):
        assert all(f'"{choice}"' in described for choice in choices)
    fields = set(schema.GenerateRequest.model_fields) - {"run", "prompt"}
    assert fields == set(SamplingConfig.__dataclass_fields__)
    defaults = SamplingConfig()
    for name in fields:
        default = schema.GenerateRequest.model_fields[name].default
        # JSON has no tuples.
        assert (tuple(default) if isinstance(default, list) else default) == getattr(defaults, name)


REFUSALS = [
    ("/next", b"nope", 400, "the body is no JSON"),
    ("/next", b"\xff{}", 400, "not UTF-8 at byte 0"),
    ("/next", b"[" * 400 + b"]" * 400, 400, "nested more than 20 levels deep"),
    ("/next", b'{"text": ' + b"1" * 900 + b"}", 422, "must be a string"),
    ("/next", b"[1]", 422, "the body must be a JSON object"),
    ("/next", b"{}", 422, "`text` is missing"),
    ("/next", b'{"text": 3}', 422, "`text` 3: must be a string"),
    ("/next", b'{"text": "a", "topp": 3}', 422, "unknown field `topp` (did you mean `top`?)"),
    ("/next", b'{"text": "a", "\\ud800": 3}', 422, "the body must be a JSON object"),
    ("/next", b'{"text": "\\ud800"}', 422, "not valid UTF-8"),
    ("/next", b'{"text": "a", "top": 0}', 422, "`top` 0: must be"),
    ("/next", b'{"text": "a", "top": true}', 422, "must be an integer"),
    ("/next", b'{"text": "a", "start": "warm"}', 422, "use `start` fresh"),
    ("/next", b'{"text": "a", "run": "word"}', 404, "did you mean 'words'?"),
    ("/next", b'{"text": "\xc3\xa9", "run": "chars"}', 422, "is not among the"),
    ("/next", b'{"text": "%s"}' % (b"a" * 201), 413, "201 characters are more than the 200"),
    ("/next", b'{"text": "%s"}' % (b"a" * 2000), 413, "this server takes 1,000: send less"),
    ("/score", b'{"sentences": "one"}', 422, "must be a list"),
    ("/score", b'{"sentences": ["a", 3]}', 422, "`sentences[1]` 3: must be a string"),
    ("/score", b'{"sentences": []}', 422, "there is no sentence"),
    ("/score", b'{"sentences": ["a\\nb"]}', 422, "has a line break"),
    ("/score", b'{"sentences": ["\\udfff"]}', 422, "not valid UTF-8"),
    ("/score", b'{"sentences": ["a"], "words": "x"}', 422, "must be 'spaces' or 'characters'"),
    ("/generate", b'{"temperature": NaN}', 422, "must be a finite number"),
    ("/generate", b'{"temperature": 1e300}', 422, "finite in float32"),
    ("/generate", b'{"max_tokens": 3}', 422, "did you mean `length`?"),
    ("/generate", b'{"length": 71}', 413, "more than the 70 that this server takes"),
    ("/generate", b'{"samples": 3, "length": 9}', 413, "more than the 2 that this server takes"),
    ("/generate", b'{"seed": -1}', 422, "`seed` -1"),
    ("/generate", b'{"stop": "a"}', 422, "`stop` 'a': must be a list"),
    ("/generate", b'{"stop": [""]}', 422, "`stop` '': is an empty text"),
    ("/generate", b'{"prompt": null}', 422, "`prompt` null"),
]


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [pytest.param(*case, id=f"{case[0]}: {case[3]}") for case in REFUSALS],
)
def test_a_bad_request_gets_one_line(client, path, body, status, words):
    answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    error = answer.json()["error"]
    assert words in error and "\n" not in error and len(error) < 500


def test_a_default_above_a_limit_is_cut_to_the_limit(folders):
    run = jaxlm.load(folders[0])
    with serving([run], limits=Limits(max_length=4, max_top=2)) as application:
        small = TestClient(application, base_url="http://127.0.0.1")
        words = small.post("/next", json={"text": "the"}).json()["words"]
        assert len(words) == 2
        answer = small.post("/generate", json={"prompt": "the"})
        assert answer.status_code == 200
        asked = small.post("/generate", json={"prompt": "the", "length": 4}).json()
        assert answer.json()["texts"] == asked["texts"]
        assert small.post("/generate", json={"prompt": "the", "length": 5}).status_code == 413


def test_other_paths_methods_types_and_hosts_get_one_line(client):
    for answer, status, words in (
        (client.get("/nothing"), 404, "there is no '/nothing': ask GET /runs"),
        (client.get("/next"), 405, "/next does not take GET"),
        (client.post("/next", content=b'{"text": "a"}'), 415, "send JSON"),
        (client.get("/runs", headers={"Host": "evil.example"}), 421, "the header Host"),
    ):
        assert answer.status_code == status and words in answer.json()["error"]


def test_a_failure_is_logged_once_and_shows_no_traceback(runs, caplog, monkeypatch):
    def failing(*arguments):
        raise FloatingPointError("a secret")

    with serving(runs[:1]) as application:
        monkeypatch.setattr("jaxlm.serving.engines.Counted.read", failing)
        answer = TestClient(application).post("/next", json={"text": "the"})
    assert answer.status_code == 500
    assert answer.json() == {"error": "the server failed: its log says why"}
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == [
        "POST '/next' failed"
    ]
    assert "a secret" in caplog.text


def ask_at_once(application, count, body):
    async def ask():
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
            return await asyncio.gather(*[client.post("/next", json=body) for _ in range(count)])

    return asyncio.run(ask())


def test_a_full_service_says_when_to_try_again(runs):
    with serving(runs[:1], limits=Limits(max_requests=2), wait=0.05) as application:
        answers = ask_at_once(application, 6, {"text": "the"})
        again = TestClient(application).post("/next", json={"text": "the"})
    statuses = [answer.status_code for answer in answers]
    assert sorted(statuses) == [200, 200, 503, 503, 503, 503]
    full = next(answer for answer in answers if answer.status_code == 503)
    assert full.headers["retry-after"] == "1" and "try again" in full.json()["error"]
    assert again.status_code == 200


def test_a_late_answer_is_an_error(runs):
    # The worker collects requests for longer than the limit.
    with serving(runs[:1], limits=Limits(timeout=0.05), wait=0.4) as application:
        answer = TestClient(application).post("/next", json={"text": "the"})
    assert answer.status_code == 504 and "no answer after 0.05 s" in answer.json()["error"]


def test_other_origins_may_ask_only_if_they_are_allowed(runs, client):
    headers = {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "POST"}
    assert client.options("/next", headers=headers).status_code == 405
    with serving(runs[:1], origins=["http://localhost:3000"]) as application:
        allowed = TestClient(application).options("/next", headers=headers)
        other = TestClient(application).options("/next", headers=headers | {"Origin": "http://x"})
    assert allowed.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert other.status_code == 400


@pytest.mark.full
def test_the_page_leaves_out_runs_that_it_cannot_hold(runs):
    text = jaxlm.read_corpus(LINES)
    model = jaxlm.Transformer(len(text.vocabulary), embedding_size=4, num_layers=1, num_heads=2)
    small = {"steps": 1, "batch_size": 2, "bptt": 4}
    other = jaxlm.fit(model, text, quiet=True, **small)
    notes = []
    page = front_page([other, runs[0]], notes.append)
    assert "<html" in page and len(notes) == 1 and "the page cannot run" in notes[0]
    assert front_page([other], notes.append) is None


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "name at least one run"),
        (["nowhere"], "nowhere"),
        (["RUN", "--port", "99999"], "`port` 99999"),
        (["RUN", "--host", "no.such.host.invalid"], "`host`"),
        (["RUN", "--max-top", "0"], "`max_top` 0"),
        (["RUN", "--allow-origin", "localhost"], "`allow_origin`"),
        (["RUN", "RUN"], "two runs have the name"),
    ],
)
def test_a_mistake_in_the_command_is_one_line(flags, words, folders):
    flags = [str(folders[0]) if flag == "RUN" else flag for flag in flags]
    with pytest.raises(UserError) as error:
        command.main([*flags, *([] if "--port" in flags else ["--port", "0"])])
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_taken_port_is_one_line(folders):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with pytest.raises(UserError, match=f"`port` {port}: cannot be opened"):
            command.main([str(folders[0]), "--port", port])


def start(folders, *flags):
    words = [sys.executable, "-m", "jaxlm.serve", *map(str, folders), "--port", "0", *flags]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    line = process.stdout.readline()
    assert line.startswith("serving http://127.0.0.1:"), process.stderr.read()
    return process, line.split()[1]


@pytest.mark.full
def test_a_process_serves_until_a_signal(folders):
    process, url = start(folders)
    assert "<html" in httpx.get(f"{url}/").text
    # A client that goes in the middle of its request, and one that goes before its answer.
    host, port = url.removeprefix("http://").split(":")
    body = b'{"prompt": "the", "length": 1000, "samples": 8}'
    head = b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    for length in (len(body), len(body) + 10):
        with socket.create_connection((host, int(port))) as gone:
            gone.sendall(head + b"Content-Length: %d\r\n\r\n" % length + body)
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert httpx.post(f"{url}/next", json={"text": "the"}).status_code == 200
    deadline = time.monotonic() + 60
    while httpx.get(f"{url}/health").json()["waiting"] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert httpx.get(f"{url}/health").json() == {"status": "ok", "waiting": 0}
    headers = httpx.head(f"{url}/health")
    assert (headers.status_code, headers.content) == (200, b"")
    # Ctrl-C drops a request that is not answered.
    body = {"prompt": "the", "length": 1000, "samples": 8}
    with concurrent.futures.ThreadPoolExecutor() as pool:
        # The server may have answered the first of them before the signal comes.
        dropped = [
            pool.submit(httpx.post, f"{url}/generate", json=body, timeout=60) for _ in range(8)
        ]
        while not httpx.get(f"{url}/health").json()["waiting"] and not dropped[-1].done():
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        # A request that had no connection yet has no answer.
        answers = [one.result().json() for one in dropped if one.exception() is None]
    assert any("the server ends" in answer.get("error", "") for answer in answers)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors and errors.count("\n") == 1


@pytest.mark.full
def test_sigterm_answers_what_was_asked(folders):
    process, url = start(folders[:1], "--wait-ms", "1500", "--no-page")

    async def ask():
        async with httpx.AsyncClient(timeout=60) as client:
            asked = asyncio.create_task(client.post(f"{url}/next", json={"text": "the"}))
            while (await client.get(f"{url}/health")).json()["waiting"] == 0:
                await asyncio.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            return await asked

    assert asyncio.run(ask()).status_code == 200
    assert process.wait(60) == 0
    process.communicate()
