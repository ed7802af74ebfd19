"""SLURM: a batch job with a task for each GPU, in a container of pyxis or apptainer, that goes back into the queue."""

import re

from jaxneg.errors import UserError
from jaxneg.plan.launch import description, scripts
from jaxneg.plan.launch.description import Description

CPUS = 8  # for each task


def render(described: Description, head: list[str]) -> dict[str, str]:
    """Text of the recipe's one file, a batch script.

    Args:
      described: the run.
      head: lines of comment that say where a file comes from.
    """
    topology = described.topology
    if topology.tpu:
        raise UserError(f"launch slurm is of GPUs, not of {topology.name}: name them as h100:8x2")
    if described.container != "none":
        description.needs(described, "slurm", "image")
        description.keeps(described)
    elif described.image or described.mounts:
        raise UserError("--container none has no --image and no --mount: leave them out")
    for one in described.mounts:
        if one.bucket or one.claim:
            raise UserError(f"--mount {one.source}: under slurm only a path of the hosts can be mounted")
    asked = {
        "job-name": described.name,
        "nodes": topology.hosts,
        "ntasks-per-node": topology.chips,
        "gpus-per-node": topology.chips,
        "cpus-per-task": CPUS,
        "time": f"{described.hours}:00:00",
        "signal": f"TERM@{described.grace}",  # to the tasks
        "output": f"{described.name}-%j.log",
        "partition": described.partition,
        "account": described.account,
    }
    first = [f"#SBATCH --{name}={value}" for name, value in asked.items() if value]
    text = scripts.script(
        [
            *head,
            "",
            "  sbatch job.sh",
            "",
            "Before the time limit the tasks save and end with 143, and the job goes back into the queue; so it does",
            "where a task is lost. scancel ends it for good.",
        ],
        {
            "name": described.name,
            "restarts": described.restarts,
            "environment": [f"{name}={value}" for name, value in described.environment],
            "inside": _inside(described),
            "run": described.run.words,
        },
        "slurm.sh",
        first=[*first, "#SBATCH --requeue", "#SBATCH --open-mode=append"],
    )
    return {"job.sh": text}


def _inside(described: Description) -> list[str]:
    """Words that have srun start a command in the container."""
    paths = ",".join(f"{one.source}:{one.path}" for one in described.mounts)
    image = described.image
    if described.container == "pyxis":
        registry, slash, rest = image.partition("/")
        if slash and re.search(r"[.:]", registry):  # enroot parts a registry by #
            image = f"{registry}#{rest}"
        return [f"--container-image={image}", *([f"--container-mounts={paths}"] if paths else [])]
    if described.container == "apptainer":
        image = image if image.endswith(".sif") or "://" in image else f"docker://{image}"
        return ["apptainer", "exec", "--nv", *([f"--bind={paths}"] if paths else []), image]
    return []
