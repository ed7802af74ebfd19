"""SASRec on 100 million songs: rows of 128 numbers, row-wise Adagrad, 200 events, 256 negatives shared by the batch.

    jaxneg plan configs/plan_100m.py --items 99999999 --topology v5e:16x16 --per-chip 64
    jaxneg plan configs/plan_100m.py --items 99999999 --topology v5e:4x4 --per-chip 64 --train.shards 16

Hardware, time and score: it has been compiled, never run. What it would take on TPUs is in
benchmarks/results/plan.md.
"""

from jaxneg.config import Config, DataConfig, LossConfig, ModelConfig, OptimConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(
            length=200, batch_size=64 * 256, negatives=0, shared_negatives=256, random="log_uniform"
        ),
        model=ModelConfig(width=128, layers=2, heads=2, attributes=False, item_bias="none"),
        loss=LossConfig(name="sampled_softmax", log_q="plain"),
        optim=OptimConfig(rows="adagrad"),
        train=TrainConfig(shards=256),
    )
