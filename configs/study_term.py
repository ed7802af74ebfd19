"""The contrastive term of MuRS'23 and RecSys'24 taken apart on simulated listeners, with SASRec.

    jaxneg sweep configs/study_term.py --workdir runs/study/term

By weight, with a share of the skips only, and with the item itself for c. "off" and the weight 0.5 are those of
configs/study_contrastive.py, which says the rest. Not run on these listeners yet.
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
    half = ("--loss.contrastive", "0.5")
    term = {
        "weight 0.25": ("--loss.contrastive", "0.25"),
        "weight 0.75": ("--loss.contrastive", "0.75"),
        "weight 1": ("--loss.contrastive", "1"),
        "25% of skips": (*half, "--loss.skips-kept", "0.25"),
        "50% of skips": (*half, "--loss.skips-kept", "0.5"),
        "c = item": (*half, "--loss.contrastive-context", "item"),
    }
    return Sweep({"term": term}, figures=FIGURES)
