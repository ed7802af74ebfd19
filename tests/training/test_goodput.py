"""Where the time of a run goes, with a clock that is set by hand; alerts; the share of a device's peak."""

import json
import signal
import subprocess
import sys
import time

import pytest

from jaxneg.training import alerts, chips, cost, goodput
from jaxneg.training.history import Progress


class Now:
    """A clock that stands until it is set."""

    def __init__(self, at):
        self.at = at

    def __call__(self):
        return self.at


def part(directory, progress, at, **options):
    now = Now(at)
    return goodput.Clock(directory, progress, now=now, **options), now


def test_time_is_told_over_a_crash(tmp_path):
    """By hand: 50 s are saved, 20 more are lost, nobody is there for 30, and 60 more finish the run: 160 in all."""
    progress = Progress()
    clock, now = part(tmp_path, progress, 1000.0)
    progress.compile_seconds, progress.device_seconds = 10.0, 25.0
    with clock.spent(goodput.VALIDATING):
        now.at = 1008.0
    clock.count(goodput.WAITING, 5.0)
    now.at = 1050.0
    progress.seconds = clock.seconds
    saved = progress.to_json()
    now.at = 1070.0
    clock.beat(7, 20, "training")

    progress = Progress.from_json(json.loads(json.dumps(saved)))
    clock, now = part(tmp_path, progress, 1100.0)
    now.at = 1160.0
    progress.device_seconds += 55.0
    found = clock.goodput(20)
    assert found["wall_seconds"] == 160 and found["goodput"] == pytest.approx(75 / 160)
    assert found["time_spent"] == {
        "steps": 75,
        goodput.COMPILING: 10,
        goodput.WAITING: 5,
        goodput.VALIDATING: 8,
        goodput.SAVING: 0,
        goodput.STARTING: 0,
        goodput.OTHER: 12,
        goodput.AGAIN: 20,
        goodput.AWAY: 30,
    }
    assert clock.seconds == 110


def test_two_crashes_without_a_checkpoint_are_counted_once_each(tmp_path):
    for start, last in ((1000.0, 1010.0), (1015.0, 1040.0)):
        clock, now = part(tmp_path, Progress(), start)
        now.at = last
        clock.beat(3, 20, "training")
    clock, now = part(tmp_path, Progress(), 1050.0)
    now.at = 1100.0
    found = clock.goodput(20)
    assert found["wall_seconds"] == 100
    assert found["time_spent"][goodput.AWAY] == 5 + 10
    assert found["time_spent"][goodput.AGAIN] == 10 + 25


def test_what_lies_between_an_end_and_more_epochs_is_no_loss(tmp_path):
    progress = Progress()
    clock, now = part(tmp_path, progress, 1000.0)
    now.at = 1030.0
    clock.beat(20, 20, "training")
    progress.seconds = clock.seconds
    left = {"monitor": "auc", "best_score": 0.6, "best_step": 20, "steps": 20, "steps_per_epoch": 10}
    left |= {"stopped": "limit", "seconds": 30.0, "history": [], "wall_seconds": 31.0, "goodput": 0.5}
    (tmp_path / "result.json").write_text(json.dumps(left))
    clock, now = part(tmp_path, progress, 90_000.0)
    assert clock.goodput(20) == {"wall_seconds": 31.0, "goodput": 0.5}, "nothing was left to train"
    now.at = 90_010.0
    found = clock.goodput(40)
    assert found["wall_seconds"] == 40 and found["time_spent"][goodput.AWAY] == 0


def test_time_counts_from_the_launch_of_a_process(tmp_path):
    """By hand: launched at 993 it begins at 1000 and is lost at 1010; launched again at 1015, it begins at 1021."""
    progress = Progress()
    clock, now = part(tmp_path, progress, 1000.0, since=993.0)
    now.at = 1010.0
    clock.beat(3, 20, "training")
    progress.seconds = clock.seconds
    clock, now = part(tmp_path, Progress.from_json(progress.to_json()), 1021.0, since=1015.0)
    now.at = 1030.0
    found = clock.goodput(20)
    assert found["wall_seconds"] == 1030 - 993 and clock.seconds == 10 + 9
    spent = found["time_spent"]
    assert spent[goodput.STARTING] == 7 + 6 and spent[goodput.AWAY] == 5 and spent[goodput.AGAIN] == 0
    # A process that trains a second time had been launched long before.
    clock, now = part(tmp_path, Progress(), 1040.0, since=900.0)
    assert clock.goodput(20)["time_spent"][goodput.STARTING] == 1040 - 1010


def test_a_process_knows_when_it_was_launched():
    code = "import time; time.sleep(0.5); from jaxneg.training import goodput; print(goodput.launched())"
    before = time.time()
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert before - 0.1 < float(ended.stdout) < before + 0.4


def test_signs_of_life_are_a_second_apart_and_say_where_the_run_is(tmp_path):
    clock, now = part(tmp_path, Progress(), 1000.0)
    for step, at in ((1, 1000.0), (2, 1000.5), (3, 1001.25)):
        now.at = at
        clock.beat(step, 9, "validating")
        assert goodput.beat(tmp_path)["step"] == (1 if at < 1001 else 3)
    found = goodput.beat(tmp_path)
    assert (found["time"], found["of"], found["stage"], found["began"]) == (1001.25, 9, "validating", 1000.0)
    assert [path.name for path in tmp_path.iterdir()] == [goodput.HEARTBEAT]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "null",
        '{"time": 2e9, "step": 1, "began": 1.0, "away": 0.0}',  # of a clock that is ahead
        '{"time": 900.0, "step": 1, "began": 950.0, "away": 0.0}',
        '{"time": 900.0, "step": 1, "began": 800.0, "away": 200.0}',
        '{"time": 900.0, "step": 1, "began": 800.0, "away": -1.0}',
        '{"time": "soon", "step": 1, "began": 800.0, "away": 0.0}',
    ],
)
def test_a_sign_of_life_that_cannot_be_is_none(tmp_path, text):
    (tmp_path / goodput.HEARTBEAT).write_text(text)
    clock, now = part(tmp_path, Progress(), 1000.0)
    now.at = 1010.0
    assert clock.goodput(20)["wall_seconds"] == 10


def test_a_place_that_takes_no_sign_of_life_stops_nothing(tmp_path):
    (tmp_path / goodput.HEARTBEAT).mkdir()
    clock, _ = part(tmp_path, Progress(), 1000.0)
    clock.beat(1, 2, "training")


def test_an_unusual_gradient_is_told_once_until_it_is_over():
    told = alerts.Alerts()
    norms = [2.0] * 6 + [100.0, 90.0, 2.0, 70.0]
    said = [list(told(step, norm, 0.0)) for step, norm in enumerate(norms)]
    assert [step for step, lines in enumerate(said) if lines] == [6, 9]
    assert "a gradient norm of 100 up to step 6, where 2 is usual" in said[6][0]


def test_the_first_gradients_are_not_called_unusual():
    told = alerts.Alerts()
    assert not [line for step, norm in enumerate([0.1, 100.0, 0.1, 100.0]) for line in told(step, norm, 0.0)]


def test_starving_is_told_after_two_lines_in_a_row():
    told = alerts.Alerts()
    said = [list(told(step, 1.0, share)) for step, share in enumerate([0.5, 0.1, 0.3, 0.4, 0.9, 0.0])]
    assert [step for step, lines in enumerate(said) if lines] == [3]
    assert "devices wait for batches 40% of the time" in said[3][0]


@pytest.mark.parametrize(
    ("device", "dtype", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989e12),
        ("NVIDIA H100 PCIe", "bfloat16", 756e12),
        ("NVIDIA A100-SXM4-80GB", "float32", 156e12),
        ("TPU v5 lite", "bfloat16", 197e12),
        ("TPU v5", "float32", 459e12),
        ("cpu", "bfloat16", None),
    ],
)
def test_peaks_are_of_the_kind_of_device(device, dtype, peak):
    assert chips.peak(device, dtype) == peak


def test_utilisation_is_what_a_step_computes_over_what_could_be():
    assert cost.Cost(flop=3e12, peak=2e12).mfu(6.0) == pytest.approx(0.25)


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signal")
def test_a_process_shows_its_stacks_when_it_is_asked():
    code = "import time; from jaxneg import signals; signals.install('train'); print('up', flush=True); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGUSR1)
        time.sleep(0.2)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 143
    assert "most recent call first" in said and said.count("hread 0x") == 2
