"""Factorisations that take minutes: WRMF and BPR of what users liked, and the mean of many of signs.

WRMF and BPR come plain, and in two forms that know what users rejected.

Seshadri et al. (RecSys 2024, arXiv:2409.07367) set the forms beside sequential models without defining them. Here:

nr  a rejection is an observation. WRMF fits it to a preference of 0 or -1 with the confidence that a liking has; BPR
    draws a share of its negatives from what the user rejected.
bl  a blacklist. Where a user rejected an item more often than liking it, the pair is no training positive, and the
    item ranks below all others for this user.

As in ``baselines.matrix_factorisation`` no user keeps factors: each example's user is solved for anew, from the events
in the training log and those of the context. What stands in both counts once.
"""

# scipy's sparse arrays carry no types.
# pyright: reportOptionalSubscript=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false

import functools
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy.sparse as sp

from jaxneg.baselines import counting, least_squares
from jaxneg.baselines.counting import Fitted, Log, Score, Validate
from jaxneg.batch import EvalBatch, folds

Form = Literal["plain", "nr", "bl"]

SWEEPS = 8  # of alternating least squares
EPOCHS = (5, 20)  # of BPR, to choose from
RATE = 0.1  # of Adagrad
BATCH = 1024  # triples of a step
TRIES = 4  # draws of a random negative before its triple is given up
TRIPLES = 256  # that an example's user is solved from
STEPS = 30  # of that solution


class Counts(NamedTuple):
    """How often the user of each row liked and rejected each item, float32 [users or B, V]."""

    liked: sp.csr_array
    rejected: sp.csr_array


def wrmf(log: Log, sign: np.ndarray, validate: Validate, form: Form = "plain") -> Fitted:
    """Weighted regularised factorisation: all pairs of a user and an item are fitted, liked ones more firmly.

        sum_ui (1 + alpha n_ui) (p_ui - x_u . y_i)^2 + l2 (sum_u |x_u|^2 + sum_i |y_i|^2)

    with n_ui the times that u liked i, and p_ui = 1 where there are any, else 0. In form nr, n_ui counts rejections
    too, and p_ui is the mean over both of 1 for a liking and ``preference`` for a rejection.

    Reference: Hu, Koren and Volinsky, Collaborative Filtering for Implicit Feedback Datasets, ICDM 2008.
    """
    counts = _counts(log, form)

    def fitted(factors: int, alpha: float, l2: float, preference: float = 0.0, seed: int = 0) -> Score:
        count, total = observed(counts, form, preference)
        sweeps = alternating(count, total, factors=factors, alpha=alpha, l2=l2, seed=seed)
        _, item_VF = next(itertools.islice(sweeps, SWEEPS - 1, None))

        def score(batch: EvalBatch) -> np.ndarray:
            history = _history(log, sign, form, counts, batch)
            count, total = observed(history, form, preference)
            user_BF = confident_ridge(count, total, item_VF, alpha=alpha, l2=l2)
            return _ranked(user_BF @ item_VF.T, form, history)

        return score

    grid = {"factors": (8, 32), "alpha": (1.0, 10.0, 40.0), "l2": (1.0, 10.0, 100.0)}
    if form == "nr":
        grid["preference"] = (0.0, -1.0)
    settings = (dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values()))
    best = _best((Fitted(fitted(**chosen), chosen, "history") for chosen in settings), validate)
    return best._replace(again=lambda seed: fitted(**best.settings, seed=seed))


def observed(counts: Counts, form: Form, preference: float) -> tuple[sp.csr_array, sp.csr_array]:
    """Observations of each pair and the sum of their preferences, as ``confident_ridge`` takes them."""
    if form != "nr":
        return counts.liked, counts.liked
    total = counts.liked + preference * counts.rejected
    return sp.csr_array(counts.liked + counts.rejected), sp.csr_array(total)


def alternating(
    count: sp.csr_array, total: sp.csr_array, *, factors: int, alpha: float, l2: float, seed: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Factors of users and items, float32 [U, F] and [V, F], after each sweep of least squares, without end."""
    item_VF = 0.1 * np.random.default_rng(seed).standard_normal((count.shape[1], factors), np.float32)
    item_VF[0] = 0.0  # the padding row is no item
    turned = count.T.tocsr(), total.T.tocsr()
    while True:
        user_UF = confident_ridge(count, total, item_VF, alpha=alpha, l2=l2)
        item_VF = confident_ridge(*turned, user_UF, alpha=alpha, l2=l2)
        yield user_UF, item_VF


def confident_ridge(
    count: sp.csr_array, total: sp.csr_array, other_VF: np.ndarray, *, alpha: float, l2: float
) -> np.ndarray:
    """Factors of each row that fit all its pairs best while those of the columns stay, float32 [rows, F].

        (Y'Y + alpha Y' diag(n) Y + l2 I) x = Y' diag(1 + alpha n) p,   p = total / n where there are any, else 0

    The sum over all columns is shared by the rows, so that only observed pairs cost.
    """
    size = other_VF.shape[1]
    everywhere_FF = other_VF.T @ other_VF + l2 * np.eye(size, dtype=np.float32)
    mean = count.copy()
    mean.data = 1.0 / mean.data
    right_RF = np.asarray((alpha * total + total.multiply(mean)) @ other_VF)
    result = np.empty((count.shape[0], size), np.float32)
    block = max(1, 4_000_000 // size**2)  # bounds the memory of the normal equations
    for first in range(0, len(result), block):
        here = slice(first, first + block)
        seen_RFF = np.stack([count[here] @ (other_VF * other_VF[:, f : f + 1]) for f in range(size)], axis=1)
        found_RF1 = np.linalg.solve(everywhere_FF + alpha * seen_RFF, right_RF[here, :, None])
        result[here] = found_RF1[:, :, 0]
    return result


def bpr(log: Log, sign: np.ndarray, validate: Validate, form: Form = "plain") -> Fitted:
    """Factorisation with item biases that puts a liked item above one that is not, pair by pair.

        mean over (u, i liked, j not liked) of softplus(s_uj - s_ui) + l2 / 2 (|x_u|^2 + |y_i|^2 + |y_j|^2)
        s_ui = x_u . y_i + b_i,   with the bias as a part of y_i in the penalty

    minimised over drawn triples by Adagrad. j is uniform over what u did not like; in form nr it is, with probability
    ``share``, an item that u rejected, if there is one.

    Reference: Rendle et al., BPR: Bayesian Personalized Ranking from Implicit Feedback, UAI 2009.
    """
    counts = _counts(log, form)

    def scores(item_VG: np.ndarray, l2: float, share: float) -> Score:
        def score(batch: EvalBatch) -> np.ndarray:
            history = _history(log, sign, form, counts, batch)
            return _ranked(pairwise_users(history, item_VG, l2=l2, share=share) @ item_VG.T, form, history)

        return score

    def candidates() -> Iterator[Fitted]:
        shares = (0.2, 0.6) if form == "nr" else (0.0,)
        for factors, l2, share in itertools.product((8, 32), (0.01, 0.1), shares):
            run = trained(counts, factors, l2=l2, share=share)
            for epoch, item_VG in enumerate(itertools.islice(run, max(EPOCHS)), start=1):
                if epoch in EPOCHS:
                    settings = {"factors": factors, "l2": l2, "epochs": epoch}
                    settings |= {"share": share} if form == "nr" else {}
                    yield Fitted(scores(item_VG.copy(), l2, share), settings, "history")

    def again(seed: int) -> Score:
        chosen: dict[str, Any] = {"share": 0.0} | best.settings
        run = trained(counts, chosen["factors"], l2=chosen["l2"], share=chosen["share"], seed=seed)
        item_VG = next(itertools.islice(run, chosen["epochs"] - 1, None))
        return scores(item_VG.copy(), chosen["l2"], chosen["share"])

    best = _best(candidates(), validate)
    return best._replace(again=again)


def trained(counts: Counts, factors: int, *, l2: float, share: float, seed: int = 0) -> Iterator[np.ndarray]:
    """Item factors with the bias as last column, float32 [V, F + 1], after each epoch; one array, without end.

    An epoch draws one triple for each liked pair. The last factor of users is 1.
    """
    rng = np.random.default_rng(seed)
    user_UG, item_VG = (0.1 * rng.standard_normal((n, factors + 1), np.float32) for n in counts.liked.shape)
    user_UG[:, -1], item_VG[0], item_VG[:, -1] = 1.0, 0.0, 0.0
    squares = np.zeros_like(user_UG), np.zeros_like(item_VG)
    keys = _keys(counts.liked)
    user_P, liked_P = np.divmod(keys, len(item_VG))
    while True:
        order = rng.permutation(len(user_P))
        for first in range(0, len(order), BATCH):
            user, liked = user_P[order[first : first + BATCH]], liked_P[order[first : first + BATCH]]
            other = _drawn(keys, counts, rng, user, share)
            real = np.flatnonzero(other)
            user, liked, other = user[real], liked[real], other[real]
            x, y, z = user_UG[user], item_VG[liked], item_VG[other]
            slope = _sigmoid(((z - y) * x).sum(-1))[:, None]
            step = slope * (y - z) - l2 * x
            step[:, -1] = 0.0
            _climb(user_UG, squares[0], user, step)
            both = np.concatenate([slope * x - l2 * y, -slope * x - l2 * z])
            _climb(item_VG, squares[1], np.concatenate([liked, other]), both)
        yield item_VG


def _drawn(
    keys: np.ndarray, counts: Counts, rng: np.random.Generator, user: np.ndarray, share: float
) -> np.ndarray:
    """A negative for each user, one of what the user rejected with probability ``share``; 0 where none was found."""
    rows = counts.liked.shape[1]
    item = rng.integers(1, rows, size=len(user))
    begin, end = counts.rejected.indptr[user], counts.rejected.indptr[user + 1]
    hard = np.flatnonzero((rng.random(len(user)) < share) & (end > begin))
    item[hard] = counts.rejected.indices[rng.integers(begin[hard], end[hard])]
    for _ in range(TRIES):
        wrong = np.flatnonzero(_holds(keys, user * rows + item))
        if len(wrong) == 0:
            return item
        item[wrong] = rng.integers(1, rows, size=len(wrong))
    return np.where(_holds(keys, user * rows + item), 0, item)


def _climb(table: np.ndarray, squares: np.ndarray, row: np.ndarray, step: np.ndarray) -> None:
    """Adds steps to rows of a table, each summed over a row's triples and scaled by Adagrad."""
    touched, place = np.unique(row, return_inverse=True)
    gather = (np.ones(len(row), np.float32), (place, np.arange(len(row))))
    summed = sp.csr_array(gather, shape=(len(touched), len(row))) @ step
    squares[touched] += summed**2
    table[touched] += RATE * summed / np.sqrt(squares[touched] + 1e-8)


def pairwise_users(history: Counts, item_VG: np.ndarray, *, l2: float, share: float) -> np.ndarray:
    """Factors of each row's user, 1 in the last column, that minimise BPR's objective while those of items stay.

    From TRIPLES triples, the same draws for every row. The curvature of softplus is at most 1/4, so steps of least
    squares against that bound fall steadily. A user who liked nothing gets zeros: the biases decide.
    """
    rows, size = history.liked.shape[0], item_VG.shape[1] - 1
    likes, rejections = (np.diff(table.indptr)[:, None] for table in history)
    rng = np.random.default_rng(0)
    at_K, uniform_K = (np.arange(TRIPLES) + 0.5) / TRIPLES, rng.integers(1, len(item_VG), size=TRIPLES)
    hard_BK = (rng.random(TRIPLES) < share) & (rejections > 0)
    liked_BK = _at(history.liked, (at_K * likes).astype(np.int64))
    rejected_BK = _at(history.rejected, (rng.random(TRIPLES) * rejections).astype(np.int64))
    other_BK = np.where(hard_BK, rejected_BK, uniform_K)
    key_BK = np.arange(rows, dtype=np.int64)[:, None] * len(item_VG) + other_BK
    real_BK = (likes > 0) & ~_holds(_keys(history.liked), key_BK)
    weight_BK = (real_BK / np.maximum(real_BK.sum(-1, keepdims=True), 1)).astype(np.float32)
    gap_BKG = item_VG[liked_BK] - item_VG[other_BK]
    gap_BKF, bias_BK = gap_BKG[..., :-1], gap_BKG[..., -1]
    bound_BFF = 0.25 * np.einsum("BKF,BK,BKH->BFH", gap_BKF, weight_BK, gap_BKF, optimize=True)
    inverse_BFF = np.linalg.inv(bound_BFF + l2 * np.eye(size, dtype=np.float32))
    user_BF = np.zeros((rows, size), np.float32)
    for _ in range(STEPS):
        slope_BK = weight_BK * _sigmoid(-np.einsum("BKF,BF->BK", gap_BKF, user_BF) - bias_BK)
        uphill_BF = np.einsum("BKF,BK->BF", gap_BKF, slope_BK) - l2 * user_BF
        user_BF += np.einsum("BFH,BH->BF", inverse_BFF, uphill_BF)
    return np.concatenate([user_BF, np.ones((rows, 1), np.float32)], axis=1)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def _at(table: sp.csr_array, place_BK: np.ndarray) -> np.ndarray:
    """The columns at places of each row's list; 0 where the row is empty."""
    if table.nnz == 0:
        return np.zeros(place_BK.shape, np.int64)
    empty_B1 = np.diff(table.indptr)[:, None] == 0
    return np.where(empty_B1, 0, table.indices[(table.indptr[:-1, None] + place_BK) % table.nnz])


def _keys(table: sp.csr_array) -> np.ndarray:
    """Ascending numbers of the entries of a table with sorted indices, counted along its rows."""
    row = np.repeat(np.arange(table.shape[0], dtype=np.int64), np.diff(table.indptr))
    return row * table.shape[1] + table.indices


def _holds(keys: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Which numbers are among ascending ones."""
    if len(keys) == 0:
        return np.zeros(key.shape, bool)
    return keys[np.minimum(np.searchsorted(keys, key), len(keys) - 1)] == key


def _counts(log: Log, form: Form) -> Counts:
    """What the log's users liked and rejected, as the form sees it."""
    shape = (log.users, log.items + 1)
    return _seen(
        form,
        *(
            counting.sparse(log.user_T[at], log.item_T[at], np.ones(at.sum()), shape)
            for s in (1, -1)
            for at in [log.sign_T == s]
        ),
    )


def _history(log: Log, sign: np.ndarray, form: Form, counts: Counts, batch: EvalBatch) -> Counts:
    """What each example's user liked and rejected in log and context; of both the larger count holds."""
    known_B = batch.user_B < log.users
    known_BB = sp.diags_array(known_B.astype(np.float32))
    user_B = np.where(known_B, batch.user_B, 0)
    sign_BL = sign[batch.feedback_BL]
    both = []
    for s, past in zip((1, -1), counts, strict=True):
        now = counting.contexts(batch, log.items + 1, (sign_BL == s).astype(np.float32))
        both.append((known_BB @ past[user_B]).tocsr().maximum(now))
    return _seen(form, *both)


def _seen(form: Form, liked: sp.csr_array, rejected: sp.csr_array) -> Counts:
    """Counts with sorted indices; under a blacklist, without the likings of pairs more often rejected."""
    if form == "bl":
        liked = liked - liked.multiply(rejected > liked)
    counts = Counts(sp.csr_array(liked), sp.csr_array(rejected))
    for table in counts:
        table.eliminate_zeros()
        table.sort_indices()
    return counts


def _ranked(score_BV: np.ndarray, form: Form, history: Counts) -> np.ndarray:
    """Scores; under a blacklist, its items keep their order and are lowered, by a finite amount, below all others."""
    if form == "bl":
        span_B1 = np.ptp(score_BV, axis=1, keepdims=True)
        score_BV = score_BV - (2.0 * span_B1 + 1.0) * (history.rejected > history.liked).toarray()
    return score_BV.astype(np.float32)


def _best(candidates: Iterable[Fitted], validate: Validate) -> Fitted:
    """The first of those that validation finds best; only it is kept."""
    best, highest = None, -np.inf
    for fitted in candidates:
        quality = float(np.nan_to_num(validate(fitted.score), nan=-np.inf))
        if best is None or quality > highest:
            best, highest = fitted, quality
    assert best is not None  # grids are not empty
    return best


def several_ranks(log: Log, sign: np.ndarray, validate: Validate) -> Fitted:
    """The mean of ``matrix_factorisation`` with 2, 3, 4, 6, 8 and 16 factors.

    Scores of each are standardised by example. Penalties and sweeps are those chosen for one; where biases alone are
    best, those of 4 factors at l2 5.
    """
    chosen: dict[str, Any] = {"l2": 5.0, "sweeps": 4} | {
        name: value
        for name, value in least_squares.matrix_factorisation(log, sign, validate).settings.items()
        if value and name != "factors"
    }
    fitted = least_squares.alternating(log, sign)

    def made(seed: int = 0) -> Score:
        scores = [least_squares.single(fitted, chosen | {"factors": rank}, seed) for rank in folds.RANKS]

        def score(batch: EvalBatch) -> np.ndarray:
            return np.stack([_standard(one(batch)) for one in scores]).mean(axis=0)

        return score

    return Fitted(made(), {"factors": folds.RANKS} | chosen, chosen["solved_from"], made)


def _standard(score_BV: np.ndarray) -> np.ndarray:
    """Scores of items with a mean of 0 and a deviation of 1 in each example."""
    real_BI = score_BV[:, 1:]
    deviation_B1 = real_BI.std(axis=1, keepdims=True)
    return (score_BV - real_BI.mean(axis=1, keepdims=True)) / np.where(deviation_B1 > 0, deviation_B1, 1.0)


FACTORISATIONS: dict[str, counting.Fit] = {
    "several_ranks": several_ranks,
    "wrmf": wrmf,
    "wrmf_nr": functools.partial(wrmf, form="nr"),
    "wrmf_bl": functools.partial(wrmf, form="bl"),
    "bpr": bpr,
    "bpr_nr": functools.partial(bpr, form="nr"),
    "bpr_bl": functools.partial(bpr, form="bl"),
}
