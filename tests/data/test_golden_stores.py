"""What `prepare` makes of each fixture, in words: tests/golden/stores/NAME.json.

A change there is a change of what people's logs become. Where it is meant, write the files anew with
`python tests/data/test_golden_stores.py`, read the difference, and say why in the change.
"""

import json
import pathlib
import re
import tempfile

import numpy as np
import pyarrow.parquet as pq
import pytest

from jaxneg.batch import FEEDBACK
from jaxneg.data import engine, prepare, stores
from jaxneg.data.prepare_config import PrepareConfig
from jaxneg.data.readers import READERS
from tests.marks import rest_slow

TESTS = pathlib.Path(__file__).parent.parent
GOLDEN = TESTS / "golden" / "stores"
TEST_FROM = {  # the last event, in milliseconds
    "dsg17": "1480598000000",
    "recbole": "891717742500",
    "lastfm1k": "1241478537000",
    "lfm2b": "1584662399000",
}
OPTIONS = {"recbole": {"item_fields": ("genre",)}}
NAMES = ("spotify", "listenbrainz", "vk_lsvd", "dsg17", "recbole", "lastfm1k", "lfm2b")


def described(name, folder):
    """Sessions of a fixture's store as lists of [item, feedback, time], attributes of items, and what was counted."""
    reader, con = READERS[name], engine.connect(memory_limit="1GB", threads=2)
    source = TESTS / "fixtures" / name
    log = reader.read(con, source, reader.Options(**OPTIONS.get(name, {})))
    split = {"split": "tail", "test_share": 0.01, "valid_share": 0.0}
    if name in TEST_FROM:
        split = {"split": "time", "valid_from": TEST_FROM[name], "test_from": TEST_FROM[name]}
    settings = reader.settings | split | {"min_user_events": 1}
    prepare.prepare(log, folder, PrepareConfig(**settings), con, reader=name)
    store = stores.Store.open(folder)
    vocabulary = store.vocabulary()
    users = pq.read_table(folder / "users.parquet")["id"].to_pylist()
    item, feedback, time = (
        np.asarray(column[:]) for column in (store.item_T, store.feedback_T, store.time_T)
    )
    sessions = []
    for number, user in enumerate(store.session_user):
        events = range(*store.session_indptr[number : number + 2])
        lines = [[*vocabulary.names([int(item[k])]), FEEDBACK[feedback[k]], int(time[k])] for k in events]
        sessions.append({"user": users[user], "events": lines})
    attributes = {key: values.to_pylist() for key, values in vocabulary.attributes.items()}
    return {
        "sessions": sessions,
        "items": {"item": vocabulary.ids.to_pylist(), **attributes},
        "counts": store.metadata.counts,
        "dropped": {key: value for key, value in store.metadata.dropped.items() if value},
    }


@pytest.mark.parametrize("name", rest_slow(NAMES, ["spotify", "vk_lsvd", "recbole"]))
def test_a_fixture_gives_the_store_that_is_written_down(tmp_path, name):
    assert described(name, tmp_path / "store") == json.loads((GOLDEN / f"{name}.json").read_text())


def _text(store):
    """JSON with a short list a line."""

    def line(found):
        return "[" + " ".join(found.group(1).split()) + "]"

    text = json.dumps(store, indent=1, ensure_ascii=False)
    return re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", line, text) + "\n"


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for each in NAMES:
        with tempfile.TemporaryDirectory() as scratch:
            (GOLDEN / f"{each}.json").write_text(_text(described(each, pathlib.Path(scratch) / "store")))
