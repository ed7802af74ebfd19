"""SASRec with a head that ranks and a head that judges, on KuaiRand's history (short videos), Gao et al., CIKM 2022.

    jaxneg prepare table DATA/kuairand_history/events.parquet --user user --item video --time time_ms \\
        --feedback feedback --values like=thumb_up,long=play,short=skip,hate=thumb_down \\
        --attributes author_id tag music_id --session user \\
        --valid-from 1650812741436 --test-from 1651330969569 --out stores/kuairand_history
    jaxneg train configs/kuairand_history_two_heads.py --data.store stores/kuairand_history \\
        --workdir runs/kuairand_history_two_heads

Softmax over all videos ranks. The like head begins at factorisations of the signs, into which each viewer is folded;
here validation leaves of them the biases of videos alone, and the rows on top are held back by a rate and a decay of
their own.
Every serving form, over seeds: benchmarks/results/two_heads.md.
"""

from jaxneg.config import Config, DataConfig, LikeConfig, LossConfig, ModelConfig, OptimConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(store="stores/kuairand_history", length=50, batch_size=64, negatives=0, p_hard=0.0),
        model=ModelConfig(layers=1, dropout=0.3, station=False),
        loss=LossConfig(name="softmax"),
        like=LikeConfig(weight=1.0, rows="folded", decay=5.0, learning_rate=3e-4),
        optim=OptimConfig(learning_rate=2e-3, warmup_steps=100),
        train=TrainConfig(epochs=5, patience=0, monitor="ndcg@10"),
    )
