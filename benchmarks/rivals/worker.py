"""One library under test, in a process and an environment of its own; ``peers.py`` starts it and tells it what to do.

Needs nothing but numpy, as it is imported by every environment. A command is a line of JSON on the standard input, its
answer one on the standard output; all else that a library prints goes to the standard error.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

# Of every model: width, blocks, heads, feed-forward width, dropout, batch in sequences, rate of Adam.
WIDTH, LAYERS, HEADS, FEED_FORWARD, DROPOUT = 64, 2, 1, 64, 0.2
BATCH_SIZE, LEARNING_RATE = 128, 1e-3
EVAL_BATCH_SIZE = 256
HELD_OUT = 2  # last items of a user that no training sequence holds: one for validation, one for the test
TOP = 10


@dataclass(frozen=True)
class Log:
    """Users' items, oldest first; items are numbers from 1, 0 is padding."""

    item_T: np.ndarray  # int32, one user after the other
    indptr: np.ndarray  # where each user begins, and the end
    length: int  # inputs of a model
    rejected_T: np.ndarray | None = None  # bool; only a library that knows rejections is given such a log

    @classmethod
    def open(cls, path: pathlib.Path, length: int) -> "Log":
        """The last items of each user: one training sequence, and what is held out."""
        with np.load(path) as arrays:
            item_T, indptr, rejected_T = arrays["item_T"], arrays["indptr"], arrays.get("rejected_T")
        size_U = np.minimum(np.diff(indptr), length + 1 + HELD_OUT)
        kept_T = np.arange(len(item_T)) >= np.repeat(indptr[1:] - size_U, np.diff(indptr))
        ends = np.concatenate([[0], np.cumsum(size_U)])
        return cls(item_T[kept_T], ends, length, None if rejected_T is None else rejected_T[kept_T])

    @property
    def users(self) -> int:
        return len(self.indptr) - 1

    @property
    def items(self) -> int:
        return int(self.item_T.max())

    def history(self, user: int, held_out: int = 0) -> np.ndarray:
        """All items of a user but the last ``held_out``."""
        return self.item_T[self.indptr[user] : self.indptr[user + 1] - held_out]

    def train(self, user: int) -> np.ndarray:
        """What a user's training sequence is made of: up to length + 1 items, inputs and targets shifted by one."""
        return self.history(user, HELD_OUT)

    def context(self, user: int) -> np.ndarray:
        """What comes before a user's test item."""
        return self.history(user, 1)[-self.length :]

    def targets(self, held_out: int = 1) -> np.ndarray:
        """An item of each user: that of the test, or of validation with ``held_out`` 2."""
        return self.item_T[self.indptr[1:] - held_out]

    def train_rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets of all users, item_UL and target_UL, filled up behind."""
        row_UL = padded([self.train(user) for user in range(self.users)], self.length + 1)
        target_UL = row_UL[:, 1:]
        return np.where(target_UL > 0, row_UL[:, :-1], 0), target_UL

    def ndcg(self, score: Callable[[list[np.ndarray]], np.ndarray]) -> float:
        """NDCG@10 of all users' validation items over all items but those heard before.

        ``score`` gives a row of scores, 0 to ``items``, for each context.
        """
        total = 0.0
        for first in range(0, self.users, EVAL_BATCH_SIZE):
            users = range(first, min(first + EVAL_BATCH_SIZE, self.users))
            heard = [self.history(user, HELD_OUT) for user in users]
            score_BV = np.array(score([one[-self.length :] for one in heard]), np.float32)
            target_B = self.targets(HELD_OUT)[users.start : users.stop]
            of_target_B = score_BV[np.arange(len(target_B)), target_B]
            score_BV[:, 0] = -np.inf
            for row_V, one in zip(score_BV, heard, strict=True):
                row_V[one] = -np.inf
            # Half of those that are level count as better.
            better_B = (score_BV > of_target_B[:, None]).sum(1)
            level_B = (score_BV == of_target_B[:, None]).sum(1)
            rank_B = better_B + np.maximum(level_B - 1, 0) / 2
            total += float(np.where(rank_B < TOP, 1 / np.log2(rank_B + 2), 0).sum())
        return total / self.users

    def hit_rate(self, top_Uk: np.ndarray) -> float:
        """Share of users whose test item is in their list."""
        return float((top_Uk == self.targets()[:, None]).any(1).mean())


def padded(sequences: list[np.ndarray], width: int, *, left: bool = False) -> np.ndarray:
    """Sequences as rows of a matrix, int32, filled up with 0 after them, or before them."""
    found = np.zeros((len(sequences), width), np.int32)
    for row, sequence in zip(found, sequences, strict=True):
        if len(sequence):
            row[slice(-len(sequence), None) if left else slice(len(sequence))] = sequence
    return found


def uniform_negatives(like: np.ndarray, items: int, rng: np.random.Generator) -> np.ndarray:
    """One item for each that stands there, 0 where there is none."""
    drawn = rng.integers(1, items + 1, size=like.shape, dtype=np.int32)
    return np.where(like > 0, drawn, 0)


class Gate:
    """Lets a training loop run as many steps as it is told, and tells how long they took."""

    def __init__(self, commands: "Commands", validate: Callable[[], float]):
        self._commands, self._validate = commands, validate
        self._lead = self._left = self._positions = self._sequences = 0
        self._began = 0.0

    def __deepcopy__(self, memo: object) -> "Gate":
        # There is one; a trainer of Lightning may be copied with all its callbacks.
        return self

    def open(self) -> bool:
        """Waits for the next command; whether it is to train on."""
        command = self._commands.next()
        while command["do"] == "validate":
            self._commands.answer(ndcg=self._validate())
            command = self._commands.next()
        if command["do"] != "train":
            self._commands.push_back(command)
            return False
        self._lead, self._left = command["lead"], command["steps"]
        self._positions = self._sequences = 0
        self._began = time.perf_counter()
        return True

    def step(self, positions: int, sequences: int, finished: Callable[[], object] = lambda: None) -> bool:
        """After each step: whether to go on. ``finished`` waits until the device has done all it was given."""
        if self._lead:
            self._lead -= 1
            if not self._lead:
                finished()
                self._began = time.perf_counter()
            return True
        self._positions += positions
        self._sequences += sequences
        self._left -= 1
        if self._left:
            return True
        finished()
        seconds = time.perf_counter() - self._began
        self._commands.answer(seconds=seconds, positions=self._positions, sequences=self._sequences)
        return self.open()


class Rival(Protocol):
    """What a library must do."""

    leaves_out_heard: bool  # whether its lists are of new items only

    def train(self, gate: Gate) -> None:
        """Trains, epoch after epoch, until the gate says no; the gate is open at the start."""
        ...

    def validate(self) -> float:
        """NDCG@10 of all users' validation items as training stands; called between two of its steps."""
        ...

    def evaluate(self) -> float:
        """HR@10 of all users' test items over the whole catalogue, as the library does it."""
        ...

    def recommend(self, history: np.ndarray, k: int) -> list:
        """k ids for one user, best first."""
        ...


class Commands:
    def __init__(self):
        # What libraries print must not be taken for an answer.
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._waiting: list[dict[str, Any]] = []

    def next(self) -> dict[str, Any]:
        if self._waiting:
            return self._waiting.pop()
        line = sys.stdin.readline()
        return json.loads(line) if line else {"do": "end"}

    def push_back(self, command: dict[str, Any]) -> None:
        self._waiting.append(command)

    def answer(self, **found: Any) -> None:
        print(json.dumps(found), file=self._out, flush=True)


def main(make: Callable[..., Rival], versions: Callable[[], dict[str, str]]) -> None:
    """Runs a library: ``SCRIPT LOG LENGTH DIRECTORY [SETTINGS]``, the settings in JSON; it may write there.

    ``make(log, directory, seed=0, ...)`` takes the settings.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("log", type=pathlib.Path)
    parser.add_argument("length", type=int)
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("settings", type=json.loads, nargs="?", default={})
    args = parser.parse_args()
    commands = Commands()
    log = Log.open(args.log, args.length)
    rival = make(log, args.directory, **args.settings)
    gate = Gate(commands, rival.validate)
    commands.answer(versions=versions())
    while True:
        command = commands.next()
        match command["do"]:
            case "train":
                commands.push_back(command)
                if gate.open():
                    rival.train(gate)
            case "memory":
                commands.answer(peak_gb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
            case "evaluate":
                began = time.perf_counter()
                hit_rate = rival.evaluate()
                commands.answer(seconds=time.perf_counter() - began, hit_rate=hit_rate)
            case "recommend":
                commands.answer(**latency(rival, log, command["users"], command["k"]))
            case _:
                return


def latency(rival: Rival, log: Log, users: list[int], k: int) -> dict[str, float]:
    milliseconds = []
    for user in users:
        history = log.history(user, 1)
        began = time.perf_counter()
        found = rival.recommend(history, k)
        milliseconds.append(1000 * (time.perf_counter() - began))
        assert len(found) == k
        assert not rival.leaves_out_heard or not set(map(int, found)) & set(map(int, history))
    return {"median_ms": statistics.median(milliseconds), "p99_ms": float(np.quantile(milliseconds, 0.99))}


def installed(*names: str) -> dict[str, str]:
    from importlib import metadata

    return {name: metadata.version(name) for name in names}
