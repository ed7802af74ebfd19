"""The description of a store, worked out by hand."""

import io
import json

import ibis
import numpy as np
import pyarrow as pa
import pytest
import rich.console

from jaxneg.data import describe, engine, prepare, stores
from jaxneg.data.prepare_config import PrepareConfig


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Users a (6 events), b (2), c (1, liked): one session each, the last two of three or more held out."""
    feedback = {
        "a": ["play", "skip", "play", "thumb_up", "play", "skip"],
        "b": ["skip", "play"],
        "c": ["play"],
    }
    rows = [
        {
            "user": user,
            "session": "s",
            "station": None,
            "time": 1_700_000_000_000 + 60_000 * k,
            "order": k,
            "item": "xyzxxx"[k],
            "feedback": kind,
            "played": None,
            "duration": None,
        }
        for user, kinds in feedback.items()
        for k, kind in enumerate(kinds)
    ]
    schema = {
        "user": pa.string(),
        "session": pa.string(),
        "station": pa.string(),
        "time": pa.int64(),
        "order": pa.int64(),
        "item": pa.string(),
        "feedback": pa.string(),
        "played": pa.float64(),
        "duration": pa.int64(),
    }
    path = tmp_path_factory.mktemp("inspect")
    log = ibis.memtable(pa.Table.from_pylist(rows, schema=pa.schema(schema)))
    settings = PrepareConfig(session="given", split="leave-last", min_user_events=1)
    prepare.prepare(
        log, path / "store", settings, engine.connect(temp_dir=path), reader="table", source="[log].csv"
    )
    return stores.Store.open(path / "store")


def test_description_by_hand(store):
    described = describe.describe(store)
    # Training: a's first four events, all of b and c: x 4 (two of a, b, c), y 2, z 1.
    assert described["feedback"]["train"] == {
        "unknown": 0,
        "thumb_down": 0,
        "skip": 2,
        "play": 4,
        "thumb_up": 1,
    }
    assert described["feedback"]["validation"]["play"] == described["feedback"]["test"]["skip"] == 1
    assert described["session_length"] == {
        "mean": 3.0,
        "max": 6,
        "bins": [
            {"from": 1, "to": 1, "count": 1},
            {"from": 2, "to": 3, "count": 1},
            {"from": 4, "to": 7, "count": 1},
        ],
    }
    assert described["events_per_user"] == described["session_length"]
    assert described["events_per_item"]["bins"] == [
        {"from": 1, "to": 1, "count": 1},
        {"from": 2, "to": 3, "count": 1},
        {"from": 4, "to": 7, "count": 1},
    ]
    assert described["share_of_top_items"] == {"1%": 4 / 7, "10%": 4 / 7}
    assert described["users_with_positives"] == 1.0
    assert described["users_with_negatives"] == described["users_with_both"] == 2 / 3
    assert described["groups_with_negatives"] == 2 / 3
    assert described["rejections_also_liked"] == 0.0  # a rejected y, b x, and neither likes it
    assert described["time"] == {"first": 1_700_000_000_000, "last": 1_700_000_300_000}
    assert json.loads(json.dumps(described)) == described


def test_rendering_shows_it(store):
    text = io.StringIO()
    describe.render(describe.describe(store), rich.console.Console(file=text, width=110))
    shown = " ".join(text.getvalue().split())
    for part in (
        "table [log].csv",
        "2023-11-14 22:13 to 2023-11-14 22:18",
        "9 events, 3 items, 3 users, 0 stations, 3 sessions",
        "held out by leave-last",
        "Events per session: mean 3.0, most 6",
        "positives 100.0%, negatives 66.7%, both 66.7%",
        "Share of training rejections of songs: that the listener likes too 0.0%",
    ):
        assert part in shown
    assert max(len(line) for line in text.getvalue().splitlines()) <= 110


def test_histogram_ranges_double_and_chunks_do_not_matter(monkeypatch):
    sizes = [np.array([0, 1, 2, 3, 4, 7]), np.array([8, 1 << 40])]
    histogram = describe._histogram(sizes)
    found = {(row["from"], row["to"]): row["count"] for row in histogram["bins"] if row["count"]}
    assert found == {(0, 0): 1, (1, 1): 1, (2, 3): 2, (4, 7): 2, (8, 15): 1, (1 << 40, (1 << 41) - 1): 1}
    assert histogram["max"] == 1 << 40
    indptr = np.array([0, 0, 3, 4, 4, 9])
    monkeypatch.setattr(describe, "CHUNK", 2)
    assert np.concatenate(list(describe._sizes(indptr))).tolist() == [0, 3, 1, 0, 5]


def test_description_does_not_depend_on_chunks(store, monkeypatch):
    whole = describe.describe(store)
    monkeypatch.setattr(describe, "CHUNK", 1)
    assert describe.describe(store) == whole
