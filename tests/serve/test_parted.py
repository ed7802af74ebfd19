"""Tables that devices share, written by part and joined, are the tables by item; files are those of the libraries."""

import functools

import numpy as np
import pytest
from safetensors import numpy as safetensors

from jaxneg.embeddings import layouts, parts, sharding, tables
from jaxneg.serve import parted, writing


@pytest.mark.parametrize(("items", "shards"), [(4, 8), (3071, 2), (3072, 1), (10_000, 4)])
def test_parts_are_joined_by_item(items, shards, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "RUN", 1000)
    monkeypatch.setattr(parted, "MOST", 5000)
    layout = layouts.Sharded(sharding.make_mesh(8, shards), items)
    item_V = np.arange(items + 1, dtype=np.float32)
    by_item = {"item_VD": np.stack([item_V, -item_V], 1), "like_bias_V": item_V / 2}
    attribute_VA = item_V[:, None].astype(np.int32) % 7
    put = functools.partial(sharding.put, mesh=layout.mesh, letters="V")
    by_row = {name: put(layout.by_row(table)) for name, table in by_item.items()}
    params = sharding.put({"scale": np.float32(3.0)}, layout.mesh)
    weights = tables.Weights(params, by_row, put(layout.by_row(attribute_VA)))

    def made(item_C, weights):
        assert np.all(np.diff(item_C) > 0)
        row_CD = np.asarray(weights.tables["item_VD"]) * np.asarray(weights.params["scale"])
        return {"item_VE": np.concatenate([row_CD, item_C[:, None], weights.attribute_VA], 1)}

    found = parted.arrays(tmp_path, parted.Held(layout, weights, made))
    assert sorted(found) == ["item_VD", "item_VE", "like_bias_V"]
    for name, table in by_item.items():
        np.testing.assert_array_equal(found[name], table)
    expected = np.stack([3 * item_V, -3 * item_V, item_V, item_V % 7], 1)
    np.testing.assert_array_equal(found["item_VE"], expected)
    # The parts themselves are gone.
    assert sorted(path.name for path in (tmp_path / parted.FOLDER).iterdir()) == [
        f"{n}.npy" for n in sorted(found)
    ]


def test_files_are_those_of_numpy_and_safetensors(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "ROWS", 3)
    rng = np.random.default_rng(0)
    arrays = {
        "tables.item_VD": rng.normal(size=(10, 4)).astype(np.float32),
        "params.scale": np.array(2.0, np.float32),
        "params.b": rng.normal(size=(4,)).astype(np.float32),
        "attribute_VA": rng.integers(0, 9, (10, 0)).astype(np.int32),
        "a": rng.integers(0, 9, (10, 2)).astype(np.int32),
        "mask": np.array([True, False]),
        "params.é": np.zeros((2, 0, 3), np.float32),
    }
    writing.safetensors(tmp_path / "own", arrays)
    safetensors.save_file(arrays, tmp_path / "theirs")
    found = safetensors.load_file(tmp_path / "own")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)
    assert (tmp_path / "own").stat().st_size <= (tmp_path / "theirs").stat().st_size + 64
    for name in ("tables.item_VD", "a"):
        with writing.npy(tmp_path / "own.npy", arrays[name].shape) as put:
            for some in writing.runs(arrays[name]):
                put(some)
        np.save(tmp_path / "theirs.npy", arrays[name])
        assert (tmp_path / "own.npy").read_bytes() == (tmp_path / "theirs.npy").read_bytes()
