"""The application: its endpoints, and the workers behind them."""

import asyncio
import contextlib
import hashlib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from starlette.exceptions import HTTPException

from jaxlm.errors import UserError, choose
from jaxlm.evaluation.generation import SamplingConfig
from jaxlm.evaluation.sentences import run_names
from jaxlm.models.registry import describe_model
from jaxlm.runs.run import Run
from jaxlm.runs.starts import STARTS, start_of
from jaxlm.serving import schema
from jaxlm.serving.guard import FAILED, JSON_TYPE, Application, Guard, as_json
from jaxlm.serving.jobs import GenerateJob, Job, NextJob, ScoreJob
from jaxlm.serving.limits import Limits, Refusal
from jaxlm.serving.worker import ROWS, WAIT, Worker

ENDPOINTS = "GET /runs, POST /next, POST /score, POST /generate, GET /health, GET /openapi.json"
DESCRIPTION = """Next words, surprisals and continuations of classic language models.

A request that cannot be answered gets a status of 4xx or 5xx and {"error": "one line"}."""
REFUSED: dict[int | str, dict[str, Any]] = {
    status: {"model": schema.Problem, "description": about}
    for status, about in {
        400: "The body is no JSON.",
        404: "There is no such run.",
        413: "The text or the body is too large.",
        415: "The header Content-Type is not application/json.",
        422: "A field has a value that it cannot have.",
        503: "The service is full.",
        504: "The answer took too long.",
    }.items()
}


@contextlib.contextmanager
def serving(
    runs: Sequence[Run],
    *,
    limits: Limits | None = None,
    rows: int = ROWS,
    wait: float = WAIT,
    page: str | None = None,
    hosts: Collection[str] | None = None,
    origins: Sequence[str] = (),
) -> Iterator[Application]:
    """Return a context with an ASGI application that serves runs.

    All programs are compiled first. The workers of the runs work until the context ends.

    Example:
      >>> import jaxlm
      >>> from fastapi.testclient import TestClient
      >>> text = jaxlm.read_corpus("toy", eos=False)
      >>> run = jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=3), text, quiet=True)
      >>> with serving([run]) as application:
      ...     client = TestClient(application)
      ...     client.post("/next", json={"text": "我 讨厌"}).json()["words"][0]["word"]
      '挨打'

    Args:
      runs: the runs; a request that names no run asks the first.
      limits: the limits of the service.
      rows: the largest number of rows in a batch; 1 for no batches.
      wait: seconds that an idle worker waits for more requests after the first.
      page: the HTML of /, or None.
      hosts: the hosts that a request may name in its header Host; None for any.
      origins: the origins of web pages that may ask this service (CORS).
    Raises:
      UserError: without a run, and for two runs of one name.
    """
    if not runs:
        raise UserError("there is no run to serve: give at least one")
    limits = limits or Limits()
    names = run_names([run.name for run in runs])
    workers = {
        name: Worker(run, rows=rows, wait=wait, limits=limits)
        for name, run in zip(names, runs, strict=True)
    }

    with contextlib.ExitStack() as stack:
        for worker in workers.values():
            worker.warm_up()
            stack.enter_context(worker)
        yield make_app(workers, limits, page, hosts, origins)


def make_app(
    workers: Mapping[str, Worker],
    limits: Limits,
    page: str | None = None,
    hosts: Collection[str] | None = None,
    origins: Sequence[str] = (),
) -> Application:
    """Return the ASGI application that passes requests to workers.

    Args:
      workers: the workers, already started, by the names of their runs. The first is the default.
      limits: the largest texts, bodies and numbers of requests that are accepted.
      page: the HTML page at /; None for no page.
      hosts: names of this server that a request may have in its header `Host`; None for any.
      origins: origins of pages whose scripts may call the service.
    """
    names = list(workers)
    # The pages that FastAPI has at /docs load their scripts from another host.
    app = FastAPI(
        title="jaxlm",
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
    )
    guard = Guard(app, limits, hosts)
    content = None if page is None else page.encode()
    tag = "" if content is None else f'"{hashlib.sha256(content).hexdigest()[:32]}"'

    async def ask(name: str | None, job: Job, request: Request) -> Response:
        name = names[0] if name is None else name
        answer = await answer_of(workers[name], job, request)
        return as_response({"run": name, **_without_nan(answer)})

    def check_run(name: str | None) -> None:
        if name is None:
            return
        try:
            choose(workers, name, "run")
        except UserError as error:
            raise Refusal(404, str(error)) from None

    @app.get("/", include_in_schema=False)
    async def front(request: Request) -> Response:
        if content is None:
            raise Refusal(404, f"there is no page here: ask {ENDPOINTS}")
        headers = {"Cache-Control": "no-cache", "ETag": tag}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type="text/html", headers=headers)

    @app.get("/runs", response_model=schema.RunsAnswer)
    async def list_runs() -> Response:
        """Return the runs that are served, and the limits."""
        listed = [describe(name, worker.run) for name, worker in workers.items()]
        return as_response({"runs": listed, "limits": asdict(limits)})

    @app.get("/health", response_model=schema.HealthAnswer)
    async def health() -> Response:
        """Return whether the service works."""
        works = all(worker.is_alive for worker in workers.values())
        # This request waits too.
        answer = {"status": "ok" if works else "failed", "waiting": guard.waiting - 1}
        return as_response(answer, 200 if works else 503)

    @app.post("/next", response_model=schema.NextAnswer, responses=REFUSED)
    async def next_words(body: schema.NextRequest, request: Request) -> Response:
        """Return the most probable next words after a text, with their probabilities."""
        check_run(body.run)
        settings = schema.within(body, top=limits.max_top)
        return await ask(body.run, NextJob(limits, **settings), request)

    @app.post("/score", response_model=schema.ScoreAnswer, responses=REFUSED)
    async def score(body: schema.ScoreRequest, request: Request) -> Response:
        """Return the surprisal of each word of sentences, in bits."""
        check_run(body.run)
        settings = schema.within(body)
        return await ask(body.run, ScoreJob(limits, **settings), request)

    @app.post("/generate", response_model=schema.GenerateAnswer, responses=REFUSED)
    async def generate(body: schema.GenerateRequest, request: Request) -> Response:
        """Return continuations of a prompt."""
        check_run(body.run)
        settings = schema.within(body, length=limits.max_length)
        prompt = settings.pop("prompt")
        config = SamplingConfig(**settings | {"stop": tuple(body.stop)})
        return await ask(body.run, GenerateJob(limits, prompt, config), request)

    @app.exception_handler(UserError)
    async def refused(request: Request, error: Exception) -> Response:
        return as_problem(getattr(error, "status", 422), str(error))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        # The guard logs it.
        return as_problem(500, FAILED)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: Any) -> Response:
        fields = list(FIELDS[request.scope["route"].path])
        return as_problem(422, schema.problem_of(error.errors(), fields))

    @app.exception_handler(HTTPException)
    async def not_found(request: Request, error: Any) -> Response:
        whys = {
            400: "the body cannot be read",
            404: f"there is no {schema.shorter(request.url.path)}",
            405: f"{request.url.path} does not take {request.method}",
        }
        why = whys.get(error.status_code, str(error.detail))
        answer = as_problem(error.status_code, f"{why}: ask {ENDPOINTS}")
        answer.headers.update(error.headers or {})
        return answer

    if origins:
        return CORSMiddleware(
            guard,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Content-Type"],
        )
    return guard


FIELDS = {
    "/next": schema.NextRequest.model_fields,
    "/score": schema.ScoreRequest.model_fields,
    "/generate": schema.GenerateRequest.model_fields,
}


async def answer_of(worker: Worker, job: Job, request: Request) -> dict[str, Any]:
    """Return the answer of a job; cancel the job if the client goes.

    Raises:
      UserError: if the run cannot do what is asked.
      ConnectionError: if the client went.
    """
    answer = asyncio.wrap_future(worker.submit(job))
    gone = asyncio.ensure_future(_gone(request))
    try:
        both: set[asyncio.Future[Any]] = {answer, gone}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        raise ConnectionError("the client is gone")
    finally:
        # In a timeout too. This cancels the job itself.
        answer.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    """Return when the client closes the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def describe(name: str, run: Run) -> dict[str, Any]:
    """Return what /runs says of a run."""
    default = start_of(run).name
    others = [start for start in STARTS if start != default and default != STARTS[0]]
    return {
        "name": name,
        "model": describe_model(run.model)[0],
        "tokens": run.tokenizer.unit,
        "vocabulary": len(run.vocabulary),
        "starts": [default, *others],
    }


def as_response(value: Any, status: int = 200) -> Response:
    """Return an answer of JSON."""
    return Response(as_json(value), status, media_type=JSON_TYPE)


def as_problem(status: int, line: str) -> Response:
    """Return a problem in one line."""
    return as_response({"error": " ".join(line.split())}, status)


def _without_nan(value: Any) -> Any:
    """Return a value of JSON with null in the place of numbers that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    return [_without_nan(item) for item in value] if isinstance(value, list) else value
