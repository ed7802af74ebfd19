"""Objectives that know what each target got: queries conditioned on the outcome asked for, and graded targets.

Neither is a loss of scores alone, so that both reach into how a batch's loss is computed: what is here takes the place
of ``objective.loss``, ``scoring.encode`` and ``scoring.last_hidden``, and leaves all other models as they are.
"""

import jax
import jax.numpy as jnp
from flax import nnx

import jaxneg
from jaxneg.batch import CODE, PAD
from jaxneg.models import layers
from jaxneg.models.sasrec import SASRec
from jaxneg.training import losses, objective, scoring

LIKED, REJECTED = 1, 2  # outcomes; 0 where nothing is known
NAMES = ("wanted", "into.kernel", "into.bias", "out.kernel", "out.bias")
# How much each feedback says, by code: rejections below 0.
GRADES = {"thumb_down": -1.0, "skip": -0.5, "play": 0.5, "thumb_up": 1.0}
GRADE = jnp.array(
    [{CODE[kind]: grade for kind, grade in GRADES.items()}.get(n, 0.0) for n in range(len(CODE))]
)

_loss, _encode, _last_hidden = objective.loss, scoring.encode, scoring.last_hidden
_outcome_BL: list[jax.Array] = []  # of the batch whose loss is traced


class Conditioned(SASRec):
    """SASRec whose states are asked for an outcome afterwards, see ``asked``."""

    def __init__(self, config, *, rngs):
        super().__init__(config, rngs=rngs)
        width = config.width
        self.wanted = nnx.Param(0.02 * jax.random.normal(rngs.params(), (3, width), jnp.float32))
        self.into = layers.Linear(2 * width, 2 * width, rngs=rngs)
        self.out = layers.Linear(2 * width, width, rngs=rngs)


def asked(params: dict[str, jax.Array], h: jax.Array, outcome: jax.Array) -> jax.Array:
    """Queries for what follows with an outcome:  h + W2 gelu(W1 [h, e_outcome]),  in training the one that came.

    Reference: Agarwal et al., PinRec: Outcome-Conditioned, Multi-Token Generative Retrieval, 2025, arXiv:2504.10507.
    """
    wanted, into, into_bias, out, out_bias = (params[f"encoder.{name}"] for name in NAMES)
    into_bias, out_bias = (jnp.expand_dims(bias, tuple(range(h.ndim - 1))) for bias in (into_bias, out_bias))
    both = jnp.concatenate([h, wanted[outcome]], axis=-1)
    return h + jax.nn.gelu(both @ into + into_bias, approximate=False) @ out + out_bias


def grades(feedback_BL: jax.Array, label_BL: jax.Array) -> jax.Array:
    """Grade of each target from the feedback that its event shows one position later; the last has its sign's least."""
    next_BL = jnp.pad(feedback_BL[:, 1:], ((0, 0), (0, 1)))
    found_BL = GRADE[next_BL]
    sign_BL = jnp.sign(label_BL).astype(jnp.float32)
    return jnp.where(jnp.sign(found_BL) == sign_BL, found_BL, 0.5 * sign_BL)


def with_graded(pos_BL, neg_BLN, mask_BL, *, label_BL):
    """A softmax over targets, a thumb-up counting twice, beside the graded chance of a like."""
    weight_BL = jnp.where(mask_BL, jnp.maximum(label_BL, 0.0) / 0.5, 0.0)
    each_BL = jax.nn.logsumexp(jnp.concatenate([pos_BL[..., None], neg_BLN], axis=-1), axis=-1) - pos_BL
    ranking = (each_BL * weight_BL).sum() / jnp.maximum(weight_BL.sum(), 1.0)
    return ranking + losses.feedback(pos_BL, label_BL, label_BL != 0)


def asked_softmax(pos_BL, neg_BLN, mask_BL, *, label_BL):
    """The softmax of queries that are asked for what each target got."""
    del label_BL
    return losses.sampled_softmax(pos_BL, neg_BLN, mask_BL)


def loss(task, weights, batch, at, key=None, catalogue=None):
    """``objective.loss``, with outcomes at hand and, for ``with_graded``, labels that are grades."""
    if task.config.loss.name == "with_graded":
        batch = batch._replace(label_BL=grades(batch.feedback_BL, batch.label_BL))
    if task.config.model.encoder != "conditioned":
        return _loss(task, weights, batch, at, key, catalogue)
    _outcome_BL.append(jnp.where(batch.label_BL > 0, LIKED, jnp.where(batch.label_BL < 0, REJECTED, PAD)))
    try:
        return _loss(task, weights, batch, at, key, catalogue)
    finally:
        _outcome_BL.pop()


def encode(model, weights, seen, key=None):
    h_BLD = _encode(model, weights, seen, key)
    return asked(weights.params, h_BLD, _outcome_BL[-1]) if _outcome_BL else h_BLD


def last_hidden(model, weights, seen):
    """``scoring.last_hidden``, asked for what is liked."""
    h_BD = _last_hidden(model, weights, seen)
    if "encoder.wanted" not in weights.params:
        return h_BD
    return asked(weights.params, h_BD, jnp.full(len(h_BD), LIKED))


objective.loss, scoring.encode, scoring.last_hidden = loss, encode, last_hidden
jaxneg.register_encoder("conditioned", Conditioned)
jaxneg.register_loss("with_graded", with_graded)
jaxneg.register_loss("asked_softmax", asked_softmax)
