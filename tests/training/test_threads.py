"""A thread that dies ends the run in one line, with exit code 2 and what to do, and nobody waits for it."""

import concurrent.futures
import errno
import importlib
import os
import pathlib
import re
import signal
import sys
import threading

import numpy as np
import pytest

from jaxneg import cli, errors
from jaxneg.errors import UserError
from jaxneg.sweep import workers
from jaxneg.training import checkpoint, processes, runs

pytestmark = pytest.mark.slow

TRAIN = "train config.py --train.log-every 1 --train.checkpoint-every 4"
AHEAD = ("jaxneg.data.gathering.Gather.random_map", 30)
COMMIT = ("orbax.checkpoint._src.checkpointers.async_checkpointer._background_wait_for_commit_futures", 2)
FINAL = ("orbax.checkpoint.checkpoint_manager.CheckpointManager._finalize", 2)
SAVE = ("orbax.checkpoint.checkpoint_manager.CheckpointManager.save", 2)
BOARD = ("tensorboardX.event_file_writer.EventsWriter.write_event", 3)
LINE = ("jaxneg.training.logs.Writer.write", 3)
# What dies (and after how many calls), of what, and what the line says.
DEATHS = {
    "batches, no memory": (*AHEAD, MemoryError(), "not enough memory: free some memory"),
    "batches, a disk": (
        *AHEAD,
        OSError(errno.EIO, os.strerror(errno.EIO), "/s/event_item.npy"),
        "/s/event_item.npy: Input/output error: look after the disk",
    ),
    "batches, a stale mount": (*AHEAD, OSError(errno.ESTALE, os.strerror(errno.ESTALE)), "Stale file handle"),
    "batches, a library": (
        *AHEAD,
        RuntimeError("boom"),
        "made ahead: RuntimeError: boom: the same command continues",
    ),
    "batches, no thread": (*AHEAD, RuntimeError("can't start new thread"), "raise the limit of processes"),
    "batches, the thread alone": (*AHEAD, SystemExit(0), "made ahead: SystemExit: 0"),
    "checkpoint, a library": (
        *COMMIT,
        RuntimeError("boom"),
        "a checkpoint of .*run could not be saved: RuntimeError",
    ),
    "checkpoint, the thread alone": (*COMMIT, SystemExit(0), "could not be saved: SystemExit"),
    "checkpoint, a timeout": (
        *COMMIT,
        TimeoutError("of 600 s"),
        "could not be saved: TimeoutError: of 600 s: those",
    ),
    "checkpoint, no room": (
        *COMMIT,
        ValueError('Error writing "/r/d": No space left on device [28]'),
        "/r/d: No space left on device: free some space",
    ),
    "checkpoint, its end": (
        *FINAL,
        RuntimeError("boom\nand more"),
        "could not be saved: RuntimeError: boom: those",
    ),
    "checkpoint, its beginning": (*SAVE, ValueError("exists"), "could not be saved: ValueError: exists"),
    "TensorBoard, no room": (
        *BOARD,
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        "No space left on device",
    ),
    "TensorBoard, a library": (
        *BOARD,
        RuntimeError("boom"),
        "TensorBoard's file .* RuntimeError: boom: mend",
    ),
    "metrics, a quota": (*LINE, OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), "free some space"),
    "device, no memory": (
        "jaxneg.training.loop.Loop._flush",
        3,
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
        "RESOURCE_EXHAUSTED: Out of memory: lower --data.batch-size",
    ),
}


@pytest.fixture
def in_time():
    """Ends what waits for ever."""

    def ring(*_):
        raise TimeoutError("it hangs")

    old = signal.signal(signal.SIGALRM, ring)
    signal.alarm(100)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, old)


def dying(monkeypatch, name, calls, error):
    """Lets a function raise from its call of that number on."""
    owner, _, attribute = name.rpartition(".")
    try:
        holder = importlib.import_module(owner)
    except ModuleNotFoundError:
        module, _, kind = owner.rpartition(".")
        holder = getattr(pytest.importorskip(module), kind)
    old, count = getattr(holder, attribute), [0]

    def dies(*args, **kwargs):
        count[0] += 1
        if count[0] > calls:
            raise error
        return old(*args, **kwargs)

    monkeypatch.setattr(name, dies)


@pytest.mark.parametrize("death", DEATHS)
def test_a_death_is_one_line_and_the_run_can_be_continued(
    death, worked, tmp_path, monkeypatch, capfd, in_time
):
    name, calls, error, says = DEATHS[death]
    monkeypatch.chdir(worked)
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
        dying(patch, name, calls, error)
        cli.main([*TRAIN.split(), "--workdir", str(tmp_path / "run")])
    lines = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("train ")]
    assert ended.value.code == 2 and len(lines) == 1, lines
    assert lines[0].startswith("jaxneg: "), lines
    assert re.search(says, lines[0]), lines[0]
    assert not (tmp_path / "run" / "result.json").exists() and not list(tmp_path.rglob("*.lock"))


@pytest.mark.parametrize(
    "death", ["batches, a library", "checkpoint, the thread alone", "checkpoint, its end"]
)
def test_what_is_continued_ends_as_if_nothing_had_been(death, worked, tmp_path, monkeypatch):
    name, calls, error, _ = DEATHS[death]
    monkeypatch.chdir(worked)
    command = [*TRAIN.split(), "--workdir", str(tmp_path / "run")]
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        dying(patch, name, calls, error)
        cli.main(command)
    cli.main(command)
    one, other = runs.load(tmp_path / "run"), runs.load(pathlib.Path("run"))
    assert one.result["best_score"] == other.result["best_score"]
    assert (one.state.tables["item_VD"] == other.state.tables["item_VD"]).all()


def test_a_fault_of_ours_in_another_thread_keeps_its_trace(worked, tmp_path, monkeypatch, in_time):
    monkeypatch.chdir(worked)
    dying(monkeypatch, *AHEAD, IndexError("ours"))
    with pytest.raises(IndexError, match="ours"):
        cli.main([*TRAIN.split(), "--workdir", str(tmp_path / "run")])


def test_a_thread_that_ends_without_a_word_leaves_no_checkpoint_that_is_believed(tmp_path, monkeypatch):
    """orbax takes a commit that was cancelled for one that ended well."""
    dying(monkeypatch, COMMIT[0], 0, concurrent.futures.CancelledError())
    checkpoints = checkpoint.Checkpointer(tmp_path / "run" / "checkpoints")
    state = {"a": np.zeros(3, np.float32)}
    with pytest.raises(
        UserError, match="could not be saved: RuntimeError: no checkpoint of step 3 came of it"
    ):
        checkpoints.save(3, state, {"step": 3}, 0.0)
        checkpoints.wait()


def test_the_watchdog_ends_the_process_where_nobody_can_hear_it(monkeypatch):
    ended = threading.Event()
    codes = []
    monkeypatch.setattr(processes.os, "_exit", lambda code: (codes.append(code), ended.set(), sys.exit()))

    def deaf(*_, **__):
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", deaf)
    monkeypatch.setattr(threading, "excepthook", lambda *_: None)
    with processes.Watchdog(0.05):
        assert ended.wait(20)
    assert codes == [processes.LOST]


def test_a_worker_whose_answers_cannot_be_read_has_failed(tmp_path, monkeypatch, in_time):
    """The thread that listens dies, and the sweep goes on."""

    def dies(text):
        raise MemoryError

    monkeypatch.setattr(threading, "excepthook", lambda *_: None)
    monkeypatch.setattr(workers.json, "loads", dies)
    place = workers.Place({})
    found = list(workers.calls("jaxneg.files:nothing", {"a": {}}, [place], tmp_path))
    assert [event.task for event in found] == ["a"] and "its process ended" in (found[0].failed or "")


def test_what_the_system_refuses_a_worker_is_told_with_its_remedy(tmp_path):
    path = tmp_path / "toy_refused.py"
    path.write_text("def full(on_progress):\n    raise OSError(28, 'No space left on device', '/r/a')\n")
    place = workers.Place({"PYTHONPATH": str(tmp_path)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        (event,) = workers.calls("toy_refused:full", {"a": {}}, [place], tmp_path)
    assert event.failed == "/r/a: No space left on device: free some space"


def test_libraries_are_carried_and_people_are_not():
    for error in (KeyboardInterrupt(), GeneratorExit(), UserError("mine"), KeyError("ours")):
        with pytest.raises(type(error)), errors.carried("it failed", "go on", (KeyError,)):
            raise error
    with (
        pytest.raises(UserError, match="^it failed: ValueError: go on$"),
        errors.carried("it failed", "go on"),
    ):
        raise ValueError
