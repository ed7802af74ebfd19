"""The first state of a run that starts from another one: weights, averages and moments, rows by raw id.

The step begins at 0 again, and with it the order of batches and the schedule of the learning rate, its warm-up too.
Moments come with the number of updates that they have seen, so that Adam takes them for what they are; those of new
rows are zero. What a like head folds listeners with is fitted to the new log, and its scale with it.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxneg import models
from jaxneg.data import stores
from jaxneg.embeddings import carrying, layouts, moments, optim, sharding, tables
from jaxneg.errors import UserError
from jaxneg.training import fold_in, origin as origins, program, runs, steps

FITTED = (fold_in.SCALE, fold_in.OFFSET)  # with the factorisations, though learned then


class Carry(NamedTuple):
    """How values of an old model become those of a new one."""

    old: layouts.Layout
    rows: carrying.Rows
    coded: Mapping[
        str, tuple[str, jax.Array]
    ]  # parameter -> the old one and its row for each of the new one's
    sizes: tuple[int, ...]  # of the new attributes

    def params(self, old: models.Params, first: models.Params) -> models.Params:
        """New parameters; ``first`` are those before the first step."""

        def of(name: str, value: jax.Array) -> jax.Array:
            if optim.fixed(name) or name in FITTED:
                return value
            if name in self.coded:
                source, row_R = self.coded[name]
                return carrying.renumbered(old[source], value, row_R)
            return old.get(name, value)

        return {name: of(name, value) for name, value in first.items()}

    def tables(self, old: tables.Tables, first: tables.Tables) -> tables.Tables:
        """New tables of items, likewise."""

        def of(name: str, value: jax.Array) -> jax.Array:
            if optim.fixed(name):
                return value
            moved = carrying.moved(self.old, old[name], self.rows)
            return carrying.filled(moved, value, self.rows, self.sizes)

        return {name: of(name, value) for name, value in first.items()}

    def trained(self, old: layouts.Trained, first: layouts.Trained) -> layouts.Trained:
        return self.params(old[0], first[0]), self.tables(old[1], first[1])

    def opt_state(self, old: layouts.OptState, first: layouts.OptState) -> layouts.OptState:
        """The first state of the optimiser with the moments that the old one has, and its count of updates."""
        known = moments.named(old)

        def of(name: str, moment: str, value: jax.Array) -> jax.Array:
            source, row_R = self.coded.get(name, (name, None))
            if (source, moment) not in known or name in FITTED:
                return value
            found = known[source, moment]
            if row_R is not None:
                return jnp.where((row_R > 0)[:, None], found[row_R], 0)
            if sharding.letters(name).startswith("V"):
                return carrying.moved(self.old, found, self.rows)
            return found

        return moments.changed(first, of, optim.updates(old))


def check(origin: origins.Origin, built: program.Program) -> None:
    """Raises UserError where arrays differ that should not, as where a registered encoder has changed."""
    was, now = _program(origin, built).state.params, built.state.params
    for name, leaf in now.items():
        # Stations may be new to the log.
        if name in origin.coded or optim.fixed(name) or name == origins.STATION:
            continue
        shape = was[name].shape if name in was else "none"
        if shape != leaf.shape:
            raise UserError(
                f"{origins.OPTION}: run {origin.path} has another model (parameter {name}: {shape} -> {leaf.shape}): "
                f"give the same, or train anew without {origins.OPTION}"
            )


def _program(origin: origins.Origin, built: program.Program) -> program.Program:
    """The program of the old run, on the devices of the new one."""
    mesh = layouts.mesh_for(origin.config.optim, built.mesh)
    return program.build(origin.config, origin.catalogue, mesh)


def state(
    origin: origins.Origin, built: program.Program, store: stores.Store, first: steps.State
) -> steps.State:
    """The first state of a run that starts from another.

    Args:
      origin: the run that it starts from.
      built: its own program.
      store: its own.
      first: its state if it began anew; gone afterwards.

    Raises UserError where the checkpoint is damaged.
    """
    was = _program(origin, built)
    old = runs.restored(origin.path, was.state, origin.step)
    rows = carrying.rows(was.layout, built.layout, origin.item_V, np.asarray(store.attribute_VA))
    row_R = {name: sharding.put(one.row_R, built.mesh) for name, one in origin.coded.items()}
    sizes, moments_too = program.catalogue_of(store).attributes, origin.told["optimizer"]

    def carried(
        old: steps.State, first: steps.State, rows: carrying.Rows, row_R: dict[str, jax.Array]
    ) -> steps.State:
        coded = {name: (origin.coded[name].name, of_R) for name, of_R in row_R.items()}
        carry = Carry(was.layout, rows, coded, sizes)
        begun, trained = (first.params, first.tables), (old.params, old.tables)
        measured = old.average or trained
        # Without an average to go on with, or moments of the weights behind it, what was measured is the model.
        params, item_tables = carry.trained(trained if first.average and moments_too else measured, begun)
        return first._replace(
            params=params,
            tables=item_tables,
            opt_state=carry.opt_state(old.opt_state, first.opt_state) if moments_too else first.opt_state,
            average=carry.trained(measured, begun) if first.average else (),
        )

    places = jax.tree.map(_place, first)
    return sharding.jit(carried, out_shardings=places, donate_argnums=1)(old, first, rows, row_R)


def _place(leaf: jax.Array) -> jax.sharding.Sharding:
    return leaf.sharding
