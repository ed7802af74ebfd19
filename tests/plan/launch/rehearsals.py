"""Rehearsals of recipes: stand-ins for the programs of clusters play states from a script and note their calls."""

import os
import pathlib
import shlex
import signal
import subprocess
import time

STAND_INS = pathlib.Path(__file__).parent / "stand_ins"
LONGEST = 40  # seconds that a rehearsal may take
AFTER = 5  # seconds in which what ends is gone


class Place:
    """A directory with stand-ins on a path of their own, and what they are to play: numbers, or lists of words."""

    def __init__(self, directory: pathlib.Path, programs: str, **play: object):
        self.directory, self.bin = directory, directory / "bin"
        self.bin.mkdir(parents=True)
        shared = (STAND_INS / "shared.sh").read_text()
        for name in programs.split():
            program = self.bin / name
            program.write_text(f"#!/usr/bin/env bash\n{shared}{(STAND_INS / f'{name}.sh').read_text()}")
            program.chmod(0o755)
        self.play(**play)

    def play(self, **play: object) -> None:
        lines = [
            f"{name}=({shlex.join(map(str, value))})"
            if isinstance(value, list | range)
            else f"{name}={value}"
            for name, value in play.items()
        ]
        (self.directory / "play.sh").write_text("\n".join(lines) + "\n")

    def run(self, *command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        """A command with the stand-ins first on the path. Fails where something that it started is left running."""
        told = {"PATH": f"{self.bin}:{os.environ['PATH']}", "PLACE": str(self.directory), "LAUNCH_PAUSE": "0"}
        process = subprocess.Popen(
            command,
            cwd=self.directory,
            env=os.environ | told | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            out, err = process.communicate(timeout=LONGEST)
        except subprocess.TimeoutExpired:
            _end(process.pid)
            raise AssertionError(f"{command} goes on: {process.communicate()}") from None
        assert not _end(process.pid, AFTER), f"left running by {command}"
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def calls(self, program: str) -> list[list[str]]:
        """Arguments of each call of a stand-in, in order."""
        path = self.directory / f"{program}.calls"
        return [shlex.split(line) for line in path.read_text().splitlines()] if path.exists() else []


def _end(group: int, seconds: float = 0.0) -> bool:
    """Whether processes of a group are left after so many seconds; they are ended."""
    until = time.monotonic() + seconds
    while True:
        try:
            os.killpg(group, 0 if time.monotonic() < until else signal.SIGKILL)
        except ProcessLookupError:
            return False
        if time.monotonic() >= until:
            return True
        time.sleep(0.01)
