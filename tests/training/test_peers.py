"""Which process of many is told as lost; that one is lost for others in truth is held by cli/test_many.py."""

import socket

import pytest

from jaxneg.training import peers


class Board:
    def __init__(self):
        self.values = {}

    def key_value_set(self, key, value, allow_overwrite=False):
        assert allow_overwrite or key not in self.values
        self.values[key] = value

    def key_value_dir_get(self, key):
        return [(name, value) for name, value in self.values.items() if name.startswith(key)]


@pytest.fixture
def three(monkeypatch):
    """Three processes on hosts of their own, and their clock."""
    board, clock = Board(), [0.0]
    every = [peers.Peers(board, number, "", lambda: clock[0]) for number in range(3)]

    def beat(*numbers):
        for number in numbers:
            monkeypatch.setattr(socket, "gethostname", lambda number=number: f"host-{number}")
            every[number].beat()

    return every, clock, beat


def test_the_process_that_is_silent_for_longest_is_the_lost_one(three):
    every, clock, beat = three
    for at in range(10):
        clock[0] = float(at)
        beat(*((0, 1, 2) if at < 3 else (0, 1) if at < 5 else (0,)))
    assert every[0].lost() == "process 2 (host-2)"
    beat(2, 1, 0)
    assert every[0].lost() is None


def test_nobody_is_lost_for_a_moment_of_silence(three):
    every, clock, beat = three
    beat(0, 1, 2, 0)
    clock[0] = peers.SILENT - 0.1
    assert every[0].lost() is None
    clock[0] = peers.SILENT + 0.1
    beat(1, 2, 1, 0)
    assert every[0].lost() is None, "itself may have been stopped"


def test_a_coordinator_that_takes_no_connection_is_the_first_process():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        one = peers.Peers(Board(), 1, address)
        assert one.lost() is None
    assert one.lost() == "process 0 (127.0.0.1)"


def test_a_single_process_misses_nobody():
    assert peers.who() is None
