"""Requests that come together are one batch, each with its own choices; none waits for others to come."""

import asyncio
import time
from concurrent import futures

import numpy as np
import pytest

from jaxneg.errors import UserError
from jaxneg.serve import batching
from jaxneg.serve.batching import Batcher
from jaxneg.serve.choice import Choice
from jaxneg.serve.lists import Best, Wanted
from jaxneg.serve.scorer import NO_ROWS, Event, Scorer


class Slow(Scorer):
    """A scorer that gives each its k, after a while; a k below 0 is a mistake of the asker."""

    def __init__(self, seconds=0.0):
        self.seconds, self.batches = seconds, []

    def ready(self, wanted):
        if wanted.k < 0:
            raise UserError("k")
        return wanted.k

    def best(self, ready):
        time.sleep(self.seconds * len(ready))
        self.batches.append(len(ready))
        if 0 in ready:
            raise RuntimeError("a fault of ours")
        return [Best(NO_ROWS, NO_ROWS, str(k)) for k in ready]


@pytest.fixture
def pool():
    with futures.ThreadPoolExecutor(2) as pool:
        yield pool


def asked(batcher, *what):
    """What comes of requests (scorer, k) that are all there at once."""

    async def all_():
        ones = [batcher.recommended(scorer, Wanted([], k)) for scorer, k in what]
        found = await asyncio.gather(*ones, return_exceptions=True)
        return [int(one.fallback) if isinstance(one, Best) else type(one) for one in found]

    return asyncio.run(all_())


def test_what_comes_together_is_answered_together_and_each_gets_its_own(pool):
    a, b = Slow(), Slow()
    batcher = Batcher(pool, 1, 5.0, 10.0)
    assert asked(batcher, (a, 1), (b, 2)) == [1, 2]  # the first one of a model is alone: it may take long
    what = [(a, 1), (b, 2), (a, 3), (a, -1), (b, 4), (a, 5)]
    assert asked(batcher, *what) == [1, 2, 3, UserError, 4, 5]
    assert a.batches == [1, 3] and b.batches == [1, 2] and batcher.sizes == [1, 1, 4, 2]


def test_a_fault_of_a_batch_reaches_all_of_it_and_the_next_is_answered(pool):
    a, batcher = Slow(), Batcher(pool, 1, 5.0, 10.0)
    asked(batcher, (a, 1))
    assert asked(batcher, (a, 0), (a, 1)) == [RuntimeError, RuntimeError]
    assert asked(batcher, (a, 1)) == [1]


def test_between_batches_the_loop_hears_who_else_came(pool):
    """uvloop takes in one connection a turn: of a thousand the last waited behind as many batches."""
    a, batcher = Slow(0.004), Batcher(pool, 1, 5.0, 0.0)  # each alone, and in the loop
    asked(batcher, (a, 1))

    async def turns():
        ones = [asyncio.ensure_future(batcher.recommended(a, Wanted([], k))) for k in (1, 2, 3)]
        found = []
        while len(a.batches) < 4:
            found.append(len(a.batches))
            await asyncio.sleep(0)
        await asyncio.gather(*ones)
        return found

    found = asyncio.run(turns())
    assert min(found.count(done) for done in (2, 3)) >= 0.004 / batching.TURN


def test_a_batch_takes_as_many_as_it_can_answer_in_its_time(pool):
    a, batcher = Slow(0.01), Batcher(pool, 1, 5.0, 0.05)
    asked(batcher, (a, 1))
    assert asked(batcher, *[(a, k) for k in range(1, 20)]) == [*range(1, 20)]
    assert 1 < max(a.batches) <= 5 and sum(a.batches) == 20
    alone = Batcher(pool, 1, 5.0, 0.0)
    a.batches.clear()
    asked(alone, (a, 1))
    asked(alone, *[(a, k) for k in range(1, 5)])
    assert a.batches == [1] * 5
    quick, many = Slow(), Batcher(pool, 1, 5.0, 10.0)
    asked(many, (quick, 1))
    asked(many, *[(quick, k) for k in range(1, 100)])
    assert max(quick.batches) <= batching.MOST


def test_who_has_gone_is_not_answered_and_more_than_can_wait_are_sent_away(pool):
    a, batcher = Slow(0.05), Batcher(pool, 1, 0.2, 0.0)

    async def all_():
        first = asyncio.ensure_future(batcher.recommended(a, Wanted([], 1)))
        await asyncio.sleep(0.01)
        gone = asyncio.ensure_future(batcher.recommended(a, Wanted([], 2)))
        await asyncio.sleep(0.01)
        gone.cancel()
        assert (await first).fallback == "1"
        rest = [batcher.recommended(a, Wanted([], k)) for k in range(3, 23)]
        return await asyncio.gather(*rest, return_exceptions=True)

    found = asyncio.run(all_())
    away = [isinstance(one, batching.Full) for one in found]
    # Four of 0.05 s can be answered within 0.2 s, less what the clock of a busy machine adds.
    assert 1 <= away.count(False) <= 6 and away == sorted(away)
    assert sum(a.batches) == 1 + away.count(False)


@pytest.mark.slow
@pytest.mark.parametrize("quick", [0.0, 1e6])
def test_lists_made_together_are_those_made_alone(quick, exported, pool, monkeypatch):
    """Histories, forms, filters and numbers of items drawn alike, in other threads and in that of the loop."""
    monkeypatch.setattr(batching, "QUICK", quick)
    model = Scorer.open(exported("with a like head"))
    rng, names = np.random.default_rng(0), model.items(10**6)
    wanted = []
    for _ in range(60):
        history = [
            Event(str(rng.choice(names)), str(rng.choice(["play", "skip"]))) for _ in range(rng.integers(6))
        ]
        name = str(rng.choice(["rank", "judge", "sum", "demote"]))
        choice = Choice(exclude=names[: rng.integers(3)], at_most={"artist": 1} if rng.random() < 0.5 else {})
        form = (
            model.form(name) if name in ("rank", "judge") else model.form(name, beta=float(rng.uniform(0, 3)))
        )
        wanted.append(Wanted(history, int(rng.integers(1, 30)), bool(rng.random() < 0.5), form, choice))
    batcher = Batcher(pool, 2, 1e6, 1e6)

    async def all_():
        await batcher.recommended(model, wanted[0])
        return await asyncio.gather(*(batcher.recommended(model, one) for one in wanted))

    found = asyncio.run(all_())
    assert max(batcher.sizes) > 20
    for one, asked_ in zip(found, wanted, strict=True):
        history, k, exclude_seen, form, choice, _ = asked_
        alone = model.recommend(history, k, exclude_seen=exclude_seen, form=form, choice=choice)
        assert model.ids(one.row_N) == [r.item for r in alone] and one.fallback == alone.fallback
        # A batch of another size may sum in another order.
        np.testing.assert_allclose(one.score_N, [r.score for r in alone], rtol=1e-4, atol=1e-5)
