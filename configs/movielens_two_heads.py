"""A head that ranks and one that judges on ml-latest-small (4 and more against 2.5 and less), Harper and Konstan, 2015.

    jaxneg prepare movielens DATA/ml_latest_small_2016 --out stores/movielens
    jaxneg train configs/movielens_two_heads.py --data.store stores/movielens --workdir runs/movielens_two_heads

Softmax over all films ranks, and a batch of 32 is a good deal of 671 people. Ratings are ordered anew each epoch, as
people rate in bursts and not in the order of watching.
Every serving form, over seeds: benchmarks/results/two_heads.md.
"""

from jaxneg.config import (
    Config,
    DataConfig,
    EvalConfig,
    LikeConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)


def get_config() -> Config:
    return Config(
        data=DataConfig(
            store="stores/movielens", length=100, batch_size=32, negatives=0, p_hard=0.0, shuffle_events=True
        ),
        model=ModelConfig(layers=1, position=False, dropout=0.3),
        loss=LossConfig(name="softmax"),
        like=LikeConfig(weight=1.0, rows="folded", decay=5.0, learning_rate=1e-4),
        optim=OptimConfig(learning_rate=3e-3, warmup_steps=50),
        train=TrainConfig(epochs=24, patience=0, monitor="ndcg@10", evaluate_every=105),
        eval=EvalConfig(exclude_seen=True),
    )
