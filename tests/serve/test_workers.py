"""Several processes at one address: whichever ends is started again, and nothing outlives the first."""

import collections
import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx2
import pytest

from jaxneg.errors import UserError
from jaxneg.serve import sessions, workers
from jaxneg.serve.scorer import Scorer

pytestmark = pytest.mark.slow

# Processes that answer each connection with their number.
SCRIPT = """
import os, sys
from jaxneg import signals
from jaxneg.errors import UserError
from jaxneg.serve import workers

def work(bound, ready):
    if len(sys.argv) > 2:
        raise {"mistake": UserError("mend it"), "fault": IndexError("ours")}[sys.argv[2]]
    bound.listen(64)
    ready()
    while True:
        asked, _ = bound.accept()
        asked.sendall(str(os.getpid()).encode())
        asked.close()

if __name__ == "__main__":
    signals.install("serve")
    made = workers.sockets("127.0.0.1", 0, 3)
    say = lambda: print(made[0].getsockname()[1], flush=True)
    workers.Workers(work, made, sys.argv[1], 1.0).run(say)
"""


@contextlib.contextmanager
def started(command):
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def three(tmp_path):
    """The command of three processes."""
    script, directory = tmp_path / "script.py", tmp_path / "shared"
    script.write_text(SCRIPT)
    directory.mkdir()
    return [sys.executable, str(script), str(directory)]


def ask(port):
    """The process that answers a connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as asked:
        return int(asked.recv(100))


def every(port, seconds=20):
    """The three that answer."""
    until, found = time.monotonic() + seconds, set()
    while len(found) < 3:
        assert time.monotonic() < until, found
        found.add(ask(port))
    return found


def listening(port):
    """How many sockets listen at a port."""
    rows = [row.split() for row in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(int(row[1].split(":")[1], 16) == port and row[3] == "0A" for row in rows)


def lives(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def gone(pids, seconds=20):
    """Whether all end within some time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and any(map(lives, pids)):
        time.sleep(0.05)
    return not any(map(lives, pids))


def test_one_that_is_killed_is_started_again_and_no_connection_is_lost(three):
    with started(three) as process:
        port = int(process.stdout.readline())
        first = every(port)
        killed = min(first)
        os.kill(killed, signal.SIGKILL)
        assert gone([killed])  # until then it may take a connection with it
        second = {ask(port) for _ in range(100)}  # one of them finds each, but with chance 3 (2/3)^100
        assert len(second) == 3 and len(second | first) == 4 and killed not in second
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0 and gone(second)
        said = process.stderr.read()
        assert said.count("\n") == 1 and "of 3 ended by SIGKILL: it is started again" in said


def test_none_outlives_the_first(three):
    with started(three) as process:
        port = int(process.stdout.readline())
        pids = every(port)
        process.kill()
        assert gone(pids)


@pytest.mark.parametrize(
    ("kind", "code", "says"), [("mistake", 2, "jaxneg: mend it\n"), ("fault", 1, "IndexError: ours")]
)
def test_what_none_can_begin_with_is_told_once(three, kind, code, says):
    done = subprocess.run([*three, kind], capture_output=True, text=True, timeout=60)
    assert done.returncode == code and done.stderr.count(says) == 1 and done.stdout == ""
    assert kind == "fault" or done.stderr == says


def test_an_address_that_another_group_shares_is_taken():
    ours = workers.sockets("127.0.0.1", 0, 2)
    port = ours[0].getsockname()[1]
    try:
        ours[1].listen()
        for count in (1, 2):
            with pytest.raises(OSError, match="in use"):
                workers.sockets("127.0.0.1", port, count)
    finally:
        for one in ours:
            one.close()


def test_word_of_one_reaches_the_others(tmp_path):
    heard, ended = threading.Event(), threading.Event()
    listening = threading.Thread(target=workers.Group(tmp_path).listen, args=(heard.set, ended))
    listening.start()
    try:
        time.sleep(2 * workers.LOOK)
        assert not heard.is_set()
        workers.Group(tmp_path).tell()
        assert heard.wait(20)
    finally:
        ended.set()
        listening.join()


def test_several_processes_keep_no_events_each_for_itself():
    for where, count in [("memory", 1), ("none", 2), ("redis://localhost:1", 2)]:
        sessions.check(where, count)
    with pytest.raises(UserError, match="--workers 2 needs --sessions redis"):
        sessions.check("memory", 2)
    with pytest.raises(UserError, match="expected memory, none, or"):
        sessions.check("disk", 2)


def test_the_command_serves_by_two_processes(exported, tmp_path):
    """Answers are the scorer's, figures are of both, and an export that one loads all have."""
    place, lists = tmp_path / "live", {}
    place.symlink_to(exported("tied"))
    for name in ("tied", "with a like head"):
        scorer = Scorer.open(exported(name))
        lists[name] = [one.item for one in scorer.recommend(scorer.items(1), 10)]
    asked = {"events": [{"item": scorer.items(1)[0]}]}
    options = "--workers 2 --sessions none --watch 0 --port 0".split()
    with started([sys.executable, "-m", "jaxneg", "serve", f"m={place}", *options]) as process:
        said = process.stderr.readline()
        assert "by 2 processes" in said
        address = said.split(" at ")[1].split(" by")[0]

        def post(path, value):
            return httpx2.post(address + path, json=value, timeout=30)

        def served():
            """How many answers there were of each list: each request has a connection of its own."""
            found = [post("/recommend", asked).json()["recommendations"] for _ in range(20)]
            return collections.Counter(tuple(one["item"] for one in each) for each in found)

        until = time.monotonic() + 120
        while listening(int(address.rsplit(":", 1)[1])) < 2:
            assert time.monotonic() < until
            time.sleep(0.1)
        assert served() == {tuple(lists["tied"]): 20}
        figures = httpx2.get(f"{address}/metrics").text
        assert 'jaxneg_requests_total{path="/recommend",status="200"} 20.0' in figures
        assert post("/feedback", {"user": "a", **asked}).status_code == 404
        os.replace(_link(tmp_path / "next", exported("with a like head")), place)
        assert post("/v2/repository/models/m/load", {}).status_code == 200
        until = time.monotonic() + 60
        while (found := served()) != {tuple(lists["with a like head"]): 20}:
            assert time.monotonic() < until and {*found} <= {tuple(one) for one in lists.values()}
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def _link(path, target):
    path.symlink_to(target)
    return path
