"""Files and directories are there whole or not at all, whatever ends their writing."""

import errno
import json
import os
import pathlib
import stat
import subprocess
import sys

import numpy as np
import pytest

from jaxneg import files
from jaxneg.errors import UserError


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_writing_replaces_what_was_there(tmp_path):
    path = tmp_path / "a.json"
    for values in ({"a": 1}, {"b": "ü"}):
        files.write_json(path, values)
        assert json.loads(path.read_text(encoding="utf-8")) == values
    with files.whole(tmp_path / "b.npz") as partial, open(partial, "wb") as file:
        np.savez_compressed(file, x=np.arange(3))
    assert np.load(tmp_path / "b.npz")["x"].tolist() == [0, 1, 2]
    assert names(tmp_path) == ["a.json", "b.npz"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("fails", ["write", "fsync", "replace"])
def test_what_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch, fails):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if fails == "write":
        monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    else:
        monkeypatch.setattr(os, fails, full)
    with pytest.raises(OSError, match="No space"):
        files.write_text(path, "new")
    assert path.read_text(encoding="utf-8") == "old" and names(tmp_path) == ["a.txt"]


def test_a_link_keeps_pointing_to_where_the_file_is(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "a")
    files.write_text(tmp_path / "link", "one")
    assert (tmp_path / "link").is_symlink() and names(tmp_path / "disk") == ["a"]


def test_a_directory_is_there_once_its_block_is_done(tmp_path):
    target = tmp_path / "new" / "out"
    with pytest.raises(KeyError), files.whole_directory(target) as partial:
        (partial / "a").write_text("x")
        raise KeyError
    assert names(tmp_path) == []  # nor the directory above, which was made for it
    with files.whole_directory(target) as partial:
        (partial / "a").write_text("x")
        assert not target.exists()
    assert names(target) == ["a"] and names(target.parent) == ["out"]
    with pytest.raises(FileExistsError), files.whole_directory(target) as partial:
        pass
    assert names(target) == ["a"] and names(target.parent) == ["out"]


@pytest.mark.parametrize("swaps", [True, False])
def test_a_directory_may_take_the_place_of_another(tmp_path, monkeypatch, swaps):
    if not swaps:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    with files.unfinished(tmp_path / "new"):
        files.put(tmp_path / "new", tmp_path / "old", replace=True)
    assert names(tmp_path) == ["old"] and names(tmp_path / "old") == ["new"]


def test_leftovers_of_the_dead_go_and_those_of_this_process_and_of_people_stay(tmp_path):
    target = tmp_path / "store"
    keep = [
        "store",
        "store.old-20240101",
        "store.old-17",
        "store.tmp-notes",
        "storex.jaxneg-tmp-1f-aa",
        "other.tmp-5",
    ]
    own = files.scratch(target).name
    gone = ["store.jaxneg-tmp-1f-0a0b0c0d", "store.jaxneg-old-1f-0a0b0c0d", "store.tmp-12345"]
    for name in [*keep, own, *gone]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    files.clean_beside(target)
    assert names(tmp_path) == sorted([*keep, own])


def test_an_old_directory_that_gave_way_is_put_back(tmp_path):
    (tmp_path / "store.jaxneg-old-1f-0a0b0c0d").mkdir()
    (tmp_path / "store.jaxneg-old-1f-0a0b0c0d" / "whole").touch()
    files.clean_beside(tmp_path / "store")
    assert names(tmp_path) == ["store"] and names(tmp_path / "store") == ["whole"]


def test_leftovers_inside_a_directory_go(tmp_path):
    for name in (
        "result.json",
        "result.json.tmp",
        "report.md.jaxneg-tmp-1f-aa-3",
        "metrics.tmp",
        "notes.tmp",
    ):
        (tmp_path / name).touch()
    files.clean_inside(tmp_path)
    assert names(tmp_path) == ["notes.tmp", "result.json"]


def test_abandoning_removes_what_is_unfinished_and_no_rename_follows(tmp_path):
    code = f"""
import threading, time, os, pathlib
from jaxneg import files
threading.Timer(0.3, lambda: (files.abandon(), os._exit(7))).start()
with files.whole_directory(pathlib.Path({str(tmp_path / "out")!r})) as partial:
    (partial / "a").write_text("x")
    with files.whole(pathlib.Path({str(tmp_path / "file")!r})) as half:
        half.write_text("x")
        time.sleep(0.6)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    assert ended.returncode == 7, ended.stderr
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "path", ["gs://bucket/x", "s3://b/c", "hdfs://host:9000/x", "abfs+ssl://a/b", "http:/pathlib/took/one"]
)
def test_addresses_are_refused_where_a_path_of_a_file_system_is_needed(path):
    for given in (path, pathlib.Path(path)):
        with pytest.raises(UserError, match=r"^--out [a-z0-9+]+://.*only paths of file systems"):
            files.local(given, "--out")


@pytest.mark.parametrize("path", ["a/b", "C:/x", "run:1", "/x", "artist:name/x", "."])
def test_paths_are_none(path):
    assert files.local(path, "--out") == pathlib.Path(path)


def test_a_long_name_can_be_written(tmp_path):
    path = tmp_path / ("n" * 250)
    files.write_text(path, "x")
    assert names(tmp_path) == [path.name]


def test_fingerprints_tell_files_apart(tmp_path, monkeypatch):
    one, other = tmp_path / "one", tmp_path / "other"
    data = bytes(range(256)) * 1000
    one.write_bytes(data)
    other.write_bytes(data)
    for whole in (files.WHOLE, 10):  # 10: as if the file was a large one
        monkeypatch.setattr(files, "WHOLE", whole)
        other.write_bytes(data)
        assert files.fingerprint(one) == files.fingerprint(other)
        other.write_bytes(data[:77] + b"!" + data[78:])
        assert files.fingerprint(one) != files.fingerprint(other)


@pytest.mark.parametrize("path", [None, 7, b"out", ["out"], {"out": 1}, 1.5, object(), "a\0b"])
def test_what_is_no_path_is_refused_in_one_line(path):
    with pytest.raises(UserError, match="^workdir must be a path, ") as error:
        files.local(path, "workdir")
    assert "\n" not in str(error.value)


def test_a_way_through_what_is_not_there_is_refused(tmp_path):
    (tmp_path / "file").touch()
    assert files.local(tmp_path / ".." / "x", "--out") == tmp_path / ".." / "x"
    for path in (tmp_path / "none" / ".." / "new", tmp_path / "file" / ".." / "new" / "x"):
        with pytest.raises(UserError, match="^--out .* leads through .*(none|file), which is no directory"):
            files.local(path, "--out")


def test_what_stands_in_the_place_of_what_will_be_written_is_named(tmp_path):
    files.check_free(tmp_path / "none", ["a.json"], ["plots"])
    (tmp_path / "a.json").touch()
    (tmp_path / "plots").mkdir()
    files.check_free(tmp_path, ["a.json", "b.json"], ["plots", "more"])
    (tmp_path / "link").symlink_to("nowhere")
    for written, folders, said in (
        (["b.json", "plots"], [], "plots is a directory where a file is written: move it away"),
        ([], ["a.json"], "a.json is a file where a directory is written: move it away"),
        ([], ["link"], "link is a file where a directory is written: move it away"),
    ):
        with pytest.raises(UserError, match=said):
            files.check_free(tmp_path, written, folders)
