"""A model as a score function for ``metrics``: contexts are encoded in a few lengths, ranks counted on the devices."""

import collections
import copy
import functools
import itertools
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Float, Int

from jaxneg import metrics, models
from jaxneg.batch import PAD, EvalBatch
from jaxneg.batch.forms import Form
from jaxneg.embeddings import heads, layouts, sharding, tables, topk
from jaxneg.embeddings.tables import Rows
from jaxneg.errors import UserError
from jaxneg.metrics import scores
from jaxneg.training import likes, scoring

AHEAD = 1 << 13  # examples whose contexts are encoded together
TURN = 1 << 10  # as many on a CPU, where those that come next are encoded while these are ranked
WAITING = 2  # turns that are encoded ahead of what is looked at
PARTS = 4  # lengths that contexts are cut to: so many even parts of the longest
PROGRAM = 1 << 22  # floats of hidden states that one more compiled program must save
# Floats of hidden states that a core is given at a time: more leave its cache and cost half as much more.
CACHE = 1 << 18
THREADS = 16  # that encode contexts on a CPU, at most
# Scores that the host ranks before ranks are counted on the devices, whose program takes as long to compile.
SORTED = 1 << 25
AT_HAND = 1 << 13  # items of a catalogue up to which the host of a CPU ranks faster than XLA
RANK = Form()


class Jitted(NamedTuple):
    """What a model is asked, compiled for each shape."""

    hidden: Callable[[tables.Weights, scoring.Seen], jax.Array]  # h_BD
    of_items: Callable[..., jax.Array]  # (weights, h_BD, item_BC) -> score_BC
    ranked: Callable[..., topk.Ranked]  # (weights, examples, k=)
    of_all: Callable[..., jax.Array]  # (h_BD, *heads of all items) -> score_BV


class CatalogueScore:
    """Scores of the whole catalogue for held-out examples.

    Called with a batch it gives scores_BV, or ``scores.Scored`` where no one place holds the rows of all items.
    ``each`` takes batches together, and makes scores_BV only while they are few.

    ``form`` is the serving form of the scores; ``in_form`` gives another one that shares what was compiled.
    """

    def __init__(
        self, model: models.Model, layout: layouts.Layout, weights: tables.Weights, form: Form = RANK
    ):
        # All devices score their rows, and each gets all that is found.
        jit = functools.partial(sharding.jit, out_shardings=NamedSharding(layout.mesh, sharding.spec("")))
        hidden = jit(functools.partial(scoring.hidden, model, layout))

        @functools.cache
        def jitted(name: str) -> tuple[Rows, Jitted]:
            """Of a form, whatever its numbers are."""
            rows = functools.partial(scoring.catalogue_rows, model, form=name)
            return rows, Jitted(
                hidden,
                jit(functools.partial(scoring.catalogue_items, model, layout, form=name)),
                jit(functools.partial(topk.ranked, layout, rows), static_argnames="k"),
                sharding.jit(heads.scores),
            )

        self._layout, self._trained, self._of_form = layout, weights, jitted
        self._cut, self._mesh = model.cut, layout.mesh
        self._take(form)
        self._compiled: set[int] = set()  # lengths of contexts
        self._items, self._left = layout.items, SORTED
        # A program is too small for many cores: each takes its own. Those of many devices would wait for each other.
        alone = layout.mesh.size == 1 and jax.default_backend() == "cpu"
        self._threads = min(os.cpu_count() or 1, THREADS) if alone else 1
        self._at_hand = alone and layout.items <= AT_HAND

    def in_form(self, form: Form) -> "CatalogueScore":
        """The same model's scores in another form. Raises UserError where that needs a like head and there is none."""
        other = copy.copy(self)
        other._take(form)
        return other

    def _take(self, form: Form) -> None:
        if form.name != RANK.name and not likes.there(self._trained):
            raise UserError(
                f"form {form.name} needs a like head, which this model has not: train it with --like.weight 1"
            )
        rows, self._jitted = self._of_form(form.name)
        self._weights = self._trained
        if form.name != RANK.name:
            self._weights = likes.with_numbers(self._trained, form, self._layout.items)
        self._all_rows = functools.cache(functools.partial(self._layout.all_rows, rows, self._weights))

    def __call__(self, batch: EvalBatch) -> np.ndarray | scores.Scored:
        h_BD, rows = self.encoded([batch])[0], self._all_rows()
        if rows is None:
            return _Scored(self._jitted, self._weights, h_BD)
        return np.asarray(self._jitted.of_all(h_BD, *rows))

    def each(self, batches: Iterable[EvalBatch]) -> Iterator[tuple[EvalBatch, scores.Scored]]:
        """The batches with their scores, some batches read ahead."""
        for some, h_BDs in self._in_turn(batches):
            for batch, h_BD in zip(some, h_BDs, strict=True):
                yield batch, self.scored(h_BD)

    def scored(self, h_BD: Float[np.ndarray, "B D"]) -> scores.Scored:
        """Scores for examples by their hidden states, as ``encoded`` gives them."""
        self._left -= len(h_BD) * self._items
        rows = self._all_rows() if self._left >= 0 or self._at_hand else None
        if rows is None:
            return _Scored(self._jitted, self._weights, h_BD)
        return scores.Matrix(np.asarray(self._jitted.of_all(h_BD, *rows)))

    def encoded(self, batches: Sequence[EvalBatch]) -> list[Float[np.ndarray, "B D"]]:
        """Hidden states h_BD of each batch, from which the event after each context is scored."""
        return [h_BD for _, h_BDs in self._in_turn(batches) for h_BD in h_BDs]

    def _in_turn(self, batches: Iterable[EvalBatch]) -> Iterator[tuple[list[EvalBatch], list[np.ndarray]]]:
        """Batches with their hidden states h_BD; while some are looked at, those that follow are encoded."""
        pool = futures.ThreadPoolExecutor(self._threads)
        try:
            begun = self._begun(batches, pool)
            waiting = collections.deque(itertools.islice(begun, WAITING))
            while waiting:
                some, h_BDs = waiting.popleft()
                found = h_BDs()
                waiting.extend(itertools.islice(begun, 1))
                yield some, found
        finally:  # who is interrupted waits for what has begun alone
            pool.shutdown(cancel_futures=True)

    def _begun(
        self, batches: Iterable[EvalBatch], pool: futures.Executor
    ) -> Iterator[tuple[list[EvalBatch], Callable[[], list[np.ndarray]]]]:
        """Some batches at a time, and what waits for their hidden states.

        Of these the longest contexts are encoded first, and what is left of a length is filled with those of the next.
        """
        rest, total = iter(batches), operator.length_hint(batches)
        width = self._weights.tables["item_VD"].shape[-1]
        for batch in rest:
            together = max((TURN if self._threads > 1 else AHEAD) // len(batch.item_BL), 1)
            some = [batch, *itertools.islice(rest, together - 1)]
            seen = [np.concatenate([np.asarray(one[n]) for one in some]) for n in range(3)]
            size_X, longest = (seen[0] != PAD).sum(1), seen[0].shape[1]
            lengths = [longest]
            if self._cut:
                share = min(len(some) / max(total, len(some)), 1.0)  # of what a new program would be used for
                lengths = chosen(size_X, longest, self._compiled, int(PROGRAM * share) // width)
            slots = len(batch.item_BL) * longest
            if jax.default_backend() == "cpu":
                slots = min(slots, max(CACHE // width, longest))
            order, first = np.argsort(-size_X, kind="stable"), 0
            found: list[Callable[[], np.ndarray]] = []
            while first < len(order):
                length = next(one for one in lengths if one >= size_X[order[first]])
                rows = slots // length
                asked = seen, order[first : first + rows], (rows, length)
                if self._threads > 1 and length in self._compiled:
                    found.append(pool.submit(self._waited, *asked).result)
                else:  # what is new is compiled here, once
                    found.append(functools.partial(np.asarray, self._hidden(*asked)))
                self._compiled.add(length)
                first += rows
            yield some, functools.partial(_of_each, some, order, found)

    def _hidden(self, seen: list[np.ndarray], at_B: np.ndarray, shape: tuple[int, int]) -> jax.Array:
        """Hidden states of some contexts, cut to a length, and of as many empty ones as there are rows more."""
        cut = [np.zeros(shape[:1] + (min(shape[1], leaf.shape[1]),), leaf.dtype) for leaf in seen]
        for some, leaf in zip(cut, seen, strict=True):
            some[: len(at_B)] = leaf[at_B, : shape[1]]
        return self._jitted.hidden(
            self._weights, scoring.Seen(*(sharding.put(leaf, self._mesh) for leaf in cut))
        )

    def _waited(self, seen: list[np.ndarray], at_B: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """The same when they are there."""
        return np.asarray(self._hidden(seen, at_B, shape))


def _of_each(
    batches: Sequence[EvalBatch], order: np.ndarray, found: Sequence[Callable[[], np.ndarray]]
) -> list[Float[np.ndarray, "B D"]]:
    """Hidden states of each batch, out of those that were found in another order."""
    h_XD = np.concatenate([h_BD() for h_BD in found])[np.argsort(order)]
    return np.split(h_XD, np.cumsum([len(batch.item_BL) for batch in batches])[:-1])


class _Scored:
    """Scores of a batch's examples, made when they are asked for."""

    def __init__(self, jitted: Jitted, weights: tables.Weights, h_BD: Float[np.ndarray, "B D"]):
        self._jitted, self._weights, self._h_BD = jitted, weights, h_BD

    def of(self, item_BC: Int[np.ndarray, "B C"]) -> Float[np.ndarray, "B C"]:
        return np.asarray(self._jitted.of_items(self._weights, self._h_BD, item_BC))

    def rank(self, targets: tuple[np.ndarray, ...], *, k: int, seen_BL: np.ndarray | None) -> metrics.Ranking:
        none_B1 = np.zeros((len(self._h_BD), 1), np.int32)
        blocks = targets or (none_B1,)
        seen_BL = none_B1 if seen_BL is None else seen_BL
        examples = topk.Examples(self._h_BD, np.concatenate(blocks, axis=1), seen_BL)
        found = topk.on_host(self._jitted.ranked(self._weights, examples, k=k), blocks)
        return found._replace(targets=found.targets[: len(targets)])


def chosen(size_X: Int[np.ndarray, "X"], longest: int, known: set[int], worth: int) -> list[int]:
    """Lengths that contexts are cut to, ascending: those that take the fewest positions.

    Args:
      size_X: events of each context.
      longest: positions of a row as it is.
      known: lengths that programs have been compiled for.
      worth: positions that a further program must save.
    """
    every = sorted({-(-longest * part // PARTS) for part in range(1, PARTS + 1)})
    least = int(size_X.max(initial=1))

    def positions(lengths: Sequence[int]) -> int:
        taken = np.array(lengths)[np.searchsorted(lengths, size_X)].sum()
        return int(taken) + worth * len({*lengths} - known)

    some = itertools.chain.from_iterable(itertools.combinations(every, n) for n in range(1, len(every) + 1))
    return list(min((one for one in some if one[-1] >= least), key=positions))
