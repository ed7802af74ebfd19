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
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import fastapi
import prometheus_client
from fastapi import responses
from pydantic import BaseModel, ConfigDict, Field
from starlette import exceptions

from jaxneg.errors import UserError
from jaxneg.files import documents
from jaxneg.serve.models import Models, NoModel, Sessions
from jaxneg.serve.scorer import Event

T = TypeVar("T")
GoOn = Callable[[fastapi.Request], Awaitable[fastapi.Response]]  # to the route of a request

Id = Annotated[str, Field(max_length=512)]
OPEN = (
    "/v2/health/live",
    "/v2/health/ready",
    "/metrics",
)  # asked by what watches the server, without a token
PARAMETERS = ("k", "exclude_seen", "form", "beta", "threshold")  # of the protocol
UNHEARD = 503  # too many wait, or it took too long


class Limits(NamedTuple):
    """What a request may cost."""

    body: int = 1 << 20  # bytes
    waiting: int = 256  # requests under way; more are sent away
    seconds: float = 5.0  # until an answer
    threads: int = 2  # that score


class Told(BaseModel):
    """One past event."""

    model_config = ConfigDict(extra="forbid")
    item: Id
    feedback: Id = "play"
    station: Id | None = None


class Asked(BaseModel):
    """A listener: the events told, behind those that the server has of the user."""

    model_config = ConfigDict(extra="forbid")
    events: Annotated[list[Told], Field(max_length=10_000)] = []
    user: Id | None = None
    model: Id | None = None
    k: Annotated[int, Field(ge=1, le=1_000)] = 10
    exclude_seen: bool = False
    form: Literal["rank", "judge", "sum", "demote"] = "rank"
    beta: Annotated[float, Field(ge=0, le=1e9)] | None = None
    threshold: Annotated[float, Field(ge=-1e9, le=1e9)] | None = None


class Happened(BaseModel):
    """What a user did."""

    model_config = ConfigDict(extra="forbid")
    user: Id
    events: Annotated[list[Told], Field(min_length=1, max_length=10_000)]


class Tensor(BaseModel):
    """An input of the protocol."""

    name: str
    shape: Annotated[list[int], Field(max_length=2)]
    datatype: str
    data: Annotated[list[Any], Field(max_length=10_000)]
    parameters: dict[str, Any] = {}


class Inference(BaseModel):
    """A request of the protocol."""

    id: str | None = None
    inputs: Annotated[list[Tensor], Field(max_length=8)]
    parameters: dict[str, Any] = {}
    outputs: list[dict[str, Any]] | None = None


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

    def recommended(self, name: str, history: Sequence[Event], asked: Asked) -> dict[str, Any]:
        """A list for a history; what is heard most where the model knows none of its items."""
        scorer, version = self.models.get(name)
        form, k = scorer.form(asked.form, asked.beta, asked.threshold), asked.k
        answer: dict[str, Any] = {"model": name, "version": version, "fallback": None}
        unknown = [event.item for event in history if not scorer.knows(event.item)]
        if len(unknown) == len(history):
            popular = scorer.items(k)
            answer |= {"fallback": "popularity"}
            answer["recommendations"] = [{"item": item, "score": None} for item in popular]
        else:
            best = scorer.recommend(history, k, exclude_seen=asked.exclude_seen, form=form)
            answer["recommendations"] = [one._asdict() for one in best]
        return answer | {"unknown": unknown}


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
    async def recommend(asked: Asked) -> dict[str, Any]:
        """The k best next items of a listener, best first."""
        name = asked.model or server.models.name_for(asked.user or "")
        history = server.sessions.of(asked.user) if asked.user is not None else []
        history += _events(asked.events)
        return await server.ran(functools.partial(server.recommended, name, history, asked))

    @made.post("/feedback")
    async def feedback(happened: Happened) -> dict[str, Any]:
        """Keeps events of a user, for lists that are asked for later."""
        name = server.models.name_for(happened.user)
        scorer, _ = server.models.get(name)
        events = _events(happened.events)
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
    async def infer(name: str, asked: Inference) -> dict[str, Any]:
        """The list for one listener: events as tensors; k, exclude_seen and the form as parameters."""
        server.models.get(name)  # a model that is not there is said first
        listener = _listener(asked)
        work = functools.partial(server.recommended, name, _events(listener.events), listener)
        return _inferred(asked, await server.ran(work))

    @made.post("/v2/repository/models/{name}/load")
    async def load(name: str) -> dict[str, Any]:
        """Opens the export anew. If it cannot be served, the one before goes on, and the answer says why."""
        loop = asyncio.get_running_loop()
        return {"name": name, "version": await loop.run_in_executor(None, server.models.reload, name)}


def _listener(asked: Inference) -> Asked:
    """A request of the protocol as our own. Raises HTTPException where tensors do not fit."""
    given = {tensor.name: tensor for tensor in asked.inputs}
    if unknown := sorted({*given} - {"item", "feedback", "station"}):
        raise fastapi.HTTPException(400, f"no input {unknown[0]!r}: there are item, feedback, station")
    if "item" not in given:
        raise fastapi.HTTPException(400, "input 'item' is missing")
    size = len(given["item"].data)
    for name, tensor in given.items():
        if tensor.datatype != "BYTES" or not all(isinstance(one, str) for one in tensor.data):
            raise fastapi.HTTPException(400, f"input {name!r} must be of datatype BYTES, a list of text")
        if len(tensor.data) != size or math.prod(tensor.shape) != size:
            raise fastapi.HTTPException(400, f"input {name!r} must have {size} elements, as its shape says")
    feedback = given["feedback"].data if "feedback" in given else ["play"] * size
    station = given["station"].data if "station" in given else [""] * size
    events = [
        {"item": i, "feedback": f, "station": s or None}
        for i, f, s in zip(given["item"].data, feedback, station, strict=True)
    ]
    if unknown := sorted({*asked.parameters} - {*PARAMETERS}):
        raise fastapi.HTTPException(400, f"no parameter {unknown[0]!r}: there are {', '.join(PARAMETERS)}")
    try:
        return Asked.model_validate({"events": events} | asked.parameters)
    except ValueError as error:
        raise fastapi.HTTPException(400, str(error)[:2_000]) from None


def _inferred(asked: Inference, answer: dict[str, Any]) -> dict[str, Any]:
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


def _events(told: Sequence[Told]) -> list[Event]:
    return [Event(one.item, one.feedback, one.station) for one in told]


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
