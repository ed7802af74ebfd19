"""Where arrays live: a mesh, and one table from dimension letters to its axes."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxneg.config import UserError

MESH = ("data", "model")  # replicas of the item tables, and the parts that each replica's rows are in
# Letters not named here are replicated.
AXES = {"B": MESH, "V": "model"}


def make_mesh(devices: int = 0, shards: int = 1) -> Mesh:
    """A mesh of ``devices`` devices, 0 taking all, that has ``shards`` of them along the model axis.

    Raises UserError if there are not as many, or not a multiple of the shards.
    """
    found = jax.devices()
    if devices > len(found):
        raise UserError(f"--train.devices {devices}, but JAX finds {len(found)} ({found[0].platform})")
    return mesh_of(found[: devices or len(found)], shards)


def mesh_of(devices, shards: int = 1) -> Mesh:
    """The mesh of these devices. Raises UserError where their number is no multiple of the shards."""
    if len(devices) % shards:
        raise UserError(f"--train.shards {shards} must divide the {len(devices)} devices")
    grid = np.array(devices).reshape(-1, shards)
    return Mesh(grid, MESH, axis_types=(AxisType.Auto,) * len(MESH))


def spec(letters: str) -> PartitionSpec:
    """The partition of an array whose dimensions are these letters: spec("BL") shards its first axis."""
    return PartitionSpec(*(AXES.get(letter) for letter in letters))


def letters(name: str) -> str:
    """The dimensions that end an array's name: "BL" of item_BL; none where it ends in no capital letters or digits."""
    suffix = name.rpartition("_")[2]
    return suffix if "_" in name and suffix == suffix.upper() else ""


def shardings(abstract, mesh: Mesh):
    """The sharding of each leaf of a tree, by the letters that end its name, the last one on the way to it.

    A table's moments live under its name, hence where it lives.
    """

    def of(path, leaf) -> NamedSharding:
        names = [str(getattr(key, "key", getattr(key, "name", ""))) for key in path]
        found = next((letters(name) for name in reversed(names) if name), "")
        return NamedSharding(mesh, spec(found[: leaf.ndim]))

    return jax.tree_util.tree_map_with_path(of, abstract)


def placed(abstract, mesh: Mesh):
    """Shapes and dtypes of a tree with their place on the mesh: what a program takes, a checkpoint is restored to."""
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        abstract,
        shardings(abstract, mesh),
    )


def put(tree, mesh: Mesh, letters: str = ""):
    """The tree on the mesh, its leading dimensions sharded by letter, replicated without."""
    return jax.device_put(tree, NamedSharding(mesh, spec(letters)))


def put_fields(fields, mesh: Mesh):
    """A NamedTuple of arrays on the mesh, each sharded by the letters that end its name: item_BL along B."""
    return jax.device_put(fields, shardings(fields, mesh))
