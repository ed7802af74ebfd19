"""The store's files: what the writer wrote is what the reader maps, and nothing else passes for a store."""

import dataclasses
import errno
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from jaxneg import files
from jaxneg.batch import FEEDBACK
from jaxneg.config import UserError
from jaxneg.data import stores
from jaxneg.data.metadata import ARRAYS, EVENTS, Metadata
from jaxneg.data.shards import Sharded
from jaxneg.data.writer import Column, StoreWriter

METADATA = Metadata(
    reader="table",
    source="log.csv",
    settings={"session": "user"},
    polarity={"skip": -1, "play": 1},
    split={"rule": "tail"},
    counts={"events": 3},
    feedback={"train": {"skip": 1, "play": 2}},
    dropped={},
    attributes=[{"name": "artist", "size": 1}],
    sessions_overlap=False,
)
# One user with one session: liked item 1, disliked item 2, then a held-out item 1.
VALUES = {
    "item_T": [1, 2, 1],
    "feedback_T": [4, 3, 4],
    "station_T": [0, 0, 0],
    "time_T": [10, 20, 30],
    "group_T": [0, 0, 0],
    "session_indptr": [0, 3],
    "session_user": [0],
    "session_train_end": [2],
    "session_valid_end": [2],
    "user_indptr": [0, 1],
    "user_group_indptr": [0, 1],
    "negative_indptr": [0, 1],
    "negative_item": [2],
    "positive_indptr": [0, 1],
    "positive_item": [1],
}


def write(out, values=VALUES, finish=True):
    with StoreWriter(out) as writer:
        for field, value in values.items():
            column = writer.column(field)
            for k in range(len(value)):  # one by one, to see that files grow
                column.append(value[k : k + 1])
        writer.column("attribute_VA", width=1).append([[0], [1], [0]])
        items = pa.table(
            {"row": [1, 2], "item": ["a", "b"], "count": [2, 1], "attribute_artist": ["X", None]}
        )
        schema = pa.schema(
            {"row": pa.int32(), "item": pa.string(), "count": pa.int64(), "attribute_artist": pa.string()}
        )
        writer.table("items", schema, items.cast(schema).to_batches(max_chunksize=1))
        if finish:
            writer.finish(METADATA)


@pytest.fixture
def out(tmp_path):
    write(tmp_path / "store")
    return tmp_path / "store"


def test_what_was_written_is_mapped(out):
    store = stores.Store.open(out)
    for field, value in VALUES.items():
        array = getattr(store, field)
        assert isinstance(array, np.memmap) and not array.flags.writeable
        assert array.dtype == ARRAYS[field][1]
        np.testing.assert_array_equal(array, value)
    np.testing.assert_array_equal(store.attribute_VA, [[0], [1], [0]])
    assert dataclasses.replace(store.metadata, files={}, sums={}) == METADATA
    assert (store.items, store.users, store.sessions, store.events) == (2, 1, 1, 3)
    assert store.sign.dtype == np.int8
    assert dict(zip(FEEDBACK, store.sign.tolist(), strict=True)) == {
        "pad": 0,
        "unknown": 0,
        "thumb_down": 0,
        "skip": -1,
        "play": 1,
        "thumb_up": 0,
    }
    assert sorted(os.listdir(out.parent)) == ["store"]


def test_vocabulary_finds_rows_and_ids(out):
    words = stores.Store.open(out).vocabulary()
    rows = words.rows(["b", "never heard", "a", "b"])
    assert rows.dtype == np.int32 and rows.tolist() == [2, 0, 1, 2]
    assert words.rows([]).tolist() == []
    assert words.names(rows[[0, 2]]) == ["b", "a"]
    assert len(words) == 2 and words.count.tolist() == [2, 1]
    assert words.attributes["artist"].to_pylist() == ["X", None]


def test_empty_columns_can_be_mapped(tmp_path):
    write(tmp_path / "store", VALUES | {"negative_item": [], "negative_indptr": [0, 0]})
    assert stores.Store.open(tmp_path / "store").negative_item.shape == (0,)


def test_numpy_reads_long_columns_from_the_same_header(tmp_path):
    column = Column(tmp_path / "long.npy", np.int32)
    for start in range(0, 1_000_000, 77_777):
        column.append(np.arange(start, min(start + 77_777, 1_000_000)))
    column.close()
    np.testing.assert_array_equal(np.load(tmp_path / "long.npy"), np.arange(1_000_000))


def test_parquet_bytes_do_not_depend_on_batches(tmp_path):
    schema = pa.schema({"row": pa.int32(), "id": pa.string()})
    table = pa.table({"row": np.arange(300_000), "id": [f"id{k}" for k in range(300_000)]}).cast(schema)
    files = []
    for size in (1_000, 131_072, 300_000):
        with StoreWriter(tmp_path / "store") as writer:
            assert writer.table("users", schema, table.to_batches(max_chunksize=size)) == 300_000
            files.append((writer.path / "users.parquet").read_bytes())
    assert files[0] == files[1] == files[2]
    (tmp_path / "users.parquet").write_bytes(files[0])
    assert pa.parquet.read_table(tmp_path / "users.parquet").equals(table)


def test_no_store_is_told_from_a_store(out, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "metadata.json").write_text("[1]")
    for name, message in {
        "nowhere": "no store at",
        "empty": "no jaxneg store",
        "other": "no jaxneg store",
    }.items():
        with pytest.raises(UserError, match=message):
            stores.Store.open(tmp_path / name)


def test_another_version_is_told(out):
    values = json.loads((out / "metadata.json").read_text()) | {"version": 99}
    (out / "metadata.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="format version 99.*reads versions 1 to 3: run jaxneg prepare again"):
        stores.Store.open(out)


@pytest.mark.parametrize("name", ["event_item.npy", "items.parquet"])
def test_truncated_and_missing_files_are_told(out, name):
    size = (out / name).stat().st_size
    os.truncate(out / name, size - 4)
    with pytest.raises(UserError, match=f"{name} has {size - 4:,} of {size:,} bytes"):
        stores.Store.open(out)
    (out / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        stores.Store.open(out)


def test_a_damaged_header_is_told(out):
    data = bytearray((out / "event_item.npy").read_bytes())
    data[:4] = b"junk"
    (out / "event_item.npy").write_bytes(data)
    with pytest.raises(UserError, match="event_item.npy"):
        stores.Store.open(out)


def test_unfinished_writing_leaves_nothing(tmp_path):
    write(tmp_path / "store", finish=False)
    assert list(tmp_path.iterdir()) == []


def test_an_older_store_is_replaced_only_at_the_end(out):
    with pytest.raises(RuntimeError, match="half way"):
        with StoreWriter(out) as writer:
            writer.column("item_T").append([5, 6])
            raise RuntimeError("half way")
    assert stores.Store.open(out).item_T.tolist() == [1, 2, 1]
    write(out, VALUES | {"time_T": [7, 8, 9]})
    assert stores.Store.open(out).time_T.tolist() == [7, 8, 9]
    assert os.listdir(out.parent) == ["store"]


def test_replacing_works_where_names_cannot_be_exchanged(out, monkeypatch):
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    write(out, VALUES | {"time_T": [7, 8, 9]})
    assert stores.Store.open(out).time_T.tolist() == [7, 8, 9]
    assert os.listdir(out.parent) == ["store"]


def test_an_open_store_outlives_its_replacement(out):
    store = stores.Store.open(out)
    write(out, VALUES | {"time_T": [7, 8, 9]})
    assert store.time_T.tolist() == [10, 20, 30]


def test_anything_but_a_store_stays(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    (tmp_path / "file").write_text("text")
    for name in ("thesis", "file"):
        with pytest.raises(UserError, match="is no jaxneg store, so it stays"):
            write(tmp_path / name)
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "years of work"
    assert sorted(os.listdir(tmp_path)) == ["file", "thesis"]


def test_a_directory_that_fills_up_meanwhile_stays(tmp_path):
    with pytest.raises(UserError, match="so it stays"):
        with StoreWriter(tmp_path / "store") as writer:
            (tmp_path / "store").mkdir()
            (tmp_path / "store" / "notes").write_text("mine")
            writer.finish(METADATA)
    assert os.listdir(tmp_path) == ["store"]


def test_an_empty_directory_and_new_parents_will_do(tmp_path):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty")
    write(tmp_path / "a" / "b" / "store")
    assert (
        stores.Store.open(tmp_path / "empty").events
        == stores.Store.open(tmp_path / "a" / "b" / "store").events
        == 3
    )


def test_a_link_keeps_its_place(out, tmp_path):
    (tmp_path / "link").symlink_to(out)
    write(tmp_path / "link", VALUES | {"time_T": [7, 8, 9]})
    assert (tmp_path / "link").is_symlink()
    assert stores.Store.open(out).time_T.tolist() == [7, 8, 9]


def test_leftovers_are_removed_and_no_process_is_asked_for(out):
    mine, other = out.with_name("store.jaxneg-tmp-1-0a0b0c0d"), out.with_name("store.tmp-notes")
    for path in (mine, other):
        path.mkdir()
    write(out)
    assert not mine.exists() and other.exists()


def test_a_second_writer_is_refused_and_changes_nothing(out):
    with StoreWriter(out) as first:
        with pytest.raises(UserError, match=f"--out {out} is in use by .*process {os.getpid()} "):
            write(out)
        assert first.path.is_dir()
    assert stores.Store.open(out).time_T.tolist() == [10, 20, 30]
    assert sorted(path.name for path in out.parent.iterdir()) == [out.name]


def test_an_old_store_is_put_back_if_its_writer_died_between_two_renames(out):
    out.rename(out.with_name("store.jaxneg-old-1-0a0b0c0d"))
    write(out, finish=False)
    assert stores.Store.open(out).time_T.tolist() == [10, 20, 30]


@pytest.mark.slow
def test_kill_at_any_moment_leaves_a_whole_store(out):
    """Replaces the store over and over until it is killed: what is left opens, and is all old or all new."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); import test_store as t\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    for n in (1, 2): t.write(sys.argv[1], t.VALUES | {'time_T': [n, n, n], 'item_T': [n, n, n]})\n"
    )
    here = str(pathlib.Path(__file__).parent)
    for k in range(5):
        process = subprocess.Popen([sys.executable, "-c", code, str(out), here], stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        try:
            process.wait(timeout=0.05 + 0.013 * k)
        except subprocess.TimeoutExpired:
            process.kill()
        process.wait()
        process.stdout.close()
        store = stores.Store.open(out)
        if store.item_T[0] != store.item_T[1]:
            assert store.item_T.tolist() == VALUES["item_T"]  # not replaced yet
        else:
            assert store.item_T.tolist() == store.time_T.tolist()
    write(out)
    assert os.listdir(out.parent) == ["store"]


def test_a_full_disk_is_one_line(tmp_path):
    with pytest.raises(UserError, match="the disk is full while writing .*store: free some space"):
        with StoreWriter(tmp_path / "store"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("text")
    with pytest.raises(UserError, match="file is no directory"):
        write(tmp_path / "file" / "store")


def test_a_sharded_column_reads_as_one_array():
    rng = np.random.default_rng(0)
    whole = rng.integers(0, 1000, 50)
    column = Sharded(np.split(whole, [7, 8, 30]))
    assert len(column) == 50 and column.dtype == whole.dtype
    np.testing.assert_array_equal(np.asarray(column), whole)
    for low in (0, 3, 7, 8, 29, 50, -4):
        for high in (0, 5, 7, 8, 31, 50, 80, -1):
            np.testing.assert_array_equal(column[low:high], whole[low:high])
        assert low == 50 or column[low] == whole[low]
    np.testing.assert_array_equal(column[7:], whole[7:])
    for shape in (0, 20, (4, 5)):
        place = rng.integers(-50, 50, shape)
        np.testing.assert_array_equal(column[place], whole[place])
    with pytest.raises(IndexError):
        column[np.array([50])]


def test_a_store_of_shards_holds_their_columns_end_to_end(tmp_path):
    def written(shards, begin):
        with StoreWriter(tmp_path / "store") as writer:
            for field, value in VALUES.items():
                parts = np.split(np.array(value), begin[1:-1]) if field in EVENTS else [value]
                for k, part in enumerate(parts):
                    writer.column(field, shard=k, shards=len(parts)).append(part)
            writer.column("attribute_VA", width=0).append(np.zeros((3, 0)))
            writer.finish(dataclasses.replace(METADATA, attributes=[], shards=shards))
        return stores.Store.open(tmp_path / "store")

    store = written([0, 2, 3], [0, 2, 3])
    assert "event_time-00001-of-00002.npy" in store.metadata.files
    assert np.asarray(store.time_T).tolist() == [10, 20, 30] and store.events == 3
    with pytest.raises(UserError, match="shards of event_item differ"):
        written([0, 1, 3], [0, 2, 3])


def test_a_store_of_version_1_is_read(out):
    values = json.loads((out / "metadata.json").read_text()) | {"version": 1}
    del values["shards"]
    (out / "metadata.json").write_text(json.dumps(values))
    assert stores.Store.open(out).item_T.tolist() == [1, 2, 1]
