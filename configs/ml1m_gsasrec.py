"""gSASRec on MovieLens-1M: 256 negatives and gBCE, Petrov and Macdonald, RecSys 2023, arXiv:2308.07192.

    jaxneg prepare movielens ml-1m --out stores/ml1m --split leave-last --min-item-count 5 \\
        --positive thumb_up thumb_down unknown
    jaxneg train configs/ml1m_gsasrec.py --workdir runs/ml1m_gsasrec

Every rating is a positive, whatever its stars; the last of each user is the test, the one before it validation. To
reach, by the authors' repository: test NDCG@10 0.1726, recall@10 0.3003, over the full catalogue without seen films.
benchmarks/ml1m.py does all of this. Not run yet, for want of a copy of the set: hardware, hours and score are open.

The settings are the authors', with three differences: a long history is trained on as a whole, in pieces of 200, where
theirs keeps its end; random negatives are never the user's own films; blocks norm keys and values too (pre-norm).
"""

from jaxneg.config import Config, DataConfig, EvalConfig, LossConfig, ModelConfig, OptimConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(store="stores/ml1m", length=200, batch_size=128, negatives=256, p_hard=0.0),
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
        loss=LossConfig(name="gbce", calibration=0.75),
        optim=OptimConfig(learning_rate=1e-3, warmup_steps=0, clip=0.0, b2=0.999),
        train=TrainConfig(epochs=10_000, patience=200, monitor="ndcg@10"),
        eval=EvalConfig(ks=(1, 10), exclude_seen=True),
    )
