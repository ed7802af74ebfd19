"""A head that ranks and one that judges on KuaiRand-Pure (long view or like against no click), Gao et al., CIKM 2022.

    jaxneg prepare kuairand DATA/kuairand_pure --split time --out stores/kuairand
    jaxneg train configs/kuairand_two_heads.py --data.store stores/kuairand --workdir runs/kuairand_two_heads

Softmax over all videos ranks. Ten events a viewer tell little of a taste and much of a video.
Every serving form, over seeds: benchmarks/results/two_heads.md.
"""

from jaxneg.config import Config, DataConfig, LikeConfig, LossConfig, ModelConfig, OptimConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(store="stores/kuairand", length=20, batch_size=64, negatives=0, p_hard=0.0),
        model=ModelConfig(layers=1, dropout=0.3),
        loss=LossConfig(name="softmax"),
        like=LikeConfig(weight=1.0, rows="folded", decay=5.0, learning_rate=1e-4),
        optim=OptimConfig(learning_rate=2e-3, warmup_steps=100),
        train=TrainConfig(epochs=5, patience=0, monitor="ndcg@10"),
    )
