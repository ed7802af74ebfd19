"""Score functions without a network, fitted to a training log. A model should beat the best of them.

Each takes ``(log, sign, validate)`` and picks its few settings by what ``validate`` says of a score function,
so none is beaten for want of tuning. Besides the log they see what a model sees: the context of each example.
"""

import itertools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy.sparse as sp

from jaxneg.baselines import votes
from jaxneg.batch import EvalBatch
from jaxneg.data import stores

Score = Callable[[EvalBatch], np.ndarray]  # to scores_BV, float32; column 0 is the padding row
Validate = Callable[[Score], float]  # how good a score function is, more is better


class Log(NamedTuple):
    """Training events in order of (user, session, time). Users and sessions count from 0, items from 1."""

    user_T: np.ndarray
    item_T: np.ndarray
    sign_T: np.ndarray  # +1 positive, -1 negative, 0 neither
    session_T: np.ndarray
    items: int  # V - 1
    users: int  # those of the store; ids at or above it are unknown


def training_log(store: stores.Store) -> Log:
    """Training events of a store as the baselines take them."""
    session_T = np.repeat(np.arange(len(store.session_user)), np.diff(store.session_indptr))
    event = np.flatnonzero(np.arange(len(session_T)) < np.asarray(store.session_train_end)[session_T])
    session_T = session_T[event]
    return Log(
        user_T=np.asarray(store.session_user)[session_T],
        item_T=store.item_T[event],
        sign_T=np.asarray(store.sign)[store.feedback_T[event]],
        session_T=session_T,
        items=store.items,
        users=len(store.user_indptr) - 1,
    )


class Fitted(NamedTuple):
    """A score function with the settings that were chosen for it."""

    score: Score
    settings: dict[str, Any]
    sees: Literal["nothing", "context", "history"] = (
        "nothing"  # of a listener: the context, or all events of the log
    )
    again: Callable[[int], Score] | None = (
        None  # the same settings from another random start; None if there is none
    )

    def __call__(self, batch: EvalBatch) -> np.ndarray:
        return self.score(batch)


Fit = Callable[[Log, np.ndarray, Validate], Fitted]


def _best(make: Callable[..., Score], validate: Validate, **grid: tuple[Any, ...]) -> Fitted:
    """The score function of the best settings in a grid; the first of those that tie."""
    tried = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    quality = [validate(make(**settings)) for settings in tried]
    settings = tried[int(np.argmax(np.nan_to_num(quality, nan=-np.inf)))]
    return Fitted(make(**settings), settings)


def _counts(log: Log, sign: int) -> np.ndarray:
    """Events of a sign on each row of the catalogue, float64 [V]."""
    return np.bincount(log.item_T[log.sign_T == sign], minlength=log.items + 1).astype(np.float64)


def _share(log: Log, strength: float) -> np.ndarray:
    """Share of positives among signed events, drawn to the mean by ``strength`` more events, float64 [V]."""
    positive_V, negative_V = _counts(log, 1), _counts(log, -1)
    prior = (positive_V.sum() + 1) / (positive_V.sum() + negative_V.sum() + 2)
    return (positive_V + strength * prior) / (positive_V + negative_V + strength)


def _constant(score_V: np.ndarray) -> Score:
    score_V = score_V.astype(np.float32)
    return lambda batch: np.broadcast_to(score_V, (len(batch.user_B), len(score_V)))


def sparse(row: np.ndarray, column: np.ndarray, value: np.ndarray, shape: tuple[int, int]) -> sp.csr_array:
    """Sparse matrix of summed values."""
    table = sp.coo_array((value.astype(np.float32), (row, column)), shape=shape).tocsr()
    table.sum_duplicates()
    return table


def contexts(batch: EvalBatch, rows: int, weight_BL: np.ndarray) -> sp.csr_array:
    """Weights of the items in each context, [B, V]."""
    b, l = np.nonzero((np.asarray(batch.item_BL) > 0) & (weight_BL != 0))
    return sparse(b, np.asarray(batch.item_BL)[b, l], weight_BL[b, l], (len(batch.item_BL), rows))


def popularity(log: Log, sign: np.ndarray, validate: Validate) -> Fitted:
    """Number of positives of the item."""
    return Fitted(_constant(_counts(log, 1)), {})


def like_rate(log: Log, sign: np.ndarray, validate: Validate) -> Fitted:
    """Smoothed share of positives among the item's signed events."""
    return _best(
        lambda strength: _constant(_share(log, strength)),
        validate,
        strength=(1.0, 2.0, 5.0, 10.0, 20.0, 50.0),
    )


def personal_rate(log: Log, sign: np.ndarray, validate: Validate) -> Fitted:
    """This user's own share of positives on the item, drawn to its like rate, plus a bonus for own positives.

        (own positives + m * like_rate) / (own signed events + m) + bonus * log(1 + own positives)

    A context that is part of the log is not counted twice: of log and context the larger count holds.
    """
    shape = (log.users, log.items + 1)
    in_log = {
        s: sparse(log.user_T[at], log.item_T[at], np.ones(at.sum()), shape)
        for s in (1, -1)
        for at in [log.sign_T == s]
    }
    strength = like_rate(log, sign, validate).settings["strength"]
    like_V = _share(log, strength).astype(np.float32)

    def own(batch: EvalBatch, s: int) -> np.ndarray:
        known_B = batch.user_B < log.users
        past_BV = in_log[s][np.where(known_B, batch.user_B, 0)].toarray() * known_B[:, None]
        now_BV = contexts(batch, log.items + 1, (sign[batch.feedback_BL] == s).astype(np.float32)).toarray()
        return np.maximum(past_BV, now_BV)

    def make(own_strength: float, bonus: float) -> Score:
        def score(batch: EvalBatch) -> np.ndarray:
            positive_BV, negative_BV = own(batch, 1), own(batch, -1)
            share_BV = (positive_BV + own_strength * like_V) / (positive_BV + negative_BV + own_strength)
            return (share_BV + bonus * np.log1p(positive_BV)).astype(np.float32)

        return score

    chosen = _best(make, validate, own_strength=(2.0, 5.0, 15.0), bonus=(0.0, 0.02, 0.1))
    return chosen._replace(settings=chosen.settings | {"strength": strength}, sees="history")


def transitions(log: Log, sign: np.ndarray, validate: Validate) -> Fitted:
    """Which positives follow the context's last events in a session, backing off to what is liked anyway.

    An item scores, summed over the last ``window`` events a of the context, halved with each step back,

        (times it followed a as a positive + m * prior) / (times it followed a + m)     of "rate"
        (times it followed a as a positive + m * prior) / (times a was followed + m)    of "count"

    where the prior is the item's like rate or its share of all positives.
    """
    shape = (log.items + 1, log.items + 1)
    near = {}
    for gap in (1, 2, 3):
        together = log.session_T[gap:] == log.session_T[:-gap]
        near[gap] = (log.item_T[:-gap][together], log.item_T[gap:][together], log.sign_T[gap:][together])

    def followed(window: int, signs: tuple[int, ...]) -> sp.csr_array:
        parts = [(a, b, 1.0 / gap * np.isin(s, signs)) for gap, (a, b, s) in near.items() if gap <= window]
        a, b, weight = (np.concatenate(column) for column in zip(*parts, strict=True))
        return sparse(a[weight > 0], b[weight > 0], weight[weight > 0], shape)

    like_V = like_rate(log, sign, validate)
    popular_V = _counts(log, 1) / max(_counts(log, 1).sum(), 1)
    prior_V = {"rate": _share(log, like_V.settings["strength"]), "count": popular_V}
    tables = {window: (followed(window, (1,)), followed(window, (1, -1))) for window in (1, 3)}

    def make(of: str, window: int, strength: float) -> Score:
        positive_VV, signed_VV = tables[window]
        weight_V = 1.0 / (signed_VV.sum(axis=1) + strength)

        def score(batch: EvalBatch) -> np.ndarray:
            result_BV = np.broadcast_to(prior_V[of], (len(batch.user_B), log.items + 1)).astype(np.float32)
            length_B = (batch.item_BL > 0).sum(-1)
            for back in range(1, window + 1):
                has_B = length_B >= back
                last_B = np.where(has_B, batch.item_BL[np.arange(len(length_B)), length_B - back], 0)
                gain_BV = positive_VV[last_B].tocoo()
                b, v = gain_BV.coords
                if of == "count":
                    value = gain_BV.data * weight_V[last_B[b]]
                else:
                    seen_BV = signed_VV[last_B].tocoo()
                    b, v = seen_BV.coords
                    liked = np.asarray(positive_VV[last_B[b], v]).ravel()
                    value = (liked + strength * prior_V[of][v]) / (seen_BV.data + strength) - prior_V[of][v]
                np.add.at(result_BV, (b, v), (0.5 ** (back - 1) * value * has_B[b]).astype(np.float32))
            return result_BV

        return score

    chosen = _best(make, validate, of=("count", "rate"), window=(1, 3), strength=(2.0, 10.0, 50.0))
    return chosen._replace(sees="context")


def item_item(log: Log, sign: np.ndarray, validate: Validate) -> Fitted:
    """Signed co-occurrence with the context: i2i+ less ``against`` times i2i-.

    An item's profile lists the sessions, or users, that liked it, another those that disliked it, each
    divided by its length to the power ``damping`` (0.5 on both sides gives the cosine). The context's liked
    items meet the liked profiles, its disliked items the disliked ones; agreeing sessions then vote for what
    they liked and against what they disliked.
    """

    def profiles(unit_T: np.ndarray) -> dict[int, sp.csr_array]:
        shape = (int(unit_T.max(initial=-1)) + 1, log.items + 1)
        tables = {}
        for s in (1, -1):
            at = log.sign_T == s
            tables[s] = sparse(unit_T[at], log.item_T[at], np.ones(at.sum()), shape)
            tables[s].data[:] = 1.0
        return tables

    unit_T = {"user": log.user_T}
    if len(np.unique(log.session_T)) > len(np.unique(log.user_T)):
        unit_T = {"session": log.session_T} | unit_T
    of = {unit: votes.Votes(profiles(of_T)) for unit, of_T in unit_T.items()}
    strength = like_rate(log, sign, validate).settings["strength"]

    def make(unit: str, damping: float, against: float, prior: float) -> Score:
        weighed = of[unit].weighed(damping, against)
        like_V = prior * _share(log, strength)

        def score(batch: EvalBatch) -> np.ndarray:
            sign_BL = sign[batch.feedback_BL]
            context = [contexts(batch, log.items + 1, (sign_BL == s).astype(np.float32)) for s in (1, -1)]
            votes_BV = weighed(sp.csr_array(sp.hstack(context)))
            scale_B1 = np.maximum(np.abs(votes_BV).max(axis=1, keepdims=True), 1e-9)
            return (votes_BV / scale_B1 + like_V).astype(np.float32)

        return score

    chosen = _best(
        make, validate, unit=tuple(unit_T), damping=(0.5, 1.0), against=(0.0, 0.5, 1.0), prior=(0.0, 1.0, 4.0)
    )
    return chosen._replace(sees="context")


COUNTS: dict[str, Fit] = {
    "popularity": popularity,
    "like_rate": like_rate,
    "personal_rate": personal_rate,
    "transitions": transitions,
    "item_item": item_item,
}
