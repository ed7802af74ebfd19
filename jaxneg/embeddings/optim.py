"""Optimisers: of parameters and dense tables, and of the rows that a batch touches."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
import optax

from jaxneg.config import LikeConfig, OptimConfig

EPSILON = 1e-8
# A TPU that is told that rows are in order goes through the whole table, at its memory's speed; else through each row
# by itself, which takes as long as so many rows that follow each other.
GOES_THROUGH = 30
NO_LIKES = LikeConfig()
PER_KIND = ("feedback", "feedback_gate")  # parameters with a row for each kind of feedback

Tree = TypeVar("Tree")
Moments = dict[str, dict[str, jax.Array]]  # by table, by name; a row of each beside the row of the table


def schedule(config: OptimConfig, steps: int, peak: float = 0.0) -> optax.Schedule:
    """Learning rate by step: linear warm-up to the peak, then constant, or a cosine to zero at ``steps``.

    The peak is the config's unless given.
    """
    peak, warmup = peak or config.learning_rate, config.warmup_steps
    after = {
        "constant": optax.constant_schedule(peak),
        "cosine": optax.cosine_decay_schedule(peak, max(steps - warmup, 1)),
    }[config.decay]
    if warmup == 0:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def dense_optimizer(
    config: OptimConfig, steps: int, like: LikeConfig = NO_LIKES
) -> optax.GradientTransformation:
    """Adam with gradient clipping, and decoupled weight decay of what ``decays``.

    A like head has its own, apart from the rest, which so takes the steps that it would take without the head.
    """
    rest = _adam(config, schedule(config, steps), config.weight_decay)
    if like.weight == 0:
        return rest
    return _apart(_adam(config, schedule(config, steps, like.learning_rate), like.decay), rest)


def _adam(config: OptimConfig, rate: optax.Schedule, weight_decay: float) -> optax.GradientTransformation:
    return optax.chain(
        optax.clip_by_global_norm(config.clip) if config.clip > 0 else optax.identity(),
        optax.adamw(rate, b2=config.b2, weight_decay=weight_decay, mask=_decaying),
    )


def _apart(
    likes: optax.GradientTransformation, rest: optax.GradientTransformation
) -> optax.GradientTransformation:
    """One optimiser of what is a like head's and another of the rest; what is fixed has none."""

    def parted(tree: Any) -> tuple[Any, Any]:
        """The leaves of dicts, or of tuples of dicts, that are a like head's, and the others."""
        if isinstance(tree, tuple):
            parts = [parted(one) for one in cast(tuple[Any, ...], tree)]
            return tuple(one for one, _ in parts), tuple(one for _, one in parts)
        named = cast(dict[str, Any], tree)
        own = {name: leaf for name, leaf in named.items() if of_likes(name)}
        return own, {name: leaf for name, leaf in named.items() if name not in own and not fixed(name)}

    def joined(own: Any, others: Any, like: Any) -> Any:
        """The inverse, zero where a leaf of ``like`` is fixed."""
        if isinstance(own, tuple):
            parts = zip(cast(tuple[Any, ...], own), others, like, strict=True)
            return tuple(joined(*one) for one in parts)
        still = {name: jnp.zeros_like(leaf) for name, leaf in like.items() if fixed(name)}
        return others | own | still

    def init(params: Any) -> Any:
        own, others = parted(params)
        return likes.init(own), rest.init(others)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        (own, others), (own_params, other_params), whole = parted(updates), parted(params), updates
        own, of_own = likes.update(own, state[0], own_params)
        others, of_others = rest.update(others, state[1], other_params)
        return joined(own, others, whole), (of_own, of_others)

    return optax.GradientTransformation(init, update)


def updates(state: Any) -> jax.Array:
    """int32, updates that the moments in a state have seen: its run's, and another's that they were taken over from."""
    return next(node.count for node in jax.tree.leaves(state, is_leaf=is_adam) if is_adam(node))


def is_adam(node: object) -> bool:
    """Whether a part of a state holds the moments of Adam."""
    return isinstance(node, optax.ScaleByAdamState)


def of_likes(name: str) -> bool:
    """Whether a parameter or a table is the like head's."""
    return name.startswith(("like.", "like_"))


def fixed(name: str) -> bool:
    """Whether a parameter or a table stays as it began: what ``training.fold_in`` folds with."""
    return name.startswith(("fold.", "fold_"))


def _decaying(params: Tree) -> Tree:
    """Which leaves of a tree decay, by what ``decays`` says of their names."""

    def of(path: tuple[object, ...], leaf: jax.Array) -> bool:
        return decays(str(getattr(path[-1], "key", "")), leaf)

    return jax.tree_util.tree_map_with_path(of, params)


def decays(name: str, leaf: jax.Array) -> bool:
    """Whether weight decay draws a parameter or a table to zero: matrices and tables of stations, songs and the like.

    It leaves alone biases and scales of norms, vectors all, and what has a row for each kind of feedback: gates start
    at 1 and -1, not near zero, and what a kind means is learned from few events where it is rare.

    Args:
      name: as in ``models.Params`` or ``tables.Tables``.
      leaf: its value, or shape.
    """
    return leaf.ndim > 1 and name.rpartition(".")[2] not in PER_KIND


class RowOptimizer(NamedTuple):
    """Changes the rows that a batch touches; the others stay as they are, moments included.

    So lazy Adam is not Adam, which at each step moves every row by its momentum; SGD and Adagrad have none.
    """

    init: Callable[[dict[str, jax.Array]], Moments]  # of tables by name, such as item_VD
    # (step, part, moments of it ..., row_Q, gradient_QX, count=None) -> part, moments. Rows ascend, each once; those
    # past the end of the part are ignored. ``count``: updates that the moments have seen, where it is not the step.
    change: Callable[..., tuple[jax.Array, ...]]
    # (step, table, moments of it ..., gradient of all rows, count=None) -> table, moments
    change_all: Callable[..., tuple[jax.Array, ...]]


def row_optimizer(config: OptimConfig, steps: int) -> RowOptimizer:
    """The optimiser of ``config.rows``:

    sgd        row -= rate * g
    adagrad    row-wise: s += mean(g^2), row -= rate * g / sqrt(s), one number s per row
    lazy_adam  Adam whose moments decay in the steps only that touch a row, its bias corrected by all steps

    The rate is ``config.row_learning_rate`` on the schedule of the others.

    Reference: Duchi et al., 2011; row-wise as in Gupta et al., Training Recommender Systems at Scale, 2020.
    """
    rate, b1, b2 = schedule(config, steps, config.row_learning_rate), 0.9, config.b2
    names = {"sgd": (), "adagrad": ("sum",), "lazy_adam": ("first", "second")}[config.rows]

    def init(tables: dict[str, jax.Array]) -> Moments:
        def moment(table_name: str, name: str) -> tuple[str, jax.Array]:
            letters, table = table_name.rpartition("_")[2], tables[table_name]
            size, letters = (len(table), "V") if name == "sum" else (table.shape, letters)
            return f"{name}_{letters}", jnp.zeros(size, jnp.float32)

        return {table: dict(moment(table, name) for name in names) for table in tables if not fixed(table)}

    def delta(
        step: jax.Array, count: jax.Array | None, gradient_QX: jax.Array, *moments: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        scale = jnp.asarray(rate(step))
        if config.rows == "sgd":
            return -scale * gradient_QX, ()
        if config.rows == "adagrad":
            axes = tuple(range(1, gradient_QX.ndim))
            sum_Q = moments[0] + jnp.square(gradient_QX).mean(axes)
            by_row_QX = (jnp.sqrt(sum_Q) + EPSILON).reshape(-1, *[1] * len(axes))
            return -scale * gradient_QX / by_row_QX, (sum_Q,)
        first_QX = b1 * moments[0] + (1 - b1) * gradient_QX
        second_QX = b2 * moments[1] + (1 - b2) * jnp.square(gradient_QX)
        seen = (step if count is None else count).astype(jnp.float32) + 1.0
        unbiased_QX = jnp.sqrt(second_QX / (1 - b2**seen)) + EPSILON
        return -scale * first_QX / (1 - b1**seen) / unbiased_QX, (first_QX, second_QX)

    def change(
        step: jax.Array, part: jax.Array, *rest: jax.Array, count: jax.Array | None = None
    ) -> tuple[jax.Array, ...]:
        *moments, row_Q, gradient_QX = rest
        in_order = len(part) < GOES_THROUGH * len(row_Q)
        at_rows = [moment.at[row_Q].get(mode="fill", fill_value=0) for moment in moments]
        added_QX, updated = delta(step, count, gradient_QX, *at_rows)
        return (
            part.at[row_Q].add(added_QX, mode="drop", unique_indices=True, indices_are_sorted=in_order),
            *(
                moment.at[row_Q].set(new, mode="drop", unique_indices=True, indices_are_sorted=in_order)
                for moment, new in zip(moments, updated, strict=True)
            ),
        )

    def change_all(
        step: jax.Array, table: jax.Array, *rest: jax.Array, count: jax.Array | None = None
    ) -> tuple[jax.Array, ...]:
        *moments, gradient = rest
        added, updated = delta(step, count, gradient, *moments)
        return table + added, *updated

    return RowOptimizer(init, change, change_all)


def add_to_rows(part: jax.Array, row_Q: jax.Array, value_QX: jax.Array) -> tuple[jax.Array]:
    """The part with values added at rows that ascend, each once; those past its end are ignored."""
    return (part.at[row_Q].add(value_QX, mode="drop", unique_indices=True),)
