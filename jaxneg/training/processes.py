"""Many processes that run one program: how they find each other, agree, stop together and notice that one is lost.

Exit codes of a process of many, beside those of the command line: LOST where all are to be started again. Where a peer
dies while no step runs, JAX itself ends the others after HEARTBEAT seconds; ``peers`` has them say which it was.
"""

import contextlib
import glob
import importlib.util
import json
import os
import re
import sys
import threading
import time
from collections.abc import Generator, Mapping, Set
from typing import NoReturn, Protocol, runtime_checkable

import jax
from jax.experimental import multihost_utils

from jaxneg import errors, signals
from jaxneg.errors import UserError
from jaxneg.files import locks
from jaxneg.signals import Stopped as Stopped
from jaxneg.training import peers

LOST = 75  # EX_TEMPFAIL: a peer is gone or a step is stuck; start all processes again and they continue
STOPPED = 143  # by SIGTERM, as the shell counts

CONNECT = 300.0  # seconds that processes wait for each other at the start
HEARTBEAT = 30  # seconds of silence after which a process counts as dead
AGREE = 600.0  # seconds that processes wait for the slowest to open its store
LEAVE = 10.0  # seconds to say goodbye to peers that may be gone
FIRST = 4.0  # the first step is compiled: it may take so many times longer than the others
# What JAX and its transports say when the other end of a collective is gone; some come as plain ValueError.
GONE = re.compile(
    r"gloo|nccl|barrier|unavailable|deadline.exceeded|aborted|cancelled|connection (reset|closed|refused)|unhealthy",
    re.IGNORECASE,
)


def start(
    coordinator: str = "",
    processes: int = 0,
    process: int = -1,
    *,
    detect: bool = True,
    seconds: float = CONNECT,
) -> None:
    """Joins the other processes, where there are any: before anything else of JAX.

    They are named by the arguments, by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or found by JAX
    in a cluster that it knows. A single process neither waits nor asks the network. Ends with LOST where the others
    cannot be reached, and raises UserError where they are not named well. Does nothing where they have been joined.

    Args:
      coordinator: HOST:PORT of process 0.
      processes: how many there are; 1 is a single process.
      process: which of them this is, from 0.
      detect: also look at the environment.
      seconds: to wait for the others.
    """
    if detect:
        coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS", "")
        processes = processes or _number("JAX_NUM_PROCESSES", 0)
        process = process if process >= 0 else _number("JAX_PROCESS_ID", -1)
    named = {"--coordinator": coordinator, "--processes": processes, "--process": process >= 0}
    missing = [name for name, value in named.items() if not value]
    if jax.distributed.is_initialized():  # by Ray, say
        return
    if processes == 1 or (len(missing) == len(named) and not (detect and detected())):
        return
    if missing and not (detect and detected()):
        raise UserError(f"{' and '.join(missing)} must be given too: a process of many needs all three")
    if not missing and not 0 <= process < processes:
        raise UserError(f"--process {process} must be below --processes {processes}, and 0 for the first")
    if coordinator and not re.fullmatch(r".+:\d+", coordinator):
        raise UserError(f"--coordinator must be HOST:PORT, got {coordinator}")

    def give_up() -> None:
        who = f"process {process} of {processes}" if not missing else "a process of the cluster"
        _say(f"{who} waited {seconds:g} s for the others at {coordinator or 'the address that JAX found'}")
        os._exit(LOST)

    # JAX would abort with a stack trace.
    alarm = threading.Timer(seconds, give_up)
    alarm.daemon = True
    alarm.start()
    try:
        jax.distributed.initialize(
            coordinator_address=coordinator or None,
            num_processes=None if missing else processes,
            process_id=None if missing else process,
            # Where all are named it would ask for GPUs, on the network too.
            cluster_detection_method=None if missing else "deactivate",
            initialization_timeout=int(seconds) + 60,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=30,
        )
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"the processes could not be joined: {reason}; --cluster off trains in one"
        ) from error
    finally:
        alarm.cancel()
    if many():
        peers.watch(_coordinator(), jax.process_index(), _address(), LOST)


def _number(name: str, otherwise: int) -> int:
    text = os.environ.get(name, "")
    if text and not text.isdecimal():
        raise UserError(f"{name} must be a number, got {text}")
    return int(text) if text else otherwise


def detected() -> bool:
    """Whether this is a process of many in a cluster that JAX knows, by environment and device files alone."""
    has = os.environ.get
    slurm = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
    if all(map(has, slurm)):
        tasks = _number("SLURM_NTASKS", 1)
        return min(tasks, _number("SLURM_STEP_NUM_TASKS", tasks)) > 1
    if has("OMPI_MCA_orte_hnp_uri"):
        return _number("OMPI_COMM_WORLD_SIZE", 1) > 1
    if "tpu" in has("JAX_PLATFORMS", "tpu") and importlib.util.find_spec("libtpu"):
        hosts = has("TPU_PROCESS_ADDRESSES") or has("TPU_WORKER_HOSTNAMES")  # on GKE
        if hosts:
            return "," in hosts or _number("MEGASCALE_NUM_SLICES", 1) > 1
        # A TPU VM: JAX asks the machine's own metadata server, and joins a single one as well.
        return bool(glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*"))
    kubernetes = has("KUBERNETES_SERVICE_HOST") and has("JOB_COMPLETION_INDEX")
    return bool(kubernetes and importlib.util.find_spec("kubernetes"))


@runtime_checkable
class Coordinator(Protocol):
    """The process that all processes of a run exchange text by."""

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None: ...

    def blocking_key_value_get(self, key: str, timeout_in_ms: int) -> str: ...

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]: ...

    def wait_at_barrier(self, barrier_id: str, timeout_in_ms: int) -> None: ...


def _client() -> Coordinator | None:
    """JAX's connection to the coordinator, None in a single process. It has no public name: orbax takes it too."""
    from jax._src import distributed

    return distributed.global_state.client


def _address() -> str:
    """HOST:PORT of the coordinator, empty where it is not known."""
    from jax._src import distributed

    return distributed.global_state.coordinator_address or ""


def _coordinator() -> Coordinator:
    """The same, of many processes."""
    client = _client()
    assert client is not None
    return client


def many() -> bool:
    return _client() is not None and jax.process_count() > 1


def first() -> bool:
    """Whether this process writes what is written once."""
    return jax.process_index() == 0


def publish(name: str, text: str) -> None:
    """Tells something of this process, of many, that others may read as ``published``."""
    _coordinator().key_value_set(f"jaxneg/published/{name}/{jax.process_index()}", text)


def published(name: str, process: int) -> str:
    """What another process tells of itself."""
    return _coordinator().blocking_key_value_get(f"jaxneg/published/{name}/{process}", int(AGREE * 1000))


def agree(stage: str, values: Mapping[str, str]) -> None:
    """Raises UserError on every process, which each of them says, unless all have the values that the first one has.

    Names the first value that differs. In a single process does nothing.

    Args:
      stage: a name, of one call only.
      values: by the name that a person knows them by.
    """
    if not many():
        return
    client, key = _coordinator(), f"jaxneg/values/{stage}"
    with together(stage, by_all=True):
        if first():
            client.key_value_set(key, json.dumps(dict(values)))
        else:
            other = json.loads(client.blocking_key_value_get(key, int(AGREE * 1000)))
            if (line := difference(other, values)) is not None:
                raise UserError(line)


def difference(first: Mapping[str, str], own: Mapping[str, str]) -> str | None:
    """The first value in which a process differs from the first one, in words; None where all are alike."""
    for name in [*first, *(name for name in own if name not in first)]:
        there, here = (values.get(name, "not there") for values in (first, own))
        if there != here:
            return f"{name} is {here}, and {there} on process 0: start all processes with the same"
    return None


@contextlib.contextmanager
def together(stage: str, *, by_all: bool = False, seconds: float = AGREE) -> Generator[None, None, None]:
    """Leaves the block once all processes have; with the UserError of the first that met one, on every process.

    Args:
      stage: a name, of one block only.
      by_all: each process is to say the error, and not the first alone.
      seconds: to wait for the slowest.
    """
    failed = None
    try:
        yield
    except UserError as error:
        failed = error
    if many():
        client, key = _coordinator(), f"jaxneg/{stage}"
        # An exchange of text by the coordinator: no device takes part, so a slow host is no time-out of a collective.
        client.key_value_set(f"{key}/{jax.process_index():06}", f"!{failed}" if failed else "-")
        client.wait_at_barrier(key, int(seconds * 1000))
        said = {name: text[1:] for name, text in sorted(client.key_value_dir_get(key)) if text[0] == "!"}
        if said:
            name, text = next(iter(said.items()))
            where = "" if len(said) == jax.process_count() else f"process {int(name.rpartition('/')[2])}: "
            error = UserError(f"{where}{text}")
            error.by_all = by_all
            raise error
    elif failed:
        raise failed


class Differs(Exception):
    """Processes hold different states; ``who`` are the numbers of those that hold another one than most."""

    def __init__(self, text: str, who: Set[int]):
        super().__init__(text)
        self.who = frozenset(who)

    @property
    def here(self) -> bool:
        """Whether this process is to say so."""
        return first() or jax.process_index() in self.who


class Terminate:
    """Whether training is to save and end at a step, since a signal came; use as a context.

    Of many processes all say so at the same step, one after the furthest of them, whichever got SIGTERM: JAX's own
    handler is in place, which swallows a second one, and SIGINT or SIGKILL ends a process at once. In a single process
    SIGINT does as SIGTERM, and a second signal ends it at once; so does the first one before a step is done, when there
    is nothing to save.
    """

    def __init__(self) -> None:
        self._many, self._began = many(), None
        self._asked = 0
        self._deferring = contextlib.ExitStack()

    def __enter__(self) -> "Terminate":
        return self

    def __exit__(self, *_: object) -> None:
        self._deferring.close()

    def __call__(self, step: int) -> bool:
        if self._many:
            # JAX waits for a number one above the highest that any process has named, which steps may pass over.
            self._asked += 1
            return multihost_utils.reached_preemption_sync_point(self._asked)
        if self._began is None:
            self._began = step
        elif self._began >= 0 and step > self._began:
            self._deferring.enter_context(signals.deferred())
            self._began = -1
        return signals.came()


class Watchdog:
    """Ends the process with LOST where nothing was fed for ``seconds``; 0 watches nothing. Use as a context.

    A rank that is alive but stuck makes no error anywhere: the others wait for it for ever.
    """

    def __init__(self, seconds: float):
        self._seconds, self._last, self._fed = seconds, time.monotonic(), 0
        self._step, self._ended = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._last = time.monotonic()
        if self._seconds > 0:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def feed(self, step: int) -> None:
        """Says that this step was reached, or that something long before the next one goes on."""
        self._last, self._step, self._fed = time.monotonic(), step, self._fed + 1

    def _watch(self) -> None:
        while not self._ended.wait(min(1.0, self._seconds / 4)):
            waited = time.monotonic() - self._last
            if waited > self._seconds * (FIRST if self._fed < 2 else 1.0):
                _say(
                    f"no progress for {waited:.0f} s after step {self._step}: a device or another process is stuck"
                )
                signals.show_stacks()
                locks.release_all()
                os._exit(LOST)


def lost(error: BaseException | None) -> str | None:
    """Which process is lost and what JAX said of it, if that is the cause; None in a single process."""
    if not many():
        return None
    for cause in errors.chain(error):
        if isinstance(cause, (RuntimeError, ValueError)) and GONE.search(str(cause)):
            said = str(cause).partition("\n")[0]
            return f"{peers.who() or 'another process'} is lost ({said})"
    return None


def leave(code: int, *, by_all: bool = False) -> NoReturn:
    """Exits with a code that is not 0, of many processes without the wait for the others that JAX would add.

    They meet once more for a moment, so that an error of all is told as such and not as the loss of the first to leave;
    also of a code that else says that nobody may be left to meet, where it is that of all.
    """
    if many():
        if by_all or code not in (LOST, 130):
            with contextlib.suppress(Exception):
                _coordinator().wait_at_barrier("jaxneg/leave", int(LEAVE * 1000))
            time.sleep(1.0 if first() else 0.0)  # it is the coordinator, whose end ends the others
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _say(text: str) -> None:
    errors.tell(f"jaxneg: {text}: start all processes again to continue")


def device_memory() -> int | None:
    """Bytes in use on the fullest device of this process; None where its backend does not say."""
    said = [device.memory_stats() for device in jax.local_devices()]
    return max((one["bytes_in_use"] for one in said if one and "bytes_in_use" in one), default=None)
