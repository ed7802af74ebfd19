"""Which values of a parameter run every time."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def rest_system(values: Iterable[Any], kept: Collection[Any]) -> list[Any]:
    """The values of one parameter, those that are not in ``kept`` marked system."""
    return [value if value in kept else pytest.param(value, marks=pytest.mark.system) for value in values]


def rest_slow(values: Iterable[Any], quick: Collection[Any]) -> list[Any]:
    """The values of one parameter, those that are not in ``quick`` marked slow."""
    return [value if value in quick else pytest.param(value, marks=pytest.mark.slow) for value in values]
