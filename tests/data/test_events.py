"""The event schema and its checks, on logs written out by hand."""

import ibis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxneg.config import UserError
from jaxneg.data import engine, events

GOOD = {"user": "u", "time": 5, "order": 0, "item": "i", "feedback": "play", "played": 0.5}
SCHEMA = pa.schema([field.with_nullable(True) for field in events.EVENT_SCHEMA.to_pyarrow()])


@pytest.fixture
def load(tmp_path):
    """Puts an arrow table into the engine, by way of a file, as readers do."""
    con = engine.connect(memory_limit="500MB", threads=1)

    def load(table):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.parquet"
        pq.write_table(table, path)
        return con.read_parquet(str(path))

    return load


def log(load, *rows):
    return load(pa.Table.from_pylist([GOOD | row for row in rows], schema=SCHEMA))


def test_a_good_log_passes_and_is_counted(load):
    rows = [{"feedback": kind, "order": order, "played": None} for order, kind in enumerate(events.KINDS)]
    assert events.check_events(log(load, *rows)) == len(events.KINDS)


def test_columns_come_in_the_order_of_the_schema(load):
    table = load(pa.table({"a": [7], "b": ["x"], "order": [3]}))
    play = ibis.literal("play")
    found = events.select(
        table, user=table.a, item=table.b, time=table.a, feedback=play, attributes={"genre": table.a}
    )
    assert found.columns == (*events.EVENT_SCHEMA, "attribute_genre")
    [row] = found.to_pyarrow().to_pylist()
    assert {name: value for name, value in row.items() if value is not None} == {
        "user": "7",
        "time": 7,
        "order": 3,
        "item": "x",
        "feedback": "play",
        "attribute_genre": "7",
    }
    assert events.check_events(found) == 1


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "the log is empty"),
        ([{}, {"user": None}], "column user has no value in 1 of 2 rows"),
        ([{}, {"item": ""}, {"item": None}], "column item has no value in 2 of 3 rows"),
        ([{"time": None}], "column time has no value in 1 of 1 rows"),
        ([{"feedback": None}], "column feedback has no value"),
        ([{}, {"feedback": "loved"}], r"column feedback holds 'loved' \(1 of 2 rows"),
        ([{"played": 1.5}], r"column played holds 1.5 \(1 of 1 rows"),
        ([{"played": float("nan")}], "column played holds nan"),
    ],
)
def test_bad_values_are_named_with_their_column_and_count(load, rows, said):
    with pytest.raises(UserError, match=said) as caught:
        events.check_events(log(load, *rows))
    assert "\n" not in str(caught.value)


def test_missing_mistyped_and_unknown_columns_are_named(load):
    table = log(load, {})
    with pytest.raises(UserError, match="column item is missing; there are user, session"):
        events.check_events(table.drop("item"))
    with pytest.raises(UserError, match="column time must be int64, not string"):
        events.check_events(table.mutate(time=table.time.cast("string")))
    with pytest.raises(UserError, match="unknown column artist: extra columns are named attribute_<name>"):
        events.check_events(table.mutate(artist=ibis.literal("x")))
    with pytest.raises(UserError, match="column attribute_year must be string, not int"):
        events.check_events(table.mutate(attribute_year=ibis.literal(1999)))


def test_attributes_never_double_an_event(load):
    rows = [{"item": "i", "order": 0}, {"item": "j", "order": 1}, {"item": "k", "order": 2}]
    items = pa.table({"item": ["i", "i", "j"], "attribute_genre": ["rock", "jazz", None]})
    items = load(items)
    found = events.with_attributes(log(load, *rows), items).order_by("order").to_pyarrow()
    assert found["attribute_genre"].to_pylist() == ["jazz", None, None]
    assert found["order"].to_pylist() == [0, 1, 2]
    assert tuple(found.column_names) == (*events.EVENT_SCHEMA, "attribute_genre")


@pytest.mark.parametrize("name", events.PRESETS)
def test_presets_give_every_kind_a_sign(name):
    signs = events.PRESETS[name]
    assert set(signs) == set(events.KINDS)
    assert set(signs.values()) <= {-1, 0, 1}
    assert signs["thumb_up"] == 1 and signs["thumb_down"] == -1 and signs["unknown"] == 0


def test_a_stream_gives_all_rows_in_batches_and_leaves_the_connection_free(load):
    table = load(pa.table({"n": range(5000)}))
    batches = list(engine.stream(table.order_by("n"), rows=1000))
    assert len(batches) > 1
    assert [n for batch in batches for n in batch.column(0).to_pylist()] == list(range(5000))
    left_early = engine.stream(table, rows=1000)
    next(left_early)
    left_early.close()
    assert table.count().to_pyarrow().as_py() == 5000


def test_a_wrong_memory_limit_is_the_users_mistake():
    with pytest.raises(UserError, match="memory limit 'lots'"):
        engine.connect(memory_limit="lots")
