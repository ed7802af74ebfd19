"""MuRS'23 and RecSys'24 on real songs in their order: InfoNCE over the session's skips, on Spotify account exports.

    jaxneg prepare spotify DATA/spotify_history --out runs/study/stores/spotify
    jaxneg sweep configs/study_spotify.py --workdir runs/study/spotify

The six arms of configs/study_contrastive.py. Five listeners gave out their exports, so that an interval over them says
little of others. Hardware, time and result: benchmarks/results/study/spotify.md.
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
            store="runs/study/stores/spotify",
            length=20,
            batch_size=64,
            target="next_positive",
            negatives=0,
            shared_negatives=1000,
        ),
        model=ModelConfig(width=64, layers=1, norm="post", head="gelu", output_attributes=True),
        loss=LossConfig(name="sampled_softmax", in_batch=True),
        optim=OptimConfig(learning_rate=5e-3, warmup_steps=200, average=0.98),
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
