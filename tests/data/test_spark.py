"""Spark gives the store that DuckDB gives, bit for bit. A real PySpark in local mode; needs Java and

pip install "jaxneg[spark]"
"""

import csv
import hashlib
import json
import random
import shutil

import ibis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxneg.config import UserError
from jaxneg.data import engine, events, prepare, prepare_config, readers, stores
from jaxneg.data.prepare_config import PrepareConfig
from jaxneg.simulation import simulator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # PySpark warns of versions of pandas and of open sockets
    pytest.mark.skipif(shutil.which("java") is None, reason="no Java: Spark needs Java 17"),
]
pytest.importorskip("pyspark", reason='no PySpark: pip install "jaxneg[spark]"')

USERS = ["u1", "u 2", "Ü3", "ü3", "用户", "zz", "Zz", "u10", "u9", "\U0001f3b5"]
ITEMS = ["a", "B", "ä", "Ä", "b,c", 'd"e', "é", "e\u0301", "歌", "\U0001f3b6", "z", "10", "9"]


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    """A connection of each engine."""
    return {
        name: engine.connect("1GB", threads=2, temp_dir=tmp_path_factory.mktemp(name), engine=name)
        for name in ("duckdb", "spark")
    }


@pytest.fixture(scope="module")
def rows():
    """Events with ties of time, nulls, ids that sort apart by locale and by bytes."""
    rng = random.Random(7)
    artist = {item: rng.choice(["x", "Y", "é", None]) for item in ITEMS}
    found = []
    for _ in range(700):
        item = rng.choice(ITEMS)
        found.append(
            {
                "user": rng.choice(USERS),
                "session": f"s{rng.randrange(9)}",
                "station": rng.choice([None, "jazz", "Rock", "ñ"]),
                "time": 1_700_000_000_000 + 60_000 * rng.randrange(300),
                "item": item,
                "feedback": rng.choice(events.KINDS),
                "played": rng.choice([None, 0.0, 0.25, 1.0]),
                "duration": rng.choice([None, 0, 180_000]),
                "artist": artist[item],
            }
        )
    return found


def write(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=97)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            out = csv.DictWriter(file, rows[0])
            out.writeheader()
            out.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def digest(store):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(store.iterdir())}


def stores_of(engines, reader, source, out, settings, options=None):
    """Digests of the store by each engine."""
    found, reader_ = {}, readers.READERS[reader]
    for name, con in engines.items():
        with engine.reading(source):
            log = reader_.read(con, source, options or reader_.Options())
            given = prepare_config.with_defaults(settings, **reader_.settings)
            prepare.prepare(log, out / "store", given, con, reader=reader, source="log")
        found[name] = digest(out / "store")
    assert stores.Store.open(out / "store").events > 0
    return found["duckdb"], found["spark"]


@pytest.mark.parametrize(
    "session, split, layout, more",
    [
        ("given", "tail", "parquet", {"shard_events": 150}),
        ("gap", "time", "parquet", {"gap_minutes": 20.0, "min_item_count": 3, "min_session_events": 2}),
        ("station", "leave-last", "csv", {}),
        ("user", "tail", "jsonl", {"min_user_events": 60}),
    ],
)
def test_spark_gives_the_store_of_duckdb(engines, rows, tmp_path, session, split, layout, more):
    source = tmp_path / "a log é+%41"
    source.mkdir()
    for k, size in enumerate((300, 20, 380)):  # three files, whose order is not that of their sizes
        write(source / f"{'part'} {8 + k}.{layout}", rows[sum((300, 20, 380)[:k]) :][:size])
    settings = PrepareConfig(session=session, split=split, **more)
    options = readers.READERS["table"].Options(attributes=("artist",))
    duckdb, spark = stores_of(engines, "table", source, tmp_path, settings, options)
    assert duckdb == spark
    assert ("event_item-00000-of-00004.npy" in duckdb or "event_item-00000-of-00005.npy" in duckdb) == (
        "shard_events" in more
    )


def test_rows_without_a_clock_keep_their_places(engines, rows, tmp_path):
    """Times are then the positions in the source, so that these are the same to the last row."""
    for layout in ("parquet", "csv", "jsonl"):
        source = tmp_path / layout
        source.mkdir()
        write(source / f"2.{layout}", rows[400:])
        write(source / f"1.{layout}", rows[:400])
        options = readers.READERS["table"].Options(time="")
        duckdb, spark = stores_of(engines, "table", source, tmp_path, PrepareConfig(), options)
        assert duckdb == spark


def test_times_as_text_are_the_same(engines, rows, tmp_path):
    import datetime

    def text(k, time):
        moment = datetime.datetime.fromtimestamp(time / 1000 + k % 1000 / 1000, datetime.UTC)
        return moment.isoformat(sep=" " if k % 2 else "T").replace("+00:00", "" if k % 3 else "Z")

    write(tmp_path / "log.csv", [row | {"time": text(k, row["time"])} for k, row in enumerate(rows)])
    duckdb, spark = stores_of(engines, "table", tmp_path / "log.csv", tmp_path, PrepareConfig())
    assert duckdb == spark


def test_a_simulated_log_through_both(engines, tmp_path):
    config = simulator.SimulateConfig(users=200, sessions=900, items=150)
    simulator.write(simulator.simulate(config), tmp_path / "log.parquet")
    settings = PrepareConfig(shard_events=4000)
    duckdb, spark = stores_of(engines, "table", tmp_path / "log.parquet", tmp_path, settings)
    assert duckdb == spark and "event_time-00003-of-00004.npy" in spark


def test_streams_keep_an_order_over_many_parts(engines, tmp_path):
    numbers = [{"n": (k * 7919) % 10_007} for k in range(10_007)]
    write(tmp_path / "numbers.parquet", numbers)
    con = engines["spark"]
    table = con.read_parquet(str(tmp_path / "numbers.parquet"))
    batches = list(engine.stream(table.order_by(ibis.desc("n")), rows=1000))
    assert [n for batch in batches for n in batch["n"].to_pylist()] == list(range(10_006, -1, -1))
    assert max(len(batch) for batch in batches) <= 1000


def test_a_wrong_value_is_told_in_one_line(engines, rows, tmp_path):
    write(tmp_path / "log.csv", [*rows, rows[0] | {"played": "much"}])
    with pytest.raises(UserError) as told:
        stores_of({"spark": engines["spark"]}, "table", tmp_path / "log.csv", tmp_path, PrepareConfig())
    assert "much" in str(told.value) and "\n" not in str(told.value)
