"""Spotify: whose plays they are, the same play listed twice, plays without a connection, and rows that are no plays."""

import json
import zipfile

import pytest

from jaxneg.errors import UserError
from tests.marks import rest_slow

EIGHT = 1_709_280_000_000  # 2024-03-01 08:00 UTC
SECOND, MINUTE, DAY = 1000, 60_000, 86_400_000
TITLES = ("Alpha", "Beta", "Gamma")


def stamp(milliseconds):
    """ISO text of a time in UTC, by the calendar of March and April 2024."""
    seconds = (milliseconds - EIGHT) // SECOND + 8 * 3600
    day, seconds = divmod(seconds, 86_400)
    month, day = (3, day + 1) if day < 31 else (4, day - 30)
    return f"2024-{month:02d}-{day:02d}T{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def play(end, track="Alpha", **other):
    """A row of the extended form."""
    row = {
        "ts": stamp(end) + "Z",
        "platform": "ios",
        "ms_played": 200_000,
        "conn_country": "ZZ",
        "ip_addr": "0.0.0.0",
        "master_metadata_track_name": track,
        "master_metadata_album_artist_name": "Art",
        "master_metadata_album_album_name": "Album",
        "spotify_track_uri": f"spotify:track:{track}",
        "episode_name": None,
        "episode_show_name": None,
        "spotify_episode_uri": None,
        "reason_start": "trackdone",
        "reason_end": "trackdone",
        "shuffle": False,
        "skipped": False,
        "offline": False,
        "offline_timestamp": None,
        "incognito_mode": False,
    }
    return row | other


def short(end, track="Alpha", artist="Art", played=200_000):
    """A row of the short form, whose clock has minutes."""
    text = stamp(end).replace("T", " ")[:16]
    return {"endTime": text, "artistName": artist, "trackName": track, "msPlayed": played}


def plays(count=8, first=EIGHT):
    return [play(first + k * 4 * MINUTE, TITLES[k % 3]) for k in range(count)]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows), encoding="utf-8")


# The same play in several files.


@pytest.mark.parametrize(
    "other",
    rest_slow(
        ["endsong_0.json", "Streaming_History_Audio_2024_0 (1).json", "Copy of endsong_3.json"],
        ["Copy of endsong_3.json"],
    ),
)
def test_exports_that_overlap_are_counted_once(read, tmp_path, other):
    write(tmp_path / "me" / "Streaming_History_Audio_2024_0.json", plays(8))
    write(tmp_path / "me" / other, plays(12)[4:])
    found, left_out = read("spotify", tmp_path / "me", "user", "time")
    assert found == [("me", EIGHT + k * 4 * MINUTE - 200_000) for k in range(12)]
    assert left_out == {"listed twice": 4}


def test_fields_that_only_one_export_has_do_not_part_a_play(read, tmp_path):
    write(tmp_path / "me" / "endsong_0.json", [row | {"username": "ann_1"} for row in plays(3)])
    rows = [row | {"audiobook_title": None, "spotify_track_uri": "spotify:track:other"} for row in plays(3)]
    write(tmp_path / "me" / "Streaming_History_Audio_2024_0.json", rows)
    found, left_out = read("spotify", tmp_path / "me", "user")
    assert found == [("me",)] * 3 and left_out == {"listed twice": 3}


def test_short_plays_of_one_minute_are_kept_as_often_as_one_file_has_them(read, tmp_path):
    twice = [short(EIGHT, played=0), short(EIGHT, played=0), short(EIGHT + MINUTE, "Beta")]
    write(tmp_path / "me" / "StreamingHistory0.json", twice)
    write(tmp_path / "me" / "StreamingHistory_music_0.json", twice[1:] + [short(EIGHT + 9 * MINUTE, "Gamma")])
    found, left_out = read("spotify", tmp_path / "me", "item")
    assert found == [("Art - Alpha",), ("Art - Alpha",), ("Art - Beta",), ("Art - Gamma",)]
    assert left_out == {"listed twice": 2}


def test_one_person_cannot_play_a_track_twice_within_its_length(read, tmp_path):
    write(tmp_path / "me" / "endsong_0.json", [*plays(3), plays(3)[1]])
    write(
        tmp_path / "me" / "endsong_1.json",
        [play(EIGHT + DAY, ms_played=300), play(EIGHT + DAY, ms_played=300)],
    )
    found, left_out = read("spotify", tmp_path / "me", "item")
    # scrolled past twice within a second is possible
    assert len(found) == 5 and left_out == {"listed twice": 1}


def test_a_link_to_a_file_is_that_file(read, tmp_path):
    write(tmp_path / "me" / "endsong_0.json", plays(3))
    (tmp_path / "me" / "endsong_1.json").symlink_to(tmp_path / "me" / "endsong_0.json")
    found, left_out = read("spotify", tmp_path / "me", "item")
    assert len(found) == 3 and left_out == {}


def test_the_short_form_adds_what_the_extended_one_does_not_cover(read, tmp_path):
    write(tmp_path / "me" / "Streaming_History_Audio_2024_0.json", plays(3))
    rows = [short(EIGHT + k * 4 * MINUTE, TITLES[k % 3]) for k in range(-1, 5)]
    write(tmp_path / "me" / "StreamingHistory0.json", rows)
    found, left_out = read("spotify", tmp_path / "me", "item", "time", "duration")
    assert [item[-5:].strip() for item, _, _ in found] == ["Gamma", "Alpha", "Beta", "Gamma", "Alpha", "Beta"]
    assert [time + length for _, time, length in found] == [EIGHT + k * 4 * MINUTE for k in range(-1, 5)]
    assert left_out == {"also in the extended history": 3}


# Whose plays they are.


@pytest.mark.parametrize(
    "folder",
    rest_slow(
        ["MyData", "Spotify Extended Streaming History", "my_spotify_data (1)"], ["my_spotify_data (1)"]
    ),
)
def test_directories_named_by_spotify_are_not_people(read, tmp_path, folder):
    write(tmp_path / "ann" / folder / "Streaming_History_Audio_2024_0.json", plays(2))
    write(tmp_path / "ann" / "Spotify Account Data" / "StreamingHistory_music_0.json", [short(EIGHT + DAY)])
    assert read("spotify", tmp_path / "ann", "user")[0] == [("ann",)] * 3
    assert read("spotify", tmp_path / "ann" / folder, "user")[0] == [("ann",)] * 2
    write(tmp_path / "ben" / folder / "endsong_0.json", plays(1))
    assert read("spotify", tmp_path, "user")[0] == [("ann",)] * 3 + [("ben",)]


def test_accounts_in_one_directory_are_told_apart(read, tmp_path):
    for number, name in enumerate(("ann_1", "ben_2")):
        rows = [row | {"username": name} for row in plays(2)]
        write(tmp_path / "all" / f"endsong_{number}.json", rows)
    assert read("spotify", tmp_path / "all", "user")[0] == [("ann_1",)] * 2 + [("ben_2",)] * 2
    assert read("spotify", tmp_path / "all", "user", person="ann")[1] == {"listed twice": 2}
    write(tmp_path / "all" / "Streaming_History_Audio_2024_0.json", plays(1, EIGHT + DAY))
    with pytest.raises(UserError, match="all mixes exports of ann_1 and ben_2 with some that do not say"):
        read("spotify", tmp_path / "all")


def test_one_account_in_several_directories_is_one_person(read, tmp_path):
    rows = [row | {"username": "ann_1"} for row in plays(4)]
    write(tmp_path / "2021" / "endsong_0.json", rows[:3])
    write(tmp_path / "2024" / "endsong_0.json", rows[1:])
    found, left_out = read("spotify", tmp_path, "user")
    assert found == [("ann_1",)] * 4 and left_out == {"listed twice": 2}


def test_exports_of_one_person_can_be_named(read, tmp_path):
    for year in ("2021", "2024"):
        write(tmp_path / year / "StreamingHistory0.json", [short(EIGHT), short(EIGHT + 9 * MINUTE)])
    assert {user for (user,) in read("spotify", tmp_path, "user")[0]} == {"2021", "2024"}
    found, left_out = read("spotify", tmp_path, "user", person="ann")
    assert found == [("ann",)] * 2 and left_out == {"listed twice": 2}


@pytest.mark.parametrize(
    "name",
    rest_slow(["my_spotify_data.zip", "my_spotify_data (1).ZIP", "ann.zip"], ["my_spotify_data (1).ZIP"]),
)
def test_the_zip_is_read_as_downloaded(read, tmp_path, name):
    (tmp_path / "ann").mkdir()
    with zipfile.ZipFile(tmp_path / "ann" / name, "w", zipfile.ZIP_DEFLATED) as archive:
        member = "Spotify Extended Streaming History/Streaming_History_Audio_2024_0.json"
        archive.writestr(member, json.dumps(plays(8)))
        archive.writestr("Spotify Extended Streaming History/ReadMeFirst.pdf", b"%PDF")
        archive.writestr(
            "__MACOSX/Spotify Extended Streaming History/._Streaming_History_Audio_2024_0.json", b"x"
        )
    write(tmp_path / "ben" / "endsong_0.json", plays(2))
    assert read("spotify", tmp_path / "ann" / name, "user")[0] == [("ann",)] * 8
    assert read("spotify", tmp_path / "ann", "user")[0] == [("ann",)] * 8
    assert read("spotify", tmp_path, "user")[0] == [("ann",)] * 8 + [("ben",)] * 2


def test_a_zip_beside_what_was_unpacked_of_it_counts_once(read, tmp_path):
    write(tmp_path / "me" / "MyData" / "StreamingHistory0.json", [short(EIGHT)])
    with zipfile.ZipFile(tmp_path / "me" / "my_spotify_data.zip", "w") as archive:
        archive.writestr(
            "MyData/StreamingHistory0.json", json.dumps([short(EIGHT), short(EIGHT + MINUTE, "Beta")])
        )
    found, left_out = read("spotify", tmp_path / "me", "user", "item")
    assert found == [("me", "Art - Alpha"), ("me", "Art - Beta")] and left_out == {"listed twice": 1}


# Plays without a connection.


@pytest.mark.parametrize("unit", rest_slow([1, 1000, 1_000_000], [1, 1000]))
def test_plays_without_a_connection_start_when_they_did(read, tmp_path, unit):
    began = [EIGHT + k * 5 * MINUTE for k in range(8)]
    sent = EIGHT + 4 * DAY
    rows = [
        play(sent - k * SECOND, offline=True, offline_timestamp=began[k] // SECOND * unit) for k in range(8)
    ]
    write(tmp_path / "me" / "Streaming_History_Audio_2024_0.json", [*plays(3, EIGHT + DAY), *rows])
    found, _ = read("spotify", tmp_path / "me", "time", "duration")
    online = [(EIGHT + DAY + k * 4 * MINUTE - 200_000, 200_000) for k in range(3)]
    assert found == [(time, 200_000) for time in began] + online


@pytest.mark.parametrize(
    ("offline", "seconds"),
    [
        (True, 0),
        pytest.param(True, 1, marks=pytest.mark.slow),  # 1970
        (True, None),
        (True, (EIGHT + 3 * DAY) // SECOND),  # after it was sent
        pytest.param(True, (EIGHT - 400 * DAY) // SECOND, marks=pytest.mark.slow),
        pytest.param(True, -1, marks=pytest.mark.slow),
        pytest.param(True, 4_102_444_800, marks=pytest.mark.slow),  # 2100
        (False, (EIGHT - DAY) // SECOND),  # with a connection the stamp is right
        pytest.param(None, (EIGHT - DAY) // SECOND, marks=pytest.mark.slow),
    ],
)
def test_a_start_that_cannot_be_true_is_not_believed(read, tmp_path, offline, seconds):
    write(tmp_path / "me" / "endsong_0.json", [play(EIGHT, offline=offline, offline_timestamp=seconds)])
    assert read("spotify", tmp_path / "me", "time", "duration")[0] == [(EIGHT - 200_000, 200_000)]


# Rows that are no plays of a track.


def test_what_is_no_play_of_a_track_is_left_out_and_counted(read, tmp_path):
    rows = [
        play(EIGHT),
        play(EIGHT + 4 * MINUTE, ms_played=None),
        play(EIGHT + 8 * MINUTE, ms_played=-1),
        play(EIGHT + 12 * MINUTE, None, master_metadata_album_artist_name=None, episode_name="An episode"),
        play(EIGHT + 16 * MINUTE, None, master_metadata_album_artist_name=None, audiobook_title="A book"),
        play(EIGHT + 20 * MINUTE, None, master_metadata_album_artist_name=None),
        play(EIGHT + 24 * MINUTE, "Unknown Track", master_metadata_album_artist_name="Unknown Artist"),
        play(EIGHT + 28 * MINUTE, "", master_metadata_album_artist_name=" "),
        {name: value for name, value in play(EIGHT + 32 * MINUTE).items() if name != "ms_played"},
        play(EIGHT + 36 * MINUTE, ms_played=0),
        play(EIGHT + 40 * MINUTE, incognito_mode=True),
        play(EIGHT) | {"ts": None},
    ]
    write(tmp_path / "me" / "Streaming_History_Audio_2024_0.json", rows[::-1])
    found, left_out = read("spotify", tmp_path / "me", "time", "feedback")
    times = [EIGHT - 200_000, EIGHT + 36 * MINUTE, EIGHT + 40 * MINUTE - 200_000]
    assert found == [(times[0], "play"), (times[1], "skip"), (times[2], "play")]
    expected = {
        "no length played": 3,
        "podcasts and audiobooks": 2,
        "unknown artist or track": 3,
        "no time": 1,
    }
    assert left_out == expected


def test_short_podcasts_and_unknown_tracks_are_left_out_and_counted(read, tmp_path):
    rows = [short(EIGHT + k * 4 * MINUTE, TITLES[k % 3]) for k in range(4)]
    rows[1:1] = [short(EIGHT + MINUTE, "Unknown Track", "Unknown Artist"), short(EIGHT + MINUTE, "x", "")]
    write(tmp_path / "me" / "StreamingHistory_music_0.json", rows)
    spoken = {"endTime": "2024-03-01 08:00", "podcastName": "P", "episodeName": "E", "msPlayed": 5}
    write(tmp_path / "me" / "StreamingHistory_podcast_0.json", [spoken, spoken])
    found, left_out = read("spotify", tmp_path / "me", "item")
    assert found == [("Art - Alpha",), ("Art - Beta",), ("Art - Gamma",), ("Art - Alpha",)]
    assert left_out == {"podcasts and audiobooks": 2, "unknown artist or track": 2}


def test_a_row_without_a_length_does_not_move_the_others(read, tmp_path):
    rows = [*plays(8), play(EIGHT + 26 * 3600 * SECOND, ms_played=None), play(EIGHT + 27 * 3600 * SECOND)]
    write(tmp_path / "me" / "Streaming_History_Audio_2024_0.json", rows)
    found, left_out = read("spotify", tmp_path / "me", "time")
    expected = [EIGHT + k * 4 * MINUTE - 200_000 for k in range(8)]
    assert found == [(time,) for time in [*expected, EIGHT + 27 * 3600 * SECOND - 200_000]]
    assert left_out == {"no length played": 1}


def test_music_videos_are_plays(read, tmp_path):
    write(tmp_path / "me" / "Streaming_History_Audio_2024_0.json", plays(8))
    video = [*plays(2, EIGHT + DAY), play(EIGHT + DAY, None, episode_name="An episode")]
    write(tmp_path / "me" / "Streaming_History_Video_2024.json", video)
    found, left_out = read("spotify", tmp_path / "me", "item")
    assert len(found) == 10 and left_out == {"podcasts and audiobooks": 1}


def test_fractions_of_a_second_are_kept(read, tmp_path):
    rows = [play(EIGHT, ms_played=500) | {"ts": f"2024-03-01T08:00:00.{part}Z"} for part in ("900", "600")]
    write(tmp_path / "me" / "endsong_0.json", rows)
    assert read("spotify", tmp_path / "me", "time")[0] == [(EIGHT + 100,), (EIGHT + 400,)]
