"""``jaxneg launch``: what starts a run on a pod or a cluster is written."""

import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import tyro

from jaxneg import files, progress
from jaxneg.cli import commands, train
from jaxneg.config import fields
from jaxneg.errors import UserError

if TYPE_CHECKING:
    from jaxneg.plan.launch import description

SCRIPT = 0o755  # of files that are run


@dataclass(frozen=True)
class Launch:
    """Writes what starts a run on a pod or a cluster and starts it again where a host is lost, never after exit code 2.
    Nothing is started: the last line says how."""

    COMMON: ClassVar[tuple[str, ...]] = (
        "--image",
        "--name",
        "--spot",
        "--restarts",
        "--mount",
        "--project",
        "--zone",
    )

    kind: tyro.conf.Positional[
        Annotated[Literal["tpu-vm", "jobset", "xpk", "slurm", "ray"], tyro.conf.arg(metavar="KIND")]
    ] = commands.REQUIRED
    """tpu-vm (queued resources of Cloud TPU), jobset (Kubernetes), xpk, slurm or ray."""
    topology: Annotated[str, commands.path("NAME")] = commands.REQUIRED
    """Hosts, as v5e:4x4 of TPU or h100:8x2, 8 GPUs on each of 2 hosts."""
    run_: Annotated[str, tyro.conf.arg(name="run", metavar="CALL")] = commands.REQUIRED
    """What jaxneg train is called with, in quotes: 'CONFIG --workdir RUN ...'."""
    out: Annotated[pathlib.Path, commands.path("DIR")] = commands.REQUIRED
    """Directory to write; must not exist yet."""
    image: Annotated[str, fields.option("IMAGE", "none")] = ""
    """Container image that the hosts pull."""
    name: Annotated[str, fields.option("NAME", "of the run")] = ""
    """Of the job and of what is made for it; by default the last part of --workdir."""
    slices: Annotated[int, fields.Bounds(1, 256)] = 1
    """Slices of TPU, each of that topology."""
    spot: commands.Flag = False
    """Take machines that may be taken away and cost less."""
    restarts: Annotated[int, fields.Bounds(0, 1000)] = 10
    """Times to start all again when a host is lost or crashes."""
    grace: Annotated[int, fields.Bounds(1, 3600)] = 120
    """Seconds from SIGTERM to SIGKILL; a step, a validation and a save must fit."""
    mount: tyro.conf.UseAppendAction[Annotated[tuple[str, ...], fields.option("WHAT=PATH", "none")]] = ()
    """What all hosts see at a path: gs://bucket=/data, claim:NAME=/data of Kubernetes, /shared=/data; give it again
    for more."""
    env: tyro.conf.UseAppendAction[Annotated[tuple[str, ...], fields.option("NAME=VALUE", "none")]] = ()
    """Environment variable of the run; give it again for more."""
    project: Annotated[str, fields.option("PROJECT", "none")] = ""
    """Of Google Cloud: tpu-vm, xpk."""
    zone: Annotated[str, fields.option("ZONE", "none")] = ""
    """Of Google Cloud: tpu-vm, xpk."""
    cluster: Annotated[str, fields.option("NAME", "none")] = ""
    """Of xpk."""
    namespace: Annotated[str, fields.option("NAME", "default")] = "default"
    """Of Kubernetes: jobset."""
    queue: Annotated[str, fields.option("NAME", "none")] = ""
    """Local queue of Kueue: jobset."""
    account: Annotated[str, fields.option("NAME", "none")] = ""
    """Service account of tpu-vm and jobset, account of slurm."""
    partition: Annotated[str, fields.option("NAME", "that of the cluster")] = ""
    """Of slurm."""
    hours: Annotated[int, fields.Bounds(1, 10_000)] = 24
    """That slurm lets the job run at a time; it goes back into the queue then."""
    container: Literal["pyxis", "apptainer", "none"] = "pyxis"
    """What runs --image under slurm."""
    address: Annotated[str, fields.option("HTTP", "that of RAY_API_SERVER_ADDRESS")] = ""
    """Dashboard of the Ray cluster, as http://head:8265."""

    def run(self) -> None:
        from jaxneg.plan.launch import recipes

        described = self._described()
        self._check_read(recipes.KINDS[self.kind].reads)
        out = files.local(self.out, "--out")
        if not files.vacant(out):
            raise UserError(f"--out {out} exists: choose another place, or remove it first")
        texts = recipes.files(self.kind, described)
        with files.whole_directory(out) as new:
            for name, text in texts.items():
                (new / name).write_text(text, encoding="utf-8")
                if name.endswith(".sh"):
                    (new / name).chmod(SCRIPT)
        hosts = f"{described.hosts} host{'s' * (described.hosts > 1)} of {described.topology.name}"
        words, _, start = recipes.KINDS[self.kind].start.rpartition(" ")
        progress.say(f"{out}: {', '.join(texts)} for {hosts}; next, {f'{words} ' * bool(words)}{out / start}")

    def _described(self) -> "description.Description":
        from jaxneg.plan import machines
        from jaxneg.plan.launch import description

        run = description.run(self.run_)
        if pathlib.Path(run.config).is_file():  # what train would refuse there is said here
            _ = train.parse(run.words[1:]).experiment
        return description.Description(
            machines.topology(self.topology),
            run,
            self.name or description.called(run),
            image=self.image,
            slices=self.slices,
            spot=self.spot,
            restarts=self.restarts,
            grace=self.grace,
            mounts=tuple(description.mount(text) for text in self.mount),
            environment=tuple(description.variable(text) for text in self.env),
            project=self.project,
            zone=self.zone,
            cluster=self.cluster,
            namespace=self.namespace,
            queue=self.queue,
            account=self.account,
            partition=self.partition,
            hours=self.hours,
            container=self.container,
            address=self.address,
        )

    def _check_read(self, reads: tuple[str, ...]) -> None:
        """Raises UserError on an option that is given and that the kind does not read."""
        names = {"mounts": "mount", "environment": "env"}
        known = {names.get(name, name) for name in reads} | {"kind", "topology", "run_", "out", "name"}
        for name, field in self.__dataclass_fields__.items():
            if name not in known and getattr(self, name) != field.default:
                raise UserError(f"--{name} is not of launch {self.kind}: leave it out")


def parse(args: Sequence[str]) -> Launch:
    return commands.parsed(Launch, args, "launch", common=Launch.COMMON)
