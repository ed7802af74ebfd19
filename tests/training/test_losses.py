"""Losses against plain float64 arithmetic: values by hand, gradients by central differences of slow oracles."""

import functools
import itertools
import math
import typing
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneg.training import losses
from tests.marks import rest_slow

ABSENT = losses.ABSENT
HUGE = 1e18  # the largest logits that the module promises to bear


@pytest.fixture(autouse=True)
def strict_dtypes():
    with jax.numpy_dtype_promotion("strict"):
        yield


# Slow oracles of one target: a logit and the list of the negatives that are there, in float64.


def softplus(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def sigmoid(x):
    return 1.0 / (1.0 + math.exp(-x))


def softmax(xs):
    return [math.exp(x) / sum(math.exp(y) for y in xs) for x in xs]


def bce(pos, negs, N):
    return -math.log(sigmoid(pos)) - sum(math.log(1.0 - sigmoid(neg)) for neg in negs)


def gbce(pos, negs, N):
    alpha = N / (21 - 1)
    beta = alpha * (0.75 * (1 - 1 / alpha) + 1 / alpha)
    return -(beta * math.log(sigmoid(pos)) + sum(math.log(1.0 - sigmoid(neg)) for neg in negs)) / (N + 1)


def sampled_softmax(pos, negs, N):
    return -math.log(math.exp(pos) / (math.exp(pos) + sum(math.exp(neg) for neg in negs)))


def bpr_max(pos, negs, N):
    if not negs:
        return 0.0
    w = softmax(negs)
    chance = sum(wj * sigmoid(pos - neg) for wj, neg in zip(w, negs, strict=True))
    return -math.log(chance) + 0.3 * sum(wj * neg**2 for wj, neg in zip(w, negs, strict=True))


def top1_max(pos, negs, N):
    w = softmax(negs)
    return sum(wj * (sigmoid(neg - pos) + sigmoid(neg**2)) for wj, neg in zip(w, negs, strict=True))


RANKING: dict[str, tuple[Callable[..., jax.Array], Callable[..., float]]] = {
    "bce": (losses.bce, bce),
    "gbce": (lambda *args: losses.gbce(*args, catalogue_size=21, calibration=0.75), gbce),
    "sampled_softmax": (losses.sampled_softmax, sampled_softmax),
    "bpr_max": (lambda *args: losses.bpr_max(*args, penalty=0.3), bpr_max),
    "top1_max": (losses.top1_max, top1_max),
}
every_ranking_loss = pytest.mark.parametrize("name", RANKING)


def mean_over_targets(oracle, pos_BL, neg_BLN, mask_BL):
    """The oracle's mean over the mask; negatives that are absent are left out of its lists."""
    terms = []
    for b, t in np.argwhere(mask_BL):
        negs = [float(neg) for neg in neg_BLN[b, t] if neg != ABSENT]
        terms.append(oracle(float(pos_BL[b, t]), negs, neg_BLN.shape[-1]))
    return sum(terms) / max(len(terms), 1)


def differences(function, array, step=1e-5):
    """Gradient of a float64 function by central differences; zero at absent logits, which have no neighbours."""
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        if array[index] == ABSENT:
            continue
        up, down = array.copy(), array.copy()
        up[index] += step
        down[index] -= step
        gradient[index] = (function(up) - function(down)) / (2 * step)
    return gradient


def agree(actual, expected):
    """Equal but for float32 rounding of numbers around 1."""
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-6)


@functools.cache
def compiled(loss, count, **options):
    """Value and gradients of a loss by its first ``count`` arguments, compiled once."""
    return jax.jit(jax.value_and_grad(functools.partial(loss, **options), argnums=tuple(range(count))))


def values_and_gradients(loss, arrays, *rest, **options):
    """Value of a loss and its gradients by the arrays; the rest is passed on."""
    arrays = [jnp.asarray(array, jnp.float32) for array in arrays]
    value, gradients = compiled(loss, len(arrays), **options)(*arrays, *map(jnp.asarray, rest))
    assert value.dtype == jnp.float32 and value.shape == ()
    return float(value), [np.asarray(gradient) for gradient in gradients]


@every_ranking_loss
@pytest.mark.parametrize("N", [1, 2, 5])
def test_value_and_gradient_equal_the_oracle(name, N):
    loss, oracle = RANKING[name]
    rng = np.random.default_rng(N)
    pos_BL, neg_BLN = rng.normal(0, 2, (2, 3)), rng.normal(0, 2, (2, 3, N))
    neg_BLN[rng.random(neg_BLN.shape) < 0.3] = ABSENT
    neg_BLN[0, 0] = 0.5  # at least one position with every negative, and one without any
    neg_BLN[1, 2] = ABSENT
    mask_BL = np.array([[True, False, True], [True, True, True]])
    value, (pos_gradient, neg_gradient) = values_and_gradients(loss, (pos_BL, neg_BLN), mask_BL)
    agree(value, mean_over_targets(oracle, pos_BL, neg_BLN, mask_BL))
    agree(pos_gradient, differences(lambda pos: mean_over_targets(oracle, pos, neg_BLN, mask_BL), pos_BL))
    agree(neg_gradient, differences(lambda neg: mean_over_targets(oracle, pos_BL, neg, mask_BL), neg_BLN))
    assert (neg_gradient[neg_BLN == ABSENT] == 0.0).all()
    assert (pos_gradient[~mask_BL] == 0.0).all() and (neg_gradient[~mask_BL] == 0.0).all()


@every_ranking_loss
def test_without_targets_the_loss_is_zero_with_zero_gradient(name):
    arrays = np.ones((2, 3)), np.ones((2, 3, 2))
    value, gradients = values_and_gradients(RANKING[name][0], arrays, np.zeros((2, 3), bool))
    assert value == 0.0
    assert all((gradient == 0.0).all() for gradient in gradients)


@every_ranking_loss
def test_a_target_without_negatives_gives_them_no_gradient_at_all(name):
    """Also beside one that has some; of 12 equal logits the parts of a softmax do not sum to 1 in float32."""
    neg_BLN = np.stack([np.full((1, 12), ABSENT), np.full((1, 12), 0.5)], axis=1)
    arrays = np.array([[0.3, 0.3]]), neg_BLN
    _, (_, gradient) = values_and_gradients(RANKING[name][0], arrays, np.ones((1, 2), bool))
    assert (gradient[0, 0] == 0.0).all() and (gradient[0, 1] > 0.0).all()


@every_ranking_loss
def test_masked_positions_and_absent_negatives_change_nothing(name):
    loss, rng = RANKING[name][0], np.random.default_rng(0)
    pos_BL, neg_BLN = rng.normal(size=(2, 3)), rng.normal(size=(2, 3, 2))
    mask_BL = np.array([[True, True, False], [True, False, False]])
    value, _ = values_and_gradients(loss, (pos_BL, neg_BLN), mask_BL)
    pos_BL[~mask_BL], neg_BLN[~mask_BL] = 1e4, [-1e4, ABSENT]
    assert values_and_gradients(loss, (pos_BL, neg_BLN), mask_BL)[0] == value
    if name != "gbce":  # whose weights follow from the number of slots
        wider_BLN = np.pad(neg_BLN, ((0, 0), (0, 0), (0, 3)), constant_values=ABSENT)
        agree(values_and_gradients(loss, (pos_BL, wider_BLN), mask_BL)[0], value)


@every_ranking_loss
@pytest.mark.parametrize("size", [1e4, HUGE])
def test_extreme_logits_give_finite_values_and_gradients(name, size):
    logits = (-size, 0.0, size)
    rows = list(itertools.product(logits, (*logits, ABSENT), (*logits, ABSENT)))  # pos, neg, neg
    pos_BL = np.array([[row[0] for row in rows]])
    neg_BLN = np.array([[row[1:] for row in rows]])
    for at in range(len(rows)):  # each alone, as one overflow would hide others
        mask_BL = np.arange(len(rows))[None] == at
        value, gradients = values_and_gradients(RANKING[name][0], (pos_BL, neg_BLN), mask_BL)
        assert math.isfinite(value), rows[at]
        for gradient in gradients:
            assert np.isfinite(gradient).all(), rows[at]
            assert (np.delete(gradient, at, axis=1) == 0.0).all(), rows[at]
        assert (gradients[1][neg_BLN == ABSENT] == 0.0).all(), rows[at]


@pytest.mark.parametrize(
    "name, pos, negs, expected",
    [
        ("bce", -1e4, [1e4, -1e4], 2e4),
        ("bce", 1e4, [-1e4, ABSENT], 0.0),
        ("gbce", 1e4, [1e4, ABSENT], 1e4 / 3),
        ("sampled_softmax", -1e4, [1e4, ABSENT], 2e4),
        ("sampled_softmax", 1e4, [1e4, 1e4], math.log(3)),
        ("sampled_softmax", 1e4, [1e4 - 8, ABSENT], math.log1p(math.exp(-8))),  # lost in pos + loss - pos
        ("sampled_softmax", 1e4, [ABSENT, ABSENT], 0.0),
        ("bpr_max", -1e4, [0.0, ABSENT], 1e4),
        ("bpr_max", 1e4, [0.0, 0.0], 0.0),
        ("bpr_max", -1e4, [ABSENT, ABSENT], 0.0),
        ("bpr_max", 0.0, [1e4, -1e4], 1e4 + 0.3 * 1e8),
        ("top1_max", -1e4, [1e4, -1e4], 2.0),
        ("top1_max", 1e4, [0.0, ABSENT], 0.5),
        ("top1_max", -1e4, [ABSENT, ABSENT], 0.0),
    ],
)
def test_limits_by_hand(name, pos, negs, expected):
    value, _ = values_and_gradients(RANKING[name][0], ([[pos]], [[negs]]), np.ones((1, 1), bool))
    np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-7)


def test_every_loss_of_the_config_is_here():
    from jaxneg import config

    names = typing.get_args(typing.get_type_hints(config.LossConfig)["name"])
    # that has a file of its own
    assert all(callable(getattr(losses, name)) for name in names if name != "softmax")


def test_bce_by_hand():
    arrays = [[0.7, -1.2, 9.0]], [[[-0.2, 1.3], [0.4, -3.0], [5.0, 5.0]]]
    by_hand = (
        softplus(-0.7) + softplus(-0.2) + softplus(1.3) + softplus(1.2) + softplus(0.4) + softplus(-3.0)
    ) / 2  # the third position is masked
    value, (pos, neg) = values_and_gradients(losses.bce, arrays, np.array([[True, True, False]]))
    np.testing.assert_allclose(value, by_hand, rtol=1e-6)  # float32 rounding
    # The gradient is sigmoid minus label.
    np.testing.assert_allclose(pos, [[(sigmoid(0.7) - 1) / 2, (sigmoid(-1.2) - 1) / 2, 0.0]], rtol=1e-6)
    np.testing.assert_allclose(neg[0, 0], [sigmoid(-0.2) / 2, sigmoid(1.3) / 2], rtol=1e-6)


def test_gbce_with_zero_calibration_is_bce():
    pos_BL, neg_BLN = jnp.array([[0.7]]), jnp.array([[[-0.2, 1.3, 0.1]]])
    loss = losses.gbce(pos_BL, neg_BLN, jnp.array([[True]]), catalogue_size=101, calibration=0.0)
    by_hand = (softplus(-0.7) + softplus(-0.2) + softplus(1.3) + softplus(0.1)) / 4
    np.testing.assert_allclose(loss, by_hand, rtol=1e-6)


@pytest.mark.parametrize(
    "N, catalogue_size, calibration, beta",
    [
        (256, 3417, 0.75, 1 - 0.75 * (1 - 256 / 3416)),
        (1, 101, 1.0, 0.01),  # alpha itself
        (5, 21, 0.5, 0.625),
        (4, 5, 0.75, 1.0),  # every other item is drawn
        (4, 3, 0.75, 1.0),  # more draws than items
        (1, 1, 1.0, 1.0),  # a catalogue of one
    ],
)
def test_gbce_weighs_the_positive_by_beta(N, catalogue_size, calibration, beta):
    neg_BLN = jnp.full((1, 1, N), ABSENT)
    args = neg_BLN, jnp.ones((1, 1), bool)
    loss = losses.gbce(jnp.array([[0.4]]), *args, catalogue_size=catalogue_size, calibration=calibration)
    np.testing.assert_allclose(loss, beta * softplus(-0.4) / (N + 1), rtol=1e-6)


def test_sampled_softmax_over_all_items_is_cross_entropy():
    logits_BLV = np.random.default_rng(0).normal(size=(2, 3, 5))
    target_BL = np.array([[0, 3, 4], [1, 1, 2]])
    is_target_BLV = np.eye(5, dtype=bool)[target_BL]
    pos_BL = logits_BLV[is_target_BLV].reshape(2, 3)
    arrays = pos_BL, np.where(is_target_BLV, ABSENT, logits_BLV)
    value, _ = values_and_gradients(losses.sampled_softmax, arrays, np.ones((2, 3), bool))
    agree(value, (np.log(np.exp(logits_BLV).sum(-1)) - pos_BL).mean())


def test_sampled_softmax_is_blind_to_a_shift_of_all_logits():
    pos_BL = np.array([[0.5, -2.0, 1.0], [0.0, 4.0, -0.75]])
    neg_BLN = np.stack([pos_BL + 0.5, 1.0 - 2 * pos_BL], axis=-1)

    def value(shift):
        arrays = pos_BL + shift, neg_BLN + shift
        return values_and_gradients(losses.sampled_softmax, arrays, np.ones((2, 3), bool))[0]

    for shift in (-8192.0, 3.0, 8192.0):  # quarters of an integer stay exact in float32 at this size
        assert value(shift) == value(0.0)


def not_to_recommend(logit_BL, neg_BLN, label_BL, weight):
    terms = []
    for b, t in np.argwhere(label_BL != 0):
        logit, negs = float(logit_BL[b, t]), [float(neg) for neg in neg_BLN[b, t] if neg != ABSENT]
        others = sum(math.exp(neg) for neg in negs)
        share = math.exp(logit) / (math.exp(logit) + others)
        terms.append(
            -math.log(share) if label_BL[b, t] > 0 else -weight * math.log(1 - share) if negs else 0.0
        )
    return sum(terms) / max(len(terms), 1)


@pytest.mark.parametrize("N", [1, 4])
def test_not_to_recommend_equals_the_oracle(N):
    rng = np.random.default_rng(N)
    logit_BL, neg_BLN = rng.normal(0, 2, (2, 4)), rng.normal(0, 2, (2, 4, N))
    neg_BLN[rng.random(neg_BLN.shape) < 0.3] = ABSENT
    label_BL = np.array([[1, -1, 0, -1], [-1, 1, 1, -1]], np.int8)
    neg_BLN[0, :3] = 0.5  # a liked, a rejected and an unknown target with every negative
    neg_BLN[1, :2] = ABSENT  # a rejected and a liked one without any
    loss, arrays = losses.not_to_recommend, (logit_BL, neg_BLN)
    value, (logit_gradient, neg_gradient) = values_and_gradients(loss, arrays, label_BL, weight=0.7)
    agree(value, not_to_recommend(logit_BL, neg_BLN, label_BL, 0.7))
    by_logit = differences(lambda logit: not_to_recommend(logit, neg_BLN, label_BL, 0.7), logit_BL)
    agree(logit_gradient, by_logit)
    agree(neg_gradient, differences(lambda neg: not_to_recommend(logit_BL, neg, label_BL, 0.7), neg_BLN))
    assert (neg_gradient[neg_BLN == ABSENT] == 0.0).all()
    assert (logit_gradient[label_BL == 0] == 0.0).all() and (neg_gradient[label_BL == 0] == 0.0).all()
    assert (logit_gradient[1, :2] == 0.0).all()
    assert values_and_gradients(loss, arrays, label_BL.astype(np.float32), weight=0.7)[0] == value


@pytest.mark.parametrize(
    "logit, expected",
    [
        (30.0, 30.0 + math.log1p(math.exp(-30.0))),  # 1 - p is 9e-14, which float32 cannot tell from 0
        (-30.0, math.log1p(math.exp(-30.0))),  # and here p is
        (1e4, 1e4),
        (-1e4, 0.0),
    ],
)
def test_a_rejected_target_costs_log_of_what_the_others_get(logit, expected):
    arrays, label_BL = ([[logit]], [[[0.0, ABSENT]]]), np.full((1, 1), -1, np.int8)
    for weight in (1.0, 2.5):
        value, _ = values_and_gradients(losses.not_to_recommend, arrays, label_BL, weight=weight)
        np.testing.assert_allclose(value, weight * expected, rtol=1e-6)


@pytest.mark.parametrize("size", [1e4, HUGE])
@pytest.mark.parametrize("label", [-1, 0, 1])
def test_not_to_recommend_is_finite_at_extreme_logits(label, size):
    logits = (-size, 0.0, size)
    for logit, *negs in itertools.product(logits, (*logits, ABSENT), (*logits, ABSENT)):
        arrays, label_BL = ([[logit]], [[negs]]), np.full((1, 1), label, np.int8)
        value, gradients = values_and_gradients(losses.not_to_recommend, arrays, label_BL, weight=1.0)
        assert math.isfinite(value) and all(np.isfinite(gradient).all() for gradient in gradients)
        assert (gradients[1][np.array([[negs]]) == ABSENT] == 0.0).all()


def test_not_to_recommend_without_signed_targets_is_zero():
    args = jnp.ones((1, 2)), jnp.ones((1, 2, 3)), jnp.zeros((1, 2), jnp.int8)
    assert jax.jit(losses.not_to_recommend, static_argnames="weight")(*args, weight=1.0) == 0.0


def test_losses_stay_float32_where_jax_has_64_bits():
    pos_BL, neg_BLN = jnp.zeros((1, 2), jnp.float32), jnp.ones((1, 2, 3), jnp.float32)
    vector_BMD, mask_BL = jnp.ones((1, 2, 4), jnp.float32), jnp.array([[True, False]])
    label_BL = jnp.array([[1, -1]], jnp.int8)

    def typed(loss, *args, **options):
        return jax.eval_shape(functools.partial(loss, **options), *args)

    with jax.enable_x64(True):
        found = [typed(loss, pos_BL, neg_BLN, mask_BL) for loss, _ in RANKING.values()]
        found.append(typed(losses.refined_softmax, pos_BL, neg_BLN, mask_BL))
        found.append(typed(losses.not_to_recommend, pos_BL, neg_BLN, label_BL, weight=0.5))
        found.append(typed(losses.feedback, pos_BL, label_BL, mask_BL))
        for loss in (losses.info_nce, losses.info_nce_released):
            found.append(typed(loss, *[vector_BMD] * 3, mask_BL, ~mask_BL, temperature=0.5))
    assert all(loss.dtype == np.float32 for loss in found)


def test_feedback_by_hand():
    logit_BL = np.array([[0.3, -1.1, 2.0, 5.0]])
    label_BL = np.array([[1, -1, 0, -1]], np.int8)
    mask_BL = np.array([[True, True, True, False]])
    value, (gradient,) = values_and_gradients(losses.feedback, (logit_BL,), label_BL, mask_BL)
    agree(value, (softplus(-0.3) + softplus(-1.1) + (softplus(-2.0) + softplus(2.0)) / 2) / 3)
    agree(gradient, [[(sigmoid(0.3) - 1) / 3, sigmoid(-1.1) / 3, (sigmoid(2.0) - 0.5) / 3, 0.0]])
    assert gradient[0, 3] == 0.0
    as_float = values_and_gradients(losses.feedback, (logit_BL,), label_BL.astype(np.float32), mask_BL)
    agree(as_float[0], value)
    nothing, (gradient,) = values_and_gradients(
        losses.feedback, (logit_BL,), label_BL, np.zeros_like(mask_BL)
    )
    assert nothing == 0.0 and (gradient == 0.0).all()


@pytest.mark.parametrize(
    "logit, label, expected",
    [(1e4, -1, 1e4), (1e4, 1, 0.0), (-1e4, 1, 1e4), (-1e4, -1, 0.0), (1e4, 0, 5e3), (-1e4, 0, 5e3)],
)
def test_feedback_at_extreme_logits(logit, label, expected):
    label_BL, mask_BL = np.full((1, 1), label, np.int8), np.ones((1, 1), bool)
    value, (gradient,) = values_and_gradients(losses.feedback, ([[logit]],), label_BL, mask_BL)
    assert value == expected
    np.testing.assert_allclose(gradient, [[(math.copysign(1, logit) - label) / 2]])


# InfoNCE


def cosine(a, b):
    length = math.sqrt(sum(x * x for x in a) * sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / length if length else 0.0


def info_nce(context_BMD, positive_BMD, event_BMD, query_BM, negative_BM, temperature):
    terms = []
    for b, t in np.argwhere(query_BM):
        negatives = [event_BMD[b, j] for j in np.flatnonzero(negative_BM[b])]
        if negatives:
            near = math.exp(cosine(context_BMD[b, t], positive_BMD[b, t]) / temperature)
            far = sum(math.exp(cosine(context_BMD[b, t], event) / temperature) for event in negatives)
            terms.append(-math.log(near / (near + far)))
    return sum(terms) / max(len(terms), 1)


def info_nce_released(context_BMD, positive_BMD, event_BMD, query_BM, negative_BM, temperature):
    """Written from the account of the authors' code: blank what is not meant, flatten, tile, average all rows."""
    B, M, D = context_BMD.shape
    query_QD = np.where(query_BM[..., None], context_BMD, 0.0).reshape(B * M, D)
    positive_QD = np.where(query_BM[..., None], positive_BMD, 0.0).reshape(B * M, D)
    negative_QMD = np.tile(np.where(negative_BM[..., None], event_BMD, 0.0), (M, 1, 1))
    assert negative_QMD.shape == (B * M, M, D)
    terms = []
    for q in range(B * M):
        near = math.exp(cosine(query_QD[q], positive_QD[q]) / temperature)
        far = sum(math.exp(cosine(query_QD[q], row) / temperature) for row in negative_QMD[q])
        terms.append(-math.log(near / (near + far)))
    return sum(terms) / len(terms)


FORMS: dict[str, tuple[Callable[..., jax.Array], Callable[..., float]]] = {
    "paper": (losses.info_nce, info_nce),
    "released": (losses.info_nce_released, info_nce_released),
}


def sessions(seed=0, B=3, M=4, D=3):
    """Random vectors; the last session has no negatives, and the others have negatives before and after queries."""
    rng = np.random.default_rng(seed)
    vectors = [rng.normal(size=(B, M, D)) for _ in range(3)]
    negative_BM = np.zeros((B, M), bool)
    negative_BM[: B - 1, 1::2] = True
    query_BM = ~negative_BM
    query_BM[:, -1] = False
    return vectors, query_BM, negative_BM


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("B, M", [(3, 4), (2, 5), (4, 2)])
def test_info_nce_equals_the_oracle(form, B, M):
    loss, oracle = FORMS[form]
    vectors, query_BM, negative_BM = sessions(B=B, M=M)
    value, gradients = values_and_gradients(loss, vectors, query_BM, negative_BM, temperature=0.5)
    agree(value, oracle(*vectors, query_BM, negative_BM, 0.5))
    for i, gradient in enumerate(gradients):

        def varied(array, i=i):
            return oracle(*vectors[:i], array, *vectors[i + 1 :], query_BM, negative_BM, 0.5)

        agree(gradient, differences(varied, vectors[i]))


def term(form, batch, temperature=0.5):
    """Value of a form over a batch: three arrays of vectors and two masks."""
    return values_and_gradients(FORMS[form][0], batch[:3], *batch[3:], temperature=temperature)[0]


# c = (1, 0), p = (0.6, 0.8), skips (0, 2) and (-3, 0): cosines 0.6, 0 and -1.
ONE_SESSION = (
    np.array([[[1.0, 0.0], [7.0, 7.0], [7.0, 7.0]]]),
    np.array([[[0.6, 0.8], [7.0, 7.0], [7.0, 7.0]]]),
    np.array([[[7.0, 7.0], [0.0, 2.0], [-3.0, 0.0]]]),
    np.array([[True, False, False]]),
    np.array([[False, True, True]]),
)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_info_nce_of_one_session_by_hand(temperature):
    near, zero, opposite = (math.exp(cos / temperature) for cos in (0.6, 0.0, -1.0))
    paper = term("paper", ONE_SESSION, temperature)
    np.testing.assert_allclose(paper, -math.log(near / (near + zero + opposite)), rtol=1e-5)
    # The event that is no skip adds 1 below the line, and each of the two that are no queries log(3 + 1).
    released = term("released", ONE_SESSION, temperature)
    row = -math.log(near / (near + zero + opposite + 1))
    np.testing.assert_allclose(released, (row + 2 * math.log(4)) / 3, rtol=1e-5)


def padded(array, rows, columns):
    """The array with more sessions and more events, which hold ones or, in masks, False."""
    widths = ((0, rows), (0, columns)) + ((0, 0),) * (array.ndim - 2)
    return np.pad(array, widths, constant_values=array.dtype != bool)


@pytest.mark.parametrize("rows, columns", [(1, 0), (0, 3)])
def test_padding_does_not_change_info_nce(rows, columns):
    vectors, *masks = sessions()
    batch = [*vectors, *masks]
    wider = [padded(array, rows, columns) for array in batch]
    agree(term("paper", wider), term("paper", batch))
    # The released form does change: rows that are no queries count.
    assert abs(term("released", wider) - term("released", batch)) > 1e-3


def test_another_session_enters_info_nce_through_the_mean_alone():
    vectors, *masks = sessions(B=3)
    batch = [*vectors, *masks]
    first, second, skipless = (term("paper", [array[b : b + 1] for array in batch]) for b in range(3))
    n_first, n_second = (int(masks[0][b].sum()) for b in (0, 1))
    assert skipless == 0.0
    both = (n_first * first + n_second * second) / (n_first + n_second)
    agree(term("paper", [array[:2] for array in batch]), both)
    agree(term("paper", batch), both)


def test_a_session_without_skips_has_zero_gradient_in_info_nce():
    vectors, query_BM, negative_BM = sessions()
    _, gradients = values_and_gradients(losses.info_nce, vectors, query_BM, negative_BM, temperature=0.5)
    context, positive, event = gradients
    assert query_BM[2].any() and all((gradient[2] == 0.0).all() for gradient in gradients)
    for gradient in (context, positive):
        assert (gradient[~query_BM] == 0.0).all() and (gradient[:2][query_BM[:2]] != 0.0).any()
    assert (event[~negative_BM] == 0.0).all() and (event[negative_BM] != 0.0).all()


@pytest.mark.parametrize("form", FORMS)
def test_info_nce_is_blind_to_lengths_and_to_what_is_not_used(form):
    loss = FORMS[form][0]
    vectors, query_BM, negative_BM = sessions()
    value, before = values_and_gradients(loss, vectors, query_BM, negative_BM, temperature=0.5)
    scaled = [array * scale for array, scale in zip(vectors, (1e3, 1e-3, 7.0), strict=True)]
    agree(values_and_gradients(loss, scaled, query_BM, negative_BM, temperature=0.5)[0], value)
    context, positive, event = (array.copy() for array in vectors)
    context[~query_BM], positive[~query_BM], event[~negative_BM] = np.nan, np.nan, np.nan
    vectors = context, positive, event
    spoilt, after = values_and_gradients(loss, vectors, query_BM, negative_BM, temperature=0.5)
    assert spoilt == value
    for gradient, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(gradient, other)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e4, 1e18])
def test_info_nce_is_finite_for_vectors_of_any_length(form, size):
    vectors, query_BM, negative_BM = sessions()
    vectors = [size * np.sign(array) for array in vectors]
    value, gradients = values_and_gradients(FORMS[form][0], vectors, query_BM, negative_BM, temperature=0.01)
    assert math.isfinite(value) and all(np.isfinite(gradient).all() for gradient in gradients)


def test_released_queries_meet_the_skips_of_another_session():
    B, M = 3, 4
    vectors, _, _ = sessions(B=B, M=M)
    negative_BM = np.ones((B, M), bool)
    for b, t in itertools.product(range(B), range(M)):
        query_BM = np.zeros((B, M), bool)
        query_BM[b, t] = True
        reached = {}
        for form, (loss, _) in FORMS.items():
            _, (_, _, event) = values_and_gradients(loss, vectors, query_BM, negative_BM, temperature=0.5)
            reached[form] = np.flatnonzero((event != 0.0).any((1, 2))).tolist()
        assert reached == {"paper": [b], "released": [(b * M + t) % B]}


def test_released_rows_without_a_query_add_log_of_events_plus_one():
    vectors, query_BM, negative_BM = sessions(B=2, M=5)
    batch = [*vectors, np.zeros_like(query_BM), negative_BM]
    np.testing.assert_allclose(term("released", batch), math.log(6), rtol=1e-6)
    assert term("paper", batch) == 0.0


# What picks the terms


@pytest.mark.parametrize("M", rest_slow([1, 2, 5], [2]))
def test_next_positive_of_every_pattern(M):
    positive_BM = np.array(list(itertools.product([False, True], repeat=M)))
    found = losses.next_positive(jnp.array(positive_BM))
    assert found.dtype == jnp.int32
    for row, indices in zip(positive_BM, np.asarray(found), strict=True):
        for t in range(M):
            assert indices[t] == next((j for j in range(t + 1, M) if row[j]), M)
    with jax.enable_x64(True):
        assert losses.next_positive(jnp.array(positive_BM)).dtype == jnp.int32


def test_hardest_are_the_highest_with_absent_ones_last():
    neg_BLN = jnp.array([[[0.1, ABSENT, 3.0, -2.0], [ABSENT, -1e4, ABSENT, 1e4], [5.0, 1.0, 5.0, 7.0]]])
    assert losses.hardest(neg_BLN, 1)[..., 0].tolist() == [[2, 3, 3]]
    assert losses.hardest(neg_BLN, 3).tolist() == [[[2, 0, 3], [3, 1, 0], [3, 0, 2]]]
    assert losses.hardest(neg_BLN, 4).tolist() == [[[2, 0, 3, 1], [3, 1, 0, 2], [3, 0, 2, 1]]]


def test_gradient_flows_through_the_hardest_alone():
    def loss(neg_BLN):
        kept_BLN = jnp.take_along_axis(neg_BLN, losses.hardest(neg_BLN, 1), axis=-1)
        return losses.bce(jnp.zeros((1, 1)), kept_BLN, jnp.ones((1, 1), bool))

    gradient = jax.grad(loss)(jnp.array([[[0.5, 2.0, -1.0]]]))
    np.testing.assert_allclose(gradient, [[[0.0, sigmoid(2.0), 0.0]]], rtol=1e-6)
