"""Readers of published data sets, every column on hand-cut lines of their formats."""

import bz2
import pathlib
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxneg.errors import UserError

FIXTURES = pathlib.Path(__file__).parent.parent / "fixtures"
EVENTS = ("user", "item", "time", "feedback")
WEEK = 604_800_000

# VK-LSVD


def test_vk_lsvd_reads_weeks_in_their_order(read):
    found, left_out = read("vk_lsvd", FIXTURES / "vk_lsvd", *EVENTS, "played", "attribute_author")
    a, b = "4000000001", "4000000002"
    assert left_out == {}
    assert found == [
        (a, "7", 0, "play", 1.0, "70"),  # 255 of 200 seconds
        (a, "8", WEEK // 4, "skip", 20 / 60, "80"),
        (a, "9", WEEK + WEEK // 3, "play", None, "70"),  # no length, 5 seconds
        (a, "10", WEEK + WEEK * 2 // 3, "thumb_up", 0.9, "100"),  # bookmark
        (a, "8", 25 * WEEK + WEEK // 2, "skip", 29 / 60, "80"),  # a click on the author is no opinion
        (b, "7", WEEK // 2, "thumb_up", 1 / 200, "70"),
        (b, "9", WEEK * 3 // 4, "skip", None, "70"),  # no length, 4 seconds
        (b, "8", WEEK, "thumb_down", 0.5, "80"),  # dislike outweighs like
        (b, "10", 25 * WEEK, "thumb_up", 1.0, "100"),  # share
    ]


def test_vk_lsvd_has_options(read):
    source = FIXTURES / "vk_lsvd"
    stations, _ = read("vk_lsvd", source, "station", place_station=True)
    assert [station for (station,) in stations] == ["0", "0", "0", "0", "1", "3", "3", "3", "0"]
    kinds, _ = read("vk_lsvd", source, "feedback", played_share=0.4, skip_seconds=6.0)
    assert [kind for (kind,) in kinds][1:5] == ["skip", "skip", "thumb_up", "play"]


def test_vk_lsvd_without_lengths_goes_by_seconds(read, tmp_path):
    shutil.copytree(FIXTURES / "vk_lsvd" / "subsamples" / "ur0.01", tmp_path / "ur0.01")
    found, _ = read("vk_lsvd", tmp_path / "ur0.01", "item", "feedback", "played")
    assert found[:3] == [("7", "play", None), ("8", "play", None), ("9", "play", None)]
    metadata = FIXTURES / "vk_lsvd" / "metadata"
    assert read("vk_lsvd", tmp_path / "ur0.01", *EVENTS, metadata=metadata) == read(
        "vk_lsvd", FIXTURES / "vk_lsvd" / "subsamples" / "ur0.01", *EVENTS
    )


def test_vk_lsvd_wants_one_sample_and_each_week_once(read, tmp_path):
    week = FIXTURES / "vk_lsvd" / "subsamples" / "ur0.01" / "train" / "week_00.parquet"
    for place in ("ur0.01/train", "up0.001_ip0.001/train"):
        (tmp_path / place).mkdir(parents=True)
        shutil.copy(week, tmp_path / place)
    with pytest.raises(UserError, match=r"holds several editions .*up0.001_ip0.001, ur0.01\): give one"):
        read("vk_lsvd", tmp_path)
    shutil.copy(week, tmp_path / "ur0.01" / "train" / "week_00 (1).parquet")
    with pytest.raises(UserError, match="holds week 0 more than once"):
        read("vk_lsvd", tmp_path / "ur0.01")


def test_vk_lsvd_names_what_is_missing(read, tmp_path):
    pq.write_table(pa.table({"user_id": [1], "item_id": [2]}), tmp_path / "week_26.parquet")
    with pytest.raises(UserError, match="columns timespent, like, dislike, share, bookmark missing"):
        read("vk_lsvd", tmp_path)


# DSG17


def test_dsg17_reads_labels(read):
    found, left_out = read("dsg17", FIXTURES / "dsg17", *EVENTS, "attribute_artist", "attribute_genre")
    assert found == [
        ("16547", "250467", 1480544735000, "play", "55830", "25571"),
        ("16547", "305197", 1480544800000, "play", "2704", None),
        ("16547", "250467", 1480598000000, "skip", "55830", "25571"),
        ("9241", "222606", 1480597215000, "skip", "55164", "25471"),
    ]
    assert left_out == {"time before Deezer opened": 1}
    assert [item for (item,) in read("dsg17", FIXTURES / "dsg17", "item", flow_only=True)[0]] == ["305197"]
    stations = read("dsg17", FIXTURES / "dsg17", "station", context_station=True)[0]
    assert stations == [("0",), ("1",), ("0",), ("12",)]


def test_dsg17_says_that_the_test_has_no_labels(read, tmp_path):
    with pytest.raises(UserError, match="test.csv: column is_listened missing; .* test.csv has no labels"):
        read("dsg17", FIXTURES / "dsg17" / "test.csv")
    shutil.copy(FIXTURES / "dsg17" / "test.csv", tmp_path)
    with pytest.raises(UserError, match="test.csv has no labels"):
        read("dsg17", tmp_path)


# RecBole


def test_recbole_reads_ratings_and_fields_of_items(read):
    fields = ("movie_title", "genre")
    columns = (*EVENTS, "attribute_movie_title", "attribute_genre")
    found, _ = read("recbole", FIXTURES / "recbole", *columns, item_fields=fields)
    quoted, other = ("A", "Comedy"), ("Other", None)  # the first of each sequence
    assert found == [
        ("186", "302", 891717742500, "thumb_up", *other),
        ("196", "242", 881250949000, "unknown", *quoted),
        ("22", "242", 878887116000, "thumb_down", *quoted),
        ("22", "302", 878887120000, "thumb_up", *other),
    ]
    strict = read("recbole", FIXTURES / "recbole", "feedback", up=5.0, down=3.0)[0]
    assert [kind for (kind,) in strict] == ["unknown", "thumb_down", "thumb_down", "thumb_up"]
    assert {kind for (kind,) in read("recbole", FIXTURES / "recbole", "feedback", rating_field="")[0]} == {
        "play"
    }


INTER = "user_id:token\titem_id:token\t"


@pytest.mark.parametrize(
    ("header", "rows", "expected"),
    [
        ("label:float\ttimestamp:float", ["1\t10", "0\t11"], [(10, "play"), (11, "skip")]),
        ("timestamp:float", ["1600000000", "1600000001"], [(1600000000000, "play"), (1600000001000, "play")]),
        (
            "timestamp:float",
            ["900000000000", "1600000000250"],
            [(900000000000, "play"), (1600000000250, "play")],
        ),
        ("rating:float", ["-1", "10"], [(0, "unknown"), (1, "thumb_up")]),  # -1: seen, not rated
        ("rating:float\ttimestamp:float", ["\t1", "5\t2"], [(1, "unknown"), (2, "thumb_up")]),
    ],
)
def test_recbole_goes_by_the_fields_that_are_there(read, tmp_path, header, rows, expected):
    lines = [f"u\ti{number}\t{row}" for number, row in enumerate(rows)]
    (tmp_path / "x.inter").write_text("\n".join([INTER + header, *lines]) + "\n")
    assert read("recbole", tmp_path, "time", "feedback")[0] == expected


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("user_id,item_id\n1,2\n", {}, "x.inter: its first line names no fields as field:type"),
        (
            "session_id:token\titem_id:token\n1\t2\n",
            {},
            "no field user_id; it has session_id, item_id: name yours",
        ),
        ("user_id:token\titem_id:token_seq\n1\t2 3\n", {}, "item_id:token_seq holds sequences"),
        (INTER + "rating:float\n1\t2\t117\n", {}, "ratings go up to 117.0, no scale that is known"),
        (INTER + "rating:float\n1\t2\tgood\n", {}, "x.inter, line 2: column rating:float holds 'good'"),
        (INTER + "rating:float\n1\t2\t5\n", {"up": 1.0, "down": 2.0}, "--down must be below --up"),
        (
            INTER + "rating:float\n1\t2\t5\n",
            {"item_fields": ("artist",)},
            "no field artist, and no x.item beside",
        ),
        (INTER + "rating:float\n1\t2\t5\n", {"time_field": "when"}, "no field when"),
    ],
)
def test_recbole_names_what_is_wrong(read, tmp_path, text, options, said):
    (tmp_path / "x.inter").write_text(text)
    with pytest.raises(UserError, match=said):
        read("recbole", tmp_path, **options)


def test_recbole_reads_one_data_set_whole_or_in_parts(read, tmp_path):
    header = INTER + "timestamp:float\n"
    for part, item in (("test", "c"), ("train", "a"), ("valid", "b")):
        (tmp_path / f"x.{part}.inter").write_text(f"{header}u\t{item}\t5\n")
    assert read("recbole", tmp_path, "item")[0] == [("a",), ("b",), ("c",)]
    for name in ("x.inter", "y.inter"):
        (tmp_path / name).write_text(f"{header}u\ta\t5\n")
        with pytest.raises(UserError, match="give one data set, whole or in parts"):
            read("recbole", tmp_path)
        (tmp_path / name).unlink()


# Last.fm 1K


def test_lastfm1k_reads_unquoted_names_and_missing_ids(read):
    found, left_out = read("lastfm1k", FIXTURES / "lastfm1k", *EVENTS, "attribute_artist")
    assert found == [
        ("user_000001", "Placeholder - Second Song", 1241445250000, "play", "Placeholder"),
        ("user_000001", 'The Examples - First "Song', 1241478537000, "play", "The Examples"),
        ("user_000002", 'The Examples - First "Song', 1241445124000, "play", "The Examples"),
    ]
    assert left_out == {"listed twice": 1, "no name of artist or track": 1}


def test_lastfm1k_names_a_line_that_is_cut_off(read, tmp_path):
    path = tmp_path / "userid-timestamp-artid-artname-traid-traname.tsv"
    path.write_text("u\t2009-05-04T23:08:57Z\t\ta\t\tt\nu\t2009-05-04T23:08:57Z\t\ta\n")
    with pytest.raises(UserError, match="traname.tsv, line 2: has 4 columns instead of 6"):
        read("lastfm1k", tmp_path)


# LFM-2b and LFM-1b


def test_lfm2b_reads_events_and_artists(read):
    found, left_out = read("lfm2b", FIXTURES / "lfm2b", *EVENTS, "attribute_artist")
    assert found == [
        ("2", "13184", 1582156865000, "play", "The Examples"),
        ("2", "13185", 1582157105000, "play", "Placeholder"),
        ("3", "13184", 1584662399000, "play", "The Examples"),
    ]
    assert left_out == {"listed twice": 1}


def test_lfm2b_is_read_packed_as_published(read, tmp_path):
    for name in ("listening_events.tsv", "tracks.tsv"):
        (tmp_path / f"{name}.bz2").write_bytes(bz2.compress((FIXTURES / "lfm2b" / name).read_bytes()))
    columns = (*EVENTS, "attribute_artist")
    assert read("lfm2b", tmp_path, *columns) == read("lfm2b", FIXTURES / "lfm2b", *columns)
    assert read("lfm2b", tmp_path / "listening_events.tsv.bz2", *columns) == read("lfm2b", tmp_path, *columns)


@pytest.mark.parametrize(
    ("name", "text", "artist"),
    [
        ("LFM-1b_LEs.txt", "31435741\t2\t4\t14\t1385212958\n", "2"),  # user, artist, album, track, seconds
        ("listening_events.tsv", "31435741\t14\t2013-11-23 13:22:38\n", None),
        ("listening_events.tsv", "31435741\t14\t4\t2013-11-23 13:22:38\n", None),
        ("listening-events.tsv", "user_id\ttrack_id\ttimestamp\n31435741\t14\t2013-11-23 13:22:38\n", None),
        ("listening_events_2020.tsv", "timestamp\ttrack_id\tuser_id\n1385212958\t14\t31435741\n", None),
    ],
)
def test_lfm2b_tells_its_layouts_apart(read, tmp_path, name, text, artist):
    (tmp_path / name).write_text(text)
    columns = EVENTS + ("attribute_artist",) * (artist is not None)
    expected = ("31435741", "14", 1385212958000, "play", artist)[: len(columns)]
    assert read("lfm2b", tmp_path, *columns)[0] == [expected]


def test_lfm2b_refuses_other_layouts(read, tmp_path):
    (tmp_path / "listening_events.tsv").write_text("31435741\t14\n")
    with pytest.raises(UserError, match="2 columns and no header with user_id, track_id and timestamp"):
        read("lfm2b", tmp_path)
    (tmp_path / "LFM-1b_LEs.txt").write_text("1\t2\t3\t4\t5\n")
    with pytest.raises(UserError, match="holds LFM-1b_LEs.txt, listening_events.tsv: give one"):
        read("lfm2b", tmp_path)
