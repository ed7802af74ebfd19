"""Listeners with known tastes, and the songs that they hear.

A listener keeps to a few stations. A station plays the songs of its genre, popular ones more often. Whether a
song is played or skipped is a coin whose logit sums up

    habit               of the listener, of one of two types: mostly-play and mostly-skip
    quality             of the song: some are skipped by most
    taste * character   a vector per listener, a vector per song; songs of one artist are alike
    mood * character    a phase that lasts for weeks and a mood that lasts for a session. Only recent feedback
                        shows them, which is what a sequential model can gain over the others
    - fatigue           songs heard before wear off

and a state of attention, which is none of the song's doing. ``people.py`` says what they hear and in what order,
``simulator.py`` makes the log that they leave, ``visits.py`` the sessions in which they come back.
"""

import dataclasses
import datetime
import math
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from jaxneg import batch
from jaxneg.config.fields import Bounds, Positive, Proper, Seed, Share, Size, settled
from jaxneg.errors import UserError
from jaxneg.files import arrays

LONGEST = 20  # songs of the longest session
# Sessions of 10 to 20 songs, mean 16.8, most of them full (MSSD).
LENGTHS = np.arange(10, LONGEST + 1)
LENGTH_SHARE = np.append(0.48 * 0.8609 ** np.arange(10) / (0.8609 ** np.arange(10)).sum(), 0.52)
GENRE = 2.0  # logits lost by a song whose genre is unrelated to those of the listener's stations
MINUTE, DAY = 60_000, 86_400_000  # milliseconds
# of a day
HOUR_SHARE = np.array([4, 2, 1, 1, 1, 2, 4, 7, 8, 7, 6, 6, 7, 7, 7, 8, 9, 10, 10, 9, 8, 8, 7, 5]) / 144
# By whether a song is played, and whether a thumb is given.
SAID = np.array([batch.CODE[kind] for kind in ("skip", "thumb_down", "play", "thumb_up")], np.int8)
YEARS = (1970, 2200)  # in which a log may begin


Rare = Annotated[float, Bounds(0, 0.2, spoken="in [0, 0.2]: thumbs are rare")]
Logits = Annotated[float, Bounds(0.0, 1000.0)]


@dataclass(frozen=True)
class SimulateConfig:
    users: Positive = 3000  # listeners
    items: Positive = 1000  # songs in the catalogue
    sessions: Positive = 20_000  # listening sessions, of 10 to 20 songs each
    stations: Annotated[int, Bounds(1, 1_000_000)] = 12  # stations, one per genre
    artists: Positive = 100  # artists; songs of one artist are alike
    stations_per_user: Annotated[int, Bounds(1, 1_000_000)] = 2  # stations a listener keeps to
    start: str = "2024-01-01"  # first day, year-month-day
    days: Annotated[int, Bounds(1, 36_500)] = 60  # days the log covers
    dimension: Annotated[int, Bounds(1, 10_000)] = 4  # of tastes, moods and the characters of songs
    artist_share: Share = 0.8  # share of a song's character that is its artist's
    zipf: Logits = 0.8  # popularity of a song is its rank to the power of minus this
    skip_rate: Proper = 0.5172  # share of events that are skips or thumbs-down
    thumb_rate: Rare = 0.03  # share of events with a thumb, up or down
    play_types: Share = 0.48  # share of listeners who mostly play; the others mostly skip
    habit: Logits = 3.3  # logits by which either type leans to its side
    quality: Logits = 0.95  # logits, spread of the quality of songs
    taste: Logits = 1.0  # logits, spread of the fit of songs to a listener's lasting taste
    phase: Logits = 1.5  # logits, spread of the fit to a phase of some weeks
    phase_days: Size = 21.0  # days after which a phase has faded to 1/e
    mood: Logits = 1.5  # logits, spread of the fit to the mood of a session
    mood_songs: Size = 100.0  # songs after which a mood has drifted to 1/e
    fatigue: Logits = 0.2  # logits lost per log(1 + times the listener has heard the song)
    listening: Literal["people", "independent"] = "people"
    """people: runs of skips, known songs, artists in a row, and what is heard depends on feedback; independent: each
    song is drawn by itself, the next six do nothing"""
    attention: Logits = 7.5  # logits between leaning back and seeking, two states that last for some songs
    attention_songs: Size = 4.0  # songs after which a state of attention has faded to 1/e
    discovery: Share = 0.75  # share of songs new to a listener, in the long run, of the last ones that were
    order: Share = 0.4  # chance that a known song is followed by the one that followed it before
    artist_run: Share = 0.27  # chance that the next song is one of the same artist
    seed: Seed = 0  # the same seed gives the same log


def check(config: SimulateConfig) -> SimulateConfig:
    """The config itself, once its values make sense together. Raises UserError naming the field otherwise."""
    config = settled(config, SimulateConfig)
    rules = [
        (config.sessions >= config.users, "sessions", f"at least one per user ({config.users})"),
        (config.items >= LONGEST, "items", f"at least {LONGEST}, the songs of one session"),
        (config.artists <= config.items, "artists", f"no more than the items ({config.items})"),
        (config.stations <= config.items, "stations", f"no more than the items ({config.items})"),
        (config.stations_per_user <= config.stations, "stations_per_user", f"no more than {config.stations}"),
        (config.order + config.artist_run <= 1, "order", "at most 1 together with --artist-run"),
    ]
    for holds, name, rule in rules:
        if not holds:
            raise UserError(f"--{name.replace('_', '-')} must be {rule}, got {getattr(config, name)}")
    try:
        first = datetime.date.fromisoformat(config.start)
    except ValueError as error:
        raise UserError(f"--start must be a date such as 2024-01-31, got {config.start}") from error
    if not YEARS[0] <= first.year <= YEARS[1]:
        raise UserError(f"--start must be between {YEARS[0]} and {YEARS[1]}, got {config.start}")
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
        return sigmoid(self.lasting_logit(np.asarray(user_rows), np.asarray(item_rows)))

    def lasting_logit(self, user: np.ndarray, item: np.ndarray) -> Any:
        """Logit of playing, but for phase, mood and fatigue. The two integer arrays broadcast."""
        user, item = np.broadcast_arrays(user, item)
        taste = np.einsum("...d,...d->...", self.taste[user], self.character[item])
        genre = self.likeness[self.favourite[user], self.genre[item][..., None]].max(-1) - 1.0
        return self.intercept + self.propensity[user] + self.quality[item] + taste + GENRE * genre

    def feedback(
        self, user: np.ndarray, logit: np.ndarray, coin: np.ndarray, thumb: np.ndarray
    ) -> np.ndarray:
        """Codes of the feedback to songs, int8: play or skip as ``coin`` falls, with a thumb as ``thumb`` does.

            coin < sigmoid(logit)                            a play
            thumb < scale * habit * sigmoid(+-2 fit)         a thumb up, or down; fit is the logit less the habit

        Args:
          user: numbers of the listeners.
          logit: of playing the song, all told.
          coin, thumb: uniform in [0, 1). All broadcast.
        """
        positive = coin < sigmoid(logit)
        fit = logit - self.propensity[user] - self.intercept
        wish = self.thumb_scale * self.thumb_habit[user] * sigmoid(np.where(positive, 2 * fit, -2 * fit))
        return SAID[2 * positive + (thumb < wish)]

    @staticmethod
    def load(path: str | pathlib.Path) -> tuple["Truth", np.ndarray]:
        """The truth that ``write`` left, and each event's probability of a play, in the order of the log."""
        held = arrays.npz(pathlib.Path(path))
        return Truth.of(held), held["probability"]

    @staticmethod
    def of(held: Mapping[str, np.ndarray]) -> "Truth":
        """The truth among arrays by name. Raises KeyError, TypeError or ValueError where it is none."""
        values = {field.name: held[field.name] for field in dataclasses.fields(Truth)}
        if other := [name for name, value in values.items() if value.dtype.kind not in "iufb"]:
            raise ValueError(f"{other[0]} holds no numbers")
        scalars = {name: float(values[name]) for name in ("intercept", "thumb_scale")}
        return Truth(**{**values, **scalars})


def people_and_songs(rng: np.random.Generator, config: SimulateConfig) -> Truth:
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


class Pool(NamedTuple):
    """Songs that a station may play."""

    item: np.ndarray  # int32, ascending
    share: np.ndarray  # float64, how often each is played, up to a common factor


def pools(truth: Truth, config: SimulateConfig) -> list[Pool]:
    """The pool of each station.

    Songs of its genre have their popularity as share; those of the nearest other genre a tenth of theirs, and the
    hits of all genres a hundredth.
    """
    found = []
    hits = np.argsort(-truth.popularity, kind="stable")[: 2 * LONGEST]
    for station in range(config.stations):
        weight = np.zeros(config.items)
        weight[hits] = 0.01
        others = np.where(np.arange(config.stations) == station, -2.0, truth.likeness[station])
        weight[truth.genre == np.argmax(others)] = 0.1
        weight[truth.genre == station] = 1.0
        item = np.flatnonzero(weight)
        found.append(Pool(item.astype(np.int32), weight[item] * truth.popularity[item]))
    return found


def sittings(
    rng: np.random.Generator, truth: Truth, user: np.ndarray, days: int, config: SimulateConfig
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of a session each of these ascending users: start, station and length in songs.

    Starts are in milliseconds since the first of the days, ascending for each user.
    """
    day = rng.integers(days, size=user.size)
    hour = rng.choice(24, size=user.size, p=HOUR_SHARE)
    start = day * DAY + hour * 60 * MINUTE + rng.integers(60 * MINUTE, size=user.size)
    start = start[np.lexsort((start, user))]
    # Half of the sessions are on the best station, a quarter on the next.
    share = 0.5 ** np.arange(config.stations_per_user)
    choice = rng.choice(config.stations_per_user, size=user.size, p=share / share.sum())
    station = truth.favourite[user, choice]
    return start, station, rng.choice(LENGTHS, size=user.size, p=LENGTH_SHARE)


def drift(rng: np.random.Generator, rows: int, length: int, width: int, keep: float) -> np.ndarray:
    """Stationary walks [rows, length, width] of unit variance that keep this share of themselves per step."""
    walk = rng.standard_normal((rows, length, width), np.float32)
    for t in range(1, length):
        walk[:, t] = keep * walk[:, t - 1] + math.sqrt(1 - keep * keep) * walk[:, t]
    return walk


def phases(
    rng: np.random.Generator,
    age: np.ndarray,
    ordinal: np.ndarray,
    width: int,
    first: np.ndarray | None = None,
) -> np.ndarray:
    """A stationary walk of unit variance per user, seen at his sessions: [sessions, width].

    Args:
      age: time of a session in lifetimes of a phase; ascending for each user.
      ordinal: number of a session among its user's.
      first: what each user's first session sees, [users, width]; drawn if not given.
    """
    walk = rng.standard_normal((age.size, width), np.float32)
    if first is not None:
        walk[ordinal == 0] = first
    keep = np.exp(-np.diff(age, prepend=0.0)).astype(np.float32)
    by_ordinal = np.argsort(ordinal, kind="stable")
    for rows in np.split(by_ordinal, np.cumsum(np.bincount(ordinal))[:-1])[1:]:
        k = keep[rows][:, None]
        walk[rows] = k * walk[rows - 1] + np.sqrt(1 - k * k) * walk[rows]
    return walk


def sigmoid(x: Any) -> Any:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def ids(word: str, numbers: np.ndarray, total: int) -> pa.Array:
    """Ids such as user_0042, wide enough that they sort as their numbers do."""
    prefix, digits = f"{word}_".encode(), len(str(total - 1))
    width = len(prefix) + digits
    # Written as bytes, a digit of all ids at a time: a hundred times faster than text by text.
    text = np.empty((len(numbers), width), np.uint8)
    text[:, : len(prefix)] = np.frombuffer(prefix, np.uint8)
    rest = numbers.astype(np.uint64 if total > 1 << 32 else np.uint32)
    for place in range(width - 1, len(prefix) - 1, -1):
        rest, digit = np.divmod(rest, 10)
        text[:, place] = digit + ord("0")
    ends = np.arange(0, text.size + width, width, dtype=np.int32)
    return pa.StringArray.from_buffers(len(numbers), pa.py_buffer(ends), pa.py_buffer(text))
