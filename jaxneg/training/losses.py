"""Losses over float32 logits and a mask, and what picks their terms. Imports nothing of ours.

Each loss is a scalar: the mean over the positions that count, or 0 where none does. All work in log space, so that
value and gradient are finite for any logits up to 1e18 in size. A negative that is not there has the logit ABSENT; it
and masked positions add nothing to the value and get a gradient of exactly zero. A target is not among its own
negatives.
"""

# jnp.einsum and jnp.pad leave their arguments untyped.
# pyright: reportUnknownMemberType=false

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int32, Real

ABSENT = float(np.finfo(np.float32).min)  # logit of a negative that is not there


def bce(
    pos_BL: Float32[Array, "B L"], neg_BLN: Float32[Array, "B L N"], mask_BL: Bool[Array, "B L"]
) -> Float32[Array, ""]:
    """Mean binary cross-entropy of each target against its N negatives.

        loss = -log sigmoid(pos) - sum_n log(1 - sigmoid(neg_n)) = softplus(-pos) + sum_n softplus(neg_n)

    Args:
      pos_BL: logits of the targets.
      neg_BLN: logits of their negatives, hard and random alike.
      mask_BL: True where a target exists.

    Reference: Kang and McAuley, Self-Attentive Sequential Recommendation, 2018, arXiv:1808.09781.

    Examples:
      One target against one negative, both with logit 0: 2 log 2.

      >>> pos_BL, neg_BLN, mask_BL = jnp.zeros((1, 1)), jnp.zeros((1, 1, 1)), jnp.array([[True]])
      >>> round(float(bce(pos_BL, neg_BLN, mask_BL)), 4)
      1.3863
    """
    return mean(jax.nn.softplus(-pos_BL) + jax.nn.softplus(neg_BLN).sum(-1), mask_BL)


def gbce(
    pos_BL: Float32[Array, "B L"],
    neg_BLN: Float32[Array, "B L N"],
    mask_BL: Bool[Array, "B L"],
    *,
    catalogue_size: int,
    calibration: float,
) -> Float32[Array, ""]:
    """Mean generalised binary cross-entropy: the positive weighs less, as negatives are a sample of the catalogue.

    They must be drawn uniformly from it, as alpha says nothing of other draws.

    With alpha = N / (catalogue - 1), at most 1, the share of the other items that is drawn:

        beta = alpha * (t * (1 - 1/alpha) + 1/alpha) = 1 - t * (1 - alpha)
        loss = (beta * softplus(-pos) + sum_n softplus(neg_n)) / (N + 1)

    Args:
      pos_BL: logits of the targets.
      neg_BLN: logits of the negatives; N counts those that are ABSENT.
      mask_BL: True where a target exists.
      catalogue_size: number of items, padding row excluded.
      calibration: t in [0, 1]; 0 gives bce / (N + 1), the authors recommend 0.75.

    Reference: Petrov and Macdonald, gSASRec, 2023, arXiv:2308.07192.

    Examples:
      One of four other items is drawn, so beta = 1 - 1 * (1 - 1/4): (log 2 / 4 + log 2) / 2.

      >>> pos_BL, neg_BLN, mask_BL = jnp.zeros((1, 1)), jnp.zeros((1, 1, 1)), jnp.array([[True]])
      >>> round(float(gbce(pos_BL, neg_BLN, mask_BL, catalogue_size=5, calibration=1.0)), 4)
      0.4332
    """
    N = neg_BLN.shape[-1]
    alpha = min(N / max(catalogue_size - 1, 1), 1.0)
    beta = 1.0 - calibration * (1.0 - alpha)
    loss_BL = beta * jax.nn.softplus(-pos_BL) + jax.nn.softplus(neg_BLN).sum(-1)
    return mean(loss_BL / (N + 1), mask_BL)


def sampled_softmax(
    pos_BL: Float32[Array, "B L"], neg_BLN: Float32[Array, "B L N"], mask_BL: Bool[Array, "B L"]
) -> Float32[Array, ""]:
    """Mean cross-entropy of each target among itself and its negatives.

        loss = -log(exp(pos) / (exp(pos) + sum_n exp(neg_n)))

    With every other item as a negative this is the full softmax.

    Args:
      pos_BL: logits of the targets.
      neg_BLN: logits of the negatives.
      mask_BL: True where a target exists.

    Reference: Wilm et al., TRON, 2023, arXiv:2307.14906.

    Examples:
      A target that scores as its three negatives do has a share of 1/4: log 4.

      >>> pos_BL, neg_BLN, mask_BL = jnp.zeros((1, 1)), jnp.zeros((1, 1, 3)), jnp.array([[True]])
      >>> round(float(sampled_softmax(pos_BL, neg_BLN, mask_BL)), 4)
      1.3863
    """
    return mean(jax.nn.softplus(_odds(pos_BL, neg_BLN)), mask_BL)


def refined_softmax(
    pos_BL: Float32[Array, "B L"], neg_BLN: Float32[Array, "B L N"], mask_BL: Bool[Array, "B L"]
) -> Float32[Array, ""]:
    """Mean of the refined logQ correction: the target against the others alone, by the chance that it is missed.

        loss = (1 - p) * (logsumexp(neg) - pos),    p = exp(pos) / (exp(pos) + sum_n exp(neg_n)) without gradient

    The target is in the sum of a softmax with chance 1, whatever is drawn, so it is left out of what is estimated by
    draws. ``neg`` are logits less the log of the chance to be drawn. The gradient is that of ``sampled_softmax`` on the
    same logits, (1 - p) grad(logsumexp(neg) - pos), since the target is not corrected there either; it differs from
    forms that correct the target too, or leave the number of draws out. The value is another, and may be below 0.

    Args:
      pos_BL: logits of the targets.
      neg_BLN: corrected logits of the negatives.
      mask_BL: True where a target exists.

    Reference: Khrylchenko et al., Correcting the LogQ Correction, RecSys 2025, arXiv:2507.09331.

    Examples:
      Two negatives that score as the target does leave it p = 1/3: 2/3 * log 2.

      >>> pos_BL, neg_BLN, mask_BL = jnp.zeros((1, 1)), jnp.zeros((1, 1, 2)), jnp.array([[True]])
      >>> round(float(refined_softmax(pos_BL, neg_BLN, mask_BL)), 4)
      0.4621
    """
    odds_BL = _odds(pos_BL, neg_BLN)
    there_BL = (neg_BLN > ABSENT).any(-1)
    missed_BL = jax.lax.stop_gradient(jax.nn.sigmoid(odds_BL))
    return mean(jnp.where(there_BL, missed_BL * odds_BL, 0.0), mask_BL)


def bpr_max(
    pos_BL: Float32[Array, "B L"],
    neg_BLN: Float32[Array, "B L N"],
    mask_BL: Bool[Array, "B L"],
    *,
    penalty: float,
) -> Float32[Array, ""]:
    """Mean BPR-max: the chance to beat the negatives, weighted towards those that score high, plus a penalty.

        loss = -log sum_n w_n sigmoid(pos - neg_n) + penalty * sum_n w_n neg_n^2,    w = softmax(neg)

    Gradients flow through w too. A target without negatives adds 0.

    Args:
      pos_BL: logits of the targets.
      neg_BLN: logits of the negatives.
      mask_BL: True where a target exists.
      penalty: weight of the squared scores of negatives, which holds them near 0.

    Reference: Hidasi and Karatzoglou, Recurrent Neural Networks with Top-k Gains, 2018, arXiv:1706.03847.

    Examples:
      Against one negative w is 1: log 2 for equal logits of 1, and the penalty 0.5 * 1.

      >>> pos_BL, neg_BLN, mask_BL = jnp.ones((1, 1)), jnp.ones((1, 1, 1)), jnp.array([[True]])
      >>> round(float(bpr_max(pos_BL, neg_BLN, mask_BL, penalty=0.5)), 4)
      1.1931
    """
    there_BLN = neg_BLN > ABSENT
    log_w_BLN = jax.nn.log_softmax(neg_BLN)
    chance_BL = jax.nn.logsumexp(log_w_BLN + jax.nn.log_sigmoid(pos_BL[..., None] - neg_BLN), axis=-1)
    square_BLN = jnp.where(there_BLN, neg_BLN, 0.0) ** 2  # ABSENT squared is no float32
    loss_BL = penalty * (jnp.exp(log_w_BLN) * square_BLN).sum(-1) - chance_BL
    return mean(jnp.where(there_BLN.any(-1), loss_BL, 0.0), mask_BL)


def top1_max(
    pos_BL: Float32[Array, "B L"], neg_BLN: Float32[Array, "B L N"], mask_BL: Bool[Array, "B L"]
) -> Float32[Array, ""]:
    """Mean TOP1-max: how far negatives come near the target and away from 0, weighted towards those that score high.

        loss = sum_n w_n (sigmoid(neg_n - pos) + sigmoid(neg_n^2)),    w = softmax(neg)

    Gradients flow through w too. A target without negatives adds 0.

    Args:
      pos_BL: logits of the targets.
      neg_BLN: logits of the negatives.
      mask_BL: True where a target exists.

    Reference: Hidasi and Karatzoglou, Recurrent Neural Networks with Top-k Gains, 2018, arXiv:1706.03847.

    Examples:
      Against one negative w is 1: 1/2 for equal logits, and 1/2 for a negative at 0.

      >>> pos_BL, neg_BLN, mask_BL = jnp.zeros((1, 1)), jnp.zeros((1, 1, 1)), jnp.array([[True]])
      >>> float(top1_max(pos_BL, neg_BLN, mask_BL))
      1.0
    """
    there_BLN = neg_BLN > ABSENT
    square_BLN = jnp.where(there_BLN, neg_BLN, 0.0) ** 2
    term_BLN = jax.nn.sigmoid(neg_BLN - pos_BL[..., None]) + jax.nn.sigmoid(square_BLN)
    loss_BL = (jax.nn.softmax(neg_BLN) * term_BLN).sum(-1)
    return mean(jnp.where(there_BLN.any(-1), loss_BL, 0.0), mask_BL)


def not_to_recommend(
    logit_BL: Float32[Array, "B L"],
    neg_BLN: Float32[Array, "B L N"],
    label_BL: Real[Array, "B L"],
    *,
    weight: float,
) -> Float32[Array, ""]:
    """Mean over signed targets of -log p where liked and -weight * log(1 - p) where rejected.

    p is the target's share of the softmax over itself and its negatives:

        -log p       = softplus(logsumexp(neg) - logit)
        -log(1 - p)  = softplus(logit - logsumexp(neg))

    A target without negatives adds 0: rejected, it has nothing to give way to.

    Args:
      logit_BL: logits of the targets, liked and rejected alike.
      neg_BLN: logits of the negatives.
      label_BL: above 0 where the target was liked, below 0 where rejected, 0 elsewhere and without a target.
      weight: of rejected targets.

    Reference: Wang et al., Learning from Negative User Feedback, 2023, arXiv:2308.12256.

    Examples:
      A liked and a rejected target, each with half of the softmax: (log 2 + 2 log 2) / 2.

      >>> logit_BL, neg_BLN, label_BL = jnp.zeros((1, 2)), jnp.zeros((1, 2, 1)), jnp.array([[1, -1]])
      >>> round(float(not_to_recommend(logit_BL, neg_BLN, label_BL, weight=2.0)), 4)
      1.0397
    """
    odds_BL = _odds(logit_BL, neg_BLN)
    liked_BL, rejected_BL = label_BL > 0, label_BL < 0
    avoidable_BL = rejected_BL & (neg_BLN > ABSENT).any(-1)
    loss_BL = jnp.where(liked_BL, jax.nn.softplus(odds_BL), 0.0)
    loss_BL += weight * jnp.where(avoidable_BL, jax.nn.softplus(-odds_BL), 0.0)
    return mean(loss_BL, liked_BL | rejected_BL)


def feedback(
    logit_BL: Float32[Array, "B L"], label_BL: Real[Array, "B L"], mask_BL: Bool[Array, "B L"]
) -> Float32[Array, ""]:
    """Mean binary cross-entropy of the feedback that each target got.

        loss = (1 + label) / 2 * softplus(-logit) + (1 - label) / 2 * softplus(logit)

    Label 0, neither liked nor rejected, is the mean of both and draws the logit to 0.

    Args:
      logit_BL: log odds of a like.
      label_BL: in [-1, 1]: +1 liked, -1 rejected.
      mask_BL: True where a target exists.

    Reference: feedback prediction of Khrylchenko et al., ARGUS, 2025, arXiv:2507.15994.

    Examples:
      Odds of 3 to 1 for a like that came: -log 3/4. Without label: (-log 3/4 - log 1/4) / 2.

      >>> logit_BL, mask_BL = jnp.log(jnp.array([[3.0]])), jnp.array([[True]])
      >>> round(float(feedback(logit_BL, jnp.array([[1]]), mask_BL)), 4)
      0.2877
      >>> round(float(feedback(logit_BL, jnp.array([[0]]), mask_BL)), 4)
      0.837
    """
    liked_BL = (1.0 + label_BL.astype(jnp.float32)) / 2.0
    loss_BL = liked_BL * jax.nn.softplus(-logit_BL) + (1.0 - liked_BL) * jax.nn.softplus(logit_BL)
    return mean(loss_BL, mask_BL)


def info_nce(
    context_BMD: Float32[Array, "B M D"],
    positive_BMD: Float32[Array, "B M D"],
    event_BMD: Float32[Array, "B M D"],
    query_BM: Bool[Array, "B M"],
    negative_BM: Bool[Array, "B M"],
    *,
    temperature: float,
) -> Float32[Array, ""]:
    """Mean InfoNCE of each query: near the liked event to come, away from all events its session rejected.

        loss_t = -log(f(p_t) / (f(p_t) + sum_j f(e_j))),    f(x) = exp(cos(x, c_t) / temperature)

    j runs over the negatives of the same session, earlier and later ones alike. A session without negatives adds
    nothing, neither to the sum nor to the number of queries it is divided by.

    Args:
      context_BMD: c, what each event predicts, or the event's own row.
      positive_BMD: p, row of the first liked event after each.
      event_BMD: e, rows of the session's events.
      query_BM: True where c and p exist.
      negative_BM: True where the event was rejected.
      temperature: above 0; the authors' code has 0.1.

    Reference: Seshadri and Knees, 2023, arXiv:2309.11623; Seshadri, Shashaani and Knees, 2024, arXiv:2409.07367.

    Examples:
      The context points at the liked event and stands across the rejected one: log(1 + exp(0 - 1)).

      >>> right_BMD, up_BMD, yes_BM = jnp.array([[[2.0, 0.0]]]), jnp.array([[[0.0, 3.0]]]), jnp.array([[True]])
      >>> round(float(info_nce(right_BMD, right_BMD, up_BMD, yes_BM, yes_BM, temperature=1.0)), 4)
      0.3133
    """
    query_BM = query_BM & negative_BM.any(1, keepdims=True)
    context_BMD, positive_BMD = _unit(context_BMD, query_BM), _unit(positive_BMD, query_BM)
    pos_BM = jnp.einsum("BMD,BMD->BM", context_BMD, positive_BMD) / temperature
    neg_BMN = jnp.einsum("BMD,BND->BMN", context_BMD, _unit(event_BMD, negative_BM)) / temperature
    return sampled_softmax(pos_BM, jnp.where(negative_BM[:, None], neg_BMN, ABSENT), query_BM)


def info_nce_released(
    context_BMD: Float32[Array, "B M D"],
    positive_BMD: Float32[Array, "B M D"],
    event_BMD: Float32[Array, "B M D"],
    query_BM: Bool[Array, "B M"],
    negative_BM: Bool[Array, "B M"],
    *,
    temperature: float,
) -> Float32[Array, ""]:
    """Mean InfoNCE as the authors' released code computes it: an ablation that may explain published numbers.

    It has the arguments of ``info_nce`` and departs from it in three ways, each a fault:

    - Queries are numbered session by session, q = b * M + t, but negatives are repeated batch by batch. Query q meets
      the negatives of session q mod B, seldom its own.
    - Events that are no negatives stay among them as zero vectors, and each adds exp(0) = 1 to the sum.
    - Events that are no queries stay in the mean as zero vectors, and each adds the constant log(M + 1).

    Reference: as for ``info_nce``.
    """
    B, M, D = context_BMD.shape
    context_BMD, positive_BMD = _unit(context_BMD, query_BM), _unit(positive_BMD, query_BM)
    pos_BM = jnp.einsum("BMD,BMD->BM", context_BMD, positive_BMD) / temperature
    # As M rounds of B queries, the place of a query in its round is the session that it meets.
    neg_MBN = (
        jnp.einsum("MBD,BND->MBN", context_BMD.reshape(M, B, D), _unit(event_BMD, negative_BM)) / temperature
    )
    return sampled_softmax(pos_BM.reshape(M, B), neg_MBN, jnp.ones((M, B), bool))


def next_positive(positive_BM: Bool[Array, "B M"]) -> Int32[Array, "B M"]:
    """Index of the first positive strictly after each event, M where there is none.

    Examples:
      >>> next_positive(jnp.array([[False, True, False, True]])).tolist()
      [[1, 3, 3, 4]]
    """
    M = positive_BM.shape[1]
    at_BM = jnp.where(positive_BM, jnp.arange(M, dtype=jnp.int32)[None], M)
    at_BM = jax.lax.cummin(at_BM, axis=1, reverse=True)
    return jnp.pad(at_BM[:, 1:], ((0, 0), (0, 1)), constant_values=M)


def hardest(neg_BLN: Float32[Array, "B L N"], k: int) -> Int32[Array, "B L k"]:
    """Indices of the k negatives that score highest, best first; ABSENT ones come last. No gradient flows.

    k is at most N. Equal scores keep their order.

    Examples:
      >>> hardest(jnp.array([[[0.1, 0.9, 0.5]]]), 2).tolist()
      [[[1, 2]]]
    """
    return jax.lax.top_k(jax.lax.stop_gradient(neg_BLN), k)[1]


def mean(loss_BL: jax.Array, mask_BL: jax.Array) -> jax.Array:
    """Mean over the positions of the mask; 0 without any."""
    count = jnp.maximum(mask_BL.sum(), 1).astype(jnp.float32)
    return jnp.where(mask_BL, loss_BL, 0.0).sum() / count


def _odds(pos_BL: jax.Array, neg_BLN: jax.Array) -> jax.Array:
    """Log odds of all negatives against the target, logsumexp(neg) - pos, exact where both are large."""
    return jax.nn.logsumexp(neg_BLN - pos_BL[..., None], axis=-1)


def _unit(x_BMD: jax.Array, keep_BM: jax.Array) -> jax.Array:
    """Vectors at length 1 where kept, zero vectors elsewhere whatever stood there."""
    x_BMD = jnp.where(keep_BM[..., None], x_BMD, 0.0)
    square_BM1 = jnp.maximum((x_BMD**2).sum(-1, keepdims=True), 1e-12)  # a zero vector stays one
    return x_BMD * jax.lax.rsqrt(square_BM1)
