"""UMAP'24 on simulated listeners: the hardest of N random negatives, beside true ones.

    jaxneg sweep configs/study_hardest.py --workdir runs/study/hardest

Up to 16 random negatives are each target's own, so none is a known like of its listener; from 16 on they are shared by
the batch, which is cheaper and lets some in. The store is that of study_p_hard.py. Hardware, time and result:
benchmarks/results/study/hardest.md.
"""

from jaxneg.config import Config, DataConfig, LossConfig, ModelConfig, OptimConfig, TrainConfig
from jaxneg.sweep.grids import Sweep

OWN = (1, 2, 4, 8, 16)
SHARED = (16, 32, 64, 128, 256, 512, 1024)


def get_config() -> Config:
    return Config(
        data=DataConfig(store="runs/study/store", length=20, batch_size=256, p_hard=0.0),
        model=ModelConfig(width=32, layers=1, output_attributes=True),
        loss=LossConfig(hardest=1),
        optim=OptimConfig(learning_rate=3e-3, warmup_steps=100),
        train=TrainConfig(epochs=10, patience=3, monitor="pair_accuracy"),
    )


def get_sweep() -> Sweep:
    negatives = {f"{n}": ("--data.negatives", f"{n}") for n in OWN}
    negatives |= {f"{n} shared": ("--data.negatives", "0", "--data.shared-negatives", f"{n}") for n in SHARED}
    negatives |= {"true": ("--data.p-hard", "1")}
    return Sweep({"N": negatives}, reference={"N": "true"})
