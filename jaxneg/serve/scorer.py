"""Scores from an export directory alone: no store, no config, no training code."""

import functools
import itertools
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import export as jax_export

from jaxneg import errors, files
from jaxneg.batch import PAD, latest
from jaxneg.errors import UserError
from jaxneg.serve import manifest as manifests


class Event(NamedTuple):
    """One past event of a listener, oldest first in a history."""

    item: str
    feedback: str = "play"
    station: str | None = None


class Recommendation(NamedTuple):
    item: str
    score: float


class Scorer:
    """A loaded export. Open one with ``Scorer.open``."""

    def __init__(self, manifest, model: jax_export.Exported, params, item_VE, item_ids, station_ids):
        self.manifest = manifest
        self._model, self._query = model, jax.jit(model.call)
        self._params = jax.device_put(params)
        self._item_VE = np.asarray(item_VE)  # a memory map is slower to look at
        self._ids = item_ids  # of rows 1..items
        self._codes = {kind: code for kind, code in manifest["feedback"].items() if kind != "pad"}
        kinds = manifest["inputs"] or self._codes  # of feedback that the model was trained to see
        self._shown = np.zeros(max(self._codes.values()) + 1, bool)
        self._shown[[code for kind, code in self._codes.items() if kind in kinds]] = True
        self._rows = {id_: row for row, id_ in enumerate(item_ids, start=1)}
        self._stations = {id_: row for row, id_ in enumerate(station_ids, start=1)}

    @classmethod
    def open(cls, directory: str | pathlib.Path) -> "Scorer":
        """The scorer of an export directory.

        Raises UserError where a file is missing, altered or of another format; see ``serve.manifest``.
        """
        found = manifests.opened(files.local(directory, "directory"))
        return cls(
            found.manifest, found.model, found.params, found.item_VE, found.item_ids, found.station_ids
        )

    def __reduce__(self):
        """A pickle holds all of the export, so that it opens where the directory is not."""
        params = jax.tree.map(np.asarray, self._params)
        ids = self._ids, list(self._stations)
        return _unpickled, (
            self.manifest,
            bytes(self._model.serialize()),
            params,
            np.array(self._item_VE),
            *ids,
        )

    def knows(self, item: str) -> bool:
        """Whether the item is in the catalogue that the model was trained on."""
        return item in self._rows

    def knows_station(self, station: str) -> bool:
        """Whether the station was there in training."""
        return station in self._stations

    def check(self, history: Sequence[str | Event]) -> None:
        """Raises UserError on what is no history, and on a feedback kind that does not exist."""
        self._seen(history)

    def items(self, count: int) -> list[str]:
        """Ids of the items heard most often, most often first."""
        return self._ids[:count]

    def query(self, item_BL: np.ndarray, feedback_BL: np.ndarray, station_BL: np.ndarray) -> np.ndarray:
        """Query vectors query_BE of contexts given as rows and codes, int32, padded on the right with 0.

        Raises UserError where the model cannot be compiled or run.
        """
        # A module that parses may still have shapes that do not fit: that shows when it is compiled.
        with errors.carried(f"{manifests.MODEL} cannot be run by jax {jax.__version__}", "export again"):
            return np.asarray(self._query(self._params, item_BL, feedback_BL, station_BL))

    def scores(self, item_BL: np.ndarray, feedback_BL: np.ndarray, station_BL: np.ndarray) -> np.ndarray:
        """Scores scores_BV of the whole catalogue, the padding row 0 included."""
        return self.query(item_BL, feedback_BL, station_BL) @ self._item_VE.T

    def recommend(
        self, history: Sequence[str | Event], k: int = 10, *, exclude_seen: bool = False
    ) -> list[Recommendation]:
        """The k best next items for a history, oldest first, of ids that were played or of Event; best first.

        Items that the catalogue does not know are left out of the history, stations it does not know count as
        none. Raises UserError if no item is known, on what is no id or Event, on a feedback kind that does not exist,
        and on k below 1.
        """
        seen, k = self._seen(history), _count(k)
        known = np.flatnonzero(seen.row_T)
        if not len(known):
            raise UserError(
                "no item of the history is in the catalogue: give ids as they stand in items.parquet"
            )
        at = known[latest(self._shown[seen.code_T[known]], self.manifest["length"])]
        context = np.full((3, 1, self.manifest["length"]), PAD, np.int32)
        context[:, 0, : len(at)] = seen.row_T[at], seen.code_T[at], seen.station_T[at]
        score_V = self.scores(*context)[0]
        score_V[PAD] = -np.inf
        if exclude_seen:
            score_V[seen.row_T] = -np.inf
        k = min(k, self.manifest["items"])
        best = np.argpartition(-score_V, k - 1)[:k]
        best = best[np.argsort(-score_V[best], kind="stable")]
        best = best[np.isfinite(score_V[best])]
        ids = [self._ids[row] for row in (best - 1).tolist()]
        # What ``_make`` does, without a call of Python for each.
        make = functools.partial(tuple.__new__, Recommendation)
        return list(map(make, zip(ids, score_V[best].tolist(), strict=True)))

    def _seen(self, history: Any) -> "_Seen":
        """A history by row and code. Raises UserError on what is none, and on a feedback kind that does not exist."""
        if isinstance(history, list | tuple) and {*map(type, history)} == {str}:
            row_T = self._rows_of(history)
            return _Seen(row_T, np.full_like(row_T, self._codes["play"]), np.zeros_like(row_T))
        found = events(history)
        for event in found:
            if event.feedback not in self._codes:
                kinds = ", ".join(self._codes)
                raise UserError(
                    f"unknown feedback {event.feedback!r} of item {event.item!r}: use one of {kinds}"
                )
        code_T = np.array([self._codes[event.feedback] for event in found], np.int32)
        station_T = np.array([self._stations.get(event.station, PAD) for event in found], np.int32)
        return _Seen(self._rows_of([event.item for event in found]), code_T, station_T)

    def _rows_of(self, items: Sequence[str]) -> np.ndarray:
        """Rows of items; PAD of one that is not known."""
        return np.fromiter(map(self._rows.get, items, itertools.repeat(PAD)), np.int32, len(items))


class _Seen(NamedTuple):
    """The events of a history, oldest first."""

    row_T: np.ndarray  # int32, PAD of an item that the catalogue does not know
    code_T: np.ndarray  # int32, of feedback
    station_T: np.ndarray  # int32, PAD where there is none that is known


def events(history: Any) -> list[Event]:
    """A history as events: an id alone was played. Raises UserError on all else."""
    if isinstance(history, str):
        raise UserError(f"a history is a list of items, got {history!r}: write [{history!r}]")
    if not isinstance(history, Iterable):
        raise UserError(f"a history is a list of items, got {type(history).__name__}")
    found = [Event(one) if isinstance(one, str) else one for one in history]
    for event in found:
        if not isinstance(event, Event) or not isinstance(event.item, str):
            raise UserError(f"a history holds ids, as text, or Event(id, feedback, station), got {event!r}")
        if not isinstance(event.station, str | None) or not isinstance(event.feedback, str):
            raise UserError(f"feedback and station of an event are text, got {event!r}")
    return found


def _count(k: Any) -> int:
    if isinstance(k, bool) or not isinstance(k, int | np.integer):
        raise UserError(f"k must be a whole number, got {k!r}")
    if k < 1:
        raise UserError(f"k must be at least 1, got {k}")
    return int(k)


def _unpickled(manifest, model: bytes, *rest) -> Scorer:
    return Scorer(manifest, jax_export.deserialize(bytearray(model)), *rest)
