"""``--log wandb``: settings and figures in a project of Weights & Biases, or on the disk with WANDB_MODE=offline."""

import hashlib
import importlib
import os
from collections.abc import Mapping
from typing import Any

from jaxneg import callbacks

PROJECT = "jaxneg"  # unless WANDB_PROJECT names another one


class Wandb:
    """Logs to Weights & Biases; a run that is continued goes on in the run there was."""

    def on_start(self, start: callbacks.Start) -> None:
        wandb = importlib.import_module("wandb")
        place = str(start.path.absolute())
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=start.path.name,
            id=hashlib.sha256(place.encode()).hexdigest()[:16],
            resume="allow",
            dir=place,
            config={part: dict(own) for part, own in start.config.items()},
        )
        # Its own steps may only grow, and those of a continued run begin at a checkpoint before its end.
        self._run.define_metric("*", step_metric="step")

    def __call__(self, step: int, figures: Mapping[str, Any]) -> None:
        self._run.log({"step": step, **figures})

    def on_end(self, result: Mapping[str, Any] | None) -> None:
        if result is not None:
            self._run.summary.update({name: result[name] for name in ("best_score", "best_step", "stopped")})
        self._run.finish(exit_code=0 if result is not None else 1)


make = Wandb
