"""SASRec on Spotify account exports (plays under 30 seconds are skips), sessions by gaps of 30 minutes.

    jaxneg prepare spotify DATA/spotify_history --out stores/spotify
    jaxneg train configs/spotify_sasrec.py --data.store stores/spotify --workdir runs/spotify

Five listeners and 18,798 songs, most heard a few times: songs share strength through their artist, in and out. The
second term of the loss predicts the feedback of every play; weights are averaged. Time,
score and spread: benchmarks/results/real_data.md.
"""

from jaxneg.config import Config, DataConfig, LossConfig, ModelConfig, OptimConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(store="stores/spotify", length=50, p_hard=1.0),
        model=ModelConfig(
            layers=1, dropout=0.5, item_bias="odds", bias_prior=50.0, output_attributes=True, row_scale=0.002
        ),
        loss=LossConfig(feedback=1.0),
        optim=OptimConfig(learning_rate=3e-4, warmup_steps=50, weight_decay=3.0, average=0.99),
        train=TrainConfig(epochs=24, patience=8, monitor="auc", evaluate_every=40),
    )
