"""GKE through xpk, which makes the JobSet and hands it to Kueue."""

import shlex

from jaxneg.plan.launch import description, jobset, scripts
from jaxneg.plan.launch.description import Description

# By itself xpk starts a set again after 42 and 127 to 255, and fails it after every other code.
AGAIN = (1, 75)


def render(described: Description, head: list[str]) -> dict[str, str]:
    """Text of each file of the recipe: a script that makes the workload and watches it.

    Args:
      described: the run.
      head: lines of comment that say where a file comes from.
    """
    jobset.refuse_gpus(described)
    description.needs(described, "xpk", "image", "project", "zone", "cluster")
    description.path_of_all(described)
    call = shlex.join(["exec", "python", "-m", "jaxneg.plan.launch.process", *described.run.words])
    make = [
        *("xpk", "workload", "create"),
        f"--workload={described.name}",
        f"--project={described.project}",
        f"--zone={described.zone}",
        f"--cluster={described.cluster}",
        f"--tpu-type={described.topology.accelerator}",
        f"--num-slices={described.slices}",
        f"--docker-image={described.image}",
        f"--max-restarts={described.restarts}",
        f"--restart-on-exit-codes={','.join(map(str, AGAIN))}",
        f"--termination-grace-period-seconds={described.grace}",
        *(f"--env={name}={value}" for name, value in described.environment),
        f"--command={call}",
    ]
    needs = "Needs xpk, kubectl, and storage that xpk storage attach has put below --workdir."
    settings = {"name": described.name, "namespace": jobset.DEFAULT, "make": make}
    return {"launch.sh": scripts.script([*head, *jobset.HELP, needs], settings, "jobset.sh")}
