"""What is answered over HTTP."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import orjson
from fastapi import responses
from pydantic import BaseModel

from jaxneg.serve.lists import Influence

Attributes = dict[str, str | None]


class Refused(BaseModel):
    """Why there is no answer."""

    error: str


class Place(BaseModel):
    """An item of a list; its score is null in a list that is not the model's."""

    item: str
    score: float | None
    attributes: Attributes | None = None


class Answer(BaseModel):
    """Of a model, which is one export as long as its version stays."""

    model: str
    version: str


class Listed(Answer):
    """Items, best first."""

    fallback: str | None
    recommendations: list[Place]
    unknown: list[str]


class Ordered(Listed):
    """Candidates, best first."""

    left_out: list[str]


class Happened(BaseModel):
    """An event that the model sees."""

    item: str
    feedback: str
    station: str | None


class Explained(BaseModel):
    """An item, and what each event does to its score: as it is, less as it would be without the event."""

    item: str
    changes: list[float]


class Reasons(Answer):
    """Of each item what each event did, in the order of the events."""

    events: list[Happened]
    items: list[Explained]


class Kept(BaseModel):
    """How many events of a user are kept."""

    user: str
    events: int


class Known(BaseModel):
    """An item of the catalogue."""

    item: str
    attributes: Attributes


class Found(Answer):
    """Items whose id or attributes hold a text, those heard most first."""

    items: list[Known]


class Served(Answer):
    """A model that is served."""

    items: int
    length: int
    feedback: list[str]
    attributes: list[str]
    forms: dict[str, dict[str, float]]


class Every(BaseModel):
    models: list[Served]


def listed(
    found: Iterable[tuple[str, float]],
    fallback: str | None,
    describe: Callable[[str], Attributes] | None = None,
) -> dict[str, Any]:
    """Items and scores of a list as ``sent`` sends it, where what is NaN becomes null."""
    best: list[dict[str, Any]] = [{"item": item, "score": score} for item, score in found]
    for one in best if describe else ():
        one["attributes"] = describe(one["item"]) if describe else None
    return {"fallback": fallback, "recommendations": best}


def reasons(found: Sequence[Sequence[Influence]], items: Sequence[str]) -> dict[str, Any]:
    """What moved items, as JSON has it."""
    moved = [
        {"item": item, "changes": [one.change for one in each]}
        for item, each in zip(items, found, strict=True)
    ]
    events = [one.event._asdict() for one in found[0]] if found else []
    return {"events": events, "items": moved}


def inferred(
    name: str, version: str, request: str, best: tuple[Sequence[str], Sequence[float]], fallback: str | None
) -> dict[str, Any]:
    """Items and scores of a list as the Open Inference Protocol has it."""
    size = [len(best[0])]
    items = {"name": "item", "datatype": "BYTES", "shape": size, "data": best[0]}
    scores = [0.0 if math.isnan(score) else score for score in best[1]]
    return {
        "model_name": name,
        "model_version": version,
        "id": request,
        "parameters": {"fallback": fallback or ""},
        "outputs": [items, {"name": "score", "datatype": "FP32", "shape": size, "data": scores}],
    }


def sent(values: dict[str, Any]) -> responses.Response:
    """JSON as it stands: what a route says of its answer is for its page, and is not gone through again."""
    return responses.Response(orjson.dumps(values), media_type="application/json")
