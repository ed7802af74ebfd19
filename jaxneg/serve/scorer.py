"""Scores from an export directory alone: no store, no config, no training code."""

import functools
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax import export as jax_export

from jaxneg.batch import PAD, forms, latest
from jaxneg.batch.forms import Form
from jaxneg.errors import UserError
from jaxneg.files import addresses
from jaxneg.serve import demotion, encoding, heard, manifest as manifests, searching
from jaxneg.serve.choice import ANY, Attributes, Choice
from jaxneg.serve.demotion import Reranked
from jaxneg.serve.histories import Event as Event, Known, Seen, events
from jaxneg.serve.lists import (
    RANK,
    Best,
    Influence,
    Ready,
    Recommendation as Recommendation,
    Recommendations,
    Wanted,
)
from jaxneg.serve.matrices import Matrices
from jaxneg.serve.nearest import Nearest, Whole

NO_ROWS = np.zeros(0, np.int32)
SCORES = 1 << 24  # that are in memory together where lists are made for many


class Scorer:
    """A loaded export. Open one with ``Scorer.open``."""

    def __init__(
        self,
        manifest,
        model: jax_export.Exported,
        params,
        item_VE,
        item_ids,
        station_ids,
        attributes,
        like_VE=None,
        at_stations=None,
    ):
        self.manifest = manifest
        self._encoder = encoding.Encoder(model, params)
        self._scores = Matrices(item_VE, like_VE, manifest["items"])
        self._ids = item_ids  # of rows 1..items
        self._columns, self._attributes = attributes, Attributes(attributes)
        self._codes = {kind: code for kind, code in manifest["feedback"].items() if kind != "pad"}
        kinds = manifest["inputs"] or self._codes  # of feedback that the model was trained to see
        self._shown = np.zeros(max(self._codes.values()) + 1, bool)
        self._shown[[code for kind, code in self._codes.items() if kind in kinds]] = True
        self._at_stations, self._heard = at_stations, heard.Heard(len(item_ids), at_stations)
        self._known = Known(item_ids, station_ids, self._codes)
        self._whole = Whole(self._scores, self._attributes, manifest["items"])
        self._nearest: Nearest | None = None  # where the catalogue has an index

    @classmethod
    def open(cls, directory: str | pathlib.Path, *, index: bool = True) -> "Scorer":
        """The scorer of an export directory, which finds items by the export's index where it has one.

        Without ``index`` it looks at all items. Raises UserError where a file is missing, altered or of another format,
        see ``serve.manifest``, and where the library of the index is not there.
        """
        directory = addresses.local(directory, "directory", addresses.EXPORT)
        found = manifests.opened(directory)
        known = found.item_ids, found.station_ids, found.attributes
        rest = found.like_VE, found.at_stations
        scorer = cls(found.manifest, found.model, found.params, found.item_VE, *known, *rest)
        if index and "index" in found.manifest:
            from jaxneg.serve import index as indexes  # an export without one does not need it

            search = indexes.searching(directory, found.manifest)
            scorer._nearest = Nearest(search, scorer._scores, scorer._attributes)
        return scorer

    def __reduce__(self):
        """A pickle holds all of the export but its index, so that it opens where the directory is not."""
        params = jax.tree.map(np.asarray, self._encoder.params)
        known = self._ids, list(self._known.stations), self._columns
        return _unpickled, (
            self.manifest,
            bytes(self._encoder.model.serialize()),
            params,
            np.array(self._scores.item_VE),
            *known,
            None if self._scores.like_VE is None else np.array(self._scores.like_VE),
            self._at_stations,
        )

    def knows(self, item: str) -> bool:
        """Whether the item is in the catalogue that the model was trained on."""
        return item in self._known.items

    def unknown(self, items: Iterable[str]) -> list[str]:
        """Of these items those that are not in it."""
        known = self._known.items
        return [item for item in items if item not in known]

    def seen(self, history: Sequence[str | Event]) -> Seen:
        """A history by row and code, as ``Wanted`` takes it too: for who asks more than once of one.

        Raises UserError on what is no history, and on a feedback kind that does not exist."""
        return self._known.seen(history)

    def knows_station(self, station: str) -> bool:
        """Whether the station was there in training."""
        return station in self._known.stations

    def items(self, count: int) -> list[str]:
        """Ids of the items heard most often, most often first."""
        return self._ids[:count]

    def ids(self, row_N: np.ndarray) -> list[str]:
        """Ids of rows from 1 on, in their order."""
        return list(map(self._ids.__getitem__, (row_N - 1).tolist()))

    @property
    def attributes(self) -> list[str]:
        """Names of the attributes that a ``Choice`` may be of."""
        return self._attributes.names

    def attributes_of(self, item: str) -> dict[str, str | None]:
        """Attributes of an item that is known, by name; None for one that it has not."""
        row = self._known.items[item]
        return {name: column[row - 1].as_py() for name, column in self._columns.items()}

    def search(self, text: str, count: int = 20) -> list[str]:
        """Items whose id or attributes hold every word of a text, those heard most first."""
        return [self._ids[row - 1] for row in self._search.rows(text, count)]

    @functools.cached_property
    def _search(self) -> searching.Search:
        return searching.Search(self._ids, self._columns)

    def warmup(self, most: int = encoding.LARGEST) -> None:
        """Compiles for every size of batch that up to so many requests are run in, so that none waits for it."""
        for size in encoding.up_to(most):
            none_BL = np.full((size, self.manifest["length"]), PAD, np.int32)
            self.query(none_BL, none_BL, none_BL)

    def query(self, item_BL: np.ndarray, feedback_BL: np.ndarray, station_BL: np.ndarray) -> np.ndarray:
        """Query vectors query_BE of contexts given as rows and codes, int32, padded on the right with 0.

        Any number of contexts is run in ``encoding.batches``, the last of which may be filled up. Raises UserError on
        arrays that are not of one shape, on a row, a code or a station that there is not, and where the model cannot be
        compiled or run.
        """
        inputs = [np.asarray(code_BL, np.int32) for code_BL in (item_BL, feedback_BL, station_BL)]
        if len(shapes := {code_BL.shape for code_BL in inputs}) > 1:
            raise UserError(f"items, feedback and stations must be of one shape, got {sorted(shapes)}")
        tops = self.manifest["items"], max(self._codes.values()), len(self._known.stations)
        for name, code_BL, top in zip(("item", "feedback", "station"), inputs, tops, strict=True):
            if code_BL.size and not 0 <= int(code_BL.min()) <= int(code_BL.max()) <= top:
                wrong = code_BL[(code_BL < 0) | (code_BL > top)][0]
                raise UserError(f"{name} must be from 0 to {top:,}, got {wrong}")
        return self._encoder.queries(np.stack(inputs))

    def form(self, name: Any = forms.RANK, beta: Any = None, threshold: Any = None) -> Form:
        """A serving form: rank, judge, sum or demote, with the export's numbers or others. See ``jaxneg.batch.forms``.

        Raises UserError on another name, on one that needs a like head which the model has not, and on numbers that
        make no sense.
        """
        given = {key: value for key, value in (("beta", beta), ("threshold", threshold)) if value is not None}
        if forms.check(name) == forms.RANK and not given:
            return Form()
        if self._scores.like_VE is None:
            raise UserError(
                f"form {name} needs a like head, which this export has not: train with --like.weight 1"
            )
        return forms.with_numbers(name, self.manifest["forms"].get(name, {}), given)

    def scores(
        self, item_BL: np.ndarray, feedback_BL: np.ndarray, station_BL: np.ndarray, form: Form = RANK
    ) -> np.ndarray:
        """Scores scores_BV of the whole catalogue in a form; those of the padding row 0 mean nothing."""
        return self._scores.of(self.query(item_BL, feedback_BL, station_BL), form)

    def demoted(self, query_E: np.ndarray, row_N: np.ndarray, form: Form, k: int = 10) -> Reranked:
        """The k best in form demote of what an index found, and whether no other item can be above the last of them.

        Args:
          query_E: of a context, out of ``query``.
          row_N: rows of the N items whose inner product with the query is highest.
          form: with beta and threshold.
          k: how many, at most N.
        """
        rank_N = self._scores.of(query_E[None], RANK, row_N)[0]
        return demotion.reranked(rank_N, self._scores.relative(query_E[None], row_N)[0], form, k)

    def recommend(
        self,
        history: Sequence[str | Event],
        k: int = 10,
        *,
        exclude_seen: bool = False,
        form: str | Form = RANK,
        choice: Choice = ANY,
        station: str | None = None,
    ) -> Recommendations:
        """The k best next items for a history, oldest first, of ids that were played or of Event; best first.

        Items that the catalogue does not know are left out of the history, stations it does not know count as none.
        Where no item is known the list is of what is heard most at ``station``, or that of the last event, and then
        anywhere, and its ``fallback`` says so. ``form`` is the name of
        a serving form with the export's numbers, or what ``Scorer.form`` gives; in form demote as many items are
        looked at as it takes to be sure. A list is shorter than k where ``choice`` leaves fewer.

        Raises UserError on what is no id or Event, on a feedback kind that does not exist, on k below 1, on a form
        that the model cannot serve, and on an attribute that there is not.
        """
        wanted = Wanted(history, k, exclude_seen, form, choice, station)
        return self.lists([self.ready(wanted)])[0]

    def recommend_many(
        self,
        histories: Sequence[Sequence[str | Event]],
        k: int = 10,
        *,
        exclude_seen: bool = False,
        form: str | Form = RANK,
        choice: Choice = ANY,
    ) -> list[Recommendations]:
        """``recommend`` for many histories, encoded together."""
        first = self.ready(Wanted([], k, exclude_seen, form, choice))
        found = []
        for history in histories:
            seen = self._known.seen(history)
            out_N = np.concatenate([first.out_N, seen.row_T]) if exclude_seen else first.out_N
            found.append(first._replace(seen=seen, out_N=out_N, station=self._known.station(seen)))
        return self.lists(found)

    def ready(self, wanted: Wanted) -> Ready:
        """What is asked for, by row and code. Raises UserError as ``recommend``."""
        history, k, exclude_seen, form, choice, station = wanted
        form = self.form(form) if isinstance(form, str) else form
        seen, out_N = self._known.seen(history), self._left_out(choice)
        if exclude_seen:
            out_N = np.concatenate([out_N, seen.row_T])
        return Ready(seen, _count(k), form, choice, out_N, self._known.station(seen, station))

    def lists(self, ready: Sequence[Ready]) -> list[Recommendations]:
        """Lists for many, each with its own k, form and choice, encoded together."""
        return [self._named(*one) for one in self.best(ready)]

    def best(self, ready: Sequence[Ready]) -> list[Best]:
        """``lists`` by row, for ``ids``."""
        found: dict[int, Best] = {}
        known = [n for n, one in enumerate(ready) if one.seen.row_T.any()]
        for first in range(0, len(known), encoding.LARGEST):
            some = known[first : first + encoding.LARGEST]
            query_BE, rest = self._encoder.queries(self._contexts([ready[n].seen for n in some])), list[int]()
            asked = [ready[n] for n in some]
            near = self._nearest.best(query_BE, asked) if self._nearest else [None] * len(some)
            for b, one in enumerate(near):
                if one is None:
                    rest.append(b)
                else:
                    found[some[b]] = one
            together = max(1, SCORES // self.manifest["rows"])
            for low in range(0, len(rest), together):
                at = rest[low : low + together]
                query_NE = query_BE if len(at) == len(query_BE) else query_BE[at]
                best = self._whole.best(query_NE, [asked[b] for b in at])
                for b, one in zip(at, best, strict=True):
                    found[some[b]] = one
        return [found[n] if n in found else self._most_heard(one) for n, one in enumerate(ready)]

    def rerank(
        self,
        history: Sequence[str | Event],
        candidates: Sequence[str],
        *,
        form: str | Form = RANK,
        station: str | None = None,
    ) -> Recommendations:
        """The candidates that the catalogue knows, each once, best first; by how often they are heard where no item of
        the history is known, as ``fallback`` then says.

        Raises UserError as ``recommend``, and on candidates that are no list of ids.
        """
        if isinstance(candidates, str) or not all(isinstance(one, str) for one in candidates):
            raise UserError(f"candidates are a list of ids, got {candidates!r}")
        form = self.form(form) if isinstance(form, str) else form
        seen, row_N = self._known.seen(history), np.unique(self._known.rows(list(candidates)))
        row_N = row_N[row_N > PAD]
        if not seen.row_T.any():
            here = self._known.station(seen, station)
            row_N = self._heard.ordered(row_N, here)
            return self._named(row_N, np.full(len(row_N), np.nan), self._heard.why(here))
        score_N = self._scores.of(self._encoder.queries(self._contexts([seen])), form, row_N)[0]
        order_N = np.argsort(-score_N, kind="stable")
        return self._named(row_N[order_N], score_N[order_N])

    def explain(
        self, history: Sequence[str | Event], item: str, *, form: str | Form = RANK
    ) -> list[Influence]:
        """What each event that the model sees does to an item's score: as it is, less as it would be without the event.

        In the order of the history; events of items that are not known, and those before the last that the model
        sees, are left out. Raises UserError as ``recommend``, and on an item that is not known.
        """
        return self.explain_many(history, [item], form=form)[0]

    def explain_many(
        self, history: Sequence[str | Event], items: Sequence[str], *, form: str | Form = RANK
    ) -> list[list[Influence]]:
        """``explain`` of many items at once."""
        form = self.form(form) if isinstance(form, str) else form
        if other := [item for item in items if not isinstance(item, str) or not self.knows(item)]:
            raise UserError(
                f"item {other[0]!r} is not in the catalogue: give an id as it stands in items.parquet"
            )
        told = events(history)
        seen = self._known.seen(told)
        at = self._visible(seen)
        # What stands before the events that are seen comes into sight once one of them is gone: it is left out too.
        kept = Seen(*(leaf[at] for leaf in seen))
        less = [Seen(*(np.delete(leaf, n) for leaf in kept)) for n in range(len(at))]
        query_BE = self._encoder.queries(self._contexts([kept, *less]))
        score_BN = self._scores.of(query_BE, form, self._known.rows(items))
        change_NT = (score_BN[0] - score_BN[1:]).T.tolist()
        return [
            [Influence(told[t], change) for t, change in zip(at.tolist(), one, strict=True)]
            for one in change_NT
        ]

    def _contexts(self, seen: Sequence["Seen"]) -> np.ndarray:
        """Items, feedback and stations that the model sees of histories, int32 [3, B, L]."""
        context = np.zeros((3, len(seen), self.manifest["length"]), np.int32)  # PAD
        for b, one in enumerate(seen):
            at = self._visible(one)
            context[:, b, : len(at)] = one.row_T[at], one.code_T[at], one.station_T[at]
        return context

    def _visible(self, seen: "Seen") -> np.ndarray:
        """Places of the events of a history that the model sees."""
        known = seen.row_T.nonzero()[0]
        return known[latest(self._shown[seen.code_T[known]], self.manifest["length"])]

    def _left_out(self, choice: Choice) -> np.ndarray:
        """Rows that may be in no list, whoever's."""
        if choice is ANY:
            return NO_ROWS
        allowed_V = self._attributes.allowed(choice)
        if isinstance(choice.exclude, str) or not all(isinstance(one, str) for one in choice.exclude):
            raise UserError(f"what is excluded is a list of ids, got {choice.exclude!r}")
        row_N = self._known.rows(list(choice.exclude))
        return row_N if allowed_V is None else np.union1d(row_N, np.flatnonzero(~allowed_V))

    def _most_heard(self, wanted: Ready) -> Best:
        """What is heard most of what may be in a list."""

        def top(n: int) -> tuple[np.ndarray, np.ndarray]:
            row_N = self._heard.best(n, wanted.out_N, wanted.station)
            return row_N, np.full(len(row_N), np.nan)

        found = self._attributes.capped(top, wanted.k, wanted.choice, self.manifest["items"])
        return Best(*found, self._heard.why(wanted.station))

    def _named(self, row_N: np.ndarray, score_N: np.ndarray, fallback: str | None = None) -> Recommendations:
        best = zip(self.ids(row_N), score_N.tolist(), strict=True)
        return Recommendations(map(_recommendation, best), fallback)


# What ``_make`` does, without a call of Python for each.
_recommendation = functools.partial(tuple.__new__, Recommendation)


def _count(k: Any) -> int:
    if type(k) is int and k > 0:
        return k
    if isinstance(k, bool) or not isinstance(k, int | np.integer):
        raise UserError(f"k must be a whole number, got {k!r}")
    if k < 1:
        raise UserError(f"k must be at least 1, got {k}")
    return int(k)


def _unpickled(manifest, model: bytes, *rest) -> Scorer:
    return Scorer(manifest, jax_export.deserialize(bytearray(model)), *rest)
