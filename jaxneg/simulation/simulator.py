"""The log that simulated listeners leave: the embedded default, and ground truth for tests.

Who they are and what they like is in ``listeners.py``, how they listen in ``people.py``: what they hear depends on
their feedback. With ``listening="independent"`` each song is drawn by itself from its station, so that the logged pairs
are unbiased. Figures of the Spotify sessions set (MSSD) fix the lengths of sessions, the share of skips and how much of
a song is played.

Sessions are made in blocks of whole users. Each block has a generator of its own, seeded by (seed, block):
memory is bounded, blocks can be made in any order, and the same config always gives the same log.
"""

import copy
import dataclasses
import datetime
import json
import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from jaxneg import batch, files, progress
from jaxneg.errors import UserError
from jaxneg.files import addresses, arrays, documents, locks
from jaxneg.simulation import independent, listeners, people
from jaxneg.simulation.listeners import LONGEST, SimulateConfig, Truth

BLOCK = {"independent": 8192, "people": 16_384}  # sessions that fill a block; part of what a seed means
EARLY = 50, 4096  # sessions of a listener, and in all, that the shares asked for are set by
BRIEF_SKIP = 0.4215 / 0.5172  # share of skips that come almost at once: P(skip_1 | skip_2) of MSSD
# share of plays that run to the end: P(not skip_3 | not skip_2)
FULL_PLAY = 1 - (0.6484 - 0.5172) / (1 - 0.5172)

SCHEMA = pa.schema(
    [
        pa.field("user", pa.string(), nullable=False),
        pa.field("session", pa.string(), nullable=False),
        pa.field("station", pa.string(), nullable=False),
        pa.field("time", pa.int64(), nullable=False),
        pa.field("item", pa.string(), nullable=False),
        pa.field("feedback", pa.string(), nullable=False),
        pa.field("played", pa.float64(), nullable=False),
        pa.field("artist", pa.string(), nullable=False),
    ]
)


PRESETS = {
    "demo": SimulateConfig(users=9000, sessions=60_000),  # trains in minutes on two cores
    "study": SimulateConfig(users=15_000, items=20_000, sessions=100_000, stations=60, artists=2000, days=90),
}


class Block(NamedTuple):
    """Events of some users as flat arrays, ordered by user, time."""

    user: np.ndarray  # int32
    session: np.ndarray  # int64, numbered through the whole simulation
    station: np.ndarray  # int32
    time: np.ndarray  # int64, milliseconds since the epoch at which the song starts
    item: np.ndarray  # int32
    feedback: np.ndarray  # int8, codes of batch.FEEDBACK
    played: np.ndarray  # float64, fraction of the song
    probability: np.ndarray  # float32, the true probability of play or thumb-up


class Phases(NamedTuple):
    """What weeks of a user's life add to the fit of songs, an entry per session, ordered by user, start."""

    user: np.ndarray  # int64
    start: np.ndarray  # int64, milliseconds since the first day
    phase: np.ndarray  # float32 [sessions, D], of unit variance


class Simulation:
    """A log that is made while it is read, and the truth behind it."""

    def __init__(self, config: SimulateConfig):
        self.config = config = listeners.check(config)
        rng = np.random.default_rng([config.seed, 0])
        self.truth = listeners.people_and_songs(rng, config)
        self.pools = listeners.pools(self.truth, config)
        # Station s owns the part (s, s + 1] of one running sum.
        sums = [np.cumsum(pool.share) for pool in self.pools]
        self._pool_item = np.concatenate([pool.item for pool in self.pools])
        self._pool_cumulative = np.concatenate([s + sum_ / sum_[-1] for s, sum_ in enumerate(sums)])
        activity = rng.gamma(1.5, size=config.users)
        extra = rng.multinomial(config.sessions - config.users, activity / activity.sum())
        self.user_indptr = np.append(0, np.cumsum(1 + extra))  # int64 [users + 1], sessions of a user
        block = BLOCK[config.listening]
        ends = np.arange(block, config.sessions + block, block)
        cuts = np.searchsorted(self.user_indptr, np.minimum(ends, config.sessions))
        self._users = np.unique(np.append(0, cuts))  # users at which blocks begin, and the end
        self._first: tuple[np.random.Generator, dict[str, np.ndarray]] | None = self._served(0)
        self.truth = self._calibrated(rng)

    @property
    def blocks(self) -> int:
        return len(self._users) - 1

    def block(self, index: int) -> Block:
        """Block ``index``, whatever others have been made."""
        return self.block_with_phases(index)[0]

    def block_with_phases(self, index: int) -> tuple[Block, "Phases"]:
        """Block ``index``, and the phases of its users when their sessions began."""
        if index == 0 and self._first is not None:  # kept from the calibration, once
            (rng, served), self._first = self._first, None
        else:
            rng, served = self._served(index)
        phases = Phases(served["user"], served["start"], served["phase"])
        return self._told(rng, served, self._lived(rng, served)), phases

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The log in record batches of SCHEMA, one per block."""
        return (self.to_batch(self.block(index)) for index in range(self.blocks))

    def to_batch(self, events: Block) -> pa.RecordBatch:
        """The events as a record batch of SCHEMA."""
        config = self.config
        columns = [
            listeners.ids("user", events.user, config.users),
            listeners.ids("session", events.session, config.sessions),
            listeners.ids("station", events.station, config.stations),
            pa.array(events.time),
            listeners.ids("song", events.item, config.items),
            pa.array(batch.FEEDBACK).take(pa.array(events.feedback)),
            pa.array(events.played),
            listeners.ids("artist", self.truth.artist[events.item], config.artists),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)

    def _served(self, index: int) -> tuple[np.random.Generator, dict[str, np.ndarray]]:
        """Who comes when and in what state, and what the stations have for him, before anything is heard.

        In the shapes, S counts sessions of the block and L positions.
        """
        config, truth = self.config, self.truth
        rng = np.random.default_rng([config.seed, 1, index])
        first, last = self._users[index], self._users[index + 1]
        counts = np.diff(self.user_indptr[first : last + 1])
        user = np.repeat(np.arange(first, last), counts)
        ordinal = np.arange(user.size) - np.repeat(np.cumsum(counts) - counts, counts)  # session of its user

        start, station, length = listeners.sittings(rng, truth, user, config.days, config)
        item = self._songs(rng, station)

        keep = np.exp(-1 / config.mood_songs)
        state = listeners.drift(rng, user.size, LONGEST, config.dimension, keep) * config.mood
        phase = listeners.phases(rng, start / listeners.DAY / config.phase_days, ordinal, config.dimension)
        state += phase[:, None] * config.phase
        served = dict(
            user=user, ordinal=ordinal, start=start, station=station, item=item, state=state, phase=phase
        )
        heard, session = np.arange(LONGEST) < length[:, None], self.user_indptr[first] + np.arange(user.size)
        return rng, served | {"heard": heard, "session": session}

    def _lived(self, rng: np.random.Generator, served: dict[str, np.ndarray]) -> people.Lived:
        """What is heard, the logit of playing it, and the feedback, as config.listening says."""
        sessions = people.Sessions(
            served["user"],
            served["ordinal"],
            served["station"],
            served["heard"].sum(1),
            served["item"],
            served["state"],
        )
        live = people.live if self.config.listening == "people" else independent.live
        return live(rng, self.config, self.truth, sessions)

    def _songs(self, rng: np.random.Generator, station: np.ndarray) -> np.ndarray:
        """Songs of the stations' pools [S, L]; one met twice in a session is drawn again, up to 20 times.

        For people some more than a session has, since the listener may not want all of them.
        """
        spare = people.SPARE if self.config.listening == "people" else 0
        item = np.empty((station.size, LONGEST + spare), np.int32)
        again = np.ones(item.shape, bool)
        rows = np.arange(station.size)
        for _ in range(20):
            row, column = np.nonzero(again)
            draw = station[rows[row]] + rng.random(row.size)
            item[rows[row], column] = self._pool_item[
                np.searchsorted(self._pool_cumulative, draw, side="right")
            ]
            order = np.argsort(item[rows], axis=1, kind="stable")
            ranked = np.take_along_axis(item[rows], order, 1)
            twice = np.pad(ranked[:, 1:] == ranked[:, :-1], ((0, 0), (1, 0)))
            unfinished = twice.any(1)
            rows = rows[unfinished]
            if not rows.size:
                break
            again = np.zeros(twice[unfinished].shape, bool)
            np.put_along_axis(again, order[unfinished], twice[unfinished], 1)
        return item

    def _told(self, rng: np.random.Generator, served: dict[str, np.ndarray], lived: people.Lived) -> Block:
        """The events of sessions: what was heard and said, how much of it was heard, and when."""
        item, logit, feedback = lived
        positive = feedback >= batch.CODE["play"]

        kind, part = rng.random(logit.shape), rng.random(logit.shape)
        skipped = np.where(kind < BRIEF_SKIP, 0.1 * part, 0.1 + 0.4 * part)
        finished = np.where(kind < FULL_PLAY, 1.0, 0.5 + 0.5 * part)
        played = np.round(np.where(positive, finished, skipped), 3)

        gap = rng.integers(1000, 5000, size=logit.shape)
        spent = np.where(
            served["heard"], (played * self.truth.seconds[item] * 1000).astype(np.int64) + gap, 0
        )
        start = _apart(served["user"], served["start"], spent.sum(1) + 10 * listeners.MINUTE)
        time = start[:, None] + np.cumsum(spent, 1) - spent
        epoch = (
            datetime.date.fromisoformat(self.config.start).toordinal() - datetime.date(1970, 1, 1).toordinal()
        )
        heard = served["heard"]
        flat = {
            name: np.broadcast_to(served[name][:, None], heard.shape)[heard]
            for name in ("user", "session", "station")
        }
        return Block(
            user=flat["user"].astype(np.int32),
            session=flat["session"],
            station=flat["station"],
            time=time[heard] + epoch * listeners.DAY,
            item=item[heard],
            feedback=feedback[heard],
            played=played[heard],
            probability=listeners.sigmoid(logit[heard]),
        )

    def _calibrated(self, rng: np.random.Generator) -> Truth:
        """The truth with the intercept and thumb scale that give the shares asked for, found on block 0."""
        assert self._first is not None
        of_block, served = self._first
        if self.config.listening == "people":
            few = (served["ordinal"] < EARLY[0]) & (served["user"] <= served["user"][: EARLY[1]][-1])
            served = {name: column[few] for name, column in served.items()}
        # Exposure depends on feedback, and so on what is sought here: a second look mends the first.
        for _ in range(3 if self.config.listening == "people" else 1):
            self.truth = self._nearer(rng, copy.deepcopy(of_block), served)
        return self.truth

    def _nearer(
        self, rng: np.random.Generator, of_block: np.random.Generator, served: dict[str, np.ndarray]
    ) -> Truth:
        config, truth = self.config, self.truth
        logit = self._lived(of_block, served).logit_SL
        fit = (logit - truth.intercept - truth.propensity[served["user"]][:, None])[served["heard"]]
        # Block 0 may hold few of the users: their fits meet the habits of all.
        user = np.repeat(np.arange(config.users), np.diff(self.user_indptr))[
            rng.integers(config.sessions, size=fit.size)
        ]
        low, high = -30.0, 30.0
        for _ in range(50):
            middle = (low + high) / 2
            skips = 1 - listeners.sigmoid(fit + truth.propensity[user] + middle).mean(dtype=np.float64)
            low, high = (middle, high) if skips > config.skip_rate else (low, middle)
        chance = listeners.sigmoid(fit + truth.propensity[user] + low)
        wish = truth.thumb_habit[user] * (
            chance * listeners.sigmoid(2 * fit) + (1 - chance) * listeners.sigmoid(-2 * fit)
        )
        scale = config.thumb_rate / float(wish.mean(dtype=np.float64))
        return dataclasses.replace(truth, intercept=low, thumb_scale=scale)


def simulate(config: SimulateConfig) -> Simulation:
    """The simulation of a config, its log not made yet. Raises UserError on values that make no sense."""
    return Simulation(config)


def write(
    simulation: Simulation, out: str | pathlib.Path, on_progress: progress.OnProgress = progress.silent
) -> pathlib.Path:
    """The path of the truth, ``<out>.truth.npz``, once the log is streamed to ``out`` (.parquet or .csv).

    Both go to temporary files beside ``out`` that are renamed when complete, so a crash leaves no half a log.
    ``on_progress`` is told the sessions written, out of all.
    """
    out = pathlib.Path(out)
    if out.suffix not in (".parquet", ".csv"):
        raise UserError(f"--out must end in .parquet or .csv, got {out}")
    try:
        with addresses.written(out, "--out", replaces=True) as place:
            truth_out = place.with_name(f"{place.name}.truth.npz")
            with locks.held(locks.beside(place), f"--out {out}"):
                _write(simulation, files.real(place), files.real(truth_out), on_progress)
    except OSError as error:
        raise UserError(f"could not write {out}: {error.strerror or error}") from error
    return out.with_name(f"{out.name}.truth.npz")


def _write(
    simulation: Simulation, out: pathlib.Path, truth_out: pathlib.Path, on_progress: progress.OnProgress
) -> None:
    """Writes log and truth, for the holder of the lock."""
    for path in (out, truth_out):
        files.check_free(path.parent, [path.name])
        files.clean_beside(path)
    log_part, truth_part = files.scratch(out), files.scratch(truth_out)
    chance_part, done = log_part.with_name(f"{log_part.name}-0"), 0
    with files.unfinished(log_part), files.unfinished(truth_part), files.unfinished(chance_part):
        open_writer = pq.ParquetWriter if out.suffix == ".parquet" else pa_csv.CSVWriter
        with open(log_part, "wb") as log, open(chance_part, "wb") as chance:
            with open_writer(log, SCHEMA) as writer:
                for index in range(simulation.blocks):
                    events = simulation.block(index)
                    writer.write_batch(simulation.to_batch(events))
                    events.probability.tofile(chance)
                    done += int(events.session[-1] - events.session[0]) + 1
                    on_progress(done, simulation.config.sessions)
        probability = np.memmap(chance_part, np.float32, mode="r")
        with open(truth_part, "wb") as file:
            np.savez(
                file, probability=probability, config=_told(simulation.config), **_fields(simulation.truth)
            )
        for path in (log_part, truth_part):
            files.sync(path)
        with files.COMMIT:
            truth_out.unlink(missing_ok=True)  # so that no moment sees a log beside the truth of another
            os.replace(log_part, out)
            os.replace(truth_part, truth_out)
        files.sync(out.parent)


def pair_accuracy(score: np.ndarray, positive: np.ndarray, group: np.ndarray) -> float:
    """Share of (positive, negative) pairs ranked rightly within a group, ties half; mean over groups.

    With the true probabilities as scores, and a group per user and station, or per session, this is the
    ceiling: no model can expect to do better. Groups without a pair do not count; NaN if all are.

    Args:
      score, positive, group: flat arrays of one length, an entry per event.
    """
    order = np.lexsort((score, group))
    score, positive, group = score[order], positive[order].astype(np.float64), group[order]
    new_group = np.append(True, group[1:] != group[:-1])
    new_tie = new_group | np.append(True, score[1:] != score[:-1])
    tie, number = np.cumsum(new_tie) - 1, np.cumsum(new_group) - 1
    negative = 1 - positive
    before = np.cumsum(negative) - negative
    before = before[new_tie][tie] - before[new_group][number]  # negatives of the group with a lower score
    wins = positive * (before + 0.5 * np.bincount(tie, negative)[tie])
    pairs = np.bincount(number, positive) * np.bincount(number, negative)
    share = np.bincount(number, wins)[pairs > 0] / pairs[pairs > 0]
    return float(share.mean()) if share.size else math.nan


def _apart(user: np.ndarray, start: np.ndarray, takes: np.ndarray) -> np.ndarray:
    """Starts pushed later, where needed, so that a user's sessions do not overlap."""
    done = np.cumsum(takes) - takes
    # keeps users apart in one running maximum
    lift = user.astype(np.int64) * (int(start.max()) + int(done[-1]) + 1)
    return np.maximum.accumulate(start - done + lift) - lift + done


def reopen(path: str | pathlib.Path) -> Simulation:
    """The simulation whose truth ``write`` left at ``path``: it can make its log again, and go on from there.

    Raises UserError where the file is missing, is no truth, or this version would make another log from it.
    """
    try:
        held = arrays.npz(addresses.local(path, "--truth"))
        if "config" not in held:
            raise UserError(f"{path} is no truth that this version wrote: run jaxneg simulate again")
        config = documents.parsed(str(held["config"]), SimulateConfig)
        truth = Truth.of(held)
        if (len(truth.taste), len(truth.quality)) != (config.users, config.items):
            raise ValueError("of other listeners or songs than its config")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        if not pathlib.Path(path).exists():
            raise UserError(
                f"no truth at {path}: jaxneg simulate leaves FILE.truth.npz beside FILE"
            ) from error
        raise UserError(f"{path} is no truth of jaxneg simulate, or a damaged one: simulate again") from error
    simulation = Simulation(config)
    found = _fields(simulation.truth)
    if not all(
        np.shape(value) == np.shape(found[name]) and np.allclose(value, found[name], atol=1e-4)
        for name, value in _fields(truth).items()
    ):
        raise UserError(f"{path} is of a version that drew other listeners: run jaxneg simulate again")
    return simulation


def _told(config: SimulateConfig) -> np.ndarray:
    return np.array(json.dumps(dataclasses.asdict(config)))


def _fields(truth: Truth) -> dict[str, Any]:
    return {field.name: getattr(truth, field.name) for field in dataclasses.fields(truth)}
