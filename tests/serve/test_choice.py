"""What a list may hold, against filters and caps written out one item at a time; lists for many, orders and reasons."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxneg.cli import recommend
from jaxneg.data import engine, readers
from jaxneg.errors import UserError
from jaxneg.serve import bulk, encoding, scorer
from jaxneg.serve.choice import Attributes, Choice
from jaxneg.serve.scorer import Event, Scorer

NAMES = ("artist", "language")
LIKES = "with a like head"


def random_case(rng):
    """A catalogue with values that are missing, scores, and what is asked of a list."""
    items = int(rng.integers(1, 30))
    columns = {
        name: [
            None if one == 0 else f"{name[0]}{one}" for one in rng.integers(0, 1 + rng.integers(1, 8), items)
        ]
        for name in NAMES
    }
    where = {
        name: [f"{name[0]}{one}" for one in rng.integers(0, 8, rng.integers(1, 4))]
        for name in NAMES
        if rng.random() < 0.3
    }
    at_most = {name: int(rng.integers(1, 4)) for name in NAMES if rng.random() < 0.5}
    return columns, rng.normal(size=items + 1), Choice((), where, at_most), int(rng.integers(1, 12))


def by_hand(columns, score_V, choice, k):
    kept, counts = [], {}
    for row in sorted(range(1, len(score_V)), key=lambda row: -score_V[row]):
        values = {name: column[row - 1] for name, column in columns.items()}
        if any(values[name] not in wanted for name, wanted in choice.where.items()):
            continue
        capped = [(name, values[name]) for name in choice.at_most if values[name] is not None]
        if any(counts.get(one, 0) >= choice.at_most[one[0]] for one in capped):
            continue
        for one in capped:
            counts[one] = counts.get(one, 0) + 1
        kept.append(row)
    return kept[:k]


@pytest.mark.slow
def test_filters_and_caps_hold_in_ten_thousand_requests():
    rng, short = np.random.default_rng(0), 0
    for _ in range(10_000):
        columns, score_V, choice, k = random_case(rng)
        attributes = Attributes({name: pa.array(column, pa.string()) for name, column in columns.items()})
        allowed_V, items = attributes.allowed(choice), len(score_V) - 1
        left_V = np.where(np.arange(items + 1) > 0, score_V, -np.inf)
        if allowed_V is not None:
            left_V[~allowed_V] = -np.inf

        def top(n, left_V=left_V):
            best = np.argsort(-left_V)[:n]
            best = best[np.isfinite(left_V[best])]
            return best, left_V[best]

        row_k, score_k = attributes.capped(top, k, choice, items)
        assert row_k.tolist() == by_hand(columns, score_V, choice, k)
        assert score_k.tolist() == score_V[row_k].tolist()
        short += len(row_k) < k
    assert 1000 < short < 9000


@pytest.fixture(scope="module")
def model(exported):
    return Scorer.open(exported(LIKES))


@pytest.fixture(scope="module")
def artists(exported):
    table = pq.read_table(exported(LIKES) / "items.parquet", columns=["item", "attribute_artist"])
    return dict(zip(*(column.to_pylist() for column in table.columns), strict=True))


def histories(model, count, seed=0):
    """Histories of every length, also empty ones, and with items that are not known."""
    rng, items = np.random.default_rng(seed), [*model.items(40), "nobody's"]
    for _ in range(count):
        drawn = rng.integers(len(items), size=rng.integers(0, 14)).tolist()
        yield [Event(items[n], str(rng.choice(["play", "skip", "thumb_up"]))) for n in drawn]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["rank", "judge", "sum", "demote"])
def test_a_list_is_the_whole_one_without_what_is_not_allowed(form, model, artists):
    assert model.attributes == ["artist"]
    wanted, full = sorted(set(artists.values()))[:5], model.manifest["items"]
    for n, history in enumerate(histories(model, 12)):
        choice = Choice(
            exclude=[*model.items(3), "nobody's"],
            where={"artist": wanted} if n % 2 else {},
            at_most={"artist": 2} if n % 3 else {},
        )
        found = model.recommend(history, 6, form=form, choice=choice)
        counts, expected = {}, []
        for one in model.recommend(history, full, form=form):
            artist = artists[one.item]
            allowed = one.item not in choice.exclude and (artist in wanted or not n % 2)
            if allowed and (counts.get(artist, 0) < 2 or not n % 3):
                counts[artist] = counts.get(artist, 0) + 1
                expected.append(one)
        assert [one.item for one in found] == [one.item for one in expected[:6]]
        heard = any(model.knows(event.item) for event in history)
        assert (found.fallback is None) == heard
        assert heard or all(math.isnan(one.score) for one in found)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["rank", "demote"])
def test_lists_for_many_are_those_for_each(form, model, monkeypatch):
    """Also where they are taken in parts, whose sizes are filled up."""
    some = list(histories(model, 30, seed=1))
    expected = [model.recommend(history, 7, form=form, exclude_seen=True) for history in some]
    for scores in (scorer.SCORES, 11 * model.manifest["rows"]):
        monkeypatch.setattr(scorer, "SCORES", scores)
        found = model.recommend_many(some, 7, form=form, exclude_seen=True)
        for one, other in zip(found, expected, strict=True):
            assert [r.item for r in one] == [r.item for r in other] and one.fallback == other.fallback
            # A batch of another size may sum in another order.
            np.testing.assert_allclose([r.score for r in one], [r.score for r in other], rtol=1e-4, atol=1e-5)
    assert model.recommend_many([]) == []


def test_no_more_than_a_quarter_of_a_batch_is_filled_up():
    for count in range(1, 600):
        found = encoding.batches(count)
        *before, last = found
        assert {*found} <= {*encoding.SIZES} and sum(before) < count <= sum(found)
        assert count - sum(before) >= 0.75 * last


@pytest.mark.slow
def test_batches_of_any_size_run_in_few_programs(model, monkeypatch):
    ran = []
    monkeypatch.setattr(
        model._encoder, "_run", lambda context: ran.append(context.shape[1]) or np.ones((context.shape[1], 3))
    )
    for size in (0, 1, 2, 3, 8, 9, 200, 256, 300):
        context_BL = np.zeros((size, model.manifest["length"]), np.int32)
        assert model.query(context_BL, context_BL, context_BL).shape == (size, 3)
    assert ran == [1, 1, *[1, 1], 4, *[4, 4], *[4, 4, 1], 256, 256, *[256, 16, 16, 16]]
    ran.clear()
    model.warmup()
    assert tuple(ran) == encoding.SIZES


@pytest.mark.slow
@pytest.mark.parametrize("form", ["rank", "judge", "demote"])
def test_candidates_are_put_in_the_order_of_their_scores(form, model):
    names, full = model.items(10**6), model.manifest["items"]
    history = [Event(names[3]), Event(names[8], "skip")]
    score = {one.item: one.score for one in model.recommend(history, full, form=form)}
    asked = [*names[20:30], "nobody's", names[22]]
    found = model.rerank(history, asked, form=form)
    assert [one.item for one in found] == sorted(names[20:30], key=lambda item: -score[item])
    np.testing.assert_allclose([r.score for r in found], [score[r.item] for r in found], rtol=1e-4, atol=1e-5)
    by_count = model.rerank(["nobody's"], names[30:20:-1], form=form)
    assert [one.item for one in by_count] == names[21:31] and by_count.fallback == "popularity"
    with pytest.raises(UserError, match="candidates are a list of ids"):
        model.rerank(history, names[0])


@pytest.mark.slow
@pytest.mark.parametrize("form", ["rank", "demote"])
def test_an_event_moves_an_item_by_the_score_that_it_makes(form, model):
    names, full = model.items(10**6), model.manifest["items"]
    history = [Event(names[n], kind) for n, kind in ((3, "play"), (8, "skip"), (5, "thumb_up"))]

    def score(some):
        return {one.item: one.score for one in model.recommend(some, full, form=form)}[names[11]]

    found = model.explain([history[0], Event("nobody's"), *history[1:]], names[11], form=form)
    assert [one.event for one in found] == history
    for n, one in enumerate(found):
        without = score([event for m, event in enumerate(history) if m != n])
        np.testing.assert_allclose(one.change, score(history) - without, rtol=1e-3, atol=1e-5)
    long = [Event(names[n]) for n in range(20)]
    seen = model.explain(long, names[11])
    assert [one.event for one in seen] == long[-model.manifest["length"] :]
    with pytest.raises(UserError, match="item 'nobody' is not in the catalogue"):
        model.explain(history, "nobody")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("choice", "told"),
    [
        (Choice(where={"label": ["x"]}), "no attribute 'label': there are artist"),
        (Choice(at_most={"label": 1}), "no attribute 'label': there are artist"),
        (Choice(at_most={"artist": 0}), "must be a whole number from 1 on, got 0"),
        (Choice(exclude="song"), "what is excluded is a list of ids, got 'song'"),
        (Choice(where={"artist": [7]}), "values of attribute 'artist' are text"),
    ],
)
def test_what_makes_no_sense_is_refused(choice, told, model):
    with pytest.raises(UserError, match=told):
        model.recommend(model.items(2), choice=choice)


@pytest.mark.slow
@pytest.mark.parametrize("at", range(3))
def test_rows_and_codes_that_there_are_not_are_refused(at, model):
    top = (model.manifest["items"], 5, len(model._known.stations))[at]
    for wrong in (-1, top + 1):
        context = np.zeros((3, 2, model.manifest["length"]), np.int32)
        context[at, 1, 0] = wrong
        with pytest.raises(UserError, match=f"must be from 0 to {top}, got {wrong}"):
            model.query(*context)
    of_one = np.zeros((1, model.manifest["length"]), np.int32)
    with pytest.raises(UserError, match="must be of one shape"):
        model.query(*(context[0] if n == at else of_one for n in range(3)))


@pytest.mark.slow
def test_everybody_in_a_log_gets_a_list(model, exported, small_store, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bulk, "TOGETHER", 7)
    log, out = small_store.parent / "log.parquet", tmp_path / "lists.parquet"
    words = [str(exported(LIKES)), *f"--users {log} --out {out} --k 3 --form sum --at-most artist=1".split()]
    recommend.parse(words).run()
    found = pq.read_table(out).to_pylist()
    con = engine.connect()
    events = readers.READERS["table"].read(con, log, readers.READERS["table"].Options())
    of_users = dict(bulk.histories(events))
    assert f"lists of 3 for {len(of_users):,} users" in capsys.readouterr().err
    assert [row["user"] for row in found[::3]] == sorted(of_users) and len(of_users) > 50
    for n, (user, history) in enumerate(of_users.items()):
        times = events.filter(events.user == user).order_by("time", "order").to_pyarrow()
        assert [one.item for one in history] == times["item"].to_pylist()
        expected = model.recommend(history, 3, form="sum", choice=Choice(at_most={"artist": 1}))
        rows = found[3 * n : 3 * n + 3]
        assert [row["item"] for row in rows] == [one.item for one in expected]
        assert [row["rank"] for row in rows] == [1, 2, 3]
        np.testing.assert_allclose(
            [row["score"] for row in rows], [one.score for one in expected], rtol=1e-4, atol=1e-5
        )
    with pytest.raises(UserError, match="exists: choose another file"):
        recommend.parse(words).run()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "needs either --items, a history, or --users"),
        ("--items a --users log --out out", "needs either --items, a history, or --users"),
        ("--users log", "--users and --out go together"),
        ("--items a --out out", "--users and --out go together"),
        ("--items a --where artist", "--where artist: expected a name and a value"),
        ("--items a --at-most artist=two", "'two' is no whole number from 1 on"),
    ],
)
def test_options_that_do_not_go_together_are_refused(words, told, exported):
    with pytest.raises(UserError, match=told):
        recommend.parse([str(exported(LIKES)), *words.split()]).run()
