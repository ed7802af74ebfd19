"""Every file of an export, and every way in which a disk or a copy spoils one: ``--check`` says which in one line."""

import builtins
import errno
import io
import os
import pathlib
import shutil

import pytest

from jaxneg import errors
from jaxneg.cli import export as verb
from jaxneg.errors import UserError
from jaxneg.serve import export, manifest as manifests
from tests import verbs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(run, trained, tmp_path_factory):
    """An export of every kind of file, by one index each, as they are named; and its copy, which may be spoilt."""
    for module in ("onnxruntime", "faiss"):
        pytest.importorskip(module)
    out = tmp_path_factory.mktemp("check") / "out"
    export.export(trained("tied"), out, export.Wanted(manifests.FORMATS, "bfloat16", run=run("tied")))
    for path in out.rglob("*"):  # that a link is spoilt does not spoil another
        if path.is_file():
            data = path.read_bytes()
            path.unlink()
            path.write_bytes(data)
    return out


def emptied(path):
    path.write_bytes(b"")


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def made_a_directory(path):
    path.unlink()
    path.mkdir()


SPOILS = {
    "missing": pathlib.Path.unlink,
    "empty": emptied,
    "cut": cut,
    "one bit": flipped,
    "a directory": made_a_directory,
}


def files(whole):
    return sorted(str(path.relative_to(whole)) for path in whole.rglob("*") if path.is_file())


def test_it_holds_every_kind_of_file(whole, capfd):
    names = files(whole)
    kinds = {pathlib.PurePath(name).suffix for name in names}
    assert kinds == {
        ".stablehlo",
        ".safetensors",
        ".npy",
        ".parquet",
        ".onnx",
        ".faiss",
        ".pbtxt",
        ".yaml",
        ".json",
        ".md",
    }
    assert verbs.inside(f"export --check {whole}", capfd) == (0, "")


@pytest.mark.parametrize("how", SPOILS)
def test_a_spoilt_file_is_named_in_one_line(how, whole, tmp_path, capfd):
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    for name in files(whole):
        SPOILS[how](copy / name)
        with pytest.raises(UserError) as error:  # exit code 2, as the last of these says
            verb.Export(check=copy).run()
        said = str(error.value)
        told = said.removeprefix(f"export {copy} is damaged: ")
        if (copy / name).is_dir():
            (copy / name).rmdir()
        shutil.copy2(whole / name, copy / name)
        assert len(said.splitlines()) == 1, (name, said)
        folder = pathlib.PurePath(name).parent
        named = [name, str(copy / name), str(folder.parent if folder.name == "1" else folder)]
        if name == "manifest.json":
            assert str(copy) in said, said
        else:
            assert told != said and any(one in told for one in named), (name, said)
    SPOILS[how](copy / "top_k.onnx")
    code, said = verbs.inside(f"export --check {copy}", capfd)
    assert (code, said) == (2, f"jaxneg: export {copy} is damaged: top_k.onnx: export again\n")


def test_a_file_that_may_not_be_read_is_not_called_damaged(whole, capfd, monkeypatch):
    """Root may read all, so that permissions of files show nothing here."""
    open_ = builtins.open
    denied = ""

    def refuse(file, *args, **kwargs):
        if str(file) == denied:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
        return open_(file, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", refuse)
    monkeypatch.setattr(io, "open", refuse)
    for name in files(whole):
        denied = str(whole / name)
        with pytest.raises((OSError, UserError)) as error:
            verb.Export(check=whole).run()
        found = error.value
        said = errors.with_remedy(found) if isinstance(found, UserError) else str(errors.trouble(found))
        assert denied in said and "Permission denied" in said and "damaged" not in said, (name, said)
    code, said = verbs.inside(f"export --check {whole}", capfd)
    assert (code, len(said.splitlines())) == (2, 1)
    assert said.endswith("Permission denied: choose another place, or change its permissions\n")
