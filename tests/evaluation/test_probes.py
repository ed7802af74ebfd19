import dataclasses
import math

import jax
import numpy as np
import pytest

from jaxneg import models
from jaxneg.batch import CODE, FEEDBACK, EvalBatch
from jaxneg.config import EvalConfig, ModelConfig
from jaxneg.data import stores
from jaxneg.evaluation import probes

DOWN, SKIP, PLAY, UP = (CODE[kind] for kind in ("thumb_down", "skip", "play", "thumb_up"))
ITEMS, RUNS = 30, 400


def hand_store(small_store):
    """Four users; sessions as (user, feedback in training, feedback after it)."""
    sessions = [
        (0, [PLAY, SKIP, PLAY], [PLAY]),
        (0, [UP, PLAY, PLAY], []),
        (1, [DOWN], [PLAY, PLAY]),
        (2, [SKIP] * 5, [UP]),
        (3, [], [PLAY, SKIP]),
    ]
    size = [len(train) + len(rest) for _, train, rest in sessions]
    indptr = np.concatenate([[0], np.cumsum(size)])
    store = stores.Store.open(small_store)
    polarity = {"thumb_down": -1, "skip": -1, "play": 1, "thumb_up": 1}
    return dataclasses.replace(
        store,
        metadata=dataclasses.replace(store.metadata, polarity=polarity),
        feedback_T=np.int8([code for _, train, rest in sessions for code in train + rest]),
        session_indptr=indptr,
        session_user=np.int32([user for user, _, _ in sessions]),
        session_train_end=indptr[:-1] + [len(train) for _, train, _ in sessions],
        user_indptr=np.int64([0, 2, 3, 4, 5]),
    )


def test_user_coverage_by_hand(small_store):
    """Of users 0 to 3: likes 5, 0, 0, 0; with thumbs-down 5, 1, 0, 0; with skips 6, 1, 5, 0."""
    assert probes.user_coverage(hand_store(small_store)) == {
        "likes": {1: 1 / 4, 5: 1 / 4},
        "likes, thumbs-down": {1: 2 / 4, 5: 1 / 4},
        "likes, thumbs-down, skips": {1: 3 / 4, 5: 2 / 4},
    }


def test_example_coverage_by_hand(small_store):
    """Ranges hold play skip play; play play of user 1 after a thumbs-down; five skips. One example is cold."""
    found = probes.example_coverage(
        hand_store(small_store), np.array([0, 7, 10]), np.array([3, 10, 15]), cold=1
    )
    assert found["likes"] == {1: 2 / 4, 5: 0.0}
    assert found["likes, thumbs-down, skips"] == {1: 3 / 4, 5: 1 / 4}


def test_coverage_equals_loops_on_a_prepared_store(small_store):
    store = stores.Store.open(small_store)
    counts = {user: dict.fromkeys(range(len(FEEDBACK)), 0) for user in range(store.users)}
    for session, user in enumerate(store.session_user):
        for event in range(store.session_indptr[session], store.session_train_end[session]):
            counts[int(user)][int(store.feedback_T[event])] += 1
    for name, codes in probes.input_sets(store).items():
        for n, share in probes.user_coverage(store)[name].items():
            covered = [sum(count[code] for code in set(codes)) >= n for count in counts.values()]
            assert share == pytest.approx(sum(covered) / store.users)
    assert (
        probes.user_coverage(store)["likes"][5] < probes.user_coverage(store)["likes, thumbs-down, skips"][5]
    )


def test_feedback_cosines_by_hand():
    row_FD = np.zeros((7, 2), np.float32)  # the last row is of hidden events, which is no kind
    row_FD[[DOWN, SKIP, PLAY, UP]] = [[1, 0], [2, 2], [0, -3], [0, 0]]
    params = {"inputs.feedback": row_FD, "encoder.else": row_FD}
    found = probes.feedback_cosines(params, ("thumb_down", "skip", "play"))
    half = math.sqrt(0.5)
    np.testing.assert_allclose(found["added"], [[1, half, 0], [half, 1, -half], [0, -half, 1]], atol=1e-12)
    assert set(found) == {"added"}
    assert np.isnan(probes.feedback_cosines(params, ("thumb_up", "skip"))["added"][0]).all()


@pytest.mark.parametrize("feedback", ["none", "add", "gate"])
def test_models_have_the_tables_that_cosines_are_taken_of(feedback):
    config = ModelConfig(feedback=feedback, width=4, layers=1)
    params = models.build(config, length=3, stations=0, attributes=()).init(jax.random.PRNGKey(0))
    found = probes.feedback_cosines(params, ("skip", "play"))
    assert set(found) == {"none": set(), "add": {"added"}, "gate": {"added", "gate"}}[feedback]
    if feedback == "gate":  # starts at the opposite
        np.testing.assert_allclose(found["gate"], [[1, -1], [-1, 1]], rtol=1e-6)


def test_flips_take_a_dislike_that_the_model_has_seen(small_store):
    store = hand_store(small_store)
    assert probes.flips(store, ("thumb_down", "skip", "play", "thumb_up")) == {
        "play": "skip",
        "thumb_up": "thumb_down",
    }
    assert probes.flips(store, ("skip", "thumb_up")) == {"thumb_up": "skip"}
    assert probes.flips(store, ("thumb_down", "play")) == {"play": "thumb_down"}
    assert probes.flips(store, ("play", "thumb_up")) == {}
    neutral = dataclasses.replace(store.metadata, polarity={"skip": -1, "thumb_up": 1})
    assert probes.flips(dataclasses.replace(store, metadata=neutral), ("skip", "play", "thumb_up")) == {
        "thumb_up": "skip"
    }


FLIP = {"play": "skip", "thumb_up": "thumb_down"}


def make_batch(item_BL, feedback_BL, real_B=None):
    size = len(item_BL)
    none = np.zeros((size, 1), np.int32)
    return EvalBatch(
        np.int32(item_BL),
        np.int32(feedback_BL),
        np.zeros_like(item_BL, np.int32),
        none,
        none,
        np.zeros((size, 2), np.int32),
        np.arange(size, dtype=np.int32),
        np.full(size, 0.5, np.float32),
        np.ones(size, bool) if real_B is None else np.array(real_B),
    )


def last_of(batch):
    """Place of each row's last event."""
    return np.maximum((np.asarray(batch.item_BL) > 0).sum(-1) - 1, 0)


def ends_in(batch, *codes):
    return np.isin(batch.feedback_BL[np.arange(len(batch.user_B)), last_of(batch)], codes)


def responsiveness(
    score, batches, *, flip, attribute_VA, row_VD, exclude_seen=False, resamples=1000, limit=probes.EXAMPLES
):
    config = EvalConfig(exclude_seen=exclude_seen, bootstrap=resamples, pair_seed=0)
    return probes.responsiveness(score, batches, flip, probes.Catalogue(row_VD, attribute_VA), config, limit)


def test_responsiveness_by_hand():
    """A catalogue of 30 is listed three deep. After a like items 1, 2, 3 lead, after a dislike 7, 2, 9.

    The last item is 1: artist 1 has items 1, 2 and 3, and rows of 2 and 7 are close to its own.
    """

    def score(batch):
        score_BV = np.zeros((len(batch.user_B), ITEMS + 1), np.float32)
        for row, disliked in enumerate(ends_in(batch, SKIP, DOWN)):
            score_BV[row, [7, 2, 9] if disliked else [1, 2, 3]] = [3, 2, 1]
        return score_BV

    attribute_VA = np.zeros((ITEMS + 1, 2), np.int32)
    attribute_VA[1:4, 0] = 1
    attribute_VA[[1, 9], 1] = [5, 6]  # differ
    row_VD = np.tile(np.float32([0, 1]), (ITEMS + 1, 1))
    row_VD[[1, 2, 7]] = [[1, 0], [2, 0], [1, 1]]  # cosines 1 and 0.71, else 0
    batch = make_batch([[4, 1, 0], [1, 0, 0]], [[SKIP, PLAY, 0], [UP, 0, 0]])
    found = responsiveness(score, [batch], flip=FLIP, attribute_VA=attribute_VA, row_VD=row_VD, resamples=20)
    assert (found["examples"], found["top"], found["overlap"]) == (2, 3, pytest.approx(1 / 5))
    ends = {"change_low", "change_high"}
    expected = {"attribute": (2 / 3, 1 / 3, -0.5), "row": (1 / 3, 2 / 3, 1.0), "item": (1.0, 0.0, -1.0)}
    for name, figures in expected.items():
        assert set(found[name]) == {"before", "after", "change"} | ends
        assert tuple(found[name][of] for of in ("before", "after", "change")) == pytest.approx(figures)
        assert [found[name][end] for end in ends] == pytest.approx([figures[2]] * 2)  # all examples are alike


def random_case(seed=0, size=40):
    rng = np.random.default_rng(seed)
    length = rng.integers(1, 6, size=(size, 1))
    seen_BL = np.arange(5) < length
    item_BL = rng.integers(1, ITEMS * 10 + 1, size=(size, 5)) * seen_BL
    feedback_BL = rng.integers(1, 6, size=(size, 5)) * seen_BL
    batch = make_batch(item_BL, feedback_BL, np.arange(size) < size - 3)
    table = rng.normal(size=(2, size, ITEMS * 10 + 1)).astype(np.float32)
    table[1] = 0.5 * table[0] + table[1]

    def score(batch):
        return np.where(ends_in(batch, SKIP, DOWN)[:, None], table[1][batch.user_B], table[0][batch.user_B])

    attribute_VA = rng.integers(0, 4, size=(ITEMS * 10 + 1, 2)).astype(np.int32)
    return batch, score, attribute_VA, rng.normal(size=(ITEMS * 10 + 1, 3)).astype(np.float32)


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_responsiveness_equals_loops(exclude_seen):
    batch, score, attribute_VA, row_VD = random_case()
    found = responsiveness(
        score, [batch], flip=FLIP, attribute_VA=attribute_VA, row_VD=row_VD, exclude_seen=exclude_seen
    )
    rows = [b for b in range(len(batch.user_B)) if ends_in(batch, PLAY, UP)[b] and batch.real_B[b]]
    place = last_of(batch)
    flipped_BL = batch.feedback_BL.copy()
    for b in rows:
        flipped_BL[b, place[b]] = {PLAY: SKIP, UP: DOWN}[int(flipped_BL[b, place[b]])]
    shares = {(name, end): [] for name in ("attribute", "row", "item") for end in ("before", "after")}
    overlaps = []
    for b in rows:
        item = int(batch.item_BL[b, place[b]])
        lists = {}
        for end, feedback_BL in (("before", batch.feedback_BL), ("after", flipped_BL)):
            score_V = score(batch._replace(feedback_BL=feedback_BL))[b]
            left = [v for v in range(1, len(score_V)) if not (exclude_seen and v in batch.item_BL[b])]
            lists[end] = sorted(left, key=lambda v, s=score_V: -s[v])[:30]
            others = [v for v in lists[end] if v != item]
            same = [
                v
                for v in others
                if any(x == y > 0 for x, y in zip(attribute_VA[v], attribute_VA[item], strict=True))
            ]
            length = np.linalg.norm(row_VD, axis=1)
            close = [v for v in others if row_VD[v] @ row_VD[item] / (length[v] * length[item]) > 0.5]
            for name, share in (
                ("attribute", len(same) / 30),
                ("row", len(close) / 30),
                ("item", item in lists[end]),
            ):
                shares[name, end].append(share)
        before, after = set(lists["before"]), set(lists["after"])
        overlaps.append(len(before & after) / len(before | after))
    assert found["examples"] == len(rows) > 5
    assert found["overlap"] == pytest.approx(np.mean(overlaps))
    assert found["overlap_low"] < found["overlap"] < found["overlap_high"]
    for name in ("attribute", "row", "item"):
        before, after = (np.mean(shares[name, end]) for end in ("before", "after"))
        assert (found[name]["before"], found[name]["after"]) == pytest.approx((before, after))
        assert found[name]["change"] == pytest.approx(after / before - 1 if before else math.nan, nan_ok=True)
    assert found["row"]["change_low"] < found["row"]["change"] < found["row"]["change_high"]
    if exclude_seen:
        assert found["item"]["before"] == 0.0


def test_a_score_that_ignores_feedback_does_not_respond():
    batch, score, attribute_VA, row_VD = random_case()
    plain = score(batch)
    found = responsiveness(
        lambda batch: plain[batch.user_B], [batch], flip=FLIP, attribute_VA=attribute_VA, row_VD=row_VD
    )
    assert (found["overlap"], found["overlap_low"], found["overlap_high"]) == (1.0, 1.0, 1.0)
    for name in ("attribute", "row"):
        assert found[name]["before"] == found[name]["after"] > 0
        assert [found[name][end] for end in ("change", "change_low", "change_high")] == [0.0, 0.0, 0.0]


def test_responsiveness_stops_at_its_limit_and_takes_whole_batches_until_then():
    batch, score, attribute_VA, row_VD = random_case()
    eligible = int((ends_in(batch, PLAY, UP) & batch.real_B).sum())
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield batch

    options = {"flip": FLIP, "attribute_VA": attribute_VA, "row_VD": row_VD, "resamples": 5}
    found = responsiveness(score, endless(), limit=eligible + 1, **options)
    assert found["examples"] == eligible + 1 and len(taken) == 2


def test_responsiveness_without_likes_or_attributes():
    batch, score, attribute_VA, row_VD = random_case()
    options = {"flip": {"play": "skip"}, "row_VD": row_VD, "resamples": 5}
    disliked = batch._replace(feedback_BL=np.where(batch.feedback_BL == PLAY, SKIP, batch.feedback_BL))
    found = responsiveness(score, [disliked], attribute_VA=attribute_VA, **options)
    assert found == {"users": 0, "examples": 0, "top": 30, "flip": {"play": "skip"}}
    found = responsiveness(score, [batch], attribute_VA=attribute_VA[:, :0], **options)
    assert "attribute" not in found and "row" in found


def test_an_empty_context_has_nothing_to_flip():
    """Where kinds are left out of the inputs, none may be left."""
    batch = make_batch([[0, 0], [5, 0]], [[0, 0], [PLAY, 0]])
    found = responsiveness(
        lambda batch: np.zeros((2, ITEMS + 1), np.float32),
        [batch],
        flip=FLIP,
        attribute_VA=np.zeros((ITEMS + 1, 0), np.int32),
        row_VD=np.ones((ITEMS + 1, 2), np.float32),
        resamples=5,
    )
    assert found["examples"] == 1
