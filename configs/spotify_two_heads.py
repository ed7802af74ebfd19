"""A head that ranks and one that judges on Spotify account exports (plays under 30 seconds are skips).

    jaxneg prepare spotify DATA/spotify_history --out stores/spotify
    jaxneg train configs/spotify_two_heads.py --data.store stores/spotify --workdir runs/spotify_two_heads

Five listeners and 18,798 songs. Softmax over all songs ranks; the like head learns slowly, as it would soon know these
listeners' songs by heart.
Every serving form, over seeds: benchmarks/results/two_heads.md.
"""

from jaxneg.config import Config, DataConfig, LikeConfig, LossConfig, ModelConfig, OptimConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(store="stores/spotify", length=50, negatives=0, p_hard=0.0),
        model=ModelConfig(layers=1, dropout=0.3),
        loss=LossConfig(name="softmax"),
        like=LikeConfig(weight=1.0, rows="folded", decay=5.0, learning_rate=1e-4),
        optim=OptimConfig(learning_rate=2e-3, warmup_steps=50),
        train=TrainConfig(epochs=10, patience=0, monitor="ndcg@10"),
    )
