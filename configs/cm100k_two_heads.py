"""A head that ranks and one that judges on CM100k (songs rated 3 and 4 against 1), Canamares and Castells, SIGIR 2018.

    jaxneg prepare cm100k DATA/cm100k --out stores/cm100k
    jaxneg train configs/cm100k_two_heads.py --data.store stores/cm100k --workdir runs/cm100k_two_heads

Songs were rated in an order that means nothing and each listener was shown random ones, so that nothing tells the
next song: what there is to learn is what a listener likes of what is shown, and softmax stops at once.
Every serving form, over seeds: benchmarks/results/two_heads.md.
"""

from jaxneg.config import Config, DataConfig, LikeConfig, LossConfig, ModelConfig, OptimConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(store="stores/cm100k", length=100, negatives=0, p_hard=0.0, shuffle_events=True),
        model=ModelConfig(width=32, layers=1, position=False, dropout=0.3),
        loss=LossConfig(name="softmax"),
        like=LikeConfig(weight=1.0, rows="folded", decay=5.0, learning_rate=1e-4),
        optim=OptimConfig(learning_rate=1e-3, warmup_steps=20),
        train=TrainConfig(epochs=10, patience=0, monitor="ndcg@10"),
    )
