"""UMAP'24 on simulated listeners: the hardest of N random negatives, beside true ones.

    jaxneg sweep configs/study_hardest.py --workdir runs/study/hardest

Up to 16 random negatives are each target's own, so none is a known like of its listener; more are shared by the batch,
which is cheaper and lets some in. One random negative, and true ones, are in the sweep of study_p_hard.py at 0 and 1;
the rest is as there. Hardware, time and result: benchmarks/results/study/hardest.md.
"""

from jaxneg.config import Config, DataConfig, LossConfig, ModelConfig, OptimConfig, TrainConfig
from jaxneg.sweep.grids import Sweep


def get_config() -> Config:
    return Config(
        data=DataConfig(store="runs/study/store", length=20, batch_size=256, p_hard=0.0),
        model=ModelConfig(width=32, layers=1, output_attributes=True),
        loss=LossConfig(hardest=1),
        optim=OptimConfig(learning_rate=3e-3, warmup_steps=100),
        train=TrainConfig(epochs=40, patience=8, monitor="pair_accuracy", evaluate_every=94),
    )


def get_sweep() -> Sweep:
    negatives = {"16": ("--data.negatives", "16")}
    for n in (64, 1024):
        negatives[f"{n} shared"] = ("--data.negatives", "0", "--data.shared-negatives", f"{n}")
    return Sweep({"N": negatives})
