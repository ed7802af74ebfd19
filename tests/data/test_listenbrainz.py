"""ListenBrainz: what an opinion on a recording says about the listens of it, and exports that overlap."""

import json
import pathlib
import shutil
import zipfile

import pytest

from jaxneg.errors import UserError
from tests.marks import rest_slow

FIXTURE = pathlib.Path(__file__).parent.parent / "fixtures" / "listenbrainz"
FIRST = "10000000-0000-0000-0000-000000000001"
SECOND, THIRD = (f"00000000-0000-0000-0000-0000000000a{number}" for number in (2, 3))


def test_an_export_is_read(read):
    columns = ("user", "item", "time", "feedback", "played", "duration", "attribute_artist")
    found, left_out = read("listenbrainz", FIXTURE, *columns)
    me, examples = "example_listener", "The Examples"
    assert found == [
        (me, FIRST, 1694000000000, "play", None, 200_000, examples),  # loved later
        (me, SECOND, 1694000250000, "play", 0.5, 90_000, examples),
        (me, FIRST, 1697000000000, "thumb_up", None, 200_000, examples),  # loved 100 s after it began
        (me, THIRD, 1697000200000, "thumb_down", None, None, "Placeholder"),  # hated, after a love
        (me, FIRST, 1697000400000, "thumb_up", None, None, "Examples"),  # matched by the id that was sent
        (me, SECOND, 1697000700000, "play", None, None, examples),
    ]
    assert left_out == {"opinions on recordings without a listen": 1}


@pytest.mark.parametrize("whole", rest_slow([True, False], [True]))
def test_the_zip_is_read_as_downloaded(read, tmp_path, whole):
    path = tmp_path / "listenbrainz_example_listener_1700000000.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(FIXTURE.rglob("*.json*")):
            if whole or file.name != "user.json":
                archive.write(file, file.relative_to(FIXTURE))
    columns = ("user", "item", "time", "feedback")
    assert read("listenbrainz", path, *columns) == read("listenbrainz", FIXTURE, *columns)


def test_one_file_of_an_export_is_plays_of_its_user(read):
    found, _ = read("listenbrainz", FIXTURE / "listens" / "2023" / "9.jsonl", "user", "feedback")
    assert found == [("example_listener", "play")] * 2


def test_a_listen_soon_followed_by_another_can_count_as_a_skip(read):
    # 250 s after 200 s began; none is known to be as long as the rest
    kinds = [kind for (kind,) in read("listenbrainz", FIXTURE, "feedback", skip_share=0.9)[0]]
    assert kinds == ["play", "play", "thumb_up", "thumb_down", "thumb_up", "play"]
    assert read("listenbrainz", FIXTURE, "feedback", skip_share=1.5)[0][0] == ("skip",)


def listen(time, track, **other):
    details = {"artist_name": "x", "track_name": track, "additional_info": {"tracknumber": "0"}}
    return {"listened_at": time, "track_metadata": details} | other


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([(1, 250)], ["play", "thumb_up", "thumb_up"]),  # from the last listen before it on
        pytest.param([(-1, 200)], ["play", "thumb_down", "thumb_down"], marks=pytest.mark.slow),
        ([(-1, 50)], ["thumb_down"] * 3),  # before all listens
        pytest.param([(1, None)], ["thumb_up"] * 3, marks=pytest.mark.slow),
        ([(1, 250), (0, 260)], ["play"] * 3),  # taken back
        ([(-1, 900), (1, 150)], ["play", "play", "thumb_down"]),
    ],
)
def test_an_opinion_stands_from_the_listen_before_it(read, tmp_path, given, expected):
    msid = "00000000-0000-0000-0000-000000000001"
    write(
        tmp_path / "listens" / "1970" / "1.jsonl",
        [listen(t, "A", recording_msid=msid) for t in (100, 200, 300)],
    )
    opinions = [{"recording_msid": msid, "recording_mbid": None, "score": s, "created": t} for s, t in given]
    write(tmp_path / "feedback.jsonl", opinions)
    assert [kind for (kind,) in read("listenbrainz", tmp_path, "feedback")[0]] == expected


def test_dumps_name_their_users(read, tmp_path):
    rows = [listen(1704103200 + k, "AB"[k % 2], user_name=f"u{k % 3}") for k in range(6)]
    write(tmp_path / "1.listens", rows)
    found, _ = read("listenbrainz", tmp_path / "1.listens", "user", "item")
    assert found == [
        ("u0", "x - A"),
        ("u0", "x - B"),
        ("u1", "x - B"),
        ("u1", "x - A"),
        ("u2", "x - A"),
        ("u2", "x - B"),
    ]


def test_exports_that_overlap_are_counted_once(read, tmp_path):
    shutil.copytree(FIXTURE, tmp_path / "listenbrainz_example_1700000000")
    shutil.copytree(FIXTURE, tmp_path / "listenbrainz_example_1710000000")
    later = tmp_path / "listenbrainz_example_1710000000" / "listens" / "2023" / "10.jsonl"
    text = later.read_text().replace(
        '{}, "mbid_mapping": null', '{"recording_mbid": "m"}, "mbid_mapping": null'
    )
    later.write_text(text)  # by then the second and third song were matched
    found, left_out = read("listenbrainz", tmp_path, "item", "feedback")
    assert len(found) == 6 and {item for item, _ in found} == {FIRST, "m"}
    assert left_out["listed twice"] == 6


@pytest.mark.parametrize(
    ("name", "user"), [("listenbrainz_ann_1700000000", "ann"), ("listenbrainz_b_c_1", "b_c"), ("ann", "ann")]
)
def test_without_user_json_the_directory_names_the_user(read, tmp_path, name, user):
    write(tmp_path / name / "listens" / "2024" / "1.jsonl", [listen(1704103200, "A")])
    assert read("listenbrainz", tmp_path / name, "user")[0] == [(user,)]


def test_rows_that_are_no_listens_are_left_out_and_counted(read, tmp_path):
    nameless = {"listened_at": 1704103200, "track_metadata": {"track_name": "A", "additional_info": None}}
    write(tmp_path / "1.jsonl", [listen(1704103200, "A"), listen(0, "B"), listen(None, "C"), nameless])
    found, left_out = read("listenbrainz", tmp_path, "item")
    assert found == [("x - A",)] and left_out == {"no time": 2, "no name of artist or track": 1}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("feedback.jsonl", "{}", "holds no listens, only feedback.jsonl"),
        ("1.jsonl", '{"listened_at": 1}\n', "column track_metadata missing"),
        ("notes.txt", "", "holds no file named"),
    ],
)
def test_sources_without_listens_are_refused(read, tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=said):
        read("listenbrainz", tmp_path)


def test_a_user_json_that_says_nothing_is_named(read, tmp_path):
    shutil.copytree(FIXTURE, tmp_path / "export")
    (tmp_path / "export" / "user.json").write_text("{}")
    with pytest.raises(UserError, match="user.json: holds no username"):
        read("listenbrainz", tmp_path / "export")
