"""What may be asked over HTTP, checked before anything is done."""

import math
from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any, Literal

import fastapi
import pydantic
from fastapi import routing
from pydantic import BaseModel, ConfigDict, Field

from jaxneg.serve.histories import Event

Id = Annotated[str, Field(max_length=512)]
PARAMETERS = ("k", "exclude_seen", "station", "form", "beta", "threshold")  # of the protocol


class Told(BaseModel):
    """One past event."""

    model_config = ConfigDict(extra="forbid")
    item: Id
    feedback: Id = "play"
    station: Id | None = None


class Listener(BaseModel):
    """The events told, behind those that the server has of the user, and how both heads make one score."""

    model_config = ConfigDict(extra="forbid")
    events: Annotated[list[Told], Field(max_length=10_000)] = []
    user: Id | None = None
    model: Id | None = None
    form: Literal["rank", "judge", "sum", "demote"] = "rank"
    beta: Annotated[float, Field(ge=0, le=1e9)] | None = None
    threshold: Annotated[float, Field(ge=-1e9, le=1e9)] | None = None


class Asked(Listener):
    """A listener, and what a list may hold; with ``describe`` it tells the attributes of its items.

    ``station`` is where the listener is now: its items lead a list where nothing is known of the history."""

    station: Id | None = None
    k: Annotated[int, Field(ge=1, le=1_000)] = 10
    describe: bool = False
    exclude_seen: bool = False
    exclude: Annotated[list[Id], Field(max_length=10_000)] = []
    where: Annotated[dict[Id, Annotated[list[Id], Field(max_length=1_000)]], Field(max_length=16)] = {}
    at_most: Annotated[dict[Id, Annotated[int, Field(ge=1, le=1_000)]], Field(max_length=16)] = {}


class Candidates(Listener):
    """A listener, and the items to put in order."""

    station: Id | None = None
    candidates: Annotated[list[Id], Field(max_length=10_000)]


class Questioned(Listener):
    """A listener, and items of which it is asked what moved them."""

    items: Annotated[list[Id], Field(min_length=1, max_length=1_000)]


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


class Route(routing.APIRoute):
    """Where a route takes a body alone, pydantic reads it at once. From JSON to objects to models, with a look for the
    rest that a route may take, was a tenth of the time of a request."""

    def get_route_handler(self) -> Callable[[fastapi.Request], Coroutine[Any, Any, fastapi.Response]]:
        takes, answer = self.dependant, self.endpoint
        others = (
            takes.path_params,
            takes.query_params,
            takes.header_params,
            takes.cookie_params,
            takes.dependencies,
        )
        if len(takes.body_params) != 1 or any(others):
            return super().get_route_handler()
        kind = takes.body_params[0].field_info.annotation
        assert isinstance(kind, type) and issubclass(kind, BaseModel)

        async def handler(request: fastapi.Request) -> fastapi.Response:
            content = await request.body()
            try:
                asked = kind.model_validate_json(content)
            except pydantic.ValidationError as error:
                wrong = [{**one, "loc": ("body", *one["loc"])} for one in error.errors(include_url=False)]
                raise fastapi.exceptions.RequestValidationError(wrong) from None
            return await answer(asked)

        return handler


def listener(asked: Inference) -> Asked:
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


def events(told: Sequence[Told]) -> list[Event]:
    """Events that were told, as histories have them."""
    return [Event(one.item, one.feedback, one.station) for one in told]
