#!/usr/bin/env python
"""Rehearses many processes on one CPU: starts N of the same command on loopback, and all again when one is lost.

    python launch/local.py --processes 2 --restarts 3 -- jaxneg train CONFIG --workdir RUN

Each process gets one CPU device and learns who it is from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
JAX_PROCESS_ID. Process 0 is shown as it speaks, the others only once one has failed. SIGTERM goes to all of them, which
save and end with 143. The exit code is 0 where none failed, 2 where one has something for a person to mend, else that
of the first to fail.
"""

import argparse
import collections
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

FINAL = (0, 2, 130, 143)  # codes after which starting again would not help; see jaxneg --help
PR_SET_PDEATHSIG = 1
LIBC = (
    ctypes.CDLL(None) if sys.platform == "linux" else None
)  # loaded here, as a forked child should load nothing
SIGNALLED = 128  # a process that ended by signal S counts as 128 + S, as in a shell


class Rank:
    """One process, and the last lines that it said."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], number: int):
        self.number, self.lines = number, collections.deque[str](maxlen=40)
        self.process = subprocess.Popen(
            command,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            preexec_fn=_end_with_parent,
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if self.number == 0:
                self._show(line.rstrip("\n"))

    def _show(self, line: str) -> None:
        print(f"[{self.number}] {line}", file=sys.stderr, flush=True)

    def tell(self) -> None:
        self.reader.join(timeout=5)
        for line in self.lines:
            self._show(line)

    @property
    def code(self) -> int | None:
        code = self.process.poll()
        return code if code is None or code >= 0 else SIGNALLED - code


def _end_with_parent() -> None:
    """Has the kernel kill this process when its launcher is killed, where the kernel can."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Launcher:
    def __init__(self, command: Sequence[str], processes: int, patience: float, grace: float):
        self.command, self.processes = command, processes
        self.patience, self.grace = patience, grace
        self.ranks: list[Rank] = []
        self.stopped = 0.0  # when SIGTERM came

    def stop(self, *_: object) -> None:
        self.stopped = self.stopped or time.monotonic()
        for rank in self.ranks:
            rank.process.send_signal(signal.SIGTERM)

    def run(self) -> int:
        """Starts all, and returns the code of the first to fail once all have ended."""
        address = f"127.0.0.1:{free_port()}"
        common = {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
            "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"),
            "JAX_COORDINATOR_ADDRESS": address,
            "JAX_NUM_PROCESSES": str(self.processes),
        }
        self.ranks = []
        for number in range(self.processes):
            self.ranks.append(Rank(self.command, common | {"JAX_PROCESS_ID": str(number)}, number))
        failed, since = None, 0.0
        while any(rank.code is None for rank in self.ranks):
            time.sleep(0.05)
            if failed is None:
                failed = next((rank for rank in self.ranks if rank.code), None)
                since = time.monotonic()
            late = failed is not None and time.monotonic() - since > self.patience
            if late or (self.stopped and time.monotonic() - self.stopped > self.grace):
                for rank in self.ranks:
                    if rank.code is None:
                        rank.process.kill()
        failed = failed or next((rank for rank in self.ranks if rank.code), None)
        if failed is None:
            return 0
        codes = ", ".join(f"{rank.number}: {rank.code}" for rank in self.ranks)
        if failed.code != 143:
            for rank in self.ranks[1:]:
                rank.tell()
        print(f"launch/local: exit codes {codes}", file=sys.stderr, flush=True)
        # What a person has to mend weighs more than the losses that followed from it.
        return 2 if any(rank.code == 2 for rank in self.ranks) else failed.code or 0


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="launch/local.py", description="Starts N processes of one command on this CPU."
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--restarts", type=int, default=0, help="times to start all again when one is lost")
    parser.add_argument(
        "--patience", type=float, default=45.0, help="seconds for the others to end, then kill"
    )
    parser.add_argument("--grace", type=float, default=60.0, help="seconds from SIGTERM to SIGKILL")
    parser.add_argument("command", nargs="+", help="after --, as jaxneg train CONFIG --workdir RUN")
    asked = parser.parse_args()
    launcher = Launcher(asked.command, asked.processes, asked.patience, asked.grace)
    signal.signal(signal.SIGTERM, launcher.stop)
    for left in range(asked.restarts, -1, -1):
        code = launcher.run()
        if code in FINAL or launcher.stopped or not left:
            sys.exit(code)
        print(f"launch/local: starting all again, {left - 1} restarts left", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
