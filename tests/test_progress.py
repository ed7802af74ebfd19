"""What is said where there is no terminal."""

import io
import os
import subprocess
import sys

import pytest
from rich.console import Console

from jaxneg import progress


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: False, raising=False)
    return now


def test_what_is_over_at_once_says_nothing(clock, capsys):
    with progress.Steps("prepare") as steps:
        steps(0, 1, stage="read the log")
        clock[0] += 9.0
        steps(1, 1, stage="read the log")
    assert capsys.readouterr().err == ""


def test_long_work_gives_a_line_every_ten_seconds_and_one_at_its_end(clock, capsys):
    with progress.Steps("train") as steps:
        for done in range(1, 31):
            clock[0] += 1.0
            steps(done * 100, 3500, {"loss": 1.0 / done})
        clock[0] += 1.0
        steps(3500, 3500, {"auc": 0.75})
    assert capsys.readouterr().err.splitlines() == [
        "train 1,000 of 3,500  loss 0.1",
        "train 2,000 of 3,500  loss 0.05",
        "train 3,000 of 3,500  loss 0.03333",
        "train 3,500 of 3,500  auc 0.75",
    ]


def test_without_a_terminal_each_validation_is_a_line_and_little_else(clock, capsys):
    with progress.Steps("train") as steps:
        for done in range(1, 91):
            clock[0] += 1.0
            steps(done, 90, {"loss": 0.5}, stage="compiling" if done == 1 else "")
            if done % 30 == 0:
                steps(done, 90, {"AUC": done / 100, "best": 0.9, "pairs": 1234}, stage=progress.MILESTONE)
    assert [line for line in capsys.readouterr().err.splitlines() if "AUC" in line] == [
        "train 30 of 90  AUC 0.3  best 0.9  pairs 1,234",
        "train 60 of 90  AUC 0.6  best 0.9  pairs 1,234",
        "train 90 of 90  AUC 0.9  best 0.9  pairs 1,234",
    ]


@pytest.mark.parametrize("width", [50, 80, 200])
def test_on_a_terminal_the_time_to_go_is_never_cut(width, monkeypatch):
    clock, file = [0.0], io.StringIO()
    bar = progress._bar()
    monkeypatch.setattr(bar, "get_time", lambda: clock[0])
    title, figures = "evaluate: " + "a baseline of a long name " * 3, "epoch 3.25  loss 0.1234  " * 4
    task = bar.add_task(title, total=1_000_000, figures=figures)
    for done in (0, 10_000, 20_000):
        bar.update(task, completed=done)
        clock[0] += 1.0
    Console(file=file, width=width).print(bar.get_renderable())
    first, second = file.getvalue().splitlines()
    assert "20000/1000000 0:01:38" in first and second.startswith("  epoch 3.25  loss 0.1234")
    assert len(first.rstrip()) <= width and len(second.rstrip()) <= width


def test_lines_of_many_processes_are_never_torn(tmp_path):
    """Where Python does not buffer, as in most images, print writes the end of a line apart."""
    code = "from jaxneg import progress\nfor _ in range(500): progress.say(100 * 'a')"
    said, settings = tmp_path / "said", os.environ | {"PYTHONUNBUFFERED": "1"}
    with said.open("wb") as file:
        many = [subprocess.Popen([sys.executable, "-c", code], stderr=file, env=settings) for _ in range(3)]
        assert [one.wait(60) for one in many] == [0, 0, 0]
    assert said.read_text().splitlines() == [100 * "a"] * 1500
