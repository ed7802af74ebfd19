"""Moments in the state of an optimiser by parameter or table, whichever optimiser keeps them."""

from collections.abc import Callable
from typing import Any

import jax

from jaxneg.embeddings import optim

State = Any  # of an optimiser of ``optim`` or ``layouts``
# (parameter or table, moment, values) -> values; moments are "first" and "second" of Adam, lazy or not, and "sum" of
# Adagrad.
Change = Callable[[str, str, jax.Array], jax.Array]
Named = dict[tuple[str, str], jax.Array]


def named(state: State) -> Named:
    """All moments of a state, by parameter or table and moment."""
    found: Named = {}

    def note(name: str, moment: str, value: jax.Array) -> jax.Array:
        found[name, moment] = value
        return value

    changed(state, note)
    return found


def changed(state: State, change: Change, count: jax.Array | None = None) -> State:
    """The state with other moments; the steps of its schedules stay.

    Args:
      state: of an optimiser.
      change: gives the new moments.
      count: ``optim.updates`` that they have seen; by default as many as before.
    """

    def of(path: tuple[Any, ...], node: Any) -> Any:
        if optim.is_adam(node):
            return node._replace(
                count=node.count if count is None else count,
                mu=_changed(node.mu, "first", change),
                nu=_changed(node.nu, "second", change),
            )
        keys = [str(step.key) for step in path if isinstance(step, jax.tree_util.DictKey)]
        if not keys:
            return node
        table, moment = keys
        return change(table, moment.partition("_")[0], node)

    return jax.tree_util.tree_map_with_path(of, state, is_leaf=optim.is_adam)


def _changed(tree: Any, moment: str, change: Change) -> Any:
    def of(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        return change(str(path[-1].key), moment, leaf)

    return jax.tree_util.tree_map_with_path(of, tree)
