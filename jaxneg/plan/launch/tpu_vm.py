"""TPU VMs of Cloud TPU: a queued resource, and a detached container on each of its hosts."""

from jaxneg.errors import UserError
from jaxneg.plan.launch import description, scripts
from jaxneg.plan.launch.description import Description

REGISTRIES = ("pkg.dev", "gcr.io")  # that ask for Google's credentials


def render(described: Description, head: list[str]) -> dict[str, str]:
    """Text of each file of the recipe: a script that asks for the slice and looks after it, and one of its hosts.

    Args:
      described: the run.
      head: lines of comment that say where a file comes from.
    """
    tpu = described.topology.tpu
    if tpu is None or not tpu.runtime:
        raise UserError(
            f"there are no TPU VMs of {described.topology.name}: take one of v4, v5e, v5p, v6e, or jobset"
        )
    description.needs(described, "tpu-vm", "image", "project", "zone")
    description.keeps(described)
    if claims := [one for one in described.mounts if one.claim]:
        raise UserError(
            f"--mount {claims[0].source} is of Kubernetes: give gs://bucket or a path of the hosts"
        )
    several = described.slices > 1
    nodes = [f"{described.name}-{n}" for n in range(described.slices)] if several else [described.name]
    asked = [f"--node-count={described.slices}", f"--node-prefix={described.name}"]
    asked = asked if several else [f"--node-id={described.name}"]
    if tpu.sides == 2:
        asked += [f"--accelerator-type={described.topology.accelerator}"]
    else:
        asked += [f"--type={tpu.vm}", f"--topology={described.topology.shape}"]
    asked += [f"--runtime-version={tpu.runtime}"]
    asked += ["--spot"] if described.spot else []
    asked += [f"--service-account={described.account}"] if described.account else []
    watch = scripts.script(
        [
            *head,
            "",
            "  launch.sh          asks for the slice and trains; asks again where it is taken away; ends as the run",
            "  launch.sh log      the last lines of every host",
            "  launch.sh stop     has the run save and end; the watching script then ends with 143",
            "  launch.sh delete   gives the slice back",
            "",
            "Training does not need this script: ended and started again, it goes on watching. At the end it",
            "gives the slice back, unless LAUNCH_KEEP is set. Needs gcloud.",
        ],
        {
            "name": described.name,
            "project": described.project,
            "zone": described.zone,
            "nodes": nodes,
            "hosts": described.hosts,
            "restarts": described.restarts,
            "asked": asked,
        },
        "tpu_vm.sh",
    )
    return {"launch.sh": watch, "host.sh": _host(described, head)}


def _host(described: Description, head: list[str]) -> str:
    registry = described.image.partition("/")[0]
    places = [(one, one.bucket) for one in described.mounts]
    buckets = [(one, bucket) for one, bucket in places if bucket is not None]
    paths = [f"{one.path if bucket else one.source}:{one.path}" for one, bucket in places]
    return scripts.script(
        [*head, "", "What launch.sh has every host do."],
        {
            "name": described.name,
            "image": described.image,
            "registry": registry if registry.endswith(REGISTRIES) else "",
            "grace": described.grace,
            "run": described.run.words,
            "options": [
                *(f"--volume={path}" for path in paths),
                *(f"--env={name}={value}" for name, value in described.environment),
            ],
            "buckets": [bucket.bucket for _, bucket in buckets],
            "only": [f"--only-dir={bucket.key}" if bucket.key else "" for _, bucket in buckets],
            "places": [one.path for one, _ in buckets],
        },
        "tpu_host.sh",
    )
