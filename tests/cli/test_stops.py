"""Signals in the first seconds of each verb, a second verb where one is at work, and a disk that is full: one line."""

import contextlib
import importlib.util
import json
import pathlib
import random
import re
import shutil
import signal
import subprocess
import time

import pytest

from jaxneg.files import locks
from tests import verbs

pytestmark = [pytest.mark.slow]
system = pytest.mark.system
REFUSED = "in use by|exists|made in the meantime"
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
SMOKE = [("sweep", signal.SIGTERM), ("prepare", signal.SIGINT)]
WRITES = [verb for verb in verbs.VERBS if verb not in ("inspect", "plan", "recommend", "runs")]


def stopped(process, number):
    """What a process said that was sent a signal. It may have been done just then."""
    process.send_signal(number)
    text = process.communicate(timeout=100)[1]
    lines = verbs.said(text)
    if process.returncode != 0:
        assert process.returncode == CODES[number], text.decode()
        assert len(lines) == 1 and lines[0].startswith("jaxneg: "), text.decode()
    return text.decode()


@pytest.mark.parametrize(
    ("verb", "number"),
    [
        pytest.param(verb, number, marks=() if (verb, number) in SMOKE else system)
        for verb in verbs.VERBS
        for number in CODES
    ],
)
def test_a_signal_in_the_first_seconds(verb, number, worked, tmp_path):
    here = verbs.copy(worked, tmp_path / "here")
    before = {path for path in here.rglob("*")}
    process = verbs.start(verbs.command(verb, here), here)
    verbs.wait_until_caught(process)
    # Without its compiler plan soon ends by itself, with 2, and no signal is to come just then.
    longest = 0.3 if verb == "plan" and importlib.util.find_spec("libtpu") is None else 2.5
    time.sleep(random.Random(f"{verb} {number}").uniform(0.0, longest))
    if process.poll() is not None:
        process.communicate()
        return  # it was done
    stopped(process, number)
    assert verbs.leftovers(here) == []
    if process.returncode and verb not in ("train", "sweep"):
        assert {path for path in here.rglob("*")} == before  # an earlier report stays, nothing else is there


@pytest.mark.parametrize(
    ("number", "after"),
    [
        (signal.SIGINT, 0.5),
        pytest.param(signal.SIGINT, 6.0, marks=system),
        pytest.param(signal.SIGTERM, 0.5, marks=system),
        pytest.param(signal.SIGTERM, 6.0, marks=system),
    ],
)
def test_a_demo_that_is_stopped_begins_anew(number, after, tmp_path):
    process = verbs.start("demo --out demo", tmp_path)
    verbs.wait_until_caught(process)
    time.sleep(after)
    process.send_signal(number)
    text = process.communicate(timeout=100)[1].decode()
    assert process.returncode == CODES[number] and "Traceback" not in text, text
    assert text.splitlines()[-1].startswith("jaxneg: ") and "the same command begins anew" in text
    assert verbs.leftovers(tmp_path) == []


def test_a_signal_when_all_is_done_changes_nothing(worked, tmp_path):
    """Python gives signals back to the system as it ends: a process that had said that it was done died of them."""
    for wait in (0.0, 0.003, 0.01, 0.03):
        process = verbs.start("--version", worked, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline()
        time.sleep(wait)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode in (0, 143)


@pytest.mark.parametrize("verb", verbs.every("export", of=WRITES))
def test_a_second_one_is_refused_and_the_first_is_none_the_worse(verb, worked, tmp_path):
    here = verbs.copy(worked, tmp_path / "here")
    words = verbs.command(verb, here)
    both = [verbs.start(words, here) for _ in range(2)]
    texts = [process.communicate(timeout=200)[1].decode() for process in both]
    codes = sorted(process.returncode for process in both)
    if codes == [0, 0]:  # one after the other; of an output that must not exist yet this cannot be
        assert verb in ("prepare", "simulate", "evaluate", "train", "sweep")
    else:
        assert codes == [0, 2], texts
        refused = next(text for text, one in zip(texts, both, strict=True) if one.returncode == 2)
        lines = verbs.said(refused.encode())
        assert len(lines) == 1 and re.search(REFUSED, lines[0]), refused
        assert "Traceback" not in refused
    assert verbs.leftovers(here) == []
    if verb == "simulate":
        alone = verbs.copy(worked, tmp_path / "alone")
        assert verbs.run(words, alone).returncode == 0
        assert (alone / "new.csv").read_bytes() == (here / "new.csv").read_bytes()
    if verb == "simulate --ab":
        alone = verbs.copy(worked, tmp_path / "alone")
        assert verbs.run(words, alone).returncode == 0
        assert json.loads((alone / "new/ab.json").read_text()) == json.loads(
            (here / "new/ab.json").read_text()
        )


TRAIN = "train config.py --workdir new --train.epochs 10000 --train.patience 0"


@pytest.mark.parametrize(
    ("held", "second"),
    [
        ("demo --out demo", "demo --out demo"),
        ("demo --out demo", "simulate --out demo/log.parquet"),
        (TRAIN, "sweep config.py --workdir new --set data.p-hard=0"),
        (TRAIN, "prepare table log.csv --out new"),
        (TRAIN, "export run --out new"),
        (TRAIN, "demo --out new"),
    ],
)
def test_a_verb_on_a_directory_in_use_is_refused(held, second, worked, tmp_path, monkeypatch, capfd):
    """As the next one, but this process holds the lock that the first verb would, and wrote its first file."""
    here = verbs.copy(worked, tmp_path / "here")
    monkeypatch.chdir(here)
    place = pathlib.Path(held.split(" --")[1].split()[-1])
    lock = locks.beside(place / "log.parquet") if "log.parquet" in second else locks.inside(place)
    with locks.held(lock, place):
        if held == TRAIN:
            shutil.copy("run/config.json", place)
        code, text = verbs.inside(second, capfd)
    [line] = verbs.said(text)
    assert code == 2 and re.search(REFUSED, line), line
    assert verbs.leftovers(here) == []


@pytest.mark.parametrize(
    ("held", "second"),
    [
        pytest.param("demo --out demo", "demo --out demo", marks=system),
        pytest.param("demo --out demo", "simulate --out demo/log.parquet", marks=system),
        pytest.param(TRAIN, "sweep config.py --workdir new --set data.p-hard=0", marks=system),
        pytest.param(TRAIN, "prepare table log.csv --out new", marks=system),
        (TRAIN, "export run --out new"),
        pytest.param(TRAIN, "demo --out new", marks=system),
    ],
)
def test_another_verb_on_a_directory_in_use_is_refused(held, second, worked, tmp_path):
    here = verbs.copy(worked, tmp_path / "here")
    first = verbs.start(held, here)
    lock, deadline = here / held.split(" --")[1].split()[-1], time.monotonic() + 60
    locks = [lock / ".lock", lock / ".log.parquet.lock"][-1 if "log.parquet" in second else 0]
    while not locks.exists() and time.monotonic() < deadline and first.poll() is None:
        time.sleep(0.01)
    ended = verbs.run(second, here)
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=100)
    lines = verbs.said(ended.stderr)
    assert ended.returncode == 2 and len(lines) == 1, ended.stderr
    assert re.search(REFUSED, lines[0]), lines[0]
    assert first.returncode == 143 and verbs.leftovers(here) == []


@pytest.fixture
def small_disk(tmp_path):
    """A function that makes a file system of some kB, or changes its size."""
    place = tmp_path / "disk"
    place.mkdir()

    def size(kb, how=""):
        line = ["mount", "-t", "tmpfs", "-o", f"{how}size={kb}k", "tmpfs", str(place)]
        done = subprocess.run(line, capture_output=True)
        if done.returncode:
            pytest.skip("file systems may not be mounted here")
        return place

    yield size
    subprocess.run(["umount", "-l", str(place)], capture_output=True)


# kB on which each finds no room, at its first file and amid writing. The copy of what it reads lies elsewhere.
ROOM = {
    "prepare": (4, 28, 100),
    "simulate": (4, 60, 200),
    "simulate --ab": (4,),
    "train": (4, 40, 100, 250),
    "sweep": (4, 60, 250),
    "export": (4, 28),
    "evaluate": (4, 12),
}


# Of orbax's event loop, which __main__ silences in a process of its own.
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
# Other verbs on a disk that fills up in the default run: test_bad_input.py, by faults of the system's calls.
@pytest.mark.parametrize(
    "verb", [verb if verb in ("prepare", "train") else pytest.param(verb, marks=system) for verb in ROOM]
)
@pytest.mark.parametrize("alone", [False, pytest.param(True, marks=system)])
def test_a_file_system_that_fills_up(verb, alone, worked, tmp_path, small_disk, monkeypatch, capfd):
    here = verbs.copy(worked, tmp_path / "here")
    monkeypatch.chdir(here)

    def call(words):
        if not alone:
            return verbs.inside(words, capfd)
        ended = verbs.run(words, here, env={"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")})
        return ended.returncode, ended.stderr.decode()

    for kb in ROOM[verb] if alone else {ROOM[verb][0], ROOM[verb][-1]}:
        disk = small_disk(kb)
        target = disk / "new"
        if verb == "evaluate":  # its report goes into the run, which is full
            words = "evaluate run --baselines usual"
            run = disk
            small_disk(4000, "remount,")
            subprocess.run(["cp", "-r", f"{worked}/run", str(run)], check=True)
            used = int(
                subprocess.run(["du", "-sk", str(run)], capture_output=True, text=True).stdout.split()[0]
            )
            small_disk(used + kb, "remount,")
            words = words.replace("evaluate run", f"evaluate {run / 'run'}")
        else:
            words = verbs.command(verb, here).replace("--out new", f"--out {target}")
            words = words.replace("--workdir new", f"--workdir {target}").replace("new.csv", f"{target}.csv")
        code, text = call(words)
        assert code == 2, (kb, text)
        lines = [line for line in verbs.said(text) if line.startswith("jaxneg: ")]
        assert len(lines) == 1 and "Traceback" not in text, (kb, text)
        assert re.search("(No space left on device|disk is full).*: free some space", lines[0]), lines
        assert verbs.leftovers(disk) == [], kb
        small_disk(20000, "remount,")
        code, text = call(words)
        assert code == 0, (kb, text)
        assert verbs.leftovers(disk) == []
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.system
def test_a_disk_without_room_for_tensorboard_ends_training(worked, tmp_path, small_disk):
    pytest.importorskip("tensorboardX")
    here = verbs.copy(worked, tmp_path / "here")
    board, disk = here / "run" / "tensorboard", small_disk(100)
    shutil.rmtree(board)
    board.symlink_to(disk)
    with contextlib.suppress(OSError):
        (disk / "filler").write_bytes(b"0" * (92 << 10))  # a page or two are left
    ended = verbs.run("train config.py --workdir run --train.epochs 300 --train.log-every 1", here)
    lines = verbs.said(ended.stderr)
    assert ended.returncode == 2 and len(lines) == 1, ended.stderr
    assert "No space left on device: free some space" in lines[0]
