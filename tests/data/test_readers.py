"""Readers on hand-cut lines of their formats, on damaged files, and on the real data where at hand."""

import csv
import dataclasses
import gzip
import json
import os
import pathlib
import shutil
import zipfile

import ibis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxneg.config import UserError
from jaxneg.data import engine, events
from jaxneg.data.prepare_config import PrepareConfig
from jaxneg.data.readers import READERS
from tests.marks import rest_slow

FIXTURES = pathlib.Path(__file__).parent.parent / "fixtures"
DATA = pathlib.Path(os.environ.get("JAXNEG_DATA", "../shared/data"))


@pytest.fixture
def con():
    return engine.connect(memory_limit="1GB", threads=2)


def rows_of(con, name, source, *columns, **options):
    """Rows of a reader in order of the source, as tuples of the columns, once the log passes its checks."""
    reader = READERS[name]
    with engine.reading(source):
        log = reader.read(con, pathlib.Path(source), reader.Options(**options))
        log = engine.keep(con, ibis.util.gen_name("log"), log)
        events.check_events(log)
        found = events.kept(log).order_by("user", "order").to_pyarrow().to_pylist()
    return [tuple(row[column] for column in columns) for row in found] if columns else found


def gzipped(folder, target):
    """A copy of a folder with every file gzipped, as most exports are kept."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            copy = target / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.with_name(copy.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
    return target


def parquet(path, columns):
    pq.write_table(pa.table(columns), path)
    return path


# Spotify


def test_spotify_reads_users_from_folders_and_files_by_number(con):
    found = rows_of(con, "spotify", FIXTURES / "spotify", "user", "item", "feedback", "attribute_artist")
    assert found == [
        ("ann", "The Examples - First Song", "play", "The Examples"),
        ("ann", "The Examples - Second Song", "skip", "The Examples"),
        ("ann", 'Müller & Söhne - Dritter "Titel"', "skip", "Müller & Söhne"),
        ("ann", "The Examples - First Song", "play", "The Examples"),
        ("ann", "Placeholder - Fourth Song", "skip", "Placeholder"),
        ("ben", "The Examples - First Song", "play", "The Examples"),  # no second time from the short form
        ("ben", "The Examples - Second Song", "skip", "The Examples"),  # forward after 45 s
        ("ben", "Placeholder - Fourth Song", "play", "Placeholder"),  # forward after 170 s
        ("ben", "The Examples - First Song", "skip", "The Examples"),  # skipped is true
    ]


def test_spotify_starts_never_run_back_and_end_where_the_export_says(con):
    found = rows_of(con, "spotify", FIXTURES / "spotify" / "ann", "user", "time", "duration")
    eight = 1646121600000  # 2022-03-01 08:00 UTC
    starts = [-200000, 55000, 55000, 2130000, 2159600]  # the third began at 30001 by the clock of minutes
    ends = [0, 60000, 60000, 2160000, 2160000]
    assert [user for user, *_ in found] == ["ann"] * 5
    assert [time - eight for _, time, _ in found] == starts
    assert [time + duration - eight for _, time, duration in found] == ends


def test_spotify_short_plays_can_count_as_unknown(con):
    found = rows_of(con, "spotify", FIXTURES / "spotify" / "ann", "feedback", scroll_seconds=1.0)
    assert [kind for (kind,) in found] == ["play", "skip", "skip", "play", "unknown"]


# KuaiRand

KUAIRAND = [
    ("7", "901", "play", 1.0, "55", "39"),
    ("7", "902", "skip", 0.05, "56", "12"),
    ("7", "903", "thumb_down", 0.9, "55", None),  # hate outweighs like and long view
    ("8", "902", "thumb_up", 0.3, "56", "12"),
    ("8", "901", "unknown", None, "55", "39"),  # clicked, not watched for long; length 0
]
KUAIRAND_COLUMNS = ("user", "item", "feedback", "played", "attribute_author", "attribute_tag")


def test_kuairand_reads_the_standard_logs(con):
    assert rows_of(con, "kuairand", FIXTURES / "kuairand", *KUAIRAND_COLUMNS) == KUAIRAND
    assert rows_of(con, "kuairand", FIXTURES / "kuairand", "time")[0] == (1649400000000,)
    stations = rows_of(con, "kuairand", FIXTURES / "kuairand", "station", tab_station=True)
    assert [station for (station,) in stations] == ["1", "1", "1", "4", "4"]


def test_kuairand_adds_the_random_log_on_request(con):
    found = rows_of(con, "kuairand", FIXTURES / "kuairand", "item", "feedback", randomised=True)
    assert len(found) == 6 and ("903", "skip") in found


def test_kuairand_reads_parquet_in_order_of_its_weeks(con, tmp_path):
    for name, log in (("val", "4_08_to_4_21"), ("test", "4_22_to_5_08")):
        with (FIXTURES / "kuairand" / f"log_standard_{log}_pure.csv").open() as file:
            rows = [{key: int(value) for key, value in row.items()} for row in csv.DictReader(file)]
        table = pa.Table.from_pylist([row | {"author_id": 55, "tag": "unknown"} for row in rows])
        pq.write_table(table, tmp_path / f"{name}.parquet")
    columns = ("user", "item", "feedback", "played", "order", "attribute_author", "attribute_tag")
    expected = [(*row[:4], order, "55", None) for order, row in enumerate(KUAIRAND)]
    assert rows_of(con, "kuairand", tmp_path, *columns) == expected


# Piki


def test_piki_reads_csv_gz_and_zip_alike(con, tmp_path):
    source = FIXTURES / "piki" / "piki_dataset.csv"
    with zipfile.ZipFile(tmp_path / "piki_dataset.zip", "w") as archive:
        archive.write(source, "piki_dataset.csv")
        archive.writestr("__MACOSX/._piki_dataset.csv", "")
    expected = [
        ("4001", "71", 1622541600000, "thumb_down"),
        ("4001", "72", 1622541610000, "thumb_up"),
        ("4002", "71", 1622541605000, "thumb_up"),
    ]
    packed = gzipped(source.parent, tmp_path / "gz") / "piki_dataset.csv.gz"
    for path in (source, source.parent, packed, tmp_path / "piki_dataset.zip"):
        assert rows_of(con, "piki", path, "user", "item", "time", "feedback") == expected
    assert rows_of(con, "piki", source, "item", random_only=True) == [("72",), ("71",)]


# MovieLens and MovieTweetings


def test_movielens_reads_five_star_ratings_with_genres(con):
    found = rows_of(
        con, "movielens", FIXTURES / "movielens", "user", "item", "time", "feedback", "attribute_genre"
    )
    assert found == [
        ("1", "31", 1260759144000, "thumb_down", "Drama"),
        ("1", "1029", 1260759179000, "unknown", None),
        ("2", "31", 835355493000, "thumb_up", "Drama"),
    ]
    strict = rows_of(con, "movielens", FIXTURES / "movielens" / "ratings.csv", "feedback", up=5.0, down=3.0)
    assert [kind for (kind,) in strict] == ["thumb_down", "thumb_down", "unknown"]


def test_movielens_reads_ten_point_ratings_dat(con):
    source = FIXTURES / "movietweetings"
    found = rows_of(con, "movielens", source, "user", "item", "feedback", "attribute_genre")
    assert found == [
        ("1", "0054890", "thumb_up", "Drama"),
        ("2", "1408101", "thumb_down", None),
        ("2", "0054890", "unknown", "Drama"),
    ]


def test_movielens_reads_latin_1_titles(con, tmp_path):
    (tmp_path / "ratings.dat").write_text("1::7::5::978300760\n")
    (tmp_path / "movies.dat").write_bytes("7::Fantômes (1913)::Crime|Drama\n".encode("latin-1"))
    assert rows_of(con, "movielens", tmp_path, "feedback", "attribute_genre") == [("thumb_up", "Crime")]


# CM100k


def test_cm100k_takes_the_order_of_rows_for_time(con):
    found = rows_of(
        con, "cm100k", FIXTURES / "cm100k", "user", "item", "time", "order", "feedback", "attribute_artist"
    )
    assert found == [
        ("11", "5001", 0, 0, "thumb_up", "The Examples"),
        ("11", "5002", 2, 2, "unknown", "Placeholder"),
        ("12", "5001", 1, 1, "thumb_down", "The Examples"),
        ("12", "5003", 3, 3, "thumb_up", None),
    ]
    assert len(rows_of(con, "cm100k", FIXTURES / "cm100k", unknown_only=True)) == 3


# MSSD


def test_mssd_takes_the_session_for_the_user_and_keeps_positions_in_order(con):
    found = rows_of(con, "mssd", FIXTURES / "mssd")
    ids = [f"0_00000000-0000-0000-0000-00000000000{n}" for n in (1, 1, 1, 2, 2)]
    assert [row["user"] for row in found] == ids and [row["session"] for row in found] == ids
    assert [row["feedback"] for row in found] == ["play", "skip", "play", "skip", "play"]
    midnight = 1531612800000  # 2018-07-15 UTC; the first session's hour turns from 23 to 0 within it
    hours = [(row["time"] - midnight) / 3_600_000 for row in found]
    assert hours == [23 + 1 / 3600, 23 + 2 / 3600, 23 + 3 / 3600, 9 + 1 / 3600, 9 + 2 / 3600]
    attributes = [(row["attribute_decade"], row["attribute_tempo"]) for row in found]
    a, b = ("1980s", "120"), ("2010s", "80")
    assert attributes == [a, b, (None, None), b, a]


def test_mssd_keeps_sessions_that_are_all_radio(con, tmp_path):
    found = rows_of(con, "mssd", FIXTURES / "mssd", "user", context_type="radio")
    assert {user[-1] for (user,) in found} == {"1"} and len(found) == 3
    packed = gzipped(FIXTURES / "mssd", tmp_path)
    assert rows_of(con, "mssd", packed) == rows_of(con, "mssd", FIXTURES / "mssd")


# Yambda

YAMBDA = {
    "uid": pa.array([100] * 6, pa.uint32()),
    "timestamp": pa.array([0, 5, 5, 10, 15, 20], pa.uint32()),
    "item_id": pa.array([9, 8, 9, 7, 9, 7], pa.uint32()),
    "is_organic": pa.array([1, 0, 1, 1, 1, 0], pa.uint8()),
    "played_ratio_pct": pa.array([50, 49, None, None, None, 110], pa.uint16()),
    "track_length_seconds": pa.array([200, 180, None, None, None, 90], pa.uint32()),
    "event_type": pa.array(["listen", "listen", "like", "dislike", "unlike", "listen"]).dictionary_encode(),
}


def test_yambda_reads_all_kinds_of_events(con, tmp_path):
    parquet(tmp_path / "multi_event.parquet", YAMBDA)
    assert rows_of(con, "yambda", tmp_path, "user", "item", "time", "feedback", "played") == [
        ("100", "9", 0, "play", 0.5),
        ("100", "8", 5000, "skip", 0.49),
        ("100", "9", 5000, "thumb_up", None),
        ("100", "7", 10000, "thumb_down", None),
        ("100", "9", 15000, "unknown", None),
        ("100", "7", 20000, "play", 1.0),
    ]
    assert len(rows_of(con, "yambda", tmp_path, organic_only=True)) == 4


def test_yambda_names_an_unknown_event_type(con, tmp_path):
    columns = YAMBDA | {"event_type": pa.array(["listen"] * 5 + ["share"])}
    with pytest.raises(UserError, match="column feedback holds 'share'"):
        rows_of(con, "yambda", parquet(tmp_path / "multi_event.parquet", columns))


# Table

NAMED = {"user": "who", "item": "what", "time": "when", "feedback": "vote", "attributes": ("artist",)}
TABLE_COLUMNS = ("user", "item", "time", "feedback", "played", "attribute_artist")
TABLE = [
    ("u1", "i1", 1600000000000, "thumb_up", 1.0, "The Examples"),
    ("u1", "i2", 1600000010000, "skip", 0.2, "Placeholder"),
    ("u2", "i1", 1600000020000, "thumb_up", 0.5, "The Examples"),
]


@pytest.mark.parametrize(
    "kind",
    rest_slow(
        ["csv", "tsv", "csv.gz", "crlf", "jsonl", "jsonl.gz", "parquet", "directory"],
        ["tsv", "csv.gz", "jsonl", "parquet", "directory"],
    ),
)
def test_table_reads_every_kind_of_file_alike(con, tmp_path, kind):
    text = (FIXTURES / "table" / "log.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    lines = "".join(
        json.dumps(row | {"when": int(row["when"]), "vote": float(row["vote"])}) + "\n" for row in rows
    )
    source = tmp_path / f"log.{kind}"
    if kind == "csv":
        source = FIXTURES / "table" / "log.csv"
    elif kind == "tsv":
        source.write_text(text.replace(",", "\t"))
    elif kind == "csv.gz":
        source.write_bytes(gzip.compress(text.encode()))
    elif kind == "crlf":
        source = tmp_path / "log.csv"
        source.write_bytes(("\ufeff" + text).replace("\n", "\r\n").encode())
    elif kind == "jsonl":
        source.write_text(lines)
    elif kind == "jsonl.gz":
        source.write_bytes(gzip.compress(lines.encode()))
    elif kind == "parquet":
        columns = {name: [row[name] for row in rows] for name in ("who", "what", "artist")}
        numbers = {"when": [int(row["when"]) for row in rows], "vote": [float(row["vote"]) for row in rows]}
        parquet(source, columns | numbers | {"frac": [float(row["frac"]) for row in rows]})
    else:
        source = tmp_path
        header, *lines = text.splitlines(keepends=True)
        for number, line in zip((2, 9, 10), lines, strict=True):
            (tmp_path / f"part{number}.csv").write_text(header + line)
    found = rows_of(con, "table", source, *TABLE_COLUMNS, **NAMED, played="frac", values="1=thumb_up,0=skip")
    assert found == TABLE


def test_table_derives_feedback_from_the_share_played(con):
    options = {**NAMED, "feedback": "feedback", "played": "frac"}
    found = rows_of(con, "table", FIXTURES / "table" / "log.csv", "feedback", **options)
    assert [kind for (kind,) in found] == ["play", "skip", "play"]
    found = rows_of(con, "table", FIXTURES / "table" / "log.csv", "feedback", **options, threshold=0.6)
    assert [kind for (kind,) in found] == ["play", "skip", "skip"]


@pytest.mark.parametrize(
    ("text", "unit", "milliseconds"),
    [
        ("1600000000", "auto", 1600000000000),
        pytest.param("1600000000.25", "auto", 1600000000250, marks=pytest.mark.slow),
        pytest.param("1600000000123", "auto", 1600000000123, marks=pytest.mark.slow),
        pytest.param("1600000000123456", "auto", 1600000000123, marks=pytest.mark.slow),
        ("1600000000", "order", 1600000000),
        pytest.param("12", "ms", 12, marks=pytest.mark.slow),
        pytest.param("2020-09-13 12:26:40", "auto", 1600000000000, marks=pytest.mark.slow),
        ("2020-09-13T12:26:40.5Z", "auto", 1600000000500),
        ("2020-09-13T14:26:40+02:00", "auto", 1600000000000),
        pytest.param("2020-09-13 12:26", "auto", 1599999960000, marks=pytest.mark.slow),
        pytest.param("2020-09-13", "auto", 1599955200000, marks=pytest.mark.slow),
        ("1600000000123456789", "auto", 1600000000123),
    ],
)
def test_table_understands_times(con, tmp_path, text, unit, milliseconds):
    (tmp_path / "log.csv").write_text(f"user,item,time,feedback\nu,i,{text},play\n")
    assert rows_of(con, "table", tmp_path, "time", time_unit=unit) == [(milliseconds,)]


def test_table_reads_timestamps_sessions_and_stations_of_parquet(con, tmp_path):
    stamps = pa.array([1600000000123], pa.timestamp("ms", "UTC"))
    columns = {
        "user": [1],
        "item": [2],
        "time": stamps,
        "feedback": ["skip"],
        "session": [3],
        "station": ["rock"],
    }
    parquet(tmp_path / "log.parquet", columns)
    found = rows_of(con, "table", tmp_path, "user", "item", "time", "session", "station")
    assert found == [("1", "2", 1600000000123, "3", "rock")]


@pytest.mark.parametrize("scale", [10**-3, 1, 10**3, 10**6])
def test_table_tells_the_unit_of_whole_numbers(con, tmp_path, scale):
    columns = {"user": [1], "item": [2], "time": [int(1600000000000 * scale)], "feedback": ["skip"]}
    assert rows_of(con, "table", parquet(tmp_path / "log.parquet", columns), "time") == [(1600000000000,)]


def test_table_keeps_the_milliseconds_of_text(con, tmp_path):
    times = {
        "2023-11-14 22:13:20.600": 1_700_000_000_600,  # above half a second, which is not rounded up
        "2023-11-14T22:13:20.499Z": 1_700_000_000_499,
        "2023-11-14T22:13:20": 1_700_000_000_000,
        "2023-11-14T23:13:20.000500+01:00": 1_700_000_000_000,
        "1969-12-31 23:59:59.250": -750,
    }
    lines = ["user,item,time,feedback", *(f"u,i,{time},play" for time in times)]
    (tmp_path / "log.csv").write_text("\n".join(lines) + "\n")
    found = rows_of(con, "table", tmp_path / "log.csv", "time", time_unit="order")  # one lies before 1990
    assert found == [(time,) for time in times.values()]


def test_table_without_a_clock_takes_the_order_of_rows(con, tmp_path):
    (tmp_path / "log.csv").write_text("user,item,feedback\nu,i,play\nu,j,skip\n")
    assert rows_of(con, "table", tmp_path, "time", time="") == [(0,), (1,)]


def test_table_keeps_the_order_of_a_large_file(con, tmp_path):
    count = 300_000
    lines = "\n".join(f"u,{number},1704103200,play" for number in range(count))
    (tmp_path / "log.csv").write_text(f"user,item,time,feedback\n{lines}\n")
    log = READERS["table"].read(con, tmp_path, READERS["table"].Options())
    assert log.filter(log.item.cast("int64") != log.order).count().to_pyarrow().as_py() == 0
    assert log.count().to_pyarrow().as_py() == count


# Bad input: one line that names the file, and the column where there is one.


def bad_table(text):
    return lambda folder: (folder / "log.csv").write_text(text)


def bad_rows(text):
    return bad_table("user,item,time,feedback\n" + text)


def cut(name, keep=0.5):
    """Writes the first part of a fixture's gzip, as an interrupted download leaves it."""

    def write(folder):
        packed = gzip.compress((FIXTURES / name).read_bytes())
        (folder / (pathlib.Path(name).name + ".gz")).write_bytes(packed[: int(len(packed) * keep)])

    return write


def cut_text(name):
    return lambda folder: (folder / pathlib.Path(name).name).write_bytes((FIXTURES / name).read_bytes()[:-60])


def cut_parquet(folder):
    path = parquet(folder / "multi_event.parquet", YAMBDA)
    path.write_bytes(path.read_bytes()[:-20])


def replaced(name, old, new, to=None):
    text = (FIXTURES / name).read_text()
    assert old in text
    return lambda folder: (folder / (to or pathlib.Path(name).name)).write_text(text.replace(old, new))


ANN = "spotify/ann/StreamingHistory9.json"
KUAI = "kuairand/log_standard_4_22_to_5_08_pure.csv"
MSSD = "mssd/log_0_20180715_000000000000.csv"
BAD = [
    (
        "table",
        bad_table("user,item,when,feedback\nu,i,5,play\n"),
        "log.csv: column time missing; it has user, item, when",
    ),
    ("table", bad_table("user,item,time\nu,i,5\n"), "log.csv: no column feedback and no column played"),
    ("table", bad_rows("u,i,noon,play\n"), "column time holds 'noon', which is no time"),
    ("table", bad_rows("u,i,1704103200,loved\n"), "column feedback holds 'loved'"),
    ("table", bad_rows(""), "the log is empty"),
    ("table", bad_table(""), "log.csv is empty"),
    ("table", bad_rows(",i,5,play\n"), "column user has no value in any row"),
    ("table", bad_rows("u,i,5,play\nu,i\n"), "log.csv, line 3: has 2 columns instead of 4"),
    ("table", bad_table("user,item,time,feedback,played\nu,i,5,play,much\n"), "column played holds 'much'"),
    ("table", lambda folder: (folder / "notes.md").write_text("x"), "holds no file named"),
    (
        "table",
        lambda folder: (folder / "a.jsonl").write_text('{"user": 1, "it'),
        "a.jsonl: not readable as JSON",
    ),
    (
        "spotify",
        lambda folder: (folder / "StreamingHistory_podcast_0.json").write_text("[]"),
        "holds no music",
    ),
    ("spotify", lambda folder: None, r"holds no file named \*StreamingHistory\*.json"),
    ("spotify", cut(ANN), "StreamingHistory9.json.gz: its gzip stream is cut off"),
    ("spotify", cut_text(ANN), "StreamingHistory9.json: damaged or half-written"),
    ("spotify", replaced(ANN, "200000", '"long"'), "StreamingHistory9.json, .*long"),
    ("spotify", replaced(ANN, "2022-03-01 08:00", "now"), "column endTime holds 'now'"),
    ("spotify", replaced(ANN, "msPlayed", "played"), "column msPlayed missing"),
    ("spotify", lambda folder: (folder / "StreamingHistory0.json").write_text("[]"), "the log is empty"),
    ("kuairand", lambda folder: None, r"holds no file named log_standard\*.csv"),
    ("kuairand", replaced(KUAI, "is_hate", "hate"), "column is_hate missing"),
    (
        "kuairand",
        replaced(KUAI, "1650600000000", "x"),
        "pure.csv, line 2: column time_ms holds 'x', which is not a whole number",
    ),
    ("piki", replaced("piki/piki_dataset.csv", "liked", "like"), "piki_dataset.csv: column liked missing"),
    (
        "piki",
        replaced("piki/piki_dataset.csv", "2021-06-01 10:00:10", "later"),
        "column timestamp holds 'later'",
    ),
    (
        "piki",
        lambda folder: (folder / "piki.zip").write_bytes(b"PK\x03\x04no"),
        "piki.zip: damaged or half-written zip",
    ),
    (
        "movielens",
        replaced("movielens/ratings.csv", "3.0", "good"),
        "ratings.csv, line 3: column rating holds 'good'",
    ),
    ("movielens", cut("movielens/ratings.csv", 0.7), "ratings.csv.gz: its gzip stream is cut off"),
    (
        "movielens",
        replaced("movietweetings/ratings.dat", "::5::", "::"),
        "ratings.dat, line 2: has 3 columns instead of 4",
    ),
    (
        "cm100k",
        replaced("cm100k/ratings.txt", "\t3\t", "\tthree\t"),
        "ratings.txt, line 1: column rating holds 'three'",
    ),
    ("mssd", replaced(MSSD, "skip_2", "skip2"), "column skip_2 missing"),
    ("mssd", replaced(MSSD, "9,2018-07-15", "9,soon"), "column date holds 'soon'"),
    ("mssd", cut(MSSD), "csv.gz: its gzip stream is cut off"),
    ("yambda", cut_parquet, "multi_event.parquet: damaged or half-written"),
    (
        "yambda",
        lambda folder: (folder / "multi_event.parquet").write_bytes(b""),
        "multi_event.parquet: damaged",
    ),
    (
        "yambda",
        lambda folder: parquet(folder / "multi_event.parquet", {"uid": [1]}),
        "columns item_id, timestamp, ",
    ),
    (
        "yambda",
        lambda folder: parquet(folder / "multi_event.parquet", YAMBDA | {"timestamp": ["x"] * 6}),
        "column timestamp holds 'x', which is not a whole number",
    ),
]


@pytest.mark.parametrize(
    ("name", "write", "said"), BAD, ids=[f"{row[0]}-{number}" for number, row in enumerate(BAD)]
)
def test_bad_input_gives_one_line_that_names_the_place(con, tmp_path, name, write, said):
    write(tmp_path)
    with pytest.raises(UserError, match=said) as caught:
        rows_of(con, name, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", READERS)
def test_a_source_that_is_not_there_is_named(con, tmp_path, name):
    with pytest.raises(UserError, match="no file or directory .*nowhere"):
        rows_of(con, name, tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"values": "1=liked"}, "'1=liked' is no value=kind"),
        ({"values": "1"}, "'1' is no value=kind"),
        ({"user": "customer"}, "column customer missing"),
        ({"station": "channel"}, "column channel missing"),
        ({"session_id": "visit"}, "column visit missing"),
        ({"attributes": ("composer",)}, "column composer missing"),
    ],
)
def test_table_names_wrong_options(con, options, said):
    with pytest.raises(UserError, match=said):
        rows_of(con, "table", FIXTURES / "table" / "log.csv", **(NAMED | options))


def test_movielens_wants_its_thresholds_in_order(con):
    with pytest.raises(UserError, match="--down must be below --up, got 4 and 3"):
        rows_of(con, "movielens", FIXTURES / "movielens", up=3.0, down=4.0)


def test_a_gzip_cut_off_far_behind_its_header_is_noticed(con, tmp_path):
    lines = "".join(f"u{number % 97},{number},{number * 7919 % 100_003},play\n" for number in range(100_000))
    packed = gzip.compress(b"user,item,time,feedback\n" + lines.encode())
    (tmp_path / "log.csv.gz").write_bytes(packed[:-1000])
    with pytest.raises(UserError, match="log.csv.gz: its gzip stream is cut off or damaged"):
        rows_of(con, "table", tmp_path)


def test_a_late_error_in_a_stream_names_file_line_and_column(con, tmp_path):
    lines = "u\t1\t3\t0\n" * 200_000
    (tmp_path / "ratings.txt").write_text(lines + "u\t1\tmany\t0\n")
    log = READERS["cm100k"].read(con, tmp_path, READERS["cm100k"].Options())
    with pytest.raises(UserError, match="ratings.txt, line 200001: column rating holds 'many'"):
        with engine.reading(tmp_path):
            for _ in engine.stream(log):
                pass
    assert con.raw_sql("SELECT 1").fetchall() == [(1,)]


def test_directories_of_two_kinds_are_refused(con, tmp_path):
    shutil.copy(FIXTURES / "table" / "log.csv", tmp_path)
    parquet(tmp_path / "log.parquet", {"user": [1]})
    with pytest.raises(UserError, match="holds csv and parquet files: give files of one kind"):
        rows_of(con, "table", tmp_path)
    (tmp_path / "log.parquet").unlink()
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="other.csv: columns who, what, when missing; it has a, b"):
        rows_of(con, "table", tmp_path, **NAMED)


@pytest.mark.parametrize("name", READERS)
def test_readers_say_how_to_prepare_them(name):
    reader = READERS[name]
    assert reader.preset in events.PRESETS
    assert dataclasses.is_dataclass(reader.Options) and reader.Options.__dataclass_params__.frozen  # type: ignore[attr-defined]
    reader.Options()


@pytest.mark.parametrize("name", READERS)
def test_options_of_readers_and_of_prepare_can_share_a_command_line(name):
    own = {field.name for field in dataclasses.fields(READERS[name].Options)}
    assert not own & {field.name for field in dataclasses.fields(PrepareConfig)}


# Real data, against the table of its README; of Spotify, less the plays of unknown artists and tracks.

REAL = [  # reader, folder, users, items, events, shares of + / neutral / -
    ("spotify", "spotify_history", 5, 23_524, 148_387, (0.635, 0.0, 0.365)),
    ("cm100k", "cm100k", 843, 1_084, 82_841, (0.287, 0.317, 0.396)),
    ("kuairand", "kuairand_pure", 20_131, 6_176, 181_932, (0.317, 0.128, 0.555)),
    ("movielens", "ml_latest_small_2016", 671, 9_066, 100_004, (0.516, 0.306, 0.178)),
    ("movielens", "movietweetings", 16_865, 11_458, 113_314, (0.501, 0.355, 0.144)),
    ("piki", "piki_sample", 47, 337, 500, (0.436, 0.0, 0.564)),
]


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "folder", "users", "items", "count", "shares"), REAL, ids=[row[1] for row in REAL]
)
def test_real_data_count_as_published(con, name, folder, users, items, count, shares):
    log = READERS[name].read(con, DATA / folder, READERS[name].Options())
    assert events.check_events(log) == count
    log = events.kept(log)
    signs = events.PRESETS["default"]
    kinds = dict(
        zip(*log.group_by("feedback").agg(n=log.count()).to_pyarrow().to_pydict().values(), strict=True)
    )
    for sign, share in zip((1, 0, -1), shares, strict=True):
        assert round(sum(n for kind, n in kinds.items() if signs[kind] == sign) / count, 3) == share
    totals = (
        log.aggregate(u=log.user.nunique(), i=log.item.nunique(), o=log.order.nunique())
        .to_pyarrow()
        .to_pylist()
    )
    assert totals == [{"u": users, "i": items, "o": count}]
    for attribute in events.attribute_names(log):
        constant = log.group_by("item").agg(n=log[attribute].nunique()).n.max()
        assert constant.to_pyarrow().as_py() == 1


@pytest.mark.realdata
def test_real_spotify_users_and_sessions_count_as_published(con):
    log = READERS["spotify"].read(con, DATA / "spotify_history", READERS["spotify"].Options())
    assert events.left_out(log) == {"unknown artist or track": 888}
    log = events.kept(log)
    ahead = ibis.window(group_by="user", order_by=["time", "order"])
    log = log.mutate(
        gap=log.time - (log.time + log.duration).lag().over(ahead), back=log.order.lag().over(ahead)
    )
    found = log.group_by("user").agg(
        plays=log.count(),
        skips=(log.feedback == "skip").mean().round(3),
        songs=log.item.nunique(),
        sessions=(log.gap.isnull() | (log.gap > 30 * 60_000)).sum(),
        out_of_order=(log.back > log.order).sum(),
    )
    assert [tuple(row.values()) for row in found.order_by("user").to_pyarrow().to_pylist()] == [
        ("u1", 54_429, 0.402, 6_405, 1_705, 0),
        ("u2", 37_584, 0.371, 9_262, 1_938, 0),
        ("u3", 28_872, 0.403, 4_610, 1_685, 0),
        ("u4", 18_688, 0.103, 3_076, 1_193, 0),
        ("u5", 8_814, 0.547, 1_825, 461, 0),
    ]
