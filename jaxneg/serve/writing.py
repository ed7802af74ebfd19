"""Arrays of an export written a run of rows at a time, wherever they lie: npy and safetensors.

What comes out is what numpy and safetensors would write of arrays that are in memory.
"""

import contextlib
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

ROWS = 1 << 16  # that are in memory at a time
# Names of types, in the order in which safetensors lays out arrays, the last ones first.
TYPES = {"bool": "BOOL", "uint8": "U8", "int8": "I8", "int32": "I32", "uint32": "U32", "float32": "F32"}


@contextlib.contextmanager
def npy(path: pathlib.Path, shape: tuple[int, ...]) -> Iterator[Callable[[np.ndarray], None]]:
    """Writes an array of a shape: what is entered takes runs of its rows, in their order."""
    with open(path, "wb") as file:

        def put(some: np.ndarray) -> None:
            if not file.tell():
                header = {"descr": np.lib.format.dtype_to_descr(some.dtype), "shape": shape}
                np.lib.format.write_array_header_1_0(file, header | {"fortran_order": False})
            _put(file, some)

        yield put


def runs(array: Any) -> Iterator[np.ndarray]:
    """The rows of an array by runs, on the host."""
    for first in range(0, max(len(array), 1), ROWS) if np.ndim(array) else [None]:
        yield np.asarray(array if first is None else array[first : first + ROWS])


def safetensors(path: pathlib.Path, arrays: Mapping[str, Any]) -> None:
    """Writes arrays by name, https://huggingface.co/docs/safetensors."""
    kinds = list(TYPES)

    def place(name: str) -> tuple[int, str]:
        return -kinds.index(str(arrays[name].dtype)), name

    names, header, at = sorted(arrays, key=place), dict[str, object](), 0
    for name in names:
        array = arrays[name]
        end = at + int(np.prod(array.shape, dtype=np.int64)) * array.dtype.itemsize
        kind = TYPES[str(array.dtype)]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            for some in runs(arrays[name]):
                _put(file, some)


def _put(file: BinaryIO, some: np.ndarray) -> None:
    file.write(np.ascontiguousarray(some).data if some.size else b"")
