"""The server and the Scorer under load: latencies, requests per second, and whether every answer is right.

    .venv/bin/python benchmarks/serving.py [--quick] [--items 10000 1000000] [--seconds 60] [--fuzz 10000] [--workers 2]

Plain SASRec of width 64 and 2 blocks, not trained, contexts of 50 events; its item rows lie around 1,000 centres. Each
request asks for the best 100 for one of 200 histories of 1 to 80 events. For each number of items, without and with
an index where the extra ``ann`` is there:

    direct      Scorer.recommend for one user at a time, and Scorer.lists for 64 at once
    http        ``jaxneg serve`` on this machine, asked by one connection, then by 32 that ask again at once
    workers     the same by --workers processes
    recall_100  share of the exact best 100 that the answers with an index hold

    peers       with --peers, for one user at a time in Python: the libraries of peers.py, which have no server

the query alone, of one user: query.onnx by onnxruntime and, where it is installed, by OpenVINO, each on one thread, and
how far from jax's its numbers are (``off``);

and on the first number of items, over HTTP by --workers processes, where every list is compared with the Scorer's:

    capacity, twice   requests at the rate of the 32 connections, and at twice that, whether answers come or not, over
                      at most 1,000 connections: answers by status, lists that were wrong, requests without an answer
                      and why, memory of the server's processes, and seconds until the last answer; p50 and p99 of
                      the lists count from when a request was due, its wait for a connection with it
    swaps             20 exports put in the place of one another under half of that load
    fuzz              requests that schemathesis makes up from /openapi.json, by status, where it is installed
    restart           seconds from ``kill -9`` and a new start until it is ready

Client and server share the machine's cores. Prints one JSON line; times in ms.
"""

import argparse
import asyncio
import collections
import dataclasses
import importlib.util
import json
import math
import os
import pathlib
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import peers  # beside this script
import pyarrow as pa
import pyarrow.parquet as pq
import train_step  # beside this script
from evaluation import write_million

from jaxneg.data import stores
from jaxneg.embeddings import sharding
from jaxneg.serve import contexts, export, signature
from jaxneg.serve.lists import Recommendations, Wanted
from jaxneg.serve.scorer import Scorer
from jaxneg.training import program, runs

LENGTH, K, HISTORIES, CONNECTIONS, CENTRES = 50, 100, 200, 32, 1_000
USERS = 1_000  # of the other libraries' log, at least: they leave a batch out that is not full
OPEN = 1_000  # connections at most, where requests come whether answers do or not
IDLE = 2.0  # seconds after which a connection is not taken again: servers close those that idle, uvicorn after 5 s
HOST = "127.0.0.1"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="2 thousand items, a second each, no fuzz")
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="of the load at capacity, and at twice that"
    )
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--fuzz", type=int, default=10_000, help="requests")
    parser.add_argument("--workers", type=int, default=2, help="processes of the server")
    parser.add_argument("--peers", default="", help="libraries of peers.py, with commas, or all")
    parser.add_argument("--environments", type=pathlib.Path, default=peers.ROOT / "runs" / "peers")
    asked = parser.parse_args()
    others = (
        [name for name in peers.PEERS if name != "ours"] if asked.peers == "all" else asked.peers.split(",")
    )
    if asked.quick:
        asked.items, asked.seconds, asked.swaps, asked.fuzz = [2_000], 1.0, 2, 0
    train_step.start_with(train_step.HUGE_PAGES)
    result: dict[str, Any] = {"benchmark": "serving", "sizes": {}}
    with tempfile.TemporaryDirectory() as name:
        work = pathlib.Path(name)
        for items in asked.items:
            result["sizes"][str(items)] = measured(work, items, 0.3 if asked.quick else 5.0, asked.workers)
            if asked.peers:
                result["sizes"][str(items)]["peers"] = {
                    name: beside(work, items, name, asked.environments) for name in others
                }
        result["query"] = queried(work, asked.items[0], 0.3 if asked.quick else 5.0)
        result |= held(work, asked.items[0], asked)
    result |= {
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
    }
    print(json.dumps(result))


def measured(work: pathlib.Path, items: int, seconds: float, workers: int) -> dict[str, Any]:
    """One user and many, direct and over HTTP, by one process and by several."""
    found, exact = {}, None
    for kind in ("exact", *(["index"] if indexed() else [])):
        place = exported(work / f"{items}_{kind}", items, 0, *(["index"] if kind == "index" else []))
        scorer, asked = Scorer.open(place), None
        scorer.warmup()
        asked = histories(scorer)
        lists = [[one.item for one in scorer.recommend(history, K)] for history in asked]
        exact = exact or lists
        one = timed(lambda n, scorer=scorer, asked=asked: scorer.recommend(asked[n % HISTORIES], K), seconds)
        ready = [scorer.ready(Wanted(history, K)) for history in asked[:64]]
        batch = timed(lambda _, scorer=scorer, ready=ready: scorer.lists(ready), seconds)
        found[kind] = {"direct": one | {"batch_of_64_per_s": round(64_000 / batch["p50"])}}
        if kind == "index":
            shares = [len({*a} & {*b}) / K for a, b in zip(exact, lists, strict=True)]
            found[kind]["recall_100"] = round(statistics.mean(shares), 4)
        del scorer
        bodies = [body(history) for history in asked]
        for name, processes in (("", 1), ("workers", workers)):
            with served(place, processes) as (port, _, ready_s):
                alone = ran(closed(port, bodies, 1, seconds))
                many = ran(closed(port, bodies, CONNECTIONS, seconds))
            over = {"http": spread(alone), "http_many": spread(many), "ready_s": ready_s}
            over["http_many"]["per_s"] = round(len(many) / seconds)
            found[kind] |= {name: {"processes": processes, **over}} if name else over
    return found


def beside(work: pathlib.Path, items: int, name: str, environments: pathlib.Path) -> dict[str, Any]:
    """Another library, after a step of training on a log in which each item is heard."""
    log, users = work / f"log_{items}.npz", max(USERS, items // LENGTH)
    if not log.exists():
        rng = np.random.default_rng(3)
        passes = math.ceil(users * LENGTH / items)  # over all items, each in an order of its own
        item_T = np.concatenate([rng.permutation(items) for _ in range(passes)])[: users * LENGTH] + 1
        peers.write_log(log, item_T.astype(np.int32), np.arange(0, users * LENGTH + 1, LENGTH))
    peer, some = peers.PEERS[name], list(range(min(HISTORIES, users)))
    python, process = peers.environment(peer.lock, environments), None
    try:
        process = peers.Process(name, python, log, LENGTH, work / f"{items}_{name}")
        process.ask("train", lead=0, steps=1)
        process.ask("recommend", users=some[:5], k=K)  # the first compiles
        best = min(
            (process.ask("recommend", users=some, k=K) for _ in range(3)), key=lambda one: one["median_ms"]
        )
    except SystemExit as error:  # it ended, and what it said is known
        lines = str(error).strip().splitlines()
        return {"failed": f"{lines[0]} {lines[-1]}"[:200]}
    finally:
        if process is not None:
            process.end()
    found = {"p50": round(best["median_ms"], 3), "p99": round(best["p99_ms"], 3), "requests": len(some)}
    return found | {"versions": process.versions}


def held(work: pathlib.Path, items: int, asked: Any) -> dict[str, Any]:
    """What holds at capacity, at twice that, while exports are swapped, when requests are nonsense, after a kill."""
    places = [exported(work / f"held_{n}", items, n) for n in range(2)]
    expected = []  # by export, the list of each history
    for place in places:
        scorer = Scorer.open(place)
        told = histories(scorer)
        expected.append([scorer.recommend(history, K) for history in told])
    bodies, found = [body(history) for history in told], {}
    live = work / "live"
    live.symlink_to(places[0])
    with served(live, asked.workers) as (port, process, _):
        found["processes"] = asked.workers
        many = ran(closed(port, bodies, CONNECTIONS, min(5.0, asked.seconds)))
        rate = len(many) / min(5.0, asked.seconds)
        for name, times in (("capacity", 1.0), ("twice", 2.0)):
            found[name] = ran(opened(port, bodies, expected[:1], times * rate, asked.seconds, process))
        swapping = ran(swapped(port, bodies, expected, rate / 2, live, places, asked.swaps))
        found["swaps"] = swapping
        if asked.fuzz and shutil.which("schemathesis"):
            found["fuzz"] = fuzzed(port, asked.fuzz)
        process.send_signal(signal.SIGKILL)
        process.wait()
    with served(live, asked.workers) as (port, process, ready_s):
        found["restart"] = {"ready_s": ready_s}
        process.send_signal(signal.SIGTERM)
        found["restart"]["exit_code"] = process.wait(30)
    return found


def queried(work: pathlib.Path, items: int, seconds: float) -> dict[str, Any]:
    """The query of one user, without its list, by what reads ONNX, and how far it is from jax's."""
    place = exported(work / "onnx", items, 0, "onnx")
    scorer, path = Scorer.open(place), place / "query.onnx"
    drawn = contexts.drawn(np.random.default_rng(2), HISTORIES, LENGTH, (items, 0))
    context_3BL = np.stack(drawn[:3])
    wanted_BE, found = scorer.query(*context_3BL), {}

    def row(run: Any) -> dict[str, float]:
        """Times and differences of a function of contexts."""
        one = timed(lambda n: run(context_3BL[:, [n % HISTORIES]]), seconds)
        off = max(
            np.abs(run(context_3BL[:, [n]])[0] - wanted_BE[n]).max() for n in range(LENGTH + 1)
        )  # of every length
        return {**one, "off": float(f"{off:.1e}")}

    scorer.warmup(1)
    found["jax"] = row(lambda context_3BL: scorer.query(*context_3BL))
    if importlib.util.find_spec("onnxruntime"):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        found["onnxruntime"] = row(
            lambda context: session.run(None, dict(zip(signature.HISTORY, context, strict=True)))[0]
        )
    if importlib.util.find_spec("openvino"):
        import openvino

        settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()
        found["openvino"] = row(
            lambda context: request.infer(dict(zip(signature.HISTORY, context, strict=True)))[0]
        )
    return found


def exported(place: pathlib.Path, items: int, seed: int, *more: str) -> pathlib.Path:
    """An export of a model that was not trained, whose item rows lie around centres; ``more`` formats beside the
    usual ones."""
    store_path = place.with_name(f"store_{items}")
    if not store_path.exists():
        write_million(store_path, users=64, items=items, length=LENGTH)
        rows = np.arange(1, items + 1, dtype=np.int32)
        words = {"row": rows, "item": [f"item_{row}" for row in rows], "count": np.ones(items, np.int64)}
        pq.write_table(pa.table(words), store_path / "items.parquet")
        pq.write_table(
            pa.table({"row": pa.array([], pa.int32()), "id": pa.array([], pa.string())}),
            store_path / "stations.parquet",
        )
    store = stores.Store.open(store_path)
    setting = train_step.setting(LENGTH, str(store_path))
    setting = dataclasses.replace(setting, train=dataclasses.replace(setting.train, seed=seed))
    built = program.build(setting, program.catalogue_of(store), sharding.make_mesh(1))
    state = built.init()._replace(opt_state=())
    rng, row_VD = np.random.default_rng(seed), np.array(state.tables["item_VD"])
    centre_CD = rng.standard_normal((CENTRES, row_VD.shape[1]), np.float32)
    row_VD[1:] = centre_CD[rng.integers(CENTRES, size=len(row_VD) - 1)]
    row_VD[1:] += 0.5 * rng.standard_normal((len(row_VD) - 1, row_VD.shape[1]), np.float32)
    row_VD *= np.abs(np.asarray(state.tables["item_VD"])).std() / row_VD.std()
    state = state._replace(tables=state.tables | {"item_VD": jnp.asarray(row_VD)})
    result = {"best_step": 0, "monitor": "auc", "best_score": 0.5}
    trained = runs.Trained(setting, store, built.model, state, result, built.layout)
    export.export(trained, place, export.Wanted((*export.DEFAULT.formats, *more)))
    return place


def indexed() -> bool:
    return importlib.util.find_spec("faiss") is not None


def histories(scorer: Scorer) -> list[list[str]]:
    rng, names = np.random.default_rng(1), scorer.items(10**9)
    sizes = rng.integers(1, 81, HISTORIES)
    return [[names[row] for row in (len(names) * rng.random(size) ** 2).astype(int)] for size in sizes]


def body(history: list[str]) -> bytes:
    text = json.dumps({"events": [{"item": item} for item in history], "k": K}).encode()
    head = f"POST /recommend HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: {len(text)}"
    return head.encode() + b"\r\n\r\n" + text


def timed(work: Any, seconds: float) -> dict[str, float]:
    work(0)
    end, taken, n = time.perf_counter() + seconds, [], 0
    while time.perf_counter() < end or n < 5:
        began = time.perf_counter()
        work(n)
        taken.append(time.perf_counter() - began)
        n += 1
    return spread(taken)


def ran(work: Any) -> Any:
    """What work of asyncio gives, by the loop that takes least of what the server is measured with."""
    if importlib.util.find_spec("uvloop") is None:
        return asyncio.run(work)
    import uvloop

    return uvloop.run(work)


def spread(taken: list[float]) -> dict[str, float]:
    if not taken:
        return {"requests": 0}
    p50, p99 = (round(1000 * float(np.quantile(taken, q)), 3) for q in (0.5, 0.99))
    return {"p50": p50, "p99": p99, "requests": len(taken)}


@contextmanager
def served(place: pathlib.Path, workers: int = 1) -> Iterator[tuple[int, subprocess.Popen[bytes], float]]:
    """The port of a server, its first process, and the seconds that it took to be ready. Its log goes to a file."""
    began, log = time.perf_counter(), place.with_name("server.log")
    command = [sys.executable, "-m", "jaxneg", "serve", f"m={place}", "--port", "0", "--watch", "0"]
    command += ["--workers", str(workers), "--sessions", "memory" if workers == 1 else "none"]
    with log.open("wb") as file, subprocess.Popen(command, stderr=file) as process:
        try:
            while not (said := re.search(rb"at http://[\d.]+:(\d+)", log.read_bytes())):
                assert process.poll() is None, log.read_text()
                time.sleep(0.01)
            port = int(said[1])
            get(port, "/v2/health/ready")
            ready_s = round(time.perf_counter() - began, 2)
            while listening(port) < workers:  # the first says that it is there, and the others take its time
                time.sleep(0.05)
            yield port, process, ready_s
        finally:
            process.kill()


def listening(port: int) -> int:
    """Sockets that listen at a port."""
    rows = [row.split() for row in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(int(row[1].split(":")[1], 16) == port and row[3] == "0A" for row in rows)


def get(port: int, path: str, data: bytes | None = None) -> str:
    with urllib.request.urlopen(
        urllib.request.Request(f"http://{HOST}:{port}{path}", data), timeout=60
    ) as answer:
        return answer.read().decode()


class Connection:
    """One that asks and waits for the answer."""

    def __init__(self, port: int):
        self._port, self._reader, self._writer = port, None, None

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and body."""
        if self._reader is None:
            self._reader, self._writer = await asyncio.open_connection(HOST, self._port)
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        size = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        return int(head[9:12]), await self._reader.readexactly(int(size[1]))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


async def closed(port: int, bodies: list[bytes], connections: int, seconds: float) -> list[float]:
    """Seconds of each answer, where each connection asks again once it has one."""
    end, taken = time.perf_counter() + seconds, []

    async def one(n: int) -> None:
        connection = Connection(port)
        while (began := time.perf_counter()) < end:
            status, _ = await connection.ask(bodies[n % HISTORIES])
            assert status == 200
            taken.append(time.perf_counter() - began)
            n += connections
        connection.close()

    await asyncio.gather(*map(one, range(connections)))
    return taken


async def opened(
    port: int,
    bodies: list[bytes],
    expected: list[list[Recommendations]],
    rate: float,
    seconds: float,
    process: Any,
) -> dict[str, Any]:
    """What comes of requests at a rate, whether answers come or not."""
    statuses, taken, wrong, lost, free = collections.Counter(), [], 0, collections.Counter(), []
    places = asyncio.Semaphore(OPEN)
    memory = [resident(process.pid)]

    def connected() -> Connection:
        """That which was used last: if it has idled for long, so have all others."""
        if free and time.perf_counter() - free[-1][1] < IDLE:
            return free.pop()[0]
        while free:
            free.pop()[0].close()
        return Connection(port)

    async def one(n: int) -> None:
        nonlocal wrong
        due = time.perf_counter()
        async with places:
            connection = connected()
            try:
                status, answer = await asyncio.wait_for(connection.ask(bodies[n % HISTORIES]), 30)
            except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
                lost[type(error).__name__] += 1
                connection.close()
                return
            free.append((connection, time.perf_counter()))
        statuses[status] += 1
        if status == 200:
            taken.append(time.perf_counter() - due)
            wrong += not any(right(json.loads(answer), lists[n % HISTORIES]) for lists in expected)

    began, tasks, n, looked = time.perf_counter(), set(), 0, 1
    while (now := time.perf_counter() - began) < seconds:
        while n < rate * now:
            task = asyncio.ensure_future(one(n))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            n += 1
        if now > looked * seconds / 4:
            memory.append(resident(process.pid))
            looked += 1
        await asyncio.sleep(0.001)
    await asyncio.gather(*tasks)
    took = time.perf_counter() - began
    memory.append(resident(process.pid))
    for connection, _ in free:
        connection.close()
    told = {
        "asked_per_s": round(rate),
        "asked": n,
        "seconds": round(took, 1),
        "answers": {str(k): v for k, v in sorted(statuses.items())},
    }
    missing = {"lost": lost.total(), "lost_by": dict(lost)}
    return told | {"wrong": wrong} | missing | {"memory_mb": memory} | spread(taken)


def right(answer: dict[str, Any], expected: Recommendations) -> bool:
    """Whether a list is the scorer's: a batch of another size may sum in another order and so exchange near equals."""
    found = [(one["item"], one["score"]) for one in answer["recommendations"]]
    if [item for item, _ in found] == [one.item for one in expected]:
        return True
    close, by_item = 1e-5 * max(abs(one.score) for one in expected), dict(expected)
    return len(found) == len(expected) and all(
        abs(score - one.score) < close and abs(by_item.get(item, one.score) - score) < close
        for (item, score), one in zip(found, expected, strict=True)
    )


async def swapped(
    port: int, bodies: list[bytes], expected: Any, rate: float, live: pathlib.Path, places: Any, swaps: int
) -> dict[str, Any]:
    """Answers while exports take each other's place."""
    done = 0

    async def swap() -> float:
        nonlocal done
        began = time.perf_counter()
        for n in range(swaps):
            other = live.with_name("other")
            other.symlink_to(places[(n + 1) % 2])
            os.replace(other, live)
            await asyncio.to_thread(get, port, "/v2/repository/models/m/load", b"")
            done += 1
        return time.perf_counter() - began

    class Own:
        pid = os.getpid()

    swapping, counts = asyncio.ensure_future(swap()), collections.Counter()
    answers = collections.Counter()
    while not swapping.done():
        part = await opened(port, bodies, expected, rate, 0.5, Own)
        answers.update(part["answers"])
        counts.update({name: part[name] for name in ("asked", "wrong", "lost")})
    seconds = swapping.result()
    return {"swaps": done, "seconds": round(seconds, 1), "answers": dict(answers), **counts}


def resident(pid: int) -> int:
    """MB of a process and of those that it started, in memory."""
    try:
        text = pathlib.Path(f"/proc/{pid}/status").read_text()
        begun = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) // 1024 + sum(resident(int(one)) for one in begun)


def fuzzed(port: int, requests: int) -> dict[str, Any]:
    """Answers by status, as the server counts them, to what schemathesis asks."""
    before, answers = counted(port), collections.Counter()
    operations = sum(len(one) for one in json.loads(get(port, "/openapi.json"))["paths"].values())
    for seed in range(20):
        command = [
            "schemathesis",
            "run",
            f"http://{HOST}:{port}/openapi.json",
            "--seed",
            str(seed),
            "--checks",
        ]
        command += ["not_a_server_error", "--phases", "fuzzing", "--continue-on-failure", "--max-examples"]
        subprocess.run([*command, str(requests // operations)], capture_output=True, check=False)
        answers = counted(port) - before
        if answers.total() >= requests:
            break
    families = collections.Counter({status: 0 for status in ("2xx", "4xx", "5xx")})
    for status, count in answers.items():
        families[f"{status[0]}xx"] += count
    return {"requests": answers.total(), **families, "by_status": dict(sorted(answers.items()))}


def counted(port: int) -> collections.Counter[str]:
    """Answers by status that the server counts."""
    found: collections.Counter[str] = collections.Counter()
    for path, status, count in re.findall(
        r'jaxneg_requests_total\{path="([^"]*)",status="(\d+)"\} (\S+)', get(port, "/metrics")
    ):
        if path != "/metrics":
            found[status] += int(float(count))
    return found


if __name__ == "__main__":
    main()
