"""Recommendations over HTTP: JSON of our own, the Open Inference Protocol, version 2, and a page to try models on.

The protocol: https://github.com/kserve/open-inference-protocol. Nothing here unpickles.
"""

import asyncio
import contextlib
import functools
import pathlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent import futures
from typing import Annotated, Any, TypeVar

import fastapi
import prometheus_client
from fastapi import responses
from starlette import exceptions

from jaxneg.batch import PAD
from jaxneg.errors import UserError
from jaxneg.files import documents
from jaxneg.serve import answers, requests, sessions, watching
from jaxneg.serve.batching import Batcher, Full
from jaxneg.serve.choice import Choice
from jaxneg.serve.histories import Event, Seen
from jaxneg.serve.lists import Best, Wanted
from jaxneg.serve.models import Loaded, Models, NoModel
from jaxneg.serve.watching import SENT_AWAY, Limits, Metrics
from jaxneg.serve.workers import Group

T = TypeVar("T")
PAGE = pathlib.Path(__file__).with_name("page")
FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
# The page loads nothing from elsewhere, and is shown in no other page.
POLICY = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": answers.Refused} for status in (400, 401, 404, 408, 411, 413, 415, 422, 503)
}


class Server:
    """What the routes share."""

    def __init__(self, models: Models, limits: Limits, kept: sessions.Sessions, group: Group | None):
        self.models, self.limits, self.sessions, self.group = models, limits, kept, group
        self.metrics = Metrics()
        self.pool = futures.ThreadPoolExecutor(limits.threads, "scorer")
        self.batcher = Batcher(self.pool, limits.threads, limits.seconds, limits.together)

    async def ran(self, work: Callable[[], T]) -> T:
        """What work gives, in a thread, within the time of a request."""
        return await self._in_time(asyncio.get_running_loop().run_in_executor(self.pool, work))

    async def _in_time(self, answer: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self.limits.seconds):
                return await answer
        except TimeoutError:
            raise _later(f"no answer within {self.limits.seconds:g} s") from None
        except Full:
            raise _later("more waits than can be answered in time") from None

    async def listener(self, asked: requests.Listener) -> tuple[str, Loaded, list[Event]]:
        """The model for a listener, and the events known of one, oldest first."""
        name = asked.model or self.models.name_for(asked.user or "")
        history = await self.sessions.of(asked.user) if asked.user is not None else []
        return name, self.models.get(name), history + requests.events(asked.events)

    async def recommended(
        self, loaded: Loaded, history: Sequence[Event] | Seen, asked: requests.Asked
    ) -> Best:
        """A list for a history; of what is heard most where the model knows none of its items."""
        form = loaded.scorer.form(asked.form, asked.beta, asked.threshold)
        choice = Choice(asked.exclude, asked.where, asked.at_most)
        wanted = Wanted(history, asked.k, asked.exclude_seen, form, choice, asked.station)
        return await self._in_time(self.batcher.recommended(loaded.scorer, wanted))


def app(
    models: Models,
    limits: Limits | None = None,
    token: str = "",
    kept: sessions.Sessions | None = None,
    group: Group | None = None,
) -> fastapi.FastAPI:
    """The application, for uvicorn or any server of ASGI.

    Args:
      models: that are served.
      limits: of a request.
      token: that requests must bear, if any.
      kept: events of listeners; in memory by default.
      group: of the processes that serve at one address, if this is one of several.
    """
    server = Server(models, limits or Limits(), kept or sessions.Memory(), group)

    @contextlib.asynccontextmanager
    async def served(_: fastapi.FastAPI) -> AsyncIterator[None]:
        yield
        await server.sessions.close()
        server.pool.shutdown(wait=False, cancel_futures=True)

    made = fastapi.FastAPI(
        title="jaxneg",
        version=documents.VERSION,
        summary="Next items for listeners, from exports of jaxneg",
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        responses=REFUSALS,
        lifespan=served,
    )
    made.router.route_class = requests.Route
    _own(made, server)
    _shown(made, server)
    _protocol(made, server)

    @made.exception_handler(UserError)
    async def mistaken(request: fastapi.Request, error: UserError) -> responses.JSONResponse:
        missing = isinstance(error, NoModel | sessions.Unkept)
        return watching.refused(404 if missing else 422, str(error))

    @made.exception_handler(sessions.Unreached)
    async def unreached(request: fastapi.Request, error: sessions.Unreached) -> responses.JSONResponse:
        return watching.sent_away(f"the server of the sessions does not answer: {error}")

    @made.exception_handler(exceptions.HTTPException)
    async def refused(request: fastapi.Request, error: exceptions.HTTPException) -> responses.JSONResponse:
        return responses.JSONResponse({"error": error.detail}, error.status_code, error.headers)

    @made.exception_handler(fastapi.exceptions.RequestValidationError)
    async def malformed(
        request: fastapi.Request, error: fastapi.exceptions.RequestValidationError
    ) -> responses.JSONResponse:
        said = [f"{'.'.join(map(str, one['loc'][1:] or one['loc']))}: {one['msg']}" for one in error.errors()]
        return watching.refused(422, "; ".join(said)[:2_000])

    made.add_middleware(watching.Watched, limits=server.limits, metrics=server.metrics, token=token)
    return made


def _own(made: fastapi.FastAPI, server: Server) -> None:
    """Routes of our own."""

    @made.post("/recommend", response_model=answers.Listed)
    async def recommend(asked: requests.Asked) -> responses.Response:
        """The k best next items of a listener, best first."""
        name, loaded, history = await server.listener(asked)
        scorer = loaded.scorer
        seen = scorer.seen(history)
        found = await server.recommended(loaded, seen, asked)
        best = zip(scorer.ids(found.row_N), found.score_N.tolist(), strict=True)
        values = answers.listed(best, found.fallback, scorer.attributes_of if asked.describe else None)
        unknown = [history[at].item for at in (seen.row_T == PAD).nonzero()[0]]
        return answers.sent(_of(name, loaded) | values | {"unknown": unknown})

    @made.post("/rerank", response_model=answers.Ordered)
    async def rerank(asked: requests.Candidates) -> responses.Response:
        """Candidates of a listener, best first; those that the model does not know are left out."""
        name, loaded, history = await server.listener(asked)
        scorer = loaded.scorer
        form = scorer.form(asked.form, asked.beta, asked.threshold)
        work = functools.partial(scorer.rerank, history, asked.candidates, form=form, station=asked.station)
        found = await server.ran(work)
        values = _of(name, loaded) | answers.listed(found, found.fallback)
        out = scorer.unknown(asked.candidates)
        return answers.sent(
            values | {"unknown": scorer.unknown(event.item for event in history), "left_out": out}
        )

    @made.post("/explain", response_model=answers.Reasons)
    async def explain(asked: requests.Questioned) -> responses.Response:
        """What each event of a listener does to the scores of items."""
        name, loaded, history = await server.listener(asked)
        form = loaded.scorer.form(asked.form, asked.beta, asked.threshold)
        work = functools.partial(loaded.scorer.explain_many, history, asked.items, form=form)
        return answers.sent(_of(name, loaded) | answers.reasons(await server.ran(work), asked.items))

    @made.post("/feedback", response_model=answers.Kept)
    async def feedback(happened: requests.Happened) -> responses.Response:
        """Keeps events of a user, for lists that are asked for later."""
        events = requests.events(happened.events)
        server.models.get(server.models.name_for(happened.user)).scorer.seen(events)
        return answers.sent(
            {"user": happened.user, "events": await server.sessions.add(happened.user, events)}
        )

    @made.get("/metrics", response_class=responses.PlainTextResponse)
    async def metrics() -> responses.Response:
        """Figures for Prometheus."""
        while server.batcher.sizes:
            server.metrics.batches.observe(server.batcher.sizes.pop())
        return responses.Response(server.metrics.told(), media_type=prometheus_client.CONTENT_TYPE_LATEST)


def _shown(made: fastapi.FastAPI, server: Server) -> None:
    """The page to try models on, and what it asks beside lists."""
    for path, (file, kind) in FILES.items():
        content = (PAGE / file).read_bytes()

        def shown(content: bytes = content, kind: str = kind) -> responses.Response:
            return responses.Response(content, headers=POLICY, media_type=kind)

        made.add_api_route(path, functools.partial(shown), include_in_schema=False)

    @made.get("/models", response_model=answers.Every)
    async def models() -> responses.Response:
        """Every model that is served."""
        found = []
        for name in server.models.names:
            loaded = server.models.get(name)
            manifest, scorer = loaded.scorer.manifest, loaded.scorer
            kinds = manifest["inputs"] or [
                kind for kind in manifest["feedback"] if kind not in ("pad", "unknown")
            ]
            forms = {"rank": {}, "judge": {}, **manifest["forms"]} if "forms" in manifest else {"rank": {}}
            found.append(
                _of(name, loaded)
                | {"items": manifest["items"], "length": manifest["length"], "feedback": kinds}
                | {"attributes": scorer.attributes, "forms": forms}
            )
        return answers.sent({"models": found})

    @made.get("/items", response_model=answers.Found)
    async def items(
        text: Annotated[str, fastapi.Query(max_length=512)] = "",
        model: Annotated[str | None, fastapi.Query(max_length=512)] = None,
        count: Annotated[int, fastapi.Query(ge=1, le=100)] = 20,
    ) -> responses.Response:
        """Items whose id or attributes hold a text, those heard most first."""
        name = model or server.models.name_for("")
        loaded = server.models.get(name)
        found = await server.ran(functools.partial(loaded.scorer.search, text, count))
        known = [{"item": item, "attributes": loaded.scorer.attributes_of(item)} for item in found]
        return answers.sent(_of(name, loaded) | {"items": known})


def _of(name: str, loaded: Loaded) -> dict[str, Any]:
    return {"model": name, "version": loaded.version}


def _later(why: str) -> fastapi.HTTPException:
    return fastapi.HTTPException(SENT_AWAY, why, {"Retry-After": "1"})


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
        loaded = server.models.get(name)  # a model that is not there is said first
        listener = requests.listener(asked)
        found = await server.recommended(loaded, requests.events(listener.events), listener)
        best = loaded.scorer.ids(found.row_N), found.score_N.tolist()
        return answers.inferred(name, loaded.version, asked.id or uuid.uuid4().hex, best, found.fallback)

    @made.post("/v2/repository/models/{name}/load")
    async def load(name: str) -> dict[str, Any]:
        """Opens the export anew. If it cannot be served, the one before goes on, and the answer says why.

        Of several processes the others follow once this one has it."""
        loop = asyncio.get_running_loop()
        version = await loop.run_in_executor(None, server.models.reload, name)
        if server.group is not None:
            server.group.tell()
        return {"name": name, "version": version}
