"""What a fresh installation must do: the lines of the README on a made-up log of a hundred listeners.

    fresh/bin/python tools/first_steps.py

Needs nothing but jaxneg, and a minute.
"""

import os
import pathlib
import tempfile

import numpy as np
import pyarrow as pa

CONFIG = """
from jaxneg.config import Config, DataConfig, LossConfig, ModelConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(length=20, reach="user", batch_size=32, p_hard=0.5),
        model=ModelConfig(width=16),
        loss=LossConfig(feedback=1.0),
        train=TrainConfig(epochs=1),
    )
"""


def log(users: int = 100, each: int = 20, items: int = 30) -> pa.Table:
    """Events of listeners, a few minutes apart, whose feedback is drawn at random."""
    rng, size = np.random.default_rng(0), users * each
    at = np.arange(size)
    return pa.table(
        {
            "user": [f"u{n}" for n in at // each],
            "item": [f"T{n}" for n in rng.integers(1, items + 1, size)],
            "time": 1_700_000_000 + at // each * 100_000 + at % each * 200,
            "feedback": rng.choice(["play", "skip", "thumb_up", "thumb_down"], size).tolist(),
        }
    )


def main() -> None:
    import jaxneg

    pathlib.Path("mine.py").write_text(CONFIG)
    jaxneg.prepare(log(), "stores/mine", session="gap", split="tail")
    run = jaxneg.train("mine.py", "runs/mine", store="stores/mine")
    report = jaxneg.evaluate(run)
    jaxneg.export(run, "exports/mine")
    scorer = jaxneg.Scorer.open("exports/mine")
    best = scorer.recommend([jaxneg.Event("T1", "play"), jaxneg.Event("T2", "skip")], k=10)
    assert len(best) == 10 and report.figures["examples"] > 0
    print(f"jaxneg {jaxneg.__version__} prepares, trains, evaluates, exports and recommends")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        main()
        os.chdir("/")
