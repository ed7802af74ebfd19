"""Corrections by log q, from the batches of a store to the loss: sums, values and gradients of the whole catalogue."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneg import config as configs
from jaxneg.config import Config, UserError
from jaxneg.data import draws, pipeline, stores
from jaxneg.data.metadata import Metadata
from jaxneg.embeddings import tables
from jaxneg.training import losses, objective, program
from tests.marks import rest_slow, rest_system

V, WIDTH, REPEATS = 2000, 4, 300
SAMPLED = (
    "--loss.name sampled_softmax --data.negatives 0 --loss.log-q plain --data.length 1 --model.dropout 0"
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """20,000 sessions of two events of one song, which is liked, so that targets are as popular as songs are."""
    from jaxneg.batch import CODE

    rng = np.random.default_rng(5)
    count = (60_000 / (np.arange(V) + 10)).astype(np.int64) + 1
    item = rng.permutation(np.repeat(np.arange(1, V + 1), count)).astype(np.int32)
    sessions = len(item)
    indptr, users = np.arange(sessions + 1) * 2, 4
    metadata = Metadata(
        reader="",
        source="",
        settings={},
        polarity={"play": 1},
        split={},
        counts={"stations": 0},
        feedback={},
        dropped={},
        attributes=[],
        sessions_overlap=False,
    )
    owner = np.sort(rng.integers(0, users, sessions)).astype(np.int32)
    liked = [np.unique(item[owner == user]) for user in range(users)]
    return stores.Store(
        path=tmp_path_factory.mktemp("none"),
        metadata=metadata,
        item_T=np.repeat(item, 2),
        feedback_T=np.full(2 * sessions, CODE["play"], np.int8),
        station_T=np.zeros(2 * sessions, np.int32),
        time_T=np.arange(2 * sessions),
        group_T=np.repeat(owner, 2),
        session_indptr=indptr,
        session_user=owner,
        session_train_end=indptr[1:],
        session_valid_end=indptr[1:],
        user_indptr=np.searchsorted(owner, np.arange(users + 1)),
        user_group_indptr=np.arange(users + 1),
        negative_indptr=np.zeros(users + 1, np.int64),
        negative_item=np.zeros(0, np.int32),
        positive_indptr=np.cumsum([0, *map(len, liked)]),
        positive_item=np.concatenate(liked),
        attribute_VA=np.zeros((V + 1, 0), np.int32),
    )


def of(options):
    return configs.override(Config(), f"{SAMPLED} --model.width {WIDTH} {options}".split())


def scorer(config, heavy=False):
    """Of a model whose score of an item is its bias, as given: the mean over positions of the estimated sum.

    ``scorer(config)[1]``: what the loss is, and what it is to be.
    """
    model = program.build_model(config, program.Catalogue(V, 0, ()))
    params = model.init(jax.random.key(0))
    none_VA = jnp.zeros((V + 1, 0), jnp.int32)

    def scored(score_V, batch):
        """Scores of target and negatives, how to weigh positions, and the rows that gave them."""
        at = objective.index(batch)
        rows_V = {"item_VD": jnp.zeros((V + 1, WIDTH)), "bias_V": jnp.append(0.0, score_V)}

        def rows(id_):
            return rows_V["item_VD"][id_], rows_V["bias_V"][id_]

        h_BLD = jnp.zeros((*batch.target_BL.shape, WIDTH))
        of_targets = rows(at.target_BL)
        neg_BLC = objective._negatives(config, batch, at, objective.Scored(h_BLD, of_targets, rows))
        return jnp.concatenate([of_targets[1][..., None], neg_BLC], axis=-1), at, rows_V

    def mean(value_BL, batch):
        there_BL = batch.target_BL > 0
        return jnp.where(there_BL, value_BL, 0.0).sum() / there_BL.sum()

    def total(score_V, batch):
        return mean(jnp.exp(scored(score_V, batch)[0]).sum(-1), batch)

    def both(score_V, batch):
        both_BLC, at, rows_V = scored(score_V, batch)
        task, weights = objective.Task(config, model, V), tables.Weights(params, rows_V, none_VA)
        each_BL = jax.nn.logsumexp(both_BLC, axis=-1) - both_BLC[..., 0]
        return jnp.stack([objective.loss(task, weights, batch, at), mean(each_BL, batch)])

    def compiled(function, options=None):
        jitted = jax.jit(function, compiler_options=options)
        return lambda score_V, batch: np.asarray(jitted(score_V.astype(np.float32), batch))

    # Hundreds of large batches are worth XLA's optimisation, without which tests compile.
    optimised = {"xla_backend_optimization_level": 3, "xla_cpu_use_fusion_emitters": True}
    return compiled(total, optimised if heavy else None), compiled(both)


LISTS = {
    "uniform": "--data.shared-negatives {}",
    "log_uniform": "--data.shared-negatives {} --data.random log_uniform",
    "by_count": "--data.shared-negatives {} --data.random by_count",
    "in batch": "--loss.in-batch",
    "both": "--data.shared-negatives {} --data.random log_uniform --loss.in-batch",
}


@pytest.mark.parametrize("S", rest_system([16, 100, 1000], [16]))
@pytest.mark.parametrize("name", rest_slow(LISTS, ["uniform", "both"]))
def test_target_and_negatives_estimate_the_sum_over_the_catalogue_without_bias(store, name, S):
    """At every position, in the mean over 300 batches, within 3 standard errors, whatever scores go with."""
    size = S if "batch" in LISTS[name] else 4
    config = of(LISTS[name].format(S) + f" --data.batch-size {size}")
    batches = pipeline.of_config(config, store)
    some, (total, both) = [batches[step] for step in range(REPEATS)], scorer(config, heavy=S == 1000)
    for goes_with in (1, -1):
        noise = np.random.default_rng(1).normal(0.0, 0.5, V)
        score_V = noise - goes_with * 0.5 * np.log(np.arange(V) + 10.0)
        found = np.array([total(score_V, batch) for batch in some], np.float64)
        error = found.std(ddof=1) / REPEATS**0.5
        assert abs(found.mean() - np.exp(score_V).sum()) < 3 * error, goes_with
        # which is what the loss takes the log of
        for batch in some[:20]:
            value, expected = both(score_V, batch)
            np.testing.assert_allclose(value, expected, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["packed", "blocks"])
def test_batches_of_packed_rows_and_of_blocks_estimate_it_too(store, mode):
    options = {
        "packed": "--data.packed always --data.length 4",
        "blocks": "--data.packed never --data.blocks 4",
    }[mode]
    config = of(f"{LISTS['both'].format(100)} --data.batch-size 64 {options}")
    batches, score_V = pipeline.of_config(config, store), -0.5 * np.log(np.arange(V) + 10.0)
    total, _ = scorer(config)
    found = np.array([total(score_V, batches[step]) for step in range(100)])
    assert abs(found.mean() - np.exp(score_V).sum()) < 3 * found.std(ddof=1) / 10


def exact_gradient(score_V, target):
    p_V = np.exp(score_V - score_V.max())
    p_V /= p_V.sum()
    return p_V - (np.arange(len(score_V)) == target)


@pytest.mark.slow
def test_the_gradient_is_nearer_to_that_of_the_softmax_than_that_of_other_corrections():
    """Of 40 items by popularity q, 150 are drawn: the bias of the mean gradient over draws, corrected in four ways.

    yi       target and negatives, with repetitions, less log q, as in Yi et al.
    old      negatives less log q, but not for the number of draws, as in the code released with Khrylchenko et al.
    plain    ours: the target as it is, each negative once, less the log of the chance that it is drawn
    refined  the same with the target left out of the sum, weighed by the chance that it is missed
    """
    rng, n, count, target = np.random.default_rng(0), 40, 150, 3
    q = 1.0 / (np.arange(n) + 3.0)
    q /= q.sum()
    score = jnp.asarray(rng.normal(0.0, 1.0, n), jnp.float32)
    row = np.sort(rng.choice(n, (20_000, count), p=q), axis=1)
    log_q = jnp.log(jnp.asarray(q, jnp.float32))
    log_among = jnp.asarray(draws.log_among(draws.log_missed(q, count)))

    one = jnp.ones((1, 1), bool)

    def loss(form, s, row_N):
        pos, there_N = s[target][None, None], row_N != target
        neg = jnp.where(there_N, s[row_N] - log_q[row_N], losses.ABSENT)[None, None]
        there_N &= jnp.append(True, row_N[1:] != row_N[:-1])
        once = jnp.where(there_N, s[row_N] - log_among[row_N], losses.ABSENT)[None, None]
        if form == "yi":
            return losses.sampled_softmax(pos - log_q[target], neg, one)
        if form == "old":
            return losses.sampled_softmax(pos, neg, one)
        of = {"plain": losses.sampled_softmax, "refined": losses.refined_softmax}[form]
        return of(pos, once, one)

    exact, bias = exact_gradient(np.asarray(score, np.float64), target), {}
    for form in ("yi", "old", "plain", "refined"):
        found = jax.jit(jax.vmap(jax.grad(lambda s, row_N, f=form: loss(f, s, row_N)), (None, 0)))(score, row)
        bias[form] = np.abs(np.asarray(found, np.float64).mean(0) - exact).sum()
    assert bias["refined"] == pytest.approx(bias["plain"], rel=1e-3)  # their gradients are the same
    assert bias["refined"] < 0.3 * min(bias["yi"], bias["old"])


def test_the_refined_form_by_loops():
    rng = np.random.default_rng(2)
    pos, neg = rng.normal(0, 2, (3, 4)).astype(np.float32), rng.normal(0, 2, (3, 4, 5)).astype(np.float32)
    neg[0, 0], neg[1, 1, 2:], mask = losses.ABSENT, losses.ABSENT, rng.random((3, 4)) < 0.7
    mask[0, 0] = mask[1, 1] = True
    parts, slope = [], np.zeros((3, 4))
    for b, t in zip(*np.nonzero(mask), strict=True):
        there = [float(x) for x in neg[b, t] if x > losses.ABSENT]
        if there:
            others = np.log(np.exp(there).sum())
            weight = 1 - np.exp(pos[b, t]) / (np.exp(pos[b, t]) + np.exp(others))
            slope[b, t] = -weight / mask.sum()  # the weight has no gradient
            parts.append(weight * (others - pos[b, t]))
        else:
            parts.append(0.0)
    value, gradient = jax.jit(jax.value_and_grad(losses.refined_softmax))(*map(jnp.asarray, (pos, neg, mask)))
    np.testing.assert_allclose(value, np.mean(parts), rtol=1e-5)
    np.testing.assert_allclose(gradient, slope, rtol=1e-5, atol=1e-8)


@pytest.mark.slow
def test_refined_training_takes_the_steps_of_plain(store):
    config = of("--data.shared-negatives 50 --data.random by_count --loss.in-batch --data.batch-size 16")
    refined = dataclasses.replace(config, loss=dataclasses.replace(config.loss, log_q="refined"))
    batch = jax.tree.map(jnp.asarray, pipeline.of_config(config, store)[0])
    model = program.build_model(config, program.Catalogue(V, 0, ()))
    params = model.init(jax.random.key(0))
    first = {"item_VD": 0.3 * jax.random.normal(jax.random.key(1), (V + 1, WIDTH))}
    none_VA, at = jnp.zeros((V + 1, 0), jnp.int32), objective.index(batch)
    (one, expected), (other, found) = (
        jax.jit(
            jax.value_and_grad(
                lambda rows, c=c: objective.loss(
                    objective.Task(c, model, V), tables.Weights(params, rows, none_VA), batch, at
                )
            )
        )(first)
        for c in (config, refined)
    )
    assert one != other
    np.testing.assert_allclose(found["item_VD"], expected["item_VD"], rtol=1e-4, atol=1e-7)


def test_saved_configs_of_one_correction_are_read():
    text = configs.to_json(of("--data.shared-negatives 9")).replace('"log_q": "plain"', '"log_q": true')
    assert configs.from_json(text).loss.log_q == "plain"
    assert configs.from_json(text.replace('"log_q": true', '"log_q": false')).loss.log_q == "none"


@pytest.mark.parametrize(
    "options, message",
    [
        ("--data.negatives 5 --data.p-hard 0 --data.shared-negatives 9", "to which random ones"),
        (
            "--data.negatives 1 --data.p-hard 0.5 --loss.in-batch",
            "use --data.negatives 0, or --data.p-hard 1",
        ),
        (
            "--loss.name not_to_recommend --loss.log-q refined --data.shared-negatives 9",
            "leaves the target out",
        ),
        ("--loss.hardest 3 --data.shared-negatives 9", "drops most"),
        ("--loss.name bce --data.shared-negatives 9", "estimates a softmax"),
        ("--data.negatives 1 --data.p-hard 1", "there are none"),
    ],
)
def test_what_a_correction_does_not_know_is_refused_in_one_line(options, message):
    with pytest.raises(UserError, match=message) as error:
        of(f"{options}")
    assert "\n" not in str(error.value)
