"""One writer a place: of this machine, of others, and of those that are gone."""

import dataclasses
import json
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from jaxneg import files
from jaxneg.errors import UserError
from jaxneg.files import locks
from tests.marks import rest_slow

HOLD = """
import sys, time
from jaxneg.files import locks
sys.argv = ["/usr/bin/jaxneg", "train", "config.py"]
with locks.held(locks.inside({path!r}), "run"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of ``run``."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(path=str(tmp_path / "run"))], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def foreign(path, **changes):
    """A lock as a process of another machine leaves it, whose ``flock`` does not reach this one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    owner = dataclasses.replace(locks.Owner.this(), host="elsewhere", process=17, **changes)
    path.write_text(json.dumps(dataclasses.asdict(owner)))
    return owner


def test_a_second_one_is_told_who_holds_it(tmp_path, holder):
    began = time.monotonic()
    with pytest.raises(UserError) as caught, locks.held(locks.inside(tmp_path / "run"), "--workdir run"):
        pass
    assert time.monotonic() - began < 2
    line = str(caught.value)
    assert line.startswith(f"--workdir run is in use by jaxneg train config.py (process {holder.pid} on ")
    assert "since 20" in line and line.endswith("wait until it ends, or stop it")


def test_it_is_free_at_once_after_a_kill(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # dead, and not even fetched by its parent
    began = time.monotonic()
    with locks.held(locks.inside(tmp_path / "run"), "run"):
        assert time.monotonic() - began < 2
    assert not (tmp_path / "run" / ".lock").exists()


@pytest.mark.slow
def test_a_process_that_stands_still_holds_it(tmp_path, holder, monkeypatch):
    monkeypatch.setattr(locks, "STALE", 0.2)
    os.kill(holder.pid, signal.SIGSTOP)
    time.sleep(0.5)
    with pytest.raises(UserError, match="in use"), locks.held(locks.inside(tmp_path / "run"), "run"):
        pass


def test_a_number_that_another_process_has_got_is_no_owner(tmp_path):
    path = locks.inside(tmp_path)
    path.write_text(json.dumps(dataclasses.asdict(dataclasses.replace(locks.Owner.this(), started="1"))))
    with locks.held(path, "run"):
        pass


@pytest.mark.slow
def test_children_of_a_dead_one_are_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "CHILDREN", 1.0)
    code = f"""
import subprocess, sys, os
from jaxneg.files import locks
with locks.held(locks.inside({str(tmp_path)!r}), "run") as lock:
    child = subprocess.Popen(["sleep", "30"], pass_fds=(lock.fd,), stdout=subprocess.DEVNULL)
    print(child.pid, flush=True)
    os.kill(os.getpid(), 9)
"""
    ended = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=20)
    child = int(ended.stdout)
    with pytest.raises(UserError, match="in use"), locks.held(locks.inside(tmp_path), "run"):
        pass
    threading.Timer(0.4, lambda: os.kill(child, 9)).start()
    with locks.held(locks.inside(tmp_path), "run"):
        pass


def test_one_of_another_machine_is_held_while_it_is_touched(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "STALE", 5.0)
    path = locks.inside(tmp_path / "run")
    foreign(path)
    timer = threading.Timer(0.5, lambda: os.utime(path))
    timer.start()
    with pytest.raises(UserError, match=r"process 17 on elsewhere"), locks.held(path, "run"):
        pass
    timer.join()


def test_one_of_another_machine_is_taken_once_it_is_not_touched_for_long(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(locks, "STALE", 0.4)
    monkeypatch.setattr(locks, "SETTLE", 0.05)
    path = locks.inside(tmp_path / "run")
    foreign(path)
    with locks.held(path, "run") as lock:
        assert locks._owner_at(path) == lock.owner
    assert "waiting 0.4 s for a sign of life" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": 1}', "\x00" * 10])
def test_one_that_says_nothing_is_taken_after_a_moment(tmp_path, monkeypatch, text):
    monkeypatch.setattr(locks, "WRITING", 0.2)
    (tmp_path / ".lock").write_text(text)
    with locks.held(locks.inside(tmp_path), "run"):
        pass


def test_who_lost_it_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT", 0.05)
    ended = threading.Event()
    codes = []
    monkeypatch.setattr(threading, "excepthook", lambda *_: None)
    monkeypatch.setattr(locks.os, "_exit", lambda code: (codes.append(code), ended.set(), sys.exit()))
    path = locks.inside(tmp_path)
    with locks.held(path, "run"):
        foreign(path, token="other")
        assert ended.wait(5)
    assert codes == [locks.LOST]
    assert path.exists()  # it is the other's


def test_two_names_are_held_side_by_side_and_one_name_once(tmp_path):
    with locks.held(locks.inside(tmp_path), "run"), locks.held(locks.inside(tmp_path, "report"), "run"):
        assert files.vacant(tmp_path)
        with pytest.raises(UserError, match="in use"), locks.held(locks.inside(tmp_path), "run"):
            pass
    assert list(tmp_path.iterdir()) == []


def test_directories_that_it_needed_go_again(tmp_path):
    with locks.held(locks.inside(tmp_path / "a" / "b"), "run"):
        assert (tmp_path / "a" / "b").is_dir()
    assert list(tmp_path.iterdir()) == []
    with locks.held(locks.beside(tmp_path / "a" / "b"), "run"):
        (tmp_path / "a" / "b").mkdir()
    assert (tmp_path / "a" / "b").is_dir()


def test_links_to_one_place_have_one_lock(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    assert locks.inside(tmp_path / "link") == locks.inside(tmp_path / "run")
    assert locks.beside(tmp_path / "link") == locks.beside(tmp_path / "run")


def test_a_file_where_the_directory_should_be_is_told(tmp_path):
    (tmp_path / "file").touch()
    for path in (locks.inside(tmp_path / "file"), locks.inside(tmp_path / "file" / "x")):
        with pytest.raises(UserError, match="no directory"), locks.held(path, "run"):
            pass


def contend(path, ready, done, out):
    ready.wait(timeout=30)
    try:
        with locks.held(pathlib.Path(path), "run"):
            out.put("held")
            done.wait(timeout=30)
    except UserError:
        out.put(None)


@pytest.mark.parametrize("dead", rest_slow([False, True], [True]))
def test_of_many_at_once_one_gets_it(tmp_path, dead):
    path = locks.inside(tmp_path)
    if dead:
        owner = dataclasses.replace(locks.Owner.this(), process=2**22 + 1)
        path.write_text(json.dumps(dataclasses.asdict(owner)))
    context = multiprocessing.get_context("spawn")
    out, ready, done = context.Queue(), context.Barrier(4), context.Event()
    processes = [context.Process(target=contend, args=(str(path), ready, done, out)) for _ in range(4)]
    for process in processes:
        process.start()
    found = [out.get(timeout=60) for _ in processes]
    done.set()
    for process in processes:
        process.join()
    assert sum(one is not None for one in found) == 1, found
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_was_taken_before_the_lock_was_had_is_refused(tmp_path, monkeypatch):
    """Another process makes it between the first look and the lock."""
    target, held = tmp_path / "new", locks.held

    def late(*args):
        target.mkdir()
        (target / "of another").touch()
        return held(*args)

    monkeypatch.setattr(locks, "held", late)
    with pytest.raises(UserError, match="^--out new exists: choose a new directory"):
        with locks.new_directory(target, "--out new"):
            raise AssertionError("it is not ours to write")
    assert [path.name for path in tmp_path.rglob("*")] == ["new", "of another"]
