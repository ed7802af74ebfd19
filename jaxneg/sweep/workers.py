"""Processes that call one function task after task, each on cores or a device of its own. They end with their parent.

A worker reads tasks as JSON lines from its standard input and answers on its standard output; what libraries print
goes to its log. It ends when its input does, so that none outlives a parent that was killed.
"""

import collections
import importlib
import json
import os
import pathlib
import queue
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, NamedTuple

from jaxneg import errors, progress
from jaxneg.errors import UserError

LOOK_SECONDS = 0.2  # between two looks whether to end
REPORT_SECONDS = 1.0  # between progress reports of a worker
PROBE = "import jax; print(jax.devices()[0].platform, jax.local_device_count())"


class Place(NamedTuple):
    """Where a worker runs."""

    environment: Mapping[str, str]  # added to that of the parent
    cores: tuple[int, ...] = ()  # that it may use; none names all


class Event(NamedTuple):
    """What a worker has to say of a task: how far it is, that it is done, or why it failed."""

    task: str
    progress: Mapping[str, Any] | None = None
    failed: str | None = None  # one line
    trace: str = ""  # of a failure that is no mistake of the user


def places(jobs: int = 0) -> list[Place]:
    """One place for each worker; 0 jobs make one for each core, or for each GPU.

    Workers on CPU share out the cores, so that each has threads for its own alone. A TPU serves one process. Raises
    UserError on more jobs than that.
    """
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        platform, devices = "cpu", 1
    else:
        # In a process of its own, as the one that counts the devices also takes hold of them.
        probed = subprocess.run(
            [sys.executable, "-c", PROBE],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        if probed.returncode:
            raise UserError(f"JAX finds no device: {(probed.stderr.strip().splitlines() or ['?'])[-1]}")
        platform, count = probed.stdout.split()[-2:]
        devices = int(count)
    if platform == "tpu":
        if jobs > 1:
            raise UserError(f"--jobs {jobs}, but a TPU serves one process: leave it out")
        return [Place({})]
    if platform == "cpu":
        affinity = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
        cores = sorted(affinity(0))
        jobs = jobs or len(cores)
        shares = [cores[n::jobs] or [cores[n % len(cores)]] for n in range(jobs)]
        return [Place({}, tuple(share)) for share in shares]
    jobs = jobs or devices
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    names = names if len(names) >= devices and names[0] else [str(device) for device in range(devices)]
    made = []
    for n in range(jobs):
        environment = {"CUDA_VISIBLE_DEVICES": names[n % devices]}
        if jobs > devices and "XLA_PYTHON_CLIENT_MEM_FRACTION" not in os.environ:
            environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 / -(-jobs // devices):.3f}"
        made.append(Place(environment))
    return made


def calls(
    function: str,
    tasks: Mapping[str, Mapping[str, Any]],
    where: Sequence[Place],
    logs: pathlib.Path,
    keep: Sequence[int] = (),
    stop: Callable[[], bool] = lambda: False,
) -> Generator[Event, None, None]:
    """Events of ``function(**arguments, on_progress=...)`` called for each task, a worker at each place.

    A task that raises, or whose process dies, fails; the others go on. Close the iterator, and no worker is left.

    Args:
      function: "package.module:name"; its arguments must pass through JSON.
      tasks: arguments by name of the task.
      where: the places.
      logs: directory of what the workers print.
      keep: open files that the workers hold on to.
      stop: whether to end now, asked several times a second.
    """
    events: queue.Queue[tuple[_Worker, dict[str, Any] | None]] = queue.Queue()
    left = collections.deque(tasks.items())
    logs.mkdir(parents=True, exist_ok=True)
    alive: dict[_Worker, str] = {}  # and the task it is at

    def start(place: Place, log: pathlib.Path) -> None:
        worker = _Worker(function, place, log, keep, events)
        alive[worker] = ""
        give(worker)

    def give(worker: _Worker) -> None:
        alive[worker], arguments = left.popleft()
        worker.send(arguments)

    try:
        for n, place in enumerate(where[: len(tasks)]):
            start(place, logs / f"{n}.txt")
        while alive and not stop():
            try:
                worker, message = events.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                continue
            if worker not in alive:
                continue
            task = alive[worker]
            if message is not None and "progress" in message:
                yield Event(task, progress=message["progress"])
                continue
            if message is None:
                del alive[worker]
                ended = worker.stop()
                if left:
                    start(worker.place, worker.log)
                yield Event(task, failed=f"its process ended ({_ending(ended)}); {worker.log} may tell why")
                continue
            if left:
                give(worker)
            else:
                del alive[worker]
                worker.stop()
            yield Event(task, failed=message.get("failed"), trace=message.get("trace", ""))
    finally:
        for worker in alive:
            worker.stop()


def _ending(code: int) -> str:
    return "killed, perhaps for want of memory" if code == -9 else f"exit code {code}"


class _Worker:
    def __init__(self, function: str, place: Place, log: pathlib.Path, keep: Sequence[int], events):
        self.place, self.log = place, log
        root = str(pathlib.Path(__file__).parents[2])
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        with open(log, "ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jaxneg.sweep.workers", function, json.dumps(place.cores)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                pass_fds=tuple(keep),
                env={**os.environ, **place.environment, "PYTHONPATH": path},
                start_new_session=True,  # Ctrl-C is for the parent, which then ends its workers
            )
        self.thread = threading.Thread(target=self._listen, args=(events,), daemon=True)
        self.thread.start()

    def _listen(self, events) -> None:
        assert self.process.stdout is not None
        try:
            for line in self.process.stdout:
                try:
                    events.put((self, json.loads(line)))
                except ValueError:
                    break  # killed in the middle of a line
        finally:  # however this thread ends: the one that waits is told
            events.put((self, None))

    def send(self, arguments: Mapping[str, Any]) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(arguments).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it is dead, as its thread is about to say

    def stop(self) -> int:
        """Kills it if it still runs; its exit code."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.kill()
        code = self.process.wait()
        self.thread.join()
        for pipe in (self.process.stdin, self.process.stdout):
            try:
                pipe.close()
            except BrokenPipeError:
                pass  # of what it did not read
        return code


def _work(function: str, cores: list[int]) -> None:
    """The life of a worker."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)  # before XLA counts them
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    tasks: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def listen() -> None:
        try:
            for line in sys.stdin:
                tasks.put(json.loads(line))
        finally:
            os._exit(0)  # the parent is gone, and nobody wants what this process is at

    threading.Thread(target=listen, daemon=True).start()

    def answer(message: Mapping[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    said = 0.0

    def on_progress(
        done: int, total: int, figures: progress.Figures = progress.NONE, /, *, stage: str = ""
    ) -> None:
        nonlocal said
        if time.monotonic() - said >= REPORT_SECONDS:
            said = time.monotonic()
            answer({"progress": {"done": done, "total": total, "figures": dict(figures), "stage": stage}})

    module, _, name = function.partition(":")
    call = getattr(importlib.import_module(module), name)
    while True:
        arguments = tasks.get()
        try:
            call(**arguments, on_progress=on_progress)
            answer({"done": True})
        except UserError as error:
            answer({"failed": " ".join(str(error).splitlines())})
        except Exception as error:
            line = (str(error).strip().splitlines() or [""])[0]
            reason = errors.trouble(error) or f"{type(error).__name__}: {line}"
            answer({"failed": reason, "trace": traceback.format_exc()})


if __name__ == "__main__":
    _work(sys.argv[1], json.loads(sys.argv[2]))
