"""The ``jaxneg`` command, also as ``python -m jaxneg``: streams and signals are in order before much is imported."""

import os
import sys
from typing import Any

from jaxneg import signals


def main() -> None:
    """Runs a verb and exits with its code."""
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        # Where a locale knows ASCII alone, Python cannot pass other names of files on to what reads them.
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    signals.open_streams()
    signals.install(*sys.argv[1:2])
    sys.unraisablehook = _unraisable
    from jaxneg import cli

    cli.main()


def _unraisable(told: Any) -> None:
    """Event loops complain of what ended their users, which is told elsewhere.

    Where one file of a checkpoint fails, tensorstore still tells orbax's loop of the others, which is closed; and a
    loop that found no descriptors left is thrown away half made.
    """
    closed = isinstance(told.exc_value, RuntimeError) and str(told.exc_value) == "Event loop is closed"
    if not closed and not getattr(told.object, "__module__", "").startswith("asyncio."):
        sys.__unraisablehook__(told)


if __name__ == "__main__":
    main()
