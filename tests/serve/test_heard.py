"""What a listener gets of whom nothing is known: counted here by a plain loop over the log."""

import collections

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxneg.data import stores
from jaxneg.files.arrays import Damaged
from jaxneg.serve import heard, stations
from jaxneg.serve.choice import Choice
from jaxneg.serve.scorer import Event, Scorer


@pytest.fixture(scope="module")
def store(small_store):
    return stores.Store.open(small_store)


@pytest.fixture(scope="module")
def counts(store):
    """station row -> item row -> events of the training window that do not reject it."""
    found = collections.defaultdict(collections.Counter)
    ends = zip(np.asarray(store.session_indptr), np.asarray(store.session_train_end), strict=False)
    for begin, end in ends:
        for t in range(begin, end):
            if store.sign[store.feedback_T[t]] >= 0:
                found[int(store.station_T[t])][int(store.item_T[t])] += 1
    return found


def test_items_of_a_station_are_in_the_order_of_their_counts(store, counts, monkeypatch):
    for together in (stations.TOGETHER, 50):
        monkeypatch.setattr(stations, "TOGETHER", together)
        column = stations.most_heard(store, most=7)
        assert len(column) == 4
        for station, rows in enumerate(column.to_pylist(), start=1):
            of = counts[station]
            assert rows == sorted(of, key=lambda row: (-of[row], row))[:7]


@pytest.mark.slow
def test_a_listener_of_whom_nothing_is_known_gets_what_is_heard_at_the_station(exported, counts):
    model = Scorer.open(exported("tied"))
    names, ids = model.items(10**6), pq.read_table(exported("tied") / "stations.parquet")["id"].to_pylist()
    for station, name in enumerate(ids, start=1):
        of = {names[row - 1]: count for row, count in counts[station].items()}
        order = sorted(names, key=lambda item: (-of.get(item, 0), names.index(item)))
        assert order != names
        for found in (
            model.recommend([], 30, station=name),
            model.recommend([Event("nobody's", "play", name)], 30),
            model.recommend_many([[Event("nobody's", "skip", name)]], 30)[0],
        ):
            assert [one.item for one in found] == order[:30] and found.fallback == "station"
        kept = [item for item in order if item not in order[:3]]
        found = model.recommend([], 10**6, station=name, choice=Choice(exclude=order[:3]))
        assert [one.item for one in found] == kept
        found = model.rerank([], names[20:30], station=name)
        assert [one.item for one in found] == [item for item in order if item in names[20:30]]
        assert found.fallback == "station"
    assert model.recommend([], station="none such").fallback == "popularity"
    assert model.recommend(names[:1], station=ids[0]).fallback is None


@pytest.mark.parametrize("seed", range(30))
def test_what_leads_is_what_a_look_at_all_items_finds(seed):
    rng = np.random.default_rng(seed)
    items = int(rng.integers(1, 40))
    at_station = [rng.permutation(items)[: rng.integers(items + 1)] + 1 for _ in range(2)]
    known = heard.Heard(items, pa.array(at_station, heard.KIND))
    out_N, some_N = (rng.integers(1, items + 1, rng.integers(2 * items)) for _ in range(2))
    for station in range(3):
        here = at_station[station - 1].tolist() if station else []
        every = [*here, *(row for row in range(1, items + 1) if row not in here)]
        kept = [row for row in every if row not in out_N]
        for n in (1, items // 2, items, 2 * items):
            assert known.best(n, out_N, station).tolist() == kept[:n]
        found = known.ordered(np.unique(some_N), station).tolist()
        assert found == [row for row in every if row in some_N]


@pytest.mark.parametrize(
    ("rows", "said"), [([[1, 1]], "twice"), ([[0]], "none"), ([[9]], "holds 9"), ([None], "nothing")]
)
def test_rows_that_cannot_be_are_refused(rows, said):
    heard.check(pa.array([[2, 1], []], heard.KIND), 5, "stations.parquet")
    with pytest.raises(Damaged, match=f"stations.parquet.*{said}"):
        heard.check(pa.array(rows, heard.KIND), 5, "stations.parquet")
