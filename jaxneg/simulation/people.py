"""What people hear and how they react, song by song: attention, songs they know, artists in a row, rejections.

A session of a station is its queue, songs drawn by popularity, in which the listener moves about:

    order       the song that followed the last one when the listener last heard it, as on an album or a playlist
    artist      another song of the last one's artist
    known       a song of the listener's past on this station, a recent one more likely than an old one
    queue       the next song of the station

The chance of something other than what is known falls as a life goes on, (theta + d K) / (theta + n) after n songs, K
of them different (Pitman and Yor). Exposure reacts to feedback: a song with a thumb down never comes again on its
station, one that was skipped comes back less often, and order and artist are left more often after a skip.

Attention is a state of two, leaning back and seeking, that lasts for some songs and knows nothing of them: a skip in a
run of skips says little about its song.

Reference: Pitman and Yor, The two-parameter Poisson-Dirichlet distribution, 1997. The figures are those of people's
logs: ``benchmarks/results/simulator.md``.
"""

import math
from typing import NamedTuple

import numpy as np

from jaxneg.batch import CODE
from jaxneg.simulation.listeners import GENRE, LONGEST, SimulateConfig, Truth

SPARE = 5  # songs of a station's queue beyond the longest session
BENT = 0.3  # a session's bent, in parts of the distance of the two states of attention
FRESH = 8.0  # theta: songs after which a listener's past begins to tell
TRIES = 2  # songs of the past that are looked at before the queue goes on
DRAWS = (
    5 + 2 * TRIES
)  # uniform ones for a song: coin, thumb, move, known or new, song of the artist; then of the past
RECENT = 0.15  # exponent of the draw from the past: 1 takes each event alike, less the recent ones
RESTLESS = 0.8  # factor of order and artist after a skip
FORGIVEN = 0.4  # chance that a skipped event of the past may come again


def attention(rng: np.random.Generator, sessions: int, config: SimulateConfig) -> np.ndarray:
    """Logits that attention adds at each place of sessions, float32 [sessions, L].

    Half of config.attention up or down, for seeking or leaning back; both are as likely, and at each song the state is
    drawn anew with the chance 1 - exp(-1 / attention_songs). Beside it a bent of the whole session, normal with the
    deviation BENT * attention: real runs are longer than those of any one chain.
    """
    drawn_SL = rng.random((sessions, LONGEST), np.float32) < 1 - math.exp(-1 / config.attention_songs)
    drawn_SL[:, 0] = True
    side_SL = np.where(rng.random((sessions, LONGEST), np.float32) < 0.5, -0.5, 0.5).astype(np.float32)
    place_SL = np.maximum.accumulate(np.where(drawn_SL, np.arange(LONGEST), 0), axis=1)
    bent_S1 = BENT * rng.standard_normal((sessions, 1), np.float32)
    return config.attention * (np.take_along_axis(side_SL, place_SL, axis=1) + bent_S1)


class Sessions(NamedTuple):
    """Sessions of whole users, users ascending and each in order of time, before anything is heard."""

    user_S: np.ndarray
    ordinal_S: np.ndarray  # number of the session among its user's, from 0
    station_S: np.ndarray
    length_S: np.ndarray
    queue_SQ: np.ndarray  # songs of the station, none twice, SPARE more than the longest session
    state_SLD: np.ndarray  # phase and mood, in logits against the characters


class Lived(NamedTuple):
    """What came of sessions; entries after a session's end mean nothing."""

    item_SL: np.ndarray  # int32
    logit_SL: np.ndarray  # float32, of playing the song
    feedback_SL: np.ndarray  # int8


class Artists:
    """The songs of each artist, and whose station they are of."""

    def __init__(self, truth: Truth):
        self.of_V = truth.artist
        self._item = np.argsort(truth.artist, kind="stable").astype(np.int32)
        self._begin = np.append(0, np.cumsum(np.bincount(truth.artist)))
        self._genre = truth.genre

    def another(self, song: np.ndarray, share: np.ndarray) -> np.ndarray:
        """A song of the same artist, each alike as ``share`` in [0, 1) falls."""
        begin, end = self._begin[self.of_V[song]], self._begin[self.of_V[song] + 1]
        return self._item[begin + (share * (end - begin)).astype(np.int64)]


def live(rng: np.random.Generator, config: SimulateConfig, truth: Truth, sessions: Sessions) -> Lived:
    """What listeners hear and do, session by session of all of them at once.

    Args:
      rng: of moves and coins. The draws do not depend on what is heard.
      config: that the listeners are of.
      truth: their tastes.
      sessions: to be lived.
    """
    past, artists = _Past(sessions, config), Artists(truth)
    size = len(sessions.user_S)
    lived = Lived(*(np.zeros((size, LONGEST), dtype) for dtype in (np.int32, np.float32, np.int8)))
    first = int(sessions.user_S[0])
    near_UG = truth.likeness[truth.favourite[first : int(sessions.user_S[-1]) + 1]].max(1) - 1.0
    # Rounds of at most one session of a listener, the long ones first, so that those under way lead.
    lean_SL = attention(rng, size, config)
    by_round = np.lexsort((-sessions.length_S, sessions.ordinal_S))
    for rows in np.split(by_round, np.cumsum(np.bincount(sessions.ordinal_S))[:-1]):
        user_S, length_S = sessions.user_S[rows], sessions.length_S[rows]
        lasting_S = truth.intercept + truth.propensity[user_S]
        taste_SLD = truth.taste[user_S][:, None] + sessions.state_SLD[rows]
        draw_LSN = rng.random((LONGEST, len(rows), DRAWS), np.float32)
        now, logit_SL = _Round(past, rows, sessions, truth), np.zeros((len(rows), LONGEST), np.float32)
        under_way_L = len(rows) - np.cumsum(np.bincount(length_S, minlength=LONGEST + 1))[:LONGEST]
        for t, n in enumerate(under_way_L.tolist()):
            if not n:
                break
            u_SN = draw_LSN[t, :n]
            item_S = now.choose(t, n, u_SN, artists, config)
            logit_S = lasting_S[:n] + truth.quality[item_S] + lean_SL[rows[:n], t]
            logit_S += np.einsum("sd,sd->s", taste_SLD[:n, t], truth.character[item_S])
            logit_S += GENRE * near_UG[user_S[:n] - first, truth.genre[item_S]]
            logit_S -= config.fatigue * np.log1p(past.times(user_S[:n], item_S), dtype=np.float32)
            logit_SL[:n, t] = logit_S
            now.hear(t, n, item_S, truth.feedback(user_S[:n], logit_S, u_SN[:, 0], u_SN[:, 1]))
        past.keep(now)
        lived.item_SL[rows], lived.logit_SL[rows], lived.feedback_SL[rows] = (
            now.item_SL,
            logit_SL,
            now.feedback_SL,
        )
    return lived


class _Round:
    """Sessions under way, at most one of a listener."""

    def __init__(self, past: "_Past", rows: np.ndarray, sessions: Sessions, truth: Truth):
        self.past, self.truth = past, truth
        self.user_S, self.station_S, self.length_S = (
            column[rows] for column in (sessions.user_S, sessions.station_S, sessions.length_S)
        )
        self.lane_S = past.lane_S[rows]
        self.begin_S, self.known_S = past.begin_N[self.lane_S], past.size_N[self.lane_S]
        self.new_S = past.new(self.user_S)
        self.queue_SQ = sessions.queue_SQ[rows]
        # Of the queue: 1 never wanted again, 2 heard in this session. If nothing else is left, the former do.
        self.gone_SQ = past.banned(self.lane_S[:, None], self.queue_SQ).astype(np.uint8)
        self.item_SL = np.full((len(rows), LONGEST), -1, np.int32)
        self.feedback_SL = np.zeros((len(rows), LONGEST), np.int8)
        self.cursor_S = np.full(len(rows), -1)  # where the last song stands in the lane's past

    def choose(
        self, t: int, n: int, u_SN: np.ndarray, artists: Artists, config: SimulateConfig
    ) -> np.ndarray:
        """The next songs of the first n sessions."""
        past, begin_S, known_S = self.past, self.begin_S[:n], self.known_S[:n]
        place_SN = np.full((n, 2 + TRIES), -1)  # order, artist (none), then songs of the past
        song_SN = np.full((n, 2 + TRIES), -1, np.int32)
        wanted_SN = np.zeros((n, 2 + TRIES), bool)
        # The past, if there is one.
        recent_SN = known_S[:, None] * u_SN[:, 5 : 5 + TRIES] ** RECENT
        place_SN[:, 2:] = begin_S[:, None] + recent_SN.astype(np.int64)
        place_SN[:, 2:] = np.minimum(place_SN[:, 2:], past.item_T.size - 1)
        wanted_SN[:, 2:] = ((known_S > 0) & (u_SN[:, 3] >= self.new_S[:n]))[:, None]
        skipped_SN = past.skipped_T[place_SN[:, 2:]]
        wanted_SN[:, 2:] &= ~(skipped_SN & (u_SN[:, 5 + TRIES :] >= FORGIVEN))
        song_SN[:, 2:] = past.item_T[place_SN[:, 2:]]
        if t:
            last_S = self.item_SL[:n, t - 1]
            calm_S = np.where(self.feedback_SL[:n, t - 1] >= CODE["play"], 1.0, RESTLESS)
            cursor_S = self.cursor_S[:n]
            follows_S = (cursor_S >= 0) & ~past.last_T[cursor_S]
            place_SN[:, 0] = np.where(follows_S, cursor_S + 1, 0)
            song_SN[:, 0] = past.item_T[place_SN[:, 0]]
            wanted_SN[:, 0] = follows_S & (u_SN[:, 2] < config.order * calm_S)
            song_SN[:, 1] = artists.another(last_S, u_SN[:, 4])
            wanted_SN[:, 1] = u_SN[:, 2] >= 1 - config.artist_run * calm_S
            wanted_SN[:, 1] &= self.truth.genre[song_SN[:, 1]] == self.station_S[:n]
            s, k = np.nonzero(wanted_SN)
            wanted_SN[s, k] = (song_SN[s, k][:, None] != self.item_SL[s, :t]).all(1)
        s, k = np.arange(n), wanted_SN.argmax(1)
        moved_S = wanted_SN[s, k]
        m = np.flatnonzero(moved_S)
        moved_S[m] = ~past.banned(self.lane_S[m], song_SN[m, k[m]])
        next_S = self.queue_SQ[s, self.gone_SQ[:n].argmin(1)]
        self.cursor_S[:n] = np.where(moved_S, place_SN[s, k], -1)
        return np.where(moved_S, song_SN[s, k], next_S)

    def hear(self, t: int, n: int, item_S: np.ndarray, feedback_S: np.ndarray) -> None:
        self.item_SL[:n, t], self.feedback_SL[:n, t] = item_S, feedback_S
        self.gone_SQ[:n][self.queue_SQ[:n] == item_S[:, None]] = 2


class _Past:
    """What listeners have heard. A lane is a listener at one of his stations; N counts lanes and T events."""

    def __init__(self, sessions: Sessions, config: SimulateConfig):
        self._items, self._first = config.items, int(sessions.user_S[0])
        key = sessions.user_S * config.stations + sessions.station_S
        lanes, self.lane_S = np.unique(key, return_inverse=True)
        events_N = np.bincount(self.lane_S, sessions.length_S).astype(np.int64)
        self.begin_N = np.cumsum(events_N) - events_N
        self.size_N = np.zeros(len(lanes), np.int64)
        total = int(events_N.sum())
        self.item_T, self.skipped_T = np.full(total, -1, np.int32), np.zeros(total, bool)
        self.last_T = np.zeros(total, bool)  # of its session
        users = int(sessions.user_S[-1]) + 1 - self._first
        self._heard_U, self._different_U = np.zeros(users), np.zeros(users)
        self._discovery = config.discovery
        self._count = Counts(total)
        self._banned = np.empty(0, np.int64)  # ascending lane * items + song

    def new(self, user_S: np.ndarray) -> np.ndarray:
        """The chance that a listener's next song is none of those he knows."""
        u = user_S - self._first
        return (FRESH + self._discovery * self._different_U[u]) / (FRESH + self._heard_U[u])

    def times(self, user_S: np.ndarray, item_S: np.ndarray) -> np.ndarray:
        """How often each listener has heard the song in sessions that are over."""
        return self._count.of((user_S - self._first) * self._items + item_S)

    def banned(self, lane: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Whether the song has had a thumb down there."""
        return among(self._banned, lane * self._items + item)

    def keep(self, now: _Round) -> None:
        """Remembers a round of sessions."""
        s, l = np.nonzero(now.item_SL >= 0)
        item, feedback = now.item_SL[s, l], now.feedback_SL[s, l]
        place = self.begin_N[now.lane_S[s]] + self.size_N[now.lane_S[s]] + l
        self.item_T[place], self.skipped_T[place] = item, feedback < CODE["play"]
        self.size_N[now.lane_S] += now.length_S
        self.last_T[self.begin_N[now.lane_S] + self.size_N[now.lane_S] - 1] = True
        u = now.user_S - self._first
        before = self._count.add((now.user_S[s] - self._first) * self._items + item)
        self._heard_U[u] += now.length_S
        self._different_U[u] += np.bincount(s[before == 0], minlength=len(u))
        down = feedback == CODE["thumb_down"]
        self._banned = np.sort(np.append(self._banned, now.lane_S[s[down]] * self._items + item[down]))


class Counts:
    """How often keys were added, in an open hash table: no array over all pairs of listeners and songs."""

    def __init__(self, most: int):
        """A table for at most this many different keys, each 0 or more."""
        self._bits = max(4, int(2 * most + 1).bit_length())
        self._key, self._count = np.full(1 << self._bits, -1, np.int64), np.zeros(1 << self._bits, np.int32)

    def of(self, key: np.ndarray) -> np.ndarray:
        """The count of each key, 0 for one that was never added."""
        slot = self._home(key)
        off = np.flatnonzero((self._key[slot] != key) & (self._key[slot] >= 0))
        while off.size:
            slot[off] = (slot[off] + 1) & (len(self._key) - 1)
            off = off[(self._key[slot[off]] != key[off]) & (self._key[slot[off]] >= 0)]
        return np.where(self._key[slot] == key, self._count[slot], 0)

    def add(self, key: np.ndarray) -> np.ndarray:
        """Adds one to the count of each of these keys, no two alike; returns the counts before."""
        slot, left = self._home(key), np.arange(key.size)
        while left.size:
            at = slot[left]
            free = self._key[at] < 0
            self._key[at[free]] = key[left[free]]  # where several want one place, the last has it
            left = left[self._key[at] != key[left]]
            slot[left] = (slot[left] + 1) & (len(self._key) - 1)
        before = self._count[slot]
        self._count[slot] += 1
        return before

    def _home(self, key: np.ndarray) -> np.ndarray:
        mixed = key.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        return (mixed >> np.uint64(64 - self._bits)).astype(np.int64)


def among(ascending: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Whether each of the wanted keys is among ascending ones."""
    if not ascending.size:
        return np.zeros(wanted.shape, bool)
    return ascending[np.minimum(np.searchsorted(ascending, wanted), ascending.size - 1)] == wanted
