"""Logs as people have them: each folder of tests/corpus is a case, see the README there."""

import csv
import datetime
import pathlib
import shlex

import numpy as np
import pyarrow.parquet as pq
import pytest

from jaxneg import cli
from jaxneg.batch import FEEDBACK
from jaxneg.data import store as stores

CORPUS = pathlib.Path(__file__).parent / "corpus"
CASES = sorted(path.parent.name for path in CORPUS.glob("*/arguments"))
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
            rows.append({
                "user": user, "session": str(seen[user]),
                "time": moment.replace(tzinfo=None).isoformat(timespec="milliseconds"),
                "item": vocabulary.names([int(item[k])])[0], "feedback": FEEDBACK[feedback[k]],
                "station": stations[station[k]],
            })  # fmt: skip
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
