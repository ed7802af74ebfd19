"""Worker processes: every task is answered, failures stay alone, and nobody outlives the parent."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

from jaxneg.config import UserError
from jaxneg.sweep import workers

TOY = """
import os, pathlib, sys, time
from jaxneg.config import UserError


def work(n, directory, on_progress):
    print("noise on standard output")
    if n == 1:
        raise UserError("one\\nis refused")
    if n == 2:
        raise ValueError("two is wrong")
    if n == 3:
        os._exit(7)
    on_progress(n, 10, {"loss": 0.5}, stage="work")
    if n == 9:
        pathlib.Path(directory, "started").write_text(str(os.getpid()))
        time.sleep(600)
    pathlib.Path(directory, f"{n}.txt").write_text(str(sorted(os.sched_getaffinity(0))))
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    (tmp_path / "toy_tasks.py").write_text(TOY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def tasks(directory, *numbers):
    return {f"task {n}": {"n": n, "directory": str(directory)} for n in numbers}


def run(toy, *numbers, places=2):
    core = min(os.sched_getaffinity(0))
    where = [workers.Place({}, (core,))] * places
    with contextlib.closing(
        workers.calls("toy_tasks:work", tasks(toy, *numbers), where, toy / "logs")
    ) as events:
        return list(events)


def told(n):
    return {"done": n, "total": 10, "figures": {"loss": 0.5}, "stage": "work"}


def test_each_task_ends_once_and_failures_stay_alone(toy):
    events = run(toy, 0, 1, 2, 3, 4, 5)
    ended = [event for event in events if event.progress is None]
    assert sorted(event.task for event in ended) == [f"task {n}" for n in range(6)]
    failed = {event.task: event for event in ended if event.failed is not None}
    assert sorted(failed) == ["task 1", "task 2", "task 3"]
    assert failed["task 1"].failed == "one is refused" and failed["task 1"].trace == ""
    assert failed["task 2"].failed == "ValueError: two is wrong" and "in work" in failed["task 2"].trace
    assert "exit code 7" in str(failed["task 3"].failed)
    assert {event.task for event in events if event.progress == told(4)} <= {"task 4"}
    core = str([min(os.sched_getaffinity(0))])
    assert {path.name: path.read_text() for path in toy.glob("[0-9].txt")} == {
        f"{n}.txt": core for n in (0, 4, 5)
    }
    assert "noise" in "".join(path.read_text() for path in (toy / "logs").iterdir())


def test_no_tasks_start_no_worker(toy):
    assert run(toy) == []


def gone(pid, within=10.0):
    """Whether a process that is nobody's child, or a zombie of ours, has ended."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def started(directory):
    until = time.monotonic() + 60
    while not (directory / "started").exists() or not (directory / "started").read_text():
        assert time.monotonic() < until
        time.sleep(0.05)
    return int((directory / "started").read_text())


def test_closing_ends_the_workers(toy):
    events = workers.calls("toy_tasks:work", tasks(toy, 9), [workers.Place({})], toy / "logs")
    assert next(events).progress == told(9)
    pid = started(toy)
    events.close()
    assert gone(pid, within=1.0)


PARENT = """
import pathlib, sys
from jaxneg.sweep import workers

here = pathlib.Path(sys.argv[1])
lock = open(here / "lock", "w")
list(workers.calls("toy_tasks:work", {"a": {"n": 9, "directory": str(here)}}, [workers.Place({})], here / "logs"))
"""


def test_workers_end_with_a_parent_that_is_killed(toy):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(toy)])
    try:
        pid = started(toy)
        assert not gone(pid, within=0.2)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert gone(pid)


@pytest.fixture
def platform(monkeypatch):
    """Sets what JAX would find."""

    def found(text, code=0):
        monkeypatch.delenv("JAX_PLATFORMS", raising=False)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
        done = subprocess.CompletedProcess([], code, stdout=text, stderr="RuntimeError: none there\n")
        monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)

    return found


def test_cores_are_shared_out(platform, monkeypatch):
    platform("cpu 8\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 3, 5, 7, 11})
    assert [place.cores for place in workers.places()] == [(2,), (3,), (5,), (7,), (11,)]
    assert [place.cores for place in workers.places(2)] == [(2, 5, 11), (3, 7)]
    assert [place.cores for place in workers.places(1)] == [(2, 3, 5, 7, 11)]
    assert [place.cores for place in workers.places(7)][5:] == [(2,), (3,)]


def test_each_gpu_has_a_worker(platform, monkeypatch):
    platform("a line of noise\ngpu 2\n")
    visible = [place.environment["CUDA_VISIBLE_DEVICES"] for place in workers.places()]
    assert visible == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    three = workers.places(3)
    assert [place.environment["CUDA_VISIBLE_DEVICES"] for place in three] == ["4", "6", "4"]
    assert all(place.environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.450" for place in three)


def test_a_tpu_has_one_worker(platform):
    platform("tpu 4\n")
    assert len(workers.places()) == 1
    with pytest.raises(UserError, match="--jobs 2, but a TPU serves one process"):
        workers.places(2)


def test_no_device_is_one_line(platform):
    platform("", code=1)
    with pytest.raises(UserError, match="JAX finds no device: RuntimeError: none there"):
        workers.places()
