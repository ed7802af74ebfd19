"""Terms that learn from rejections beside a softmax over targets: JRC, RCR and S-DPO, each registered as a loss.

Scores are float32 logits [B, L] of targets, label_BL says what each got: +1, -1, or 0 where nothing is known. A list
is the targets of one sequence.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Real

import jaxneg
from jaxneg.training import losses

Scores = Float32[Array, "B L"]
Labels = Real[Array, "B L"]
Scalar = Float32[Array, ""]
FAR = -1e30  # a logit below all others, whose exp is 0


def jrc(score_BL: Scores, label_BL: Labels, *, share: float) -> Scalar:
    """Joint ranking and calibration: a score tells how likely a like is, and which event of a list is the liked one.

    With two logits of an event, f1 = s / 2 of a like and f0 = -s / 2 of a rejection, and y what it got,

        loss = share * -log softmax_y(f) + (1 - share) * -log softmax_events(f_y)

    each a mean over events with feedback; the second softmax is over those of the list.

    Reference: Sheng et al., Joint Optimization of Ranking and Calibration with Contextualized Hybrid Model, 2023,
    arXiv:2208.06164.
    """
    known_BL = label_BL != 0
    calibration = losses.mean(jax.nn.softplus(-label_BL * score_BL), known_BL)
    half_BL = jnp.where(label_BL > 0, 0.5, -0.5)
    all_BLM = half_BL[:, :, None] * score_BL[:, None]
    all_BLM = jnp.where(known_BL[:, None], all_BLM, FAR)
    ranking = losses.mean(jax.nn.logsumexp(all_BLM, axis=-1) - half_BL * score_BL, known_BL)
    return share * calibration + (1 - share) * ranking


def rcr(score_BL: Scores, label_BL: Labels, *, share: float) -> Scalar:
    """Ranking that is compatible with regression: a softmax over the log chances of a like, beside the chances.

        loss = (1 - share) * softplus(-y s) + share * -log(sigmoid(s_i) / sum_j sigmoid(s_j))

    the first a mean over events with feedback, the second over liked ones, j over the list. Both are least where
    sigmoid(s) is the chance of a like.

    Reference: Bai et al., Regression Compatible Listwise Objectives for Calibrated Ranking with Binary Relevance, 2023,
    arXiv:2211.01494.
    """
    known_BL = label_BL != 0
    regression = losses.mean(jax.nn.softplus(-label_BL * score_BL), known_BL)
    log_chance_BL = jax.nn.log_sigmoid(score_BL)
    all_B1 = jax.nn.logsumexp(jnp.where(known_BL, log_chance_BL, FAR), axis=-1, keepdims=True)
    return (1 - share) * regression + share * losses.mean(all_B1 - log_chance_BL, label_BL > 0)


def s_dpo(
    pos_BL: Scores,
    neg_BLN: Float32[Array, "B L N"],
    mask_BL: jax.Array,
    *,
    beta: float,
    margin: float = 0.0,
    reference: tuple[jax.Array, jax.Array] | None = None,
) -> Scalar:
    """Preference of a target over N rejected items at once.

        loss = softplus(log sum_n exp(beta (s_n - r_n)) - beta (s - r) + margin)

    with r the scores of a reference model, a first stage that is kept; without one it is SimPO's form, where a margin
    stands in its place. A mean over targets; one without a negative adds 0.

    References: Chen et al., On Softmax Direct Preference Optimization for Recommendation, 2024, arXiv:2406.09215;
    Meng et al., SimPO, 2024, arXiv:2405.14734.
    """
    there_BLN = neg_BLN > losses.ABSENT
    if reference is not None:
        pos_BL, neg_BLN = pos_BL - reference[0], neg_BLN - reference[1]
    worst_BL = jax.nn.logsumexp(jnp.where(there_BLN, beta * neg_BLN, FAR), axis=-1)
    return losses.mean(jax.nn.softplus(worst_BL - beta * pos_BL + margin), mask_BL)


def with_jrc(pos_BL, neg_BLN, mask_BL, *, label_BL):
    return losses.sampled_softmax(pos_BL, neg_BLN, mask_BL) + jrc(pos_BL, label_BL, share=0.5)


def with_rcr(pos_BL, neg_BLN, mask_BL, *, label_BL):
    return losses.sampled_softmax(pos_BL, neg_BLN, mask_BL) + rcr(pos_BL, label_BL, share=0.5)


def with_s_dpo(pos_BL, neg_BLN, mask_BL):
    """The first negative is a target's own, with p_hard 1 a rejected one; the others are shared and random."""
    random = losses.sampled_softmax(pos_BL, neg_BLN[..., 1:], mask_BL)
    return random + s_dpo(pos_BL, neg_BLN[..., :1], mask_BL, beta=1.0, margin=0.5)


jaxneg.register_loss("with_jrc", with_jrc)
jaxneg.register_loss("with_rcr", with_rcr)
jaxneg.register_loss("with_s_dpo", with_s_dpo)
