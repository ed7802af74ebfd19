"""Losses, inputs and encoders side by side on simulated listeners; TRON, gSASRec and ARGUS among them.

    jaxneg sweep configs/study_objectives.py --workdir runs/study/objectives

The store is that of study_p_hard.py. Not run on these listeners yet.
"""

from jaxneg.config import Config, DataConfig, ModelConfig, OptimConfig, TrainConfig
from jaxneg.sweep.grids import Sweep


def get_config() -> Config:
    return Config(
        data=DataConfig(store="runs/study/store", length=20, batch_size=256, p_hard=0.5),
        model=ModelConfig(width=32, layers=1, output_attributes=True),
        optim=OptimConfig(learning_rate=3e-3, warmup_steps=100),
        train=TrainConfig(epochs=10, patience=3, monitor="pair_accuracy"),
    )


def get_sweep() -> Sweep:
    def loss(name: str, *more: str) -> tuple[str, ...]:
        return ("--loss.name", name, *more)

    many = ("--data.negatives", "16")
    shared = ("--data.negatives", "0", "--data.shared-negatives", "1000")
    by_rank = ("--train.monitor", "ndcg@10")  # judged by NDCG@10
    objective = {
        "BCE, p_hard 0.5": (),
        "BCE, no station": ("--model.no-station",),
        "BCE, no artist": ("--model.no-attributes", "--model.no-output-attributes"),
        "BCE, cloze, bidirectional": ("--data.mask", "0.2", "--model.encoder", "bert4rec"),
        "BCE, cloze, causal": ("--data.mask", "0.2"),
        "BCE, LiGR": ("--model.encoder", "ligr"),
        "BCE, hard from the session": ("--data.hard-scope", "session"),
        "BCE, hard by popularity": ("--data.hard-scope", "popularity"),
        "gBCE, 16": loss("gbce", *many, *by_rank, "--data.p-hard", "0"),  # calibrated for uniform draws
        "BPR-max, 16": loss("bpr_max", *many),
        "TOP1-max, 16": loss("top1_max", *many),
        "sampled softmax, 16": loss("sampled_softmax", *many),
        "TRON: 100 of 1000 shared, none hard": loss(
            "sampled_softmax", *shared, "--loss.hardest", "100", *by_rank
        ),
        "not to recommend": loss("not_to_recommend", *shared),
        "feedback alone (ARGUS)": loss("feedback"),
        "BCE, p_hard 0.5, and feedback": ("--loss.feedback", "1"),
    }
    figures = (
        "pair_accuracy",
        "auc",
        "ndcg@10",
        "mrr_positive",
        "mrr_negative",
        "gini@10",
        "epochs_to_convergence",
    )
    return Sweep({"objective": objective}, figures=figures, reference={"objective": "BCE, p_hard 0.5"})
