"""Logs as people have them: each folder of tests/corpus is a case, see the README there."""

import csv
import datetime
import itertools
import os
import pathlib
import shlex

import numpy as np
import pyarrow.parquet as pq
import pytest

from jaxneg import cli
from jaxneg.batch import FEEDBACK
from jaxneg.data import stores

CORPUS = pathlib.Path(__file__).parents[1] / "corpus"
NAMES = sorted(path.parent.name for path in CORPUS.glob("*/arguments"))
QUICK = 1  # cases of a kind that run every time; the others are slow together
CASES = [
    pytest.param(name, marks=[] if number < QUICK else [pytest.mark.slow])
    for _, kind in itertools.groupby(NAMES, key=lambda name: name[0])
    for number, name in enumerate(kind)
]
SPLIT = "--split tail --test-share 0.01 --valid-share 0 --min-user-events 1 --memory-limit 500MB".split()


def events_of(folder):
    """Events of a store in its order, in the words of expected.csv; sessions are numbered within a user."""
    store = stores.Store.open(folder)
    users = pq.read_table(folder / "users.parquet")["id"].to_pylist()
    stations = ["", *pq.read_table(folder / "stations.parquet")["id"].to_pylist()]
    vocabulary, rows, seen = store.vocabulary(), [], {}
    columns = (store.item_T, store.feedback_T, store.time_T, store.station_T)
    item, feedback, time, station = (np.asarray(column[:]) for column in columns)
    for number, user in enumerate(users[code] for code in store.session_user):
        seen[user] = seen.get(user, -1) + 1
        for k in range(*store.session_indptr[number : number + 2]):
            moment = datetime.datetime.fromtimestamp(0, datetime.UTC) + datetime.timedelta(
                milliseconds=int(time[k])
            )
            rows.append(
                {
                    "user": user,
                    "session": str(seen[user]),
                    "time": moment.replace(tzinfo=None).isoformat(timespec="milliseconds"),
                    "item": vocabulary.names([int(item[k])])[0],
                    "feedback": FEEDBACK[feedback[k]],
                    "station": stations[station[k]],
                }
            )
    return rows


def prepared(arguments, out, capsys):
    """Exit status of prepare and what it said."""
    try:
        cli.main(["prepare", *arguments, "--out", str(out), *SPLIT])
        status = 0
    except SystemExit as end:
        status = end.code
    return status, capsys.readouterr().err


def refused(status, said, expected, out):
    lines = [line for line in said.splitlines() if line.startswith("jaxneg: ")]
    assert status == 2, said
    assert len(lines) == 1 and "Traceback" not in said
    assert expected in lines[0]
    assert not out.exists()


@pytest.mark.parametrize("name", CASES)
def test_case(name, tmp_path, monkeypatch, capsys):
    folder, out = CORPUS / name, tmp_path / "store"
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    status, said = prepared(shlex.split((folder / "arguments").read_text()), out, capsys)
    assert sorted(folder.rglob("*")) == before
    if (folder / "error.txt").exists():
        refused(status, said, (folder / "error.txt").read_text().strip(), out)
        return
    assert not status, said
    with open(folder / "expected.csv", newline="", encoding="utf-8") as file:
        assert events_of(out) == list(csv.DictReader(file))
    if (folder / "says.txt").exists():
        assert (folder / "says.txt").read_text().strip() in said


# Cases that reviewers keep beside the data: what is right of each.

TIMES = [f"2024-01-01T10:{4 * k:02}:00.000" for k in range(6)]
LISTENS = "--user user_name --time listened_at --item track_metadata"


def column(name):
    return lambda rows: [row[name] for row in rows]


def distinct(name):
    return lambda rows: sorted({row[name] for row in rows})


def lengths(rows):
    """Events of each session."""
    keys = [(row["user"], row["session"]) for row in rows]
    return [keys.count(key) for key in dict.fromkeys(keys)]


def jazz(rows):
    return sum(row["station"] == "jazz" for row in rows)


LISTED = [
    ("table 01-order/session.csv --session-id order", lengths, [2, 3, 3]),
    ("table 01-order/filename.jsonl --item filename", distinct("item"), ["A.mp3", "B.mp3", "C.mp3"]),
    ("table 02-json-keys/station.jsonl", jazz, 6),
    ("table 02-json-keys/blank-first.jsonl", len, 8),
    ("table 03-schemas/big", distinct("item"), ["7", "8", "9007199254740992", "9007199254740993"]),
    ("table 03-schemas/station", jazz, 6),
    ("table 03-schemas/null", lambda rows: (len(rows), jazz(rows)), (12, 6)),
    ("table 04-narrow/uint32.parquet --time-unit s", column("time"), TIMES),
    ("table '05-brackets/plays[1].csv'", distinct("user"), ["b1"]),
    ("spotify 07-spotify-overlap/me", len, 8),
    ("spotify 08-spotify-unknown/me", "rows left out: 4 unknown artist or track", None),  # and 4 are too few
    (
        "spotify 09-spotify-offline/me",
        lambda rows: column("time")(rows)[:8],
        [f"2024-03-01T08:{5 * k:02}:00.000" for k in range(8)],
    ),
    ("spotify 10-spotify-null-ms/me", lambda rows: (len(rows), distinct("session")(rows)), (8, ["0"])),
    ("spotify 11-spotify-video/me", len, 10),
    ("table 12-hidden/spark", len, 6),
    ("table 12-hidden/mac", len, 8),
    ("table 13-left-out/upper", distinct("user"), ["feb", "jan"]),
    (
        "table 14-dates/compact.csv",
        lambda rows: column("time")(rows)[:2],
        ["2024-01-15T09:30:00.000", "2024-01-15T10:30:00.000"],
    ),
    ("table 14-dates/excel.csv", "--time-unit", None),
    (
        "table 15-quotes/refused.tsv",
        lambda rows: (len(rows), column("item")(rows)[1]),
        (7, '"Heroes" (live)'),
    ),
    ("table 16-path", column("time"), TIMES),
    ("table 16-path-csv", distinct("user"), ["u1", "u2"]),
    ("table 17-nan/session.parquet", lengths, [12]),
    ("table 17-nan/time.csv", "column time has no value in 1 of 8 rows", None),
    ("table 18-float-ids", distinct("user"), ["1"]),
    ("table 19-types/list.parquet", "column item holds lists", None),
    ("table 19-types/struct.parquet", "column item holds objects", None),
    (f"table 19-types/listenbrainz.jsonl {LISTENS}", "column track_metadata holds objects", None),
    (f"table 19-types/listenbrainz.jsonl {LISTENS}.track_name", distinct("item"), ["A", "B", "C"]),
    ("table 19-types/duration.parquet", "column time holds durations", None),
    ("table 19-types/twice.parquet", "two columns are named item", None),
    (
        "piki 20-piki/piki_dataset.csv",
        lambda rows: [(row["item"], row["time"][17:]) for row in rows][:4],
        [("B", "00.600"), ("A", "00.900"), ("C", "02.000"), ("A", "03.500")],
    ),
    ("yambda 21-sizes/yambda", "several editions", None),
    ("table 22-messages/newlines.csv", "its lines end in different ways", None),
    ("table 22-messages/bom.jsonl", len, 8),
    ("table 22-messages/case.csv", len, 8),
    ("table 22-messages/no-user.csv --user ''", "name the column of users", None),
    ("table 22-messages/no-user.csv --one-user me", distinct("user"), ["me"]),
    ("spotify 22-messages/my_spotify_data.zip", len, 8),
    ("table 22-messages/words.csv", "holds words for no value", None),
    (
        "table 22-messages/no-opinion.csv --values like=thumb_up,=unknown",
        distinct("feedback"),
        ["thumb_up", "unknown"],
    ),
]


@pytest.fixture
def listed():
    """The folder of these cases."""
    folder = pathlib.Path(os.environ.get("JAXNEG_DATA", "../shared/data")).resolve().parent / "cases" / "data"
    if not folder.is_dir():
        pytest.skip(f"no cases at {folder}")
    return folder


@pytest.mark.realdata
@pytest.mark.parametrize(("arguments", "look", "right"), LISTED, ids=[case[0] for case in LISTED])
def test_listed_case(arguments, look, right, tmp_path, listed, monkeypatch, capsys):
    monkeypatch.chdir(listed)
    status, said = prepared(shlex.split(arguments), tmp_path / "store", capsys)
    if isinstance(look, str):
        refused(status, said, look, tmp_path / "store")
        return
    assert not status, said
    assert look(events_of(tmp_path / "store")) == right
