"""MuRS'23 and RecSys'24 on simulated listeners: four encoders, without and with InfoNCE over the session's skips.

    jaxneg sweep configs/study_contrastive.py --workdir runs/study/contrastive

The main loss is the papers': softmax over the batch's targets and 1000 uniform items, and the target is the next song
that was liked. Checkpoints are chosen by the figure that is judged, the released HR@1, and the last epoch stands beside
the best. HR@k is given among the batch's targets and 1000 random items (released) and among all items. The store
is that of study_p_hard.py. Hardware, time and result: benchmarks/results/study/contrastive.md.
"""

from jaxneg.config import Config, DataConfig, EvalConfig, LossConfig, ModelConfig, OptimConfig, TrainConfig
from jaxneg.sweep.grids import Sweep


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
        model=ModelConfig(width=32, layers=1, norm="post", head="gelu"),
        loss=LossConfig(name="sampled_softmax", in_batch=True),
        optim=OptimConfig(learning_rate=2e-3, warmup_steps=200),
        train=TrainConfig(epochs=40, patience=5, monitor="released_hit_rate@1"),
        eval=EvalConfig(batch_size=64, ks=(1, 5, 10, 20), released=1000, released_batch=64),
    )


def get_sweep() -> Sweep:
    hidden = ("--data.mask", "0.15", "--data.target", "positive")
    encoder = {
        "SASRec": (),
        "BERT4Rec": ("--model.encoder", "bert4rec", *hidden),
        "GRU4Rec": ("--model.encoder", "gru4rec"),
        "Caser": ("--model.encoder", "caser"),
    }
    term = {
        "off": (),
        "predicted": ("--loss.contrastive", "0.5"),
        "item": ("--loss.contrastive", "0.5", "--loss.contrastive-context", "item"),
    }
    figures = [f"{kind}hit_rate@{k}" for kind in ("released_", "") for k in (1, 5, 10, 20)]
    figures += [f"last_released_hit_rate@{k}" for k in (1, 20)]
    figures += ["pair_accuracy", "auc", "mrr_positive", "mrr_negative", "epochs_to_convergence"]
    return Sweep({"encoder": encoder, "term": term}, figures=tuple(figures), reference={"term": "off"})
