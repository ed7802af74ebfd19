"""Ranks and leading items counted in chunks, against numpy's sort of all scores."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneg import metrics
from jaxneg.embeddings import layouts, sharding, tables, topk
from tests.marks import rest_slow

B, L, D = 13, 9, 4


def rows(weights):
    """Scores are whole numbers: exact in any order of summing, and many tie."""
    return weights.tables["item_VD"], weights.tables["bias_V"]


def asked(items, seed=0):
    """Tables by item, and examples; of one all items are wanted, of one none."""
    rng = np.random.default_rng(seed)
    by_item = {
        "item_VD": rng.integers(-3, 4, (items + 1, D)).astype(np.float32),
        "bias_V": rng.integers(-2, 3, items + 1).astype(np.float32),
    }
    h_BD = rng.integers(-3, 4, (B, D)).astype(np.float32)
    h_BD[2] = 0.0  # biases alone
    target_BC = rng.integers(0, items + 1, (B, 7)).astype(np.int32)
    target_BC[3] = 0
    target_BC[4] = np.arange(items, items - 7, -1)
    seen_BL = rng.integers(0, items + 1, (B, L)).astype(np.int32)
    seen_BL[5, :7] = target_BC[5]
    return by_item, topk.Examples(h_BD, target_BC, seen_BL)


def counted(layout, by_item, examples, k):
    by_row = {name: sharding.put(layout.by_row(table), layout.mesh, "V") for name, table in by_item.items()}
    none_VA = sharding.put(np.zeros((layout.rows, 0), np.int32), layout.mesh, "V")
    found = jax.jit(functools.partial(topk.ranked, layout, rows, k=k))(
        tables.Weights({}, by_row, none_VA), examples
    )
    return topk.on_host(found, (examples.target_BC[:, :2], examples.target_BC[:, 2:]))


def sorted_(by_item, examples, k):
    score_BV = examples.h_BD @ by_item["item_VD"].T + by_item["bias_V"]
    targets = examples.target_BC[:, :2], examples.target_BC[:, 2:]
    return metrics.rank(score_BV, targets, k=k, seen_BL=examples.seen_BL)


def whole(items):
    return layouts.Whole(sharding.make_mesh(1), items)


def shared(items):
    return layouts.Sharded(sharding.mesh_of(jax.devices(), 4), items)


@pytest.mark.parametrize(
    ("make", "items", "chunk", "k"),
    [
        # all at once, and more wanted than there are
        pytest.param(whole, 70, 1 << 13, 90, marks=pytest.mark.slow),
        (whole, 70, 16, 6),  # the last chunk overlaps
        (whole, 70, 16, 90),  # more wanted than there are groups
        (shared, 2900, 320, 6),
    ],
)
def test_counts_are_those_of_a_sort(make, items, chunk, k, monkeypatch):
    monkeypatch.setattr(topk, "CHUNK", chunk)
    monkeypatch.setattr(topk, "GROUP", 4)
    monkeypatch.setattr(topk, "TARGETS", 8)
    by_item, examples = asked(items)
    found, expected = counted(make(items), by_item, examples, k), sorted_(by_item, examples, k)
    for some, other in zip(found.targets, expected.targets, strict=True):
        np.testing.assert_array_equal(some, other)
    np.testing.assert_array_equal(found.top_Bk, expected.top_Bk)
    ranks = np.concatenate(found.targets, axis=1)
    assert (ranks % 1 == 0.5).any() and np.isnan(ranks[3]).all()


@pytest.mark.parametrize("chunk", rest_slow([1 << 13, 16], [16]))
def test_scores_that_are_nan_are_refused_and_endless_ones_ranked(chunk, monkeypatch):
    monkeypatch.setattr(topk, "CHUNK", chunk)
    monkeypatch.setattr(topk, "GROUP", 4)
    by_item, examples = asked(70)
    examples = examples._replace(h_BD=np.zeros((B, D), np.float32))
    by_item["bias_V"][1:] = np.where(
        np.arange(70) % 3 == 0, -np.inf, np.where(np.arange(70) % 3 == 1, -0.0, 0.0)
    )
    found, expected = counted(whole(70), by_item, examples, 60), sorted_(by_item, examples, 60)
    np.testing.assert_array_equal(np.hstack(found.targets), np.hstack(expected.targets))
    np.testing.assert_array_equal(found.top_Bk, expected.top_Bk)
    by_item["bias_V"][[0, 69]] = np.nan, 0.0
    counted(whole(70), by_item, examples, 60)  # of no item
    by_item["bias_V"][69] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        counted(whole(70), by_item, examples, 60)


@pytest.mark.parametrize("parts", [1, 8])
def test_places_number_the_rows_of_a_part_in_the_order_of_their_items(parts):
    items = 5000
    layout = layouts.Sharded(sharding.mesh_of(jax.devices()[:parts], parts), items)
    by_row = {"a": layout.by_row(np.arange(items + 1, dtype=np.int32))}
    lie = layout.places
    every = []
    for part in range(parts):
        own = {"a": jnp.asarray(by_row["a"][part * lie.size : (part + 1) * lie.size])}
        item_C = np.asarray(lie.item(part, jnp.arange(lie.size)))
        assert (np.diff(item_C) > 0).all()
        held_C = np.asarray(lie.run(part, own, jnp.int32(0), lie.size)["a"])
        np.testing.assert_array_equal(held_C, np.where(item_C <= items, item_C, 0))
        number_V = np.asarray(lie.number(part, jnp.arange(items + 1)))
        np.testing.assert_array_equal(number_V[item_C[item_C <= items]], np.flatnonzero(item_C <= items))
        assert (np.delete(number_V, item_C[item_C <= items]) == -1).all()
        every.append(item_C)
    np.testing.assert_array_equal(np.sort(np.concatenate(every)), np.arange(layout.rows))
