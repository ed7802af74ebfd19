"""What verbs share: kinds of fields, a config as options, and their parsing with its two lengths of help."""

import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, TypeVar

import tyro

from jaxneg import files
from jaxneg.cli import usage
from jaxneg.config import Config, fields, loading, options, rules, saved
from jaxneg.files import addresses

C = TypeVar("C")
K = TypeVar("K", bound="Configured")

Flag = tyro.conf.FlagCreatePairsOff[bool]
REQUIRED = tyro.MISSING  # the default of a field that a call must give


def path(metavar: str) -> object:
    """Annotation of an option that is a path."""
    return tyro.conf.arg(metavar=metavar)


def several(metavar: str, otherwise: str | None = None) -> object:
    """Annotation of a tuple of any length; ``otherwise`` is what --help says of none."""
    text = f"{metavar} [{metavar} ...]"
    return tyro.conf.arg(metavar=text) if otherwise is None else fields.option(text, otherwise)


@dataclass(frozen=True)
class Joined:
    """A verb that many processes may be started for, all alike."""

    cluster: Literal["auto", "off"] = "auto"
    """Whether to join the processes of a cluster that JAX knows (SLURM, Open MPI, TPU, Kubernetes), or that
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID name."""
    coordinator: Annotated[str, fields.option("HOST:PORT", "none")] = ""
    """Process 0 of many, where none is found."""
    processes: Annotated[int, fields.Bounds(0, 1 << 20)] = 0
    """How many processes there are."""
    process: Annotated[int, fields.Bounds(-1, 1 << 20)] = -1
    """Which of them this is, from 0."""

    def join(self) -> None:
        """Joins the other processes, where there are any; before anything else of JAX."""
        from jaxneg.training import processes

        processes.start(self.coordinator, self.processes, self.process, detect=self.cluster == "auto")


@dataclass(frozen=True)
class Configured(Config):
    """A verb whose options are also those of a config; its first own field is the place of that config."""

    PLACE: ClassVar[str]
    COMMON: ClassVar[tuple[str, ...]]

    @property
    def experiment(self) -> Config:
        """The config with the call's options. Raises UserError where they do not go together."""
        return rules.check(Config(**saved.parts_of(self)))


def parsed(
    kind: Callable[..., C],
    args: Sequence[str],
    verb: str,
    *,
    default: C | None = None,
    help: str | None = None,
    common: tuple[str, ...] = (),
) -> C:
    """The command of a verb as it was called; its docstring is its help.

    Args:
      kind: dataclass of the verb.
      args: what stands after the verb.
      verb: as it is called.
      default: values of options that are not given.
      help: what the verb does, where the docstring does not say it.
      common: options that --help lists, as "--data.store"; none lists all.
    """
    prog, help = f"jaxneg {verb}", help or usage.text_of(kind)
    if usage.ALL in args:
        return options.parse(kind, ["--help"], prog=prog, default=default, help=help)
    if not set(options.HELP).isdisjoint(args):
        print(usage.page(list(options.listed(kind, default)), prog, help, common))
        sys.stdout.flush()
        raise SystemExit(0)
    return options.parse(kind, args, prog=prog, default=default, help=help)


def with_config(kind: type[K], args: Sequence[str], verb: str, read: Callable[[pathlib.Path], Config]) -> K:
    """The command of a verb over a config, which its first own field names and ``read`` reads.

    The path may stand before or after the options; where it stands first, --help shows the config's values.
    """

    def parse(base: Config) -> K:
        return parsed(kind, args, verb, default=kind(**saved.parts_of(base)), common=kind.COMMON)

    if args and not args[0].startswith("-"):
        files.given(args[0], kind.PLACE.upper())
        return parse(read(pathlib.Path(args[0])))
    return parse(read(getattr(parse(Config()), kind.PLACE)))


def read_config(path: str | os.PathLike[str]) -> Config:
    """The config that an experiment's file gives."""
    return loading.load(addresses.local(path, "CONFIG"))


def read_run(directory: str | os.PathLike[str]) -> Config:
    """The config of a run."""
    from jaxneg.training import runs

    return runs.read_config(addresses.settings(directory, "RUN"))
