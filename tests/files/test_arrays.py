"""Arrays of files that may be anything: as they were written, or refused as damaged."""

import io
import random
import zipfile

import numpy as np
import pytest

from jaxneg.files import arrays

WHOLE = np.arange(12, dtype=np.int32)


def test_a_header_of_any_bytes_is_read_or_refused(tmp_path):
    """numpy gives what is no literal to Python's tokenizer, whose faults are of no usual kind."""
    path = tmp_path / "a.npy"
    np.save(path, WHOLE)
    written = path.read_bytes()
    rng = random.Random(0)
    headers = [
        b"\x93NUMPY\x01\x00\x0a\x00{'descr': ",
        written[:8] + b"v\x00" + b"{'a'\x00[(".ljust(118),
        written.replace(b"{", b'("""'),
        written.replace(b"'<i4'", b"b'\xff'"),
    ]
    for _ in range(300):
        changed = bytearray(written)
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(6, 128)] = rng.choice(
                b"{}[]()'\",:\\\x00\xff0<iL#\n" + bytes([rng.randrange(256)])
            )
        headers.append(bytes(changed))
    refused = 0
    for content in headers:
        path.write_bytes(content)
        try:
            found = arrays.mapped(path, np.int32, (None,))
        except arrays.Damaged as error:
            refused += 1
            assert str(error).startswith("a.npy ")
        else:
            np.testing.assert_array_equal(found, WHOLE)
    assert refused > 200


@pytest.mark.parametrize("seed", range(3))
def test_an_archive_of_any_bytes_is_read_or_refused(tmp_path, seed):
    path = tmp_path / "a.npz"
    np.savez(path, a=WHOLE, b=np.float32([0.5]))
    written, rng = path.read_bytes(), random.Random(seed)
    for _ in range(100):
        changed = bytearray(written)
        for _ in range(rng.randint(1, 3)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        path.write_bytes(changed[: rng.choice([len(changed), rng.randrange(len(changed))])])
        try:
            found = arrays.npz(path)
        except arrays.Damaged as error:
            assert str(error).startswith("a.npz")
        else:
            assert all(isinstance(one, np.ndarray) for one in found.values())


def test_an_archive_whose_member_is_no_array_is_refused(tmp_path):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("a.npy", b"no array")
    (tmp_path / "a.npz").write_bytes(content.getvalue())
    with pytest.raises(arrays.Damaged, match="a.npz"):
        arrays.npz(tmp_path / "a.npz")
