"""``jaxneg demo``: the whole way on simulated listeners."""

import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from jaxneg.cli import commands


@dataclass(frozen=True)
class Demo:
    """Simulates listeners, prepares, trains with hard and random negatives, evaluates and exports."""

    out: Annotated[pathlib.Path, commands.path("DIR")] = pathlib.Path("demo")
    """Directory for everything the demo makes."""

    def run(self) -> None:
        from jaxneg.cli import walkthrough

        walkthrough.demo(self.out)


def parse(args: Sequence[str]) -> Demo:
    return commands.parsed(Demo, args, "demo")
