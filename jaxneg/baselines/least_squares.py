"""Factorisation of the signs by alternating least squares: users and items in turn are ridge regressions."""

# scipy's sparse arrays carry no types.
# pyright: reportOptionalSubscript=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from jaxneg.baselines import counting
from jaxneg.baselines.counting import Fitted, Log, Score, Validate
from jaxneg.batch import EvalBatch

Candidate = tuple[dict[str, Any], Score]  # settings, and what they give


def matrix_factorisation(log: Log, sign: np.ndarray, validate: Validate) -> Fitted:
    """Biases and factors fitted by alternating least squares to the signs, +1, 0, -1, of the log's events.

        sign_ui ~ mean + bias_u + bias_i + p_u . q_i
        penalty = l2 (|p|^2 + |q|^2) + l2_bias (bias_u^2 + bias_i^2)

    With the items fixed, a user is a ridge regression, so each example's user is solved for anew, from one of

        history   his events in the log, and those of the context that are not in it
        context   those of the context alone: factors of items that were fitted to a user's events explain them too
                  well, so that few events can tell more of him than all

    Known and unknown users, and later context, are thus one case. Settings are chosen for the biases first
    (factors 0, where it is all the same), then for the factors.
    """
    fitted = alternating(log, sign)

    def choose(candidates: list[Candidate]) -> Fitted:
        quality = [validate(score) for _, score in candidates]
        settings, score = candidates[int(np.argmax(np.nan_to_num(quality, nan=-np.inf)))]
        sees = settings["solved_from"]
        return Fitted(
            score, settings, sees, functools.partial(again, settings) if settings["factors"] else None
        )

    def again(settings: dict[str, Any], seed: int) -> Score:
        return single(fitted, settings, seed)

    biases = choose([one for l2_bias in (1.0, 3.0, 10.0, 30.0) for one in fitted(0, 0.0, l2_bias, (3, 12))])
    l2_bias = biases.settings["l2_bias"]
    grid = itertools.product((4, 16), (2.0, 5.0, 12.0, 40.0))
    return choose(
        [(biases.settings, biases.score)]
        + [
            one
            for factors, l2 in grid
            for one in fitted(factors, l2, l2_bias, (4, 12), solved_from=("history", "context"))
        ]
    )


class Rows(NamedTuple):
    """What a log gives to alternating least squares."""

    events: sp.csr_array  # of each user with each item
    signs: sp.csr_array  # their sum
    center: float  # mean sign

    def each(self, factors: int, l2: float, l2_bias: float, seed: int = 0) -> Iterator[np.ndarray]:
        """Factors and the bias, the last column, of items after each sweep, float32 [V, F + 1], without end."""
        turned = self.events.T.tocsr(), self.signs.T.tocsr()
        penalty, rows = penalties(factors, l2, l2_bias), turned[0].indptr.size - 1
        item_VF = np.zeros((rows, factors + 1), np.float32)
        item_VF[:, :factors] = 0.1 * np.random.default_rng(seed).standard_normal((rows, factors))
        while True:
            user_UF = ridge(self.events, self.signs, item_VF, self.center, penalty)
            item_VF = ridge(*turned, user_UF, self.center, penalty)
            yield item_VF


def rows_of(log: Log) -> Rows:
    """A log as alternating least squares takes it."""
    shape = (log.users, log.items + 1)
    return Rows(
        counting.sparse(log.user_T, log.item_T, np.ones(len(log.item_T)), shape),
        counting.sparse(log.user_T, log.item_T, log.sign_T.astype(np.float32), shape),
        float(log.sign_T.mean()) if len(log.sign_T) else 0.0,
    )


def penalties(factors: int, l2: float, l2_bias: float) -> np.ndarray:
    """Of factors and, last, of the bias, float32 [F + 1, F + 1]."""
    return np.diag([l2] * factors + [l2_bias]).astype(np.float32)


def alternating(log: Log, sign: np.ndarray) -> Callable[..., list[Candidate]]:
    """What fits a log for ``matrix_factorisation``, with one candidate for each of ``sweeps`` and ``solved_from``."""
    rows = rows_of(log)
    count, total, center = rows

    def fitted(
        factors: int,
        l2: float,
        l2_bias: float,
        sweeps: tuple[int, ...],
        solved_from: Sequence[str] = ("history",),
        seed: int = 0,
    ) -> list[Candidate]:
        found: list[Candidate] = []
        penalty = penalties(factors, l2, l2_bias)
        each = itertools.islice(rows.each(factors, l2, l2_bias, seed), max(sweeps))
        for sweep, item_VF in enumerate(each, start=1):
            if sweep in sweeps:
                settings = {"factors": factors, "l2": l2, "l2_bias": l2_bias, "sweeps": sweep}
                found += [
                    (settings | {"solved_from": name}, scores(item_VF, penalty, name)) for name in solved_from
                ]
        return found

    def scores(item_VF: np.ndarray, penalty: np.ndarray, solved_from: str) -> Score:
        def score(batch: EvalBatch) -> np.ndarray:
            known_B1 = ((batch.user_B < log.users) & (solved_from == "history"))[:, None]
            user_B = np.where(known_B1[:, 0], batch.user_B, 0)
            known_BB = sp.diags_array(known_B1[:, 0].astype(np.float32))
            past, past_total = (known_BB @ count[user_B]).tocsr(), (known_BB @ total[user_B]).tocsr()
            new = past.toarray() == 0
            now = (
                counting.contexts(batch, log.items + 1, (batch.item_BL > 0).astype(np.float32))
                .multiply(new)
                .tocsr()
            )
            signs_BL = sign[batch.feedback_BL].astype(np.float32)
            now_total = counting.contexts(batch, log.items + 1, signs_BL).multiply(new).tocsr()
            user_BF = ridge(past + now, past_total + now_total, item_VF, center, penalty)
            return center + user_BF[:, -1:] + item_VF[:, -1] + user_BF[:, :-1] @ item_VF[:, :-1].T

        return score

    return fitted


def single(fitted: Callable[..., list[Candidate]], settings: dict[str, Any], seed: int) -> Score:
    """What ``alternating`` fits with the settings of one candidate, from a random start."""
    one = {name: (settings[name],) for name in ("sweeps", "solved_from")}
    return fitted(**settings | one, seed=seed)[0][1]


def ridge(
    count: sp.csr_array, total: sp.csr_array, other_VF: np.ndarray, center: float, penalty: np.ndarray
) -> np.ndarray:
    """Least-squares factors and bias, the last column, of each row against the fixed ones of the columns.

    Args:
      count: events of each row with each column.
      total: their summed signs.
      other_VF: factors of the columns, their biases last.
      center: mean sign.
      penalty: [F, F] diagonal.
    """
    size = other_VF.shape[1]
    x_VF = np.concatenate([other_VF[:, :-1], np.ones_like(other_VF[:, :1])], axis=1)
    outer_VF2 = (x_VF[:, :, None] * x_VF[:, None, :]).reshape(len(x_VF), size * size)
    offset_VF = x_VF * (center + other_VF[:, -1:])
    result = np.zeros((count.indptr.size - 1, size), np.float32)
    block = max(1, 4_000_000 // size**2)  # bounds the memory of the normal equations
    for first in range(0, len(result), block):
        counts, totals = count[first : first + block], total[first : first + block]
        left = (counts @ outer_VF2).reshape(-1, size, size) + penalty
        right = totals @ x_VF - counts @ offset_VF
        result[first : first + block] = np.linalg.solve(left, right[:, :, None])[:, :, 0]
    return result
