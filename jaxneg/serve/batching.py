"""Requests that wait together are answered together: one batch of the model, each request with choices of its own."""

import asyncio
import time
import weakref
from collections.abc import Sequence
from concurrent import futures
from typing import NamedTuple

from jaxneg.errors import UserError
from jaxneg.serve.lists import Best, Wanted
from jaxneg.serve.scorer import Scorer

MOST = 64  # requests of a batch
QUICK = 0.01  # seconds that are not worth another thread: both want the interpreter, and cores may be busy
# Seconds of a batch for each turn of the loop after it: uvloop accepts one connection a turn, and where each turn held
# a batch of QUICK, new ones waited for seconds behind those that asked again at once.
TURN = 0.0006
NEWEST = 0.2  # weight of the last batch in what a request is known to take


class Full(Exception):
    """More waits than can be answered in time."""


class Waiting(NamedTuple):
    scorer: Scorer
    wanted: Wanted
    answer: asyncio.Future[Best]


class Batcher:
    """Batches of the requests that are there when a thread is free. Nobody waits for others to come.

    So a request alone is answered at once. One that comes while all threads are at work waits for the next batch,
    which takes as many requests as are likely to be answered within ``together`` seconds, by what they took before.
    """

    def __init__(self, pool: futures.Executor, threads: int, seconds: float, together: float):
        """Args:
        pool: that scores.
        threads: batches under way at a time.
        seconds: until an answer; where more wait than can be answered by then, the next one is sent away.
        together: seconds that a batch may take, if it holds more than one request.
        """
        self._pool, self._free, self._threads = pool, threads, threads
        self._seconds, self._together = seconds, together
        self._waiting: list[Waiting] = []
        self._takes: weakref.WeakKeyDictionary[Scorer, float] = weakref.WeakKeyDictionary()
        self._turns = 0  # of the loop until the next batch
        self.sizes: list[int] = []  # of batches, until somebody takes them

    async def recommended(self, scorer: Scorer, wanted: Wanted) -> Best:
        """The list for a request. Raises what ``Scorer.ready`` raises, and Full."""
        loop = asyncio.get_running_loop()
        if len(self._waiting) * self._takes.get(scorer, 0.0) / self._threads > self._seconds:
            raise Full
        if not self._waiting:
            self._turns = 0  # nobody else is there
        answer: asyncio.Future[Best] = loop.create_future()
        self._waiting.append(Waiting(scorer, wanted, answer))
        # What else came with it in this turn of the loop goes with it.
        loop.call_soon(self._start)
        return await answer

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        while self._free and not self._turns and (batch := self._next()):
            self._free -= 1
            self.sizes.append(len(batch))
            if self._takes.get(batch[0].scorer, QUICK) * len(batch) < QUICK:
                self._here(batch)
                return
            work = loop.run_in_executor(self._pool, _lists, batch[0].scorer, [one.wanted for one in batch])
            work.add_done_callback(lambda done, batch=batch: (self._end(batch, done), self._start()))

    def _here(self, batch: Sequence[Waiting]) -> None:
        """Answers in this thread. What and who came in the meantime is heard before the next batch."""
        done, began = asyncio.get_running_loop().create_future(), time.perf_counter()
        try:
            done.set_result(_lists(batch[0].scorer, [one.wanted for one in batch]))
        except Exception as error:  # it is each asker's
            done.set_exception(error)
        self._end(batch, done)
        self._turns = 1 + int((time.perf_counter() - began) / TURN)
        self._turn()

    def _turn(self) -> None:
        """Lets the loop read before the next batch."""
        if self._turns:
            self._turns -= 1
            asyncio.get_running_loop().call_soon(self._turn)
        else:
            self._start()

    def _next(self) -> list[Waiting]:
        """The oldest request and others of its model; those whose listener has gone are dropped."""
        self._waiting = [one for one in self._waiting if not one.answer.done()]
        if not self._waiting:
            return []
        scorer = self._waiting[0].scorer
        takes = self._takes.get(scorer, self._together)
        within = QUICK if takes < QUICK <= self._together else self._together
        most = max(1, min(MOST, int(0.99 * within / takes) if takes else MOST))
        batch = [one for one in self._waiting if one.scorer is scorer][:most]
        taken = {id(one) for one in batch}
        self._waiting = [one for one in self._waiting if id(one) not in taken]
        return batch

    def _end(self, batch: Sequence[Waiting], done: "asyncio.Future[tuple[list[object], float]]") -> None:
        self._free += 1
        error = None if done.cancelled() else done.exception()
        if error is None and not done.cancelled():
            found, seconds = done.result()
            scorer = batch[0].scorer
            before = self._takes.get(scorer, seconds / len(batch))
            self._takes[scorer] = before + NEWEST * (seconds / len(batch) - before)
        else:
            found = [error or asyncio.CancelledError()] * len(batch)
        for one, answer in zip(batch, found, strict=True):
            if one.answer.done():
                continue
            if isinstance(answer, Best):
                one.answer.set_result(answer)
            elif isinstance(answer, Exception):
                one.answer.set_exception(answer)
            else:
                one.answer.cancel()


def _lists(scorer: Scorer, wanted: Sequence[Wanted]) -> tuple[list[object], float]:
    """A list or an error for each, and the seconds that it took."""
    began = time.perf_counter()
    found: list[object] = []
    for one in wanted:
        try:
            found.append(scorer.ready(one))
        except UserError as error:
            found.append(error)
    good = [n for n, one in enumerate(found) if not isinstance(one, UserError)]
    for n, answer in zip(good, scorer.best([found[n] for n in good]), strict=True):  # pyright: ignore[reportArgumentType]
        found[n] = answer
    return found, time.perf_counter() - began
