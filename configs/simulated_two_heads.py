"""A head that ranks and one that judges on simulated listeners.

    jaxneg simulate --out runs/simulated/log.parquet
    jaxneg prepare table runs/simulated/log.parquet --session given --attributes artist --out stores/simulated
    jaxneg train configs/simulated_two_heads.py --data.store stores/simulated --workdir runs/simulated_two_heads

Softmax over all songs ranks; the like head begins at factorisations of the signs, into which each listener is folded.
Every serving form, over seeds: benchmarks/results/two_heads.md.
"""

from jaxneg.config import Config, DataConfig, LikeConfig, LossConfig, ModelConfig, OptimConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(store="stores/simulated", length=50, batch_size=64, negatives=0, p_hard=0.0),
        model=ModelConfig(layers=1, dropout=0.3),
        loss=LossConfig(name="softmax"),
        like=LikeConfig(weight=1.0, rows="folded", decay=5.0, learning_rate=3e-5),
        optim=OptimConfig(learning_rate=2e-3, warmup_steps=100),
        train=TrainConfig(epochs=12, patience=0, monitor="ndcg@10"),
    )
