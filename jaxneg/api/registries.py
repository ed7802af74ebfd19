"""Own parts, from a file outside the package: losses, encoders, draws of random negatives, readers.

A config file that registers a part, or imports the file that does, can name it, and so can sweeps over it. A run
remembers which file that was; evaluating, exporting or continuing it imports the file again, wherever it is asked to.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

from jaxneg import errors
from jaxneg.config import LossConfig, parts
from jaxneg.errors import UserError

GIVEN = ("catalogue_size", "label_BL")  # what a loss may ask for beside fields of LossConfig


def register_loss(name: str, fn: Callable[..., Any]) -> None:
    """Makes a loss known as ``loss.name``.

    It is called as fn(pos_BL, neg_BLN, mask_BL) with float32 logits of the targets and of their negatives and with
    True where a target counts, and gives one number, best the mean over what counts. A negative that is not there has
    the logit ``losses.ABSENT``, the lowest of float32, for which exp and sigmoid give 0. Keyword-only arguments are
    given by their names: fields of LossConfig such as ``penalty``, ``catalogue_size`` and ``label_BL``, above 0 where a
    target was liked and below where it was rejected; a loss that asks for ``label_BL`` learns from both. Variants are
    registered each by a name, as with ``functools.partial``.

    Raises UserError on a name of jaxneg's own and on a loss that asks for other things.
    """
    asked = _keywords(fn, f"loss {name}", ("pos_BL", "neg_BLN", "mask_BL"))
    known = (*GIVEN, *(one.name for one in dataclasses.fields(LossConfig)))
    for one in asked:
        if one not in known:
            raise UserError(
                f"loss {name} asks for {one}, and can be given {', '.join(known)}: give it a default there"
            )
    parts.add("loss", name, parts.Loss(fn, signed="label_BL" in asked), parts.caller())


def register_encoder(
    name: str,
    make: Callable[..., Any],
    *,
    bidirectional: bool = False,
    blocks: bool = False,
    packable: bool = False,
) -> None:
    """Makes an encoder known as ``model.encoder``.

    It is made as make(config, rngs=rngs) of a ModelConfig, best a Flax NNX module whose parameters are its only state,
    and called as encoder(x_BLD, mask_BL, key) -> h_BLD float32; key is None where nothing is to be dropped out, and
    sequences are padded on the right, where mask_BL is False.

    Raises UserError on a name of jaxneg's own.

    Args:
      name: that configs give it.
      make: the class.
      bidirectional: positions see later events; it is then trained on hidden ones, ``data.mask``. Of all others h at t
        must be of the events up to and including t, or figures of training say nothing.
      blocks: it minds ``model.attention`` and ``model.remat``.
      packable: it takes a fourth argument, segment_BL or None, and keeps the sequences of a row apart by it.
    """
    row = parts.Encoder(make, bidirectional=bidirectional, blocks=blocks, packable=packable)
    parts.add("encoder", name, row, parts.caller())


def register_sampler(
    name: str, draw: Callable[..., Any], chance: Callable[..., Any], *, counted: bool = False
) -> None:
    """Makes a draw of random negatives known as ``data.random``.

    Raises UserError on a name of jaxneg's own.

    Args:
      name: that configs give it.
      draw: draw(rng, items, shape, until_V) -> whole numbers from 1 to items, with replacement; rng is numpy's.
      chance: chance(row, items, until_V) -> the chance that one draw is this row, float64, of an array of rows.
      counted: both are given until_V, the training events of rows up to each, padding row first, 8 bytes an item.
    """
    for what, call in (("draw", draw), ("chance", chance)):
        errors.check_callable(call, f"{what} of sampler {name}")
    parts.add("sampler", name, parts.Sampler(draw, chance=chance, counted=counted), parts.caller())


def register_reader(
    name: str,
    read: Callable[..., Any],
    options: type,
    help: str,
    *,
    polarity: str = "default",
    session: str | None = None,
    split: str = "time",
) -> None:
    """Makes a format known to ``prepare(log, out, reader=name)``.

    Raises UserError on a name of jaxneg's own and on options that are no dataclass.

    Args:
      name: of the format.
      read: read(con, source, options) -> an ibis table in EVENT_SCHEMA, as ``data.events.select`` makes it.
      options: a frozen dataclass, whose fields are options of ``prepare``.
      help: a few words.
      polarity: what is liked and disliked unless told otherwise, as ``polarity`` of ``prepare``.
      session: what makes a session unless told otherwise; None goes by the log.
      split: what is held out unless told otherwise.
    """
    from jaxneg.data import readers

    if not (isinstance(options, type) and dataclasses.is_dataclass(options)):
        raise UserError(f"options of reader {name} must be a dataclass")
    errors.check_callable(read, f"reader {name}")
    readers.add(name, readers.Reader(read, options, help, polarity, session, 30.0, split))  # type: ignore[arg-type]


def _keywords(fn: Any, what: str, first: tuple[str, ...]) -> list[str]:
    """Names of the keyword-only arguments without a default. Raises UserError unless the first three fit."""
    errors.check_callable(fn, what)
    try:
        asked = parts.keywords(fn)
        inspect.signature(fn).bind(*first, **dict.fromkeys(asked))
    except (TypeError, ValueError) as error:
        raise UserError(f"{what} must take {', '.join(first)}: {error}") from error
    return asked
