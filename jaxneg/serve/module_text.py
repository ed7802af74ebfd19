"""The text of a serialized StableHLO module, parsed in a process of its own.

MLIR's reader of bytecode trusts what it reads: a module that was damaged may end the process that parses it. A server
is not to be ended by a file, so another process goes first, and needs jaxlib alone.
"""

import os
import pathlib
import signal
import subprocess
import sys

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo

LONGEST = 30.0  # seconds; a module of this package takes a tenth of one, and a damaged one may take for ever
UNREADABLE = 3  # exit code where the module is none, with the reason for output


def parse(module: bytes) -> str:
    """The module as MLIR. Raises ValueError on what is none, and may end the process."""
    with ir.Context() as context:
        context.attach_diagnostic_handler(lambda _: True)  # keeps complaints off stderr
        return str(stablehlo.deserialize_portable_artifact(context, module))


def text(module: bytes) -> str:
    """The module as MLIR. Raises ValueError on what is none, or ends the parser. Where no process can be started, as
    where Python is embedded in another program, it is parsed here.
    """
    if not pathlib.Path(sys.executable or "").name.startswith("python"):
        return parse(module)
    # The file alone, not the package: a tenth of the time. -P: its neighbours are no modules of the standard library.
    command = [sys.executable, "-P", __file__]
    try:
        done = subprocess.run(command, input=module, capture_output=True, timeout=LONGEST)
    except OSError:
        return parse(module)
    except subprocess.TimeoutExpired:
        raise ValueError(f"its parser did not end within {LONGEST:.0f} s") from None
    if done.returncode < 0:
        raise ValueError(f"its parser ended with {signal.Signals(-done.returncode).name}")
    if done.returncode == UNREADABLE:
        raise ValueError(done.stdout.decode(errors="replace"))
    if done.returncode != 0:
        return parse(module)
    return done.stdout.decode()


def main() -> None:
    """Reads a module from stdin and writes its text to stdout."""
    try:
        found, code = parse(sys.stdin.buffer.read()), 0
    except Exception as error:  # MLIR raises what it likes
        found, code = str(error) or type(error).__name__, UNREADABLE
    sys.stdout.buffer.write(found.encode())
    sys.stdout.flush()
    os._exit(code)  # MLIR takes its time to tear down


if __name__ == "__main__":
    main()
