"""Parts that a config names: encoders, losses and draws of random negatives; ours, and what others register.

All facts about a part are in its one row. Ours say where they are ("module:name") and are imported when made, as the
config knows neither jax nor models. What others register is known for the rest of the process, and a config that is
saved says which file or module registered it, so that other processes find it: see ``saved`` and ``recalled``.
"""

import dataclasses
import importlib
import inspect
import pathlib
import re
import sys
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from jaxneg import errors
from jaxneg.config import experiments
from jaxneg.errors import UserError

PASSED = ("jaxneg", "jaxtyping", "beartype")


@dataclass(frozen=True)
class Part:
    make: Callable[..., Any] | str  # what does the work, or where it is
    origin: tuple[str, str] | None = dataclasses.field(default=None, kw_only=True)
    """of what others registered: ("file", path), ("module", name) or ("session", ""); None of ours"""


@dataclass(frozen=True)
class Encoder(Part):
    """Made as make(config, rngs=rngs), called as encoder(x_BLD, mask_BL, key or None[, segment_BL[, at_B]]) -> h_BLD.

    Unless it is bidirectional it is causal: h at t is of the events up to and including t. Only packable ones are given
    segment_BL, and then h is of events of its segment alone.
    """

    bidirectional: bool = False  # positions see later events
    blocks: bool = False  # it is blocks of attention, and minds --model.attention and --model.remat
    packable: bool = False  # it can tell where a sequence of a packed row begins
    single: bool = False  # given at_B it computes h at that position of each row alone, h_B1D


@dataclass(frozen=True)
class Loss(Part):
    """Called as make(pos_BL, neg_BLN, mask_BL, *, ...) -> scalar; see ``keywords`` for what it may ask for further."""

    signed: bool = False  # it learns from rejected targets too
    softmax: bool = False  # it estimates a softmax, which --loss.log-q can correct


@dataclass(frozen=True)
class Sampler(Part):
    """Called as make(rng, items, shape, until_V) -> rows 1 to items, int32."""

    chance: Callable[..., Any] | str = ""  # (row, items, until_V) -> chance that a draw is this row, float64
    counted: bool = False  # it reads until_V, the training events of rows up to each
    even: bool = False  # all items alike


ENCODERS: dict[str, Encoder] = {
    "sasrec": Encoder("jaxneg.models.sasrec:SASRec", blocks=True, packable=True, single=True),
    "bert4rec": Encoder(
        "jaxneg.models.bert4rec:BERT4Rec", bidirectional=True, blocks=True, packable=True, single=True
    ),
    "gru4rec": Encoder("jaxneg.models.gru4rec:GRU4Rec", packable=True),
    "caser": Encoder("jaxneg.models.caser:Caser"),
    "ligr": Encoder("jaxneg.models.ligr:LiGR", blocks=True, packable=True, single=True),
}
LOSSES: dict[str, Loss] = {
    "bce": Loss("jaxneg.training.losses:bce"),
    "gbce": Loss("jaxneg.training.losses:gbce"),
    "sampled_softmax": Loss("jaxneg.training.losses:sampled_softmax", softmax=True),
    "softmax": Loss("jaxneg.training.full_softmax:softmax"),
    "bpr_max": Loss("jaxneg.training.losses:bpr_max"),
    "top1_max": Loss("jaxneg.training.losses:top1_max"),
    "not_to_recommend": Loss("jaxneg.training.losses:not_to_recommend", signed=True, softmax=True),
    "feedback": Loss("jaxneg.training.losses:feedback", signed=True),
}
SAMPLERS: dict[str, Sampler] = {
    "uniform": Sampler("jaxneg.data.draws:uniform", chance="jaxneg.data.draws:uniform_chance", even=True),
    "log_uniform": Sampler("jaxneg.data.draws:log_uniform", chance="jaxneg.data.draws:log_uniform_chance"),
    "by_count": Sampler(
        "jaxneg.data.draws:by_count", chance="jaxneg.data.draws:by_count_chance", counted=True
    ),
}
KINDS: dict[str, dict[str, Any]] = {"encoder": ENCODERS, "loss": LOSSES, "sampler": SAMPLERS}
# Of a field of a config: where its part is named, and what kind it is.
FIELDS = {("model", "encoder"): "encoder", ("loss", "name"): "loss", ("data", "random"): "sampler"}


def made(what: Callable[..., Any] | str) -> Callable[..., Any]:
    """What does the work of a part."""
    if not isinstance(what, str):
        return what
    module, _, name = what.partition(":")
    return getattr(importlib.import_module(module), name)


def keywords(call: Callable[..., Any]) -> list[str]:
    """Names of what a loss asks for beyond its three arrays: its keyword-only arguments that have no default."""
    kinds = inspect.signature(call).parameters.values()
    return [one.name for one in kinds if one.kind is one.KEYWORD_ONLY and one.default is one.empty]


def add(kind: str, name: str, row: Part, caller: types.FrameType) -> None:
    """Makes a part known by a name, in place of one that others registered by it before.

    Raises UserError on a name of ours, and on one that is no word.

    Args:
      kind: of KINDS.
      name: that configs give it.
      row: with its facts.
      caller: frame of the code that registers it.
    """
    known = KINDS[kind]
    check_name(kind, name, [ours for ours, part in known.items() if part.origin is None])
    errors.check_callable(row.make, f"{kind} {name}")
    known[name] = dataclasses.replace(row, origin=origin_of(caller))


def check_name(kind: str, name: object, ours: Collection[str]) -> None:
    """Raises UserError unless this is a word that others may call a part, or a reader, of their own."""
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(
            f"a name of {spoken(kind)} must be a word of small letters, digits and _, got {name!r}"
        )
    if name in ours:
        raise UserError(f"{name} is {spoken(kind)} of jaxneg: choose another name")


def spoken(kind: str) -> str:
    return f"{'an' if kind == 'encoder' else 'a'} {kind}"


def origin_of(caller: types.FrameType) -> tuple[str, str]:
    """Where code is, so that another process can import it: a file, or the module of an installed package."""
    module, file = caller.f_globals.get("__name__", ""), caller.f_globals.get("__file__")
    if not file:
        return "session", ""
    path = pathlib.Path(file).absolute()
    if experiments.INSTALLED & set(path.parts):
        return "module", module
    return "file", str(path)


class Saved(TypedDict):
    """What a saved config says of a part that others registered."""

    kind: str
    name: str
    origin: str
    where: str


def saved(config: Any) -> list[Saved]:
    """Parts of a config that others registered."""
    found: list[Saved] = []
    for (section, field), kind in FIELDS.items():
        name = getattr(getattr(config, section), field)
        row = KINDS[kind].get(name)
        if row is not None and row.origin is not None:
            found.append({"kind": kind, "name": name, "origin": row.origin[0], "where": row.origin[1]})
    return found


def recalled(entries: Any, beside: pathlib.Path | None = None) -> None:
    """Makes known what a saved config names, by importing the file or module that registered it.

    Raises UserError, saying which that is, where it is gone or registers no such part, and where another file of this
    process has registered something else by the name.

    Args:
      entries: what ``saved`` gave.
      beside: a directory in which the file may be instead of where it was.
    """
    if not isinstance(entries, Sequence) or not all(_is_saved(entry) for entry in entries):
        raise UserError("registered is no list of parts")
    for entry in entries:
        _recall(entry, beside)


def _is_saved(entry: Any) -> bool:
    return (
        isinstance(entry, Mapping)
        and set(entry) == set(Saved.__annotations__)
        and all(isinstance(value, str) for value in entry.values())
        and entry["kind"] in KINDS
        and entry["origin"] in ("file", "module", "session")
    )


def _recall(entry: Saved, beside: pathlib.Path | None) -> None:
    kind, name, origin, where = entry["kind"], entry["name"], entry["origin"], entry["where"]
    known = KINDS[kind]
    part = f"{kind} {name}"
    if origin == "session":
        if name not in known:
            raise UserError(
                f"{part} was registered in a notebook or a session, which no file holds: call "
                f"jaxneg.register_{kind} again first"
            )
        return
    if origin == "module":
        if name not in known:
            _import(part, where)
    else:
        path = _file(where, beside)
        if name not in known:
            if path is None:
                raise UserError(
                    f"{part} was registered by {where}, which is not there: put the file back"
                    + (f", or into {beside}" if beside is not None else "")
                )
            with experiments.loaded(path, f"it registers {part}"):
                pass
        elif path is not None and _other(known[name].origin, path):
            raise UserError(
                f"{part} was registered by {path}, and by {known[name].origin[1] or 'this session'} here: rename one"
            )
    if name not in known:
        raise UserError(f"{where} registers no {part}: call jaxneg.register_{kind} in it")


def _import(part: str, module: str) -> None:
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"{part} was registered by module {module}, which cannot be imported: install it"
        ) from error


def _file(where: str, beside: pathlib.Path | None) -> pathlib.Path | None:
    places = [pathlib.Path(where), *([] if beside is None else [beside / pathlib.Path(where).name])]
    return next((path for path in places if path.is_file()), None)


def _other(origin: tuple[str, str] | None, path: pathlib.Path) -> bool:
    """Whether something is of another file, by what is in it."""
    if origin is None or origin[0] != "file":
        return origin is None
    here = pathlib.Path(origin[1])
    return here != path and here.is_file() and here.read_bytes() != path.read_bytes()


def caller() -> types.FrameType:
    """The frame of the code that called into jaxneg, past what checks types on the way."""
    frame = sys._getframe(1)
    while frame.f_back is not None and (
        frame.f_globals.get("__name__", "").partition(".")[0] in PASSED
        or frame.f_code.co_filename.startswith("<@")
    ):
        frame = frame.f_back
    return frame
