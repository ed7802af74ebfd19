"""SASRec with a head that ranks and a head that judges, on KuaiRand's history (short videos), Gao et al., CIKM 2022.

    jaxneg prepare table DATA/kuairand_history/events.parquet --user user --item video --time time_ms \\
        --feedback feedback --values like=thumb_up,long=play,short=skip,hate=thumb_down \\
        --attributes author_id tag music_id --session user \\
        --valid-from 1650812741436 --test-from 1651330969569 --out stores/kuairand_history
    jaxneg train configs/kuairand_history_sasrec.py --data.store stores/kuairand_history --workdir runs/kuairand_history

Softmax over all videos ranks; the like head is held back by its own rate and decay, as a row per video is much for
some 30 events a viewer. About 70 s an epoch on one core, best after 7 epochs. Seed 0, test: NDCG@10 .0361,
and in form demote .0361 with a pair accuracy of .616; every form: benchmarks/results/two_heads.md.
"""

from jaxneg.config import Config, DataConfig, LikeConfig, LossConfig, ModelConfig, OptimConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(store="stores/kuairand_history", length=50, negatives=0, p_hard=0.0),
        model=ModelConfig(layers=1, dropout=0.3, station=False),
        loss=LossConfig(name="softmax"),
        like=LikeConfig(weight=1.0, decay=5.0, learning_rate=3e-4),
        optim=OptimConfig(learning_rate=1e-3, warmup_steps=100),
        train=TrainConfig(epochs=10, patience=3, monitor="ndcg@10"),
    )
