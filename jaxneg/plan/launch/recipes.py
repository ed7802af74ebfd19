"""The kinds of places that a run can be started at, each with its recipe in one row."""

from collections.abc import Callable
from typing import NamedTuple

from jaxneg.plan.launch import description, tpu_vm
from jaxneg.plan.launch.description import Description

COMMON = ("slices", "restarts", "environment")  # what the options mean alike at all kinds


class Recipe(NamedTuple):
    """How a run is started at a kind of place."""

    render: Callable[[Description, list[str]], dict[str, str]]  # text by name of file
    start: str  # the file that starts it, or words before it, as "sbatch job.sh"
    reads: tuple[str, ...]  # fields of the description that it reads beside topology, run and name


KINDS = {
    "tpu-vm": Recipe(
        tpu_vm.render,
        "launch.sh",
        (
            "image",
            "slices",
            "spot",
            "restarts",
            "grace",
            "mounts",
            "environment",
            "project",
            "zone",
            "account",
        ),
    )
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
