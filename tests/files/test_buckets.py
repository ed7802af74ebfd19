"""Stores, runs and exports in buckets of S3 and GCS, as emulators have them, beside the same on the local disk."""

import contextlib
import json
import pathlib
import socket
import subprocess
import sys
import threading
import time

import httpx2
import numpy as np
import pytest

import jaxneg
from jaxneg import cli, errors, files
from jaxneg.data import stores
from jaxneg.errors import UserError
from jaxneg.files import addresses, buckets, leases, locks, mirrors, snapshots
from jaxneg.training import logs
from tests import emulators, verbs
from tests.marks import rest_slow


# What both share is tested on the one that starts at once; moto's server takes seconds to import.
@pytest.fixture(scope="module", params=rest_slow(["s3", "gs"], ["gs"]))
def service(request):
    """The scheme of a service that runs; what is set for it holds while the module's tests of it do."""
    with emulators.running(request.param) as port, pytest.MonkeyPatch.context() as patch:
        for name, value in emulators.settings(request.param, port).items():
            patch.setenv(name, value)
        yield request.param


@pytest.fixture
def at(service, request, tmp_path, monkeypatch):
    """An address of its own for each test, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(errors, "SPOKEN", {})
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)
    return f"{service}://{emulators.BUCKET}/{name}"


def bucket(at):
    return buckets.Bucket(files.address(at, "at"))


def written(at, contents, marker="metadata.json", **options):
    """Puts files by name at an address."""
    with addresses.written(at, "--out", marker, **options) as place:
        for name, text in contents.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(text)


def names(at):
    return sorted(bucket(at).listed())


def test_what_is_written_is_read(at):
    contents = {"a": "1", "deep/b": "22", "empty": "", "metadata.json": "{}"}
    written(at, contents)
    assert names(at) == sorted(contents)  # neither lock nor UNFINISHED stays
    found = addresses.local(at, "store", "metadata.json")
    assert {n: (found / n).read_text() for n in contents} == contents
    assert addresses.local(f"{at}/deep/b", "file").read_text() == "22"
    assert not addresses.local(f"{at}/nothing", "store").exists()


def test_a_file_may_end_in_any_byte(at):
    """The service that tests speak to took a carriage return at the end for a part of its own protocol."""
    for n, end in enumerate((b"\r", b"\n", b"\r\n", b"\0")):
        with addresses.written(f"{at}/{n}", "--out") as place:
            place.write_bytes(bytes(range(256)) + end)
        files.remove(snapshots.cache())  # with what was kept as it was put
        assert addresses.local(f"{at}/{n}", "file").read_bytes() == bytes(range(256)) + end


def test_a_large_file_comes_back_as_it_was(at, tmp_path):
    data = np.random.default_rng(0).bytes(40_000_000)
    with addresses.written(at, "--out") as place:
        place.write_bytes(data)
    assert addresses.local(at, "file").read_bytes() == data


def test_patterns_choose_objects_of_one_folder(at):
    for name in ("logs/1.csv", "logs/2.csv", "logs/x.txt", "logs/old/3.csv"):
        with addresses.written(f"{at}/{name}", "--out") as place:
            place.write_text(name)
    found = addresses.local(f"{at}/logs/*.csv", "SOURCE")
    assert sorted(p.name for p in found.rglob("*") if p.is_file()) == ["1.csv", "2.csv"]


def test_the_marker_is_put_last_and_removed_first(at, monkeypatch):
    """At each moment of a replacement a reader finds the old contents, the new ones, or nothing."""
    old, new = ({"a": text, "b": text, "metadata.json": json.dumps({"of": text})} for text in ("old", "new"))
    written(at, old)
    seen, put, remove = [], buckets.Bucket.put, buckets.Bucket.remove

    def look():
        there = bucket(at).listed()
        texts = {n: bucket(at).read(n).decode() for n in there if n in old}
        whole = "metadata.json" in there
        if whole:
            seen.append("old" if texts == old else "new" if texts == new else "half")
        else:
            seen.append("nothing" if snapshots.UNFINISHED in there else "foreign")

    def looking(call):
        def looked(self, *args):
            for one in [args] if call is put else [([name],) for name in args[0]]:
                call(self, *one)
                look()

        return looked

    monkeypatch.setattr(buckets.Bucket, "put", looking(put))
    monkeypatch.setattr(buckets.Bucket, "remove", looking(remove))
    monkeypatch.setattr(buckets, "TOGETHER", 1)
    written(at, new, replaces=True)
    assert seen[:2] == ["nothing", "nothing"] and seen[-1] == "new" and not {"half", "foreign"} & {*seen}
    assert sorted(set(seen), key=seen.index) == ["nothing", "new"]


def test_a_killed_upload_leaves_nothing_to_read_and_may_be_repeated(at, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(self, path, name):
        if name == "b":
            raise Killed
        return put(self, path, name)

    put, contents = buckets.Bucket.put, {"a": "1", "b": "2", "metadata.json": "{}"}
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(buckets.Bucket, "put", killed)
        written(at, contents)
    assert "metadata.json" not in names(at) and snapshots.UNFINISHED in names(at)
    assert not addresses.local(at, "store", "metadata.json").exists()
    written(at, contents)
    assert names(at) == sorted(contents)


def test_what_is_no_such_thing_stays(at):
    written(at, {"precious": "1", "manifest.json": "{}"}, "manifest.json")
    for marker, options in (("metadata.json", {"replaces": True}), ("manifest.json", {})):
        with pytest.raises(UserError, match=f"^--out {at} exists.*choose another place"):
            written(at, {"x": "1", marker: "{}"}, marker, **options)
    assert names(at) == ["manifest.json", "precious"]


def test_an_object_of_another_checksum_is_not_taken(at, monkeypatch):
    monkeypatch.setattr(snapshots, "PAUSE", 0.01)
    sums = {"a": "0" * 64}
    written(at, {"a": "1", "metadata.json": json.dumps({"sums": sums})})
    files.remove(snapshots.cache())  # with what was kept as it was put
    with pytest.raises(UserError, match="a has another checksum than metadata.json says"):
        addresses.local(at, "store", "metadata.json")


def test_a_lost_write_is_made_again(at, monkeypatch):
    """A service may say that it took an object, and not have it."""
    put, lost = buckets.Bucket.put, []

    def loses(self, path, name):
        if name == "b" and not lost:
            return lost.append(name)
        return put(self, path, name)

    monkeypatch.setattr(buckets.Bucket, "put", loses)
    written(at, {"a": "1", "b": "2", "metadata.json": "{}"})
    assert lost and "b" in names(at)


def test_a_lost_write_to_a_mirror_is_made_again(at, monkeypatch):
    put, lost = buckets.Bucket.put, []

    def loses(self, path, name):
        if name not in lost:
            return lost.append(name)
        return put(self, path, name)

    monkeypatch.setattr(buckets.Bucket, "put", loses)
    with addresses.held(at, "--workdir") as place:
        (place / "config.json").write_text("{}")
        checkpoint(place, 3)
    assert len(lost) == len(names(at)) == 3


def test_one_writer_a_place(at, monkeypatch):
    with (
        leases.held(bucket(at), ".lock", "it"),
        pytest.raises(UserError, match="it is in use by .*wait until it ends"),
    ):
        owner = locks.Owner.this()
        monkeypatch.setattr(locks.Owner, "this", lambda: owner)
        with leases.held(bucket(at), ".lock", "it"):
            pass
    assert names(at) == []


def test_the_lock_of_a_dead_process_is_taken_at_once_and_that_of_a_silent_machine_after_a_while(
    at, monkeypatch
):
    monkeypatch.setattr(leases, "STALE", 0.4)
    monkeypatch.setattr(leases, "SETTLE", 0.1)
    for host, process in ((locks.Owner.this().host, 2**22 + 1), ("elsewhere", 1)):
        owner = locks.Owner.this()
        values = {**vars(owner), "host": host, "process": process, "started": "1", "beats": 7}
        bucket(at).write(".lock", json.dumps(values).encode())
        with leases.held(bucket(at), ".lock", "it"):
            assert json.loads(bucket(at).read(".lock"))["token"] != values["token"]
    assert names(at) == []


def test_a_lock_that_is_written_to_is_held(at, monkeypatch):
    monkeypatch.setattr(leases, "STALE", 1.0)
    values = {**vars(locks.Owner.this()), "host": "elsewhere", "beats": 0}
    ended = threading.Event()

    def beat():
        while not ended.wait(0.05):
            values["beats"] += 1
            bucket(at).write(".lock", json.dumps(values).encode())

    thread = threading.Thread(target=beat)
    bucket(at).write(".lock", json.dumps(values).encode())
    thread.start()
    try:
        with (
            pytest.raises(UserError, match="in use by .* on elsewhere"),
            leases.held(bucket(at), ".lock", "it"),
        ):
            pass
    finally:
        ended.set()
        thread.join()


def checkpoint(place, step):
    """A checkpoint as orbax leaves it, as far as mirrors know."""
    made = place / "checkpoints" / str(step)
    (made / "state").mkdir(parents=True)
    (made / "state" / "array").write_text(f"array {step}")
    (made / mirrors.MARK).write_text(f"mark {step}")


def test_a_mirror_puts_checkpoints_as_they_come_and_takes_none_that_is_half_there(at, monkeypatch):
    monkeypatch.setattr(mirrors, "LOOK", 0.02)
    with addresses.held(at, "--workdir") as place:
        (place / "metrics.jsonl").write_text("1\n")
        checkpoint(place, 5)
        for _ in range(500):
            if f"checkpoints/5/{mirrors.MARK}" in names(at):
                break
            threading.Event().wait(0.02)
        else:
            raise AssertionError("not put while the block lasts")
        assert bucket(at).read("metrics.jsonl") == b"1\n"
        (place / "result.json").write_text("{}")
    bucket(at).write("checkpoints/9/state/array", b"half")
    bucket(at).write("checkpoints/9.orbax-checkpoint-tmp-1/x", b"half")
    with addresses.held(at, "--workdir") as place:
        assert sorted(p.name for p in (place / "checkpoints").iterdir()) == ["5"]
        assert (place / "checkpoints/5/state/array").read_text() == "array 5"
        (place / "result.json").unlink()
        checkpoint(place, 7)
        for path in sorted((place / "checkpoints/5").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    left = [name for name in names(at) if "tmp" not in name]
    assert left == [f"checkpoints/7/{mirrors.MARK}", "checkpoints/7/state/array", "metrics.jsonl"]


def test_without_a_bucket_one_line_says_so(service):
    with pytest.raises(UserError, match=r"there is no bucket nowhere: make it"):
        addresses.local(f"{service}://nowhere/x", "store")
    with pytest.raises(UserError, match="write a bucket and a name in it"):
        addresses.local(f"{service}:///", "store")
    with pytest.raises(UserError, match="is a whole bucket: write a name in it"):
        written(f"{service}://{emulators.BUCKET}", {"metadata.json": "{}"})


def test_without_credentials_one_line_says_so_before_anything_is_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/nowhere"),
        ("AWS_CONFIG_FILE", "/nowhere"),
    ):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="no credentials that s3:// takes: set AWS_ACCESS_KEY_ID"):
        addresses.local("s3://bucket/store", "store")


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_without_the_extra_one_line_says_what_to_install(scheme, monkeypatch, tmp_path):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(buckets.importlib, "import_module", missing)
    monkeypatch.setattr(buckets, "_made", {})
    with pytest.raises(UserError, match=rf"{scheme}:// needs \w+: pip install 'jaxneg\[buckets\]'"):
        addresses.local(f"{scheme}://bucket/x", "store")


def test_a_file_address_is_the_path(tmp_path):
    (tmp_path / "x").write_text("1")
    assert addresses.local(f"file://{tmp_path}/x", "store") == tmp_path / "x"
    assert addresses.local(pathlib.Path(f"file://{tmp_path}/x"), "store") == tmp_path / "x"
    with addresses.written(f"file://{tmp_path}/y", "--out") as place:
        assert place == tmp_path / "y"


def same_files(one, other, but=()):
    found = [{p.name: p.read_bytes() for p in place.iterdir() if p.is_file()} for place in (one, other)]
    assert {*found[0]} == {*found[1]}
    return {name for name in found[0] if found[0][name] != found[1][name]} - {*but}


def figures_of(run):
    """What a run's validations found, and not how long they took."""
    return [{k: v for k, v in one.items() if "seconds" not in k} for one in run.result["history"]]


def served(export, body):
    """What ``jaxneg serve`` of an export answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "jaxneg", "serve", export, "--port", str(port)]
    with subprocess.Popen(words, env=verbs.environment(), stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(1200):
                with contextlib.suppress(httpx2.TransportError):
                    return httpx2.post(f"http://127.0.0.1:{port}/recommend", json=body, timeout=30.0).json()
                assert process.poll() is None
                time.sleep(0.05)
        finally:
            process.terminate()
    raise TimeoutError


@pytest.mark.slow  # every verb, each of whose ways to a bucket is above, and its options in cli/test_streams.py
def test_from_log_to_lists_in_a_bucket_is_as_on_the_disk(at, worked, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(worked)
    with addresses.written(f"{at}/log.csv", "--out") as place:
        place.write_bytes((worked / "log.csv").read_bytes())

    def run(words):
        cli.main(words.split())
        said = capsys.readouterr()
        assert str(tmp_path) not in said.out + said.err.partition("compiled programs")[0]
        return said.out + said.err

    run(f"prepare table {at}/log.csv --out {at}/store --attributes artist")
    store = stores.Store.open(f"{at}/store")
    assert not same_files(store.path, worked / "store", {"metadata.json"})
    assert store.metadata.source == f"{at}/log.csv"
    run(f"train config.py --workdir {at}/run --train.log-every 7 --data.store {at}/store")
    here = jaxneg.open_run(f"{at}/run")
    assert here.config.data.store == f"{at}/store"
    assert figures_of(here) == figures_of(jaxneg.open_run(worked / "run"))
    assert [one["step"] for one in here.history] == [one["step"] for one in logs.read(worked / "run")]
    run(f"export {at}/run --out {at}/export")
    ours, theirs = (jaxneg.Scorer.open(place) for place in (f"{at}/export", worked / "export"))
    history = [jaxneg.Event(item, "play") for item in theirs.items(3)]
    assert ours.recommend(history, 5) == theirs.recommend(history, 5)
    answer = served(
        f"{at}/export", {"events": [{"item": one.item, "feedback": "play"} for one in history], "k": 5}
    )
    assert [one["item"] for one in answer["recommendations"]] == [
        one.item for one in ours.recommend(history, 5)
    ]
    assert f"{at}/run" in run(f"runs {at}")
    run(f"recommend {at}/export --users {at}/log.csv --out {at}/lists.parquet --k 3")
    assert addresses.local(f"{at}/lists.parquet", "--out").stat().st_size > 1000
    with pytest.raises(SystemExit):
        cli.main(f"export {at}/run --out {at}/export".split())
    assert f"--out {at}/export exists" in capsys.readouterr().err
    assert not [name for name in names(at) if name.endswith((".lock", snapshots.UNFINISHED))]
