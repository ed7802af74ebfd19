"""Where to plan for, by name: slices of TPU, which their compiler knows, and GPUs, which are reckoned."""

from collections.abc import Sequence

from jaxneg.plan import gpu, machines, tpu


def places(names: Sequence[str]) -> list[tpu.Slice]:
    """The places of names such as v5e:16x16, h100:8 and h100:8x4. Raises UserError where there is none such."""
    found = [machines.topology(name) if name.partition(":")[0] in machines.GPUS else None for name in names]
    cards = {name: gpu.card(topology) for name, topology in zip(names, found, strict=True) if topology}
    count = max((topology.hosts * topology.chips for topology in found if topology), default=0)
    here = gpu.devices(count) if count else []
    return [
        tpu.Slice(
            name,
            here[: topology.hosts * topology.chips],
            sides=topology.sides,
            hosts=topology.hosts,
            card=cards[name],
        )
        if topology
        else tpu.tpu(name)
        for name, topology in zip(names, found, strict=True)
    ]
