"""Listening sessions in which arms, ways to choose songs, face the same simulated listeners.

Feedback is drawn from the simulator's truth with the same coins in every arm, and choices at random with the same
noise, so that a difference between two arms owes little to chance. The first song of a session is the station's own
draw in every arm, for nothing is known yet.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from jaxneg import progress
from jaxneg.batch import CODE
from jaxneg.simulation import people, simulator, visits as visit
from jaxneg.simulation.listeners import LONGEST, SimulateConfig

CELLS = 2_000_000  # sessions times songs of a pool that are held at once


class Now(NamedTuple):
    """What is there when S sessions ask for their next song. Songs are numbers of the truth."""

    station_S: np.ndarray
    pool_SC: np.ndarray  # songs of the station, those it plays most first; -1 after the last
    share_SC: np.ndarray  # how often the station plays each, up to a factor
    open_SC: np.ndarray  # bool, False where there is no song or the session has had it
    item_SL: np.ndarray  # songs heard, oldest first; -1 where there is none
    feedback_SL: np.ndarray  # codes of the feedback to them
    at_SL: np.ndarray  # stations they were heard on
    noise_SC: np.ndarray  # float32, standard exponential; the same for all arms
    logit: Callable[[], np.ndarray]  # true logits of playing each song of the pool


Arm = Callable[[Now], np.ndarray]  # to the places in the pool that are chosen, one per session


class Heard(NamedTuple):
    """What an arm played in each session, and what was said to it."""

    item_SL: np.ndarray  # int32, songs; -1 after the session's end
    feedback_SL: np.ndarray  # int8


def drawn(now: Now) -> np.ndarray:
    """The station's own draw: each open song as often as its share says."""
    # The least of exponentials with these rates is at i with a chance in proportion to rate i.
    return np.where(now.open_SC, now.noise_SC / np.maximum(now.share_SC, 1e-30), np.inf).argmin(1)


def among_best(now: Now, score_SC: np.ndarray, top: int) -> np.ndarray:
    """One of the ``top`` open songs with the highest scores, each alike.

    Of equal scores the song that the station plays more goes first. Scores of -inf are never chosen; where all are,
    the station draws.
    """
    score_SC = np.where(now.open_SC, score_SC, -np.inf)
    best_SC = np.isfinite(score_SC)
    if top < score_SC.shape[1]:
        least_S1 = np.partition(score_SC, -top, axis=1)[:, -top, None]
        above_SC, tie_SC = score_SC > least_S1, (score_SC == least_S1) & best_SC
        crowded = np.flatnonzero(above_SC.sum(1) + tie_SC.sum(1) > top)
        left = top - above_SC[crowded].sum(1, keepdims=True)
        tie_SC[crowded] &= tie_SC[crowded].cumsum(1) <= left
        best_SC = above_SC | tie_SC
    chosen_S = np.where(best_SC, now.noise_SC, np.inf).argmin(1)
    return np.where(best_SC.any(1), chosen_S, drawn(now))


def trial(
    simulation: simulator.Simulation,
    visits: visit.Visits,
    arms: Mapping[str, Arm],
    *,
    seed: int = 0,
    on_progress: progress.OnProgress = progress.silent,
) -> dict[str, Heard]:
    """What each arm played in each of the sessions, and the feedback.

    Sessions run in lock-step: first the first of every listener, then the second, since later ones meet listeners who
    tire of what they heard before. Draws belong to a session and a step, so they are the same in all arms.

    Args:
      simulation: that the listeners are of.
      visits: the sessions, with past events as far back as arms may see.
      arms: by name.
      seed: of the coins and of the choice among the best.
      on_progress: told sessions done, out of all.

    Raises ValueError if an arm chooses a song that is not open.
    """
    config = simulation.config
    rng = np.random.default_rng([config.seed, 3, seed])
    pool_PC, share_PC = _pools(simulation)
    size, done = len(visits.listener_S), 0
    heard = {
        name: Heard(np.full((size, LONGEST), -1, np.int32), np.zeros((size, LONGEST), np.int8))
        for name in arms
    }
    memories = {name: _Memory(visits, config) for name in arms}
    step = max(1, CELLS // pool_PC.shape[1])
    for ordinal in range(int(visits.ordinal_S.max(initial=-1)) + 1):
        of_round = np.flatnonzero(visits.ordinal_S == ordinal)
        of_round = of_round[np.argsort(-visits.length_S[of_round], kind="stable")]  # so the going ones lead
        for begin in range(0, len(of_round), step):
            at = of_round[begin : begin + step]
            pools = pool_PC[visits.station_S[at]], share_PC[visits.station_S[at]]
            _sessions(rng, simulation, visits, at, pools, arms, memories, heard)
            done += len(at)
            on_progress(done, size, stage="sessions")
        for name, memory in memories.items():
            item_SL, feedback_SL = (column[of_round] for column in heard[name])
            memory.keep(visits.listener_S[of_round], visits.station_S[of_round], item_SL, feedback_SL)
    return heard


def _pools(simulation: simulator.Simulation) -> tuple[np.ndarray, np.ndarray]:
    """Songs of each station, most played first and filled up with -1, and their shares, filled up with 0."""
    width = max(len(pool.item) for pool in simulation.pools)
    pool_PC = np.full((len(simulation.pools), width), -1, np.int32)
    share_PC = np.zeros(pool_PC.shape, np.float32)
    for station, pool in enumerate(simulation.pools):
        order = np.argsort(-pool.share, kind="stable")
        pool_PC[station, : len(order)] = pool.item[order]
        share_PC[station, : len(order)] = pool.share[order] / pool.share.sum()
    return pool_PC, share_PC


def _sessions(rng, simulation, visits, at, pools, arms, memories, heard) -> None:
    """Sessions ``at``, longest first, in lock-step and in every arm; ``heard`` takes what comes of them."""
    truth, (pool_SC, share_SC) = simulation.truth, pools
    listener_S, station_S, length_S = visits.listener_S[at], visits.station_S[at], visits.length_S[at]
    user_S, state_SLD, lean_SL = visits.user_U[listener_S], visits.state_SLD[at], visits.lean_SL[at]
    lasting_SC = truth.lasting_logit(user_S[:, None], pool_SC).astype(np.float32)
    coin_2SL = rng.random((2, len(at), LONGEST), np.float32)
    tables = {name: memory.session(listener_S, station_S, pool_SC) for name, memory in memories.items()}
    for t in range(int(length_S[0])):
        n = int((length_S > t).sum())
        noise_SC = rng.standard_exponential((n, pool_SC.shape[1]), np.float32)
        for name, arm in arms.items():
            table = tables[name]
            logit_SC = lasting_SC[:n] + lean_SL[:n, t, None]
            logit_SC -= simulation.config.fatigue * table.tired_SC[:n]

            def logit(logit_SC=logit_SC, t=t, n=n) -> np.ndarray:
                return logit_SC + _fit(station_S[:n], state_SLD[:n, t], pool_SC[:n], truth.character)

            past = visits.past_item_UH.shape[1] + t
            item_SL, feedback_SL, at_SL = (
                column[:n, :past] for column in (table.item_SL, table.feedback_SL, table.at_SL)
            )
            now = Now(
                station_S[:n],
                pool_SC[:n],
                share_SC[:n],
                table.open_SC[:n],
                item_SL,
                feedback_SL,
                at_SL,
                noise_SC,
                logit,
            )
            place_S = drawn(now) if t == 0 else arm(now)
            s = np.arange(n)
            if not table.open_SC[s, place_S].all():
                raise ValueError(f"arm {name} chose a song that is not open")
            song_S = pool_SC[s, place_S]
            of_song_S = logit_SC[s, place_S] + np.einsum(
                "sd,sd->s", state_SLD[:n, t], truth.character[song_S]
            )
            feedback_S = truth.feedback(user_S[:n], of_song_S, *coin_2SL[:, :n, t])
            table.open_SC[s, place_S] = False
            table.item_SL[:n, past], table.feedback_SL[:n, past] = song_S, feedback_S
            table.at_SL[:n, past] = station_S[:n]
            heard[name].item_SL[at[:n], t], heard[name].feedback_SL[at[:n], t] = song_S, feedback_S


def _fit(station_S, state_SD, pool_SC, character_VD) -> np.ndarray:
    """Inner products of states with the characters of their pools, where the pool is that of the station."""
    fit_SC = np.zeros(pool_SC.shape, np.float32)
    for station in np.unique(station_S):
        rows = np.flatnonzero(station_S == station)
        fit_SC[rows] = state_SD[rows] @ character_VD[pool_SC[rows[0]]].T
    return fit_SC


class _Table(NamedTuple):
    """Sessions under way: what may still be played, and past events followed by those of the session."""

    tired_SC: np.ndarray  # log(1 + times the listener has heard the song)
    open_SC: np.ndarray
    item_SL: np.ndarray
    feedback_SL: np.ndarray
    at_SL: np.ndarray


class _Memory:
    """What the listeners of one arm have heard: the log, and the sessions since."""

    def __init__(self, visits: visit.Visits, config: SimulateConfig):
        self._visits, self._items, self._stations = visits, config.items, config.stations
        self._people, self._banned = config.listening == "people", visits.banned_key
        self._key, self._count = np.empty(0, np.int64), np.empty(0, np.int64)  # since the log
        self._past = [visits.past_item_UH, visits.past_feedback_UH, visits.past_station_UH]

    def session(self, listener_S: np.ndarray, station_S: np.ndarray, pool_SC: np.ndarray) -> _Table:
        """The beginning of a session with each of these listeners."""
        wanted_SC = listener_S[:, None] * self._items + np.maximum(pool_SC, 0)
        times_SC = _looked_up(self._visits.heard_key, self._visits.heard_count, wanted_SC)
        times_SC = times_SC + _looked_up(self._key, self._count, wanted_SC)
        item_SL, feedback_SL, at_SL = (
            np.pad(column[listener_S], ((0, 0), (0, LONGEST)), constant_values=empty)
            for column, empty in zip(self._past, (-1, 0, -1), strict=True)
        )
        lane_S1 = (listener_S * self._stations + station_S)[:, None]
        banned_SC = people.among(self._banned, lane_S1 * self._items + np.maximum(pool_SC, 0))
        open_SC = (pool_SC >= 0) & ~banned_SC
        few_S = open_SC.sum(1) < LONGEST  # of a small pool, all again
        open_SC[few_S] = pool_SC[few_S] >= 0
        return _Table(np.log1p(times_SC).astype(np.float32), open_SC, item_SL, feedback_SL, at_SL)

    def keep(self, listener_S, station_S, item_SL: np.ndarray, feedback_SL: np.ndarray) -> None:
        """Remembers sessions, at most one of a listener."""
        s, l = np.nonzero(item_SL >= 0)
        key, count = np.unique(listener_S[s] * self._items + item_SL[s, l], return_counts=True)
        self._key, place = np.unique(np.concatenate([self._key, key]), return_inverse=True)
        self._count = np.bincount(place, np.concatenate([self._count, count])).astype(np.int64)
        if self._people:  # a song with a thumb down does not come again on its station
            down = feedback_SL[s, l] == CODE["thumb_down"]
            lane = listener_S[s[down]] * self._stations + station_S[s[down]]
            self._banned = np.union1d(self._banned, lane * self._items + item_SL[s[down], l[down]])
        if not self._past[0].shape[1]:
            return
        at_SL = np.broadcast_to(station_S[:, None], item_SL.shape)
        width = self._past[0].shape[1]
        place_SH = np.arange(width) + (item_SL >= 0).sum(1, keepdims=True)  # of past and session in one row
        for k, column in enumerate((item_SL, feedback_SL, at_SL)):
            joined = np.concatenate([self._past[k][listener_S], column], axis=1)
            self._past[k] = self._past[k].copy()
            self._past[k][listener_S] = np.take_along_axis(joined, place_SH, axis=1)


def _looked_up(key: np.ndarray, count: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Counts of the wanted keys among ascending ones, 0 where there is none."""
    if not key.size:
        return np.zeros(wanted.shape, np.int64)
    place = np.minimum(np.searchsorted(key, wanted), key.size - 1)
    return np.where(key[place] == wanted, count[place], 0)
