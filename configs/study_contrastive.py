"""MuRS'23 and RecSys'24 on simulated listeners: InfoNCE over the session's skips, with and without skipped targets.

    jaxneg sweep configs/study_contrastive.py --workdir runs/study/contrastive

SASRec, its weights averaged, with a softmax over the batch's targets and 1000 uniform items. Six arms: targets are the
next song that was liked (next_positive) or whatever came next, as in the authors' code (any); the term is off, in the
paper's form with c = predicted, or in the form of the authors' code, whose queries meet the skips of another session
(released). Checkpoints are chosen by the figure that is judged, the released HR@1, and the last epoch stands beside the
best. Training ends when that figure has not risen for five epochs. HR@k is given among the batch's targets and 1000
random items (released) and among all items. The store is that of study_p_hard.py. Hardware, time and result:
benchmarks/results/study/contrastive.md.
"""

from jaxneg.config import Config, DataConfig, EvalConfig, LossConfig, ModelConfig, OptimConfig, TrainConfig
from jaxneg.sweep.grids import Sweep, over

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
    term = {
        "off": (),
        "paper": ("--loss.contrastive", "0.5"),
        "released": ("--loss.contrastive", "0.5", "--loss.contrastive-form", "released"),
    }
    target = over("--data.target", "next_positive", "any")
    return Sweep({"target": target, "term": term}, figures=FIGURES, reference={"term": "off"})
