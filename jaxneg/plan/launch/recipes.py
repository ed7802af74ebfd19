"""The kinds of places that a run can be started at, each with its recipe in one row."""

from collections.abc import Callable
from typing import NamedTuple

from jaxneg.plan.launch import description, jobset, ray, slurm, tpu_vm, xpk
from jaxneg.plan.launch.description import Description


class Recipe(NamedTuple):
    """How a run is started at a kind of place."""

    render: Callable[[Description, list[str]], dict[str, str]]  # text by name of file
    start: str  # the file that starts it, or words before it, as "sbatch job.sh"
    reads: tuple[str, ...]  # fields of the description that it reads beside topology, run and name


WHERE = ("image", "slices", "restarts", "grace", "environment")
KINDS = {
    "tpu-vm": Recipe(tpu_vm.render, "launch.sh", (*WHERE, "spot", "mounts", "project", "zone", "account")),
    "jobset": Recipe(jobset.render, "launch.sh", (*WHERE, "spot", "mounts", "namespace", "queue", "account")),
    "xpk": Recipe(xpk.render, "launch.sh", (*WHERE, "project", "zone", "cluster")),
    "slurm": Recipe(
        slurm.render,
        "sbatch job.sh",
        ("image", "restarts", "grace", "mounts", "environment", "account", "partition", "hours", "container"),
    ),
    "ray": Recipe(ray.render, "launch.sh", ("slices", "restarts", "environment", "address")),
}


def files(kind: str, described: Description) -> dict[str, str]:
    """Text of each file of a recipe, by name. Raises UserError where the kind cannot run what is described."""
    recipe = KINDS[kind]
    description.check(described)
    machines = f"{described.topology.name}{f' x {described.slices}' if described.slices > 1 else ''}"
    head = [
        f"Trains {described.name} on {machines}: written by jaxneg launch {kind}, to be written anew by it."
    ]
    return recipe.render(described, head)
