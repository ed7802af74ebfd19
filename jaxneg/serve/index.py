"""An index of inner products over the items of an export: faiss, voyager or usearch behind one interface.

Rows are [v; bias], of a model with a like head [v; bias; w; bias of likes]: the query [q; 0] ranks, [0; q] judges and
[q; beta q] finds their sum, whatever beta is. The padding row is left out. What an index finds is scored exactly
afterwards, so that only an item that it misses is lost; the export says how many of the best 100 it finds.

    faiss      up to FLAT items all of them, exactly; more in inverted lists, of which ``effort`` are searched, their
               rows in half precision: what a search waits for is memory
    voyager    a graph of neighbours, searched with ``effort`` candidates; it makes all rows of one length by itself
    usearch    likewise, with one column more that makes all rows of one length
"""

import importlib
import pathlib
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from jaxneg.batch import PAD, forms
from jaxneg.batch.forms import Form
from jaxneg.errors import UserError
from jaxneg.serve import manifest as manifests, nearest, precision

PACKAGES = {"faiss": "faiss-cpu", "voyager": "voyager", "usearch": "usearch"}
LANES = 8  # numbers that faiss reads together
FLAT = 20_000  # items up to which all of them are looked at
ENOUGH = 0.98  # recall of the best K at which effort is not raised further
EFFORTS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048)
K = 100  # of the best, that recall is measured by, or a tenth of the items


@runtime_checkable
class Index(Protocol):
    """Rows of items by inner product. Threads may search at the same time."""

    effort: int  # lists, or candidates, that a search looks at

    def search(self, query_BW: Float[np.ndarray, "B W"], k: int) -> Int[np.ndarray, "B k"]:
        """Rows of the k best of each query, best first; PAD where fewer are found."""
        ...

    def save(self, path: pathlib.Path) -> None: ...


class _Faiss:
    def __init__(self, module: Any, inner: Any):
        self._module, self._inner, self.effort = module, inner, 1
        of_lists = module.try_extract_index_ivf(inner)
        self._lists = 0 if of_lists is None else of_lists.nlist
        self._told: tuple[int, dict[str, Any]] = 0, {}  # an effort, and what a search of it is told beside

    @classmethod
    def build(cls, module: Any, row_IW: np.ndarray) -> "_Faiss":
        items, width = row_IW.shape
        if items <= FLAT:
            inner = module.IndexFlatIP(width)
        else:
            lists, by = int(4 * items**0.5), module.METRIC_INNER_PRODUCT
            halves = max(row_IW.max(), -row_IW.min()) <= np.finfo(np.float16).max
            # At half precision faiss is quick where the width is a multiple of LANES.
            wide = -(-width // LANES) * LANES if halves else width
            flat, half = module.IndexFlatIP(wide), module.ScalarQuantizer.QT_fp16
            found = (
                module.IndexIVFScalarQuantizer(flat, wide, lists, half, by, False)
                if halves
                else module.IndexIVFFlat(flat, wide, lists, by)
            )
            found.cp.niter, found.cp.max_points_per_centroid = 10, 64  # a million items in half a minute
            inner = module.IndexPreTransform(module.RemapDimensionsTransform(width, wide, False), found)
            inner.train(row_IW)
        inner.add(row_IW)
        return cls(module, inner)

    @classmethod
    def open(cls, module: Any, path: pathlib.Path) -> "_Faiss":
        return cls(module, module.read_index(str(path)))

    def search(self, query_BW: np.ndarray, k: int) -> np.ndarray:
        return self._inner.search(np.ascontiguousarray(query_BW), k, **self._more())[1] + 1

    def _more(self) -> dict[str, Any]:
        if self._lists and self._told[0] != self.effort:
            looked = self._module.SearchParametersIVF(nprobe=min(self.effort, self._lists))
            self._told = self.effort, {"params": looked}
        return self._told[1]

    def save(self, path: pathlib.Path) -> None:
        self._module.write_index(self._inner, str(path))


class _Voyager:
    def __init__(self, inner: Any):
        self._inner, self.effort = inner, EFFORTS[0]

    @classmethod
    def build(cls, module: Any, row_IW: np.ndarray) -> "_Voyager":
        inner = module.Index(module.Space.InnerProduct, row_IW.shape[1], M=24, ef_construction=200)
        inner.add_items(row_IW, np.arange(len(row_IW)))
        return cls(inner)

    @classmethod
    def open(cls, module: Any, path: pathlib.Path) -> "_Voyager":
        return cls(module.Index.load(str(path)))

    def search(self, query_BW: np.ndarray, k: int) -> np.ndarray:
        try:
            found = self._inner.query(query_BW, k, query_ef=max(self.effort, k))[0]
        except RuntimeError:  # it finds fewer, and gives none
            return np.full((len(query_BW), k), PAD, np.int64)
        return found.astype(np.int64) + 1

    def save(self, path: pathlib.Path) -> None:
        self._inner.save(str(path))


class _Usearch:
    def __init__(self, inner: Any):
        self._inner, self.effort = inner, EFFORTS[0]

    @classmethod
    def build(cls, module: Any, row_IW: np.ndarray) -> "_Usearch":
        size_I = (row_IW**2).sum(axis=1)
        last_I1 = np.sqrt(np.maximum(size_I.max() - size_I, 0.0))[:, None]
        inner = module.Index(ndim=row_IW.shape[1] + 1, metric="ip", dtype="f32", connectivity=24)
        inner.add(np.arange(len(row_IW)), np.hstack([row_IW, last_I1]))
        return cls(inner)

    @classmethod
    def open(cls, module: Any, path: pathlib.Path) -> "_Usearch":
        return cls(module.Index.restore(str(path)))

    def search(self, query_BW: np.ndarray, k: int) -> np.ndarray:
        self._inner.expansion_search = max(self.effort, k)
        wide_BX = np.pad(query_BW, ((0, 0), (0, 1)))
        found = self._inner.search(wide_BX, k)
        key_Bk = np.asarray(found.keys, np.int64).reshape(len(query_BW), -1) + 1
        return np.pad(key_Bk, ((0, 0), (0, k - key_Bk.shape[1])))

    def save(self, path: pathlib.Path) -> None:
        self._inner.save(str(path))


KINDS: dict[str, tuple[str, Any]] = {
    "faiss": ("faiss", _Faiss),
    "voyager": ("voyager", _Voyager),
    "usearch": ("usearch.index", _Usearch),
}


class Built(NamedTuple):
    """An index, and the share of the best K that it finds."""

    found: Index
    recall: float


def counted(items: int) -> int:
    """How many of the best items recall is measured by."""
    return min(K, max(1, items // 10))


def rows(item_VE: np.ndarray, like_VE: np.ndarray | None) -> Float[np.ndarray, "I W"]:
    """What an index holds of the items."""
    parts = [item_VE[1:]] if like_VE is None else [item_VE[1:], like_VE[1:]]
    return np.ascontiguousarray(np.hstack(parts), np.float32)


def queries(query_BE: np.ndarray, form: Form, *, likes: bool) -> Float[np.ndarray, "B W"]:
    """What finds the items of a form; those of form demote are found as those that rank."""
    if not likes:
        return query_BE
    rank, judge = {
        forms.RANK: (1.0, 0.0),
        forms.DEMOTE: (1.0, 0.0),
        forms.JUDGE: (0.0, 1.0),
        forms.SUM: (1.0, form.beta),
    }[form.name]
    return np.hstack([np.float32(rank) * query_BE, np.float32(judge) * query_BE])


def build(library: str, row_IW: np.ndarray, query_BW: np.ndarray) -> Built:
    """An index of rows, whose effort is raised until it finds ENOUGH of the best K for queries.

    Raises UserError where the library is not there.
    """
    module, kind = _library(library)
    index: Index = kind.build(module, row_IW)
    k = counted(len(row_IW))
    exact_Bk = precision.best(query_BW, np.pad(row_IW, ((1, 0), (0, 0))), k)
    found = 0.0
    for effort in EFFORTS:
        index.effort = effort
        found = precision.recall(exact_Bk, index.search(query_BW, k))
        if found >= ENOUGH:
            break
    return Built(index, found)


def opened(library: str, path: pathlib.Path, effort: int) -> Index:
    """An index of an export. Raises UserError where the library is not there, or cannot read it."""
    module, kind = _library(library)
    try:
        found: Index = kind.open(module, path)
    except Exception as error:  # each library raises its own
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read by {library}: {reason}: export again") from error
    found.effort = effort
    return found


def searching(directory: pathlib.Path, manifest: manifests.Manifest) -> nearest.Search:
    """What finds the items of an export that has an index, for ``nearest.Nearest``. Raises UserError as ``opened``."""
    assert "index" in manifest
    told = manifest["index"]
    found = opened(told["library"], directory / manifests.index_name(told["library"]), told["effort"])
    likes, items = "forms" in manifest, manifest["items"]

    def search(query_BE: np.ndarray, form: Form, n: int) -> np.ndarray:
        row_BN = found.search(queries(query_BE, form, likes=likes), min(n, items))
        if row_BN.shape[1] == n:
            return row_BN
        return np.pad(row_BN, ((0, 0), (0, n - row_BN.shape[1])), constant_values=PAD)

    return search


def check(library: str) -> None:
    """Raises UserError where a library is not there."""
    _library(library)


def _library(name: str) -> tuple[Any, Any]:
    module, kind = KINDS[name]
    try:
        return importlib.import_module(module), kind
    except ImportError as error:
        raise UserError(f"an index by {name} needs {PACKAGES[name]}: pip install 'jaxneg[ann]'") from error
