"""A run that is to be started elsewhere, as all recipes read it."""

import re
import shlex
from collections.abc import Sequence
from typing import NamedTuple

from jaxneg import files
from jaxneg.errors import UserError
from jaxneg.plan import machines

NAME = re.compile(
    r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?"
)  # of an object of Kubernetes, with room for what is added


class Mount(NamedTuple):
    """A place that all hosts see, and the path that they see it at."""

    source: str  # gs://bucket/directory, claim:NAME of Kubernetes, or a path of the hosts
    path: str

    @property
    def bucket(self) -> files.Address | None:
        return files.address(self.source, "--mount")

    @property
    def claim(self) -> str:
        """Name of a PersistentVolumeClaim; "" where it is none."""
        return self.source.removeprefix("claim:") if self.source.startswith("claim:") else ""


class Run(NamedTuple):
    """A call of ``jaxneg train``."""

    words: tuple[str, ...]  # after jaxneg
    config: str
    workdir: str
    store: str  # "" where the config says it


class Description(NamedTuple):
    """Where a run is to train, and how."""

    topology: machines.Topology
    run: Run
    name: str  # of the job, and of what is made for it
    image: str = ""
    slices: int = 1  # of TPU, each of that topology
    spot: bool = False  # machines that may be taken away at any time, and cost less
    restarts: int = 10  # times to start all again when a host is lost or crashes
    grace: int = 120  # seconds from SIGTERM to SIGKILL
    mounts: tuple[Mount, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    project: str = ""  # of Google Cloud
    zone: str = ""
    cluster: str = ""  # of xpk
    namespace: str = "default"  # of Kubernetes
    queue: str = ""  # of Kueue
    account: str = ""  # service account, or SLURM's account
    partition: str = ""  # of SLURM
    hours: int = 24  # that SLURM lets it run at a time
    container: str = "pyxis"  # of SLURM: or apptainer, or none
    address: str = ""  # of a Ray cluster

    @property
    def hosts(self) -> int:
        """Of all slices."""
        return self.topology.hosts * self.slices


def run(text: str) -> Run:
    """A call of train, as a person types it: "mine.py --workdir RUN", with or without jaxneg train before it."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(f"--run {text!r} cannot be read ({error}): quote it as for a shell") from None
    for lead in ("jaxneg", "train"):
        if words[:1] == [lead]:
            words = words[1:]
    if not words or words[0].startswith("-"):
        raise UserError("--run must begin with a config: --run 'mine.py --workdir RUN'")
    given = {
        name: _value(words, name) for name in ("--workdir", "--data.store", "--coordinator", "--cluster")
    }
    if not given["--workdir"]:
        raise UserError("--run must say where the run is kept: --run 'mine.py --workdir RUN'")
    for name in ("--coordinator", "--cluster"):
        if given[name]:
            raise UserError(f"--run has {name}, which the recipe says: leave it out")
    return Run(("train", *words), words[0], given["--workdir"], given["--data.store"])


def _value(words: Sequence[str], option: str) -> str:
    """What follows an option, or stands after = in it; "" where it is not given."""
    for word, after in zip(words, [*words[1:], ""], strict=True):
        if word == option:
            return after
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return ""


def mount(text: str) -> Mount:
    """A mount as it is given: gs://bucket=/data, claim:volume=/data, /shared=/data, or /shared for the same path."""
    source, _, path = text.rpartition("=") if "=" in text else (text, "", text)
    path = path.rstrip("/")
    if not path.startswith("/") or path == "" or ":" in path or "," in path:
        raise UserError(f"--mount {text}: write what and where, as gs://bucket=/data or /shared=/data")
    found = Mount(source.rstrip("/"), path)
    if found.bucket is not None:
        if found.bucket.scheme != "gs":
            raise UserError(f"--mount {text}: of buckets only those at gs:// can be mounted")
    elif found.claim:
        if not re.fullmatch(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?", found.claim):
            raise UserError(f"--mount {text}: {found.claim} is no name of a PersistentVolumeClaim")
    elif not found.source.startswith("/") or ":" in found.source or "," in found.source:
        raise UserError(f"--mount {text}: write a whole path, gs://bucket or claim:NAME before the =")
    return found


def variable(text: str) -> tuple[str, str]:
    """An environment variable as it is given: NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise UserError(f"--env {text}: write NAME=VALUE")
    if "\n" in value:
        raise UserError(f"--env {name}: its value must be one line")
    return name, value


def check(described: Description) -> Description:
    """The same description. Raises UserError where a run as described could not train anywhere."""
    if not NAME.fullmatch(described.name):
        raise UserError(
            f"--name {described.name}: at most 40 letters a to z, digits and -, a letter first and no - at the end"
        )
    if described.slices > 1 and described.topology.tpu is None:
        raise UserError(f"--slices is of TPUs: name the hosts in --topology, as {machines.GPU_EXAMPLES}")
    for word in (
        "image",
        "project",
        "zone",
        "cluster",
        "namespace",
        "queue",
        "account",
        "partition",
        "address",
    ):
        if re.search(r"[\s'\"\\$`]", getattr(described, word)):
            raise UserError(f"--{word} {getattr(described, word)!r} is no name: leave out blanks and quotes")
    places = [one.path for one in described.mounts]
    if len({*places}) < len(places):
        raise UserError("--mount has two things at one path: give each its own")
    if described.hosts > 1 and isinstance(files.given(described.run.workdir, "--workdir"), files.Address):
        raise UserError(
            f"--run: {described.hosts} hosts write to one --workdir, which must be a path that all see, not "
            f"{described.run.workdir}: mount the bucket, as --mount gs://bucket=/data, and name a path below /data"
        )
    return described


def needs(described: Description, kind: str, *options: str) -> None:
    """Raises UserError where an option that a kind needs is not given."""
    missing = [f"--{option}" for option in options if not getattr(described, option)]
    if missing:
        raise UserError(f"launch {kind} needs {' and '.join(missing)} too")


def keeps(described: Description) -> None:
    """Raises UserError where the run would be gone with its container, as its directory is in no mount."""
    at = files.given(described.run.workdir, "--workdir")
    if isinstance(at, files.Address) or any(at.is_relative_to(one.path) for one in described.mounts):
        return
    raise UserError(
        f"--run: --workdir {at} would be gone with its container: give a place that stays, as --mount "
        "gs://bucket=/data, and a path below it"
    )


def path_of_all(described: Description) -> None:
    """Raises UserError where a run directory is not named alike on all hosts, which start in places of their own."""
    at = files.given(described.run.workdir, "--workdir")
    if not isinstance(at, files.Address) and not at.is_absolute():
        raise UserError(
            f"--run: --workdir {at} must be a whole path, as /data/runs/mine: hosts start elsewhere"
        )


def called(run: Run) -> str:
    """A name for a run that was given none: the last part of its directory, as far as a name may hold it."""
    last = run.workdir.rstrip("/").rpartition("/")[2]
    return re.sub(r"[^a-z0-9]+", "-", f"jaxneg-{last}".lower())[:40].strip("-")
