"""RecSys'24 on simulated listeners: InfoNCE over the session's skips with BERT4Rec, GRU4Rec and Caser.

    jaxneg sweep configs/study_encoders.py --workdir runs/study/encoders

As configs/study_contrastive.py, where SASRec is: targets are liked songs, and the term is off or in the paper's form.
BERT4Rec predicts hidden songs that were liked. Not run on these listeners yet.
"""

from jaxneg.config import Config, DataConfig, EvalConfig, LossConfig, ModelConfig, OptimConfig, TrainConfig
from jaxneg.sweep.grids import Sweep

FIGURES = (
    *(f"{kind}hit_rate@{k}" for kind in ("released_", "") for k in (1, 5, 10, 20)),
    *(f"last_released_hit_rate@{k}" for k in (1, 20)),
    *("pair_accuracy", "auc", "unseen_disliked_mrr@10", "mrr_positive", "mrr_negative", "epochs"),
)


def get_config() -> Config:
    return Config(
        data=DataConfig(
            store="runs/study/store",
            length=20,
            batch_size=64,
            target="next_positive",
            negatives=0,
            shared_negatives=1000,
        ),
        model=ModelConfig(width=32, layers=1, norm="post", head="gelu", output_attributes=True),
        loss=LossConfig(name="sampled_softmax", in_batch=True),
        optim=OptimConfig(learning_rate=2e-3, warmup_steps=200, average=0.995),
        train=TrainConfig(epochs=40, patience=5, monitor="released_hit_rate@1"),
        eval=EvalConfig(batch_size=64, ks=(1, 5, 10, 20), released=1000, released_batch=64),
    )


def get_sweep() -> Sweep:
    hidden = ("--data.mask", "0.15", "--data.target", "positive")
    encoder = {
        "BERT4Rec": ("--model.encoder", "bert4rec", *hidden),
        "GRU4Rec": ("--model.encoder", "gru4rec"),
        "Caser": ("--model.encoder", "caser"),
    }
    term = {"off": (), "paper": ("--loss.contrastive", "0.5")}
    return Sweep({"encoder": encoder, "term": term}, figures=FIGURES, reference={"term": "off"})
