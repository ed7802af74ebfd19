"""Factorisations of the signs, as rows of items with which a listener is solved for from the events that are seen.

What ``least_squares.matrix_factorisation`` is to one number of factors, this is to several: a listener's prediction
is the mean of theirs. ``training.fold_in`` solves for listeners on the devices, from the rows made here.

    sign_ui ~ center + bias_u + bias_i + p_u . q_i      of each rank
    penalty = l2 |p_u|^2 + l2_bias bias_u^2             likewise of items
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from jaxneg.baselines import counting, least_squares
from jaxneg.baselines.counting import Log, Validate
from jaxneg.batch import PAD, EvalBatch
from jaxneg.batch.folds import RANKS, WIDTH, Folded

# To choose from: penalties, and sweeps of alternating least squares.
L2, L2_BIAS, SWEEPS = (2.0, 5.0, 12.0, 40.0), (1.0, 3.0, 10.0, 30.0), (4, 12)
NEWTON = 20  # steps that calibrate


def fit(log: Log, sign: np.ndarray, validate: Validate, examples: Sequence[EvalBatch]) -> Folded:
    """Fits all ranks to a log, with the penalties that ``validate`` finds best.

    Biases alone, without any factors, are among what is chosen from. Scale and offset are fitted to
    held-out examples.

    Args:
      log: training events.
      sign: of each feedback code.
      validate: how good scores are.
      examples: of validation.
    """
    rows = least_squares.rows_of(log)

    def made(ranks: Sequence[int], l2: float, l2_bias: float) -> Iterator[Folded]:
        """After each of SWEEPS."""
        runs = {rank: rows.each(rank, l2, l2_bias) for rank in ranks}
        for sweep in range(1, SWEEPS[-1] + 1):
            found = {rank: next(run) for rank, run in runs.items()}
            if sweep in SWEEPS:
                yield Folded(
                    _side_by_side([found[rank] for rank in ranks]), rows.center, l2, l2_bias, 1.0, 0.0
                )

    def quality(one: Folded) -> float:
        return float(np.nan_to_num(validate(lambda batch: scores(one, sign, batch)), nan=-np.inf))

    none = [0] * len(RANKS)
    # Of equal ones the first is taken.
    biases = max((one for l2_bias in L2_BIAS for one in made(none, 1.0, l2_bias)), key=quality)
    with_factors = (one for l2 in L2 for one in made(RANKS, l2, biases.l2_bias))
    found = max(itertools.chain([biases], with_factors), key=quality)
    scale, offset = _calibrated(found, sign, examples)
    return found._replace(scale=scale, offset=offset)


def _side_by_side(found: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of all ranks, [V, WIDTH], of the factors and the bias, the last column, of each; ranks may have fewer."""
    row_VG = np.zeros((len(found[0]), WIDTH), np.float32)
    for number, item_VF in enumerate(found):
        first = sum(RANKS[:number])
        row_VG[:, first : first + item_VF.shape[1] - 1] = item_VF[:, :-1]
        row_VG[:, sum(RANKS) + number] = item_VF[:, -1]
    row_VG[PAD] = 0.0
    return row_VG


def listeners(folded: Folded, sign: np.ndarray, batch: EvalBatch) -> list[np.ndarray]:
    """Factors and the bias, the last column, of each example's listener in each rank, [B, F + 1]."""
    rows = len(folded.row_VG)
    count = counting.contexts(batch, rows, (np.asarray(batch.item_BL) > PAD).astype(np.float32))
    total = counting.contexts(batch, rows, sign[np.asarray(batch.feedback_BL)].astype(np.float32))
    found: list[np.ndarray] = []
    for number, rank in enumerate(RANKS):
        penalty = least_squares.penalties(rank, folded.l2, folded.l2_bias)
        found.append(least_squares.ridge(count, total, folded.factors(number), folded.center, penalty))
    return found


def scores(folded: Folded, sign: np.ndarray, batch: EvalBatch) -> np.ndarray:
    """Signs that are predicted of all items, the mean over ranks, scores_BV."""
    total = np.float32(0.0)
    for number, user_BF in enumerate(listeners(folded, sign, batch)):
        item_VF = folded.factors(number)
        total = total + user_BF[:, -1:] + item_VF[:, -1] + user_BF[:, :-1] @ item_VF[:, :-1].T
    return np.asarray(folded.center + total / len(RANKS), np.float32)


def _calibrated(folded: Folded, sign: np.ndarray, examples: Sequence[EvalBatch]) -> tuple[float, float]:
    """Scale and offset of the logistic regression of held-out likes on predictions; 1 and 0 without both signs."""
    x, y = list[np.ndarray](), list[np.ndarray]()
    for batch in examples:
        score_BV = scores(folded, sign, batch)
        for label, item_BC in ((1.0, batch.liked_BC), (0.0, batch.disliked_BC)):
            b, c = np.nonzero((np.asarray(item_BC) > PAD) & np.asarray(batch.real_B)[:, None])
            x.append(score_BV[b, np.asarray(item_BC)[b, c]])
            y.append(np.full(len(b), label))
    value_X, label_X = np.concatenate(x).astype(np.float64), np.concatenate(y)
    if len({*label_X}) < 2:
        return 1.0, 0.0
    design_X2 = np.stack([value_X, np.ones_like(value_X)], axis=1)
    weight_2 = np.zeros(2)
    for _ in range(NEWTON):
        p_X = 1.0 / (1.0 + np.exp(-design_X2 @ weight_2))
        hessian_22 = (design_X2 * (p_X * (1 - p_X))[:, None]).T @ design_X2 + 1e-3 * np.eye(2)
        weight_2 += np.linalg.solve(hessian_22, design_X2.T @ (label_X - p_X) - 1e-3 * weight_2)
    scale, offset = map(float, weight_2)
    return (scale, offset) if scale > 0 else (1.0, 0.0)
