"""Listeners who hear what the station draws, each song by itself: neither feedback nor order count."""

import numpy as np

from jaxneg.simulation.listeners import LONGEST, SimulateConfig, Truth
from jaxneg.simulation.people import Lived, Sessions


def live(rng: np.random.Generator, config: SimulateConfig, truth: Truth, sessions: Sessions) -> Lived:
    """The queues of the sessions with the feedback to them; see ``people.live``."""
    user_S, item_SL = sessions.user_S, sessions.queue_SQ
    logit_SL = truth.lasting_logit(user_S[:, None], item_SL)
    logit_SL = logit_SL + np.einsum("sld,sld->sl", sessions.state_SLD, truth.character[item_SL])
    heard_SL = np.arange(LONGEST) < sessions.length_S[:, None]
    times_SL = _times_heard((user_S - user_S[0])[:, None] * config.items + item_SL, heard_SL)
    logit_SL = (logit_SL - config.fatigue * np.log1p(times_SL)).astype(np.float32)
    coins = rng.random(logit_SL.shape, np.float32), rng.random(logit_SL.shape, np.float32)
    return Lived(item_SL, logit_SL, truth.feedback(user_S[:, None], logit_SL, *coins))


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
