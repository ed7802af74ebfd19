"""Prepared stores against a slow oracle of dicts and lists, on small random logs and by hand."""

import collections
import dataclasses
import errno
import hashlib
import itertools
import math
import os
import pathlib
import random

import ibis
import numpy as np
import pyarrow as pa
import pytest

from jaxneg.batch import CODE, FEEDBACK
from jaxneg.config import UserError
from jaxneg.data import assembly, describe, engine, prepare, prepare_config, split, stores
from jaxneg.data.metadata import ARRAYS
from jaxneg.data.prepare_config import PrepareConfig
from jaxneg.data.writer import Column, StoreWriter
from tests.marks import rest_slow

KINDS = ["thumb_up", "play", "skip", "thumb_down", "unknown"]
MINUTE = 60_000
SCHEMA = pa.schema(
    {
        "user": pa.string(),
        "session": pa.string(),
        "station": pa.string(),
        "time": pa.int64(),
        "order": pa.int64(),
        "item": pa.string(),
        "feedback": pa.string(),
        "played": pa.float64(),
        "duration": pa.int64(),
        "attribute_artist": pa.string(),
        "attribute_mood": pa.string(),
    }
)


@pytest.fixture(scope="module")
def con(tmp_path_factory):
    return engine.connect(threads=2, temp_dir=tmp_path_factory.mktemp("spill"))


def log(rows):
    """A log of dicts; fields left out are null, the order is that of the list."""
    return ibis.memtable(
        pa.Table.from_pylist([{"order": k} | row for k, row in enumerate(rows)], schema=SCHEMA)
    )


def event(user, item, time, feedback="play", **more):
    return {"user": user, "item": item, "time": time, "feedback": feedback} | more


def random_log(seed, users=6, items=9, events=120):
    rng = random.Random(seed)
    artist = {f"item{k}": rng.choice(["x", "y", "z", None]) for k in range(items)}
    rows = []
    for _ in range(rng.randrange(events // 2, events)):
        user, item = f"user{int(users * rng.random() ** 2)}", f"item{int(items * rng.random() ** 2)}"
        rows.append(
            event(
                user,
                item,
                rng.randrange(400) * MINUTE,  # many ties
                rng.choice(KINDS),
                session=f"s{rng.randrange(8)}",
                station=rng.choice([None, "jazz", "rock", "folk"]),
                duration=rng.choice([None, 0, 3 * MINUTE, 10 * MINUTE]),
                attribute_artist=artist[item],
            )
        )
    return rows


# The oracle: raw ids, dicts and lists, one event at a time.


def oracle(rows, settings):
    """What the store holds, in raw ids; None if prepare should refuse."""
    rows = [{"order": k} | row for k, row in enumerate(rows)]
    rows.sort(key=lambda e: (e["user"], e["time"], e["order"]))
    sessions = collections.defaultdict(list)  # (user, start, key) -> events
    for user, own in itertools.groupby(rows, key=lambda e: e["user"]):
        parts, number, end = collections.defaultdict(list), 0, None
        for e in own:
            if settings.session == "gap":
                number += end is not None and e["time"] - end > settings.gap_minutes * MINUTE
                end = e["time"] + (e["duration"] or 0)
            key = {"given": e["session"], "station": e["station"] or "", "gap": number, "user": 0}
            parts[key[settings.session]].append(e)
        for key, own_events in parts.items():
            sessions[user, own_events[0]["time"], key] = own_events
    dropped = collections.Counter()
    for key in [key for key, own in sessions.items() if len(own) < settings.min_session_events]:
        dropped["sessions_too_short"] += 1
        dropped["events_of_short_sessions"] += len(sessions.pop(key))
    sizes = collections.Counter()
    for (user, _, _), own in sessions.items():
        sizes[user] += len(own)
    for size in sizes.values():
        if size < settings.min_user_events:
            dropped["users_with_few_events"] += 1
            dropped["users_with_one_event"] += size == 1
            dropped["events_of_users_with_few"] += size
    kept = {key: own for key, own in sorted(sessions.items()) if sizes[key[0]] >= settings.min_user_events}
    if not kept:
        return None
    part(kept, settings)
    train = collections.Counter(e["item"] for own in kept.values() for e in own if e["part"] == 0)
    every = collections.Counter(e["item"] for own in kept.values() for e in own)
    for item, size in every.items():
        if train[item] == 0:
            dropped["items_unseen_in_training"] += 1
            dropped["events_of_unseen_items"] += size
        elif train[item] < settings.min_item_count:
            dropped["items_too_rare"] += 1
            dropped["events_of_rare_items"] += size
    words = [item for item in train if train[item] >= settings.min_item_count]
    words.sort(key=lambda item: (-train[item], item))
    of_station = collections.Counter(e["station"] for own in kept.values() for e in own if e["part"] == 0)
    of_station.pop(None, None)
    stations = sorted(of_station, key=lambda station: (-of_station[station], station))
    final = []
    for (user, _, _), own in kept.items():
        own = [e for e in own if e["item"] in words]
        for e in own:
            if e["station"] is not None and e["station"] not in stations:
                dropped["stations_unseen_in_training"] += 1
                e["station"] = None
        if own:
            final.append((user, own))
    events = [e for _, own in final for e in own]
    sign = prepare_config.signs(settings)
    if not any(e["part"] == 0 and sign[e["feedback"]] > 0 for e in events) or not any(
        e["part"] == 2 for e in events
    ):
        return None
    return {
        "words": [(item, train[item]) for item in words],
        "stations": stations,
        "sessions": final,
        "dropped": dropped,
    }


def part(sessions, settings):
    """Gives each event its part."""
    if settings.split == "time":
        for own in sessions.values():
            for e in own:
                e["part"] = (e["time"] >= int(settings.valid_from)) + (e["time"] >= int(settings.test_from))
    elif settings.split == "leave-last":
        for own in sessions.values():
            for k, e in enumerate(own):
                e["part"] = max(0, k - len(own) + 3) if len(own) >= 3 else 0
    else:
        for user in {user for user, _, _ in sessions}:
            own = [events for key, events in sorted(sessions.items()) if key[0] == user]
            units = own if len(own) >= 5 else [[e] for events in own for e in events]
            size = len(units)
            least = 1 if len(own) >= 5 else 2
            test = min(max(least, math.floor(size * settings.test_share + 0.5)), size - 2)
            valid = min(max(1, math.floor(size * settings.valid_share + 0.5)), size - test - 1)
            if settings.valid_share == 0:
                valid = 0
            for k, unit in enumerate(units):
                for e in unit:
                    e["part"] = 0 if size < 5 else (k >= size - test - valid) + (k >= size - test)


def assert_holds(store, expected, settings):
    """The store says exactly what the oracle says, read back to raw ids."""
    words, sign = store.vocabulary(), prepare_config.signs(settings)
    assert list(zip(words.ids.to_pylist(), words.count.tolist(), strict=True)) == expected["words"]
    stations = [None, *pa.parquet.read_table(store.path / "stations.parquet")["id"].to_pylist()]
    assert stations[1:] == expected["stations"]
    users = pa.parquet.read_table(store.path / "users.parquet")["id"].to_pylist()
    assert users == sorted({user for user, _ in expected["sessions"]})
    assert store.sessions == len(expected["sessions"])
    by_group, by_user, groups = collections.defaultdict(list), collections.defaultdict(set), set()
    position = 0
    for s, (user, own) in enumerate(expected["sessions"]):
        assert users[store.session_user[s]] == user
        bounds = [
            store.session_indptr[s],
            store.session_train_end[s],
            store.session_valid_end[s],
            store.session_indptr[s + 1],
        ]
        assert bounds == [position + sum(e["part"] < k for e in own) for k in range(4)]
        for e in own:
            found = (
                words.ids[int(store.item_T[position]) - 1].as_py(),
                FEEDBACK[store.feedback_T[position]],
                stations[store.station_T[position]],
                store.time_T[position],
            )
            assert found == (e["item"], e["feedback"], e["station"], e["time"])
            groups.add((store.group_T[position], user, e["station"]))
            if e["part"] == 0 and sign[e["feedback"]] < 0:
                by_group[store.group_T[position]].append((e["time"], e["order"], e["item"]))
            if e["part"] == 0 and sign[e["feedback"]] > 0:
                by_user[user].add(store.item_T[position])
            position += 1
    assert position == store.events
    # Groups: one number for one (user, station), dense, a user's own together.
    assert len({g for g, _, _ in groups}) == len({pair[1:] for pair in groups}) == len(groups)
    assert sorted(g for g, _, _ in groups) == list(range(len(store.negative_indptr) - 1))
    for g, user, _ in groups:
        u = users.index(user)
        assert store.user_group_indptr[u] <= g < store.user_group_indptr[u + 1]
        own = store.negative_item[store.negative_indptr[g] : store.negative_indptr[g + 1]]
        assert [words.ids[int(i) - 1].as_py() for i in own] == [item for _, _, item in sorted(by_group[g])]
    for u, user in enumerate(users):
        own = store.positive_item[store.positive_indptr[u] : store.positive_indptr[u + 1]]
        assert own.tolist() == sorted(by_user[user])
        assert set(store.session_user[store.user_indptr[u] : store.user_indptr[u + 1]]) == {u}
    for split_name, k in zip(stores.SPLITS, range(3), strict=True):
        counted = collections.Counter(
            e["feedback"] for _, own in expected["sessions"] for e in own if e["part"] == k
        )
        assert store.metadata.feedback[split_name] == {kind: counted[kind] for kind in sign}
    assert {name: n for name, n in store.metadata.dropped.items() if n} == {
        name: n for name, n in expected["dropped"].items() if n
    }
    overlap = False
    for user in users:
        latest = -math.inf
        for own in (own for owner, own in expected["sessions"] if owner == user):
            overlap |= own[0]["time"] < latest
            latest = max(latest, own[-1]["time"])
    assert store.metadata.sessions_overlap == overlap


SETTINGS = [
    PrepareConfig(session=session, split=split_rule, gap_minutes=20.0, polarity="default")
    for session in ("given", "station", "gap", "user")
    for split_rule in ("time", "tail", "leave-last")
]


# Two pairs of rules run every time; the others are slow together.
QUICK = {("given", "leave-last"), ("gap", "time")}


@pytest.mark.parametrize(
    "settings",
    rest_slow(SETTINGS, [s for s in SETTINGS if (s.session, s.split) in QUICK]),
    ids=lambda s: f"{s.session}-{s.split}",
)
def test_store_equals_the_oracle(settings, con, tmp_path):
    refused = 0
    for seed in range(4):
        rng = random.Random(seed)
        settings = dataclasses.replace(
            settings,
            min_item_count=rng.choice([1, 2, 4]),
            min_user_events=rng.choice([1, 2, 8]),
            min_session_events=rng.choice([1, 1, 2]),
            polarity=rng.choice(["default", "pandora", "explicit"]),
            negative=rng.choice([(), ("unknown",)]),
            test_share=rng.choice([0.2, 0.35]),
            valid_share=rng.choice([0.1, 0.0, 0.3]),
            test_from=str(rng.randrange(300, 360) * MINUTE) if settings.split == "time" else None,
            valid_from=str(rng.randrange(200, 300) * MINUTE) if settings.split == "time" else None,
        )
        rows = random_log(seed)
        expected = oracle(rows, settings)
        if expected is None:
            refused += 1
            with pytest.raises(UserError):
                prepare.prepare(log(rows), tmp_path / "store", settings, con)
            continue
        prepare.prepare(log(rows), tmp_path / "store", settings, con)
        assert_holds(stores.Store.open(tmp_path / "store"), expected, settings)
    assert refused < 4


def test_attributes_are_numbered_by_frequency(con, tmp_path):
    artist, mood = {"a": "X", "b": "Y", "d": "Y", "e": "Z"}, {"c": "sad"}
    rows = [
        event("u", item, k, attribute_artist=artist.get(item), attribute_mood=mood.get(item))
        for k, item in enumerate("abbcdaeaba")
    ]
    settings = PrepareConfig(split="time", valid_from="8", test_from="9")
    metadata = prepare.prepare(log(rows), tmp_path / "store", settings, con)
    store = stores.Store.open(tmp_path / "store")
    # Training counts a 3, b 2, c d e 1; artists X 3, Y 3 (b twice, d once), Z 1: X before Y by name.
    assert store.vocabulary().ids.to_pylist() == ["a", "b", "c", "d", "e"]
    assert metadata.attributes == [{"name": "artist", "size": 3}, {"name": "mood", "size": 1}]
    np.testing.assert_array_equal(store.attribute_VA, [[0, 0], [1, 0], [2, 0], [0, 1], [2, 0], [3, 0]])
    assert store.vocabulary().attributes["artist"].to_pylist() == ["X", "Y", None, "Y", "Z"]
    values = pa.parquet.read_table(store.path / "attribute_0.parquet").to_pydict()
    assert values == {"row": [1, 2, 3], "value": ["X", "Y", "Z"]}


def test_time_split_defaults_to_quantiles_of_the_events(con, tmp_path):
    rows = [event("u", "a", 1000 + 7 * k) for k in range(100)]
    rows += [event("v", "a", 10**15)]  # one far outlier does not move the quantiles by more than a place
    metadata = prepare.prepare(log(rows), tmp_path / "store", PrepareConfig(min_user_events=1), con)
    assert metadata.split == {"rule": "time", "valid_from": 1000 + 7 * 80, "test_from": 1000 + 7 * 90}


@pytest.mark.parametrize("seed", range(3))
def test_order_statistic_is_exact(seed, con):
    rng = np.random.default_rng(seed)
    times = np.sort(rng.integers(-(10 ** (3 + 5 * seed)), 10 ** (4 + 4 * seed), 200))
    table = ibis.memtable(pa.table({"time": times}))
    for index in (0, 1, 77, 198, 199):
        assert split.order_statistic(table, int(times[0]), int(times[-1]), index) == times[index]


def test_same_log_gives_the_same_bytes_whatever_the_threads_and_the_order_of_rows(con, tmp_path):
    rows = [{"order": k} | row for k, row in enumerate(random_log(3, events=2000))]
    settings = PrepareConfig(session="given", split="tail")
    digests = []
    for threads in (1, 2, 4):
        random.Random(threads).shuffle(rows)
        own = engine.connect(threads=threads, temp_dir=tmp_path / "spill")
        prepare.prepare(log(rows), tmp_path / "store", settings, own)
        files = sorted((tmp_path / "store").iterdir())
        digests.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files})
    assert digests[0] == digests[1] == digests[2]


def test_times_out_of_order_are_sorted_and_counted(con, tmp_path):
    rows = [
        event("u", item, time) for item, time in [("a", 5), ("b", 1), ("a", 2), ("b", 9), ("a", 7), ("b", 8)]
    ]
    metadata = prepare.prepare(log(rows), tmp_path / "store", PrepareConfig(split="leave-last"), con)
    assert stores.Store.open(tmp_path / "store").time_T.tolist() == [1, 2, 5, 7, 8, 9]
    assert metadata.counts["out_of_order"] == 2  # 5 came before 2 in the source, 9 before 8


def test_batches_of_the_stream_do_not_matter(con, tmp_path, monkeypatch):
    rows = random_log(5)
    settings = PrepareConfig(session="given", split="tail")
    whole = prepare.prepare(log(rows), tmp_path / "store", settings, con)
    before, stream = digest(tmp_path / "store"), engine.stream

    def crumbs(table):
        for batch in stream(table):
            for start in range(0, len(batch), 3):
                yield batch.slice(start, 3)

    monkeypatch.setattr(engine, "stream", crumbs)
    assert prepare.prepare(log(rows), tmp_path / "store", settings, con) == whole
    assert digest(tmp_path / "store") == before


def test_an_event_at_the_very_time_of_a_cut_comes_after_it(con, tmp_path):
    settings = PrepareConfig(split="time", valid_from="10", test_from="15")
    prepare.prepare(log(LONG), tmp_path / "store", settings, con)
    store = stores.Store.open(tmp_path / "store")
    assert (store.session_train_end[0], store.session_valid_end[0], store.session_indptr[1]) == (10, 15, 20)


@pytest.mark.parametrize(
    "events, test, valid",
    # A fifth and a tenth, rounded half up, of the test no fewer than 2; users below 5 events have none.
    [(2, 0, 0), (4, 0, 0), (5, 2, 1), (9, 2, 1), (12, 2, 1), (13, 3, 1), (15, 3, 2), (100, 20, 10)],
)
def test_tail_of_a_user_with_one_session(events, test, valid, con):
    sessions = ibis.memtable(pa.table({"user": [1], "session": [0], "events": [events]}))
    cut = split.cut_tail(sessions, 0.2, 0.1).to_pyarrow().to_pylist()
    assert cut == [{"session": 0, "train": events - test - valid, "valid": events - test}]


@pytest.mark.parametrize(
    "sizes, train, valid",
    [
        # Four sessions of 10 events: 2 for the test, 1 for validation, across the border of sessions.
        ([6, 2, 1, 1], [6, 1, 0, 0], [6, 2, 0, 0]),
        # Five sessions: one for the test, one for validation, however many events they have.
        ([1, 1, 1, 1, 50], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]),
        # Eight sessions: 1.6 and 0.8 round to 2 and 1.
        ([3] * 8, [3, 3, 3, 3, 3, 0, 0, 0], [3, 3, 3, 3, 3, 3, 0, 0]),
    ],
)
def test_tail_of_a_user_with_several_sessions(sizes, train, valid, con):
    number = list(range(len(sizes)))
    sessions = ibis.memtable(pa.table({"user": [7] * len(sizes), "session": number, "events": sizes}))
    cut = split.cut_tail(sessions, 0.2, 0.1).order_by("session").to_pyarrow().to_pydict()
    assert (cut["train"], cut["valid"]) == (train, valid)


@pytest.mark.parametrize("start, overlap", [(5, False), (4, True)])
def test_sessions_that_touch_do_not_overlap(start, overlap, con, tmp_path):
    times = {"one": [0, 2, 5], "two": [start, 6, 9]}
    rows = [event("u", "a", time, session=name) for name in times for time in times[name]]
    settings = PrepareConfig(session="given", split="leave-last")
    assert prepare.prepare(log(rows), tmp_path / "store", settings, con).sessions_overlap == overlap


def test_progress_names_stages_and_counts_events(con, tmp_path):
    seen = []
    settings = PrepareConfig(session="gap", split="tail", min_user_events=1)
    prepare.prepare(
        log(random_log(0)),
        tmp_path / "store",
        settings,
        con,
        on_progress=lambda done, total, stage: seen.append((stage, done, total)),
    )
    written = stores.Store.open(tmp_path / "store").events
    assert seen[0] == ("read the log", 0, 1) and seen[-1] == ("write events", written, written)
    assert all(0 <= done <= total for _, done, total in seen)


def test_no_table_stays_in_the_engine(con, tmp_path):
    def tables():
        return con.raw_sql(
            "SELECT table_name FROM duckdb_tables() WHERE table_name LIKE 'jaxneg%'"
        ).fetchall()

    prepare.prepare(log(random_log(0)), tmp_path / "store", PrepareConfig(split="tail"), con)
    assert tables() == []
    with pytest.raises(UserError):
        prepare.prepare(log([event("u", "a", 1)]), tmp_path / "other", PrepareConfig(), con)
    assert tables() == []


LONG = [event("u", "ab"[k % 2], k, KINDS[k % 3]) for k in range(20)]
CLOCK = [event("u", "ab"[k % 2], 1_700_000_000_000 + k * 86_400_000) for k in range(20)]
MISTAKES = {
    "the log is empty": ([], {}),
    "min-user-events 50 removed 20": (LONG, {"min_user_events": 50}),
    "min-session-events 50 removed 20": (LONG, {"min_session_events": 50}),
    "min-item-count is 50, and no item has more than 8": (LONG, {"min_item_count": 50}),
    "no positive event to train on: thumb_up counts as positive, and there are 16 play": (
        [row | {"feedback": "play"} for row in LONG],
        {"polarity": "explicit"},
    ),
    "--test-from is 99, and the log runs from 0 to 19": (LONG, {"test_from": "99"}),
    "validation starts at 0, and the log runs from 0 to 19": (LONG, {"valid_from": "-0"}),
    "test starts at 0, and the log runs from 0 to 19": (LONG, {"test_from": "0"}),
    "--valid-from 12 is after the test's start 10": (LONG, {"test_from": "10", "valid_from": "12"}),
    "--test-from is 2024-02-01 00:00:00, and the log runs from 2023-11-14 22:13:20 to 2023-12-03 22:13:20": (
        CLOCK,
        {"test_from": "2024-02-01"},
    ),
    "no session has three events": (LONG, {"split": "leave-last", "session": "gap", "gap_minutes": 1e-6}),
    "no user has 5 events": (LONG[:4], {"split": "tail"}),
    "20 of 20 have none: use --session gap": (LONG, {"session": "given"}),
    "the log has none: use --session gap or user": (LONG, {"session": "station"}),
    "--polarity good is unknown: choose one of default": (LONG, {"polarity": "good"}),
    "--positive love is no feedback kind": (LONG, {"positive": ("love",)}),
    "skip cannot be both": (LONG, {"positive": ("skip",), "negative": ("skip",)}),
    "--test-from must be a date such as": (LONG, {"test_from": "soon"}),
    "--test-from needs --split time": (LONG, {"test_from": "10", "split": "tail"}),
    "--min-item-count must be at least 1": (LONG, {"min_item_count": 0}),
    "--gap-minutes must be above 0": (LONG, {"gap_minutes": -1.0}),
    "--test-share must be below 1 together": (LONG, {"test_share": 0.7, "valid_share": 0.4}),
    "column feedback holds 'love'": ([LONG[0] | {"feedback": "love"}], {}),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_get_one_clear_line_and_leave_nothing(message, con, tmp_path):
    rows, options = MISTAKES[message]
    with pytest.raises(UserError) as caught:
        prepare.prepare(log(rows), tmp_path / "store", PrepareConfig(**options), con)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_one_event_users_are_dropped_and_counted(con, tmp_path):
    rows = LONG + [event("w", "a", 3), event("x", "b", 4)]
    metadata = prepare.prepare(log(rows), tmp_path / "store", PrepareConfig(split="tail"), con)
    assert metadata.dropped["users_with_one_event"] == 2 and metadata.counts["users"] == 1


def test_dates_are_utc():
    assert split.moment("test_from", "1970-01-02") == 86_400_000
    assert split.moment("test_from", "1970-01-02T01:00:00+01:00") == 86_400_000
    assert split.moment("test_from", "12345") == 12345


def test_what_is_left_open_is_filled_in():
    settings = PrepareConfig(session="user")
    filled = prepare_config.with_defaults(settings, session="gap", split="tail")
    assert (filled.session, filled.split, filled.gap_minutes) == ("user", "tail", None)


# Crashes.


def digest(path: pathlib.Path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.mark.parametrize("stage", rest_slow(["sessions", "index"], ["index"]))
def test_a_crash_leaves_the_old_store(stage, con, tmp_path, monkeypatch):
    out, settings = tmp_path / "store", PrepareConfig(split="tail")
    prepare.prepare(log(LONG), out, settings, con)
    before = digest(out)
    monkeypatch.setattr(assembly.Written, stage, lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prepare.prepare(log(random_log(1)), out, settings, con)
    assert digest(out) == before and list(tmp_path.iterdir()) == [out]


def test_a_full_disk_is_one_line_and_leaves_the_old_store(con, tmp_path, monkeypatch):
    out, settings = tmp_path / "store", PrepareConfig(split="tail")
    prepare.prepare(log(LONG), out, settings, con)
    before = digest(out)

    def full(self, values):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Column, "append", full)
    with pytest.raises(UserError, match="the disk is full while writing"):
        prepare.prepare(log(LONG), out, settings, con)
    assert digest(out) == before and list(tmp_path.iterdir()) == [out]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_one_line_where_the_writing_is_real(con, tmp_path, monkeypatch):
    real = Column.__init__

    def onto_full_disk(self, path, dtype, width=None):
        if path.name == "event_time.npy":
            path.symlink_to("/dev/full")
        real(self, path, dtype, width)

    monkeypatch.setattr(Column, "__init__", onto_full_disk)
    with pytest.raises(UserError, match="the disk is full while writing"):
        prepare.prepare(log(LONG), tmp_path / "store", PrepareConfig(split="tail"), con)
    assert list(tmp_path.iterdir()) == []


def test_codes_follow_the_batch_contract(con, tmp_path):
    prepare.prepare(log(LONG), tmp_path / "store", PrepareConfig(split="tail"), con)
    store = stores.Store.open(tmp_path / "store")
    assert store.feedback_T[:3].tolist() == [CODE["thumb_up"], CODE["play"], CODE["skip"]]
    assert store.sign.tolist() == [0, 0, -1, -1, 1, 1]


@pytest.mark.parametrize("shard_events", rest_slow([1, 300, 700], [300]))
def test_shards_hold_whole_users_and_the_events_of_one_store(con, tmp_path, shard_events):
    rows = random_log(11, users=9, events=4000)
    settings = PrepareConfig(session="given", split="tail")
    one = prepare.prepare(log(rows), tmp_path / "one", settings, con)
    settings = dataclasses.replace(settings, shard_events=shard_events)
    many = prepare.prepare(log(rows), tmp_path / "many", settings, con)
    stores_ = [stores.Store.open(tmp_path / name) for name in ("one", "many")]
    for field in ARRAYS:
        np.testing.assert_array_equal(*(np.asarray(getattr(store, field)) for store in stores_))
    assert many.counts == one.counts and many.feedback == one.feedback and one.shards == []
    own = stores_[1].session_indptr[stores_[1].user_indptr]
    assert set(many.shards) <= set(own.tolist()) and many.shards[0] == 0 and many.shards[-1] == len(rows)
    # No shard holds more than asked, but for the rest of its last user.
    largest = np.diff(own).max()
    assert np.diff(many.shards).max() <= shard_events + largest
    assert len(many.shards) > 2


@pytest.mark.slow  # as the whole store above, and shards hold what it holds
def test_shards_are_the_same_bytes_whatever_the_threads(tmp_path):
    rows, digests = random_log(12, users=9, events=3000), []
    for threads in (1, 3):
        own = engine.connect(threads=threads, temp_dir=tmp_path / "spill")
        settings = PrepareConfig(session="given", split="tail", shard_events=200)
        prepare.prepare(log(rows), tmp_path / "store", settings, own)
        digests.append(digest(tmp_path / "store"))
    assert digests[0] == digests[1]


def test_a_shard_that_cannot_be_written_is_told(con, tmp_path, monkeypatch):
    def full(self, values):
        raise OSError(errno.ENOSPC, "No space left on device")

    rows = random_log(13, users=9, events=3000)
    settings = PrepareConfig(session="given", split="tail", shard_events=200)
    column = StoreWriter.column

    def second_fails(self, field, width=None, **shard):
        found = column(self, field, width, **shard)
        if shard.get("shard") == 1:
            monkeypatch.setattr(found, "append", full.__get__(found))
        return found

    monkeypatch.setattr(StoreWriter, "column", second_fails)
    with pytest.raises(UserError, match="disk is full"):
        prepare.prepare(log(rows), tmp_path / "store", settings, con)
    assert not (tmp_path / "store").exists()


def reasons(rows):
    schema = SCHEMA.append(pa.field("left_out", pa.string()))
    return ibis.memtable(
        pa.Table.from_pylist([{"order": k} | row for k, row in enumerate(rows)], schema=schema)
    )


def test_rows_left_out_are_counted_by_reason_and_change_nothing_else(con, tmp_path):
    out = [
        # makes no sense, and need not
        {"left_out": "no track", "user": "u", "feedback": "love", "played": 9.0},
        {"left_out": "no track"},
        event("u", "c", 3, left_out="a podcast"),
    ]
    settings = PrepareConfig(split="tail")
    without = prepare.prepare(log(LONG), tmp_path / "one", settings, con)
    found = prepare.prepare(reasons([*LONG[:7], *out, *LONG[7:]]), tmp_path / "two", settings, con)
    assert {name: number for name, number in found.dropped.items() if name.startswith("left out: ")} == {
        "left out: no track": 2,
        "left out: a podcast": 1,
    }
    assert found.counts == without.counts and found.feedback == without.feedback
    assert "2 rows (no track), 1 row (a podcast)" in describe._dropped(found.dropped)


@pytest.mark.parametrize(
    ("settings", "refusal"),
    [
        ({"split": "tail", "min_user_events": 1}, "no event is left for the test"),
        ({"split": "tail", "min_user_events": 9}, "no event is left: of 4"),
        ({"session": "station"}, "the log has none"),
    ],
)
def test_a_refusal_tells_what_was_left_out(con, tmp_path, settings, refusal):
    rows = [event("u", f"i{k}", k) for k in range(4)] + [{"left_out": "unknown track"}] * 4
    with pytest.raises(UserError, match=rf"{refusal}.*\(rows left out: 4 unknown track\)$"):
        prepare.prepare(reasons(rows), tmp_path / "store", PrepareConfig(**settings), con)
    assert list(tmp_path.iterdir()) == []


def test_a_log_of_which_all_is_left_out_is_refused_with_the_counts(con, tmp_path):
    rows = [{"left_out": "no track"}, {"left_out": "a podcast"}, {"left_out": "no track"}]
    with pytest.raises(UserError, match="no row is left to prepare: left out are 2 no track, 1 a podcast"):
        prepare.prepare(reasons(rows), tmp_path / "store", PrepareConfig(), con)
    assert list(tmp_path.iterdir()) == []
