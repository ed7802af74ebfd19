"""Ray: a job that trains by Ray Train's JaxTrainer, and has all workers start again where one is lost."""

import json

from jaxneg.plan.launch import description, scripts
from jaxneg.plan.launch.description import Description

RUN = "JAXNEG_RUN"  # the call of train, as JSON: Ray quotes words of a command by rules of its own


def render(described: Description, head: list[str]) -> dict[str, str]:
    """Text of the recipe's one file, a script that submits the job and watches it.

    Args:
      described: the run.
      head: lines of comment that say where a file comes from.
    """
    description.path_of_all(described)
    topology = described.topology
    if topology.tpu:
        workers = [
            f"--workers={described.hosts}",
            f"--tpu={topology.tpu.ray}",
            f"--topology={topology.shape}",
        ]
    else:
        assert topology.gpu is not None
        workers = [f"--workers={described.hosts * topology.chips}", f"--gpu={topology.gpu.ray}"]
    told = {RUN: json.dumps(described.run.words[1:]), "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    text = scripts.script(
        [
            *head,
            "",
            "  launch.sh          submits the job and watches it; ends as it does",
            "  launch.sh log      what it said",
            "  launch.sh stop     ends it",
            "  launch.sh delete   forgets one that has ended, so that launch.sh submits it anew",
            "",
            "The job goes on without this script, which ended and started again goes on watching. Needs Ray 2.51 or",
            "newer (pip install 'ray[train]') here, and beside jaxneg on every node.",
        ],
        {
            "name": described.name,
            "restarts": described.restarts,
            "address": [f"--address={described.address}"] if described.address else [],
            "environment": json.dumps({"env_vars": told | dict(described.environment)}),
            "make": [
                *"python -m jaxneg.plan.launch.on_ray".split(),
                *workers,
                f"--restarts={described.restarts}",
            ],
        },
        "ray.sh",
    )
    return {"launch.sh": text}
