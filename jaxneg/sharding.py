"""Where arrays live: a mesh, and one table from dimension letters to its axes."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxneg.config import UserError

# Letters not named here are replicated. V joins with the sharded tables.
AXES = {"B": "data"}


def make_mesh(devices: int = 0) -> Mesh:
    """A mesh of ``devices`` devices along the data axis; 0 takes all. Raises UserError if there are not as many."""
    found = jax.devices()
    if devices > len(found):
        raise UserError(f"--train.devices {devices}, but JAX finds {len(found)} ({found[0].platform})")
    return Mesh(np.array(found[: devices or len(found)]), ("data",), axis_types=(AxisType.Auto,))


def spec(letters: str) -> PartitionSpec:
    """The partition of an array whose dimensions are these letters: spec("BL") shards its first axis."""
    return PartitionSpec(*(AXES.get(letter) for letter in letters))


def put(tree, mesh: Mesh, letters: str = ""):
    """The tree on the mesh, its leading dimensions sharded by letter, replicated without."""
    return jax.device_put(tree, NamedSharding(mesh, spec(letters)))


def put_fields(fields, mesh: Mesh):
    """A NamedTuple of arrays on the mesh, each sharded by the letters that end its name: item_BL along B."""
    letters = {name: name.rpartition("_")[2] for name in fields._fields}
    return jax.device_put(
        fields, type(fields)(**{name: NamedSharding(mesh, spec(of)) for name, of in letters.items()})
    )


def placed(abstract, mesh: Mesh):
    """Shapes and dtypes of a tree with their place on the mesh, replicated: what a checkpoint is restored to."""
    sharding = NamedSharding(mesh, spec(""))
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), abstract
    )
