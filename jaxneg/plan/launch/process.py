"""A process of many under a scheduler that hears of the first exit code alone: one that a person must mend goes first.

    python -m jaxneg.plan.launch.process [--mended CODE] [--told-all] train CONFIG --workdir RUN ...

Runs ``jaxneg`` with the words that follow and ends as it does. Where one process ends with 2, its peers soon end as
lost, with 75 or worse, after which a scheduler starts all again: so those wait a while, for the 2 to be seen first.
SIGTERM and SIGINT are passed on; with --told-all the scheduler signals every process itself. --mended ends with another
code in the place of 2, for schedulers that report the highest code of all.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence

WAIT = (
    15.0  # seconds; processes notice within 30 that a peer is gone, and one that ended with 2 is seen at once
)
FINAL = (0, 2, 130, 143)  # codes that follow from no peer's end
MEND = 2
SIGNALLED = 128  # a process that ended by signal S counts as 128 + S, as in a shell


def run(command: Sequence[str], *, told_all: bool = False, wait: float = WAIT) -> int:
    """Exit code of a command, known late where it may have lost a peer.

    Args:
      command: the program and its arguments.
      told_all: whether whoever signals this process signals the command too.
      wait: seconds by which the end is late.
    """
    child: subprocess.Popen[bytes] | None = None
    came: list[int] = []

    def tell(number: int, _: object) -> None:
        came.append(number)
        if child is not None and not told_all:
            child.send_signal(number)

    before = {number: signal.signal(number, tell) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        child = subprocess.Popen(command)
        if came and not told_all:
            child.send_signal(came[0])
        code = child.wait()
        code = SIGNALLED - code if code < 0 else code
        until = time.monotonic() + wait
        while code not in FINAL and not came and time.monotonic() < until:
            time.sleep(min(0.2, wait))
        return code
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(words: Sequence[str]) -> int:
    """Exit code of a call."""
    words, mended, told_all = list(words), MEND, False
    while words and words[0] in ("--mended", "--told-all"):
        if words.pop(0) == "--told-all":
            told_all = True
        else:
            mended = int(words.pop(0))
    code = run([sys.executable, "-m", "jaxneg", *words], told_all=told_all)
    return mended if code == MEND else code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
