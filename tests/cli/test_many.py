"""Verbs by two processes in truth: what one makes, and what becomes of the other when one is killed."""

import json
import re
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

import jaxneg
from jaxneg import config as configs
from jaxneg.files import Address
from jaxneg.files.buckets import Bucket
from jaxneg.training import loop, processes
from tests import emulators, verbs

EVALUATE = "evaluate run --eval.bootstrap 20"
# The second process dies where the first writes, or has written, and waits for it.
DIES = """
import os, signal, time
def died(stage, **_):
    if stage == "written":
        while not os.path.exists(FILE):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
    return together(stage)
if not processes.first():
    together, processes.together = processes.together, died
"""


def start(words, here, first="", env=None):
    """A command by two processes, in which some lines come once they are joined."""
    code = "from jaxneg import cli; from jaxneg.training import processes; processes.HEARTBEAT = 8"
    code = f"{code}\nstart = processes.start\ndef started(*given, **named):\n    start(*given, **named)"
    code += "".join(f"\n    {line}" for line in first.splitlines()) + "\nprocesses.start = started"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    started = []
    for number in range(2):
        joins = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(number)}
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", f"{code}\ncli.main({words.split()!r})"],
                cwd=here,
                env=verbs.environment(**joins, **(env or {})),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return started


def by_two(words, here, first="", env=None):
    """Exit codes and standard errors of a command by two processes."""
    started = start(words, here, first, env)
    said = [process.communicate(timeout=200)[1] for process in started]
    return [process.returncode for process in started], said


@pytest.mark.slow
def test_two_processes_measure_as_one_and_name_the_one_that_is_killed(worked, tmp_path, monkeypatch, capfd):
    here = verbs.copy(worked, tmp_path / "here")
    codes, said = by_two(EVALUATE, here, DIES.replace("FILE", "'run/report.json'"))
    assert codes == [processes.LOST, -signal.SIGKILL], said
    assert named(said[0]) == [f"jaxneg: process 1 ({socket.gethostname()}) is lost"], said[0]
    assert not verbs.leftovers(here)
    many = json.loads((here / "run" / "report.json").read_text())
    monkeypatch.chdir(here)
    assert verbs.inside(EVALUATE, capfd)[0] == 0
    assert_alike(many, json.loads((here / "run" / "report.json").read_text()))


def named(said):
    """What a process tells of one that is lost."""
    lines = [line for line in said.splitlines() if line.startswith("jaxneg: process")]
    return [re.split(r"(?<=is lost)", line)[0] for line in lines]


@pytest.mark.slow
def test_two_processes_export_as_one(worked, tmp_path):
    here = verbs.copy(worked, tmp_path / "here")
    assert by_two("export run --out many", here)[0] == [0, 0]
    names = sorted(path.name for path in (here / "export").iterdir())
    assert names == sorted(path.name for path in (here / "many").iterdir())
    times = {"manifest.json", "README.md"}
    # Programs name the functions that asked for them, and here those are others; benchmarks/processes.py compares them.
    for name in {name for name in names if not name.endswith(".stablehlo")} - times:
        assert (here / "export" / name).read_bytes() == (here / "many" / name).read_bytes(), name


@pytest.mark.system
def test_an_export_of_two_processes_one_of_which_is_killed_is_not_there(worked, tmp_path):
    here = verbs.copy(worked, tmp_path / "here")
    codes, said = by_two("export run --out many", here, DIES.replace("FILE", "'.'"))
    assert codes == [processes.LOST, -signal.SIGKILL], said
    assert named(said[0]) == [f"jaxneg: process 1 ({socket.gethostname()}) is lost"], said[0]
    assert not (here / "many").exists() and not verbs.leftovers(here)


@pytest.mark.system
def test_two_processes_train_to_a_bucket_are_killed_and_go_on(worked, tmp_path, monkeypatch):
    pytest.importorskip("moto")
    here = verbs.copy(worked, tmp_path / "here")
    words = "train config.py --train.devices 0 --train.epochs 4 --train.checkpoint-every 5 --workdir"
    with emulators.running("s3") as port:
        env = emulators.settings("s3", port) | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        bucket = Bucket(Address("s3", emulators.BUCKET, "run"))
        # Neither outlives its thirtieth step.
        dies = """
import os, signal
from jaxneg.training import loop
update = loop.Loop._update
def updated(self, state, made):
    if int(state.step) == 30:
        self.checkpoints.wait()
        while not any(one.startswith("checkpoints/30/_CHECK") for one in bucket.listed()):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
    return update(self, state, made)
loop.Loop._update = updated
import time
from jaxneg.files import Address
from jaxneg.files.buckets import Bucket
bucket = Bucket(Address("s3", "bucket", "run"))
"""
        codes, said = by_two(f"{words} s3://bucket/run", here, dies.strip(), env)
        assert codes == [-signal.SIGKILL] * 2, said
        assert "result.json" not in bucket.listed()
        codes, said = by_two(f"{words} s3://bucket/run", here, "", env)
        assert codes == [0, 0], said
        many = jaxneg.open_run("s3://bucket/run")
    monkeypatch.chdir(here)
    loop.train(config_of(here, words), here / "one")
    one = jaxneg.open_run(here / "one")
    assert [plain(line) for line in many.result["history"]] == [plain(line) for line in one.result["history"]]


def config_of(here, words):
    """What two processes of a device each train, on two devices of this one."""
    options = words.split()[2:-1]
    return configs.override(configs.load(here / "config.py"), [*options, "--train.devices", "2"])


def plain(line):
    return {name: value for name, value in line.items() if "seconds" not in name}


def assert_alike(found, expected, where=""):
    """Equal, numbers up to sums in another order."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for name in expected:
            if name not in ("sha256", "responsiveness"):
                assert_alike(found[name], expected[name], f"{where}/{name}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for k, value in enumerate(expected):
            assert_alike(found[k], value, f"{where}/{k}")
    elif isinstance(expected, float):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6, err_msg=where)
    else:
        assert found == expected, where
