"""Verbs on a bucket whose service fails, and that are killed: is the result that of an undisturbed run, bit for bit?

    python benchmarks/faults_buckets.py [--kills 20] [--faults 200] [--seed 0] [--quick]

A log becomes a store, a run and an export in a bucket of an emulator of S3, time after time under new names. Between
the verbs and the emulator stands a proxy that answers some requests with 503, before or after they have reached the
emulator, cuts answers, holds them until the client gives up, sends them slowly, and says of some objects that they were
taken which were not. A part of the verbs is killed with SIGKILL at a random time and started again until it is done.
After each kill the bucket is looked at from another process's place: what has a marker must be whole. At the end of a
round store, checkpoint and figures must be those that the same verbs gave on the local disk.

Prints one JSON line. All traffic stays on 127.0.0.1.
"""

import argparse
import collections
import hashlib
import http.client
import http.server
import importlib.util
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).parents[1]
SECONDS = 6.0  # that a request may take
CONFIG = """
from jaxneg.config import Config, DataConfig, ModelConfig, OptimConfig, TrainConfig


def get_config():
    return Config(
        data=DataConfig(length=10, batch_size=32, p_hard=0.5, negatives=2),
        model=ModelConfig(width=16, layers=1),
        optim=OptimConfig(learning_rate=3e-3, warmup_steps=5),
        train=TrainConfig(epochs=4, patience=0, monitor="auc"),
    )
"""
KINDS = ("503", "503 after", "cut", "held", "slow", "lost")
WEIGHTS = (5, 3, 4, 1, 2, 2)


class Proxy(http.server.BaseHTTPRequestHandler):
    """Hands requests on to the emulator, and spoils a share of them."""

    protocol_version = "HTTP/1.1"
    upstream, share, rng = 0, 0.0, random.Random(0)
    done: collections.Counter[str] = collections.Counter()

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        kind = self.rng.choices(KINDS, WEIGHTS)[0] if self.rng.random() < self.share else ""
        if kind == "lost" and (self.command != "PUT" or "uploadId" in self.path):
            kind = "503"
        if kind:
            self.done[kind] += 1
        if kind == "503":
            return self._answer(503, {}, b"")
        if kind == "lost":
            return self._answer(200, {"ETag": f'"{hashlib.md5(body).hexdigest()}"'}, b"")
        to = http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=60)
        to.request(self.command, self.path, body, dict(self.headers.items()))
        found = to.getresponse()
        data, headers = found.read(), dict(found.getheaders())
        to.close()
        if kind == "503 after":
            return self._answer(503, {}, b"")
        if kind == "held":
            time.sleep(SECONDS * 1.2)
            return self._cut()
        self._answer(found.status, headers, data, kind)

    def _answer(self, status: int, headers: dict[str, str], data: bytes, kind: str = "") -> None:
        self.send_response_only(status)
        size = headers.get("Content-Length", str(len(data))) if self.command == "HEAD" else str(len(data))
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", size)
        self.end_headers()
        if self.command == "HEAD":
            return
        if kind == "cut":
            self.wfile.write(data[: len(data) // 2])
            return self._cut()
        for begin in range(0, len(data), max(1, len(data) // 5) if kind == "slow" else len(data) or 1):
            self.wfile.write(data[begin : begin + max(1, len(data) // 5) if kind == "slow" else len(data)])
            time.sleep(0.2 if kind == "slow" else 0)

    def _cut(self) -> None:
        self.close_connection = True

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle  # noqa: N815

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:  # the client has given up
            pass

    def log_message(self, format: str, *args: object) -> None:
        pass


def verb(
    words: str, here: pathlib.Path, env: dict[str, str], kill_after: float | None = None
) -> tuple[int, str, float]:
    """Exit code, what was said and seconds of a verb in a process of its own."""
    began = time.monotonic()
    command = [sys.executable, "-m", "jaxneg", *words.split()]
    with subprocess.Popen(
        command, cwd=here, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        try:
            said = process.communicate(timeout=kill_after)[1]
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            said = process.communicate()[1]
    return process.returncode, said.decode(errors="replace"), time.monotonic() - began


def digest(store: pathlib.Path, run: pathlib.Path) -> dict[str, object]:
    """What of a store and a run must not depend on where they lie and on what happened."""
    result = json.loads((run / "result.json").read_text())
    metadata = json.loads((store / "metadata.json").read_text())
    last = max((run / "checkpoints").iterdir(), key=lambda path: int(path.name))
    progress = json.loads((last / "progress" / "metadata").read_text())
    history = [{k: v for k, v in one.items() if "seconds" not in k} for one in result["history"]]
    return {
        "sums": metadata["sums"],
        "arrays": progress["state_sums"],
        "history": history,
        "best": result["best_step"],
    }


def halves(at: str) -> int:
    """Things with a marker that are not whole."""
    from jaxneg.data import stores
    from jaxneg.errors import UserError
    from jaxneg.files import addresses, arrays

    wrong = 0
    try:
        store = addresses.local(f"{at}/store", "store", addresses.STORE)
        if store.exists():
            stores.Store.open(store).verify()
        export = addresses.local(f"{at}/export", "export", addresses.EXPORT)
        if export.exists():
            sums = json.loads((export / addresses.EXPORT).read_text())["files"]
            wrong += any(arrays.sha256(export / name) != told for name, told in sums.items())
    except UserError:
        wrong += 1
    return wrong


def emulators():
    spec = importlib.util.spec_from_file_location("emulators", ROOT / "tests" / "emulators.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measure(kills: int, faults: int, seed: int, here: pathlib.Path) -> dict[str, object]:
    Proxy.rng = rng = random.Random(seed)
    (here / "config.py").write_text(CONFIG)
    env = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "XDG_CACHE_HOME": str(here / "cache"),
    }
    env["JAXNEG_BUCKET_SECONDS"] = str(SECONDS)
    listeners = "--users 60 --items 80 --sessions 300 --stations 4 --artists 10"
    seconds = {}
    for words in (
        f"simulate --out log.csv {listeners}",
        "prepare table log.csv --out store",
        "train config.py --workdir run --data.store store",
        "export run --out export",
    ):
        code, said, seconds[words.split()[0]] = verb(words, here, env)
        assert code == 0, said
    expected = digest(here / "store", here / "run")
    found: collections.Counter[str] = collections.Counter()
    module = emulators()
    began = time.monotonic()
    with module.running("s3") as port:
        Proxy.upstream = port
        proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        os.environ.update(module.settings("s3", port) | {"XDG_CACHE_HOME": str(here / "reader")})
        env |= module.settings("s3", proxy.server_port)
        Proxy.share = 0.15
        while found["kills"] < kills or sum(Proxy.done.values()) < faults:
            at = f"s3://{module.BUCKET}/{found['rounds']}"
            for words in (
                f"prepare table log.csv --out {at}/store",
                f"train config.py --workdir {at}/run --data.store {at}/store",
                f"export {at}/run --out {at}/export",
            ):
                name = words.split()[0]
                killed = False
                while True:
                    alive = found["kills"] < kills and rng.random() < 0.85
                    after = rng.uniform(0.3, 1.2) * seconds[name] if alive else None
                    code, said, took = verb(words, here, env, after)
                    found["halves"] += halves(at)
                    print(
                        name,
                        code,
                        f"{took:.0f} s",
                        dict(found),
                        dict(Proxy.done),
                        file=sys.stderr,
                        flush=True,
                    )
                    # Killed after the last object was put: as on the disk, what is whole is not written again.
                    if code == 0 or (code == 2 and killed and f"{at}/export exists" in said):
                        break
                    if code == -signal.SIGKILL:
                        found["kills"] += 1
                        killed = True
                        continue
                    found["refused"] += 1
                    print(name, code, said[-500:], file=sys.stderr)
                    if found["refused"] > 20:
                        raise SystemExit("too many verbs failed")
            from jaxneg.files import addresses

            store, run = addresses.local(f"{at}/store", "store"), addresses.run(f"{at}/run", "run")
            found["rounds"] += 1
            found["same"] += digest(store, run) == expected
            print(dict(found), dict(Proxy.done), file=sys.stderr, flush=True)
        proxy.shutdown()
    return {
        "benchmark": "faults_buckets",
        "rounds": found["rounds"],
        "kills": found["kills"],
        "faults": sum(Proxy.done.values()),
        "faults_by_kind": dict(sorted(Proxy.done.items())),
        "same_as_undisturbed": found["same"],
        "half_written_read": found["halves"],
        "verbs_that_gave_up": found["refused"],
        "seed": seed,
        "seconds": round(time.monotonic() - began, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="2 kills, 20 faults")
    args = parser.parse_args()
    if args.quick:
        args.kills, args.faults = 2, 20
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory(prefix="jaxneg-faults") as directory:
        print(json.dumps(measure(args.kills, args.faults, args.seed, pathlib.Path(directory))))


if __name__ == "__main__":
    main()
