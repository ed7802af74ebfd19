"""Sessions in which simulated listeners come back: who comes when, to which station, in what mood, with what past.

They go on where the log of ``simulator.py`` ends. What they will hear is not said here: ``ab_test.py`` lets models
choose.
"""

from dataclasses import dataclass

import numpy as np

from jaxneg.batch import CODE
from jaxneg.errors import UserError
from jaxneg.simulation import listeners, people, simulator
from jaxneg.simulation.listeners import LONGEST


@dataclass(frozen=True)
class Visits:
    """Sessions to come. U counts the listeners, S the sessions, L the places of the longest, H past events."""

    user_U: np.ndarray  # int64, numbers of the listeners who come, ascending
    listener_S: np.ndarray  # int64, place in user_U, ascending
    ordinal_S: np.ndarray  # int64, number of the session among its listener's, from 0
    station_S: np.ndarray  # int32
    length_S: np.ndarray  # int64, songs
    state_SLD: np.ndarray  # float32, phase and mood, in logits against the characters
    lean_SL: np.ndarray  # float32, attention, in logits
    past_item_UH: np.ndarray  # int32, last songs of the log, oldest first; -1 before the first
    past_feedback_UH: np.ndarray  # int8
    past_station_UH: np.ndarray  # int32
    heard_key: np.ndarray  # int64, ascending: place in user_U * songs + song, of all pairs in the log
    heard_count: np.ndarray  # int64, how often
    banned_key: (
        np.ndarray
    )  # int64, ascending: (place in user_U * stations + station) * songs + song of thumbs down
    served_V: np.ndarray  # int64, events of each song in the log, of all listeners


def visits(
    simulation: simulator.Simulation, *, users: int, days: int, history: int = 0, seed: int = 0
) -> Visits:
    """The sessions of some listeners in the days after the log.

    A listener comes as often as in the log: the number of sessions is a Poisson draw of that mean. Phases go on from
    the listener's last session, moods are new.

    Args:
      simulation: whose log is made once more, to see what it left.
      users: listeners drawn at random; all if there are no more.
      days: how long the visits last.
      history: past events kept of each listener, H.
      seed: of the draws.

    Raises UserError where nobody comes.
    """
    config, truth = simulation.config, simulation.truth
    rng = np.random.default_rng([config.seed, 2, seed])
    drawn = np.sort(rng.choice(config.users, size=min(users, config.users), replace=False))
    count = rng.poisson(np.diff(simulation.user_indptr)[drawn] * days / config.days)
    user_U, count_U = drawn[count > 0], count[count > 0]
    if not user_U.size:
        raise UserError(
            f"none of {len(drawn)} listeners came in {days} days: give more --listeners or --days"
        )
    listener_S = np.repeat(np.arange(len(user_U)), count_U)
    ordinal_S = np.arange(len(listener_S)) - np.repeat(np.cumsum(count_U) - count_U, count_U)
    start_S, station_S, length_S = listeners.sittings(rng, truth, user_U[listener_S], days, config)
    past = _past(simulation, user_U, history)

    # The last session in the log comes first, and sets the phase from which the others follow.
    day_S = config.days + start_S / listeners.DAY
    age = np.insert(day_S, np.cumsum(count_U) - count_U, past.pop("day_U")) / config.phase_days
    ordinal = np.insert(ordinal_S + 1, np.cumsum(count_U) - count_U, 0)
    phase_SD = listeners.phases(rng, age, ordinal, config.dimension, past.pop("phase_UD"))[ordinal > 0]
    keep = np.exp(-1 / config.mood_songs)
    mood_SLD = listeners.drift(rng, len(listener_S), LONGEST, config.dimension, keep)
    state_SLD = (config.mood * mood_SLD + config.phase * phase_SD[:, None]).astype(np.float32)
    lean_SL = np.zeros(state_SLD.shape[:2], np.float32)
    if config.listening == "people":
        lean_SL = people.attention(rng, len(listener_S), config)
    return Visits(user_U, listener_S, ordinal_S, station_S, length_S, state_SLD, lean_SL, **past)


def _past(simulation: simulator.Simulation, user_U: np.ndarray, history: int) -> dict[str, np.ndarray]:
    """What the log left, by field of Visits; the last session's day and phase too."""
    config, size = simulation.config, len(user_U)
    place = np.full(config.users, -1)
    place[user_U] = np.arange(size)
    keys, counts, banned = [], [], [np.empty(0, np.int64)]
    served_V = np.zeros(config.items, np.int64)
    day_U, phase_UD = np.zeros(size), np.zeros((size, config.dimension), np.float32)
    item_UH = np.full((size, history), -1, np.int32)
    feedback_UH, station_UH = np.zeros((size, history), np.int8), np.full((size, history), -1, np.int32)
    for index in range(simulation.blocks):
        events, phases = simulation.block_with_phases(index)
        served_V += np.bincount(events.item, minlength=config.items)
        key, count = np.unique(
            (place[events.user] * config.items + events.item)[place[events.user] >= 0], return_counts=True
        )
        keys.append(key)
        counts.append(count)
        down = (events.feedback == CODE["thumb_down"]) & (place[events.user] >= 0)
        if config.listening == "people":
            lane = place[events.user[down]] * config.stations + events.station[down]
            banned.append(np.unique(lane * config.items + events.item[down]))
        last = np.flatnonzero(np.append(phases.user[1:] != phases.user[:-1], True))
        last = last[place[phases.user[last]] >= 0]
        of = place[phases.user[last]]
        day_U[of], phase_UD[of] = phases.start[last] / listeners.DAY, phases.phase[last]
        # Blocks hold whole users in order of time, so a user's last events stand before the next user's first.
        back = np.searchsorted(events.user, events.user, side="right") - np.arange(events.user.size)
        kept = np.flatnonzero((place[events.user] >= 0) & (back <= history))
        at = place[events.user[kept]], history - back[kept]
        item_UH[at], feedback_UH[at], station_UH[at] = (
            column[kept] for column in (events.item, events.feedback, events.station)
        )
    return dict(
        day_U=day_U,
        phase_UD=phase_UD,
        past_item_UH=item_UH,
        past_feedback_UH=feedback_UH,
        past_station_UH=station_UH,
        heard_key=np.concatenate(keys),  # blocks hold ascending users, so the keys ascend
        heard_count=np.concatenate(counts),
        banned_key=np.concatenate(banned),
        served_V=served_V,
    )
