"""Experiment files: Python beside which other files may lie that it imports."""

import contextlib
import hashlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import pathlib
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from jaxneg.errors import UserError

OURS = "jaxneg"
INSTALLED = {"site-packages", "dist-packages"}  # directories of packages


def called(function: Callable[[], Any]) -> Any:
    """What a function of an experiment file gives. A coroutine, which is never what is meant, is closed."""
    found = function()
    if inspect.iscoroutine(found):  # Python would warn later that nobody awaited it
        found.close()
    return found


@contextlib.contextmanager
def loaded(path: str | pathlib.Path, mend: str) -> Iterator[types.ModuleType]:
    """The module of a Python file, with the files beside it importable while the context lasts.

    Afterwards neither the module nor those that were imported from beside it are left among the loaded ones, so that
    files of one name in two directories do not meet. What the file or the context raises comes as UserError.

    Args:
      path: of the file.
      mend: what such a file is, said where this is none.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"no config file {path}: give a Python file with get_config() -> Config")
    # Dataclasses look their module up by its name.
    name = f"_experiment_{hashlib.sha256(str(path.absolute()).encode('utf-8', 'surrogateescape')).hexdigest()[:16]}"
    if path.suffix not in importlib.machinery.SOURCE_SUFFIXES:
        raise UserError(f"{path} is not a Python file: {mend}")
    loader = _Source(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None  # it has a loader
    beside = path.absolute().parent
    with _beside(beside):
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            loader.exec_module(module)
            yield module
        except (UserError, KeyboardInterrupt):
            raise
        except BaseException as error:  # of whatever class the file raises
            told = ": ".join(filter(None, [type(error).__name__, " ".join(str(error).split())]))
            raise UserError(f"{path} could not be loaded: {told}") from error
        finally:
            sys.modules.pop(name, None)


class _Source(importlib.machinery.SourceFileLoader):
    """Compiles a file each time. Bytecode beside it would stand for any file of its size and second."""

    def get_code(self, fullname: str) -> types.CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


@contextlib.contextmanager
def _beside(directory: pathlib.Path) -> Iterator[None]:
    """The files of a directory can be imported, before all others; they are forgotten afterwards."""
    place, hidden = str(directory), _namesakes(directory)
    for name in hidden:
        del sys.modules[name]
    before = set(sys.modules)
    importlib.invalidate_caches()
    sys.path.insert(0, place)
    kept, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # nothing of ours is left beside a config
    try:
        yield
    finally:
        sys.dont_write_bytecode = kept
        with contextlib.suppress(ValueError):
            sys.path.remove(place)
        for name in set(sys.modules) - before:
            if name.partition(".")[0] != OURS and _lies_in(sys.modules[name], directory):
                del sys.modules[name]
        sys.modules.update(hidden)


def _namesakes(directory: pathlib.Path) -> dict[str, types.ModuleType]:
    """Loaded modules of elsewhere that go by the name of a file here; not installed ones, which all may need."""
    own = {path.stem for path in directory.glob("*.py")} | {
        path.parent.name for path in directory.glob("*/*.py")
    }
    own -= {OURS, "__main__"} | set(sys.stdlib_module_names)
    return {
        name: module
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] in own and not _lies_in(module, directory) and not _installed(module)
    }


def _places(module: types.ModuleType) -> list[pathlib.Path]:
    spec: importlib.machinery.ModuleSpec | None = getattr(module, "__spec__", None)
    places = [spec.origin, *(spec.submodule_search_locations or ())] if spec else []
    return [pathlib.Path(place).absolute() for place in places if place]


def _installed(module: types.ModuleType) -> bool:
    return any(INSTALLED & set(place.parts) for place in _places(module))


def _lies_in(module: types.ModuleType, directory: pathlib.Path) -> bool:
    """Whether a module is of a file of the directory, and not of packages that are installed below it."""
    return any(
        place.is_relative_to(directory) and not INSTALLED & set(place.relative_to(directory).parts)
        for place in _places(module)
    )
