"""Objectives outside the library against slow loops, HSTU against a plain one, and hits by popularity by hand."""

import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxneg.batch import CODE
from jaxneg.config import ModelConfig
from jaxneg.training import losses

pytestmark = pytest.mark.slow


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    label_BL = np.array([[1, -1, 0, 1, -1], [0, 0, 0, 0, 0], [-1, -1, 0, -1, 0], [0, 1, 0, 0, 0]], np.int8)
    return rng.normal(scale=2, size=label_BL.shape).astype(np.float32), label_BL


def test_jrc_is_its_loop(objectives, batch):
    score_BL, label_BL = batch
    calibration, ranking = [], []
    for score_L, label_L in zip(score_BL.tolist(), label_BL.tolist(), strict=True):
        known = [l for l, label in enumerate(label_L) if label]
        for l in known:
            calibration.append(-math.log(sigmoid(label_L[l] * score_L[l])))
            side = 0.5 if label_L[l] > 0 else -0.5
            ranking.append(
                -math.log(math.exp(side * score_L[l]) / sum(math.exp(side * score_L[m]) for m in known))
            )
    expected = 0.3 * np.mean(calibration) + 0.7 * np.mean(ranking)
    found = jax.jit(objectives.terms.jrc, static_argnames="share")(score_BL, label_BL, share=0.3)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_rcr_is_its_loop(objectives, batch):
    score_BL, label_BL = batch
    regression, ranking = [], []
    for score_L, label_L in zip(score_BL.tolist(), label_BL.tolist(), strict=True):
        known = [l for l, label in enumerate(label_L) if label]
        for l in known:
            regression.append(-math.log(sigmoid(label_L[l] * score_L[l])))
            if label_L[l] > 0:
                ranking.append(-math.log(sigmoid(score_L[l]) / sum(sigmoid(score_L[m]) for m in known)))
    expected = 0.4 * np.mean(regression) + 0.6 * np.mean(ranking)
    found = jax.jit(objectives.terms.rcr, static_argnames="share")(score_BL, label_BL, share=0.6)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_rcr_is_least_at_the_chances(objectives):
    """Of lists alike with a like in one of four, at sigmoid(s) = 1/4 both parts have no slope."""
    label_BL = jnp.array(
        [[1, -1, -1, -1]] * 2 + [[-1, 1, -1, -1]] * 2 + [[-1, -1, 1, -1], [-1, -1, -1, 1]] * 2
    )

    def of(logit_L):
        return objectives.terms.rcr(jnp.broadcast_to(logit_L[None], label_BL.shape), label_BL, share=0.5)

    np.testing.assert_allclose(jax.grad(of)(jnp.full(4, -math.log(3.0))), 0.0, atol=1e-6)


def test_s_dpo_is_its_loop_and_an_absent_negative_adds_nothing(objectives):
    rng = np.random.default_rng(1)
    pos, ref = rng.normal(size=(2, 2, 3)).astype(np.float32)
    neg, neg_ref = rng.normal(size=(2, 2, 3, 4)).astype(np.float32)
    neg[0, 0, 1:], neg[1, 2] = losses.ABSENT, losses.ABSENT
    mask = jnp.array([[True, True, False], [True, False, True]])
    total = []
    for b, l in zip(*np.nonzero(np.asarray(mask)), strict=True):
        there = [n for n in range(4) if neg[b, l, n] != losses.ABSENT]
        beaten = sum(
            math.exp(0.7 * (neg[b, l, n] - neg_ref[b, l, n]) - 0.7 * (pos[b, l] - ref[b, l])) for n in there
        )
        total.append(-math.log(sigmoid(-math.log(beaten) - 0.2)) if there else 0.0)

    def of(pos, neg):
        return objectives.terms.s_dpo(pos, neg, mask, beta=0.7, margin=0.2, reference=(ref, neg_ref))

    assert float(of(pos, neg)) == pytest.approx(np.mean(total), rel=1e-5)
    slope_pos, slope_neg = jax.grad(of, argnums=(0, 1))(pos, neg)
    assert np.isfinite(slope_pos).all() and (slope_neg[neg == losses.ABSENT] == 0).all()
    # Without a reference it is the same with one of zeros.
    np.testing.assert_allclose(
        objectives.terms.s_dpo(pos, neg, mask, beta=1.0),
        objectives.terms.s_dpo(pos, neg, mask, beta=1.0, reference=(0 * ref, 0 * neg_ref)),
    )


def test_hstu_is_its_loop_and_causal(objectives):
    config = ModelConfig(width=6, heads=2, layers=1, dropout=0.0)
    block = objectives.hstu.Block(config, rngs=nnx.Rngs(0))
    block.distance[...] = jnp.asarray(np.random.default_rng(2).normal(size=(16, 2)), jnp.float32)
    x_BLD = np.random.default_rng(3).normal(size=(2, 5, 6)).astype(np.float32)
    found = np.asarray(block(jnp.asarray(x_BLD)))

    def normed(x):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)

    kernel, bias = np.asarray(block.into.kernel[...]), np.asarray(block.into.bias[...])
    out, out_bias = np.asarray(block.out.kernel[...]), np.asarray(block.out.bias[...])
    rab = np.asarray(block.distance[...])
    for b in range(2):
        z = normed(x_BLD[b]) @ kernel + bias
        u, v, q, k = np.split(z / (1 + np.exp(-z)), 4, axis=-1)
        for t in range(5):
            y = np.zeros(6)
            for h in range(2):
                at = slice(3 * h, 3 * h + 3)
                for m in range(t + 1):
                    logit = q[t, at] @ k[m, at] + rab[int(math.log2(t - m + 1)), h]
                    y[at] += logit * sigmoid(logit) / 5 * v[m, at]
            np.testing.assert_allclose(
                found[b, t], x_BLD[b, t] + (normed(y) * u[t]) @ out + out_bias, atol=1e-5
            )


def test_hits_by_popularity_by_hand(objectives):
    # Rows 1 to 4 with 5, 5, 3, 2 events: row 1 is a third of them, row 2 another, rows 3 and 4 the last.
    batch = SimpleNamespace(
        real_B=np.array([True, True, False]),
        liked_BC=np.array([[1, 3], [4, 2], [2, 2]]),
        disliked_BC=np.array([[2, 0], [1, 4], [1, 1]]),
    )
    report = SimpleNamespace(liked_rank=np.array([3.0, 50, 10, 70]), disliked_rank=np.array([11.0, 2, 40]))
    found = objectives.hits(report, [batch], np.array([5, 5, 3, 2]))
    assert found["disliked@10"] == pytest.approx(1 / 3)
    assert found["liked_less_disliked@10"] == pytest.approx(2 / 4 - 1 / 3)
    assert found["liked_less_disliked_head"] == pytest.approx(1 - 1)  # row 1, liked and disliked
    assert found["liked_less_disliked_middle"] == 0  # row 2, neither in the top 10
    assert found["liked_less_disliked_tail"] == pytest.approx(1 / 2 - 0)  # rows 3 and 4 against row 4


def test_a_grade_is_that_of_the_feedback_that_the_target_shows_next(objectives):
    up, play, skip, down = (CODE[kind] for kind in ("thumb_up", "play", "skip", "thumb_down"))
    feedback_BL = np.array([[play, up, down, skip], [play, skip, play, 0]])
    label_BL = np.array(
        [[1, -1, -1, 1], [-1, 1, 0, 0]], np.int8
    )  # the last of a row is seen by its sign alone
    expected = [[1.0, -1.0, -0.5, 0.5], [-0.5, 0.5, 0.0, 0.0]]
    np.testing.assert_array_equal(objectives.labels.grades(feedback_BL, label_BL), expected)


def test_graded_targets_are_their_loop(objectives):
    rng = np.random.default_rng(1)
    pos_BL, neg_BLN = (
        rng.normal(size=(2, 4)).astype(np.float32),
        rng.normal(size=(2, 4, 3)).astype(np.float32),
    )
    grade_BL = np.array([[1.0, -1.0, 0.5, 0.0], [0.5, -0.5, 0.0, 1.0]], np.float32)
    ranking, weights, judging = 0.0, 0.0, []
    for pos, neg_N, grade in zip(pos_BL.ravel(), neg_BLN.reshape(-1, 3), grade_BL.ravel(), strict=True):
        if grade > 0:
            share = math.exp(pos) / (math.exp(pos) + sum(math.exp(neg) for neg in neg_N))
            ranking, weights = ranking - 2 * grade * math.log(share), weights + 2 * grade
        if grade:
            liked = (1 + grade) / 2
            judging.append(-liked * math.log(sigmoid(pos)) - (1 - liked) * math.log(1 - sigmoid(pos)))
    arrays = map(jnp.asarray, (pos_BL, neg_BLN, grade_BL > 0))
    found = objectives.labels.with_graded(*arrays, label_BL=jnp.asarray(grade_BL))
    assert float(found) == pytest.approx(ranking / weights + np.mean(judging), rel=1e-5)


def test_a_query_is_asked_for_what_came_in_training_and_for_a_like_afterwards(objectives, monkeypatch):
    labels, rng = objectives.labels, np.random.default_rng(2)
    shapes = {
        "wanted": (3, 4),
        "into.kernel": (8, 8),
        "into.bias": (8,),
        "out.kernel": (8, 4),
        "out.bias": (4,),
    }
    params = {f"encoder.{name}": jnp.float32(rng.normal(size=shape)) for name, shape in shapes.items()}
    weights, h_BLD = SimpleNamespace(params=params), jnp.float32(rng.normal(size=(1, 3, 4)))

    def by_hand(h_D, outcome):
        both = np.concatenate([h_D, params["encoder.wanted"][outcome]])
        hidden = both @ params["encoder.into.kernel"] + params["encoder.into.bias"]
        hidden = [x * (1 + math.erf(x / 2**0.5)) / 2 for x in hidden]
        return h_D + np.array(hidden) @ params["encoder.out.kernel"] + params["encoder.out.bias"]

    monkeypatch.setattr(labels, "_encode", lambda *_: h_BLD)
    monkeypatch.setattr(labels, "_last_hidden", lambda *_: h_BLD[:, 0])
    monkeypatch.setattr(labels, "_loss", lambda *_: labels.encode(None, weights, None))
    task = SimpleNamespace(
        config=SimpleNamespace(loss=SimpleNamespace(name=""), model=SimpleNamespace(encoder="conditioned"))
    )
    batch = SimpleNamespace(label_BL=jnp.array([[1, 0, -1]], jnp.int8))
    found = labels.loss(task, weights, batch, None)
    expected = [by_hand(h_D, outcome) for h_D, outcome in zip(h_BLD[0], [1, 0, 2], strict=True)]
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(labels.last_hidden(None, weights, None)[0], expected[0], rtol=1e-4, atol=1e-5)
    # Nothing else is asked for anything.
    np.testing.assert_array_equal(labels.encode(None, weights, None), h_BLD)
    none = SimpleNamespace(params={})
    np.testing.assert_array_equal(labels.last_hidden(None, none, None), h_BLD[:, 0])
