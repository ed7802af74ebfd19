"""Listeners with known tastes, and the log they leave: the embedded default, and ground truth for tests.

A listener keeps to a few stations. A station plays the songs of its genre, popular ones more often. Whether a
song is played or skipped is a coin whose logit sums up

    habit               of the listener, of one of two types: mostly-play and mostly-skip
    quality             of the song: some are skipped by most
    taste * character   a vector per listener, a vector per song; songs of one artist are alike
    mood * character    a phase that lasts for weeks and a mood that lasts for a session. Only recent feedback
                        shows them, which is what a sequential model can gain over the others
    - fatigue           songs heard before wear off

What is served does not depend on the feedback, so the logged pairs are unbiased. Figures of the Spotify
sessions set (MSSD) fix the lengths of sessions, the share of skips and how much of a song is played.

Sessions are made in blocks of whole users. Each block has a generator of its own, seeded by (seed, block):
memory is bounded, blocks can be made in any order, and the same config always gives the same log.
"""

import contextlib
import dataclasses
import datetime
import math
import os
import pathlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from jaxneg import batch
from jaxneg.config import UserError

BLOCK = 8192  # sessions that fill a block; part of what a seed means
LONGEST = 20  # songs of the longest session
# Sessions of 10 to 20 songs, mean 16.8, most of them full (MSSD).
LENGTHS = np.arange(10, LONGEST + 1)
LENGTH_SHARE = np.append(0.48 * 0.8609 ** np.arange(10) / (0.8609 ** np.arange(10)).sum(), 0.52)
BRIEF_SKIP = 0.4215 / 0.5172  # share of skips that come almost at once: P(skip_1 | skip_2) of MSSD
FULL_PLAY = 1 - (0.6484 - 0.5172) / (
    1 - 0.5172
)  # share of plays that run to the end: P(not skip_3 | not skip_2)
GENRE = 2.0  # logits lost by a song whose genre is unrelated to those of the listener's stations
MINUTE, DAY = 60_000, 86_400_000  # milliseconds
HOUR_SHARE = (
    np.array([4, 2, 1, 1, 1, 2, 4, 7, 8, 7, 6, 6, 7, 7, 7, 8, 9, 10, 10, 9, 8, 8, 7, 5]) / 144
)  # of a day

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


@dataclass(frozen=True)
class SimulateConfig:
    users: int = 3000  # listeners
    items: int = 1000  # songs in the catalogue
    sessions: int = 20_000  # listening sessions, of 10 to 20 songs each
    stations: int = 12  # stations, one per genre
    artists: int = 100  # artists; songs of one artist are alike
    stations_per_user: int = 2  # stations a listener keeps to
    start: str = "2024-01-01"  # first day, year-month-day
    days: int = 60  # days the log covers
    dimension: int = 4  # of tastes, moods and the characters of songs
    artist_share: float = 0.8  # share of a song's character that is its artist's
    zipf: float = 0.8  # popularity of a song is its rank to the power of minus this
    skip_rate: float = 0.5172  # share of events that are skips or thumbs-down
    thumb_rate: float = 0.03  # share of events with a thumb, up or down
    play_types: float = 0.48  # share of listeners who mostly play; the others mostly skip
    habit: float = 1.6  # logits by which either type leans to its side
    quality: float = 0.95  # logits, spread of the quality of songs
    taste: float = 1.0  # logits, spread of the fit of songs to a listener's lasting taste
    phase: float = 1.5  # logits, spread of the fit to a phase of some weeks
    phase_days: float = 21.0  # days after which a phase has faded to 1/e
    mood: float = 1.5  # logits, spread of the fit to the mood of a session
    mood_songs: float = 100.0  # songs after which a mood has drifted to 1/e
    fatigue: float = 0.2  # logits lost per log(1 + times the listener has heard the song)
    seed: int = 0  # the same seed gives the same log


PRESETS = {
    "demo": SimulateConfig(users=9000, sessions=60_000),  # trains in minutes on two cores
    "study": SimulateConfig(users=15_000, items=20_000, sessions=100_000, stations=60, artists=2000, days=90),
}


def check(config: SimulateConfig) -> SimulateConfig:
    """The config itself, once its values make sense together. Raises UserError naming the field otherwise."""
    at_least_one = (
        "users",
        "items",
        "sessions",
        "stations",
        "artists",
        "stations_per_user",
        "days",
        "dimension",
    )
    rules = [(getattr(config, name) >= 1, name, "at least 1") for name in at_least_one]
    rules += [(getattr(config, name) >= 0, name, "0 or more") for name in
              ("zipf", "habit", "quality", "taste", "phase", "mood", "fatigue", "seed")]  # fmt: skip
    rules += [
        (config.sessions >= config.users, "sessions", f"at least one per user ({config.users})"),
        (config.items >= LONGEST, "items", f"at least {LONGEST}, the songs of one session"),
        (config.artists <= config.items, "artists", f"no more than the items ({config.items})"),
        (config.stations <= config.items, "stations", f"no more than the items ({config.items})"),
        (config.stations_per_user <= config.stations, "stations_per_user", f"no more than {config.stations}"),
        (0 < config.skip_rate < 1, "skip_rate", "between 0 and 1"),
        (0 <= config.thumb_rate <= 0.2, "thumb_rate", "in [0, 0.2]: thumbs are rare"),
        (0 <= config.play_types <= 1, "play_types", "in [0, 1]"),
        (0 <= config.artist_share <= 1, "artist_share", "in [0, 1]"),
        (config.phase_days > 0, "phase_days", "above 0"),
        (config.mood_songs > 0, "mood_songs", "above 0"),
    ]
    for holds, name, rule in rules:
        if not holds:
            raise UserError(f"--{name.replace('_', '-')} must be {rule}, got {getattr(config, name)}")
    try:
        datetime.date.fromisoformat(config.start)
    except ValueError as error:
        raise UserError(f"--start must be a date such as 2024-01-31, got {config.start}") from error
    return config


@dataclass(frozen=True)
class Truth:
    """What the simulator knows and no log shows. Users, items, stations by the number in their id."""

    taste: np.ndarray  # float32 [users, D], in logits against the characters
    propensity: np.ndarray  # float32 [users], logit of playing, whatever the song
    favourite: np.ndarray  # int32 [users, stations_per_user], stations the user keeps to, best first
    thumb_habit: np.ndarray  # float32 [users], mean 1: how readily the user gives thumbs
    character: np.ndarray  # float32 [items, D]
    quality: np.ndarray  # float32 [items], logits
    popularity: np.ndarray  # float64 [items], sums to 1
    seconds: np.ndarray  # float32 [items], duration
    artist: np.ndarray  # int32 [items]
    genre: np.ndarray  # int32 [items], the station of the item's genre
    likeness: np.ndarray  # float32 [stations, stations], how alike the genres are; 1 on the diagonal
    intercept: float = 0.0  # logit that sets the share of skips
    thumb_scale: float = 0.0  # factor that sets the share of thumbs

    def affinity(self, user_rows: Any, item_rows: Any) -> Any:
        """Probability that the user plays the item, hearing it for the first time in a neutral mood.

        The two arrays of numbers broadcast: ``affinity(users[:, None], items)`` is a table.
        """
        return _sigmoid(self.lasting_logit(np.asarray(user_rows), np.asarray(item_rows)))

    def lasting_logit(self, user: np.ndarray, item: np.ndarray) -> Any:
        """Logit of playing, but for phase, mood and fatigue. The two integer arrays broadcast."""
        user, item = np.broadcast_arrays(user, item)
        taste = np.einsum("...d,...d->...", self.taste[user], self.character[item])
        genre = self.likeness[self.favourite[user], self.genre[item][..., None]].max(-1) - 1.0
        return self.intercept + self.propensity[user] + self.quality[item] + taste + GENRE * genre

    @staticmethod
    def load(path: str | pathlib.Path) -> tuple["Truth", np.ndarray]:
        """The truth that ``write`` left, and each event's probability of a play, in the order of the log."""
        with np.load(path) as arrays:
            values = {field.name: arrays[field.name] for field in dataclasses.fields(Truth)}
            probability = arrays["probability"]
        scalars = {name: float(values[name]) for name in ("intercept", "thumb_scale")}
        return Truth(**{**values, **scalars}), probability


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


class Simulation:
    """A log that is made while it is read, and the truth behind it."""

    def __init__(self, config: SimulateConfig):
        self.config = check(config)
        rng = np.random.default_rng([config.seed, 0])
        self.truth = _people_and_songs(rng, config)
        self._pool_item, self._pool_cumulative = _pools(self.truth, config)
        activity = rng.gamma(1.5, size=config.users)
        extra = rng.multinomial(config.sessions - config.users, activity / activity.sum())
        self.user_indptr = np.append(0, np.cumsum(1 + extra))  # int64 [users + 1], sessions of a user
        ends = np.arange(BLOCK, config.sessions + BLOCK, BLOCK)
        cuts = np.searchsorted(self.user_indptr, np.minimum(ends, config.sessions))
        self._users = np.unique(np.append(0, cuts))  # users at which blocks begin, and the end
        self.truth = self._calibrated(rng)

    @property
    def blocks(self) -> int:
        return len(self._users) - 1

    def block(self, index: int) -> Block:
        """Block ``index``, whatever others have been made."""
        return self._feedback(*self._served(index))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The log in record batches of SCHEMA, one per block."""
        return (self.to_batch(self.block(index)) for index in range(self.blocks))

    def to_batch(self, events: Block) -> pa.RecordBatch:
        """The events as a record batch of SCHEMA."""
        config = self.config
        columns = [
            _ids("user", events.user, config.users),
            _ids("session", events.session, config.sessions),
            _ids("station", events.station, config.stations),
            pa.array(events.time),
            _ids("song", events.item, config.items),
            pa.array(batch.FEEDBACK).take(pa.array(events.feedback)),
            pa.array(events.played),
            _ids("artist", self.truth.artist[events.item], config.artists),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)

    def _served(self, index: int) -> tuple[np.random.Generator, dict[str, np.ndarray]]:
        """What is played to whom and when, with the logit of playing it, before any feedback.

        In the shapes, S counts sessions of the block and L positions.
        """
        config, truth = self.config, self.truth
        rng = np.random.default_rng([config.seed, 1, index])
        first, last = self._users[index], self._users[index + 1]
        counts = np.diff(self.user_indptr[first : last + 1])
        user = np.repeat(np.arange(first, last), counts)
        ordinal = np.arange(user.size) - np.repeat(np.cumsum(counts) - counts, counts)  # session of its user

        day = rng.integers(config.days, size=user.size)
        hour = rng.choice(24, size=user.size, p=HOUR_SHARE)
        start = day * DAY + hour * 60 * MINUTE + rng.integers(60 * MINUTE, size=user.size)
        start = start[np.lexsort((start, user))]
        share = 0.5 ** np.arange(
            config.stations_per_user
        )  # half of the sessions on the best, a quarter on the next
        choice = rng.choice(config.stations_per_user, size=user.size, p=share / share.sum())
        station = truth.favourite[user, choice]
        length = rng.choice(LENGTHS, size=user.size, p=LENGTH_SHARE)
        item = self._songs(rng, station)

        state = (
            _drift(rng, user.size, LONGEST, config.dimension, np.exp(-1 / config.mood_songs)) * config.mood
        )
        state += (
            _phases(rng, start / DAY / config.phase_days, ordinal, config.dimension)[:, None] * config.phase
        )
        heard = np.arange(LONGEST) < length[:, None]
        logit = truth.lasting_logit(user[:, None], item)
        logit = logit + np.einsum("sld,sld->sl", state, truth.character[item])
        times = _times_heard((user - first)[:, None] * config.items + item, heard)
        logit = (logit - config.fatigue * np.log1p(times)).astype(np.float32)
        served = dict(user=user, start=start, station=station, item=item, heard=heard, logit=logit)
        served["session"] = self.user_indptr[first] + np.arange(user.size)
        return rng, served

    def _songs(self, rng: np.random.Generator, station: np.ndarray) -> np.ndarray:
        """Songs of the stations' pools [S, L]; one met twice in a session is drawn again, up to 20 times."""
        item = np.empty((station.size, LONGEST), np.int32)
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

    def _feedback(self, rng: np.random.Generator, served: dict[str, np.ndarray]) -> Block:
        """The events once the coins are thrown: play or skip, thumbs, how much was heard, and when."""
        truth, user, item, logit = self.truth, served["user"][:, None], served["item"], served["logit"]
        probability = _sigmoid(logit)
        positive = rng.random(logit.shape, np.float32) < probability
        fit = logit - truth.propensity[user] - truth.intercept
        wish = truth.thumb_scale * truth.thumb_habit[user] * _sigmoid(np.where(positive, 2 * fit, -2 * fit))
        thumb = rng.random(logit.shape, np.float32) < wish
        feedback = np.where(positive, batch.CODE["play"], batch.CODE["skip"]).astype(np.int8)
        feedback[thumb & positive] = batch.CODE["thumb_up"]
        feedback[thumb & ~positive] = batch.CODE["thumb_down"]

        kind, part = rng.random(logit.shape), rng.random(logit.shape)
        skipped = np.where(kind < BRIEF_SKIP, 0.1 * part, 0.1 + 0.4 * part)
        finished = np.where(kind < FULL_PLAY, 1.0, 0.5 + 0.5 * part)
        played = np.round(np.where(positive, finished, skipped), 3)

        gap = rng.integers(1000, 5000, size=logit.shape)
        spent = np.where(served["heard"], (played * truth.seconds[item] * 1000).astype(np.int64) + gap, 0)
        start = _apart(served["user"], served["start"], spent.sum(1) + 10 * MINUTE)
        time = start[:, None] + np.cumsum(spent, 1) - spent
        epoch = (
            datetime.date.fromisoformat(self.config.start).toordinal() - datetime.date(1970, 1, 1).toordinal()
        )
        heard = served["heard"]
        flat = {name: np.broadcast_to(served[name][:, None], heard.shape)[heard] for name in
                ("user", "session", "station")}  # fmt: skip
        return Block(
            user=flat["user"].astype(np.int32),
            session=flat["session"],
            station=flat["station"],
            time=time[heard] + epoch * DAY,
            item=item[heard],
            feedback=feedback[heard],
            played=played[heard],
            probability=probability[heard],
        )

    def _calibrated(self, rng: np.random.Generator) -> Truth:
        """The truth with the intercept and thumb scale that give the shares asked for, found on block 0."""
        config, truth = self.config, self.truth
        _, served = self._served(0)
        fit = (served["logit"] - truth.propensity[served["user"]][:, None])[served["heard"]]
        # Block 0 may hold few of the users: their fits meet the habits of all.
        user = np.repeat(np.arange(config.users), np.diff(self.user_indptr))[
            rng.integers(config.sessions, size=fit.size)
        ]
        low, high = -30.0, 30.0
        for _ in range(50):
            middle = (low + high) / 2
            skips = 1 - _sigmoid(fit + truth.propensity[user] + middle).mean(dtype=np.float64)
            low, high = (middle, high) if skips > config.skip_rate else (low, middle)
        chance = _sigmoid(fit + truth.propensity[user] + low)
        wish = truth.thumb_habit[user] * (chance * _sigmoid(2 * fit) + (1 - chance) * _sigmoid(-2 * fit))
        scale = config.thumb_rate / float(wish.mean(dtype=np.float64))
        return dataclasses.replace(truth, intercept=low, thumb_scale=scale)


def simulate(config: SimulateConfig) -> Simulation:
    """The simulation of a config, its log not made yet. Raises UserError on values that make no sense."""
    return Simulation(config)


def write(
    simulation: Simulation, out: str | pathlib.Path, advance: Callable[[int], None] | None = None
) -> pathlib.Path:
    """The path of the truth, ``<out>.truth.npz``, once the log is streamed to ``out`` (.parquet or .csv).

    Both go to temporary files beside ``out`` that are renamed when complete, so a crash leaves no half a log.
    ``advance`` is told the number of sessions of each block written, for a progress bar.
    """
    out = pathlib.Path(out)
    if out.suffix not in (".parquet", ".csv"):
        raise UserError(f"--out must end in .parquet or .csv, got {out}")
    truth_out = out.with_name(f"{out.name}.truth.npz")
    log_part, truth_part, chance_part = (
        out.with_name(f".{out.name}.{part}") for part in ("log", "npz", "chance")
    )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        open_writer = pq.ParquetWriter if out.suffix == ".parquet" else pa_csv.CSVWriter
        with open(log_part, "wb") as log, open(chance_part, "wb") as chance:
            with open_writer(log, SCHEMA) as writer:
                for index in range(simulation.blocks):
                    events = simulation.block(index)
                    writer.write_batch(simulation.to_batch(events))
                    events.probability.tofile(chance)
                    if advance is not None:
                        advance(int(events.session[-1] - events.session[0]) + 1)
            _sync(log)
        probability = np.memmap(chance_part, np.float32, mode="r")
        with open(truth_part, "wb") as file:
            np.savez(file, probability=probability, **_fields(simulation.truth))
            _sync(file)
        os.replace(truth_part, truth_out)
        os.replace(log_part, out)
    except OSError as error:
        raise UserError(f"could not write {out}: {error.strerror or error}") from error
    finally:
        for part in (log_part, truth_part, chance_part):
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
    return truth_out


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


def _people_and_songs(rng: np.random.Generator, config: SimulateConfig) -> Truth:
    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    users, items, D = config.users, config.items, config.dimension
    centroid = normal(config.stations, max(D, 8))  # genres live in a space of their own
    centroid /= np.linalg.norm(centroid, axis=1, keepdims=True)
    # Every artist has a song, and every genre an artist if there are enough.
    artist = rng.permutation(
        np.append(np.arange(config.artists), rng.integers(config.artists, size=items - config.artists))
    )
    artist_genre = rng.permutation(np.arange(config.artists) % config.stations)
    own = config.artist_share
    character = math.sqrt(own) * normal(config.artists, D)[artist] + math.sqrt(1 - own) * normal(items, D)
    reach = 1 / np.arange(1, D + 1, dtype=np.float32)  # the first axis matters most
    character *= reach / np.linalg.norm(reach)
    flaw = 1.5 * (rng.random(items) < 0.1)  # a tenth of the songs are skipped by most
    quality = normal(items) - flaw
    quality = config.quality * (quality - quality.mean()) / quality.std()
    # Good songs are somewhat more popular.
    rank = np.argsort(np.argsort(-(0.3 * quality / max(config.quality, 1e-9) + normal(items))))
    popularity = (1.0 + rank) ** -config.zipf
    mostly_play = rng.random(users) < config.play_types
    wish = rng.gumbel(size=(users, config.stations)) - 0.5 * np.log1p(np.arange(config.stations))
    return Truth(
        taste=config.taste * normal(users, D),
        propensity=np.where(mostly_play, config.habit, -config.habit).astype(np.float32)
        + 0.5 * normal(users),
        favourite=np.argsort(-wish, 1)[:, : config.stations_per_user].astype(np.int32),
        thumb_habit=rng.gamma(0.5, 2.0, size=users).astype(np.float32),
        character=character.astype(np.float32),
        quality=quality.astype(np.float32),
        popularity=popularity / popularity.sum(),
        seconds=np.clip(210 * np.exp(0.25 * normal(items)), 90, 480),
        artist=artist.astype(np.int32),
        genre=artist_genre[artist].astype(np.int32),
        likeness=centroid @ centroid.T,
    )


def _pools(truth: Truth, config: SimulateConfig) -> tuple[np.ndarray, np.ndarray]:
    """Items that each station may play, stations one after another, and the running sum of their shares.

    Station s owns the part (s, s + 1] of the running sum. Songs of its genre have their popularity as share;
    those of the nearest other genre a tenth of theirs, and the hits of all genres a hundredth.
    """
    items, sums = [], []
    hits = np.argsort(-truth.popularity, kind="stable")[: 2 * LONGEST]
    for station in range(config.stations):
        weight = np.zeros(config.items)
        weight[hits] = 0.01
        others = np.where(np.arange(config.stations) == station, -2.0, truth.likeness[station])
        weight[truth.genre == np.argmax(others)] = 0.1
        weight[truth.genre == station] = 1.0
        pool = np.flatnonzero(weight)
        share = np.cumsum(weight[pool] * truth.popularity[pool])
        items.append(pool)
        sums.append(station + share / share[-1])
    return np.concatenate(items).astype(np.int32), np.concatenate(sums)


def _drift(rng: np.random.Generator, rows: int, length: int, width: int, keep: float) -> np.ndarray:
    """Stationary walks [rows, length, width] of unit variance that keep this share of themselves per step."""
    walk = rng.standard_normal((rows, length, width), np.float32)
    for t in range(1, length):
        walk[:, t] = keep * walk[:, t - 1] + math.sqrt(1 - keep * keep) * walk[:, t]
    return walk


def _phases(rng: np.random.Generator, age: np.ndarray, ordinal: np.ndarray, width: int) -> np.ndarray:
    """A stationary walk of unit variance per user, seen at his sessions: [sessions, width].

    ``age`` is the time of a session in lifetimes of a phase, ``ordinal`` its number among the user's.
    """
    walk = rng.standard_normal((age.size, width), np.float32)
    keep = np.exp(-np.diff(age, prepend=0.0)).astype(np.float32)
    by_ordinal = np.argsort(ordinal, kind="stable")
    for rows in np.split(by_ordinal, np.cumsum(np.bincount(ordinal))[:-1])[1:]:
        k = keep[rows][:, None]
        walk[rows] = k * walk[rows - 1] + np.sqrt(1 - k * k) * walk[rows]
    return walk


def _times_heard(key: np.ndarray, heard: np.ndarray) -> np.ndarray:
    """How often each entry's key stands among the heard ones before it, in reading order; 0 if not heard."""
    flat = key[heard]
    order = np.argsort(flat, kind="stable")
    ranked = flat[order]
    first = np.append(True, ranked[1:] != ranked[:-1])
    position = np.arange(flat.size)
    count = np.empty(flat.size, np.int64)
    count[order] = position - np.maximum.accumulate(np.where(first, position, 0))
    times = np.zeros(key.shape, np.int64)
    times[heard] = count
    return times


def _apart(user: np.ndarray, start: np.ndarray, takes: np.ndarray) -> np.ndarray:
    """Starts pushed later, where needed, so that a user's sessions do not overlap."""
    done = np.cumsum(takes) - takes
    lift = user.astype(np.int64) * (
        int(start.max()) + int(done[-1]) + 1
    )  # keeps users apart in one running maximum
    return np.maximum.accumulate(start - done + lift) - lift + done


def _sigmoid(x: Any) -> Any:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def _ids(word: str, numbers: np.ndarray, total: int) -> pa.Array:
    """Ids such as user_0042, wide enough that they sort as their numbers do."""
    distinct, place = np.unique(numbers, return_inverse=True)
    digits = len(str(total - 1))
    return pa.array([f"{word}_{number:0{digits}d}" for number in distinct.tolist()]).take(pa.array(place))


def _fields(truth: Truth) -> dict[str, Any]:
    return {field.name: getattr(truth, field.name) for field in dataclasses.fields(truth)}


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
