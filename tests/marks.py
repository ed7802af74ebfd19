"""Which values of a parameter run every time."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def rest_slow(values: Iterable[Any], quick: Collection[Any]) -> list[Any]:
    """The values of one parameter, those that are not in ``quick`` marked slow."""
    return _rest(values, quick, pytest.mark.slow)


def rest_system(values: Iterable[Any], kept: Collection[Any]) -> list[Any]:
    """The values of one parameter, those that are not in ``kept`` marked system."""
    return _rest(values, kept, pytest.mark.system)


def _rest(values: Iterable[Any], kept: Collection[Any], mark: pytest.MarkDecorator) -> list[Any]:
    return [value if value in kept else pytest.param(value, marks=mark) for value in values]
