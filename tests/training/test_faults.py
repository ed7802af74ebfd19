"""Real processes on loopback: the same result as one process, and the same after kills, signals and a stuck peer."""

import importlib.util
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxneg import cli
from jaxneg.training import logs
from tests.training.test_processes import SLURM, assert_near

PATH = pathlib.Path(__file__).parents[2] / "benchmarks" / "faults.py"
spec = importlib.util.spec_from_file_location("faults", PATH)
faults = importlib.util.module_from_spec(spec)
spec.loader.exec_module(faults)

pytestmark = pytest.mark.slow
system = pytest.mark.system


@pytest.fixture(autouse=True)
def one_device_each(monkeypatch):
    # without the eight devices of the tests
    monkeypatch.setenv("XLA_FLAGS", os.environ["JAXNEG_TESTS_COMPILER"])


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    directory = tmp_path_factory.mktemp("faults")
    faults.store(directory)
    return faults.Rehearsal(directory, processes=2, epochs=2)


@pytest.fixture(scope="module")
def one(rehearsal):
    """The result of one process, which is this one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(rehearsal.directory)
        cli.main(f"train config.py --workdir 1 --train.devices 1 --train.epochs {rehearsal.epochs}".split())
    return json.loads((rehearsal.directory / "1" / "result.json").read_text())


@pytest.mark.parametrize("n", [2, pytest.param(4, marks=system)])
def test_two_and_four_processes_give_the_result_of_one(rehearsal, one, n):
    result = rehearsal.finish(str(n), processes=n)
    state, progress, _ = rehearsal.last("1")
    lines = [line for line in logs.read(rehearsal.directory / "1") if "loss" in line]
    environment = json.loads((rehearsal.directory / str(n) / "environment.json").read_text())
    assert environment["processes"] == len(environment["devices"]) == n
    many, again, _ = rehearsal.last(str(n))
    assert_near(state, many)
    # Float32 sums in another order, but the same batches and figures.
    others = [line for line in logs.read(rehearsal.directory / str(n)) if "loss" in line]
    assert [line["step"] for line in others] == [line["step"] for line in lines]  # written once
    assert [line["hard_share"] for line in others] == [line["hard_share"] for line in lines]
    np.testing.assert_allclose(*([x["loss"] for x in found] for found in (others, lines)), rtol=1e-4)
    assert faults.timeless(again)["history"] == faults.timeless(progress)["history"]
    assert result["false_negatives"] == one["false_negatives"]


@system  # test_loop.py kills and continues one process, test_processes.py stops and continues in this one
def test_after_kills_and_a_sigterm_training_ends_where_it_would_have(tmp_path):
    found = faults.measure(tmp_path, processes=2, faults=["kill_one", "sigterm"])
    assert found["equal"] and found["saved_on_sigterm"] == "1 of 1"
    assert found["codes"]["sigterm"] == {143: 1}
    # The launcher tells of the first that it sees ended: the killed one, or the other, which has noticed at once.
    assert set(found["codes"]["kill_one"]) <= {137, 75}
    assert set(found["survivors"]) <= {75, 134}  # it noticed by itself


@system  # the watchdog in test_processes.py
def test_a_process_that_stands_still_ends_the_others(rehearsal):
    endless = faults.Rehearsal(rehearsal.directory, processes=2, epochs=1000)
    # Longer than a step on a busy machine, far shorter than the 30 s that JAX waits for heartbeats.
    launcher = endless.start("stuck", options=("--train.stuck-after", "10"))
    pids, began = faults.processes_of(launcher, 2), time.time()
    assert rehearsal.moved("stuck", launcher, began)
    os.kill(pids[1], signal.SIGSTOP)
    deadline = time.monotonic() + 60
    while pathlib.Path(f"/proc/{pids[0]}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(pids[1], signal.SIGKILL)
    said = launcher.communicate(timeout=60)[1]
    assert launcher.returncode == 75 and "exit codes 0: 75, 1: 137" in said
    assert re.search(
        r"\[0\] jaxneg: no progress for [12]\d s after step \d+: a device or another process is stuck", said
    )


@system  # test_processes.py has an error of each and of all, the next test two processes that end with 2
def test_what_a_person_must_mend_is_said_once(rehearsal):
    launcher = rehearsal.start("wrong", options=("--data.store", "nowhere"))
    said = launcher.communicate(timeout=120)[1]
    assert launcher.returncode == 2
    (line,) = [line for line in said.splitlines() if "jaxneg: " in line]
    assert line.startswith("[0] jaxneg: ") and "nowhere" in line
    assert "exit codes 0: 2, 1: 2" in said and not (rehearsal.directory / "wrong").exists()


@pytest.mark.parametrize(
    ("option", "named"),
    [
        # test_processes.py has every field and every file in threads.
        pytest.param("--optim.learning-rate 0.02", "--optim.learning-rate is 0.02", marks=system),
        ("--model.width 16", "--model.width is 16"),
        pytest.param("--train.epochs 3", "--train.epochs is 3", marks=system),
        pytest.param("--data.store other", " of the store is ", marks=system),
    ],
)
def test_two_processes_that_differ_say_in_what_and_end(rehearsal, monkeypatch, option, named):
    if "store" in option:
        prepared = "prepare table log.parquet --out other --attributes artist --session given --split tail"
        monkeypatch.chdir(rehearsal.directory)
        cli.main(prepared.split())
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "jaxneg", "train", "config.py", "--workdir", "differ"]
    cluster = ["--coordinator", f"127.0.0.1:{port}", "--processes", "2", "--process"]
    processes = [
        subprocess.Popen(
            [*command, *cluster, str(k), *(option.split() if k else [])],
            cwd=rehearsal.directory,
            env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(PATH.parents[2])},
            stderr=subprocess.PIPE,
            text=True,
        )
        for k in (0, 1)
    ]
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2], said
    for text in said:
        (line,) = [line for line in text.splitlines() if line.startswith("jaxneg: ")]
        assert line.startswith("jaxneg: process 1: ") and named in line, line
    assert not (rehearsal.directory / "differ").exists()


@system  # test_checkpoint.py prunes in this process
def test_checkpoints_of_before_a_restart_do_not_pile_up(rehearsal):
    """Of several processes, too: each restart prunes, after an end and after a kill alike."""
    directory = rehearsal.directory / "pruned"

    def of(epochs):
        return faults.Rehearsal(rehearsal.directory, processes=2, epochs=epochs)

    def latest(step, each):
        return [at for at in range(step + 1) if at % faults.EVERY == 0 or at % each == 0][-2:]

    for epochs in (1, 2):
        result = of(epochs).finish("pruned")
        kept = {int(path.name) for path in (directory / "checkpoints").iterdir()}
        assert kept == {result["best_step"], *latest(result["steps"], result["steps_per_epoch"])}
    launcher = of(4).start("pruned")
    pids, began = faults.processes_of(launcher, 2), time.time()
    assert rehearsal.moved("pruned", launcher, began)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    launcher.communicate(timeout=120)
    result = of(4).finish("pruned")
    kept = {int(path.name) for path in (directory / "checkpoints").iterdir()}
    assert kept == {result["best_step"], *latest(result["steps"], result["steps_per_epoch"])}


@system  # test_processes.py reads these variables, and the test of two processes joins two
def test_processes_find_each_other_by_the_variables_of_slurm(rehearsal):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "jaxneg",
        "train",
        "config.py",
        "--workdir",
        "slurm",
        "--train.epochs",
        "1",
    ]
    environment = SLURM | {
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "JAX_COORDINATOR_PORT": str(port),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(PATH.parents[2]),
    }
    processes = [
        subprocess.Popen(
            command,
            cwd=rehearsal.directory,
            env=os.environ | environment | {"SLURM_PROCID": str(p), "SLURM_LOCALID": str(p)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for p in (0, 1)
    ]
    said = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert json.loads((rehearsal.directory / "slurm" / "environment.json").read_text())["processes"] == 2
    assert "epochs done" in said[0] and "epochs done" not in said[1]
