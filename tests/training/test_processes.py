import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import typing

import jax
import numpy as np
import pytest

from jaxneg import config as configs
from jaxneg.config import UserError
from jaxneg.data import stores
from jaxneg.training import agreement, loop, processes
from tests.training.test_loop import CONFIG, assert_same_state, final_state, of, without_clock

SLURM = {
    "SLURM_JOB_ID": "17",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
}


@pytest.fixture
def alone(monkeypatch):
    """An environment without any cluster."""
    for name in list(os.environ):
        if name.startswith(
            ("SLURM_", "OMPI_", "KUBERNETES_", "JAX_COORDINATOR", "JAX_NUM_", "JAX_PROCESS_", "TPU_")
        ):
            monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, False),
        (SLURM, True),
        (SLURM | {"SLURM_NTASKS": "1"}, False),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, False),  # an interactive step of a larger allocation
        # a batch script outside srun
        ({name: SLURM[name] for name in ("SLURM_JOB_ID", "SLURM_NTASKS")}, False),
        ({"OMPI_MCA_orte_hnp_uri": "1;tcp://10.0.0.1:1", "OMPI_COMM_WORLD_SIZE": "4"}, True),
        ({"OMPI_MCA_orte_hnp_uri": "1;tcp://10.0.0.1:1", "OMPI_COMM_WORLD_SIZE": "1"}, False),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False),  # any pod
    ],
)
def test_a_cluster_is_detected_by_its_variables(alone, environment, found):
    for name, value in environment.items():
        alone.setenv(name, value)
    assert processes.detected() == found


def test_memory_is_that_of_the_fullest_device_that_says(monkeypatch):
    class Device:
        def __init__(self, said):
            self.memory_stats = lambda: said

    devices = [Device({"bytes_in_use": 3}), Device({"bytes_in_use": 7}), Device(None), Device({})]
    monkeypatch.setattr(processes.jax, "local_devices", lambda: devices)
    assert processes.device_memory() == 7
    monkeypatch.setattr(processes.jax, "local_devices", lambda: devices[2:])
    assert processes.device_memory() is None


def test_a_single_process_joins_nothing(alone):
    def initialize(**_):
        raise AssertionError("joined")

    alone.setattr(jax.distributed, "initialize", initialize)
    processes.start()
    processes.start(processes=1)
    for name, value in SLURM.items():
        alone.setenv(name, value)
    processes.start(detect=False)
    with pytest.raises(AssertionError, match="joined"):
        processes.start()
    assert not processes.many() and processes.first()


def test_the_environment_names_the_processes_as_options_do(alone):
    asked = []
    alone.setattr(jax.distributed, "initialize", lambda **arguments: asked.append(arguments))
    alone.setenv("JAX_COORDINATOR_ADDRESS", "10.0.0.1:99")
    alone.setenv("JAX_NUM_PROCESSES", "4")
    alone.setenv("JAX_PROCESS_ID", "3")
    processes.start()
    processes.start("10.0.0.2:98", 2, 0)
    names = ("coordinator_address", "num_processes", "process_id")
    assert [tuple(a[name] for name in names) for a in asked] == [("10.0.0.1:99", 4, 3), ("10.0.0.2:98", 2, 0)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("10.0.0.1:99", 2, -1), "^--process must be given too"),
        (("", 2, 0), "^--coordinator must be given too"),
        (("10.0.0.1:99", 2, 2), "--process 2 must be below --processes 2"),
        (("10.0.0.1", 2, 0), "--coordinator must be HOST:PORT"),
    ],
)
def test_half_named_processes_are_refused(alone, options, message):
    with pytest.raises(UserError, match=message):
        processes.start(*options)


@pytest.mark.slow
def test_peers_that_do_not_come_end_the_wait_with_one_line():
    with socket.socket() as listener:  # a port that somebody has, who is no coordinator
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        code = f"from jaxneg.training import processes; processes.start('{address}', 2, 1, seconds=2.0)"
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.returncode == processes.LOST
    assert [line for line in ended.stderr.splitlines() if "jaxneg" in line] == [
        f"jaxneg: process 1 of 2 waited 2 s for the others at {address}: start all processes again to continue"
    ]


class Ended(Exception):
    pass


@pytest.fixture
def exits(monkeypatch):
    """Codes with which the process would have ended at once."""
    codes = []

    def leave(code):
        codes.append(code)
        raise Ended

    monkeypatch.setattr(processes.os, "_exit", leave)
    monkeypatch.setattr(threading, "excepthook", lambda *_: None)
    return codes


def test_the_watchdog_ends_a_process_that_is_stuck(exits, capfd):
    with processes.Watchdog(0.2) as watchdog:
        for step in range(3, 8):
            watchdog.feed(step)
            time.sleep(0.05)
        assert exits == []
        time.sleep(0.6)
    assert exits == [processes.LOST]
    said = capfd.readouterr().err
    assert "no progress for 0 s after step 7: a device or another process is stuck" in said
    assert "most recent call first" in said  # and where it is stuck


@pytest.mark.slow
def test_the_watchdog_gives_the_first_step_more_time(exits):
    with processes.Watchdog(0.2) as watchdog:
        watchdog.feed(0)
        time.sleep(0.5)  # compiling
        assert exits == []
        time.sleep(0.6)
    assert exits == [processes.LOST]


def test_the_watchdog_can_be_off(exits):
    with processes.Watchdog(0.0):
        time.sleep(0.1)
    assert exits == []


@pytest.mark.parametrize(
    ("calls", "signals_", "code"),
    [
        (1, [signal.SIGTERM], 143),  # no step is done yet
        pytest.param(1, [signal.SIGINT], 130, marks=pytest.mark.slow),
        pytest.param(2, [signal.SIGTERM], 7, marks=pytest.mark.slow),
        pytest.param(3, [signal.SIGINT], 7, marks=pytest.mark.slow),
        pytest.param(2, [signal.SIGTERM, signal.SIGTERM], 143, marks=pytest.mark.slow),
        (2, [signal.SIGTERM, signal.SIGINT], 130),
    ],
)
def test_the_first_signal_asks_once_there_is_a_step_and_the_second_ends(calls, signals_, code):
    program = f"""
import os, sys, time
from jaxneg import signals
from jaxneg.training import processes
signals.install()
with processes.Terminate() as stop:
    for step in range({calls}):
        assert not stop(step)
    for number in {[int(s) for s in signals_]}:
        os.kill(os.getpid(), number)
        time.sleep(0.3)
    sys.exit(7 if stop({calls}) else 1)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ended.returncode == code and "Traceback" not in ended.stderr, ended.stderr


def test_a_lost_peer_is_told_from_other_errors(monkeypatch):
    gone = ValueError("UNKNOWN: Gloo all-reduce failed: Read error: Connection reset by peer\nmore")
    assert processes.lost(gone) is None  # nobody to lose
    monkeypatch.setattr(processes, "many", lambda: True)
    said = "UNKNOWN: Gloo all-reduce failed: Read error: Connection reset by peer"
    assert processes.lost(gone) == f"another process is lost ({said})"
    wrapped = KeyError("checkpoint")
    wrapped.__cause__ = RuntimeError("DEADLINE_EXCEEDED: Barrier timed out")
    assert processes.lost(wrapped) == "another process is lost (DEADLINE_EXCEEDED: Barrier timed out)"
    monkeypatch.setattr(processes.peers, "who", lambda: "process 2 (host-17)")
    assert processes.lost(wrapped) == "process 2 (host-17) is lost (DEADLINE_EXCEEDED: Barrier timed out)"
    assert processes.lost(ValueError("shapes (2, 3) and (4,) do not match")) is None
    assert processes.lost(RuntimeError("RESOURCE_EXHAUSTED: out of memory")) is None
    one, other = KeyError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    assert processes.lost(one) is None, "causes may go round in a circle"


class Coordinator:
    """What JAX's coordinator does for processes, here threads."""

    def __init__(self, processes):
        self.values, self.barrier = {}, threading.Barrier(processes)

    def key_value_set(self, key, value):
        self.values[key] = value

    def blocking_key_value_get(self, key, milliseconds):
        deadline = time.monotonic() + milliseconds / 1000
        while key not in self.values and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.values[key]

    def wait_at_barrier(self, key, milliseconds):
        self.barrier.wait(milliseconds / 1000)

    def key_value_dir_get(self, key):
        return [(name, value) for name, value in self.values.items() if name.startswith(key)]


@pytest.mark.parametrize(
    ("failing", "message"),
    [((), None), ((0, 1, 2), "no store"), ((2,), "process 2: no store"), ((1, 2), "process 1: no store")],
)
def test_an_error_of_one_process_is_that_of_all(monkeypatch, failing, message):
    coordinator, own, found = Coordinator(3), threading.local(), {}
    monkeypatch.setattr(processes, "many", lambda: True)
    monkeypatch.setattr(processes, "_client", lambda: coordinator)
    monkeypatch.setattr(processes.jax, "process_index", lambda: own.index)
    monkeypatch.setattr(processes.jax, "process_count", lambda: 3)

    def process(index):
        own.index = index
        try:
            with processes.together("start"):
                if index in failing:
                    raise UserError("no store")
            found[index] = None
        except UserError as error:
            found[index] = str(error)

    threads = [threading.Thread(target=process, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert found == dict.fromkeys(range(3), message)


def fields():
    """(name of an option, a config that differs from the default one in it alone) for every field."""
    base = configs.Config()
    for part in dataclasses.fields(base):
        values = getattr(base, part.name)
        for one in dataclasses.fields(values):
            old, kind = getattr(values, one.name), typing.get_type_hints(type(values))[one.name]
            if typing.get_origin(kind) is typing.Literal:
                new = next(choice for choice in typing.get_args(kind) if choice != old)
            elif isinstance(old, tuple):
                new = (*old, "skip" if one.name == "inputs" else 7)
            elif old is None:
                new = 0.5
            else:
                new = not old if isinstance(old, bool) else f"{old}x" if isinstance(old, str) else old + 1
            changed = dataclasses.replace(values, **{one.name: new})
            yield f"{part.name}.{one.name}", old, new, dataclasses.replace(base, **{part.name: changed})


def agreed(monkeypatch, values):
    """What each of some processes, here threads, says of its values; None where it goes on."""
    coordinator, own, found = Coordinator(len(values)), threading.local(), {}
    monkeypatch.setattr(processes, "many", lambda: True)
    monkeypatch.setattr(processes, "_client", lambda: coordinator)
    monkeypatch.setattr(processes.jax, "process_index", lambda: own.index)
    monkeypatch.setattr(processes.jax, "process_count", lambda: len(values))

    def process(index):
        own.index = index
        try:
            processes.agree("config", values[index])
            found[index] = None
        except UserError as error:
            found[index] = str(error)
            assert error.by_all

    threads = [threading.Thread(target=process, args=(index,)) for index in range(len(values))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return found


def test_every_field_that_differs_is_named_on_every_process(monkeypatch):
    base = agreement.of_config(configs.Config())
    for name, old, new, config in fields():
        found = agreed(monkeypatch, [base, base, agreement.of_config(config)])
        line = None
        if name not in agreement.OWN:
            option = f"--{name}".replace("_", "-")
            line = f"process 2: {option} is {new}, and {old} on process 0: start all processes with the same"
        assert found == dict.fromkeys(range(3), line), name


@pytest.mark.parametrize(
    "name", ["jaxneg", "Python", "jax", "jaxlib", "numpy", "flax", "optax", "jax_enable_x64"]
)
def test_versions_and_settings_are_compared_before_fields(monkeypatch, name):
    base = agreement.of_config(configs.Config())
    other = base | {name: "0.0.1", "--data.seed": "9", "--data.new": "1"}
    found = agreed(monkeypatch, [base, other])
    assert found[0] == found[1] and found[0].startswith(
        f"process 1: {name} is 0.0.1, and {base[name]} on process 0"
    )
    # A field that only one of them knows.
    found = agreed(monkeypatch, [base, base | {"--data.new": "1"}])
    assert found[0].startswith("process 1: --data.new is 1, and not there on process 0")


def test_every_file_of_a_store_is_compared(monkeypatch, small_store, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(small_store, copy)
    base = agreement.of_store(stores.Store.open(small_store))
    assert agreed(monkeypatch, [base, agreement.of_store(stores.Store.open(copy))]) == {0: None, 1: None}
    opened = stores.Store.open(copy)
    for path in sorted(copy.iterdir()):
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        found = agreed(monkeypatch, [base, agreement.of_store(opened)])
        assert found[0] == found[1] and found[1].startswith(f"process 1: {path.name} of the store is ")
        path.write_bytes(data)


@pytest.mark.slow
def test_stopping_saves_the_step_and_continuing_is_never_stopping(small_store, tmp_path):
    config = of(CONFIG, small_store, train={"epochs": 2})
    loop.train(config, tmp_path / "whole")
    for stop in (7, 20):  # 20 is an epoch's end, where validation comes first
        with pytest.raises(processes.Stopped, match=f"stopped after step {stop} of 40"):
            loop.train(config, tmp_path / "parts", stop=lambda step, stop=stop: step == stop)
        assert final_state(config, tmp_path / "parts")[1]["step"] == stop
    loop.train(config, tmp_path / "parts")
    (state, progress), (other, again) = (final_state(config, tmp_path / name) for name in ("whole", "parts"))
    assert_same_state(state, other)
    assert without_clock(progress["history"]) == without_clock(again["history"])
    assert progress["hard"] == again["hard"]


def assert_near(a, b):
    """Equal up to float32 sums in another order, over the steps of a run.

    Attention's key bias is left out: softmax cancels it, so its gradient is rounding alone, which Adam scales up.
    """
    for (path, x), (_, y) in zip(*map(jax.tree_util.tree_leaves_with_path, (a, b)), strict=True):
        if "key.bias" not in jax.tree_util.keystr(path):
            np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4, err_msg=jax.tree_util.keystr(path))


@pytest.mark.slow
def test_a_run_of_four_devices_continues_on_fewer_and_more(small_store, tmp_path):
    config = of(CONFIG, small_store, train={"epochs": 2, "devices": 4})
    loop.train(config, tmp_path / "4")
    with pytest.raises(processes.Stopped):
        loop.train(config, tmp_path / "2", stop=lambda step: step == 13)
    shutil.copytree(tmp_path / "2", tmp_path / "8")
    state, progress = final_state(config, tmp_path / "4")
    for devices in (2, 8):
        loop.train(of(config, small_store, train={"devices": devices}), tmp_path / str(devices))
        other, again = final_state(config, tmp_path / str(devices))
        assert_near(state, other)
        # The same batches: as many of their negatives are hard. And the learned scores order the pairs alike.
        assert (progress["hard"], progress["negatives"]) == (again["hard"], again["negatives"])
        accuracy, same = ([line["pair_accuracy"] for line in p["history"]] for p in (progress, again))
        assert accuracy == same
