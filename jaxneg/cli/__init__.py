"""The command line: prepare, inspect, simulate, plan, train, evaluate, runs, sweep, export, recommend, serve, launch,
demo."""

import importlib
import os
import signal
import sys
import traceback
import types
import warnings
from collections.abc import Sequence
from typing import NoReturn, Protocol, runtime_checkable

from jaxneg import errors, progress, signals
from jaxneg.errors import UserError
from jaxneg.files import documents

VERBS = (
    "prepare",
    "inspect",
    "simulate",
    "plan",
    "train",
    "evaluate",
    "runs",
    "sweep",
    "export",
    "recommend",
    "serve",
    "launch",
    "demo",
)

SUMMARY = """jaxneg trains next-song recommenders that learn from what people reject.

usage: jaxneg VERB ...

From a log to recommendations:

  prepare READER SOURCE --out STORE   read a log of listening into a store
  inspect STORE                       what is in a store
  plan CONFIG --topology v5e:16x16    what training takes on TPUs that are not here: memory, time, does it fit
  train CONFIG --workdir RUN          train a model on a store, or continue a run
  evaluate RUN                        measure it on held-out events, beside baselines
  runs DIR ...                        runs side by side: what differs, figures, state
  sweep CONFIG --workdir SWEEP        train and measure a grid of options over seeds, side by side
  export RUN --out DIR                write it for serving: StableHLO, safetensors, npy
  recommend DIR --items A B C         try an export from the shell
  serve DIR                           serve it over HTTP
  launch KIND --run '...' --out DIR   what starts a run on a pod or a cluster

Without a log of your own:

  demo --out DIR                      all of the above on simulated listeners, in minutes
  simulate --out FILE                 a log of simulated listeners
  simulate --ab EXPORT ... --out DIR  an online test of models on them

jaxneg VERB --help explains a verb and its common options, jaxneg VERB --help-all lists all;
jaxneg --version says which jaxneg this is.
Exit codes: 0 done, 2 something to mend in the call, the data or the disk, 1 a fault of jaxneg itself,
130 interrupted, 143 stopped by SIGTERM (after either training has saved: start it again to continue; a second one ends
it at once), 75 a step is stuck, one of many processes is lost or holds another state than the others, or another took
this one's directory as it stood still (start all again to continue; so does 134, by JAX itself).
"""


@runtime_checkable
class Command(Protocol):
    """A parsed call of a verb."""

    def run(self) -> None: ...


def main(args: Sequence[str] | None = None) -> None:
    """Runs a verb and exits with its code."""
    args = list(sys.argv[1:] if args is None else args)
    signals.open_streams()
    signals.install(*args[:1])
    # What orbax had begun when a file failed, any verb that reads or writes a checkpoint leaves behind.
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    try:
        try:
            _run(args)
        finally:
            signals.stand_by()
        sys.stdout.flush()
    except UserError as error:
        _lost(error)
        _mend(errors.with_remedy(error), everywhere=not error.by_all)
    except KeyboardInterrupt:  # of a library that has put its own handler in place
        signals.end(signal.SIGINT)
    except signals.Stopped as error:
        progress.say(f"jaxneg: {error}")
        _leave(error.code)
    except BrokenPipeError:
        _unread()
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # as rich tells it
            _unread()
        raise
    except Exception as error:
        _lost(error)
        if (trouble := errors.trouble(error)) is not None:
            _mend(trouble)
        if _cluster() is None:
            raise
        traceback.print_exception(error)
        _leave(1)


def _unread() -> NoReturn:
    """Nobody reads what is left in the buffer, and Python would complain of that at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    _leave(141)


def _lost(error: BaseException) -> None:
    """Ends the process where another one of many is lost."""
    processes = _cluster()
    if processes is not None and (gone := processes.lost(error)) is not None:
        progress.say(f"jaxneg: {gone}: start all again to continue")
        _leave(processes.LOST)


def _mend(text: str, everywhere: bool = False) -> NoReturn:
    """Says in one line what the user has to mend; once, where all of many processes met it."""
    processes = _cluster()
    if not everywhere or processes is None or processes.first():
        progress.say(f"jaxneg: {' '.join(text.splitlines())}")
    _leave(2)


def _cluster() -> types.ModuleType | None:
    """The module of many processes, where this is one of them: the others may wait for what this one will not do."""
    processes = sys.modules.get("jaxneg.training.processes")
    return processes if processes is not None and processes.many() else None


def _leave(code: int) -> NoReturn:
    if (processes := _cluster()) is not None:
        processes.leave(code)
    sys.exit(code)


def _run(args: list[str]) -> None:
    if not args or args[0] in ("-h", "--help", "help"):
        print(SUMMARY)
        return
    if args[0] == "--version":
        print(documents.VERSION)
        return
    command(args[0], args[1:]).run()


def command(verb: str, args: Sequence[str]) -> Command:
    """The command of a call, ready to run. Raises UserError of one line on what it does not take."""
    if verb not in VERBS:
        raise UserError(errors.unknown("verb", verb, VERBS))
    return importlib.import_module(f"jaxneg.cli.{verb}").parse(args)
