"""What `prepare` makes of each fixture, in words: tests/golden/stores/NAME.json.

A change there is a change of what people's logs become. Where it is meant, write the files anew with
`python tests/data/test_golden_stores.py`, read the difference, and say why in the change.
"""

import json
import pathlib
import tempfile

import pytest

from jaxneg.batch import FEEDBACK
from jaxneg.data import engine, prepare, store as stores
from jaxneg.data.readers import READERS

TESTS = pathlib.Path(__file__).parent.parent
GOLDEN = TESTS / "golden" / "stores"
OPTIONS = {"recbole": {"item_fields": ("genre",)}}
NAMES = ("spotify", "listenbrainz", "vk_lsvd", "dsg17", "recbole", "lastfm1k", "lfm2b")


def described(name, folder):
    """Sessions of a fixture's store as lists of (item, attributes, feedback, time), and its counts."""
    reader, con = READERS[name], engine.connect(memory_limit="1GB", threads=2)
    source = TESTS / "fixtures" / name
    log = reader.read(con, source, reader.Options(**OPTIONS.get(name, {})))
    settings = reader.settings | {
        "split": "tail",
        "min_user_events": 1,
        "test_share": 0.01,
        "valid_share": 0.0,
    }
    prepare.prepare(log, folder, prepare.PrepareConfig(**settings), con, reader=name)
    store = stores.Store.open(folder)
    items, users, values = store.vocabulary("items"), store.vocabulary("users"), store.metadata.attributes
    words = [store.vocabulary(f"attribute_{value}") for value in values]
    sessions = []
    for number, user in enumerate(store.session_user):
        begin, end = store.session_indptr[number : number + 2]
        sessions.append({"user": users[user], "events": []})
        for event in range(begin, end):
            row = store.item_T[event]
            attributes = [word[code] for word, code in zip(words, store.attribute_VA[row], strict=True)]
            line = [items[row], *attributes, FEEDBACK[store.feedback_T[event]], int(store.time_T[event])]
            sessions[-1]["events"].append(line)
    return {"sessions": sessions, "counts": store.metadata.counts, "dropped": store.metadata.dropped}
