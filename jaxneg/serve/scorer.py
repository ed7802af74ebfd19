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
from jaxneg.batch import PAD, forms, latest
from jaxneg.batch.forms import Form
from jaxneg.errors import UserError
from jaxneg.serve import demotion, manifest as manifests
from jaxneg.serve.demotion import Reranked

RANK = Form()


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

    def __init__(
        self, manifest, model: jax_export.Exported, params, item_VE, item_ids, station_ids, like_VE=None
    ):
        self.manifest = manifest
        self._model, self._query = model, jax.jit(model.call)
        self._params = jax.device_put(params)
        self._item_VE = np.asarray(item_VE)  # a memory map is slower to look at
        self._like_VE = None if like_VE is None else np.asarray(like_VE)
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
        ids = found.item_ids, found.station_ids
        return cls(found.manifest, found.model, found.params, found.item_VE, *ids, found.like_VE)

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
            None if self._like_VE is None else np.array(self._like_VE),
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

    def form(self, name: Any = forms.RANK, beta: Any = None, threshold: Any = None) -> Form:
        """A serving form: rank, judge, sum or demote, with the export's numbers or others. See ``jaxneg.batch.forms``.

        Raises UserError on another name, on one that needs a like head which the model has not, and on numbers that
        make no sense.
        """
        given = {key: value for key, value in (("beta", beta), ("threshold", threshold)) if value is not None}
        if forms.check(name) == forms.RANK and not given:
            return Form()
        if self._like_VE is None:
            raise UserError(
                f"form {name} needs a like head, which this export has not: train with --like.weight 1"
            )
        return forms.with_numbers(name, self.manifest["forms"].get(name, {}), given)

    def scores(
        self, item_BL: np.ndarray, feedback_BL: np.ndarray, station_BL: np.ndarray, form: Form = RANK
    ) -> np.ndarray:
        """Scores scores_BV of the whole catalogue in a form; those of the padding row 0 mean nothing."""
        return self._scored(self.query(item_BL, feedback_BL, station_BL), form)

    def _scored(self, query_BE: np.ndarray, form: Form) -> np.ndarray:
        """Scores of the whole catalogue by queries."""
        if form.name == forms.JUDGE:
            return self._likes(query_BE)
        score_BV = query_BE @ self._item_VE.T
        if form.name == forms.SUM:
            return score_BV + form.beta * self._likes(query_BE)
        if form.name == forms.DEMOTE:
            return score_BV + form.beta * np.minimum(self._relative(query_BE) - form.threshold, 0.0)
        return score_BV

    def demoted(self, query_E: np.ndarray, row_N: np.ndarray, form: Form, k: int = 10) -> Reranked:
        """The k best in form demote of what an index found, and whether no other item can be above the last of them.

        Args:
          query_E: of a context, out of ``query``.
          row_N: rows of the N items whose inner product with the query is highest.
          form: with beta and threshold.
          k: how many, at most N.
        """
        rank_N = self._item_VE[row_N] @ query_E
        return demotion.reranked(rank_N, self._relative(query_E[None], row_N)[0], form, k)

    def _likes(self, query_BE: np.ndarray, row_N: np.ndarray | None = None) -> np.ndarray:
        """Log odds of a like of all items, or of some."""
        if self._like_VE is None:
            raise UserError("this export has no like head: train with --like.weight 1")
        return query_BE @ (self._like_VE if row_N is None else self._like_VE[row_N]).T

    def _relative(self, query_BE: np.ndarray, row_N: np.ndarray | None = None) -> np.ndarray:
        """The same less each context's mean over the catalogue."""
        return self._likes(query_BE, row_N) - query_BE @ self._mean_1E.T

    @functools.cached_property
    def _mean_1E(self) -> np.ndarray:
        """The mean row of the like head."""
        assert self._like_VE is not None
        of_items = self._like_VE[1 : 1 + self.manifest["items"]]
        return of_items.mean(0, keepdims=True, dtype=np.float64).astype(np.float32)

    def recommend(
        self,
        history: Sequence[str | Event],
        k: int = 10,
        *,
        exclude_seen: bool = False,
        form: str | Form = RANK,
    ) -> list[Recommendation]:
        """The k best next items for a history, oldest first, of ids that were played or of Event; best first.

        Items that the catalogue does not know are left out of the history, stations it does not know count as
        none. ``form`` is the name of a serving form with the export's numbers, or what ``Scorer.form`` gives. In form
        demote as many items are looked at as it takes to be sure. Raises UserError if no item is known, on what is no
        id or Event, on a feedback kind that does not exist, on k below 1, and on a form that the model cannot serve.
        """
        seen, k = self._seen(history), _count(k)
        form = self.form(form) if isinstance(form, str) else form
        known = np.flatnonzero(seen.row_T)
        if not len(known):
            raise UserError(
                "no item of the history is in the catalogue: give ids as they stand in items.parquet"
            )
        at = known[latest(self._shown[seen.code_T[known]], self.manifest["length"])]
        context = np.full((3, 1, self.manifest["length"]), PAD, np.int32)
        context[:, 0, : len(at)] = seen.row_T[at], seen.code_T[at], seen.station_T[at]
        best, score_k = self._best(context, seen.row_T if exclude_seen else seen.row_T[:0], form, k)
        ids = [self._ids[row] for row in (best - 1).tolist()]
        # What ``_make`` does, without a call of Python for each.
        make = functools.partial(tuple.__new__, Recommendation)
        return list(map(make, zip(ids, score_k.tolist(), strict=True)))

    def _best(
        self, context: np.ndarray, left_out_T: np.ndarray, form: Form, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the k best items for a context in a form, those of other rows left out, and their scores."""
        query_BE = self.query(*context)
        score_V = self._scored(query_BE, RANK if form.name == forms.DEMOTE else form)[0]
        score_V[PAD] = score_V[left_out_T] = -np.inf
        if form.name == forms.DEMOTE:
            found = demotion.best(score_V, lambda row_N: self._relative(query_BE, row_N)[0], form, k)
            return found.at_k, found.score_k
        k = min(k, self.manifest["items"])
        best = np.argpartition(-score_V, k - 1)[:k]
        best = best[np.argsort(-score_V[best], kind="stable")]
        best = best[np.isfinite(score_V[best])]
        return best, score_V[best]

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
