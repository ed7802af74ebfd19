"""Which values of a parameter run every time."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def rest_slow(values: Iterable[Any], quick: Collection[Any]) -> list[Any]:
    """The values of one parameter, those that are not in ``quick`` marked slow."""
    return [value if value in quick else pytest.param(value, marks=pytest.mark.slow) for value in values]
