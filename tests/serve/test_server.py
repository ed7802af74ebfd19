"""The server: its answers are the scorer's, its refusals have a proper status, and a swap loses nothing."""

import concurrent.futures
import gc
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import weakref

import httpx2
import numpy as np
import pytest
from fastapi import testclient

from jaxneg.cli import serve
from jaxneg.errors import UserError
from jaxneg.serve import models, server, watching
from jaxneg.serve.choice import Choice
from jaxneg.serve.scorer import Event, Scorer

KINDS = ("thumb_up", "play", "skip", "thumb_down")


@pytest.fixture(scope="module")
def directory(exported):
    return exported("tied")


@pytest.fixture(scope="module")
def scorer(directory):
    return Scorer.open(directory)


@pytest.fixture(scope="module")
def found(directory):
    return models.Models({"m": directory})


@pytest.fixture(scope="module")
def client(found):
    with testclient.TestClient(server.app(found)) as client:
        yield client


def histories(scorer, count, seed=0):
    """Histories of one to twenty events, also of items that the catalogue does not know."""
    rng = np.random.default_rng(seed)
    items = [*scorer.items(30), "nobody's"]
    for _ in range(count):
        size = int(rng.integers(1, 21))
        drawn = [items[i] for i in rng.integers(len(items), size=size)]
        yield [Event(item, str(rng.choice(KINDS))) for item in [*drawn, items[0]]]


def as_json(history):
    return [{name: value for name, value in event._asdict().items() if value} for event in history]


def test_lists_are_those_of_the_scorer(client, scorer):
    for n, history in enumerate(histories(scorer, 20)):
        k, exclude_seen = 1 + n, bool(n % 2)
        body = {"events": as_json(history), "k": k, "exclude_seen": exclude_seen}
        answer = client.post("/recommend", json=body).json()
        expected = scorer.recommend(history, k, exclude_seen=exclude_seen)
        assert [one["item"] for one in answer["recommendations"]] == [one.item for one in expected]
        scores = [one["score"] for one in answer["recommendations"]]
        np.testing.assert_allclose(scores, [one.score for one in expected], rtol=1e-6)
        assert answer["unknown"] == [event.item for event in history if not scorer.knows(event.item)]
        assert answer["fallback"] is None


def test_the_protocol_gives_the_same_lists(client, scorer):
    for history in histories(scorer, 5, seed=1):
        inputs = [
            {
                "name": name,
                "datatype": "BYTES",
                "shape": [len(history)],
                "data": [getattr(e, name) for e in history],
            }
            for name in ("item", "feedback")
        ]
        asked = {"id": "7", "inputs": inputs, "parameters": {"k": 5, "exclude_seen": True}}
        answer = client.post("/v2/models/m/infer", json=asked).json()
        item, score = answer["outputs"]
        expected = scorer.recommend(history, 5, exclude_seen=True)
        assert item["data"] == [one.item for one in expected] and item["shape"] == score["shape"] == [5]
        np.testing.assert_allclose(score["data"], [one.score for one in expected], rtol=1e-6)
        assert answer["model_name"] == "m" and answer["id"] == "7"
        assert answer["model_version"] == client.get("/v2/models/m").json()["versions"][0]
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/models/m/ready").json() == {"name": "m", "ready": True}


def test_a_request_chooses_its_serving_form(exported, client):
    place = exported("with a like head")
    scorer, (history,) = Scorer.open(place), histories(Scorer.open(place), 1)
    with testclient.TestClient(server.app(models.Models({"m": place}))) as both:
        for form in (
            {"form": "judge"},
            {"form": "sum", "beta": 0.5},
            {"form": "demote", "beta": 2, "threshold": 0.1},
        ):
            asked = {"events": as_json(history), **form}
            chosen = scorer.form(form["form"], form.get("beta"), form.get("threshold"))
            expected = [one.item for one in scorer.recommend(history, form=chosen)]
            found = both.post("/recommend", json=asked).json()["recommendations"]
            assert [one["item"] for one in found] == expected
    refused = client.post("/recommend", json={"events": as_json(history), "form": "judge"})
    assert refused.status_code == 422 and "needs a like head" in refused.json()["error"]


def test_a_request_chooses_what_its_list_may_hold(client, scorer):
    history, names = next(histories(scorer, 1)), scorer.items(10)
    choice = Choice(exclude=names[:4], at_most={"artist": 1})
    asked = {"events": as_json(history), "exclude": names[:4], "at_most": {"artist": 1}}
    found = client.post("/recommend", json=asked).json()["recommendations"]
    assert [one["item"] for one in found] == [one.item for one in scorer.recommend(history, choice=choice)]
    refused = client.post("/recommend", json={"events": as_json(history), "where": {"label": ["x"]}})
    assert refused.status_code == 422 and "no attribute 'label'" in refused.json()["error"]
    assert client.post("/recommend", json={"events": [], "at_most": {"artist": 0}}).status_code == 422


def test_candidates_are_put_in_order_and_a_place_is_explained(client, scorer):
    history, names = next(histories(scorer, 1)), scorer.items(20)
    asked = {"events": as_json(history), "candidates": [*names, "nobody's"]}
    answer = client.post("/rerank", json=asked).json()
    expected = scorer.rerank(history, names)
    assert [one["item"] for one in answer["recommendations"]] == [one.item for one in expected]
    assert answer["left_out"] == ["nobody's"] and answer["fallback"] is None
    answer = client.post("/explain", json={"events": as_json(history), "items": names[7:9]}).json()
    for found, name in zip(answer["items"], names[7:9], strict=True):
        expected = scorer.explain(history, name)
        assert found["item"] == name
        assert [one["item"] for one in answer["events"]] == [one.event.item for one in expected]
        changes = [one.change for one in expected]
        np.testing.assert_allclose(found["changes"], changes, rtol=1e-4, atol=1e-6)
    refused = client.post("/explain", json={"events": as_json(history), "items": [names[7], "nobody's"]})
    assert refused.status_code == 422 and "is not in the catalogue" in refused.json()["error"]


def test_what_a_route_does_not_read_it_does_not_take(client, scorer):
    told = {"events": as_json(next(histories(scorer, 1)))}
    of_lists = {"k": 3, "exclude_seen": True, "exclude": [], "where": {}, "at_most": {"artist": 1}}
    for route, more in {
        "/explain": {"items": scorer.items(1)},
        "/rerank": {"candidates": scorer.items(2)},
    }.items():
        for name, value in of_lists.items():
            refused = client.post(route, json=told | more | {name: value})
            assert refused.status_code == 422 and f"{name}: Extra inputs" in refused.json()["error"]
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    assert not {*of_lists} & {*schemas["Questioned"]["properties"], *schemas["Candidates"]["properties"]}
    assert {*of_lists} < {*schemas["Asked"]["properties"]}


@pytest.mark.parametrize("events", [[], [{"item": "nobody's"}]])
def test_a_listener_of_whom_nothing_is_known_gets_what_is_heard_most(client, scorer, events):
    answer = client.post("/recommend", json={"events": events, "k": 4}).json()
    assert answer["fallback"] == "popularity"
    assert [one["item"] for one in answer["recommendations"]] == scorer.items(4)


def test_feedback_is_kept_for_the_lists_that_follow(client, scorer):
    first, second, *_ = scorer.items(2)
    for event in (Event(first), Event(second, "skip")):
        client.post("/feedback", json={"user": "u", "events": as_json([event])}).raise_for_status()
    asked = {"user": "u", "events": [{"item": first, "feedback": "thumb_up"}]}
    answer = client.post("/recommend", json=asked).json()
    history = [Event(first), Event(second, "skip"), Event(first, "thumb_up")]
    assert [one["item"] for one in answer["recommendations"]] == [
        one.item for one in scorer.recommend(history)
    ]


BAD = {
    "no json": ("/recommend", b"{", 422),
    "a field too many": ("/recommend", b'{"event": []}', 422),
    "k": ("/recommend", b'{"k": 0}', 422),
    "nan": ("/recommend", b'{"k": NaN}', 422),
    "kind": ("/recommend", b'{"events": [{"item": "%s", "feedback": "hum"}]}', 422),
    "half a character": ("/recommend", b'{"events": [{"item": "\\ud800"}]}', 422),
    "another model": ("/recommend", b'{"model": "n"}', 404),
    "no events": ("/feedback", b'{"user": "u", "events": []}', 422),
    "kind of feedback": ("/feedback", b'{"user": "u", "events": [{"item": "a", "feedback": "hum"}]}', 422),
    "no such route": ("/recommended", b"{}", 404),
    "another model of the protocol": ("/v2/models/n/infer", b'{"inputs": []}', 404),
    "no item": ("/v2/models/m/infer", b'{"inputs": []}', 400),
    "shape": (
        "/v2/models/m/infer",
        b'{"inputs": [{"name": "item", "datatype": "BYTES", "shape": [2], "data": ["a"]}]}',
        400,
    ),
    "type": (
        "/v2/models/m/infer",
        b'{"inputs": [{"name": "item", "datatype": "INT64", "shape": [1], "data": [1]}]}',
        400,
    ),
    "half a character in a tensor": (
        "/v2/models/m/infer",
        b'{"inputs": [{"name": "item", "datatype": "BYTES", "shape": [1], "data": ["\\ud800"]}]}',
        400,
    ),
    "deep": ("/recommend", b"[" * 100_000, 422),
    "too large": ("/recommend", b" " * (1 << 20) + b"{}", 413),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_answered_is_refused_with_a_reason(client, scorer, name):
    path, body, status = BAD[name]
    body = body % scorer.items(1)[0].encode() if b"%s" in body else body
    answer = client.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status and answer.json()["error"]


def test_a_body_that_a_page_of_another_site_could_send_is_refused(client):
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        answer = client.post("/recommend", content=b"{}", headers={"content-type": kind})
        assert answer.status_code == 415 and "application/json" in answer.json()["error"]


def test_a_body_without_a_length_is_refused(client):
    answer = client.post("/recommend", content=iter([b"{}"]))
    assert answer.status_code == 411


def test_a_token_is_asked_for_by_all_but_health_and_metrics(found):
    with testclient.TestClient(server.app(found, token="secret")) as client:
        assert client.post("/recommend", json={}).status_code == 401
        assert client.post("/recommend", json={}, headers={"authorization": "Bearer else"}).status_code == 401
        assert (
            client.post("/recommend", json={}, headers={"authorization": "Bearer secret"}).status_code == 200
        )
        assert client.get("/v2/health/ready").status_code == client.get("/metrics").status_code == 200


def test_too_many_and_too_slow_requests_are_sent_away(found, monkeypatch):
    def slow(*_):
        time.sleep(0.3)

    monkeypatch.setattr(Scorer, "best", slow)
    limits = watching.Limits(waiting=2, seconds=0.1, threads=1)
    with (
        testclient.TestClient(server.app(found, limits)) as client,
        concurrent.futures.ThreadPoolExecutor(8) as pool,
    ):
        answers = list(pool.map(lambda _: client.post("/recommend", json={}), range(8)))
    assert {answer.status_code for answer in answers} == {503}
    assert all(answer.headers["retry-after"] for answer in answers)
    assert {"requests are under way" in answer.text for answer in answers} == {True, False}


def test_a_server_that_is_overrun_takes_a_new_export(found, monkeypatch):
    best = Scorer.best
    monkeypatch.setattr(Scorer, "best", lambda self, ready: time.sleep(0.3) or best(self, ready))
    limits = watching.Limits(waiting=1, seconds=0.1, threads=1)
    with (
        testclient.TestClient(server.app(found, limits)) as client,
        concurrent.futures.ThreadPoolExecutor(8) as pool,
    ):
        asked = [pool.submit(client.post, "/recommend", json={}) for _ in range(7)]
        assert client.post("/v2/repository/models/m/load").status_code == 200
    assert {one.result().status_code for one in asked} == {503}


def test_metrics_count_answers_and_ids_come_back(client):
    before = client.get("/metrics").text
    answer = client.post("/recommend", json={}, headers={"x-request-id": "mine"})
    assert answer.headers["x-request-id"] == "mine"
    line = 'jaxneg_requests_total{path="/recommend",status="200"} '

    def count(text):
        return float(next((row[len(line) :] for row in text.splitlines() if row.startswith(line)), 0))

    assert count(client.get("/metrics").text) == count(before) + 1


def test_listeners_are_split_by_their_shares_and_stay(directory):
    many = models.Models({"a": directory, "b": directory, "c": directory}, {"a": 3.0, "b": 1.0})
    users = [str(n) for n in range(4_000)]
    names = [many.name_for(user) for user in users]
    assert names == [many.name_for(user) for user in users]
    # Four standard errors of a share of .75.
    assert abs(names.count("a") / len(names) - 0.75) < 0.03 and "c" not in names
    for shares in ({"d": 1.0}, {"a": 0.0}, {"a": -1.0, "b": 3.0}):
        with pytest.raises(UserError, match="--split"):
            models.Models({"a": directory, "b": directory}, shares)


def test_the_collector_leaves_alone_what_lives_on_and_lets_go_of_what_was_swapped():
    """Also of a circle, which nothing but the collector can free, and which was left alone before."""

    class Link:
        pass

    thresholds = gc.get_threshold()
    try:
        link = Link()
        link.circle, gone = link, weakref.ref(link)
        serve.leave_alone()
        assert gc.get_freeze_count() > 0 and gc.get_threshold() == serve.COLLECTED
        del link
        gc.collect()
        assert gone() is not None
        serve.leave_alone()
        assert gone() is None
    finally:  # as conftest.py has left it
        gc.freeze()
        gc.set_threshold(*thresholds)


def test_who_serves_is_told_of_each_opening(directory):
    told = []
    live = models.Models({"m": directory}, opened=lambda: told.append(len(told)))
    assert told == [0]
    live.reload("m")
    assert told == [0, 1]


def test_a_swap_loses_no_request_and_a_damaged_export_changes_nothing(exported, tmp_path, capsys):
    """Answers before, during and after are those of one of both exports, whole."""
    place, lists = tmp_path / "live", {}
    first, second = "tied", "with a like head"
    for name in (first, second):
        history = [Event(Scorer.open(exported(name)).items(1)[0])]
        lists[name] = [one.item for one in Scorer.open(exported(name)).recommend(history, 20)]
    assert lists[first] != lists[second]
    place.symlink_to(exported(first))
    live = models.Models({"m": place})
    with testclient.TestClient(server.app(live)) as client, concurrent.futures.ThreadPoolExecutor(2) as pool:
        asked = {"events": as_json(history), "k": 20}
        answers = [pool.submit(client.post, "/recommend", json=asked) for _ in range(60)]
        for name in (second, first, second):
            other = tmp_path / "other"
            other.symlink_to(exported(name))
            os.replace(other, place)
            live.reload_changed()
        for answer in answers:
            found = [one["item"] for one in answer.result().json()["recommendations"]]
            assert answer.result().status_code == 200 and found in lists.values()
        last = client.post("/recommend", json=asked).json()
        assert [one["item"] for one in last["recommendations"]] == lists[second]
        damaged = tmp_path / "damaged"
        shutil.copytree(exported(first), damaged)
        (damaged / "items.parquet").write_bytes(b"")
        other.symlink_to(damaged)
        os.replace(other, place)
        capsys.readouterr()
        live.reload_changed()
        live.reload_changed()
        assert capsys.readouterr().err.count("m stays as it was") == 1
        assert client.post("/v2/repository/models/m/load").status_code == 422
        assert client.post("/recommend", json=asked).json() == last


def test_names_and_shares_are_read_as_they_are_meant(tmp_path):
    found = serve.named([str(tmp_path / "a"), f"b={tmp_path}"])
    assert found == {"a": tmp_path / "a", "b": tmp_path}
    with pytest.raises(UserError, match="two models are called a"):
        serve.named([str(tmp_path / "a"), f"a={tmp_path}"])
    assert serve.shared(["a=0.9", "b=.1"]) == {"a": 0.9, "b": 0.1} and serve.shared([]) is None
    with pytest.raises(UserError, match="--split a: write NAME=SHARE"):
        serve.shared(["a"])


@pytest.mark.slow
def test_the_command_serves_until_it_is_told_to_end(directory, scorer):
    command = [sys.executable, "-m", "jaxneg", "serve", f"m={directory}", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            said = process.stderr.readline()
            address = said.split(" at ")[1].split(",")[0]
            answer = httpx2.post(
                f"{address}/recommend", json={"events": [{"item": scorer.items(1)[0]}]}, timeout=30
            )
            assert answer.status_code == 200 and len(answer.json()["recommendations"]) == 10
            with pytest.raises(subprocess.CalledProcessError) as taken:
                port = address.rsplit(":", 1)[1]
                again = [*command[:-1], port]
                subprocess.run(again, check=True, capture_output=True, text=True)
            assert taken.value.returncode == 2 and "give another --host or --port" in taken.value.stderr
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
            line = json.loads(process.stderr.read().splitlines()[0])
            assert line["status"] == 200 and line["path"] == "/recommend"
        finally:
            process.kill()


def test_it_needs_no_export_to_say_what_is_wrong():
    with pytest.raises(UserError, match="is no export|does not exist|no such"):
        models.Models({"m": pathlib.Path("nowhere")})


def test_it_says_which_package_it_needs(monkeypatch, directory):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(UserError, match=r"needs uvicorn: pip install 'jaxneg\[serve\]'"):
        serve.Serve((f"m={directory}",)).run()
