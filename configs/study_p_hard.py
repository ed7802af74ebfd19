"""MuRS'24, figures 1 and 2, on simulated listeners: accuracy, Gini, ranks and epochs by the share of hard negatives.

    jaxneg simulate --out runs/study/log.parquet --users 4500 --items 20000 --sessions 30000 --stations 60 \
        --artists 2000 --days 90
    jaxneg prepare table runs/study/log.parquet --session given --attributes artist --out runs/study/store
    jaxneg sweep configs/study_p_hard.py --workdir runs/study/p_hard

Hardware, time and result: benchmarks/results/study/p_hard.md.
"""

from jaxneg.config import Config, DataConfig, ModelConfig, OptimConfig, TrainConfig
from jaxneg.sweep.grids import Sweep, over


def get_config() -> Config:
    return Config(
        data=DataConfig(store="runs/study/store", length=20, batch_size=256),
        model=ModelConfig(width=32, layers=1, output_attributes=True),
        optim=OptimConfig(learning_rate=3e-3, warmup_steps=100),
        train=TrainConfig(epochs=40, patience=8, monitor="pair_accuracy", evaluate_every=94),
    )


def get_sweep() -> Sweep:
    return Sweep({"p_hard": over("--data.p-hard", 0, 0.3, 0.4, 0.6, 1)}, reference={"p_hard": "0"})
