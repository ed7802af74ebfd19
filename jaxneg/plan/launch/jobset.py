"""Kubernetes: a JobSet with a pod for each host, whose controller starts all again; for GKE, and Kueue on request."""

from typing import Any

import yaml

from jaxneg.errors import UserError
from jaxneg.plan.launch import description, scripts
from jaxneg.plan.launch.description import Description, Mount

CONTAINER = "train"
JOB = "hosts"
COORDINATOR = 1234  # port of JAX's first process
TPU_PORTS = (8482, 8080)  # of JAX's coordinator, and between slices
DEFAULT = "default"
SPOT = "cloud.google.com/gke-spot"
Object = dict[str, Any]
HELP = [
    "",
    "  launch.sh          starts the run and watches it; ends as the run does",
    "  launch.sh log      the last lines of every pod",
    "  launch.sh stop     has the run save and end, and deletes its JobSet",
    "",
    "The cluster starts all pods again where one is lost: training does not need this script, which ended and",
    "started again goes on watching.",
]


def render(described: Description, head: list[str]) -> dict[str, str]:
    """Text of each file of the recipe: the JobSet, and a script that applies and watches it.

    Args:
      described: the run.
      head: lines of comment that say where a file comes from.
    """
    description.needs(described, "jobset", "image")
    description.keeps(described)
    made = "".join(f"# {line}\n" for line in head) + _text(manifest(described))
    watch = scripts.script(
        [*head, *HELP, "Needs kubectl, and the JobSet controller in the cluster."],
        {
            "name": described.name,
            "namespace": described.namespace,
            "make": ("kubectl", "apply", "--filename=jobset.yaml"),
        },
        "jobset.sh",
    )
    return {"jobset.yaml": made, "launch.sh": watch}


def manifest(described: Description) -> Object:
    """The JobSet of a run. Exit code 2 fails it at once; a pod that is evicted or preempted counts for no restart."""
    metadata: Object = {"name": described.name, "namespace": described.namespace}
    if described.queue:
        metadata["labels"] = {"kueue.x-k8s.io/queue-name": described.queue}
    if described.topology.tpu:
        at = "cloud.google.com/gke-nodepool"  # of which each slice is one
        metadata["annotations"] = {"alpha.jobset.sigs.k8s.io/exclusive-topology": at}
    mend = {"containerName": CONTAINER, "operator": "In", "values": [2]}
    job = {
        "parallelism": described.topology.hosts,
        "completions": described.topology.hosts,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": {
            "rules": [
                {"action": "FailJob", "onExitCodes": mend},
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            ]
        },
        "template": _pod(described),
    }
    rule = {"name": "mend", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": metadata,
        "spec": {
            "failurePolicy": {"maxRestarts": described.restarts, "rules": [rule]},
            "replicatedJobs": [{"name": JOB, "replicas": described.slices, "template": {"spec": job}}],
        },
    }


def _pod(described: Description) -> Object:
    """The template of a pod."""
    topology = described.topology
    volumes = [_volume(f"mount-{n}", one) for n, one in enumerate(described.mounts)]
    mounts: list[Object] = [
        {"name": f"mount-{n}", "mountPath": one.path} for n, one in enumerate(described.mounts)
    ]
    environment: list[Object] = [{"name": name, "value": value} for name, value in described.environment]
    if topology.tpu:
        resource, ports = "google.com/tpu", TPU_PORTS
        selector = {
            "cloud.google.com/gke-tpu-accelerator": topology.tpu.gke,
            "cloud.google.com/gke-tpu-topology": topology.shape,
        }
    else:
        assert topology.gpu is not None
        resource, ports = "nvidia.com/gpu", (COORDINATOR,)
        selector = {"cloud.google.com/gke-accelerator": topology.gpu.gke} if topology.gpu.gke else {}
        volumes.append({"name": "shared-memory", "emptyDir": {"medium": "Memory"}})
        mounts.append({"name": "shared-memory", "mountPath": "/dev/shm"})  # NCCL's
        if described.hosts > 1:
            environment += _joined(described)
    tolerations: list[Object] = [{"key": resource, "operator": "Exists", "effect": "NoSchedule"}]
    if described.spot:
        selector[SPOT] = "true"
        tolerations.append({"key": SPOT, "operator": "Equal", "value": "true", "effect": "NoSchedule"})
    amount = {resource: topology.chips}
    container = {
        "name": CONTAINER,
        "image": described.image,
        "command": ["python", "-m", "jaxneg.plan.launch.process"],
        "args": [word.replace("$(", "$$(") for word in described.run.words],  # Kubernetes reads $(NAME)
        "env": environment,
        "ports": [{"containerPort": port} for port in ports],
        "resources": {"requests": amount, "limits": dict(amount)},
        # Devices of TPUs and mounted buckets may be root's.
        "securityContext": {"runAsUser": 0},
        "volumeMounts": mounts,
    }
    spec = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": described.grace,
        "serviceAccountName": described.account or DEFAULT,
        "nodeSelector": selector,
        "tolerations": tolerations,
        "containers": [{name: value for name, value in container.items() if value}],
        "volumes": volumes,
    }
    pod: Object = {"spec": {name: value for name, value in spec.items() if value}}
    if any(one.bucket for one in described.mounts):
        pod = {"metadata": {"annotations": {"gke-gcsfuse/volumes": "true"}}, **pod}
    return pod


def _joined(described: Description) -> list[Object]:
    """What tells processes of GPUs of each other; those of TPUs are told by GKE."""
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    first = f"{described.name}-{JOB}-0-0.{described.name}:{COORDINATOR}"
    return [
        {"name": "JAX_COORDINATOR_ADDRESS", "value": first},
        {"name": "JAX_NUM_PROCESSES", "value": str(described.hosts)},
        {"name": "JAX_PROCESS_ID", "valueFrom": {"fieldRef": {"fieldPath": index}}},
    ]


def _volume(name: str, mount: Mount) -> Object:
    if mount.claim:
        return {"name": name, "persistentVolumeClaim": {"claimName": mount.claim}}
    if mount.bucket is None:
        return {"name": name, "hostPath": {"path": mount.source, "type": "Directory"}}
    only = [f"only-dir={mount.bucket.key}"] if mount.bucket.key else []
    attributes = {"bucketName": mount.bucket.bucket, "mountOptions": ",".join(["implicit-dirs", *only])}
    return {"name": name, "csi": {"driver": "gcsfuse.csi.storage.gke.io", "volumeAttributes": attributes}}


def _text(made: Object) -> str:
    return yaml.safe_dump(made, sort_keys=False, width=110, allow_unicode=True)


def refuse_gpus(described: Description) -> None:
    """Raises UserError on GPUs, for what starts TPUs alone."""
    if described.topology.tpu is None:
        raise UserError(f"launch xpk is of TPUs, not of {described.topology.name}: take jobset")
