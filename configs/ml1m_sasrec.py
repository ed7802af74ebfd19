"""SASRec on MovieLens-1M: one random negative and BCE, Kang and McAuley, ICDM 2018, arXiv:1808.09781.

    jaxneg prepare movielens ml-1m --out stores/ml1m --split leave-last --min-item-count 5 \\
        --positive thumb_up thumb_down unknown
    jaxneg train configs/ml1m_sasrec.py --workdir runs/ml1m_sasrec

As configs/ml1m_gsasrec.py but for negatives and loss. To reach, by the repository of gSASRec's authors: test NDCG@10
0.1259, recall@10 0.2392. Not run yet, for want of a copy of the set: hardware, hours and score are open.
"""

from jaxneg.config import Config, DataConfig, EvalConfig, LossConfig, ModelConfig, OptimConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(store="stores/ml1m", length=200, batch_size=128, negatives=1, p_hard=0.0),
        model=ModelConfig(
            width=128,
            layers=2,
            heads=1,
            dropout=0.5,
            feedback="none",
            station=False,
            attributes=False,
            tied=False,
            item_bias="none",
        ),
        loss=LossConfig(name="bce"),
        optim=OptimConfig(learning_rate=1e-3, warmup_steps=0, clip=0.0, b2=0.999),
        train=TrainConfig(epochs=10_000, patience=200, monitor="ndcg@10"),
        eval=EvalConfig(ks=(1, 10), exclude_seen=True),
    )
