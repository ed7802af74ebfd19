"""Events of listeners: the same in memory as in a server that speaks the protocol of Redis."""

import asyncio
import shutil
import subprocess
import time

import pytest
from fastapi import testclient

from jaxneg.errors import UserError
from jaxneg.serve import models, server, sessions
from jaxneg.serve.histories import Event
from jaxneg.serve.scorer import Scorer

SERVER = shutil.which("valkey-server") or shutil.which("redis-server")


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Of a real server."""
    if SERVER is None:
        pytest.skip("no valkey-server and no redis-server")
    pytest.importorskip("redis")
    place = tmp_path_factory.mktemp("sessions")
    command = [SERVER, "--port", "0", "--unixsocket", str(place / "s"), "--save", "", "--dir", str(place)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while not (place / "s").exists():
            assert process.poll() is None
            time.sleep(0.02)
        yield f"unix://{place / 's'}"
        process.terminate()


def test_the_oldest_events_are_forgotten_and_who_was_heard_of_longest_ago():
    async def told():
        kept = sessions.Memory(users=2, events=3)
        for user, item in [("a", "1"), ("b", "1"), ("a", "2"), ("c", "1")]:
            await kept.add(user, [Event(item)])
        assert [event.item for event in await kept.of("a")] == ["1", "2"] and await kept.of("b") == []
        assert await kept.add("a", [Event("3"), Event("4")]) == 3
        assert [event.item for event in await kept.of("a")] == ["2", "3", "4"]

    asyncio.run(told())


@pytest.mark.slow
def test_a_server_keeps_what_memory_keeps(address):
    told = [Event("1"), Event("\u2603 \n", "skip", "s"), Event("3", "thumb_up")]

    async def kept(one):
        found = [
            await one.add("\u00e9", told[:1]),
            await one.add("\u00e9", told[1:]),
            await one.add("b", told),
        ]
        found.append([await one.of(user) for user in ("\u00e9", "b", "none")])
        await one.close()
        return found

    asked = [asyncio.run(kept(one)) for one in (sessions.Memory(events=2), sessions.Redis(address, events=2))]
    assert asked[0] == asked[1] == [1, 2, 2, [told[1:], told[1:], []]]


@pytest.mark.slow
def test_a_listener_is_known_after_a_restart_and_to_other_servers(exported, address):
    scorer, found = Scorer.open(exported("tied")), models.Models({"m": exported("tied")})
    first, second = scorer.items(2)
    with testclient.TestClient(server.app(found, kept=sessions.opened(address))) as client:
        said = client.post("/feedback", json={"user": "u", "events": [{"item": first, "feedback": "skip"}]})
        assert said.json() == {"user": "u", "events": 1}
    with testclient.TestClient(server.app(found, kept=sessions.opened(address))) as client:
        answer = client.post("/recommend", json={"user": "u", "events": [{"item": second}]}).json()
    expected = scorer.recommend([Event(first, "skip"), Event(second)])
    assert [one["item"] for one in answer["recommendations"]] == [one.item for one in expected]


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_said_and_asked_again_later(exported):
    pytest.importorskip("redis")
    found = models.Models({"m": exported("tied")})
    with testclient.TestClient(server.app(found, kept=sessions.opened("redis://127.0.0.1:1"))) as client:
        for path, body in (
            ("/recommend", {"user": "u"}),
            ("/feedback", {"user": "u", "events": [{"item": "a"}]}),
        ):
            answer = client.post(path, json=body)
            assert answer.status_code == 503 and answer.headers["retry-after"]
            assert "sessions does not answer" in answer.json()["error"]
        assert client.post("/recommend", json={}).status_code == 200


@pytest.mark.parametrize("where", ["elsewhere", "http://127.0.0.1", "redis://", "redis://host:port/0"])
def test_an_address_that_is_none_is_refused(where):
    pytest.importorskip("redis")
    with pytest.raises(UserError, match=f"--sessions {where}"):
        sessions.opened(where)
