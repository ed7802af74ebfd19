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
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # of Fibonacci hashing
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
    """The songs of each artist."""

    def __init__(self, artist_V: np.ndarray):
        self._item = np.argsort(artist_V, kind="stable").astype(np.int32)
        songs = np.bincount(artist_V)
        self._begin_V, self._songs_V = (np.cumsum(songs) - songs)[artist_V], songs[artist_V]

    def another(self, song: np.ndarray, share: np.ndarray) -> np.ndarray:
        """A song of the same artist, each alike as ``share`` in [0, 1) falls."""
        return self._item[self._begin_V[song] + (share * self._songs_V[song]).astype(np.int64)]


def live(rng: np.random.Generator, config: SimulateConfig, truth: Truth, sessions: Sessions) -> Lived:
    """What listeners hear and do, session by session of all of them at once.

    Args:
      rng: of moves and coins. The draws do not depend on what is heard.
      config: that the listeners are of.
      truth: their tastes.
      sessions: to be lived.
    """
    past, artists = _Past(sessions, config), Artists(truth.artist)
    size = len(sessions.user_S)
    lived = Lived(*(np.zeros((size, LONGEST), dtype) for dtype in (np.int32, np.float32, np.int8)))
    first = int(sessions.user_S[0])
    near_UG = truth.likeness[truth.favourite[first : int(sessions.user_S[-1]) + 1]].max(1) - 1.0
    near_, genres = (GENRE * near_UG).ravel(), near_UG.shape[1]
    # By how often a song was heard before, at most once in each session.
    worn_ = config.fatigue * np.log1p(np.arange(sessions.ordinal_S.max() + 1), dtype=np.float32)
    lean_SL = attention(rng, size, config)
    # Rounds of at most one session of a listener, the long ones first, so that those under way lead.
    by_round = np.lexsort((-sessions.length_S, sessions.ordinal_S))
    for rows in np.split(by_round, np.cumsum(np.bincount(sessions.ordinal_S))[:-1]):
        user_S, length_S = sessions.user_S[rows], sessions.length_S[rows]
        lasting_S = truth.intercept + truth.propensity[user_S]
        taste_LSD = truth.taste[user_S] + sessions.state_SLD[rows].transpose(1, 0, 2)
        lean_LS, near_S = np.ascontiguousarray(lean_SL[rows].T), (user_S - first) * genres
        draw_LNS = np.ascontiguousarray(
            rng.random((LONGEST, len(rows), DRAWS), np.float32).transpose(0, 2, 1)
        )
        now, logit_LS = _Round(past, rows, sessions, draw_LNS), np.zeros((LONGEST, len(rows)), np.float32)
        now.prepare(truth, artists, config)
        under_way_L = len(rows) - np.cumsum(np.bincount(length_S, minlength=LONGEST + 1))[:LONGEST]
        for t, n in enumerate(under_way_L.tolist()):
            if not n:
                break
            item_S = now.choose(t, n)
            logit_S = lasting_S[:n] + truth.quality[item_S] + lean_LS[t, :n]
            logit_S += np.einsum("sd,sd->s", taste_LSD[t, :n], truth.character.take(item_S, axis=0))
            logit_S += near_[near_S[:n] + truth.genre[item_S]]
            logit_S -= worn_[now.times(t, n, item_S)]
            logit_LS[t, :n] = logit_S
            now.hear(
                t, n, item_S, truth.feedback(user_S[:n], logit_S, draw_LNS[t, 0, :n], draw_LNS[t, 1, :n])
            )
        past.keep(now)
        for column_SL, column_LS in zip(lived, (now.item_LS, logit_LS, now.feedback_LS), strict=True):
            column_SL[rows] = column_LS.T
    return lived


class _Round:
    """Sessions under way, at most one of a listener. C counts moves: order or artist, then songs of the past."""

    def __init__(self, past: "_Past", rows: np.ndarray, sessions: Sessions, draw_LNS: np.ndarray):
        self.past, size = past, len(rows)
        self.user_S, self.station_S, self.length_S = (
            column[rows] for column in (sessions.user_S, sessions.station_S, sessions.length_S)
        )
        self.lane_S = past.lane_S[rows]
        self.queue_SQ, self.queue_S = sessions.queue_SQ[rows], np.arange(size) * sessions.queue_SQ.shape[1]
        # Of the queue: 1 never wanted again, 2 heard in this session. If nothing else is left, the former do.
        self.gone_SQ = past.banned(self.lane_S[:, None], self.queue_SQ).astype(np.uint8)
        self.item_LS = np.full((LONGEST, size), -1, np.int32)
        self.feedback_LS = np.zeros((LONGEST, size), np.int8)
        self.cursor_S = np.full(size, -1)  # where the last song stands in the lane's past
        # Of each listener and song: the key, and what the counts say of it.
        self.heard_S = past.keys(self.user_S)
        self.slot_LS, self.times_LS = np.zeros((LONGEST, size), np.int64), np.zeros((LONGEST, size), np.int32)
        self.draw_LNS, self.column_S = draw_LNS, np.arange(size)

    def prepare(self, truth: Truth, artists: Artists, config: SimulateConfig) -> None:
        """All of the moves that does not depend on what is heard in this round."""
        past, draw_LNS, size = self.past, self.draw_LNS, len(self.user_S)
        self.artists, self.genre_V = artists, truth.genre
        self.place_LCS = np.full((LONGEST, 1 + TRIES, size), -1)
        self.song_LCS = np.full((LONGEST, 1 + TRIES, size), -1, np.int32)
        self.wanted_LCS = np.zeros((LONGEST, 1 + TRIES, size), bool)
        begin_S, known_S = past.begin_N[self.lane_S], past.size_N[self.lane_S]
        if known_S.any():
            old_LS = (known_S > 0) & (draw_LNS[:, 3] >= past.new(self.user_S))
            l, s = np.nonzero(old_LS)
            for c in range(TRIES):
                recent = (known_S[s] * draw_LNS[l, 5 + c, s] ** RECENT).astype(np.int64)
                place = begin_S[s] + np.minimum(recent, known_S[s] - 1)  # a draw next to 1 rounds up
                self.place_LCS[l, 1 + c, s], self.song_LCS[l, 1 + c, s] = place, past.item_T[place]
                forgiven = draw_LNS[l, 5 + TRIES + c, s] < FORGIVEN
                self.wanted_LCS[l, 1 + c, s] = ~past.skipped_T[place] | forgiven
        # After a play and after a skip.
        move_LS = draw_LNS[:, 2]
        self.ordered_LS = [move_LS < config.order * calm for calm in (1.0, RESTLESS)]
        self.artist_LS = [move_LS >= 1 - config.artist_run * calm for calm in (1.0, RESTLESS)]

    def choose(self, t: int, n: int) -> np.ndarray:
        """The next songs of the first n sessions."""
        past, wanted_CS = self.past, self.wanted_LCS[t]
        if t:
            played_S = self.feedback_LS[t - 1, :n] >= CODE["play"]
            song_CS, place_CS = self.song_LCS[t], self.place_LCS[t]
            # A song in order, or one of the artist: a draw does not ask for both.
            place_CS[0, :n] = next_S = self.cursor_S[:n] + 1
            song_CS[0, :n] = past.item_T[next_S]
            ordered_S = np.where(played_S, self.ordered_LS[0][t, :n], self.ordered_LS[1][t, :n])
            wanted_CS[0, :n] = ordered_S & past.goes_on_T[self.cursor_S[:n]]
            s = np.flatnonzero(np.where(played_S, self.artist_LS[0][t, :n], self.artist_LS[1][t, :n]))
            song_S = self.artists.another(self.item_LS[t - 1][s], self.draw_LNS[t, 4][s])
            song_CS[0][s], place_CS[0][s] = song_S, -1
            wanted_CS[0][s] = self.genre_V[song_S] == self.station_S[s]
            wanted_CS[:, :n] &= (song_CS[:, :n] != self.item_LS[:t, None, :n]).all(0)
        item_S = self.queue_SQ.ravel()[self.queue_S[:n] + self.gone_SQ[:n].argmin(1)]
        at = wanted_CS[:, :n].argmax(0) * len(self.column_S) + self.column_S[:n]
        s = np.flatnonzero(wanted_CS.ravel()[at])
        at = at[s]
        song_S = self.song_LCS[t].ravel()[at]
        free = ~past.banned(self.lane_S[s], song_S)
        s, at = s[free], at[free]
        self.cursor_S[:n] = -1
        item_S[s], self.cursor_S[s] = song_S[free], self.place_LCS[t].ravel()[at]
        return item_S.astype(np.int64)

    def times(self, t: int, n: int, item_S: np.ndarray) -> np.ndarray:
        """How often each listener has heard the song in sessions that are over."""
        slot_S, count_S = self.past.count.look(self.heard_S[:n] + item_S)
        self.slot_LS[t, :n], self.times_LS[t, :n] = slot_S, count_S
        return count_S

    def hear(self, t: int, n: int, item_S: np.ndarray, feedback_S: np.ndarray) -> None:
        self.item_LS[t, :n], self.feedback_LS[t, :n] = item_S, feedback_S
        np.putmask(self.gone_SQ[:n], self.queue_SQ[:n] == item_S[:, None], 2)


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
        # One more than there are: place -1, of songs that are not of the past, and what comes after the last.
        self.item_T, self.skipped_T = np.full(total + 1, -1, np.int32), np.zeros(total + 1, bool)
        self.goes_on_T = np.arange(total + 1) < total  # not the last of its session
        users = int(sessions.user_S[-1]) + 1 - self._first
        self._heard_U, self._different_U = np.zeros(users), np.zeros(users)
        self._discovery = config.discovery
        self.count, self._down = Counts(), Counts()  # of listener and song, of lane and song

    def new(self, user_S: np.ndarray) -> np.ndarray:
        """The chance that a listener's next song is none of those he knows."""
        u = user_S - self._first
        return (FRESH + self._discovery * self._different_U[u]) / (FRESH + self._heard_U[u])

    def keys(self, user_S: np.ndarray) -> np.ndarray:
        """What with the number of a song added is the key of listener and song."""
        return (user_S - self._first) * self._items

    def banned(self, lane: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Whether the song has had a thumb down there."""
        key = lane * self._items + item
        return self._down.look(key.ravel())[1].reshape(key.shape) > 0

    def keep(self, now: _Round) -> None:
        """Remembers a round of sessions."""
        heard_SL = np.arange(LONGEST) < now.length_S[:, None]
        item, feedback, slot, times = (
            column_LS.T[heard_SL] for column_LS in (now.item_LS, now.feedback_LS, now.slot_LS, now.times_LS)
        )
        begin_S = self.begin_N[now.lane_S] + self.size_N[now.lane_S]
        place = (begin_S[:, None] + np.arange(LONGEST))[heard_SL]
        self.item_T[place], self.skipped_T[place] = item, feedback < CODE["play"]
        self.size_N[now.lane_S] += now.length_S
        self.goes_on_T[begin_S + now.length_S - 1] = False
        self.count.add((now.heard_S[:, None] + now.item_LS.T)[heard_SL], slot, times)
        u = now.user_S - self._first
        self._heard_U[u] += now.length_S
        self._different_U[u] += (heard_SL & (now.times_LS.T == 0)).sum(1)
        down = np.flatnonzero(feedback == CODE["thumb_down"])
        lane_T = np.repeat(now.lane_S, now.length_S)[down]
        key = lane_T * self._items + item[down]
        self._down.add(key, *self._down.look(key))


class Counts:
    """How often keys, int64, were added, in an open hash table: no array over all pairs of listeners and songs."""

    SPARE = 3  # places for each key, at least

    def __init__(self):
        self._held = 0  # different keys
        self._empty(10)

    def look(self, key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where each key stands, or would if it were added, and its count, 0 for one that was never added."""
        slot = self._home(key)
        if not self._held:
            return slot, np.zeros(key.size, np.int32)
        held = self._key[slot]
        left = np.flatnonzero((held != key) & (held >= 0))
        while left.size:
            slot[left] = (slot[left] + 1) & (len(self._key) - 1)
            held = self._key[slot[left]]
            left = left[(held != key[left]) & (held >= 0)]
        return slot, self._count[slot]

    def add(self, key: np.ndarray, slot: np.ndarray, count: np.ndarray) -> None:
        """Adds one to the count of each of these keys, no two alike, of which ``look`` said slot and count."""
        known = count > 0
        self._count[slot[known]] += 1
        key, slot = key[~known], slot[~known]
        self._held += key.size
        if self.SPARE * self._held > len(self._key):
            old, counts = self._key[self._key >= 0], self._count[self._key >= 0]
            self._empty(int(2 * self.SPARE * self._held).bit_length())
            self._count[self._placed(old, self._home(old))] = counts
            slot = self._home(key)
        self._count[self._placed(key, slot)] = 1

    def _empty(self, bits: int) -> None:
        self._shift = np.uint64(64 - bits)
        self._key, self._count = np.full(1 << bits, -1, np.int64), np.zeros(1 << bits, np.int32)

    def _placed(self, key: np.ndarray, slot: np.ndarray) -> np.ndarray:
        """Where new keys stand from now on: the first free place from ``slot``."""
        left = np.arange(key.size)
        while left.size:
            at = slot[left]
            free = self._key[at] < 0
            self._key[at[free]] = key[left[free]]  # where several want one place, the last has it
            left = left[self._key[at] != key[left]]
            slot[left] = (slot[left] + 1) & (len(self._key) - 1)
        return slot

    def _home(self, key: np.ndarray) -> np.ndarray:
        return ((key.view(np.uint64) * GOLDEN) >> self._shift).view(np.int64)


def among(ascending: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Whether each of the wanted keys is among ascending ones."""
    if not ascending.size:
        return np.zeros(wanted.shape, bool)
    return ascending[np.minimum(np.searchsorted(ascending, wanted), ascending.size - 1)] == wanted
