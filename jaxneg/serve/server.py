"""Recommendations over HTTP: JSON of our own, and the Open Inference Protocol, version 2.

The protocol: https://github.com/kserve/open-inference-protocol. Nothing here unpickles.
"""

import asyncio
import functools
import hmac
import json
import math
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from concurrent import futures
from typing import Any, NamedTuple, TypeVar

import fastapi
import prometheus_client
from fastapi import responses
from starlette import exceptions

from jaxneg.errors import UserError
from jaxneg.files import documents
from jaxneg.serve import requests
from jaxneg.serve.choice import Choice
from jaxneg.serve.histories import Event
from jaxneg.serve.lists import Recommendations, Wanted
from jaxneg.serve.models import Models, NoModel, Sessions
from jaxneg.serve.scorer import Scorer

T = TypeVar("T")
GoOn = Callable[[fastapi.Request], Awaitable[fastapi.Response]]  # to the route of a request

OPEN = (
    "/v2/health/live",
    "/v2/health/ready",
    "/metrics",
)  # asked by what watches the server, without a token
UNHEARD = 503  # too many wait, or it took too long


class Limits(NamedTuple):
    """What a request may cost."""

    body: int = 1 << 20  # bytes
    waiting: int = 256  # requests under way; more are sent away
    seconds: float = 5.0  # until an answer
    threads: int = 2  # that score


class Metrics:
    """For Prometheus."""

    def __init__(self):
        self.registry = prometheus_client.CollectorRegistry()
        self.answers = prometheus_client.Counter(
            "jaxneg_requests", "Answers, by path and status.", ("path", "status"), registry=self.registry
        )
        self.seconds = prometheus_client.Histogram(
            "jaxneg_request_seconds",
            "From the request to its answer.",
            ("path",),
            registry=self.registry,
            buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
        )
        self.waiting = prometheus_client.Gauge(
            "jaxneg_requests_under_way", "Requests that are not answered yet.", registry=self.registry
        )


class Server:
    """What the routes share."""

    def __init__(self, models: Models, limits: Limits, sessions: Sessions):
        self.models, self.limits, self.sessions = models, limits, sessions
        self.metrics = Metrics()
        self.pool = futures.ThreadPoolExecutor(limits.threads, "scorer")
        self.under_way = 0

    async def ran(self, work: Callable[[], T]) -> T:
        """What work gives, in a thread, within the time of a request."""
        loop = asyncio.get_running_loop()
        try:
            return await asyncio.wait_for(loop.run_in_executor(self.pool, work), self.limits.seconds)
        except TimeoutError:
            raise fastapi.HTTPException(
                UNHEARD, f"no answer within {self.limits.seconds:g} s", {"Retry-After": "1"}
            ) from None

    def listener(self, asked: requests.Listener) -> tuple[str, list[Event]]:
        """The model for a listener, and the events known of one, oldest first."""
        name = asked.model or self.models.name_for(asked.user or "")
        history = self.sessions.of(asked.user) if asked.user is not None else []
        return name, history + requests.events(asked.events)

    def recommended(self, name: str, history: Sequence[Event], asked: requests.Asked) -> dict[str, Any]:
        """A list for a history; of what is heard most where the model knows none of its items."""
        scorer, version = self.models.get(name)
        form = scorer.form(asked.form, asked.beta, asked.threshold)
        choice = Choice(asked.exclude, asked.where, asked.at_most)
        wanted = Wanted(history, asked.k, asked.exclude_seen, form, choice, asked.station)
        found = scorer.lists([scorer.ready(wanted)])[0]
        return _answer(name, version, found) | {"unknown": _unknown(scorer, history)}

    def reranked(self, name: str, history: Sequence[Event], asked: requests.Candidates) -> dict[str, Any]:
        """The candidates in order; those that the model does not know beside them."""
        scorer, version = self.models.get(name)
        form = scorer.form(asked.form, asked.beta, asked.threshold)
        found = scorer.rerank(history, asked.candidates, form=form, station=asked.station)
        unknown = [item for item in asked.candidates if not scorer.knows(item)]
        return _answer(name, version, found) | {"unknown": _unknown(scorer, history), "left_out": unknown}

    def explained(self, name: str, history: Sequence[Event], asked: requests.Questioned) -> dict[str, Any]:
        """What each event that the model sees does to an item's score."""
        scorer, version = self.models.get(name)
        form = scorer.form(asked.form, asked.beta, asked.threshold)
        found = scorer.explain(history, asked.item, form=form)
        moved = [one.event._asdict() | {"change": one.change} for one in found]
        return {"model": name, "version": version, "item": asked.item, "events": moved}


def app(
    models: Models, limits: Limits | None = None, token: str = "", sessions: int = 100_000
) -> fastapi.FastAPI:
    """The application, for uvicorn or any server of ASGI.

    Args:
      models: that are served.
      limits: of a request.
      token: that requests must bear, if any.
      sessions: listeners of whom events are kept.
    """
    server = Server(models, limits or Limits(), Sessions(sessions, 10_000))
    made = fastapi.FastAPI(
        title="jaxneg",
        version=documents.VERSION,
        summary="Next items for listeners, from exports of jaxneg",
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
    )
    _own(made, server)
    _protocol(made, server)

    @made.exception_handler(UserError)
    async def mistaken(request: fastapi.Request, error: UserError) -> responses.JSONResponse:
        return responses.JSONResponse({"error": str(error)}, 404 if isinstance(error, NoModel) else 422)

    @made.exception_handler(exceptions.HTTPException)
    async def refused(request: fastapi.Request, error: exceptions.HTTPException) -> responses.JSONResponse:
        return responses.JSONResponse({"error": error.detail}, error.status_code, error.headers)

    @made.exception_handler(fastapi.exceptions.RequestValidationError)
    async def malformed(
        request: fastapi.Request, error: fastapi.exceptions.RequestValidationError
    ) -> responses.JSONResponse:
        said = [f"{'.'.join(map(str, one['loc'][1:] or one['loc']))}: {one['msg']}" for one in error.errors()]
        return responses.JSONResponse({"error": "; ".join(said)[:2_000]}, 422)

    @made.middleware("http")
    async def watched(request: fastapi.Request, go_on: GoOn) -> fastapi.Response:
        return await _watched(server, token, request, go_on)

    return made


def _own(made: fastapi.FastAPI, server: Server) -> None:
    """Routes of our own."""

    @made.post("/recommend")
    async def recommend(asked: requests.Asked) -> dict[str, Any]:
        """The k best next items of a listener, best first."""
        return await server.ran(functools.partial(server.recommended, *server.listener(asked), asked))

    @made.post("/rerank")
    async def rerank(asked: requests.Candidates) -> dict[str, Any]:
        """Candidates of a listener, best first."""
        return await server.ran(functools.partial(server.reranked, *server.listener(asked), asked))

    @made.post("/explain")
    async def explain(asked: requests.Questioned) -> dict[str, Any]:
        """What each event of a listener does to an item's score."""
        return await server.ran(functools.partial(server.explained, *server.listener(asked), asked))

    @made.post("/feedback")
    async def feedback(happened: requests.Happened) -> dict[str, Any]:
        """Keeps events of a user, for lists that are asked for later."""
        name = server.models.name_for(happened.user)
        scorer, _ = server.models.get(name)
        events = requests.events(happened.events)
        scorer.check(events)
        return {"user": happened.user, "events": server.sessions.add(happened.user, events)}

    @made.get("/metrics", response_class=responses.PlainTextResponse)
    async def metrics() -> responses.Response:
        """Figures for Prometheus."""
        found = prometheus_client.generate_latest(server.metrics.registry)
        return responses.Response(found, media_type=prometheus_client.CONTENT_TYPE_LATEST)


def _protocol(made: fastapi.FastAPI, server: Server) -> None:
    """Routes of the Open Inference Protocol, and one to load an export anew, as Triton has it."""

    @made.get("/v2/health/live")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @made.get("/v2/health/ready")
    async def ready() -> dict[str, bool]:
        return {"ready": True}

    @made.get("/v2")
    async def about() -> dict[str, Any]:
        return {"name": "jaxneg", "version": documents.VERSION, "extensions": ["model_repository"]}

    @made.get("/v2/models/{name}/ready")
    async def model_ready(name: str) -> dict[str, Any]:
        server.models.get(name)
        return {"name": name, "ready": True}

    @made.get("/v2/models/{name}")
    async def metadata(name: str) -> dict[str, Any]:
        """Names, types and shapes of what a model takes and gives; -1 is any number."""
        version = server.models.get(name).version

        def tensor(title: str, datatype: str) -> dict[str, Any]:
            return {"name": title, "datatype": datatype, "shape": [-1]}

        inputs = [tensor(title, "BYTES") for title in ("item", "feedback", "station")]
        outputs = [tensor("item", "BYTES"), tensor("score", "FP32")]
        return {
            "name": name,
            "versions": [version],
            "platform": "jaxneg",
            "inputs": inputs,
            "outputs": outputs,
        }

    @made.post("/v2/models/{name}/infer")
    async def infer(name: str, asked: requests.Inference) -> dict[str, Any]:
        """The list for one listener: events as tensors; k, exclude_seen and the form as parameters."""
        server.models.get(name)  # a model that is not there is said first
        listener = requests.listener(asked)
        work = functools.partial(server.recommended, name, requests.events(listener.events), listener)
        return _inferred(asked, await server.ran(work))

    @made.post("/v2/repository/models/{name}/load")
    async def load(name: str) -> dict[str, Any]:
        """Opens the export anew. If it cannot be served, the one before goes on, and the answer says why."""
        loop = asyncio.get_running_loop()
        return {"name": name, "version": await loop.run_in_executor(None, server.models.reload, name)}


def _inferred(asked: requests.Inference, answer: dict[str, Any]) -> dict[str, Any]:
    """An answer of ours as one of the protocol."""
    best = answer["recommendations"]
    return {
        "model_name": answer["model"],
        "model_version": answer["version"],
        "id": asked.id or uuid.uuid4().hex,
        "parameters": {"fallback": answer["fallback"] or ""},
        "outputs": [
            {
                "name": "item",
                "datatype": "BYTES",
                "shape": [len(best)],
                "data": [one["item"] for one in best],
            },
            {
                "name": "score",
                "datatype": "FP32",
                "shape": [len(best)],
                "data": [one["score"] or 0.0 for one in best],
            },
        ],
    }


def _answer(name: str, version: str, found: Recommendations) -> dict[str, Any]:
    """A list as JSON has it, which knows no NaN."""
    best = [{"item": one.item, "score": None if math.isnan(one.score) else one.score} for one in found]
    return {"model": name, "version": version, "fallback": found.fallback, "recommendations": best}


def _unknown(scorer: Scorer, history: Sequence[Event]) -> list[str]:
    return [event.item for event in history if not scorer.knows(event.item)]


async def _watched(server: Server, token: str, request: fastapi.Request, go_on: GoOn) -> fastapi.Response:
    """An answer within the limits, counted and logged, with the id that the request came with or a new one."""
    began, name = time.perf_counter(), request.headers.get("x-request-id", "")[:128] or uuid.uuid4().hex
    server.under_way += 1
    server.metrics.waiting.set(server.under_way)
    try:
        answer = await _guarded(server, token, request, go_on)
    finally:
        server.under_way -= 1
        server.metrics.waiting.set(server.under_way)
    seconds = time.perf_counter() - began
    route = request.scope.get("route")
    path = getattr(route, "path", "other")
    server.metrics.answers.labels(path, answer.status_code).inc()
    server.metrics.seconds.labels(path).observe(seconds)
    answer.headers["X-Request-Id"] = name
    if path not in OPEN:
        line = {"id": name, "method": request.method, "path": path, "status": answer.status_code}
        print(json.dumps(line | {"ms": round(1000 * seconds, 2)}), file=sys.stderr, flush=True)
    return answer


async def _guarded(server: Server, token: str, request: fastapi.Request, go_on: GoOn) -> fastapi.Response:
    if request.url.path in OPEN:
        return await go_on(request)
    if token and not hmac.compare_digest(request.headers.get("authorization", ""), f"Bearer {token}"):
        return _refusal(401, "a bearer token is needed", {"WWW-Authenticate": "Bearer"})
    if server.under_way > server.limits.waiting:
        return _refusal(UNHEARD, f"{server.limits.waiting} requests are under way", {"Retry-After": "1"})
    if request.method == "POST":
        size = request.headers.get("content-length", "")
        if not size.isascii() or not size.isdigit():
            return _refusal(411, "a length is needed")
        if int(size) > server.limits.body:
            return _refusal(413, f"the body may have {server.limits.body:,} bytes")
        # A page of another site can have a browser send forms and text, but not this.
        if int(size) and request.headers.get("content-type", "").partition(";")[0] != "application/json":
            return _refusal(415, "a body is JSON: send the header Content-Type: application/json")
    return await go_on(request)


def _refusal(status: int, why: str, headers: dict[str, str] | None = None) -> responses.JSONResponse:
    return responses.JSONResponse({"error": why}, status, headers)
