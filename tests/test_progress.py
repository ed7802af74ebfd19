"""What is said where there is no terminal."""

import pytest

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
