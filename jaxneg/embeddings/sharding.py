"""Where arrays live: a mesh, one table from dimension letters to its axes, and what devices along an axis exchange."""

# What places arrays, and what devices exchange within shard_map, leaves its arguments untyped.
# pyright: reportUnknownMemberType=false

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ParamSpec, TypeVar, cast, overload

import jax
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxneg.errors import UserError

MESH = ("data", "model")  # replicas of the item tables, and the parts that each replica's rows are in
COUNT_FLAG = "--xla_force_host_platform_device_count"
# Letters not named here are replicated.
AXES = {"B": MESH, "V": "model"}

Tree = TypeVar("Tree")
Taken = ParamSpec("Taken")
Given = TypeVar("Given")
Fields = TypeVar("Fields", bound=tuple[Any, ...])


def make_mesh(devices: int = 0, shards: int = 1) -> Mesh:
    """A mesh of ``devices`` devices, 0 taking all, that has ``shards`` of them along the model axis.

    Raises UserError if there are not as many, or not a multiple of the shards.
    """
    found = jax.devices()
    if devices > len(found):
        why = f": a CPU has at most one a core, here {os.cpu_count()}" if found[0].platform == "cpu" else ""
        raise UserError(f"--train.devices {devices}, but JAX finds {len(found)} ({found[0].platform}){why}")
    if 0 < devices < len(found) and jax.process_count() > 1:
        raise UserError(
            f"--train.devices {devices} of {len(found)}: many processes use all that they have, leave it out"
        )
    return mesh_of(found[: devices or len(found)], shards)


def share_cores(count: int) -> None:
    """Has JAX make so many CPU devices, each for its share of the cores: before it is asked for any.

    Not more than there are cores, and not where it is one of many processes, where XLA's flags say a number, or where
    it has made them.
    """
    if not 1 < count <= (os.cpu_count() or 1) or jax.distributed.is_initialized():
        return
    if COUNT_FLAG not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):  # it has made them
            jax.config.update("jax_num_cpu_devices", count)


def mesh_of(devices: Iterable[jax.Device], shards: int = 1) -> Mesh:
    """The mesh of these devices, those of a process side by side: its rows of a batch are one block.

    Raises UserError where their number is no multiple of the shards.
    """
    devices = sorted(devices, key=lambda device: device.process_index)
    if len(devices) % shards:
        raise UserError(f"--train.shards {shards} must divide the {len(devices)} devices")
    grid = np.array(devices).reshape(-1, shards)
    return Mesh(grid, MESH, axis_types=(AxisType.Auto,) * len(MESH))


def spec(letters: str) -> PartitionSpec:
    """The partition of an array whose dimensions are these letters: spec("BL") shards its first axis."""
    return PartitionSpec(*(AXES.get(letter) for letter in letters))


def replicated(mesh: Mesh) -> NamedSharding:
    """Each device has all."""
    return NamedSharding(mesh, spec(""))


def letters(name: str) -> str:
    """The dimensions that end an array's name: "BL" of item_BL; none where it ends in no capital letters or digits."""
    suffix = name.rpartition("_")[2]
    return suffix if "_" in name and suffix == suffix.upper() else ""


def shardings(abstract: object, mesh: Mesh) -> Any:
    """The sharding of each leaf of a tree, by the letters that end its name, the last one on the way to it.

    A table's moments live under its name, hence where it lives.
    """

    def of(path: tuple[object, ...], leaf: Any) -> NamedSharding:
        names = [str(getattr(key, "key", getattr(key, "name", ""))) for key in path]
        found = next((letters(name) for name in reversed(names) if name), "")
        return NamedSharding(mesh, spec(found[: leaf.ndim]))

    return jax.tree_util.tree_map_with_path(of, abstract)


def placed(abstract: Tree, mesh: Mesh) -> Tree:
    """Shapes and dtypes of a tree with their place on the mesh: what a program takes, a checkpoint is restored to."""

    def at(leaf: jax.ShapeDtypeStruct, where: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

    return jax.tree.map(at, abstract, shardings(abstract, mesh))


def check_batch(batch_size: int, mesh: Mesh, parts: int = 1, of: str = "") -> None:
    """Raises UserError where a batch, taken in parts, cannot be split evenly over the devices of a mesh.

    Args:
      batch_size: rows of the global batch.
      mesh: that shares it.
      parts: that it is taken in, each by all devices.
      of: what the devices are of, for the message.
    """
    if batch_size % (mesh.size * parts):
        of, parts_ = f" of {of}" if of else "", f", in {parts} parts each" if parts > 1 else ""
        raise UserError(
            f"--data.batch-size {batch_size} must be a multiple of the {mesh.size} devices{of}{parts_}"
        )


@overload
def put(tree: np.ndarray, mesh: Mesh, letters: str = "") -> jax.Array: ...


@overload
def put(tree: Tree, mesh: Mesh, letters: str = "") -> Tree: ...


def put(tree: object, mesh: Mesh, letters: str = "") -> object:
    """The tree on the mesh, its leading dimensions sharded by letter, replicated without.

    Of many processes each gives the whole tree, the same.
    """
    where = NamedSharding(mesh, spec(letters))
    if where.is_fully_addressable:
        return jax.device_put(tree, where)

    def whole(leaf: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(leaf.shape, where, leaf.__getitem__)

    return jax.tree.map(whole, tree)


@functools.lru_cache(maxsize=64)
def _places(kind: Callable[..., object], ndims: tuple[int, ...], mesh: Mesh, stacked: bool) -> Any:
    """``shardings`` of a NamedTuple of arrays, or of many stacked; kept, as each step asks for them."""
    found = shardings(kind(*(jax.ShapeDtypeStruct((1,) * ndim, np.int32) for ndim in ndims)), mesh)

    def behind(where: NamedSharding) -> NamedSharding:
        return NamedSharding(mesh, PartitionSpec(None, *where.spec))

    return jax.tree.map(behind, found) if stacked else found


def put_fields(fields: Fields, mesh: Mesh) -> Fields:
    """A NamedTuple of arrays on the mesh, each sharded by the letters that end its name: item_BL along B.

    Of many processes each gives its own rows of what is sharded along B, a block of equal size, and all of the rest.
    """
    return _put(fields, _places(type(fields), tuple(leaf.ndim for leaf in fields), mesh, False), 0)


def put_stacked(many: Sequence[Fields], mesh: Mesh) -> Fields:
    """As ``put_fields`` many of one shape, each array of them with a dimension before its own that counts them."""
    first = many[0]
    fields = type(first)(*(np.stack(leaves) for leaves in zip(*many, strict=True)))
    return _put(fields, _places(type(first), tuple(leaf.ndim for leaf in first), mesh, True), 1)


def _put(fields: Fields, places: Any, at: int) -> Fields:
    """Arrays at their places, sharded along dimension ``at`` or not at all."""
    if all(where.is_fully_addressable for where in places):
        return jax.device_put(fields, places)

    def whole(leaf: np.ndarray, where: NamedSharding) -> jax.Array:
        rows = jax.process_count() if where.spec[at : at + 1] == (MESH,) else 1
        # Without a shape of the whole, JAX would take different rows for copies of one array where the mesh allows it.
        shape = (*leaf.shape[:at], *(size * rows for size in leaf.shape[at : at + 1]), *leaf.shape[at + 1 :])
        return jax.make_array_from_process_local_data(where, leaf, shape)

    return jax.tree.map(whole, fields, places)


# What follows is JAX's own, with the types that it leaves out.


def jit(function: Callable[Taken, Given], **options: Any) -> Callable[Taken, Given]:
    """``jax.jit``: the function, compiled for each shape of what it takes."""
    return cast(Callable[Taken, Given], jax.jit(function, **options))


def all_gather(part: jax.Array, axis: str, along: int = 0) -> jax.Array:
    """What the devices along a mesh axis hold, side by side along a dimension, on each: within ``shard_map``."""
    return cast(jax.Array, lax.all_gather(part, axis, axis=along, tiled=True))


def all_to_all(part_MX: jax.Array, axis: str) -> jax.Array:
    """What each device along a mesh axis sent to this one, in their order: within ``shard_map``."""
    return lax.all_to_all(part_MX, axis, split_axis=0, concat_axis=0, tiled=True)


def psum(part: jax.Array, axes: str | tuple[str, ...]) -> jax.Array:
    """The sum over the devices along mesh axes, on each: within ``shard_map``."""
    return cast(jax.Array, lax.psum(part, axes))


def pmax(part: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """The largest of each element over the devices along mesh axes, on each: within ``shard_map``."""
    return lax.pmax(part, axes)


def repeated(
    times: jax.Array, step: Callable[[jax.Array, jax.Array], jax.Array], start: jax.Array
) -> jax.Array:
    """What is left after ``step``, given its number from 0 and what was left before, has been taken so many times."""
    return cast(jax.Array, lax.fori_loop(0, times, step, start))
