"""Folders that hold one data set in several sizes or copies: together they would count the same events twice."""

import pathlib
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxneg.errors import UserError

FIXTURES = pathlib.Path(__file__).parent.parent / "fixtures"
MULTI_EVENT = {
    "uid": pa.array([100, 100], pa.uint32()),
    "timestamp": pa.array([4_294_967_290, 4_294_967_295], pa.uint32()),
    "item_id": pa.array([9, 8], pa.uint32()),
    "is_organic": pa.array([1, 0], pa.uint8()),
    "played_ratio_pct": pa.array([50, 255], pa.uint8()),
    "track_length_seconds": pa.array([200, 180], pa.uint32()),
    "event_type": pa.array(["listen", "listen"]).dictionary_encode(),
}


def copy(name, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(FIXTURES / name, target)


def yambda(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(MULTI_EVENT), path)


@pytest.mark.parametrize("places", [("flat/50m", "flat/500m"), ("a", "b", "c"), ("flat/50m", ".")])
def test_yambda_of_several_sizes_is_refused(read, tmp_path, places):
    for place in places:
        yambda(tmp_path / place / "multi_event.parquet")
    with pytest.raises(UserError, match="holds several editions of the data .*: give one of them"):
        read("yambda", tmp_path)
    assert len(read("yambda", tmp_path / places[0], "time")[0]) == 2


def test_yambda_of_one_size_may_be_in_several_files(read, tmp_path):
    yambda(tmp_path / "flat" / "50m" / "multi_event-00000-of-00002.parquet")
    yambda(tmp_path / "flat" / "50m" / "multi_event-00001-of-00002.parquet")
    found, _ = read("yambda", tmp_path, "time", "played")
    assert sorted(found) == [(4_294_967_290_000, 0.5)] * 2 + [(4_294_967_295_000, 1.0)] * 2


KUAI = "log_standard_4_08_to_4_21_pure.csv"


@pytest.mark.parametrize(
    "places",
    [
        ("KuaiRand-Pure/data/" + KUAI, "KuaiRand-1K/data/log_standard_4_08_to_4_21_1k.csv"),
        (KUAI, "log_standard_4_08_to_4_21_1k.csv"),
        (KUAI, "log_standard_4_08_to_4_21_27k_part1.csv"),
        ("data/" + KUAI, "data (1)/" + KUAI),
    ],
)
def test_kuairand_of_several_sizes_is_refused(read, tmp_path, places):
    for place in places:
        copy(f"kuairand/{KUAI}", tmp_path / place)
    with pytest.raises(UserError, match="holds several editions of the data"):
        read("kuairand", tmp_path)
    assert len(read("kuairand", tmp_path / places[0], "time")[0]) == 3


def test_kuairand_of_27k_is_in_parts(read, tmp_path):
    for part in (1, 2):
        copy(f"kuairand/{KUAI}", tmp_path / f"log_standard_4_08_to_4_21_27k_part{part}.csv")
    assert len(read("kuairand", tmp_path, "time")[0]) == 6


@pytest.mark.parametrize("kind", [pa.bool_(), pa.int8(), pa.uint8(), pa.float64()])
def test_kuairand_marks_of_any_type_are_read(read, tmp_path, kind):
    flags = ("is_click", "is_like", "is_follow", "is_comment", "is_forward", "is_hate", "long_view")
    columns = {name: pa.array([1, 1, 0]).cast(kind) for name in flags}
    columns |= {"is_hate": pa.array([0, None, 0]).cast(kind), "is_like": pa.array([1, None, 0]).cast(kind)}
    columns |= {"user_id": [1, 1, 1], "video_id": [5, 6, 7], "tab": [1, 1, 1]}
    columns |= {"time_ms": [10, 11, 12]}
    columns |= {
        "play_time_ms": pa.array([30_000] * 3, pa.uint16()),
        "duration_ms": pa.array([60_000] * 3, pa.uint16()),
    }
    pq.write_table(pa.table(columns), tmp_path / "test.parquet")
    found, _ = read("kuairand", tmp_path, "time", "feedback", "played")
    assert found == [(10, "thumb_up", 0.5), (11, "thumb_up", 0.5), (12, "skip", 0.5)]


@pytest.mark.parametrize(
    "places",
    [
        ("training_set/log_0_20180715_000000000000.csv", "log_mini.csv"),
        ("a/log_0_20180715_000000000000.csv", "b/log_0_20180715_000000000000.csv"),
        ("log_prehistory_20180716_000000000000.csv", "log_0_20180715_000000000000.csv"),
    ],
)
def test_mssd_of_several_editions_is_refused(read, tmp_path, places):
    for place in places:
        copy("mssd/log_0_20180715_000000000000.csv", tmp_path / place)
    with pytest.raises(UserError, match="holds several editions of the data"):
        read("mssd", tmp_path)
    assert len(read("mssd", tmp_path / places[0], "time")[0]) == 5


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("cm100k", {"a/ratings.txt": "cm100k/ratings.txt", "b/ratings.txt": "cm100k/ratings.txt"}),
        (
            "movielens",
            {"ml-1m/ratings.dat": "ml1m/ratings.dat", "ml-20m/ratings.csv": "movielens/ratings.csv"},
        ),
        ("movielens", {"a/ratings.csv": "movielens/ratings.csv", "b/ratings.csv": "movielens/ratings.csv"}),
        ("piki", {"a/piki.csv": "piki/piki_dataset.csv", "b/piki.csv": "piki/piki_dataset.csv"}),
    ],
)
def test_data_sets_of_one_file_are_not_added_up(read, tmp_path, name, files):
    for place, fixture in files.items():
        copy(fixture, tmp_path / place)
    with pytest.raises(UserError, match="give (one|the one)"):
        read(name, tmp_path)


# Fractions of a second.


def test_piki_keeps_fractions_of_a_second(read, tmp_path):
    seconds = ("00.900", "00.600", "02.000", "03.5", "05", "05.999999")
    rows = [
        f"2021-05-01 10:00:{second},u1,{item},1,0\n" for second, item in zip(seconds, "ABCDEF", strict=True)
    ]
    (tmp_path / "piki_dataset.csv").write_text(
        "timestamp,user_id,song_id,liked,personalized\n" + "".join(rows)
    )
    found, _ = read("piki", tmp_path, "item", "time")
    ten = 1_619_863_200_000
    times = {"B": 600, "A": 900, "C": 2000, "D": 3500, "E": 5000, "F": 5999}
    assert found == [(item, ten + time) for item, time in times.items()]
