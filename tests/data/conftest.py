import pathlib

import ibis
import numpy as np
import pytest

from jaxneg.batch import CODE
from jaxneg.data import engine, events as logs, stores
from jaxneg.data.metadata import Metadata
from jaxneg.data.readers import READERS

POLARITY = {"thumb_up": 1, "play": 1, "skip": -1, "thumb_down": -1, "unknown": 0}


@pytest.fixture
def read():
    """Reads a source: rows as tuples of the columns, by user, time and order; and the counts of what is left out."""
    con = engine.connect(memory_limit="1GB", threads=2)

    def rows(name, source, *columns, **options):
        reader = READERS[name]
        with engine.reading(source):
            log = reader.read(con, pathlib.Path(source), reader.Options(**options))
            log = engine.keep(
                con, ibis.util.gen_name("log"), log
            )  # as ``prepare`` does: what follows asks four times
            logs.check_events(log)
            found = logs.kept(log).order_by("user", "time", "order").to_pyarrow().to_pylist()
            left_out = logs.left_out(log)
        return [tuple(row[column] for column in columns) for row in found], left_out

    return rows


@pytest.fixture
def make_store():
    """Builds a Store in memory from sessions, slowly and plainly, to test what reads stores.

    A session is (user, [(item, kind, station, split), ...]) with split "train", "validation" or "test"; sessions are in
    the order of the store.
    """

    def make(sessions, items, overlap=False):
        users = 1 + max(user for user, _ in sessions)
        item, kind, station, group, indptr, train_end, valid_end = [], [], [], [], [0], [], []
        pairs = sorted({(user, event[2]) for user, events in sessions for event in events})
        negatives = [[] for _ in pairs]
        positives = [set() for _ in range(users)]
        for user, events in sessions:
            for row, name, place, split in events:
                item.append(row)
                kind.append(CODE[name])
                station.append(place)
                group.append(pairs.index((user, place)))
                if split == "train" and POLARITY[name] < 0:
                    negatives[group[-1]].append(row)
                if split == "train" and POLARITY[name] > 0:
                    positives[user].add(row)
            splits = [event[3] for event in events]
            train_end.append(indptr[-1] + splits.count("train"))
            valid_end.append(train_end[-1] + splits.count("validation"))
            indptr.append(len(item))
        owner = [user for user, _ in sessions]

        def ranges(sizes):
            return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

        metadata = Metadata(
            reader="",
            source="",
            settings={},
            polarity=POLARITY,
            split={},
            counts={"stations": 9},
            feedback={},
            dropped={},
            attributes=[],
            sessions_overlap=overlap,
        )
        return stores.Store(
            path=pathlib.Path("memory"),
            metadata=metadata,
            item_T=np.array(item, np.int32),
            feedback_T=np.array(kind, np.int8),
            station_T=np.array(station, np.int32),
            time_T=np.arange(len(item)),
            group_T=np.array(group, np.int32),
            session_indptr=np.array(indptr),
            session_user=np.array(owner, np.int32),
            session_train_end=np.array(train_end),
            session_valid_end=np.array(valid_end),
            user_indptr=ranges([owner.count(user) for user in range(users)]),
            user_group_indptr=ranges([sum(u == user for u, _ in pairs) for user in range(users)]),
            negative_indptr=ranges([len(part) for part in negatives]),
            negative_item=np.array([row for part in negatives for row in part], np.int32),
            positive_indptr=ranges([len(part) for part in positives]),
            positive_item=np.array([row for part in positives for row in sorted(part)], np.int32),
            attribute_VA=np.zeros((items + 1, 0), np.int32),
        )

    return make


@pytest.fixture
def random_store(make_store):
    """A random store: up to a few sessions per user, train then validation then test within each."""

    def make(seed, users=12, items=15, longest=9, ordered=False):
        rng = np.random.default_rng(seed)
        kinds = list(POLARITY)
        sessions = []
        for user in range(users):
            count = int(rng.integers(1, 4))
            for number in range(count):
                size = int(rng.integers(1, longest))
                if ordered:  # a time split: only the user's last session holds anything out
                    cut = sorted(rng.integers(0, size + 1, 2)) if number == count - 1 else [size, size]
                else:
                    cut = sorted(rng.integers(0, size + 1, 2))
                splits = ["train"] * cut[0] + ["validation"] * (cut[1] - cut[0]) + ["test"] * (size - cut[1])
                sessions.append(
                    (
                        user,
                        [
                            (
                                int(rng.integers(1, items + 1)),
                                str(rng.choice(kinds)),
                                int(rng.integers(1, 4)),
                                split,
                            )
                            for split in splits
                        ],
                    )
                )
        return make_store(sessions, items)

    return make
