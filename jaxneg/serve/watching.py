"""What stands before the routes: limits of size, number and time, a token, an id and a line of log for each request."""

import asyncio
import hmac
import json
import os
import sys
import time
import uuid
from typing import NamedTuple

import prometheus_client
from fastapi import responses
from prometheus_client import multiprocess
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jaxneg.serve import workers

REPOSITORY = "/v2/repository/"  # whose requests are of who runs the server: also one that is overrun takes a new export
OPEN = ("/", "/page.css", "/page.js", "/v2/health/live", "/v2/health/ready", "/metrics")  # need no token
QUIET = (
    "/v2/health/live",
    "/v2/health/ready",
    "/metrics",
)  # asked by what watches the server, and not logged
SENT_AWAY = 503  # too many wait, or it took too long


class Limits(NamedTuple):
    """What a request may cost."""

    body: int = 1 << 20  # bytes
    waiting: int = 256  # requests under way; more are sent away
    seconds: float = 5.0  # until its body is there, and then until an answer
    threads: int = 2  # that score
    together: float = 0.05  # seconds of a batch that holds more than one


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
            "jaxneg_requests_under_way",
            "Requests that are not answered yet.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.batches = prometheus_client.Histogram(
            "jaxneg_batch_requests",
            "Requests that were answered as one batch.",
            registry=self.registry,
            buckets=(1, 2, 4, 8, 16, 32, 64),
        )

    def told(self) -> bytes:
        """Figures as Prometheus reads them; of several processes those of all."""
        registry = self.registry
        if workers.FIGURES in os.environ:
            registry = prometheus_client.CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)
        return prometheus_client.generate_latest(registry)


class Watched:
    """An application whose requests keep to limits, and are counted and logged with the id that they came with or a
    new one."""

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics, token: str):
        self._app, self._limits, self._metrics = app, limits, metrics
        self._token = f"Bearer {token}".encode() if token else b""
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, headers = time.perf_counter(), dict(scope["headers"])
        name = headers.get(b"x-request-id", b"")[:128] or uuid.uuid4().hex.encode()
        status = 0  # of one whose asker has gone

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", name)]
            await send(message)

        self._under_way += 1
        self._metrics.waiting.set(self._under_way)
        try:
            await self._guarded(scope, headers, receive, sent)
        finally:
            self._under_way -= 1
            self._metrics.waiting.set(self._under_way)
            self._told(scope, name, status, time.perf_counter() - began)

    def _told(self, scope: Scope, name: bytes, status: int, seconds: float) -> None:
        path = getattr(scope.get("route"), "path", "other")
        self._metrics.answers.labels(path, status).inc()
        self._metrics.seconds.labels(path).observe(seconds)
        if path in QUIET:
            return
        line = {"id": name.decode("latin-1"), "method": scope["method"], "path": path, "status": status}
        line["ms"] = round(1000 * seconds, 2)
        # With its end at once: unbuffered, another process could write between them.
        print(f"{json.dumps(line)}\n", end="", file=sys.stderr, flush=True)

    async def _guarded(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, send: Send) -> None:
        refusal = None if scope["path"] in QUIET else self._refusal(scope, headers)
        if refusal is None and scope["method"] == "POST":
            try:
                async with asyncio.timeout(self._limits.seconds):
                    body = await _body(receive)
                receive = _again(body)
            except TimeoutError:
                refusal = refused(408, f"the body was not there within {self._limits.seconds:g} s")
            except ConnectionError:
                return
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> responses.JSONResponse | None:
        """Why a request is not looked at."""
        given, limits = headers.get(b"authorization", b""), self._limits
        if self._token and scope["path"] not in OPEN and not hmac.compare_digest(given, self._token):
            return refused(401, "a bearer token is needed", {"WWW-Authenticate": "Bearer"})
        if self._under_way > limits.waiting and not scope["path"].startswith(REPOSITORY):
            return sent_away(f"{limits.waiting} requests are under way")
        if scope["method"] != "POST":
            return None
        size = headers.get(b"content-length", b"")
        if not size.isdigit():
            return refused(411, "a length is needed")
        if int(size) > limits.body:
            return refused(413, f"the body may have {limits.body:,} bytes")
        # A page of another site can have a browser send forms and text, but not this.
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if int(size) and kind != b"application/json":
            return refused(415, "a body is JSON: send the header Content-Type: application/json")
        return None


def refused(status: int, why: str, headers: dict[str, str] | None = None) -> responses.JSONResponse:
    return responses.JSONResponse({"error": why}, status, headers)


def sent_away(why: str) -> responses.JSONResponse:
    """To come again when there is less to do."""
    return refused(SENT_AWAY, why, {"Retry-After": "1"})


async def _body(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def _again(body: bytes) -> Receive:
    """What gives a body that has been read, once, and then waits."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return left.pop() if left else await asyncio.get_running_loop().create_future()

    return receive
