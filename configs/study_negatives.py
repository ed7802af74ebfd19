"""UMAP'24 on simulated listeners: which feedback is shown to the model, against which negatives it is trained.

    jaxneg sweep configs/study_negatives.py --workdir runs/study/negatives

All feedback as inputs, "+ - skip", is in the sweep of study_p_hard.py, at 0 (random) and 1 (true); the rest is as
there. Hardware, time and result: benchmarks/results/study/negatives.md.
"""

from jaxneg.config import Config, DataConfig, ModelConfig, OptimConfig, TrainConfig
from jaxneg.sweep.grids import Sweep

LIKED = ("play", "thumb_up")


def get_config() -> Config:
    return Config(
        data=DataConfig(store="runs/study/store", length=20, batch_size=256),
        model=ModelConfig(width=32, layers=1, output_attributes=True),
        optim=OptimConfig(learning_rate=3e-3, warmup_steps=100),
        train=TrainConfig(epochs=40, patience=8, monitor="pair_accuracy", evaluate_every=94),
    )


def get_sweep() -> Sweep:
    inputs = {"+": ("--data.inputs", *LIKED), "+ -": ("--data.inputs", *LIKED, "thumb_down")}
    negatives = {"random": ("--data.p-hard", "0"), "true": ("--data.p-hard", "1")}
    return Sweep(
        {"inputs": inputs, "negatives": negatives},
        figures=("pair_accuracy", "auc", "user_coverage", "user_coverage_5", "epochs_to_convergence"),
        reference={"negatives": "random"},
    )
